//! Tests of the frame reader over every split, and of what it rejects.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    current: Vec<u8>,
    found: Vec<(u8, Vec<u8>)>,
}

impl Sink for Record {
    fn data(&mut self, offset: u64, bytes: &[u8], _compressed: bool) {
        assert_eq!(offset, self.current.len() as u64);
        self.current.extend_from_slice(bytes);
    }

    fn message(&mut self, message: Message) {
        assert_eq!(message.len, self.current.len() as u64);
        let bit = if message.compressed { RSV1 } else { 0 };
        self.found.push((bit | message.opcode, std::mem::take(&mut self.current)));
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) {
        self.found.push((opcode, payload.to_vec()));
    }
}

/// A server's frame.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(len as u8),
        len @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

fn read(bytes: &[u8]) -> Result<Record, WireError> {
    let mut record = Record::default();
    FrameReader::default().read(bytes, &mut record)?;
    Ok(record)
}

#[test]
fn masked_frames_have_the_header_of_the_rfc() {
    // RFC 6455 section 5.7: a single-frame masked text message of "Hello".
    let frame = masked(opcode::TEXT, [0x37, 0xfa, 0x21, 0x3d], b"Hello");
    assert_eq!(frame, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    for size in [0, 125, 126, 65_535, 65_536] {
        let frame = masked(opcode::BINARY, [1, 2, 3, 4], &vec![7; size]);
        assert_eq!(frame.len(), masked_header_len(size) + size, "size {size}");
    }
}

#[test]
fn control_frames_inside_a_message_do_not_disturb_it() {
    let mut bytes = plain(opcode::TEXT, b"Hel");
    bytes.extend(plain(0x80 | opcode::PING, b"?"));
    bytes.extend(plain(0x80, b"lo"));
    bytes.extend(plain(0x80 | opcode::CLOSE, &[3, 232]));
    let found = read(&bytes).unwrap().found;
    let expected: Vec<(u8, Vec<u8>)> = vec![
        (opcode::PING, b"?".to_vec()),
        (opcode::TEXT, b"Hello".to_vec()),
        (opcode::CLOSE, vec![3, 232]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_compression_bit_is_read_where_it_was_agreed_and_refused_elsewhere() {
    let mut bytes = plain(RSV1 | opcode::TEXT, b"Hel");
    bytes.extend(plain(0x80 | opcode::PING, b"?"));
    bytes.extend(plain(0x80, b"lo"));
    bytes.extend(plain(0x80 | opcode::BINARY, b"plain"));
    assert_eq!(read(&bytes), Err(WireError::ReservedBits));
    let mut record = Record::default();
    FrameReader::new(true).read(&bytes, &mut record).unwrap();
    let codes: Vec<u8> = record.found.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [opcode::PING, RSV1 | opcode::TEXT, opcode::BINARY]);
    for bad in [RSV1 | 0x80 | opcode::PING, 0x20 | opcode::TEXT, 0x10 | opcode::TEXT] {
        let outcome = FrameReader::new(true).read(&plain(bad, b""), &mut record);
        assert_eq!(outcome, Err(WireError::ReservedBits), "{bad:x}");
    }
    let continued = [plain(RSV1 | opcode::TEXT, b"a"), plain(RSV1 | 0x80, b"b")].concat();
    let outcome = FrameReader::new(true).read(&continued, &mut Record::default());
    assert_eq!(outcome, Err(WireError::ReservedBits));
}

#[test]
fn what_the_rfc_forbids_is_refused() {
    let long_control = plain(0x89, &[0; 126]);
    let cases: [(&[u8], WireError); 10] = [
        (&[0x81, 0x80], WireError::Masked),
        (&[0xC1, 0x00], WireError::ReservedBits),
        (&[0x83, 0x00], WireError::UnknownOpcode(3)),
        (&[0x09, 0x00], WireError::FragmentedControl),
        (&long_control, WireError::LongControl),
        (&[0x81, 126, 0, 125], WireError::LongLength),
        (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], WireError::LongLength),
        (&[0x80, 0x00], WireError::StrayContinuation),
        (&[0x01, 0x00, 0x81, 0x00], WireError::InterleavedMessage),
        (&[0x88, 0x01, 0x03], WireError::ShortClose),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn raw_messages_are_counted_over_any_split() {
    let mut record = Record::default();
    let mut reader = RawReader::new(5);
    for piece in [&b"abc"[..], b"defgh", b"ij", b"k"] {
        reader.read(piece, &mut record);
    }
    let expected = vec![(opcode::BINARY, b"abcde".to_vec()), (opcode::BINARY, b"fghij".to_vec())];
    assert_eq!(record.found, expected);
    assert_eq!(record.current, b"k");
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let data = (0..400_usize, any::<bool>(), 1..3_usize);
    let control = (0..=125_usize, 0..2_u8);
    let one = prop_oneof![
        data.prop_map(|(len, text, pieces)| {
            let code = if text { opcode::TEXT } else { opcode::BINARY };
            let payload = vec![b'x'; len];
            let cut = len / pieces;
            let mut out = plain(if pieces == 1 { 0x80 | code } else { code }, &payload[..cut]);
            if pieces > 1 {
                out.extend(plain(0x80, &payload[cut..]));
            } else {
                out.truncate(0);
                out.extend(plain(0x80 | code, &payload));
            }
            out
        }),
        control.prop_map(|(len, pong)| plain(0x80 | (opcode::PING + pong), &vec![b'c'; len])),
    ];
    proptest::collection::vec(one, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(
        bytes in frames(),
        cuts in proptest::collection::vec(0..4000_usize, 0..8),
    ) {
        let whole = read(&bytes).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut record = Record::default();
        let mut reader = FrameReader::default();
        let mut start = 0;
        for cut in cuts {
            reader.read(&bytes[start..cut], &mut record).unwrap();
            start = cut;
        }
        prop_assert_eq!(record, whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut ignored = Ignore;
        let _ = FrameReader::default().read(&bytes, &mut ignored);
    }
}

struct Ignore;

impl Sink for Ignore {
    fn data(&mut self, _: u64, _: &[u8], _: bool) {}
    fn message(&mut self, _: Message) {}
    fn control(&mut self, _: u8, _: &[u8]) {}
}

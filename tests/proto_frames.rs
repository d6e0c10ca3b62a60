//! Frames and messages: what is refused and how, what memory is held, what is lent from the input.
//!
//! What belongs here: single cases of the receiver and the writers, each tied to its rule. Random
//! input is in `proto_fuzz_bodies`, other implementations are in `proto_oracles`.

use seawall::proto::ws::deflate::{Agreed, Deflaters, InflateLimits, Inflaters};
use seawall::proto::ws::{
    self, CLOSE_REASON_BYTES_MAX, CloseCode, CloseFrame, Control, Data, DataKind, Limits, OpCode,
    Payload, ProtocolError, Receiver, WireEvent,
};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, fragments_max: 8 };

/// A masked frame with `first` as its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..126 => bytes.push(0x80 | payload.len() as u8),
        126..0x1_0000 => {
            bytes.push(0xfe);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0xff);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]));
    bytes
}

/// The first event of `bytes`, shown whole.
fn with_first<T>(
    bytes: &[u8],
    limits: &Limits,
    look: impl FnOnce(Option<WireEvent<'_>>) -> T,
) -> T {
    let mut bytes = bytes.to_vec();
    look(Receiver::new().next(&mut bytes.as_mut_slice(), limits))
}

/// The violation that `bytes` end in.
fn violation(bytes: &[u8], limits: &Limits) -> Option<ProtocolError> {
    let mut bytes = bytes.to_vec();
    let mut input = bytes.as_mut_slice();
    let mut receiver = Receiver::new();
    while let Some(event) = receiver.next(&mut input, limits) {
        if let WireEvent::Failed(error) = event {
            return Some(error);
        }
    }
    None
}

/// The violation that `bytes` end in where compression was agreed on.
fn violation_compressed(bytes: &[u8], limits: &Limits) -> Option<ProtocolError> {
    let mut bytes = bytes.to_vec();
    let mut input = bytes.as_mut_slice();
    let (ratio_max, leases_max) = (100, 1);
    let mut inflaters = Inflaters::new(InflateLimits { leases_max, ratio_max }, || 0);
    let agreed =
        Agreed { server_takeover: false, client_takeover: false, server_bits: 9, client_bits: 15 };
    let mut receiver = Receiver::compressed(agreed, None);
    while let Some(event) = receiver.next_inflated(&mut input, limits, Some(&mut inflaters)) {
        if let WireEvent::Failed(error) = event {
            assert_eq!(inflaters.leased_count(), 0, "what fails holds no inflater");
            return Some(error);
        }
    }
    None
}

#[test]
fn every_violation_of_compression_is_told_by_its_code() {
    use ProtocolError as E;
    // Zeros: a literal and 258 more in each two bits, then the rest of the block.
    let zeros = compressed(&vec![0; 2 << 20]);
    let limits = Limits { message_bytes_max: 1 << 22, ..LIMITS };
    let text = compressed(b"\xff");
    let half = compressed("\u{e9}".as_bytes());
    let cases: Vec<(Vec<u8>, &Limits, E, u16)> = vec![
        (frame(0xc9, b"x"), &LIMITS, E::ReservedBit, 1002),
        (frame(0xc0, b"x"), &LIMITS, E::ReservedBit, 1002),
        (frame(0xa1, b"x"), &LIMITS, E::ReservedBit, 1002),
        (frame(0xe1, b"x"), &LIMITS, E::ReservedBit, 1002),
        (frame(0xc3, b"x"), &LIMITS, E::ReservedBit, 1002),
        ([frame(0x41, b""), frame(0xc0, b"")].concat(), &LIMITS, E::ReservedBit, 1002),
        ([frame(0x01, b""), frame(0xc1, b"")].concat(), &LIMITS, E::ExpectedContinuation, 1002),
        (frame(0xc1, b"\xff\xff"), &LIMITS, E::InflateFailed, 1007),
        (frame(0xc2, &half[..half.len() - 2]), &LIMITS, E::InflateFailed, 1007),
        ([frame(0x42, b"\x07"), frame(0x80, b"")].concat(), &LIMITS, E::InflateFailed, 1007),
        (frame(0xc1, &text), &LIMITS, E::TextNotUtf8, 1007),
        (frame(0x41, &text), &LIMITS, E::TextNotUtf8, 1007),
        (frame(0xc2, &zeros), &LIMITS, E::MessageTooBig, 1009),
        (frame(0x42, &zeros), &LIMITS, E::MessageTooBig, 1009),
        (frame(0xc2, &zeros), &limits, E::InflateRatio, 1009),
        (frame(0x42, &zeros), &limits, E::InflateRatio, 1009),
    ];
    for (bytes, limits, error, code) in &cases {
        let head = &bytes[..bytes.len().min(16)];
        assert_eq!(violation_compressed(bytes, limits), Some(*error), "{head:02x?}");
        assert_eq!(error.close_code().get(), *code, "{error:?}");
    }
    assert_eq!(violation_compressed(&frame(0xc1, &half), &LIMITS), None);
}

/// A message compressed by itself, the tail taken off.
fn compressed(message: &[u8]) -> Vec<u8> {
    let mut deflaters = Deflaters::new(|| 0);
    let shorter = deflaters.compress_alone(9, 6, message).map(|bytes| bytes.to_vec());
    // What does not shrink, as one stored block and the start of the tail.
    shorter.unwrap_or_else(|| {
        let len = message.len() as u16;
        [&[0][..], &len.to_le_bytes(), &(!len).to_le_bytes(), message, &[0]].concat()
    })
}

#[test]
fn every_violation_is_told_by_its_code() {
    use ProtocolError as E;
    let close = |code: u16| frame(0x88, &code.to_be_bytes());
    let zeros = vec![0; (1 << 20) + 1];
    let cases: Vec<(Vec<u8>, E, u16)> = vec![
        (frame(0xc1, b"x"), E::ReservedBit, 1002),
        (frame(0xa1, b"x"), E::ReservedBit, 1002),
        (frame(0x91, b"x"), E::ReservedBit, 1002),
        (frame(0x83, b"x"), E::ReservedOpcode, 1002),
        (frame(0x87, b"x"), E::ReservedOpcode, 1002),
        (frame(0x8b, b"x"), E::ReservedOpcode, 1002),
        (frame(0x8f, b"x"), E::ReservedOpcode, 1002),
        (frame(0x09, b"x"), E::FragmentedControl, 1002),
        (frame(0x08, b""), E::FragmentedControl, 1002),
        (frame(0x89, &[0; 126]), E::ControlTooLong, 1002),
        (frame(0x88, &zeros[..0x1_0000]), E::ControlTooLong, 1002),
        (vec![0x81, 0x01, b'x'], E::MissingMask, 1002),
        (b"\x82\xfe\x00\x7d".to_vec(), E::LengthNotMinimal, 1002),
        (b"\x82\xff\0\0\0\0\0\0\xff\xff".to_vec(), E::LengthNotMinimal, 1002),
        (b"\x82\xff\x80".to_vec(), E::LengthTopBit, 1002),
        (frame(0x80, b"x"), E::UnexpectedContinuation, 1002),
        (frame(0x00, b"x"), E::UnexpectedContinuation, 1002),
        ([frame(0x01, b"x"), frame(0x81, b"y")].concat(), E::ExpectedContinuation, 1002),
        ([frame(0x02, b"x"), frame(0x02, b"y")].concat(), E::ExpectedContinuation, 1002),
        (frame(0x82, &zeros), E::MessageTooBig, 1009),
        ([frame(0x02, &zeros[1..]), frame(0x80, b"y")].concat(), E::MessageTooBig, 1009),
        (
            [vec![frame(0x02, b"x")], vec![frame(0, b""); 8]].concat().concat(),
            E::TooManyFragments,
            1008,
        ),
        (frame(0x81, b"\xff"), E::TextNotUtf8, 1007),
        (frame(0x81, b"\xe2\x82"), E::TextNotUtf8, 1007),
        (frame(0x81, b"\xed\xa0\x80"), E::TextNotUtf8, 1007),
        ([frame(0x01, b"\xe2\x82"), frame(0x80, b"x")].concat(), E::TextNotUtf8, 1007),
        ([frame(0x01, b"\xe2\x82"), frame(0x80, b"")].concat(), E::TextNotUtf8, 1007),
        (frame(0x88, b"\x03"), E::CloseTooShort, 1002),
        (frame(0x88, b"\x03\xe8\xff"), E::CloseReasonNotUtf8, 1007),
        (close(999), E::CloseCode, 1002),
        (close(1004), E::CloseCode, 1002),
        (close(1005), E::CloseCode, 1002),
        (close(1006), E::CloseCode, 1002),
        (close(1015), E::CloseCode, 1002),
        (close(1016), E::CloseCode, 1002),
        (close(2999), E::CloseCode, 1002),
        (close(5000), E::CloseCode, 1002),
        (close(0), E::CloseCode, 1002),
        (close(65535), E::CloseCode, 1002),
    ];
    for (bytes, error, code) in &cases {
        let head = &bytes[..bytes.len().min(16)];
        assert_eq!(violation(bytes, &LIMITS), Some(*error), "{head:02x?}");
        assert_eq!(error.close_code().get(), *code, "{error:?}");
    }
    // Those of compression have a table of their own.
    let inflated = [E::InflateFailed, E::InflateRatio];
    for error in E::ALL.into_iter().filter(|error| !inflated.contains(error)) {
        assert!(cases.iter().any(|case| case.1 == error), "no case for {error:?}");
    }
}

#[test]
fn violations_are_listed_once_and_fit_a_close() {
    for (index, error) in ProtocolError::ALL.into_iter().enumerate() {
        assert_eq!(error.index(), index);
        assert!(error.reason().len() <= CLOSE_REASON_BYTES_MAX, "{}", error.reason());
        let same = ProtocolError::ALL.iter().filter(|other| other.name() == error.name());
        assert_eq!(same.count(), 1, "{}", error.name());
    }
}

#[test]
fn close_codes_of_the_wire_are_taken() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let bytes = frame(0x88, &[&u16::to_be_bytes(code)[..], "tschüß".as_bytes()].concat());
        with_first(&bytes, &LIMITS, |event| {
            let code = CloseCode::new(code);
            let expected = CloseFrame { code, reason: "tschüß".into() };
            assert_eq!(event, Some(WireEvent::Close(Some(expected))));
        });
        let code = CloseCode::new(code);
        assert_eq!(ws::reply_code(Some(code)), code);
    }
    with_first(&frame(0x88, b""), &LIMITS, |event| assert_eq!(event, Some(WireEvent::Close(None))));
    assert_eq!(ws::reply_code(None), CloseCode::NORMAL);
}

#[test]
fn what_follows_a_close_or_a_violation_is_discarded() {
    for first in [frame(0x88, b""), frame(0xc1, b"x")] {
        let mut bytes = [first, frame(0x81, b"late"), frame(0x89, b"")].concat();
        let mut receiver = Receiver::new();
        let mut input = bytes.as_mut_slice();
        assert!(receiver.next(&mut input, &LIMITS).is_some());
        assert!(!input.is_empty());
        assert_eq!(receiver.next(&mut input, &LIMITS), None);
        assert!(input.is_empty());
        let mut more = frame(0x89, b"");
        assert_eq!(receiver.next(&mut more.as_mut_slice(), &LIMITS), None);
    }
}

#[test]
fn whole_messages_are_lent_from_the_input() {
    let sizes = [0, 1, 5, 125, 126, 65535, 65536];
    for size in sizes {
        let payload = vec![b'x'; size];
        let mut bytes = frame(0x81, &payload);
        let place = bytes.as_ptr_range();
        let mut receiver = Receiver::new();
        let mut input = bytes.as_mut_slice();
        let Some(WireEvent::Message { kind, payload: lent }) = receiver.next(&mut input, &LIMITS)
        else {
            panic!("no message of {size} bytes");
        };
        let Payload::Borrowed(lent) = lent else { panic!("{size} bytes were copied") };
        assert_eq!((kind, &*lent), (DataKind::Text, &payload[..]));
        assert!(size == 0 || place.contains(&lent.as_ptr()));
        assert!(input.is_empty() && receiver.is_idle() && receiver.partial_bytes() == 0);
    }
}

#[test]
fn a_split_header_costs_no_copy_of_the_payload() {
    let mut bytes = frame(0x82, &[7; 300]);
    let (mut header, mut rest) = bytes.split_at_mut(5);
    let mut receiver = Receiver::new();
    assert_eq!(receiver.next(&mut header, &LIMITS), None);
    assert!(!receiver.is_idle() && receiver.partial_bytes() > 0);
    match receiver.next(&mut rest, &LIMITS) {
        Some(WireEvent::Message { payload: Payload::Borrowed(payload), .. }) => {
            assert_eq!(payload, [7; 300]);
        }
        other => panic!("{other:?}"),
    }
    assert!(receiver.is_idle() && receiver.partial_bytes() == 0);
}

/// RFC 6455 8.1, Autobahn 6.4: a wrong byte is refused when it comes, not when its frame ends.
#[test]
fn text_fails_at_its_first_wrong_byte() {
    let bytes = frame(0x81, b"caf\xc3\xa9 \xf4\x90 and much more that is never sent");
    let wrong = 6 + 7;
    let mut receiver = Receiver::new();
    for (at, byte) in bytes.iter().enumerate().take(wrong + 1) {
        let event = receiver.next(&mut [*byte].as_mut_slice(), &LIMITS).map(drop);
        assert_eq!(event.is_some(), at == wrong, "at {at}");
    }
    assert!(receiver.is_idle());
}

#[test]
fn headers_fail_at_their_first_wrong_byte() {
    let cases: [(&[u8], ProtocolError); 6] = [
        (b"\xc1", ProtocolError::ReservedBit),
        (b"\x83", ProtocolError::ReservedOpcode),
        (b"\x81\x05", ProtocolError::MissingMask),
        (b"\x89\xfe", ProtocolError::ControlTooLong),
        (b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01", ProtocolError::MessageTooBig),
        (b"\x82\xfe\x00\x10", ProtocolError::LengthNotMinimal),
    ];
    for (bytes, error) in cases {
        assert_eq!(violation(bytes, &LIMITS), Some(error), "{bytes:02x?}");
        assert_eq!(violation(&bytes[..bytes.len() - 1], &LIMITS), None, "{bytes:02x?}");
    }
}

/// A header costs a peer 14 bytes; it must not cost the server megabytes.
#[test]
fn memory_follows_what_came_not_what_is_claimed() {
    let limits = Limits { message_bytes_max: 1 << 26, fragments_max: 1 };
    let mut bytes = frame(0x82, &vec![1; 1 << 24]);
    let (mut header, payload) = bytes.split_at_mut(14);
    let mut receiver = Receiver::new();
    assert_eq!(receiver.next(&mut header, &limits), None);
    assert!(receiver.partial_bytes() < 1024, "{}", receiver.partial_bytes());
    let (mut came, mut ended) = (0, false);
    for mut piece in payload.chunks_mut(10_000) {
        came += piece.len();
        ended = receiver.next(&mut piece, &limits).is_some();
        let most = 1024 + (256 << 10) + 17 * came;
        assert!(receiver.partial_bytes() <= most, "{} after {came}", receiver.partial_bytes());
    }
    assert!(ended && receiver.is_idle() && receiver.partial_bytes() == 0);
}

/// Room is made ahead by doubling, but never for more than a message may have.
#[test]
fn memory_ahead_stays_within_the_limit() {
    let limits = Limits { message_bytes_max: 10_000, fragments_max: 9 };
    let mut receiver = Receiver::new();
    for (first, size) in [(2, 4000), (0, 4000), (0, 1000)] {
        let mut bytes = frame(first, &vec![1; size]);
        assert_eq!(receiver.next(&mut bytes.as_mut_slice(), &limits), None);
        assert!(receiver.partial_bytes() <= 512 + 10_000, "{}", receiver.partial_bytes());
    }
}

/// Characters cut by every input are not scanned again and again.
#[test]
fn cut_characters_cost_linear_work() {
    let limits = Limits { message_bytes_max: 1 << 20, fragments_max: 1 };
    let text = "\u{20ac}".repeat(40_000);
    let mut bytes = frame(0x81, text.as_bytes());
    let mut receiver = Receiver::new();
    let start = std::time::Instant::now();
    // A header of 14 bytes, then characters of 3: every input ends within one.
    let ended = bytes.chunks_mut(3).fold(false, |_, mut piece| {
        matches!(
            receiver.next(&mut piece, &limits),
            Some(WireEvent::Message { payload, .. }) if payload.len() == text.len()
        )
    });
    assert!(ended);
    // Scanning only new bytes 40,000 times takes milliseconds; scanning all bytes, minutes.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

/// Autobahn 9.3: 4 MiB in fragments of 64 bytes must not cost O(n²), nor more than the limit.
#[test]
fn many_small_fragments_make_one_message() {
    let limits = Limits { message_bytes_max: 4 << 20, fragments_max: 65_536 };
    let mut receiver = Receiver::new();
    let (mut growths, mut held) = (0, 0);
    for index in 0..65_536 {
        let first = [2, 0, 0x80][usize::from(index > 0) + usize::from(index == 65_535)];
        let mut bytes = frame(first, &[index as u8; 64]);
        let mut input = bytes.as_mut_slice();
        match receiver.next(&mut input, &limits) {
            None => assert!(index < 65_535),
            Some(WireEvent::Message { payload, .. }) => {
                assert_eq!(payload.len(), 4 << 20);
                let right = |(at, byte): (usize, &u8)| *byte == (at / 64) as u8;
                assert!(payload.as_slice().iter().enumerate().all(right));
            }
            Some(event) => panic!("{event:?}"),
        }
        growths += usize::from(receiver.partial_bytes() > held);
        held = receiver.partial_bytes();
        assert!(held <= 1024 + limits.message_bytes_max);
    }
    assert!(receiver.is_idle());
    assert!(growths < 30, "{growths} growths");
}

#[test]
fn controls_between_fragments_leave_the_message_alone() {
    let parts = [
        frame(0x01, "Gr\u{fc}".as_bytes()),
        frame(0x89, b"are you there"),
        frame(0x00, b"\xc3"),
        frame(0x8a, b""),
        frame(0x80, b"\x9fe"),
    ];
    let bytes = parts.concat();
    for cut in 0..=bytes.len() {
        let mut bytes = bytes.clone();
        let (start, end) = bytes.split_at_mut(cut);
        let mut receiver = Receiver::new();
        let mut seen = Vec::new();
        for mut input in [start, end] {
            while let Some(event) = receiver.next(&mut input, &LIMITS) {
                seen.push(match event {
                    WireEvent::Ping(payload) => ("ping", payload.into_vec()),
                    WireEvent::Pong(payload) => ("pong", payload.into_vec()),
                    WireEvent::Message { payload, .. } => ("message", payload.into_vec()),
                    other => panic!("{other:?}"),
                });
            }
        }
        let ping = ("ping", b"are you there".to_vec());
        let message = ("message", "Gr\u{fc}\u{df}e".as_bytes().to_vec());
        assert_eq!(seen, [ping, ("pong", Vec::new()), message], "cut at {cut}");
        assert!(receiver.is_idle());
    }
}

#[test]
fn close_reasons_are_cut_between_characters() {
    let mut out = Vec::new();
    ws::append_close(&mut out, CloseCode::NORMAL, &"\u{20ac}".repeat(60));
    assert_eq!(out[..4], [0x88, 125, 0x03, 0xe8]);
    assert_eq!(out[4..], "\u{20ac}".repeat(41).as_bytes()[..]);
    out.clear();
    ws::append_close(&mut out, CloseCode::GOING_AWAY, &"a\u{20ac}".repeat(60));
    assert_eq!(out[1], 2 + 121);
    assert!(std::str::from_utf8(&out[4..]).is_ok());
    out.clear();
    ws::append_close(&mut out, CloseCode::SLOW_CONSUMER, "");
    assert_eq!(out, [0x88, 2, 0x11, 0x3d]);
}

#[test]
fn server_headers_take_the_shortest_form() {
    let text = OpCode::Data(Data::Text);
    let cases: [(usize, &[u8]); 6] = [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (16 << 20, b"\x81\x7f\x00\x00\x00\x00\x01\x00\x00\x00"),
    ];
    for (length, expected) in cases {
        let (bytes, len) = ws::frame_header(text, length);
        assert_eq!(&bytes[..len], expected, "{length}");
    }
    let mut out = Vec::new();
    ws::append_frame(&mut out, OpCode::Control(Control::Pong), b"abc");
    assert_eq!(out, b"\x8a\x03abc");
    assert_eq!(DataKind::Text.opcode(), text);
    assert_eq!(DataKind::Binary.opcode(), OpCode::Data(Data::Binary));
}

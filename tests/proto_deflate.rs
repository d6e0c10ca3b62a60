//! Compression against zlib as clients use it: what one side makes, the other understands.
//!
//! What belongs here: the codecs and the receiver, over any messages, fragments, cuts and
//! parameters; bombs; the frames that many share. Negotiation is in `proto_extensions`.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::collection::vec;
use proptest::prelude::*;
use seawall::proto::ws::deflate::{
    self, Agreed, Compressed, Compressing, Deflaters, InflateLimits, Inflaters, Sending,
    SharedMessage,
};
use seawall::proto::ws::{DataKind, Limits, ProtocolError, Receiver, WireEvent};
use std::sync::Arc;

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, fragments_max: 1000 };
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A client's codecs, of the C zlib.
struct Client {
    agreed: Agreed,
    compress: Compress,
    decompress: Decompress,
}

impl Client {
    fn new(agreed: Agreed) -> Self {
        let bits = agreed.client_bits.max(9);
        Self {
            agreed,
            compress: Compress::new_with_window_bits(Compression::default(), false, bits),
            decompress: Decompress::new_with_window_bits(false, agreed.server_bits),
        }
    }

    /// The payload of a message, compressed; `flushes`: where else it is flushed.
    fn pack(&mut self, message: &[u8], flush: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + message.len() / 2 + 200);
        let (front, back) = message.split_at(flush.min(message.len()));
        for part in [front, back] {
            let status = self.compress.compress_vec(part, &mut out, FlushCompress::Sync);
            status.expect("zlib compresses anything");
        }
        if !self.agreed.client_takeover {
            self.compress.reset();
        }
        let len = out.strip_suffix(&TAIL).map_or(out.len(), <[u8]>::len);
        out.truncate(len);
        out
    }

    fn unpack(&mut self, payload: &[u8], len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 64);
        let input = [payload, &TAIL].concat();
        let before = self.decompress.total_in();
        let status = self.decompress.decompress_vec(&input, &mut out, FlushDecompress::Sync);
        status.expect("what we send is DEFLATE");
        assert_eq!(self.decompress.total_in() - before, input.len() as u64, "all of it");
        if !self.agreed.server_takeover {
            self.decompress.reset(false);
        }
        out
    }

    /// What a server's frame says to this client.
    fn read(&mut self, frame: &[u8], len: usize) -> Vec<u8> {
        let start = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if frame[0] & 0x40 == 0 {
            frame[start..].to_vec()
        } else {
            self.unpack(&frame[start..], len)
        }
    }
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
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
    bytes.extend([9, 8, 7, 6]);
    bytes.extend(payload.iter().zip([9, 8, 7, 6].iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The frames of a message, cut at these places, with a ping between any two.
fn frames(first: u8, payload: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
    cuts.extend([0, payload.len()]);
    cuts.sort_unstable();
    let mut bytes = Vec::new();
    let last = cuts.len() - 2;
    for (index, pair) in cuts.windows(2).enumerate() {
        let opcode = if index == 0 { first } else { 0 } | if index == last { 0x80 } else { 0 };
        bytes.extend(masked(opcode, &payload[pair[0]..pair[1]]));
        if index != last {
            bytes.extend(masked(0x89, b"between"));
        }
    }
    bytes
}

fn inflaters(leases_max: usize) -> Inflaters {
    Inflaters::new(InflateLimits { leases_max, ratio_max: 0 }, || 0)
}

/// The messages in `bytes`, shown in pieces, or the violation they end in.
fn receive(
    receiver: &mut Receiver,
    inflaters: &mut Inflaters,
    bytes: &mut [u8],
    limits: &Limits,
) -> Result<Vec<(DataKind, Vec<u8>)>, ProtocolError> {
    receive_by(usize::MAX, receiver, inflaters, bytes, limits)
}

/// The same with this many bytes inflated at once.
fn receive_by(
    allowance: usize,
    receiver: &mut Receiver,
    inflaters: &mut Inflaters,
    bytes: &mut [u8],
    limits: &Limits,
) -> Result<Vec<(DataKind, Vec<u8>)>, ProtocolError> {
    let mut messages = Vec::new();
    let mut input = bytes;
    loop {
        let before = inflaters.work().bytes_after;
        inflaters.set_allowance(allowance);
        let event = receiver.next_inflated(&mut input, limits, Some(inflaters));
        let Some(event) = event else {
            let bound = (allowance as u64).saturating_add(STEP_BYTES);
            let inflated = inflaters.work().bytes_after - before;
            assert!(inflated <= bound, "{inflated} bytes at once");
            if receiver.is_suspended() {
                continue;
            }
            break;
        };
        match event {
            WireEvent::Message { kind, payload } => messages.push((kind, payload.into_vec())),
            WireEvent::Ping(payload) => assert_eq!(payload.as_slice(), b"between"),
            WireEvent::Failed(error) => return Err(error),
            event => panic!("{event:?}"),
        }
    }
    Ok(messages)
}

fn agreed() -> impl Strategy<Value = Agreed> {
    (any::<bool>(), any::<bool>(), 9u8..=15, 9u8..=15).prop_map(
        |(server_takeover, client_takeover, server_bits, client_bits)| Agreed {
            server_takeover,
            client_takeover,
            server_bits,
            client_bits,
        },
    )
}

/// Text that shrinks, and behind it bytes that do not.
fn mixed((seed, regular, random): (u32, usize, usize)) -> Vec<u8> {
    let mut state = seed | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    b"regular ".iter().copied().cycle().take(regular).chain(noise.take(random)).collect()
}

/// Messages of all kinds: empty, small and alike, large, and such as do not shrink.
fn message() -> impl Strategy<Value = (DataKind, Vec<u8>)> {
    let text = prop_oneof![
        "\\PC{0,40}",
        (0u32..50).prop_map(|id| format!("{{\"id\":{id},\"name\":\"grüße\",\"price\":1.5}}")),
        (1usize..60_000).prop_map(|len| "aé€😀".chars().cycle().take(len).collect()),
    ];
    let binary = prop_oneof![
        vec(any::<u8>(), 0..600),
        (any::<u8>(), 0usize..100_000).prop_map(|(byte, len)| vec![byte; len]),
        (any::<u32>(), 0usize..60_000, 0usize..60_000).prop_map(mixed),
    ];
    prop_oneof![
        text.prop_map(|text: String| (DataKind::Text, text.into_bytes())),
        binary.prop_map(|bytes| (DataKind::Binary, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_zlib_compresses_is_inflated_however_it_is_cut(
        agreed in agreed(),
        leases in 0usize..2,
        allowance in prop_oneof![Just(usize::MAX), 1usize..200_000],
        messages in vec((message(), vec(any::<usize>(), 0..4), any::<usize>()), 1..6),
        piece in prop_oneof![1usize..40, 1000usize..70_000],
    ) {
        let (mut inflaters, mut deflaters) = (inflaters(leases), Deflaters::new(|| 0));
        let context = deflate::open_contexts(agreed, 6, &mut inflaters, &mut deflaters);
        let mut receiver = Receiver::compressed(agreed, context);
        let mut client = Client::new(agreed);
        let mut bytes = Vec::new();
        for ((kind, message), cuts, flush) in &messages {
            let opcode = if *kind == DataKind::Text { 0x41 } else { 0x42 };
            // Every other message goes plain, which an agreement allows.
            if flush % 4 == 0 {
                bytes.extend(frames(opcode & 0x0f, message, cuts));
            } else {
                bytes.extend(frames(opcode, &client.pack(message, flush % 5000), cuts));
            }
        }
        let mut seen = Vec::new();
        for piece in bytes.chunks_mut(piece) {
            let found = receive_by(allowance, &mut receiver, &mut inflaters, piece, &LIMITS);
            seen.extend(found.expect("the client follows the rules"));
            prop_assert!(inflaters.leased_count() <= leases);
        }
        let sent: Vec<_> = messages.into_iter().map(|(message, ..)| message).collect();
        prop_assert_eq!(seen, sent);
        prop_assert!(receiver.is_idle() && inflaters.leased_count() == 0);
        receiver.let_go(&mut inflaters, &mut deflaters);
        prop_assert_eq!(inflaters.own_bytes() + deflaters.own_bytes(), 0);
    }

    #[test]
    fn what_we_compress_zlib_inflates(
        agreed in agreed(),
        level in prop_oneof![Just(1u8), 1u8..=9],
        allowance in prop_oneof![Just(1u64), 1..1_000_000u64, Just(u64::MAX)],
        messages in vec((message(), any::<bool>()), 1..12),
    ) {
        let (mut inflaters, mut deflaters) = (inflaters(0), Deflaters::new(|| 0));
        let context = deflate::open_contexts(agreed, level, &mut inflaters, &mut deflaters);
        let receiver = Receiver::compressed(agreed, context);
        let sending = receiver.sending().expect("it was agreed on");
        let mut client = Client::new(agreed);
        for ((kind, message), shared) in &messages {
            if *shared {
                // A message for many, in between.
                let shared = SharedMessage::new(*kind, message.clone());
                let frame = shared.frame(sending, level, &mut deflaters).clone();
                prop_assert_eq!(&client.read(&frame, message.len()), message);
            } else if Compressing::is_for(message.len()) {
                let mut begun = Compressing::new(message.clone());
                begun = loop {
                    deflaters.set_allowance(allowance);
                    match begun.compress_more(&mut deflaters, sending, level) {
                        Compressed::Unfinished(rest) => begun = rest,
                        Compressed::Whole { message: same, output } => {
                            prop_assert_eq!(&same, message);
                            prop_assert!(output.len() < message.len(), "it shrinks");
                            prop_assert_eq!(&client.unpack(&output, message.len()), message);
                            break Compressing::new(same);
                        }
                        Compressed::Useless(same) => {
                            prop_assert_eq!(&same, message);
                            break Compressing::new(same);
                        }
                    }
                };
                prop_assert_eq!(begun.message_len(), message.len());
                deflaters.set_allowance(u64::MAX);
            } else if let Some(payload) = deflaters.compress(sending, level, message) {
                prop_assert!(payload.len() < message.len(), "it shrinks");
                prop_assert_eq!(&client.unpack(payload, message.len()), message);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_deflate_end_in_a_violation(
        agreed in agreed(),
        payloads in vec(vec(any::<u8>(), 0..60), 1..20),
        piece in 1usize..50,
    ) {
        let (mut inflaters, mut deflaters) = (inflaters(1), Deflaters::new(|| 0));
        let context = deflate::open_contexts(agreed, 6, &mut inflaters, &mut deflaters);
        let mut receiver = Receiver::compressed(agreed, context);
        let limits = Limits { message_bytes_max: 500, fragments_max: 9 };
        let mut bytes: Vec<u8> = payloads.iter().flat_map(|one| masked(0xc2, one)).collect();
        for piece in bytes.chunks_mut(piece) {
            match receive(&mut receiver, &mut inflaters, piece, &limits) {
                Ok(messages) => prop_assert!(messages.iter().all(|(_, one)| one.len() <= 500)),
                Err(error) => {
                    let expected = [ProtocolError::InflateFailed, ProtocolError::MessageTooBig];
                    prop_assert!(expected.contains(&error), "{error:?}");
                    prop_assert!(receiver.is_idle() && inflaters.leased_count() == 0);
                }
            }
        }
        receiver.let_go(&mut inflaters, &mut deflaters);
        prop_assert_eq!(inflaters.leased_count(), 0);
    }
}

/// Bytes inflated between two checks of the allowance at most.
const STEP_BYTES: u64 = 64 * 1024;

const SHARED: Agreed =
    Agreed { server_takeover: false, client_takeover: false, server_bits: 12, client_bits: 15 };
const TAKEOVER: Agreed =
    Agreed { server_takeover: true, client_takeover: true, server_bits: 12, client_bits: 12 };

/// This many zeros, as a client would send them.
fn zeros(len: usize) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(len / 1000 + 1000);
    let block = vec![0; 1 << 20];
    for _ in 0..len >> 20 {
        compress.compress_vec(&block, &mut out, FlushCompress::None).expect("it compresses");
    }
    compress.compress_vec(&[], &mut out, FlushCompress::Sync).expect("it compresses");
    out.truncate(out.len() - TAIL.len());
    out
}

#[test]
fn a_bomb_of_a_gibibyte_costs_no_more_than_the_limit() {
    let bomb = zeros(1 << 30);
    assert!(bomb.len() < 1100 * 1024, "{} bytes make a gibibyte", bomb.len());
    for (agreed, cuts) in [(SHARED, vec![]), (SHARED, vec![1000]), (TAKEOVER, vec![300_000])] {
        let limits = Limits { message_bytes_max: 4 << 20, fragments_max: 9 };
        let (mut inflaters, mut deflaters) = (inflaters(1), Deflaters::new(|| 0));
        let context = deflate::open_contexts(agreed, 6, &mut inflaters, &mut deflaters);
        let mut receiver = Receiver::compressed(agreed, context);
        let mut bytes = frames(0x42, &bomb, &cuts);
        let mut error = None;
        let mut most = 0;
        for piece in bytes.chunks_mut(65_536) {
            let found = receive(&mut receiver, &mut inflaters, piece, &limits);
            most = most.max(receiver.partial_bytes() as u64 + inflaters.pool_bytes());
            if let Err(found) = found {
                error = Some(found);
                break;
            }
        }
        assert_eq!(error, Some(ProtocolError::MessageTooBig));
        assert_eq!(inflaters.work().bombs, 1);
        assert!(inflaters.work().bytes_after <= 4 << 20, "nothing is inflated past the limit");
        assert!(most <= (4 << 20) + 200_000, "{most} bytes of memory");
    }
}

#[test]
fn a_message_without_an_inflater_waits_and_is_inflated_at_its_end() {
    let mut inflaters = inflaters(1);
    let mut client = Client::new(SHARED);
    let texts: Vec<String> = (0..3).map(|n| format!("number {n}, ").repeat(500)).collect();
    let frames: Vec<_> =
        texts.iter().map(|one| masked(0xc1, &client.pack(one.as_bytes(), 0))).collect();
    let mut receivers: Vec<_> = texts.iter().map(|_| Receiver::compressed(SHARED, None)).collect();
    for (receiver, frame) in receivers.iter_mut().zip(&frames) {
        let mut front = frame[..20].to_vec();
        assert_eq!(receive(receiver, &mut inflaters, &mut front, &LIMITS), Ok(vec![]));
    }
    assert_eq!((inflaters.leased_count(), inflaters.work().waits), (1, 2));
    for (n, receiver) in receivers.iter_mut().enumerate().rev() {
        let mut rest = frames[n][20..].to_vec();
        let found = receive(receiver, &mut inflaters, &mut rest, &LIMITS).expect("it is right");
        assert_eq!(found, [(DataKind::Text, texts[n].clone().into_bytes())]);
        assert!(receiver.is_idle());
    }
    assert_eq!((inflaters.leased_count(), inflaters.work().messages), (0, 3));
}

#[test]
fn examples_of_the_rfc_are_understood() {
    // RFC 7692 7.2.3: one block, two fragments, context taken over, no compression, a final block,
    // two blocks; then what senders make of an empty message.
    let cases: &[(&[&[u8]], &str)] = &[
        (&[&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]], "Hello"),
        (&[&[0xf2, 0x48, 0xcd], &[0xc9, 0xc9, 0x07, 0x00]], "Hello"),
        (&[&[0xf2, 0x00, 0x11, 0x00, 0x00]], "Hello"),
        (&[&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]], "Hello"),
        (&[&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]], "Hello"),
        (
            &[&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]],
            "Hello",
        ),
        (&[&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]], "Hello"),
        (&[&[0x00]], ""),
        (&[&[0x02, 0x00]], ""),
        (&[&[]], ""),
        (&[&[0xf2, 0x00, 0x11, 0x00, 0x00]], "Hello"),
    ];
    let (mut inflaters, mut deflaters) = (inflaters(1), Deflaters::new(|| 0));
    let context = deflate::open_contexts(TAKEOVER, 6, &mut inflaters, &mut deflaters);
    let mut receiver = Receiver::compressed(TAKEOVER, context);
    for (fragments, expected) in cases {
        let last = fragments.len() - 1;
        let mut bytes = Vec::new();
        for (n, fragment) in fragments.iter().enumerate() {
            let first = if n == 0 { 0x41 } else { 0 } | if n == last { 0x80 } else { 0 };
            bytes.extend(masked(first, fragment));
        }
        let found = receive(&mut receiver, &mut inflaters, &mut bytes, &LIMITS);
        let expected = vec![(DataKind::Text, expected.as_bytes().to_vec())];
        assert_eq!(found, Ok(expected), "{fragments:02x?}");
    }
    receiver.let_go(&mut inflaters, &mut deflaters);
}

#[test]
fn a_shared_message_is_compressed_once_a_window() {
    let mut deflaters = Deflaters::new(|| 0);
    let text = "the same to all members, ".repeat(100);
    let message = SharedMessage::new(DataKind::Text, text.clone().into_bytes());
    let sending = |bits| Sending { bits, context: None };
    let first = message.frame(sending(12), 1, &mut deflaters).clone();
    for _ in 0..1000 {
        assert!(Arc::ptr_eq(message.frame(sending(12), 1, &mut deflaters), &first));
    }
    assert_eq!(deflaters.work().messages, 1, "one compression for a thousand receivers");
    let small = message.frame(sending(9), 1, &mut deflaters).clone();
    assert_eq!(deflaters.work().messages, 2, "another window is another frame");
    for (bits, frame) in [(12, first), (9, small)] {
        let agreed = Agreed { server_bits: bits, ..SHARED };
        assert_eq!(Client::new(agreed).read(&frame, text.len()), text.as_bytes());
    }
    assert_eq!(&message.plain()[4..], text.as_bytes());
    let noise: Vec<u8> = (0..=255).collect();
    let message = SharedMessage::new(DataKind::Binary, noise.clone());
    let frame = message.frame(sending(12), 1, &mut deflaters).clone();
    assert!(Arc::ptr_eq(&frame, message.plain()), "what does not shrink goes plain");
}

#[test]
fn contexts_take_no_more_than_is_counted_for_them() {
    for server_bits in 9..=15 {
        for client_bits in 8..=15 {
            let agreed =
                Agreed { server_takeover: true, client_takeover: true, server_bits, client_bits };
            let (mut inflaters, mut deflaters) = (inflaters(0), Deflaters::new(|| 0));
            deflate::open_contexts(agreed, 6, &mut inflaters, &mut deflaters);
            let held = inflaters.own_bytes() + deflaters.own_bytes();
            let counted = agreed.context_bytes();
            assert!(held <= counted, "{held} held, {counted} counted: {agreed:?}");
            assert!(held + 3000 > counted, "{held} held, {counted} counted: {agreed:?}");
        }
    }
}

#[test]
fn limit_may_be_lowered_below_what_was_inflated() {
    for leases in [0, 1] {
        let (mut inflaters, mut deflaters) = (inflaters(leases), Deflaters::new(|| 0));
        let mut receiver = Receiver::compressed(SHARED, None);
        let mut frame = masked(0xc2, &zeros(1 << 20));
        let end = frame.len() - 20;
        let (start, rest) = frame.split_at_mut(end);
        assert_eq!(receive(&mut receiver, &mut inflaters, start, &LIMITS), Ok(Vec::new()));
        let lowered = Limits { message_bytes_max: 1000, ..LIMITS };
        let end = receive(&mut receiver, &mut inflaters, rest, &lowered);
        assert_eq!(end, Err(ProtocolError::MessageTooBig), "with {leases} leases");
        receiver.let_go(&mut inflaters, &mut deflaters);
        assert_eq!(inflaters.leased_count(), 0);
    }
}

//! Negotiation and inflating: any header, any bytes that claim to be compressed.

use super::http::{self, Availability, Compression, Decision, Head, Origins};
use super::model::Seen;
use super::receive_with;
use crate::proto::ws::deflate::{
    Agreed, Deflaters, InflateLimits, Inflaters, Policy, close_contexts, open_contexts,
};
use crate::proto::ws::{self, DataKind, ProtocolError, Receiver, compressed_frame_header};

/// Offers: the first bytes choose the route and the memory that is left, the rest are lines of the
/// field. An answer is one that both sides can keep; what is on one line may be on several.
pub fn extensions(data: &[u8]) {
    let Some((choice, lines)) = data.split_first_chunk::<2>() else { return };
    let policy = Policy { takeover: choice[0] & 1 != 0, window_bits: 9 + choice[0] / 2 % 7 };
    let room = u64::from(choice[1]) * 512;
    let found = negotiate(lines, policy, room);
    // A list may be cut at any comma that is not quoted; quotes are rare enough to leave out.
    let members = lines.split(|&b| b == b',').count();
    if members < 50 && !lines.iter().any(|b| matches!(b, b'"' | b'\n' | b'\r')) {
        let cut: Vec<u8> = lines.iter().map(|&b| if b == b',' { b'\n' } else { b }).collect();
        // What a refusal says names the line.
        let outcome = |found: &Option<(Negotiated, String)>| found.as_ref().map(|found| found.0);
        let cut = negotiate(&cut, policy, room);
        assert_eq!(outcome(&cut), outcome(&found), "cut at its commas");
    }
    let Some((Ok(compression), answer)) = found else { return };
    let Some(agreed) = compression.agreed else {
        assert!(!answer.contains("Sec-WebSocket-Extensions"), "{answer}");
        return;
    };
    assert!((9..=policy.window_bits).contains(&agreed.server_bits), "{agreed:?}");
    assert!((8..=15).contains(&agreed.client_bits), "{agreed:?}");
    assert!(policy.takeover || !agreed.takes_over(), "{agreed:?}");
    assert!(agreed.context_bytes() <= room, "{agreed:?}");
    assert!(answer.contains("\r\nSec-WebSocket-Extensions: permessage-deflate"), "{answer}");
}

/// What an upgrade has agreed on, or the status of another answer.
type Negotiated = Result<Compression, u16>;

/// The outcome of a request with these lines of the field; `None` where it is no request.
fn negotiate(lines: &[u8], policy: Policy, room: u64) -> Option<(Negotiated, String)> {
    let routes = http::Routes::new(vec![http::Route {
        path: "/".into(),
        prefix: false,
        subprotocols: Vec::new(),
        origins: Origins::Any,
        compression: Some(policy),
    }]);
    let context = http::Context {
        forwards: None,
        gate: None,
        routes: &routes,
        pages: &http::Pages::NONE,
        limits: &http::Limits { head_bytes_max: 1 << 16, target_bytes_max: 9, headers_max: 100 },
        forwarding: None,
        peer: None,
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: http::SameOrigin::AnyHost,
        availability: Availability::Ready,
        context_room_bytes: room,
    };
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        .to_vec();
    for line in lines.split(|&b| b == b'\n').filter(|line| !line.contains(&b'\r')) {
        request.extend_from_slice(b"Sec-WebSocket-Extensions:");
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let head = http::receive(&request, &mut 0, &context);
    let Head::Complete { decision, .. } = head else { return None };
    let mut out = Vec::new();
    http::encode(&decision, &mut out);
    let negotiated = match decision {
        Decision::Upgrade(upgrade) | Decision::Pending(upgrade) => Ok(upgrade.compression),
        Decision::Forward(_) => panic!("nothing is forwarded"),
        Decision::Answer(response) => Err(response.status()),
    };
    Some((negotiated, String::from_utf8_lossy(&out).into()))
}

/// Frames of a connection with compression: the first bytes choose limits, contexts and cuts; each
/// operation is a frame's first byte, its length and payload. However the input is cut, the events
/// are the same, and memory stays within its bounds.
pub fn inflate(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first_chunk::<4>() else { return };
    let limits = ws::Limits {
        message_bytes_max: usize::from(choice[0]) << (choice[0] & 7),
        fragments_max: 1 + u32::from(choice[1] % 16),
    };
    let agreed = Agreed {
        server_takeover: choice[2] & 1 != 0,
        client_takeover: choice[2] & 2 != 0,
        server_bits: 9 + choice[2] / 4 % 7,
        client_bits: 8 + choice[2] / 32,
    };
    let mut bytes = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let (payload, tail) = tail.split_at(usize::from(head[1] % 126).min(tail.len()));
        // Mostly first bytes that are allowed.
        let first = [0xc1, 0xc2, 0x41, 0x42, 0x00, 0x80, 0x89, head[0]][usize::from(head[0] % 8)];
        bytes.extend([first, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        bytes.extend(payload);
        rest = tail;
    }
    let whole = run(&mut bytes.clone(), usize::MAX, agreed, &limits);
    for piece in [1, 2 + usize::from(choice[3])] {
        let seen = run(&mut bytes.clone(), piece, agreed, &limits);
        let narrow = agreed.client_takeover && agreed.client_bits < 15;
        let excused = reached_too_far(&seen, &whole) || reached_too_far(&whole, &seen);
        if !(narrow && excused) {
            assert_eq!(seen, whole, "in pieces of {piece}");
        }
    }
}

/// Whether the runs differ only in that a reach past the peer's window was noticed in the first.
fn reached_too_far(noticed: &[Seen], other: &[Seen]) -> bool {
    let Some((Seen::Failed(ProtocolError::InflateFailed), before)) = noticed.split_last() else {
        return false;
    };
    other.starts_with(before)
}

fn run(bytes: &mut [u8], piece: usize, agreed: Agreed, limits: &ws::Limits) -> Vec<Seen> {
    let inflate_limits = InflateLimits { leases_max: 1, ratio_max: 0 };
    let mut inflaters = Inflaters::new(inflate_limits, || 0);
    let mut deflaters = Deflaters::new(|| 0);
    let context = open_contexts(agreed, 1, &mut inflaters, &mut deflaters);
    let mut receiver = Receiver::compressed(agreed, context);
    let pieces = bytes.chunks_mut(piece.min(1 << 20));
    let seen = receive_with(&mut receiver, Some(&mut inflaters), pieces, limits);
    for one in &seen {
        if let Seen::Message(_, message) = one {
            assert!(message.len() <= limits.message_bytes_max, "{} bytes", message.len());
        }
    }
    receiver.let_go(&mut inflaters, &mut deflaters);
    assert_eq!(inflaters.leased_count(), 0);
    assert_eq!(inflaters.own_bytes() + deflaters.own_bytes(), 0);
    seen
}

/// Messages through a compressor and back: the first bytes choose level, window and context, the
/// rest are messages.
pub fn deflate(data: &[u8]) {
    let Some((choice, rest)) = data.split_first_chunk::<3>() else { return };
    let takeover = choice[0] & 1 != 0;
    let bits = 9 + choice[0] / 2 % 7;
    let level = 1 + choice[1] % 9;
    let agreed = Agreed {
        server_takeover: takeover,
        client_takeover: takeover,
        server_bits: bits,
        client_bits: bits,
    };
    let inflate_limits = InflateLimits { leases_max: 1, ratio_max: 0 };
    let mut inflaters = Inflaters::new(inflate_limits, || 0);
    let mut deflaters = Deflaters::new(|| 0);
    let context = open_contexts(agreed, level, &mut inflaters, &mut deflaters);
    // What we send, read as if a client had sent it.
    let mut receiver = Receiver::compressed(agreed, context);
    let Some(sending) = receiver.sending() else { panic!("it was agreed on") };
    let limits = ws::Limits { message_bytes_max: 1 << 20, fragments_max: 1 };
    for message in rest.split(|&byte| byte == choice[2]).filter(|one| !one.is_empty()) {
        // Large ones fill what compressors hold back.
        let message = message.repeat(1 + usize::from(message[0]) * usize::from(level > 5));
        let Some(payload) = deflaters.compress(sending, level, &message) else { continue };
        assert!(payload.len() < message.len());
        let (header, len) = compressed_frame_header(DataKind::Binary, payload.len());
        let mut frame = header[..len].to_vec();
        frame[1] |= 0x80;
        frame.extend([0; 4]);
        frame.extend_from_slice(payload);
        let seen = receive_with(
            &mut receiver,
            Some(&mut inflaters),
            std::iter::once(frame.as_mut_slice()),
            &limits,
        );
        assert_eq!(seen, [Seen::Message(DataKind::Binary, message)]);
    }
    if let Some(context) = context {
        close_contexts(context, &mut inflaters, &mut deflaters);
    }
}

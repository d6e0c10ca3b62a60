//! The bodies of the fuzz targets: any bytes in, laws asserted, nothing out.
//!
//! They lie beside the code they test, so that every driver of them (libFuzzer, the property
//! tests, a replayed finding) runs the same assertions. All panics here are findings.

mod compression;
pub mod model;
mod session;

use super::http::{
    self, Availability, Decision, Denial, Forwarding, ForwardingHeader, Head, Origins, Refusal,
};
use super::proxy::{PROXY_HEADER_BYTES_MAX, ProxyHeader, parse};
use super::ws::deflate::{Inflaters, Policy};
use super::ws::{Limits, Receiver};
use model::{Model, Seen};
use std::net::{IpAddr, Ipv4Addr};

pub use compression::{deflate, extensions, inflate};
pub use session::session;

/// PROXY headers: a verdict once given holds whatever follows, and covers no more than there is.
pub fn proxy(data: &[u8]) {
    let whole = parse(data);
    if let Ok(ProxyHeader::Complete { consumed, .. }) = whole {
        assert!(consumed <= data.len() && consumed <= PROXY_HEADER_BYTES_MAX);
        assert_eq!(parse(&data[..consumed]), whole, "what follows a header changes it");
    }
    if whole == Ok(ProxyHeader::Partial) {
        assert!(data.len() < PROXY_HEADER_BYTES_MAX, "an endless header");
    }
    let mut decided = false;
    for end in 0..data.len().min(600) {
        let part = parse(&data[..end]);
        decided |= part != Ok(ProxyHeader::Partial);
        assert!(!decided || part == whole, "{part:?} after {end} bytes, then {whole:?}");
    }
}

/// A request: the first bytes choose limits and circumstances, the rest arrives in three ways.
pub fn request(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first_chunk::<4>() else { return };
    let limits = http::Limits {
        head_bytes_max: 64 + usize::from(choice[0]) * 8,
        target_bytes_max: 1 + usize::from(choice[1]),
        headers_max: usize::from(choice[2]) % (http::HEADERS_MAX + 1),
    };
    let routes = routes();
    let header = match choice[3] & 1 {
        0 => ForwardingHeader::XForwardedFor,
        _ => ForwardingHeader::Forwarded,
    };
    let trusted = "10.0.0.0/8".parse().into_iter().collect();
    let forwarding = Forwarding { header, trusted };
    let retry_after_s = u32::from(choice[0]);
    let context = http::Context {
        forwards: None,
        gate: None,
        routes: &routes,
        pages: &http::Pages::NONE,
        limits: &limits,
        forwarding: (choice[3] & 2 != 0).then_some(&forwarding),
        peer: (choice[3] & 4 != 0).then_some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: http::SameOrigin::AnyHost,
        availability: match choice[3] >> 6 {
            0 => Availability::Draining { retry_after_s },
            1 => Availability::Denied(Denial {
                refusal: Refusal::TooManyRequests,
                message: "too many",
                retry_after_s,
            }),
            _ => Availability::Ready,
        },
        context_room_bytes: u64::from(choice[1]) * 512,
    };
    let whole = arrive(bytes, bytes.len().max(1), &context);
    check_answer(bytes, &whole, &limits);
    assert_eq!(arrive(bytes, 1, &context), whole, "byte by byte");
    assert_eq!(arrive(bytes, 2 + usize::from(choice[3] >> 3 & 7), &context), whole, "in pieces");
}

/// The routes that the requests of the seeds ask for.
fn routes() -> http::Routes {
    let route = |path: &str, prefix, subprotocols: &[&str], origins| http::Route {
        path: path.into(),
        prefix,
        subprotocols: subprotocols.iter().map(|&name| name.into()).collect(),
        origins,
        compression: Some(Policy { takeover: prefix, window_bits: 12 }),
    };
    let list = ["https://example.com", "http://localhost:8080", "https://*.example.org"];
    http::Routes::new(vec![
        route("/echo", false, &["chat", "superchat"], Origins::Any),
        route("/a", true, &[], Origins::SameOrigin),
        route("/a/b/", true, &[], Origins::list(&list).expect("valid origins")),
    ])
}

/// Shows `bytes` in steps until something is decided; gives that with what was written.
fn arrive<'c>(bytes: &[u8], step: usize, context: &http::Context<'c>) -> (Head<'c>, Vec<u8>) {
    let (mut scanned, mut out) = (0, Vec::new());
    let mut shown = 0;
    loop {
        shown = (shown + step).min(bytes.len());
        let head = http::receive(&bytes[..shown], &mut scanned, context);
        if let Head::Complete { decision, .. } = &head {
            http::encode(decision, &mut out);
        }
        if head != Head::Partial || shown == bytes.len() {
            return (head, out);
        }
    }
}

/// The answer is whole, says what was decided, and closes unless it upgrades.
fn check_answer(bytes: &[u8], (head, out): &(Head<'_>, Vec<u8>), limits: &http::Limits) {
    let Head::Complete { consumed, ref decision, .. } = *head else {
        assert!(out.is_empty() && bytes.len() < limits.head_bytes_max);
        return;
    };
    assert!(0 < consumed && consumed <= bytes.len() && consumed <= limits.head_bytes_max);
    let text = String::from_utf8_lossy(out);
    let Some((lines, body)) = text.split_once("\r\n\r\n") else { panic!("no end: {text}") };
    let status = match decision {
        Decision::Upgrade(_) => 101,
        Decision::Pending(_) => panic!("no gate"),
        Decision::Forward(_) => panic!("nothing is forwarded"),
        Decision::Answer(response) => {
            let status = response.status();
            assert!(response.refusal().is_none_or(|refusal| refusal.status() == status));
            status
        }
    };
    assert!(lines.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}");
    assert!(!lines.replace("\r\n", "").contains(['\r', '\n']), "an injected line: {lines}");
    if status == 101 {
        assert!(bytes[..consumed].ends_with(b"\r\n\r\n") && body.is_empty());
        assert!(lines.contains("\r\nSec-WebSocket-Accept: "));
        return;
    }
    assert!(lines.contains("\r\nConnection: close"), "{lines}");
    if !body.is_empty() {
        assert!(lines.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{lines}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}

/// Raw bytes as frames: the first choose limits and cuts, the rest arrives whole and cut.
pub fn frames(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first_chunk::<3>() else { return };
    let limits = Limits {
        message_bytes_max: usize::from(choice[0]) * 16,
        fragments_max: 1 + u32::from(choice[1] % 16),
    };
    agree(bytes, &limits, usize::from(choice[2]));
}

/// The receiver agrees with the model however `bytes` are cut.
fn agree(bytes: &[u8], limits: &Limits, piece: usize) {
    let expected = Model::events(bytes, limits);
    for cut in [bytes.len(), 1, piece] {
        let mut bytes = bytes.to_vec();
        let pieces = bytes.chunks_mut(cut.max(1));
        assert_eq!(receive(pieces, limits), expected, "in pieces of {cut} bytes");
    }
}

/// What a receiver makes of these pieces, its memory being watched.
fn receive<'p>(pieces: impl Iterator<Item = &'p mut [u8]>, limits: &Limits) -> Vec<Seen> {
    receive_with(&mut Receiver::new(), None, pieces, limits)
}

/// What `receiver` makes of these pieces, its memory being watched.
fn receive_with<'p>(
    receiver: &mut Receiver,
    mut inflaters: Option<&mut Inflaters>,
    pieces: impl Iterator<Item = &'p mut [u8]>,
    limits: &Limits,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    for piece in pieces {
        let mut input = piece;
        while let Some(event) = receiver.next_inflated(&mut input, limits, inflaters.as_deref_mut())
        {
            seen.push(Seen::from(event));
        }
        assert!(input.is_empty(), "bytes left over");
        let ended = matches!(seen.last(), Some(Seen::Close(_) | Seen::Failed(_)));
        assert!(!ended || receiver.is_idle(), "memory held after the end");
        assert!(receiver.is_idle() == (receiver.partial_bytes() == 0));
        // The boxes themselves, and one message.
        let most = 1024 + limits.message_bytes_max;
        assert!(receiver.partial_bytes() <= most, "{} held", receiver.partial_bytes());
    }
    seen
}

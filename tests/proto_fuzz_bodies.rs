//! The bodies of the fuzz targets on the stable toolchain: over the seeds, and over generated
//! input.
//!
//! What belongs here: only runs of `proto::fuzz`, `session::fuzz`, `session::hub::fuzz`,
//! `hooks::fuzz`, `link::fuzz`, `session::pusher::fuzz` and `tls::fuzz`; the laws themselves are
//! asserted there.

use proptest::collection::vec;
use proptest::prelude::*;
use seawall::hooks::fuzz::answers;
use seawall::link::fuzz::link_message;
use seawall::proto::fuzz;
use seawall::session::fuzz::requests;
use seawall::session::hub::fuzz::protocol;
use seawall::session::pusher::fuzz::client_message;
use seawall::tls::fuzz as tls;
use std::path::Path;

/// Runs `body` over each seed, each start of it, and each single byte of it changed.
fn over_seeds(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the seeds are part of the project") {
        let seed = std::fs::read(entry.expect("an entry").path()).expect("a readable seed");
        for end in 0..=seed.len() {
            body(&seed[..end]);
        }
        for at in 0..seed.len() {
            for change in [0x01, 0x20, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[at] ^= change;
                body(&changed);
            }
        }
        count += 1;
    }
    assert!(count >= 5, "{count} seeds in {}", folder.display());
}

#[test]
fn request_over_seeds() {
    over_seeds("request", fuzz::request);
}

#[test]
fn frames_over_seeds() {
    over_seeds("frames", fuzz::frames);
}

#[test]
fn session_over_seeds() {
    over_seeds("session", fuzz::session);
}

#[test]
fn protocol_over_seeds() {
    over_seeds("protocol", protocol);
}

#[test]
fn requests_over_seeds() {
    over_seeds("requests", requests);
}

#[test]
fn answers_over_seeds() {
    over_seeds("answers", answers);
}

#[test]
fn link_over_seeds() {
    over_seeds("link", link_message);
}

#[test]
fn pusher_over_seeds() {
    over_seeds("pusher", |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            client_message(text);
        }
    });
}

#[test]
fn proxy_over_seeds() {
    over_seeds("proxy", fuzz::proxy);
}

#[test]
fn extensions_over_seeds() {
    over_seeds("extensions", fuzz::extensions);
}

#[test]
fn inflate_over_seeds() {
    over_seeds("inflate", fuzz::inflate);
}

#[test]
fn deflate_over_seeds() {
    over_seeds("deflate", fuzz::deflate);
}

#[test]
fn tls_records_over_seeds() {
    over_seeds("tls_records", tls::records);
}

#[test]
fn tls_handshake_over_seeds() {
    over_seeds("tls_handshake", tls::handshake);
}

/// Words that offers are made of.
fn offer_word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "permessage-deflate",
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
        "x-other",
        "=9",
        "=\"10\"",
        "=15",
        "=8",
        "=",
        ";",
        "; ",
        ",",
        " , ",
        "\n",
        "\"",
        "\\",
        " ",
    ])
}

/// Objects that frames are made of, right and wrong; 0 parts frames.
fn hub_object() -> impl Strategy<Value = String> {
    let channel = prop::sample::select(vec!["a", "b", "token:a", "user:x", "\u{e9}", ""]);
    let kind = prop::sample::select(vec![
        r#""subscribe","presence":true"#,
        r#""subscribe""#,
        r#""subscribe","since":{"epoch":"","offset":1}"#,
        r#""subscribe","token":"TOKEN""#,
        r#""unsubscribe""#,
        r#""publish","content":1"#,
        r#""publish","content":[2],"key":"k""#,
        r#""presence","limit":1"#,
        r#""history","limit":2"#,
        r#""resume","ticket":"TICKET""#,
        r#""resume","ticket":"TICKET","positions":{"a":{"epoch":"","offset":0}}"#,
        r#""auth","token":"TOKEN""#,
        r#""ping""#,
        r#""shout""#,
    ]);
    let end = prop::sample::select(vec!["", "", "\n", "\0", "\0", "{"]);
    (channel, kind, end)
        .prop_map(|(channel, kind, end)| format!(r#"{{"channel":"{channel}","type":{kind}}}{end}"#))
}

/// Lines that requests are made of, right and wrong.
fn request_line() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        b"GET /echo HTTP/1.1\r\n".as_slice(),
        b"GET /a HTTP/1.1\r\n",
        b"GET http://b/a/b/c?d HTTP/1.1\r\n",
        b"GET /echo HTTP/1.1\n",
        b"GET  /echo HTTP/1.1\r\n",
        b"GET /echo\r\n",
        b"GET /\xff\xc3 HTTP/1.1\r\n",
        b"HEAD /readyz HTTP/1.0\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"Host: example.com\r\n",
        b"Host: b:80\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c, WebSocket\r\n",
        b"Connection: Upgrade\r\n",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Version: 13\r\n",
        b"Sec-WebSocket-Protocol: superchat, chat\r\n",
        b"Origin: http://b\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X-Forwarded-For: 1.1.1.1, 10.2.2.2\r\n",
        b"Forwarded: for=\"[::1]:80\", for=_x\r\n",
        b"X: y\rz\r\n",
        b"X : y\r\n",
        b" folded\r\n",
        b"X: \x00\r\n",
        b"\r\n",
        b"\r",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn request_of_lines(choice in any::<[u8; 4]>(), lines in vec(request_line(), 0..12)) {
        // Mostly limits that let the request through.
        let generous = [choice[0] | 0xc0, choice[1] | 0x40, choice[2] | 0x20, choice[3]];
        fuzz::request(&[&generous[..], &lines.concat(), b"\r\n"].concat());
        fuzz::request(&[&choice[..], &lines.concat()].concat());
    }

    #[test]
    fn request_of_bytes(data in vec(any::<u8>(), 0..300)) {
        fuzz::request(&data);
    }

    #[test]
    fn frames_of_bytes(data in vec(any::<u8>(), 0..300)) {
        fuzz::frames(&data);
    }

    #[test]
    fn session_of_operations(
        head in any::<[u8; 2]>(),
        operations in vec((0u8..16, 0u8..200, vec(any::<u8>(), 0..20)), 0..40),
    ) {
        let mut data = head.to_vec();
        for (operation, operand, payload) in operations {
            data.extend([operation, operand]);
            data.extend(payload);
        }
        fuzz::session(&data);
    }

    #[test]
    fn protocol_of_objects(choice in 0u8..8, objects in vec(hub_object(), 0..30)) {
        protocol(&[&[choice], objects.concat().as_bytes()].concat());
    }

    #[test]
    fn extensions_of_words(
        choice in any::<[u8; 2]>(),
        words in vec(offer_word(), 0..12),
        parameters in vec(offer_word(), 0..4),
    ) {
        fuzz::extensions(&[&choice[..], words.concat().as_bytes()].concat());
        let offer = format!(" permessage-deflate; {}", parameters.join("; "));
        fuzz::extensions(&[&choice[..], offer.as_bytes()].concat());
    }

    #[test]
    fn inflate_of_bytes(data in vec(any::<u8>(), 0..300)) {
        fuzz::inflate(&data);
    }

    #[test]
    fn deflate_of_bytes(
        choice in any::<[u8; 3]>(),
        data in vec(prop_oneof![any::<u8>(), 0u8..4], 0..3000),
    ) {
        fuzz::deflate(&[&choice[..], &data].concat());
    }

    #[test]
    fn proxy_of_bytes(version in 0usize..3, rest in vec(any::<u8>(), 0..300)) {
        let signature = [&b""[..], b"PROXY TCP", b"\r\n\r\n\0\r\nQUIT\n"][version];
        fuzz::proxy(&[signature, &rest].concat());
    }

    #[test]
    fn tls_records_of_operations(
        choice in any::<u8>(),
        operations in vec((any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..3)), 0..20),
    ) {
        let mut data = vec![choice];
        for (operation, operand, further) in operations {
            data.extend([operation, operand]);
            data.extend(further);
        }
        tls::records(&data);
    }

    #[test]
    fn tls_handshake_of_records(
        choice in any::<u8>(),
        records in vec((19u8..25, vec(any::<u8>(), 0..100)), 0..8),
    ) {
        let mut data = vec![choice];
        for (kind, content) in records {
            data.extend([kind, 3, 3, 0, content.len() as u8]);
            data.extend(content);
        }
        tls::handshake(&data);
    }
}

//! Refusals: with their reason, whole, and never a reset that destroys them on their way.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::raw::{self, FIN, request, request_with};
use crate::support::{Raw, Server, wait_until};

/// Sends a request with 100 KB of something behind it, and gives the whole answer.
fn refused(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut client = Raw::connect(address);
    client.send(request);
    // Time for the answer to be sent before the unwanted input arrives.
    for _ in 0..10 {
        client.send(&[b'x'; 10_000]);
        std::thread::sleep(Duration::from_millis(2));
    }
    client.answer()
}

#[test]
fn a_refusal_is_read_whole_whatever_follows_the_request() {
    let server = Server::start("");
    let long = |len: usize| "a".repeat(len);
    let cases = [
        (400, "bad_request", b"NONSENSE\r\n\r\n".to_vec()),
        (400, "bad_request", request_with("/echo", "Content-Length: 4\r\n")),
        (400, "bad_request", request_with("/echo", "Authorization: Bearer\r\n")),
        (400, "bad_request", b"GET /echo HTTP/1.1\nHost: test\n\n".to_vec()),
        (403, "forbidden", request_with("/echo", "Origin: http://elsewhere.example\r\n")),
        (404, "not_found", request_with("/nowhere", "")),
        (405, "method_not_allowed", b"DELETE /echo HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        (414, "uri_too_long", request_with(&format!("/{}", long(9000)), "")),
        (426, "upgrade_required", b"GET /echo HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        (431, "head_too_large", request_with("/echo", &format!("X: {}\r\n", long(17_000)))),
        (431, "head_too_large", request_with("/echo", &"X: y\r\n".repeat(80))),
    ];
    for (expected, code, bytes) in &cases {
        let (status, answer) = refused(server.address(), bytes);
        assert_eq!(status, *expected, "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nConnection: close"), "{head}");
        let length = format!("\r\nContent-Length: {}\r\n", body.len());
        assert!(head.contains(&length), "one whole body and nothing after it: {answer}");
        assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("refused_total"), cases.len() as u64);
    assert_eq!(metrics.get("opened_total"), 0);
}

/// What proxies, browsers and embedded clients add is no reason to reject an upgrade.
#[test]
fn upgrades_as_peers_send_them_are_accepted() {
    let server = Server::start("");
    let cookies = |kib: usize| format!("Cookie: {}\r\n", "session=abcdefg;".repeat(kib * 64));
    let cases = [
        request_with("/echo", "Content-Length: 0\r\n"),
        request_with("/echo", "Authorization: Basic dXNlcjpwYXNz\r\n"),
        request_with("/ws", "Authorization: Negotiate YII=\r\nAuthorization: Basic eA==\r\n"),
        request_with("/ws", &cookies(8)),
        request_with("/ws", &cookies(15)),
        request_with(&format!("/ws?session={}", "a".repeat(8000)), ""),
        [b"\r\n".to_vec(), request()].concat(),
    ];
    for bytes in cases {
        let mut client = Raw::connect(server.address());
        client.send(&bytes);
        client.switched();
    }
    // An empty line that arrives by itself, and a key with spare bits.
    let mut client = Raw::connect(server.address());
    client.send(b"\r");
    client.send(b"\n");
    let request = String::from_utf8(request()).unwrap();
    let line = request.lines().find(|line| line.starts_with("Sec-WebSocket-Key: ")).unwrap();
    client.send(request.replace(line, "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==").as_bytes());
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.echo("open");
}

#[test]
fn checks_of_http_1_0_are_answered_at_both_addresses() {
    let server = Server::start("");
    for address in [server.address(), server.admin()] {
        for path in ["/healthz", "/readyz"] {
            for lines in ["", "Connection: close\r\n", "User-Agent: check\r\n"] {
                let mut checker = Raw::connect(address);
                checker.send(format!("GET {path} HTTP/1.0\r\n{lines}\r\n").as_bytes());
                let (status, answer) = checker.answer();
                assert_eq!(status, 200, "{address}{path}: {answer}");
            }
        }
    }
    // A page whose name leads here sends its Host, whatever the version.
    let mut page = Raw::connect(server.admin());
    page.send(b"GET /v1/node HTTP/1.0\r\nHost: evil.example\r\n\r\n");
    assert_eq!(page.answer().0, 403);
}

#[test]
fn a_close_for_bad_frames_is_read_whole_too() {
    let server = Server::start("");
    let cases = [
        (1002, raw::frame(FIN | 0x40 | raw::TEXT, b"reserved bit")),
        (1002, vec![FIN | raw::TEXT, 3, b'a', b'b', b'c']),
        (1007, raw::frame(FIN | raw::TEXT, &[0xff])),
        (1009, [&[FIN | raw::BINARY, 0xff][..], &(1_u64 << 25).to_be_bytes(), &[0; 4]].concat()),
    ];
    for (code, bytes) in cases {
        let mut client = Raw::open(server.address());
        client.send(&bytes);
        for _ in 0..10 {
            client.send(&[b'x'; 10_000]);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(client.frame().close_code(), code);
        client.end();
    }
}

#[test]
fn lingering_ends_by_time() {
    let server = Server::start("[timeouts]\nlinger_timeout_ms = 200\n");
    let mut client = Raw::connect(server.address());
    client.send(&request_with("/nowhere", ""));
    assert_eq!(client.answer().0, 404);
    // This end stays open: only the deadline can free the place.
    wait_until("the place is free", || server.metrics().sum("shard_connections") == 0);
}

#[test]
fn lingering_ends_by_bytes() {
    let server = Server::start(
        "[timeouts]\nlinger_timeout_ms = 60_000\n[limits]\nlinger_bytes_max = 100_000\n",
    );
    let mut client = Raw::connect(server.address());
    client.send(&request_with("/nowhere", ""));
    let begun = Instant::now();
    let error = loop {
        if let Err(error) = client.stream.write_all(&[b'x'; 10_000]) {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "more and more is taken in");
    };
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[test]
fn a_full_server_answers_503() {
    let config = "[limits]\nconnections_per_shard_max = 4\nretry_after_s = 3\n";
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "1"];
    let server = Server::start_with(&arguments, config);
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::open(server.address())).collect();
    for _ in 0..20 {
        let (status, answer) = refused(server.address(), &request());
        assert_eq!(status, 503);
        assert!(answer.contains("\r\nRetry-After: 3\r\n"), "{answer}");
    }
    clients.iter_mut().for_each(|client| client.echo("still here"));
    drop(clients.pop());
    wait_until("there is room again", || server.metrics().sum("shard_connections") == 3);
    Raw::open(server.address()).echo("in");
}

#[test]
fn slow_requests_are_answered_408() {
    let server = Server::start("[timeouts]\nhandshake_timeout_ms = 300\n");
    let request = request();
    for sent in [0, 1, request.len() - 1] {
        let begun = Instant::now();
        let mut client = Raw::connect(server.address());
        client.send(&request[..sent]);
        let (status, answer) = client.answer();
        assert_eq!(status, 408, "{answer}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(280), "not before its time: {took:?}");
    }
    assert_eq!(server.metrics().get("handshake_timeouts_total"), 3);
}

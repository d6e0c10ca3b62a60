//! After the 101 nothing of HTTP is written to a connection again: the one bug that every server
//! of this kind has had.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::metrics;
use crate::support::raw::{self, FIN, TEXT, close, request, request_with, text};
use crate::support::{Frame, Raw, Server};

#[test]
fn pipelined_requests_are_frames_and_bad_ones() {
    let server = Server::start("");
    let others = [
        request(),
        request_with("/nowhere", ""),
        b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
        b"\r\n\r\n".to_vec(),
    ];
    for other in others {
        let mut client = Raw::connect(server.address());
        client.send(&[request(), other.clone(), other].concat());
        client.switched();
        // `G` has reserved bits set, `\r` is a reserved opcode without FIN.
        assert_eq!(client.frame().close_code(), 1002);
        client.end();
    }
    assert_eq!(server.metrics().sum("refused_total"), 0);
    assert_eq!(server.metrics().get("answered_total"), 0);
}

#[test]
fn the_handshake_deadline_does_not_reach_an_open_connection() {
    let server = Server::start("[timeouts]\nhandshake_timeout_ms = 200\n");
    let mut early = Raw::open(server.address());
    let mut late = Raw::connect(server.address());
    std::thread::sleep(Duration::from_millis(120));
    late.upgrade();
    // Long past the deadline, with a message open in one of them.
    late.send(&raw::frame(TEXT, b"half "));
    std::thread::sleep(Duration::from_millis(800));
    early.echo("early");
    late.send(&raw::frame(FIN, b"done"));
    assert_eq!(late.frame(), Frame::text("half done"));
    for mut client in [early, late] {
        client.send(&close(1000));
        assert_eq!(client.frame().close_code(), 1000);
        client.end();
    }
}

/// Requests that end just when their deadline does: each is answered once, with 101 or with 408.
#[test]
fn a_request_at_its_deadline_has_one_answer() {
    let server = Server::start("[timeouts]\nhandshake_timeout_ms = 250\n");
    let address = server.address();
    let clients: Vec<_> = (0..48)
        .map(|n: u64| {
            std::thread::spawn(move || {
                let begun = Instant::now();
                let mut client = Raw::connect(address);
                let request = request();
                client.send(&request[..40]);
                let at = Duration::from_millis(225 + n);
                std::thread::sleep(at.saturating_sub(begun.elapsed()));
                client.send(&request[40..]);
                let head = client.head();
                if head.starts_with("HTTP/1.1 101 ") {
                    std::thread::sleep(Duration::from_millis(300));
                    client.send(&close(1000));
                    assert_eq!(client.frame().close_code(), 1000);
                    client.end();
                    return true;
                }
                assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
                let body = String::from_utf8(client.rest().unwrap()).unwrap();
                assert!(body.starts_with("{\"error\"") && !body.contains("HTTP/1.1 "), "{body}");
                false
            })
        })
        .collect();
    let opened = clients.into_iter().map(|client| client.join().unwrap());
    let opened = opened.filter(|opened| *opened).count() as u64;
    let metrics = server.metrics();
    assert_eq!(metrics.get("opened_total"), opened);
    assert_eq!(metrics.get("refused_total{reason=\"timeout\"}"), 48 - opened);
}

#[test]
fn an_error_in_the_first_frame_is_a_close() {
    let server = Server::start("");
    let cases = [
        (1002, b"\x00\x80\0\0\0\0".to_vec()),
        (1002, b"\x83\x80\0\0\0\0".to_vec()),
        (1002, b"\x89\xfe\0\x7e\0\0\0\0".to_vec()),
        (1007, raw::frame(FIN | TEXT, b"\xc3(")),
        (1002, close(1005)),
    ];
    for (code, first) in cases {
        for together in [true, false] {
            let mut client = Raw::connect(server.address());
            if together {
                client.send(&[request(), first.clone()].concat());
                client.switched();
            } else {
                client.upgrade();
                client.send(&first);
            }
            assert_eq!(client.frame().close_code(), code);
            client.end();
        }
    }
}

#[test]
fn a_scrape_at_that_moment_goes_to_who_asked() {
    let server = Server::start("");
    let (address, admin) = (server.address(), server.admin());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            let mut scrapes = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(metrics::get(admin, "/metrics").0, 200);
                scrapes += 1;
            }
            scrapes
        });
        for n in 0..300 {
            let mut client = Raw::connect(address);
            client.send(&[request(), text(format!("{n}")), close(1000)].concat());
            client.switched();
            assert_eq!(client.frame(), Frame::text(format!("{n}")));
            assert_eq!(client.frame().close_code(), 1000);
            client.end();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(scrapes.join().unwrap() > 0, "there were scrapes meanwhile");
    });
}

/// What ends a server must not fall back to HTTP either.
#[test]
fn a_drain_speaks_frames_to_open_connections() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    let mut half = Raw::open(server.address());
    half.send(&text("never ends")[..5]);
    server.signal("TERM");
    for client in [&mut client, &mut half] {
        assert_eq!(client.frame().close_code(), 1001);
    }
    server.signal("TERM");
    for client in [&mut client, &mut half] {
        let mut rest = Vec::new();
        // A reset is as good an end as any: what counts is that no byte comes.
        let _ = client.stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

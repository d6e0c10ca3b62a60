//! The drain: what each client receives, and when the process ends.

use std::time::{Duration, Instant};

use crate::support::metrics;
use crate::support::raw::{FIN, Frame, TEXT, close, frame, request};
use crate::support::{Raw, Server, wait_until};

#[test]
fn sigterm_closes_everybody_with_1001_and_exits_with_0() {
    let mut server = Server::start("");
    let mut clients: Vec<Raw> = (0..50).map(|_| Raw::open(server.address())).collect();
    clients.iter_mut().for_each(|client| client.echo("before"));
    server.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.frame().close_code(), 1001);
        client.send(&close(1001));
        client.end();
    }
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
    assert!(server.log().contains("all connections closed"), "{}", server.log());
}

#[test]
fn a_call_drains_too_and_a_message_on_its_way_is_finished() {
    let mut server = Server::start("[drain]\ndeadline_ms = 20_000\n");
    let mut idle = Raw::open(server.address());
    let mut split = Raw::open(server.address());
    let (first, second) = (frame(TEXT, b"one half, "), frame(FIN, b"and the other"));
    idle.echo("open");
    let received = || server.metrics().get("bytes_received_total");
    let before = received();
    split.send(&first);
    split.send(&second[..3]);
    let bytes = first.len() as u64 + 3;
    wait_until("the first half has arrived", || received() >= before + bytes);
    let stream = std::net::TcpStream::connect(server.admin()).unwrap();
    let headers = "Host: localhost\r\nContent-Type: application/json\r\n";
    let answer = metrics::request(stream, "POST /v1/drain", headers, "{}");
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.body.contains("\"connections_open\":2"), "{}", answer.body);
    assert_eq!(idle.frame().close_code(), 1001);
    idle.send(&close(1001));
    idle.end();
    assert_eq!(server.metrics().get("draining"), 1);

    split.send(&second[3..]);
    assert_eq!(split.frame(), Frame::text("one half, and the other"));
    assert_eq!(split.frame().close_code(), 1001);
    split.send(&close(1001));
    split.end();
    assert_eq!(server.wait(Duration::from_secs(15)).code(), Some(0));
    assert!(server.log().contains("draining"), "{}", server.log());
}

#[test]
fn sigint_without_clients_exits_with_0() {
    let mut server = Server::start("");
    server.signal("INT");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

/// Nobody answers the Close, so only the second signal can end this within two minutes.
#[test]
fn a_second_signal_ends_at_once() {
    let mut server =
        Server::start("[[route]]\nclose_timeout_ms = 120_000\n[drain]\ndeadline_ms = 120_000\n");
    let mut client = Raw::open(server.address());
    server.signal("TERM");
    assert_eq!(client.frame().close_code(), 1001);
    // The drain has begun: this is the second signal, not the first one again.
    let gone = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
    assert!(gone.elapsed() < Duration::from_secs(10));
}

#[test]
fn who_does_not_answer_is_dropped_at_the_deadline() {
    let mut server = Server::start(
        "[[route]]\nclose_timeout_ms = 120_000\n[drain]\nwindow_ms = 100\ndeadline_ms = 700\n",
    );
    let mut client = Raw::open(server.address());
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(client.frame().close_code(), 1001);
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(650), "{:?}", begun.elapsed());
}

/// While old connections are being closed over the window, new ones are asked to retry.
#[test]
fn the_window_spreads_closes_and_refuses_newcomers() {
    let config = "[drain]\nwindow_ms = 3000\nat_once_connections = 0\nretry_after_s = 7\n";
    let mut server = Server::start(config);
    let address = server.address();
    let mut clients: Vec<Raw> = (0..60).map(|_| Raw::open(address)).collect();
    // Accepted before the drain, its request comes after.
    let mut late = Raw::connect(address);
    late.send(&request()[..20]);
    let mut whole = Raw::connect(address);
    whole.send(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(whole.answer().0, 200);
    server.signal("TERM");
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(150));

    late.send(&request()[20..]);
    let mut newcomer = Raw::connect(address);
    newcomer.send(&request());
    for refused in [&mut late, &mut newcomer] {
        let (status, answer) = refused.answer();
        assert_eq!(status, 503, "{answer}");
        assert!(answer.contains("\r\nRetry-After: 7\r\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    for (path, expected) in [("/readyz", 503), ("/healthz", 200)] {
        let mut checker = Raw::connect(address);
        checker.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        assert_eq!(checker.answer().0, expected, "{path}");
        assert_eq!(metrics::get(server.admin(), path).0, expected, "{path} for operators");
    }
    let open = server.metrics().get("connections_open");
    assert!(open > 0, "connections are still open when newcomers are refused");

    let mut told_ms: Vec<u128> = clients
        .iter_mut()
        .map(|client| {
            assert_eq!(client.frame().close_code(), 1001);
            client.send(&close(1001));
            client.end();
            begun.elapsed().as_millis()
        })
        .collect();
    told_ms.sort_unstable();
    let (first, last) = (told_ms[0], told_ms[told_ms.len() - 1]);
    assert!(first < 2000 && last >= 2000, "spread over the window: {first} to {last} ms");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

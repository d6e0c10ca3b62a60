//! Admission: how many may connect, and the answers to the others.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::raw::{close, request, request_with};
use crate::support::{Raw, Server, wait_until};
use crate::{hub, said, say};

/// Asks for an upgrade from this address of the loopback's; the connection, or the refusal.
fn attempt(server: &Server, path: &str, headers: &str, from: &str) -> Result<Raw, (u16, String)> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut raw = Raw::over(stream);
    raw.send(&request_with(path, headers));
    let head = raw.head();
    if head.starts_with("HTTP/1.1 101 ") {
        return Ok(raw);
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let rest = String::from_utf8(raw.rest().unwrap()).unwrap();
    Err((status, head + &rest))
}

#[track_caller]
fn refused(attempt: Result<Raw, (u16, String)>, status: u16, because: &str) {
    let Err((got, answer)) = attempt else { panic!("it was let in") };
    assert_eq!(got, status, "{answer}");
    assert!(answer.contains("\r\nRetry-After: 7\r\n"), "{answer}");
    assert!(answer.contains(because), "{answer}");
}

fn bye(mut raw: Raw) {
    raw.send(&close(1000));
    raw.rest().unwrap();
}

#[test]
fn an_address_has_so_many_connections_and_leaves_others_theirs() {
    let server = Server::start("[limits]\nconnections_per_address_max = 3\nretry_after_s = 7\n");
    let open = |from| attempt(&server, "/echo", "", from);
    for round in 0..3 {
        let mut held: Vec<_> = (0..3).map(|_| open("127.0.0.2").unwrap()).collect();
        refused(open("127.0.0.2"), 429, "address is at its connection limit");
        let mut other = open("127.0.0.3").expect("another address has its own");
        other.echo("hello");
        held[0].echo("still here");
        held.into_iter().chain([other]).for_each(bye);
        wait_until("all have left", || server.metrics().sum("shard_connections") == 0);
        let denied = server.metrics().get("denied_total{reason=\"address_full\"}");
        assert_eq!(denied, round + 1);
    }
    assert_eq!(server.metrics().get("refused_total{reason=\"too_many_requests\"}"), 3);
}

#[test]
fn a_connection_that_only_waits_counts_as_well() {
    // However late the test is, what it holds does not time out.
    let server = Server::start(
        "[limits]\nconnections_per_address_max = 2\nretry_after_s = 7\n\
         [timeouts]\nhandshake_timeout_ms = 600_000\n",
    );
    let silent: Vec<_> = (0..2).map(|_| Raw::connect(server.address())).collect();
    wait_until("they are accepted", || server.metrics().get("handshakes") == 2);
    let mut third = Raw::connect(server.address());
    third.send(&request());
    assert_eq!(third.answer().0, 429);
    drop(silent);
    wait_until("they are gone", || server.metrics().get("handshakes") == 0);
    Raw::open(server.address()).echo("there is room again");
}

/// Connections from an address that may have two, to a shard that has 200 places.
fn silent_flood(server: &Server) -> Vec<socket2::Socket> {
    let connect = |_| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&server.address().into()).unwrap();
        socket
    };
    let flood = (0..400).map(connect).collect();
    wait_until("the flood is dealt with", || server.metrics().get("accepted_total") == 400);
    flood
}

const FLOODED: &str = "\
    [limits]\nconnections_per_shard_max = 200\nconnections_per_address_max = 2\n\
    retry_after_s = 7\n[timeouts]\nhandshake_timeout_ms = 600_000\n\
    [drain]\ndeadline_ms = 600_000\n";

#[test]
fn who_is_refused_and_says_nothing_takes_no_others_place() {
    let server = Server::start_with(&["--listen", "127.0.0.1:0", "--shards", "1"], FLOODED);
    let flood = silent_flood(&server);
    let metrics = server.metrics();
    assert!(metrics.sum("shard_connections") < 100, "{}", metrics.sum("shard_connections"));
    assert!(metrics.get("dropped_full_total") >= 300, "{}", metrics.get("dropped_full_total"));
    attempt(&server, "/echo", "", "127.0.0.3").expect("another has its place").echo("hello");
    drop(flood);
    wait_until("they are gone", || server.metrics().sum("shard_connections") == 0);
    attempt(&server, "/echo", "", "127.0.0.2").expect("there is room again");
}

#[test]
fn who_is_refused_and_says_nothing_does_not_hold_up_the_end() {
    let mut server = Server::start_with(&["--listen", "127.0.0.1:0", "--shards", "1"], FLOODED);
    let flood = silent_flood(&server);
    let mut silent = Raw::connect(server.address());
    let mut other = attempt(&server, "/echo", "", "127.0.0.3").expect("another has its place");
    other.echo("hello");
    server.signal("TERM");
    assert_eq!(other.frame().close_code(), 1001);
    other.send(&close(1001));
    other.end();
    let (status, _) = silent.answer();
    assert_eq!(status, 503, "it gets an answer, though it has sent nothing");
    assert_eq!(server.wait(Duration::from_mins(1)).code(), Some(0), "{}", server.log());
    assert!(server.log().contains("all connections closed"), "{}", server.log());
    drop(flood);
}

#[test]
fn behind_a_proxy_the_client_counts_and_not_the_proxy() {
    let server = Server::start(
        "[limits]\nconnections_per_address_max = 1\nretry_after_s = 7\n[[listener]]\n\
         forwarded_header = \"x-forwarded-for\"\ntrusted_proxies = [\"127.0.0.1\"]\n",
    );
    let open = |client: &str| {
        attempt(&server, "/echo", &format!("X-Forwarded-For: {client}\r\n"), "127.0.0.1")
    };
    let first = open("192.0.2.1").unwrap();
    refused(open("192.0.2.1"), 429, "address is at its connection limit");
    let second = open("192.0.2.2").unwrap();
    let network = open("2001:db8::1").unwrap();
    refused(open("2001:db8::2"), 429, "address is at its connection limit");
    [first, second, network].into_iter().for_each(bye);
    wait_until("all have left", || server.metrics().sum("shard_connections") == 0);
    open("192.0.2.1").expect("it has left");
}

#[test]
fn node_and_route_have_room_for_so_many() {
    let server = Server::start(
        "[limits]\nconnections_max = 3\nretry_after_s = 7\n[[route]]\npath = \"/small\"\n\
         connections_max = 1\n[[route]]\npath = \"/echo\"\n",
    );
    let open = |path| attempt(&server, path, "", "127.0.0.1");
    let small = open("/small").unwrap();
    refused(open("/small"), 503, "path is at its connection limit");
    wait_until("the rejected connection is closed", || {
        server.metrics().sum("shard_connections") == 1
    });
    let others: Vec<_> = (0..2).map(|_| open("/echo").unwrap()).collect();
    refused(open("/echo"), 503, "server is at its connection limit");
    wait_until("the rejected connections are closed", || {
        server.metrics().sum("shard_connections") == 3
    });
    bye(small);
    wait_until("it has left", || server.metrics().sum("shard_connections") == 2);
    open("/small").expect("its place is free");
    drop(others);
    let metrics = server.metrics();
    assert_eq!(metrics.get("denied_total{reason=\"route_full\"}"), 1);
    assert_eq!(metrics.get("denied_total{reason=\"node_full\"}"), 1);
}

#[test]
fn so_many_handshakes_at_once() {
    let server = Server::start_with(
        &["--listen", "127.0.0.1:0", "--shards", "1"],
        "[limits]\nhandshakes_per_shard_max = 4\nretry_after_s = 7\n",
    );
    let mut open = Raw::open(server.address());
    let slow: Vec<_> = (0..4).map(|_| Raw::connect(server.address())).collect();
    wait_until("they are accepted", || server.metrics().get("handshakes") == 4);
    refused(attempt(&server, "/echo", "", "127.0.0.1"), 503, "being opened");
    open.echo("open connections notice nothing");
    // One that was rejected and lingers makes no room for another.
    let lingering: Vec<_> = (0..5)
        .map(|_| {
            let mut raw = Raw::connect(server.address());
            raw.send(&request());
            assert!(raw.head().starts_with("HTTP/1.1 503 "));
            raw
        })
        .collect();
    refused(attempt(&server, "/echo", "", "127.0.0.1"), 503, "being opened");
    drop(lingering);
    drop(slow);
    wait_until("they are gone", || server.metrics().get("handshakes") == 0);
    attempt(&server, "/echo", "", "127.0.0.1").expect("there is room again");
}

#[test]
fn new_connections_come_at_their_pace() {
    // So slow that no second one is earned while the test runs.
    let server =
        Server::start("[limits]\nconnections_per_address_second_max = 5\nretry_after_s = 7\n");
    let mut let_in = 0;
    for _ in 0..40 {
        match attempt(&server, "/echo", "", "127.0.0.5") {
            Ok(raw) => {
                let_in += 1;
                bye(raw);
            }
            refusal => refused(refusal, 429, "exceeds its connection rate"),
        }
    }
    let denied = server.metrics().get("denied_total{reason=\"address_rate\"}");
    assert!(let_in >= 5 && denied > 0 && let_in + denied == 40, "{let_in} in, {denied} not");
    attempt(&server, "/echo", "", "127.0.0.6").expect("another address has its own");
}

fn token(user: &str) -> String {
    let secret = "--key-secret=0123456789abcdef0123456789abcdef";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = command.args(["token", "--user", user, secret]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_user_has_so_many_connections_however_it_says_who_it_is() {
    let server = Server::start(
        "[limits]\nconnections_per_user_max = 2\nretry_after_s = 7\n[[key]]\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n",
    );
    let ann = token("ann");
    let bearer = format!("Authorization: Bearer {ann}\r\n");
    let mut first = hub(&server, &bearer);
    let auth = format!("{{\"type\":\"auth\",\"id\":\"1\",\"token\":\"{ann}\"}}");
    let mut second = hub(&server, "");
    say(&mut second, &auth);
    assert_eq!(said(&mut second)["type"], "authenticated");

    let headers = format!("Sec-WebSocket-Protocol: seawall.v1\r\n{bearer}");
    refused(attempt(&server, "/ws", &headers, "127.0.0.1"), 429, "user is at its connection limit");
    let mut third = hub(&server, "");
    say(&mut third, &auth);
    let goodbye = loop {
        let message = said(&mut third);
        if message["type"] == "goodbye" {
            break message;
        }
    };
    assert_eq!(goodbye["code"], 4429, "{goodbye}");
    assert_eq!(third.frame().close_code(), 4429);
    hub(&server, &format!("Authorization: Bearer {}\r\n", token("bob")));

    for raw in [&mut first, &mut second] {
        raw.send(&close(1000));
        raw.rest().unwrap();
    }
    wait_until("they have left", || attempt(&server, "/ws", &headers, "127.0.0.1").is_ok());
    assert!(server.metrics().get("denied_total{reason=\"user_full\"}") >= 2);
}

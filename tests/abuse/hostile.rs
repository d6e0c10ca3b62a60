//! Clients that follow the protocol, or nearly, with bad intent: each attack has a bound and a
//! counter, a good client echoes meanwhile, and the server keeps nothing of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::raw::{self, BINARY, CONTINUATION, FIN, PING, TEXT, request_with, text};
use crate::support::{Raw, Server, wait_until};
use crate::{connect, during, figure, leaves_at_most, reset, size};

/// No pings, so that all that comes is answers; deadlines short enough to be waited for; and few
/// receive buffers: a flood touches all of them, which is not a leak but would hide one.
const CONFIG: &str = "[[route]]\npath = \"/echo\"\nping_interval_ms = 0\nclose_timeout_ms = 500\n\
    compression = \"off\"\n[[route]]\npath = \"/ws\"\nhandler = \"hub\"\nping_interval_ms = 0\n\
    [engine]\nbuffer_memory_bytes = 4_194_304\n";

/// Memory that stays touched (KiB), at most: each of the connections may have filled its outbox.
const TOUCHED_KIB_MAX: u64 = 128 * 1024;

/// Attacks with this many connections at once, repeatedly, and checks the counter: what it
/// gains by each connection.
fn attacked(name: &str, server: &Server, counter: (&str, u64), count: usize, attack: fn(Raw)) {
    let mut client = Raw::open(server.address());
    let before = server.metrics().get(counter.0);
    let rounds = leaves_at_most(TOUCHED_KIB_MAX, &format!("{count} {name}"), server, || {
        let address = server.address();
        during(name, &mut client, || {
            std::thread::scope(|scope| {
                for _ in 0..count {
                    scope.spawn(move || attack(Raw::connect(address)));
                }
            });
        });
    });
    let gained = server.metrics().get(counter.0) - before;
    // The good client counts where messages do.
    assert!(gained >= (rounds * count) as u64 * counter.1, "{}: {gained}", counter.0);
}

#[test]
fn one_byte_frames_in_one_byte_writes() {
    let server = Server::start(CONFIG);
    let count = size(100);
    attacked(
        "writers of single bytes",
        &server,
        ("messages_received_total", 40),
        count,
        |mut raw| {
            raw.upgrade();
            for _ in 0..40 {
                for byte in text("x") {
                    raw.send(&[byte]);
                }
            }
            (0..40).for_each(|_| assert_eq!(raw.frame().payload, b"x"));
        },
    );
}

#[test]
fn endless_fragments_end_at_their_bound() {
    let server = Server::start(&format!(
        "[limits]\nlinger_bytes_max = 1_000_000\nfragments_max = 1000\n{CONFIG}"
    ));
    let count = size(100);
    attacked("endless fragments", &server, ("closed_total{code=\"1008\"}", 1), count, |mut raw| {
        raw.upgrade();
        raw.send(&raw::frame(BINARY, b"x"));
        let fragments = raw::frame(CONTINUATION, b"x").repeat(500);
        // Refused in the middle: later writes may fail.
        while raw.stream.write_all(&fragments).is_ok() {}
    });
    let server = Server::start(&format!(
        "[limits]\nlinger_bytes_max = 1_000_000\nmessage_bytes_max = 65_536\n{CONFIG}"
    ));
    attacked("endless messages", &server, ("closed_total{code=\"1009\"}", 1), count, |mut raw| {
        raw.upgrade();
        raw.send(&raw::frame(BINARY, b"x"));
        let fragment = raw::frame(CONTINUATION, &[b'x'; 4096]);
        while raw.stream.write_all(&fragment).is_ok() {}
    });
}

/// Bytes of replies that may wait for one connection, as configured.
const OUTBOX: u64 = 64 * 1024;

fn never_reads(address: SocketAddr) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream: TcpStream = socket.into();
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    let mut raw = Raw::over(stream);
    raw.upgrade();
    raw
}

/// Floods with frames that ask for an answer, and reads none, until the server closes for it.
fn flood_without_reading(name: &str, frame: &[u8], counter: &str) {
    let server = Server::start(&format!(
        "[limits]\nmessage_bytes_max = 65_536\noutbox_bytes_max = {OUTBOX}\n[timeouts]\n\
         send_timeout_ms = 700\n[[listener]]\nsend_buffer_bytes = 16_384\n{CONFIG}"
    ));
    let count = size(30);
    let mut client = Raw::open(server.address());
    let before = server.metrics().get(counter);
    let flood = frame.repeat(65_536 / frame.len());
    let rounds = leaves_at_most(TOUCHED_KIB_MAX, &format!("{count} {name}"), &server, || {
        during(name, &mut client, || {
            std::thread::scope(|scope| {
                for _ in 0..count {
                    scope.spawn(|| {
                        let mut raw = never_reads(server.address());
                        // Stopped at high water; then closed, for the peer does not read.
                        while raw.stream.write_all(&flood).is_ok() {}
                    });
                }
            });
        });
    });
    let metrics = server.metrics();
    let all = (rounds * count) as u64;
    assert_eq!(metrics.get("slow_reader_closes_total"), all, "each is closed for it");
    assert_eq!(metrics.get("closed_total{code=\"4413\"}"), all);
    assert!(metrics.get("read_pauses_total") >= all, "each was no longer read from first");
    assert!(metrics.get(counter) > before + all);
    let peak = metrics.get("outbox_peak_bytes");
    figure(&format!("{name}: at most {peak} bytes waited for {count}"));
    // The limit, and what was on its way in when reading stopped.
    let most = count as u64 * (OUTBOX + 1024 * 1024);
    assert!(peak > OUTBOX && peak <= most, "{peak} of {most} bytes waited");
}

#[test]
fn ping_floods_from_peers_that_do_not_read() {
    let ping = raw::frame(FIN | PING, &[b'p'; 125]);
    flood_without_reading("ping floods", &ping, "pings_received_total");
}

#[test]
fn slow_readers_of_echoes() {
    let message = raw::frame(FIN | TEXT, &[b'm'; 4000]);
    flood_without_reading("slow readers", &message, "messages_received_total");
}

#[test]
fn subscribe_floods_end_at_their_bound() {
    let server = Server::start(&format!(
        "{CONFIG}[hub]\nchannel_ttl_s = 1\n[[channel]]\nhistory_ttl_s = 1\n"
    ));
    let count = size(50);
    // 128 channels a connection; 172 more are refused.
    attacked("subscribe floods", &server, ("request_errors_total", 172), count, |mut raw| {
        raw.send(&request_with("/ws", "Sec-WebSocket-Protocol: seawall.v1\r\n"));
        raw.switched();
        let request = |verb: &str, n: usize| {
            let object =
                format!("{{\"type\":\"{verb}\",\"id\":\"{n}\",\"channel\":\"flood:{n}\"}}");
            text(object)
        };
        let mut answers = |requests: &[u8], count: usize| {
            raw.send(requests);
            let mut refused = 0;
            let mut seen = 0;
            while seen < count {
                let heard = String::from_utf8_lossy(&raw.frame().payload).into_owned();
                seen += usize::from(heard.contains("\"id\":"));
                refused += usize::from(heard.contains("\"limit\""));
            }
            refused
        };
        let all = |verb: &'static str, to: usize| -> Vec<u8> {
            (0..to).flat_map(|n| request(verb, n)).collect()
        };
        assert_eq!(answers(&all("subscribe", 300), 300), 172);
        for _ in 0..3 {
            assert_eq!(answers(&all("unsubscribe", 128), 128), 0);
            assert_eq!(answers(&all("subscribe", 128), 128), 0);
        }
    });
    wait_until("no member is left", || server.metrics().get("channel_members") == 0);
    wait_until("channels are forgotten", || server.metrics().get("channels") == 0);
}

/// Returns the answer to an endless request.
fn endless(mut raw: Raw, start: &str, more: &str, status: &str) {
    raw.send(start.as_bytes());
    let more = more.repeat(32 * 1024 / more.len());
    for _ in 0..4 {
        if raw.stream.write_all(more.as_bytes()).is_err() {
            break;
        }
    }
    let head = raw.head();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
}

#[test]
fn huge_requests_are_refused_at_their_bound() {
    let server = Server::start(CONFIG);
    let count = size(100);
    let head = "refused_total{reason=\"head_too_large\"}";
    attacked("huge headers", &server, (head, 1), count, |raw| {
        endless(raw, "GET /echo HTTP/1.1\r\nHost: test\r\nX-Huge: ", "x", "431");
    });
    attacked("endless header lines", &server, (head, 1), count, |raw| {
        endless(raw, "GET /echo HTTP/1.1\r\n", "X-One: of many\r\n", "431");
    });
    let target = "refused_total{reason=\"uri_too_long\"}";
    attacked("huge targets", &server, (target, 1), count, |raw| {
        endless(raw, "GET /echo?", "target", "414");
    });
}

#[test]
fn peers_that_never_close() {
    let server = Server::start(&format!("[timeouts]\nlinger_timeout_ms = 500\n{CONFIG}"));
    let count = size(200);
    let broken = ("closed_total{code=\"1002\"}", 1);
    attacked("peers that never close", &server, broken, count, |mut raw| {
        raw.upgrade();
        // Not masked: closed with 1002. The peer takes no notice.
        raw.send(&[FIN | TEXT, 1, b'x']);
        assert_eq!(raw.frame().close_code(), 1002);
        raw.end();
        // And keeps the socket; the server does not.
        let mut rest = [0; 1];
        let ended = raw.stream.read(&mut rest);
        assert!(ended.is_ok_and(|read| read == 0));
    });
}

#[test]
fn peers_that_answer_no_ping() {
    let server = Server::start(
        "[[route]]\npath = \"/echo\"\nping_interval_ms = 300\npong_timeout_ms = 300\n",
    );
    let count = size(200);
    let address = server.address();
    // The admin address has opened what it keeps in reserve when it answers.
    server.metrics();
    let before = server.descriptors();
    let silent: Vec<Raw> = (0..count).map(|_| Raw::open(address)).collect();
    wait_until("all are dropped", || server.metrics().get("pong_timeouts_total") == count as u64);
    wait_until("nothing is left", || {
        // The connection that read the metrics may have been counted before.
        server.metrics().sum("shard_connections") == 0 && server.descriptors() <= before
    });
    for mut one in silent {
        let ended = one.rest();
        assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }
    drop_all_at_once(&server, count);
}

/// The same number once more, as resets in the middle of a message.
fn drop_all_at_once(server: &Server, count: usize) {
    let begun: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = connect(server.address());
            SockRef::from(&stream).set_tcp_nodelay(true).unwrap();
            let opening = [raw::request(), raw::frame(TEXT, b"open")].concat();
            stream.write_all(&opening).unwrap();
            stream
        })
        .collect();
    begun.into_iter().for_each(reset);
    wait_until("nothing is left", || {
        let metrics = server.metrics();
        metrics.sum("shard_connections") == 0 && metrics.get("partial_bytes") == 0
    });
}

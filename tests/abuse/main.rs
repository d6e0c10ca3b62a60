//! Abuse with figures: the effect of many bad clients on a good one, and that the server keeps
//! nothing of them.
//!
//! The figures go to standard error, also when the tests pass. `SEAWALL_ABUSE=N` makes the floods
//! N times as large. No time is asserted: the machine may be busy with other things.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod hostile;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::raw::{self, FIN, PING, TEXT, request, text};
use support::{Raw, Server, wait_until};

/// Floods of a kind. The first touches slots and queues that stay for the next one.
const ROUNDS: usize = 4;
/// Memory that a flood of ordinary size may touch for good (KiB).
const TOUCHED_KIB_MAX: u64 = 10 * 1024;
/// Memory that every further flood takes (KiB), at most: a hundred bytes lost with each of its
/// connections would be more.
const LEFT_KIB_MAX: u64 = 480;

fn factor() -> usize {
    let factor = std::env::var("SEAWALL_ABUSE").ok();
    factor.map_or(1, |factor| factor.parse().expect("SEAWALL_ABUSE is a number"))
}

fn size(normal: usize) -> usize {
    seawall::driver::host::raise_open_files();
    normal * factor()
}

/// No pings of the server's own, so that all that comes back is echoes.
const CONFIG: &str = "[[route]]\nping_interval_ms = 0\n[timeouts]\n";

/// Prints a figure past the test runner, which keeps the output of tests that pass.
fn figure(text: &str) {
    let line = format!("abuse: {text}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error can be written");
}

/// What the server holds.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    connections: u64,
    open: u64,
    buffers_lent: u64,
    outbox_bytes: u64,
    partial_bytes: u64,
}

fn holdings(server: &Server) -> Holdings {
    let metrics = server.metrics();
    Holdings {
        descriptors: server.descriptors(),
        connections: metrics.sum("shard_connections"),
        open: metrics.get("connections_open"),
        buffers_lent: metrics.sum("buffers_lent"),
        outbox_bytes: metrics.get("outbox_bytes"),
        partial_bytes: metrics.get("partial_bytes"),
    }
}

/// The same once it stays the same: the connection that read the metrics closes some time later.
fn settled_holdings(server: &Server) -> Holdings {
    let mut readings = vec![holdings(server)];
    wait_until("the server's holdings settle", || {
        readings.push(holdings(server));
        let last = readings.last();
        readings.iter().rev().take_while(|one| Some(*one) == last).count() >= 4
    });
    readings.pop().expect("there is one")
}

/// Runs a flood some times; what the server held before, it must hold after each. Memory may grow
/// by what is touched once, and by chance when more connections than before were there at once; a
/// leak grows every time, also when it is given some rounds more.
fn leaves_nothing(name: &str, server: &Server, flood: impl FnMut()) {
    leaves_at_most(TOUCHED_KIB_MAX, name, server, flood);
}

/// The same with this much memory (KiB) allowed to stay touched; returns the number of floods.
fn leaves_at_most(touched_kib: u64, name: &str, server: &Server, mut flood: impl FnMut()) -> usize {
    let before = settled_holdings(server);
    let mut memory_kib = vec![server.anonymous_kib()];
    let begun = Instant::now();
    let least = |memory_kib: &[u64]| {
        let growths = memory_kib.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        growths.min().unwrap_or(u64::MAX)
    };
    for round in 0..3 * ROUNDS {
        if round >= ROUNDS && least(&memory_kib) <= LEFT_KIB_MAX {
            break;
        }
        flood();
        let mut after = holdings(server);
        let deadline = Instant::now() + Duration::from_secs(30);
        while after != before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            after = holdings(server);
        }
        assert_eq!(after, before, "{name} left something behind");
        memory_kib.push(server.anonymous_kib());
    }
    let took = begun.elapsed();
    let rounds = memory_kib.len() - 1;
    figure(&format!("{name}, {rounds} times in {took:.1?}: {memory_kib:?} KiB resident"));
    let least = least(&memory_kib);
    assert!(least <= LEFT_KIB_MAX, "{name}: each left {least} KiB or more: {memory_kib:?}");
    let touched = memory_kib[rounds].saturating_sub(memory_kib[0]);
    assert!(touched <= touched_kib * factor() as u64, "{name} keeps {touched} KiB");
    let metrics = server.metrics();
    let ended = metrics.get("connections_open") + metrics.sum("closed_total");
    assert_eq!(metrics.get("opened_total"), ended, "opened = open + closed");
    rounds
}

/// Echoes in lock-step until stopped, at least `count` times; returns the sorted latencies.
fn echo_latencies(client: &mut Raw, count: usize, stop: &AtomicBool) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while latencies.len() < count || !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.echo(&format!("a message of 20 b {:02}", latencies.len() % 100));
        latencies.push(begun.elapsed());
    }
    latencies.sort_unstable();
    latencies
}

/// Runs an attack while a good client echoes, and prints what it saw.
fn during(name: &str, client: &mut Raw, attack: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let latencies = std::thread::scope(|scope| {
        let echoes = scope.spawn(|| echo_latencies(client, 200, &stop));
        let stops = StopAtEnd(&stop);
        attack();
        drop(stops);
        echoes.join().expect("every echo arrives")
    });
    figure(&format!("during {name}: {}", percentiles(&latencies)));
}

struct StopAtEnd<'s>(&'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn percentiles(sorted: &[Duration]) -> String {
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    format!("p50 {:.0?} p99 {:.0?} of {} echoes", at(0.5), at(0.99), sorted.len())
}

#[test]
fn slow_handshakes_do_not_stop_an_echo() {
    let count = size(5000);
    let server = Server::start(&format!("{CONFIG}handshake_timeout_ms = 120_000\n"));
    let mut client = Raw::open(server.address());
    let before = echo_latencies(&mut client, 5000, &AtomicBool::new(true));
    figure(&format!("before slow handshakes: {}", percentiles(&before)));
    leaves_nothing(&format!("{count} slow handshakes"), &server, || {
        let request = request();
        let mut slow: Vec<TcpStream> = (0..count).map(|_| connect(server.address())).collect();
        let stop = AtomicBool::new(false);
        let during = std::thread::scope(|scope| {
            let echoes = scope.spawn(|| echo_latencies(&mut client, 5000, &stop));
            // Also when this thread fails: the scope waits for the other one.
            let stops = StopAtEnd(&stop);
            for byte in &request[..8] {
                slow.iter_mut().for_each(|one| one.write_all(&[*byte]).expect("it is still open"));
            }
            let held = server.metrics();
            assert_eq!(held.sum("shard_connections"), count as u64 + 1);
            assert!(held.get("partial_bytes") > 0, "requests in pieces are held");
            drop(stops);
            echoes.join().expect("every echo arrives")
        });
        figure(&format!("during {count} slow handshakes: {}", percentiles(&during)));
        // One of them continues normally.
        let mut last = Raw::over(slow.pop().expect("there are some"));
        last.send(&request[8..]);
        last.switched();
        last.echo("slow but welcome");
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("an option can be set");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    stream
}

/// Closing then sends a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option can be set");
    drop(stream);
}

#[test]
fn a_flood_of_resets_and_half_open_connections() {
    let count = size(8000);
    let server = Server::start(&format!("{CONFIG}handshake_timeout_ms = 1000\n"));
    let mut client = Raw::open(server.address());
    client.echo("before");
    leaves_nothing(&format!("{count} resets and half-open connections"), &server, || {
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let address = server.address();
                scope.spawn(move || {
                    // Held half-open until the server's deadline: what a peer leaves that vanished.
                    let mut held = Vec::new();
                    for n in 0..count / 2 {
                        let mut stream = connect(address);
                        let opening = [request(), text("unread"), raw::frame(TEXT, b"open")];
                        let sent = match n % 5 {
                            0 => &[][..],
                            1 => &opening[0][..40],
                            2 => &opening[0],
                            _ => &opening.concat(),
                        };
                        // The server may be faster in refusing than we are in sending.
                        let _ = stream.write_all(sent);
                        match (n + thread) % 8 {
                            0 if n % 5 < 2 => held.push(stream),
                            1 => drop(stream),
                            _ => reset(stream),
                        }
                    }
                    for mut stream in held {
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).expect("the deadline answers");
                        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
                    }
                });
            }
        });
        client.echo("after");
    });
}

/// Pseudo-random bytes: xorshift, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Garbage that gets further than the first byte, mostly.
    fn garbage(&mut self) -> Vec<u8> {
        let len = (self.next() % 2000) as usize;
        let noise = self.bytes(len);
        match self.next() % 6 {
            0 => noise,
            1 => [b"GET /echo HTTP/1.1\r\nHost: test\r\n", &noise[..]].concat(),
            2 => {
                let mut request = request();
                let at = (self.next() as usize) % request.len();
                request[at] = self.next() as u8;
                [request, noise].concat()
            }
            3 => [&request()[..], &noise].concat(),
            4 => [&request()[..], &raw::frame(FIN | PING, b"fine"), &noise].concat(),
            _ => [&request()[..], &raw::frame(TEXT, b"begun"), &noise].concat(),
        }
    }
}

#[test]
fn garbage_on_ten_thousand_connections() {
    let (count, wave) = (size(10_000), 500);
    let server = Server::start(&format!("{CONFIG}handshake_timeout_ms = 5000\n"));
    let mut client = Raw::open(server.address());
    client.echo("before");
    let mut noise = Noise(0x5eed_5eed_5eed_5eed);
    leaves_nothing(&format!("garbage on {count} connections"), &server, || {
        for _ in 0..count / wave {
            let mut streams: Vec<TcpStream> = (0..wave)
                .map(|_| {
                    let mut stream = connect(server.address());
                    let _ = stream.write_all(&noise.garbage());
                    stream
                })
                .collect();
            for stream in &mut streams {
                let _ = stream.shutdown(Shutdown::Write);
                // Whatever comes, it ends: in a refusal, a Close, or a reset.
                let ended = stream.read_to_end(&mut Vec::new());
                let hangs = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
                assert!(!hangs, "a connection with garbage is kept for half a minute");
            }
            client.echo("meanwhile");
        }
    });
    wait_until("every connection is accounted for", || {
        let metrics = server.metrics();
        let ended = metrics.sum("refused_total")
            + metrics.get("answered_total")
            + metrics.get("handshakes_abandoned_total");
        metrics.get("accepted_total") == metrics.get("opened_total") + ended
    });
}

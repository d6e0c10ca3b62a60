//! The books balance: after a storm of every kind of end, each connection is accounted for once.

use std::time::Duration;

use socket2::SockRef;

use crate::support::raw::{self, FIN, TEXT, close, request, request_with, text};
use crate::support::{Raw, Server, wait_until};

/// One connection, ended in its own way.
fn misbehave(server: &Server, kind: usize) {
    let address = server.address();
    let mut client = Raw::connect(address);
    let reset = |client: &Raw| {
        SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("it can be set");
    };
    match kind {
        0 => {}
        1 => client.send(&request()[..30]),
        2 => client.send(&[0x16, 3, 1, 2, 0]),
        3 => client.send(&request_with("/nowhere", "")),
        4 => reset(&client),
        5 => client.send(&request()),
        6 => {
            client.upgrade();
            reset(&client);
        }
        7 => {
            client.upgrade();
            client.send(&close(1000));
            client.end_of_close(1000);
        }
        8 => {
            client.upgrade();
            client.send(&raw::frame(FIN | TEXT | 0x10, b"reserved"));
            client.end_of_close(1002);
        }
        9 => {
            client.upgrade();
            client.send(&[text("a"), text("b"), raw::frame(TEXT, b"unfinished")].concat());
            client.half_close();
        }
        10 => {
            client.upgrade();
            client.send(&close(4999));
            client.end_of_close(4999);
        }
        _ => {
            client.upgrade();
            client.send(&raw::frame(FIN | TEXT, &[0xff; 200]));
            reset(&client);
        }
    }
}

impl Raw {
    #[track_caller]
    fn end_of_close(&mut self, code: u16) {
        assert_eq!(self.frame().close_code(), code);
        self.end();
    }
}

#[test]
fn after_a_storm_every_connection_is_accounted_for() {
    let server = Server::start("[timeouts]\nlinger_timeout_ms = 300\n");
    let mut faithful: Vec<Raw> = (0..10).map(|_| Raw::open(server.address())).collect();
    // Three threads, each through all kinds a whole number of times.
    let (kinds, rounds) = (12, 39);
    std::thread::scope(|scope| {
        for start in 0..3 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..rounds * kinds / 3 {
                    misbehave(server, (n + start) % kinds);
                }
            });
        }
    });
    faithful.iter_mut().for_each(|client| client.echo("all is well"));
    wait_until("only the faithful are left", || server.metrics().sum("shard_connections") == 10);
    let metrics = server.metrics();
    let accepted = (kinds * rounds + 10) as u64;
    assert_eq!(metrics.get("accepted_total"), accepted);
    assert_eq!(metrics.get("connections_open"), 10);
    let (opened, closed) = (metrics.get("opened_total"), metrics.sum("closed_total"));
    assert_eq!(opened, 10 + closed, "opened = open + closed");
    // A client that disconnects at once may be gone before its request is read.
    assert!(opened >= (6 * rounds) as u64 + 10, "{opened}");
    let ended_early = metrics.sum("refused_total")
        + metrics.get("answered_total")
        + metrics.get("handshakes_abandoned_total");
    assert_eq!(accepted, opened + ended_early, "accepted = opened + refused + abandoned");
    let rounds = rounds as u64;
    assert_eq!(metrics.get("closed_total{code=\"1000\"}"), rounds);
    assert_eq!(metrics.get("closed_total{code=\"4xxx\"}"), rounds);
    assert_eq!(metrics.get("closed_total{code=\"1002\"}"), rounds);
    assert_eq!(metrics.get("protocol_errors_total{kind=\"reserved_bit\"}"), rounds);
    assert_eq!(metrics.get("outbox_bytes"), 0);
    assert_eq!(metrics.get("partial_bytes"), 0);
    assert_eq!(metrics.sum("buffers_lent"), 0);
}

/// Connections that shards hand to each other in bursts, more shards than cores: each arrives once.
#[test]
fn bursts_of_handovers_lose_no_connection() {
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "8"];
    let server = Server::start_with(&arguments, "[engine]\nhandover_connections = 1\n");
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                for _ in 0..25 {
                    let mut clients: Vec<Raw> = (0..400).map(|_| Raw::connect(address)).collect();
                    clients.iter_mut().for_each(|client| client.send(&request()));
                    for client in &mut clients {
                        client.switched();
                        client.echo("arrived");
                    }
                }
            });
        }
    });
    let metrics = server.metrics();
    assert!(metrics.get("handed_over_total") > 0, "there were handovers");
    assert_eq!(metrics.get("handed_over_total"), metrics.get("taken_over_total"));
    assert_eq!(metrics.get("stale_completions_total"), 0);
    assert_eq!(metrics.get("opened_total"), 20_000);
}

#[test]
fn a_lone_message_takes_one_wait() {
    const MESSAGES: u64 = 1000;
    let server = Server::start_with(&["--shards", "1"], "");
    let mut client = Raw::open(server.address());
    client.echo("first");
    let calls = || server.metrics().sum("ring_enters_total");
    let before = calls();
    (0..MESSAGES).for_each(|n| client.echo(&n.to_string()));
    // Timers and readings take some as well; with a completion for each reply it would be twice
    // as many as messages.
    let taken = calls() - before;
    assert!(taken < MESSAGES + MESSAGES / 2, "{taken} calls for {MESSAGES} messages");
}

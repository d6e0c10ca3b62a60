//! Several shards in one process: handing connections over, and ending together.

use std::time::Duration;

use crate::support::raw::close;
use crate::support::{Raw, Server, metrics};

/// Connections that go from ring to ring lose nothing, and their peers stay known.
#[test]
fn connections_move_to_less_loaded_shards() {
    let server = Server::start("shards = 4\n[engine]\nhandover_connections = 1\n");
    let mut clients: Vec<Raw> = (0..200).map(|_| Raw::open(server.address())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.echo(&format!("still here {number}"));
    }
    let numbers = server.metrics();
    let handed_over = numbers.get("handed_over_total");
    assert!(handed_over > 0, "a hash spreads 200 connections never within one");
    assert_eq!(numbers.get("taken_over_total"), handed_over);
    assert_eq!(numbers.get("connections_open"), 200);
}

/// A shard without connections keeps answering while another one drains.
#[test]
fn emptied_shards_answer_until_all_are_empty() {
    let mut server = Server::start("shards = 4\n[[route]]\nclose_timeout_ms = 120_000\n");
    let mut client = Raw::open(server.address());
    server.signal("TERM");
    assert_eq!(client.frame().close_code(), 1001);
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..40 {
        let mut checker = Raw::connect(server.address());
        checker.send(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(checker.answer().0, 503);
    }
    assert_eq!(metrics::get(server.admin(), "/metrics").0, 200, "operators see the drain");
    client.send(&close(1001));
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
}

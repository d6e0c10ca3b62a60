//! Slow readers under each policy: what they receive, and that the server's memory is bounded.

use serde_json::{Value, json};

use crate::client::{Client, position};
use crate::support::{Server, wait_until};

const OUTBOX: u64 = 128 * 1024;
const CONTENT: usize = 8_000;
const COUNT: u64 = 2_000;

fn server(policy: &str) -> Server {
    Server::start(&format!(
        "[limits]\noutbox_bytes_max = {OUTBOX}\n[[listener]]\nsend_buffer_bytes = 16_384\n\
         [timeouts]\nsend_timeout_ms = 600_000\n\
         [[route]]\npath = \"/ws\"\nhandler = \"hub\"\ncompression = \"off\"\n\
         [[channel]]\npattern = \"*\"\nhistory = 5_000\nslow_reader = \"{policy}\"\n\
         [hub]\nrecover_messages_max = 5_000\nrecover_bytes_max = 100_000_000\n"
    ))
}

fn dropped(server: &Server, policy: &str) -> u64 {
    server.metrics().get(&format!("dropped_{policy}_total"))
}

/// Publishes far more than any queue holds, to readers that pause, and to one that reads.
fn flood(server: &Server, slow: &mut [Client]) -> Client {
    slow.iter_mut().for_each(|one| drop(one.subscribe("room")));
    let mut fast = Client::open(server);
    fast.subscribe("room");
    let filler = "x".repeat(CONTENT);
    for n in 0..COUNT {
        fast.publish("room", &json!(format!("{n} {filler}")));
        assert_eq!(fast.expect("message")["offset"], n + 1, "a fast reader misses nothing");
    }
    let peak = server.metrics().get("outbox_peak_bytes");
    // Each has its bound, and what one publication and one gap take beyond it; so has the fast one.
    let most = (slow.len() as u64 + 1) * (2 * OUTBOX + 2 * (CONTENT as u64 + 512));
    assert!(peak <= most, "{peak} of {most} bytes");
    assert!(peak > OUTBOX / 2, "they were slow: {peak}");
    fast
}

/// Reads to the end of the channel: messages, each at the next offset, and gaps. Returns how many
/// were dropped.
fn read_on(client: &mut Client, last: u64) -> (u64, u64) {
    let (mut stands, mut missed, mut seen) = (0, 0, 0);
    while stands < last {
        let object = client.next();
        let offset = object["offset"].as_u64().unwrap();
        if object["type"] == "gap" {
            assert_eq!((&object["channel"], &object["reason"]), (&json!("room"), &json!("slow")));
            assert!(offset > stands, "{object} behind {stands}");
            missed += offset - stands;
        } else {
            assert_eq!(object["type"], "message");
            assert_eq!(offset, stands + 1, "no hole without a gap");
            seen += 1;
        }
        stands = offset;
    }
    (seen, missed)
}

#[test]
fn drop_oldest_tells_of_every_gap() {
    let server = server("drop_oldest");
    let mut slow: Vec<_> = (0..3).map(|_| Client::open(&server)).collect();
    let mut fast = flood(&server, &mut slow);
    let mut missed_by_all = 0;
    for one in &mut slow {
        let (seen, missed) = read_on(one, COUNT);
        assert_eq!(seen + missed, COUNT);
        assert!(missed > COUNT / 4, "{missed} were missed");
        missed_by_all += missed;
    }
    assert_eq!(missed_by_all, dropped(&server, "oldest"));
    assert_eq!(server.metrics().get("closed_total{code=\"4413\"}"), 0);
    wait_until("nothing waits", || server.metrics().get("outbox_bytes") == 0);
    // Up to date again, and what it missed can still be had.
    fast.publish("room", &json!("now"));
    let now = slow[0].expect("message");
    assert_eq!((&now["content"], &now["offset"]), (&json!("now"), &json!(COUNT + 1)));
    let there = position(&fast.get(json!({"type": "history", "channel": "room"}), "history"));
    let since = json!({"epoch": there["epoch"], "offset": COUNT - 9});
    let back = slow[0].subscribe_since("room", &since);
    assert_eq!(back["recovered"], true);
    assert_eq!(slow[0].contents(10).len(), 10);
}

#[test]
fn latest_keeps_the_newest_only() {
    let server = server("latest");
    let mut slow = [Client::open(&server)];
    flood(&server, &mut slow);
    let (seen, missed) = read_on(&mut slow[0], COUNT);
    assert_eq!(seen + missed, COUNT);
    assert_eq!(missed, dropped(&server, "latest"));
    assert_eq!(dropped(&server, "oldest"), 0);
    assert!(missed > COUNT / 4, "{missed}");
}

#[test]
fn close_ends_the_connection_and_frees_what_waited() {
    let server = server("close");
    let mut slow: Vec<_> = (0..3).map(|_| Client::open(&server)).collect();
    let mut fast = flood(&server, &mut slow);
    wait_until("all are closed", || server.metrics().get("closed_total{code=\"4413\"}") == 3);
    assert_eq!(dropped(&server, "oldest") + dropped(&server, "latest"), 0);
    // Each sees the channel's beginning without a hole, and may come back for the rest.
    for one in &mut slow {
        let rest = one.raw.rest();
        drop(rest);
        let mut back = Client::open(&server);
        let there = position(&fast.get(json!({"type": "history", "channel": "room"}), "history"));
        let since = json!({"epoch": there["epoch"], "offset": COUNT - 3});
        assert_eq!(back.subscribe_since("room", &since)["recovered"], true);
        assert_eq!(back.contents(3).len(), 3);
    }
    wait_until("nothing waits", || server.metrics().get("outbox_bytes") == 0);
}

/// What was missed streams at the reader's speed, and never counts as its slowness.
#[test]
fn a_long_recovery_is_no_slowness() {
    let server = server("close");
    let mut fast = Client::open(&server);
    let start = position(&fast.subscribe("room"));
    fast.unsubscribe("room");
    let filler = "x".repeat(CONTENT);
    (0..500).for_each(|n| drop(fast.publish("room", &json!(format!("{n} {filler}")))));
    let mut back = Client::open(&server);
    assert_eq!(back.subscribe_since("room", &start)["recovered"], true);
    let peak = server.metrics().get("outbox_peak_bytes");
    assert!(peak < 2 * OUTBOX + 3 * CONTENT as u64, "{peak}: by reference, not in the outbox");
    let seen: Vec<Value> = back.contents(500);
    for (n, content) in seen.iter().enumerate() {
        assert!(content.as_str().unwrap().starts_with(&format!("{n} ")));
    }
    back.is_silent("room");
}

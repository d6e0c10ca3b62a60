//! What one turn does is bounded, and what waits as well.

use serde_json::json;

use super::crowd::{connect, crowd_of, objects, until};

const PINGS: usize = 30_000;

/// A frame may hold very many requests, and they may wait for one before them: they are worked off
/// in parts, so that others have their turns between.
#[test]
fn requests_of_one_frame_leave_turns_to_others() {
    let mut world = crowd_of(1);
    let mut frame = String::new();
    for kind in ["subscribe", "unsubscribe"] {
        frame += &json!({"type": kind, "channel": "a"}).to_string();
    }
    frame += &"{\"type\":\"ping\"}".repeat(PINGS);
    let peer = connect(&world, 0, &[frame]);
    let (mut before, mut most) = (0, 0);
    until(&mut world, "all are answered", |world| {
        let sent = world.totals().counters.messages_sent;
        (before, most) = (sent, most.max(sent - before));
        sent == PINGS as u64 + 3
    });
    assert!(most <= 1100, "{most} replies in one turn");
    let told = objects(&peer);
    let kinds: Vec<_> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["welcome", "subscribed", "unsubscribed"]);
    assert!(kinds[3..].iter().all(|kind| *kind == "pong"));
}

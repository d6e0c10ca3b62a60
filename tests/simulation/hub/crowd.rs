//! One channel with a hundred thousand members: more than a test's open files allow on sockets.

use std::io::Cursor;
use std::sync::Arc;

use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use serde_json::{Value, json};
use tungstenite::protocol::frame::FrameHeader;

use crate::client::frame;
use crate::world::World;

const MEMBERS: usize = 100_000;
const MESSAGES: u64 = 3;

const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(super) fn crowd_of(shards: u16) -> World {
    let budget = HistoryBudget::new(1 << 20);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    World::with_crowd(1, shards, Faults::default(), make_log, 2048, |file| {
        file.engine.accepts_per_listener = 1024;
        file.engine.turn_completions_max = 16 * 1024;
    })
}

/// A connection that says this once it is open.
pub(super) fn connect(world: &World, shard: u16, says: &[impl ToString]) -> Peer {
    let peer = world.network.connect(shard, 0, Some(([127, 0, 0, 1], 999).into()));
    let mut bytes = REQUEST.as_bytes().to_vec();
    says.iter().for_each(|one| {
        bytes.extend(frame(&world.network, 0x81, one.to_string().as_bytes()));
    });
    peer.write(&bytes);
    peer
}

#[track_caller]
pub(super) fn until(world: &mut World, what: &str, mut is_so: impl FnMut(&World) -> bool) {
    for _ in 0..20_000 {
        world.turn_shards();
        if is_so(world) {
            return;
        }
        world.network.advance_clock(1_000_000);
    }
    panic!("never came about: {what}: {:?}", world.totals().gauges);
}

/// The objects that have come behind the head, if there is one.
pub(super) fn objects(peer: &Peer) -> Vec<Value> {
    let bytes = peer.read(usize::MAX);
    let start = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let mut cursor = Cursor::new(&bytes[start..]);
    let mut objects = Vec::new();
    while let Some((_, len)) = FrameHeader::parse(&mut cursor).unwrap() {
        let at = start + cursor.position() as usize;
        objects.push(serde_json::from_slice(&bytes[at..at + len as usize]).unwrap());
        cursor.set_position(cursor.position() + len);
    }
    objects
}

#[test]
fn a_message_reaches_each_of_a_hundred_thousand_members_once() {
    let shards = 2;
    let mut world = crowd_of(shards);
    let subscribe = json!({"type": "subscribe", "channel": "crowd"});
    let members: Vec<_> = (0..MEMBERS)
        .map(|n| {
            connect(&world, (n % usize::from(shards)) as u16, std::slice::from_ref(&subscribe))
        })
        .collect();
    until(&mut world, "all are members", |world| {
        world.totals().gauges.channel_members == MEMBERS as u64
    });
    (0..20).for_each(|_| world.turn_shards());
    for member in &members {
        let received = objects(member);
        assert_eq!(
            (received.len(), &received[1]["type"]),
            (2, &json!("subscribed")),
            "{received:?}"
        );
    }
    let publishes: Vec<_> = (0..MESSAGES)
        .map(|n| json!({"type": "publish", "channel": "crowd", "content": n}))
        .collect();
    let publisher = connect(&world, 0, &publishes);
    until(&mut world, "all is delivered", |world| {
        world.totals().counters.deliveries == MESSAGES * MEMBERS as u64
    });
    (0..20).for_each(|_| world.turn_shards());
    for member in &members {
        let received = objects(member);
        let places = received.iter().map(|one| (one["offset"].as_u64(), one["content"].as_u64()));
        assert!(places.eq((0..MESSAGES).map(|n| (Some(n + 1), Some(n)))), "{received:?}");
    }
    members.iter().chain([&publisher]).for_each(Peer::send_reset);
    until(&mut world, "no member is left", |world| {
        let gauges = world.totals().gauges;
        gauges.slots == 0 && gauges.channel_members == 0
    });
    world.drain();
    world.check_laws(true);
}

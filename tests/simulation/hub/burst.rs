//! Several publications at once to the members of one channel: each member gets what is meant for
//! it, in order, and the histograms count each delivery.

use seawall::driver::sim::Peer;
use serde_json::{Value, json};

use super::crowd::{connect, crowd_of, objects, until};
use crate::client::frame;
use crate::world::World;

const SHARDS: u16 = 2;
const MEMBERS: usize = 10;
const MESSAGES: u64 = 30;

fn members(world: &mut World, count: usize) -> Vec<Peer> {
    let subscribe = json!({"type": "subscribe", "channel": "burst"});
    let before = world.totals().gauges.channel_members;
    let members: Vec<_> = (0..count)
        .map(|n| connect(world, n as u16 % SHARDS, std::slice::from_ref(&subscribe)))
        .collect();
    until(world, "all are members", |world| {
        world.totals().gauges.channel_members == before + count as u64
    });
    (0..20).for_each(|_| world.turn_shards());
    for member in &members {
        let kinds: Vec<_> = objects(member).iter().map(|one| one["type"].clone()).collect();
        assert_eq!(kinds, ["welcome", "subscribed"]);
    }
    members
}

/// The contents of messages.
fn contents(received: &[Value]) -> Vec<u64> {
    let messages = received.iter().filter(|one| one["type"] == "message");
    messages.map(|one| one["content"].as_u64().expect("a number")).collect()
}

/// One frame with publishes, of which the odd ones are not echoed to their sender.
fn burst(world: &World, from: u64) -> Vec<u8> {
    let objects: String = (from..from + MESSAGES)
        .map(|n| {
            let echo = n % 2 == 0;
            json!({"type": "publish", "channel": "burst", "content": n, "echo": echo}).to_string()
        })
        .collect();
    frame(&world.network, 0x81, objects.as_bytes())
}

#[test]
fn members_of_a_burst_receive_what_is_theirs() {
    let mut world = crowd_of(SHARDS);
    let members = members(&mut world, MEMBERS);
    members[0].write(&burst(&world, 0));
    let deliveries = MEMBERS as u64 * MESSAGES - MESSAGES / 2;
    until(&mut world, "all is delivered", |world| world.totals().counters.deliveries == deliveries);
    (0..20).for_each(|_| world.turn_shards());
    for (n, member) in members.iter().enumerate() {
        let expected = (0..MESSAGES).filter(|one| n > 0 || one % 2 == 0);
        assert_eq!(contents(&objects(member)), expected.collect::<Vec<_>>(), "member {n}");
    }
    let histograms = world.totals().histograms;
    assert_eq!(histograms.publish_to_delivery.histogram().len(), deliveries);
    let last = u64::from(SHARDS) * MESSAGES;
    assert_eq!(histograms.fanout.histogram().len(), last, "each has one last member a shard");
    members.iter().for_each(Peer::send_reset);
    world.drain();
    world.check_laws(true);
}

#[test]
fn one_who_joins_amid_bursts_misses_and_repeats_nothing() {
    let mut world = crowd_of(SHARDS);
    let members = members(&mut world, MEMBERS);
    members[0].write(&burst(&world, 0));
    let subscribe = json!({"type": "subscribe", "channel": "burst"});
    let late: Vec<_> =
        (0..SHARDS).map(|shard| connect(&world, shard, std::slice::from_ref(&subscribe))).collect();
    for round in 1..4 {
        world.turn_shards();
        members[0].write(&burst(&world, round * MESSAGES));
    }
    until(&mut world, "all is delivered", |world| {
        world.totals().counters.publishes == 4 * MESSAGES
            && world.totals().gauges.channel_members == (MEMBERS + late.len()) as u64
    });
    (0..50).for_each(|_| world.turn_shards());
    for member in &late {
        let received = objects(member);
        let subscribed = received.iter().find(|one| one["type"] == "subscribed");
        let offset = subscribed.and_then(|one| one["offset"].as_u64()).expect("a member");
        // Offsets count from 1, contents from 0.
        assert_eq!(contents(&received), (offset..4 * MESSAGES).collect::<Vec<_>>());
    }
    for member in &members[1..] {
        assert_eq!(contents(&objects(member)), (0..4 * MESSAGES).collect::<Vec<_>>());
    }
    members.iter().chain(&late).for_each(Peer::send_reset);
    world.drain();
    world.check_laws(true);
}

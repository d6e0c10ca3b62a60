//! What one turn does is bounded, and what waits as well.

use std::sync::Arc;

use seawall::auth::Access;
use seawall::config::file::{self, File};
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use serde_json::json;

use super::crowd::{connect, crowd_of, objects, until};
use crate::world::World;

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
    let received = objects(&peer);
    let kinds: Vec<_> = received.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["welcome", "subscribed", "unsubscribed"]);
    assert!(kinds[3..].iter().all(|kind| *kind == "pong"));
}

const MEMBERS: u64 = 40;
const PUBLISHERS: u64 = 450;
const EACH: u64 = 2;
const CONTENT_BYTES: usize = 7_500;
const MAILBOX_BYTES: u64 = 1 << 20;

/// Members of one channel on two shards that make one delivery, of a full batch, in a turn.
fn slow_fanout() -> (World, Vec<Peer>) {
    let budget = HistoryBudget::new(1 << 30);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    let mut world = World::with_hub(1, 2, Faults::default(), make_log, |file| {
        file.engine.turn_fanout_max = 1;
        file.engine.mailbox_bytes_max = MAILBOX_BYTES;
        file.limits.outbox_bytes_max = 1 << 30;
    });
    let subscribe = json!({"type": "subscribe", "channel": "a"});
    let members: Vec<_> =
        (0..MEMBERS).map(|n| connect(&world, (n % 2) as u16, &[&subscribe])).collect();
    until(&mut world, "all are members", |world| world.totals().gauges.channel_members == MEMBERS);
    (world, members)
}

/// Publishers that are faster than the fan-out are made to wait; what they had on its way is
/// dropped past twice the bound, and each member gets a gap before it receives what follows.
#[test]
fn publishers_faster_than_the_fanout_wait_and_members_receive_every_gap() {
    let (mut world, members) = slow_fanout();
    let content = "x".repeat(CONTENT_BYTES);
    let publish = json!({"type": "publish", "channel": "a", "content": content});
    let publishes = vec![&publish; EACH as usize];
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|n| connect(&world, (n % 2) as u16, &publishes)).collect();
    let mut most = 0;
    for _ in 0..100 {
        (0..200).for_each(|_| world.turn_shards());
        world.network.advance_clock(10_000_000);
        let numbers = world.totals();
        most = most.max(numbers.gauges.mailbox_bytes);
        if numbers.counters.publishes == PUBLISHERS * EACH && numbers.gauges.mailbox_bytes == 0 {
            break;
        }
    }
    let numbers = world.totals();
    assert_eq!(numbers.counters.publishes, PUBLISHERS * EACH, "all had their turn in the end");
    assert!(numbers.counters.dropped_lagging > 0, "it was too much: {most}");
    assert!(most < 2 * (2 * MAILBOX_BYTES + 200_000), "{most} bytes waited");
    (0..100).for_each(|_| world.turn_shards());
    for member in &members {
        let mut stands = 0;
        for one in &objects(member)[2..] {
            let offset = one["offset"].as_u64().unwrap();
            if one["type"] == "gap" {
                assert_eq!(one["reason"], "lagging");
                assert!(offset > stands, "{one} behind {stands}");
            } else {
                assert_eq!(offset, stands + 1, "no hole without a gap before it");
            }
            stands = offset;
        }
        assert_eq!(stands, PUBLISHERS * EACH, "each receives the last one, or a gap");
    }
    members.iter().chain(&publishers).for_each(Peer::send_reset);
    (0..100).for_each(|_| world.turn_shards());
    world.drain();
    world.check_laws(true);
}

/// However fast a client publishes, members lag by some batches at most: the rest stays unread.
#[test]
fn a_publisher_waits_for_the_members_of_its_channel() {
    let (mut world, members) = slow_fanout();
    let publish = json!({"type": "publish", "channel": "a", "content": 1});
    let count = 6_000;
    let publisher = connect(&world, 0, &vec![&publish; count as usize]);
    let mut most = 0;
    until(&mut world, "all is delivered", |world| {
        let numbers = world.totals();
        most = most.max(numbers.gauges.mailbox_bytes);
        numbers.counters.deliveries == count * MEMBERS
    });
    // On each shard 256 that may lag, and what a turn's receive buffers had brought by then: of
    // three megabytes.
    assert!(most < 1_000_000, "{most} bytes waited");
    assert_eq!(world.totals().counters.dropped_lagging, 0);
    members.iter().chain([&publisher]).for_each(Peer::send_reset);
    (0..100).for_each(|_| world.turn_shards());
    world.drain();
    world.check_laws(true);
}

/// A reload that narrows rights reviews all connections, a bounded number in each turn.
#[test]
fn a_reload_ends_subscriptions_in_portions() {
    const LOOKS: u64 = 20;
    const CHANNELS: usize = 50;
    let mut world = crowd_of(2);
    let looks = |file: &mut File| file.engine.turn_fanout_max = LOOKS as u32;
    world.reload(looks);
    // One with more subscriptions than one turn reviews is among them.
    let subscribe = |n: usize| json!({"type": "subscribe", "channel": format!("a{n}")});
    let kept = json!({"type": "subscribe", "channel": "kept"});
    let mut peers = vec![connect(&world, 0, &(0..CHANNELS).map(subscribe).collect::<Vec<_>>())];
    peers
        .extend((0..MEMBERS * 5).map(|n| connect(&world, (n % 2) as u16, &[&subscribe(0), &kept])));
    let members = CHANNELS as u64 + 2 * 5 * MEMBERS;
    until(&mut world, "all are members", |world| world.totals().gauges.channel_members == members);
    (0..50).for_each(|_| world.turn_shards());
    let before = world.totals().counters.messages_sent;
    world.reload(|file| {
        looks(file);
        let channel = |pattern: &str, subscribe| file::Channel {
            pattern: pattern.to_owned(),
            subscribe,
            ..file::Channel::default()
        };
        file.channels = vec![channel("a*", Access::Server), channel("kept", Access::Anyone)];
    });
    let (mut sent, mut most) = (before, 0);
    until(&mut world, "they have ended", |world| {
        let numbers = world.totals();
        most = most.max(numbers.counters.messages_sent - sent);
        sent = numbers.counters.messages_sent;
        numbers.gauges.channel_members == 5 * MEMBERS
    });
    assert_eq!(sent - before, members - 5 * MEMBERS, "each is notified once");
    assert!(most <= 2 * LOOKS, "{most} in one turn of two shards");
    // What was queued last has yet to leave.
    (0..50).for_each(|_| world.turn_shards());
    for peer in &peers {
        let received = objects(peer);
        let ended: Vec<_> = received.iter().filter(|one| one["type"] == "unsubscribed").collect();
        assert!(
            !ended.is_empty() && ended.iter().all(|one| one["channel"] != "kept"),
            "{received:?}"
        );
    }
    peers.iter().for_each(Peer::send_reset);
    (0..100).for_each(|_| world.turn_shards());
    world.drain();
    world.check_laws(true);
}

/// Recovered messages that wait for one slow reader do not make others reload.
#[test]
fn a_slow_reader_leaves_room_for_the_recoveries_of_others() {
    const EACH: u64 = 30;
    let budget = HistoryBudget::new(1 << 30);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    let mut world = World::with_hub(1, 1, Faults::default(), make_log, |file| {
        file.limits.outbox_shard_bytes_max = 1_000_000;
        file.hub.recover_bytes_max = 400_000;
    });
    let content = "x".repeat(8_000);
    let channels = ["a", "b", "c"];
    let publishes: Vec<_> = channels
        .iter()
        .flat_map(|channel| {
            let publish = json!({"type": "publish", "channel": channel, "content": content});
            std::iter::repeat_n(publish, EACH as usize)
        })
        .collect();
    let publisher = connect(&world, 0, &publishes);
    let count = EACH * channels.len() as u64;
    until(&mut world, "all is published", |world| {
        let numbers = world.totals();
        numbers.counters.publishes == count && numbers.gauges.outbox_bytes == 0
    });
    (0..20).for_each(|_| world.turn_shards());
    let received = objects(&publisher);
    let subscribe = |channel: &str| {
        let place =
            received.iter().find(|one| one["channel"] == channel).expect("it was published");
        let since = json!({"epoch": place["epoch"], "offset": 0});
        json!({"type": "subscribe", "channel": channel, "since": since})
    };
    let slow = connect(&world, 0, &channels.map(subscribe));
    slow.set_window(2_000);
    (0..50).for_each(|_| world.turn_shards());
    let waiting = world.totals().gauges.recovering_bytes;
    assert!((100_000..=500_000).contains(&waiting), "{waiting} bytes of two channels at most");
    assert_eq!(world.totals().counters.recoveries_deferred, 1);
    for _ in 0..2 {
        let other = connect(&world, 0, &[subscribe("a")]);
        let before = world.totals().counters.deliveries;
        until(&mut world, "all has been sent", |world| {
            world.totals().counters.deliveries >= before + EACH
        });
        (0..20).for_each(|_| world.turn_shards());
        let received = objects(&other);
        assert_eq!((&received[1]["recovered"], received.len() as u64), (&json!(true), 2 + EACH));
        other.send_reset();
    }
    slow.set_window(usize::MAX);
    until(&mut world, "it has been sent all", |world| {
        let gauges = world.totals().gauges;
        gauges.recovering_bytes + gauges.outbox_bytes == 0
    });
    (0..20).for_each(|_| world.turn_shards());
    let received = objects(&slow);
    assert_eq!(received.len() as u64, 4 + 2 * EACH);
    let outcomes = received.iter().filter(|one| one["type"] == "subscribed");
    let outcomes: Vec<_> = outcomes.map(|one| one["recovered"].as_bool().unwrap()).collect();
    assert_eq!(outcomes, [true, true, false]);
    assert_eq!(world.totals().gauges.recovering_bytes, 0);
    [publisher, slow].iter().for_each(Peer::send_reset);
    (0..50).for_each(|_| world.turn_shards());
    world.drain();
    world.check_laws(true);
}

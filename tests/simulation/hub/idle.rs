//! A shard that has nothing to do forgets what is past its time all the same: it turns only when
//! it has asked to.

use std::sync::Arc;

use seawall::driver::Wait;
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{
    Answer, ApiReply, ChannelName, HistoryBudget, Log, MemoryLog, Origin, Request, Retention, Verb,
};
use seawall::shard::mail::HubMail;
use seawall::shard::mail::Mail;
use serde_json::json;

use super::crowd::{connect, objects, until};
use crate::world::World;

const CHANNELS: u64 = 3000;

fn world() -> World {
    let budget = HistoryBudget::new(1 << 30);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    World::with_hub(2, 1, Faults::harmless(), make_log, |file| {
        file.hub.channel_ttl_s = 90;
        file.hub.idempotency_ttl_s = 120;
    })
}

/// Turns as the shard has asked for, until it asks for nothing more; returns how often.
fn rest(world: &mut World) -> usize {
    for turns in 0..100_000 {
        match world.wait(0) {
            Wait::No => {}
            Wait::Until(ns) => {
                let now_ns = world.network.now_ns();
                world.network.advance_clock(ns.saturating_sub(now_ns));
            }
            Wait::Forever => return turns,
        }
        world.turn_shards();
    }
    panic!("an idle shard never rests: {:?}", world.totals().gauges);
}

#[test]
fn an_idle_shard_wakes_for_what_is_past_its_time_and_for_nothing_else() {
    let mut world = world();
    let publishes: Vec<_> = (0..CHANNELS)
        .map(|n| {
            let (channel, key) = (format!("c{n}"), (n % 2 == 0).then(|| n.to_string()));
            let mut publish = json!({"type": "publish", "channel": channel, "content": n});
            if let Some(key) = key {
                publish["key"] = key.into();
            }
            publish
        })
        .collect();
    let publisher = connect(&world, 0, &publishes);
    until(&mut world, "all is published", |world| {
        publisher.read(usize::MAX);
        world.totals().counters.publishes == CHANNELS
    });
    let gauges = world.totals().gauges;
    assert_eq!((gauges.channels, gauges.history_messages), (CHANNELS, CHANNELS));
    assert_eq!(gauges.idempotency_keys, CHANNELS / 2);
    assert!(gauges.channel_bytes > 100 * CHANNELS && gauges.idempotency_bytes > 16 * CHANNELS);
    Peer::send_reset(&publisher);
    let turns = rest(&mut world);
    let gauges = world.totals().gauges;
    assert_eq!((gauges.channels, gauges.history_messages, gauges.history_bytes), (0, 0, 0));
    assert_eq!((gauges.idempotency_keys, gauges.slots), (0, 0));
    assert_eq!((gauges.presence_bytes, gauges.idempotency_bytes), (0, 0));
    // Deadlines are those of some seconds of publishing, each worked off in parts.
    assert!(turns < 500, "{turns} turns");
    assert_eq!(world.totals().counters.channels_forgotten, CHANNELS);
}

/// However long a shard has rested, and although nothing woke it: messages past their age are not
/// served, on any way there is.
#[test]
fn a_shard_that_has_rested_serves_nothing_that_is_past_its_age() {
    for (wait_s, is_served) in [(299, true), (301, false)] {
        let mut world = world();
        let publish = json!({"type": "publish", "channel": "a", "content": 1});
        let publisher = connect(&world, 0, &[&publish]);
        until(&mut world, "it is published", |world| world.totals().counters.publishes == 1);
        (0..10).for_each(|_| world.turn_shards());
        let epoch = objects(&publisher)[1]["epoch"].clone();
        world.network.advance_clock(wait_s * 1_000_000_000);
        let since = json!({"epoch": epoch, "offset": 0});
        let read = json!({"type": "history", "channel": "a"});
        let from = json!({"type": "history", "channel": "a", "since": since});
        let subscribe = json!({"type": "subscribe", "channel": "a", "since": since});
        let reader = connect(&world, 0, &[&read, &from, &subscribe]);
        let (reply, mut received) = tokio::sync::oneshot::channel();
        world.post(0, history_for_backends(reply));
        (0..10).for_each(|_| world.turn_shards());
        let replies = objects(&reader);
        for page in &replies[1..3] {
            let count = page["messages"].as_array().unwrap().len();
            assert_eq!((count, &page["offset"]), (usize::from(is_served), &json!(1)), "{page}");
        }
        assert_eq!(replies[3]["recovered"], is_served, "{}", replies[3]);
        assert_eq!(replies.len(), 4 + usize::from(is_served));
        let Ok(Answer::History { messages, .. }) = received.try_recv() else { panic!("no answer") };
        assert_eq!(messages.len(), usize::from(is_served));
        [publisher, reader].iter().for_each(Peer::send_reset);
    }
}

fn history_for_backends(reply: tokio::sync::oneshot::Sender<Answer>) -> Mail {
    let from = Origin::Api(ApiReply(Box::new(move |answer| drop(reply.send(answer)))));
    let retention = Retention { messages_max: 100, ttl_ms: 300_000 };
    let verb = Verb::History { since: None, limit: 10, reverse: false };
    let request = Request { from, channel: ChannelName::new("a"), retention, verb };
    Mail::Hub(Box::new(HubMail::Ask(request)))
}

//! A shard that has nothing to do forgets what is past its time all the same: it turns only when
//! it has asked to.

use std::sync::Arc;

use seawall::driver::Wait;
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use serde_json::json;

use super::crowd::{connect, until};
use crate::world::World;

const CHANNELS: u64 = 3000;

fn world() -> World {
    let budget = HistoryBudget::new(1 << 30);
    let make_log = Arc::new(move |shard: u16| -> Box<dyn Log> {
        Box::new(MemoryLog::new(u64::from(shard), budget.clone()))
    });
    World::with_hub(2, 1, Faults::harmless(), make_log, |file| {
        file.hub.channel_ttl_s = 90;
        file.hub.idempotency_ttl_s = 120;
    })
}

/// Turns as the shard has asked for, until it asks for nothing more; returns how often.
fn rest(world: &mut World) -> usize {
    for turns in 0..100_000 {
        match world.network.last_wait(0) {
            Wait::No => {}
            Wait::Until(ns) => {
                let now_ns = world.network.now_ns();
                world.network.advance(ns.saturating_sub(now_ns));
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
    Peer::reset(&publisher);
    let turns = rest(&mut world);
    let gauges = world.totals().gauges;
    assert_eq!((gauges.channels, gauges.history_messages, gauges.history_bytes), (0, 0, 0));
    assert_eq!((gauges.idempotency_keys, gauges.slots), (0, 0));
    assert_eq!((gauges.presence_bytes, gauges.idempotency_bytes), (0, 0));
    // Deadlines are those of some seconds of publishing, each worked off in parts.
    assert!(turns < 500, "{turns} turns");
    assert_eq!(world.totals().counters.channels_forgotten, CHANNELS);
}

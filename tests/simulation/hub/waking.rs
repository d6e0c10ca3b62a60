//! A shard at rest hears of its log by its bell alone: no time passes here that would wake it.

use std::sync::Arc;

use seawall::driver::Bell;
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use serde_json::{Value, json};

use super::crowd::{connect, objects};
use super::delayed::Broker;
use crate::seeds;
use crate::world::World;

/// Turns the shard until it waits.
fn rest(world: &mut World) {
    for _ in 0..1000 {
        if !world.is_awake(0) {
            return;
        }
        world.turn_shards();
    }
    panic!("the shard never waits");
}

#[test]
fn a_shard_that_waits_is_woken_by_its_log() {
    for seed in seeds(5000, 30) {
        let (broker, budget) = (Broker::default(), HistoryBudget::new(1 << 20));
        let logs = broker.clone();
        let make_log = Arc::new(move |_: u16, bell: Arc<dyn Bell>| -> Box<dyn Log> {
            logs.log(MemoryLog::new(budget.clone()), seed, bell)
        });
        let mut world = World::with_hub(seed, 1, Faults::default(), make_log, |_| {});
        let requests = [
            json!({"type": "subscribe", "channel": "a"}),
            json!({"type": "publish", "channel": "a", "content": 1}),
            json!({"type": "history", "channel": "a"}),
        ];
        let peer = connect(&world, 0, &requests);
        rest(&mut world);
        let mut received = objects(&peer);
        let mut steps = 0;
        let is_told =
            |received: &[Value], kind: &str| received.iter().any(|one| one["type"] == kind);
        while !["subscribed", "published", "history"].iter().all(|kind| is_told(&received, kind)) {
            broker.step();
            rest(&mut world);
            received.extend(objects(&peer));
            steps += 1;
            assert!(steps < 1000, "seed {seed}: the shard was not woken: {received:?}");
        }
        assert_eq!(world.totals().gauges.channel_members, 1, "seed {seed}");
        Peer::send_reset(&peer);
        rest(&mut world);
        world.broker = Some(broker);
        world.drain();
        world.check_laws(true);
    }
}

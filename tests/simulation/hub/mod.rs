//! The hub under a simulated kernel: publishers and members on several shards, connections cut at
//! any point, on a log that answers at once and on one that is late.

mod bounds;
mod burst;
mod crowd;
pub(crate) mod delayed;
mod epochs;
mod idle;
mod line;
mod member;
mod operator;
mod protocols;
mod rights;
mod waking;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use seawall::auth::SlowReader;
use seawall::config::file::Channel;
use seawall::driver::Bell;
use seawall::driver::sim::Faults;
use seawall::hub::{HistoryBudget, Log, MemoryLog};

use crate::seeds;
use crate::world::World;
use delayed::Broker;
use member::{Member, Truth};
use operator::Operator;

struct Outcome {
    truth: Rc<RefCell<Truth>>,
    dropped: u64,
    seen: usize,
}

fn run(seed: u64, broker: Option<Broker>) -> Outcome {
    let shards = 1 + (seed % 3) as u16;
    let budget = HistoryBudget::new([1 << 20, 20_000][(seed / 7 % 2) as usize]);
    let logs = broker.clone();
    let make_log = Arc::new(move |shard: u16, bell: Arc<dyn Bell>| -> Box<dyn Log> {
        let log = MemoryLog::new(budget.clone());
        match &logs {
            Some(broker) => broker.log(log, seed * 1000 + u64::from(shard), bell),
            None => Box::new(log),
        }
    });
    let mut world = World::with_hub(seed, shards, Faults::harmless(), make_log, |file| {
        file.limits.outbox_bytes_max = 8 * 1024;
        file.engine.turn_fanout_max = [1, 3, 2048][(seed % 3) as usize];
        file.engine.park_after_ms = [0, 100][(seed % 2) as usize];
        file.hub.pending_requests_max = [2, 256][(seed % 2) as usize];
        let slow_reader = [SlowReader::DropOldest, SlowReader::Latest][(seed / 3 % 2) as usize];
        file.channels = vec![Channel {
            pattern: "*".into(),
            history: [0, 5, 100][(seed / 2 % 3) as usize],
            slow_reader,
            ..Channel::default()
        }];
    });
    world.broker = broker;
    let truth = Rc::new(RefCell::new(Truth::default()));
    let connect = |name: usize| {
        let shard = world.network.random_below(u64::from(shards)) as u16;
        Member::connect(&world.network, name, shard, truth.clone())
    };
    let mut members: Vec<_> = (0..6).map(connect).collect();
    let mut operator = Operator::default();
    for _ in 0..400 {
        members.iter_mut().for_each(|one| one.act(&world.network, seed, shards, false));
        operator.act(&world, shards);
        world.step();
    }
    settle(&mut world, &mut members, seed, shards);
    members.iter().for_each(|one| one.check_complete(seed));
    let seen = operator.finish(seed);
    let totals = world.totals();
    let live: usize = members
        .iter()
        .map(|one| {
            ["news", "chat:a", "chat:b", "x/1"].iter().filter(|name| one.live_on(name)).count()
        })
        .sum();
    assert_eq!(totals.gauges.channel_members, live as u64, "seed {seed}: no ghosts");
    let dropped = totals.counters.dropped_oldest + totals.counters.dropped_latest;
    members.iter_mut().for_each(|one| one.leaving = true);
    settle(&mut world, &mut members, seed, shards);
    assert!(members.iter().all(Member::is_gone), "seed {seed}");
    world.rest();
    assert_eq!(world.totals().gauges.channel_members, 0, "seed {seed}: no member is left");
    if world.broker.is_some() {
        check_forgotten(&mut world);
    }
    world.drain();
    world.check_laws(true);
    Outcome { truth, dropped, seen }
}

/// A channel that the log has yet to complete something for is never forgotten.
fn check_forgotten(world: &mut World) {
    for _ in 0..500 {
        if world.totals().gauges.channels == 0 {
            return;
        }
        world.network.advance_clock(10_000_000_000);
        world.step();
    }
    panic!("seed {}: something is pending for ever", world.seed);
}

/// Steps until nothing is under way.
fn settle(world: &mut World, members: &mut [Member], seed: u64, shards: u16) {
    let mut calm = 0;
    for _ in 0..20_000 {
        members.iter_mut().for_each(|one| one.act(&world.network, seed, shards, true));
        world.step();
        calm = if members.iter().all(Member::is_settled) { calm + 1 } else { 0 };
        if calm > 100 {
            return;
        }
    }
    panic!("seed {seed}: it never came to rest");
}

fn run_many(seeds: std::ops::Range<u64>, broker: impl Fn() -> Option<Broker>) -> u64 {
    let (mut recovered, mut resumed, mut messages, mut dropped, mut seen) = (0, 0, 0, 0, 0);
    let mut failed = 0;
    for seed in seeds {
        let outcome = run(seed, broker());
        let truth = outcome.truth.borrow();
        recovered += truth.recovered;
        resumed += truth.resumed;
        failed += truth.failed;
        messages += truth.contents.len();
        dropped += outcome.dropped;
        seen += outcome.seen;
    }
    println!(
        "{messages} messages, {resumed} resumptions, {recovered} recovered, {dropped} dropped"
    );
    assert!(recovered > 50 && resumed > 50 && messages > 1000, "the runs did something");
    assert!(dropped > 0, "some readers were slow");
    assert!(seen > 1000, "an operator saw {seen}");
    failed
}

#[test]
fn nothing_is_lost_or_doubled_however_connections_are_cut() {
    let failed = run_many(seeds(0, 300), || None);
    assert_eq!(failed, 0);
}

#[test]
fn nothing_is_lost_or_doubled_over_a_late_log() {
    let failed = run_many(seeds(1000, 300), || Some(Broker::default()));
    assert_eq!(failed, 0);
}

/// Each request is answered once, no subscription that failed has a member, and no failure leaves
/// anything pending or a key behind.
#[test]
fn nothing_is_lost_or_doubled_over_a_log_that_fails() {
    let failed = run_many(seeds(2000, 300), || Some(Broker::failing()));
    assert!(failed > 1000, "{failed} requests failed");
}

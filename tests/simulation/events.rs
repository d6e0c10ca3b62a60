//! Events of shards: each connection and channel comes and goes once, in order, or is counted.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall::driver::sim::{Faults, Peer};
use seawall::driver::{Bell, Token};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use seawall::shard::events::{EventBounds, Events, ShardEvent};

use crate::client::{Behaviour, Client, frame};
use crate::numbers::{connect, leave, open};
use crate::seeds;
use crate::world::World;

#[derive(Default)]
struct Rings(AtomicU64);

impl Bell for Rings {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn attach(world: &World, events_max: usize) -> (Events, Arc<Rings>) {
    let (bounds, bell) = (EventBounds { events_max, bytes_max: 1 << 20 }, Arc::default());
    (world.events().attach(bounds, Arc::clone(&bell) as Arc<dyn Bell>).unwrap(), bell)
}

/// What a consumer knows from events.
#[derive(Default)]
struct Ledger {
    connected: u64,
    disconnected: u64,
    lost: [u64; 2],
    open: HashSet<Token>,
}

impl Ledger {
    fn note(&mut self, seed: u64, event: ShardEvent) {
        match event {
            ShardEvent::Connected { token, .. } => {
                self.connected += 1;
                let is_new = self.open.insert(token);
                assert!(is_new, "seed {seed}: it is opened once");
            }
            ShardEvent::Disconnected { token, bytes_received, .. } => {
                self.disconnected += 1;
                assert!(bytes_received > 0, "seed {seed}: there was a request at least");
                let known = self.open.remove(&token);
                assert!(known || self.lost[0] > 0, "seed {seed}: it was opened before");
            }
            ShardEvent::Lost(counts) => {
                self.lost[0] += counts.connected;
                self.lost[1] += counts.disconnected;
            }
            other => panic!("seed {seed}: there are no channels: {other:?}"),
        }
    }
}

#[test]
fn events_and_losses_add_up_to_what_has_happened() {
    let mut lost = 0;
    for seed in seeds(6000, 40) {
        let mut world = World::new(seed, 1, Faults::harmless(), |file| {
            file.limits.message_bytes_max = 64 * 1024;
            file.limits.outbox_bytes_max = 16 * 1024;
        });
        let events_max = [1, 3, 1000][(seed % 3) as usize];
        let (mut events, bell) = attach(&world, events_max);
        for _ in 0..12 {
            let behaviour = Behaviour::draw(&world.network);
            world.clients.push(Client::connect(&world.network, 0, behaviour));
        }
        let mut ledger = Ledger::default();
        while !world.clients.iter().all(Client::is_done) {
            world.step();
            if world.network.random_below(40) == 0 {
                events.take(0).into_iter().for_each(|event| ledger.note(seed, event));
            }
        }
        world.drain();
        world.check_laws(false);
        events.take(0).into_iter().for_each(|event| ledger.note(seed, event));
        let counters = world.totals().counters;
        assert_eq!(ledger.connected + ledger.lost[0], counters.opened, "seed {seed}");
        assert_eq!(ledger.disconnected + ledger.lost[1], counters.closed_total(), "seed {seed}");
        let all_came = events_max < 1000 || (ledger.lost == [0; 2] && ledger.open.is_empty());
        assert!(all_came, "seed {seed}: there was room for all");
        assert!(counters.opened == 0 || bell.0.load(Ordering::Relaxed) > 0, "seed {seed}");
        lost += ledger.lost.iter().sum::<u64>();
    }
    assert!(lost > 0, "some queues were too short");
}

#[test]
fn an_end_says_how_and_after_how_much() {
    let mut world = World::new(40, 1, Faults::default(), |_| {});
    let (mut events, _) = attach(&world, 10);
    let peer = open(&mut world);
    world.network.advance_clock(3_000_000_000);
    leave(&mut world, &peer);
    let [ShardEvent::Connected { token, address, .. }, ended] = &events.take(0)[..] else {
        panic!("two events")
    };
    assert_eq!(address.map(|address| address.port()), Some(40_000));
    let ShardEvent::Disconnected { token: of, code, duration_ms, bytes_received, .. } = ended
    else {
        panic!("{ended:?}")
    };
    assert_eq!((of, code.get()), (token, 1000));
    assert!((2900..3200).contains(duration_ms), "{duration_ms} ms");
    let sent = crate::numbers::REQUEST.len() + crate::numbers::CLOSE.len();
    assert_eq!(*bytes_received, sent as u64);
    world.drain();
    world.check_laws(false);
}

#[test]
fn without_a_consumer_nothing_is_queued() {
    let mut world = World::new(40, 1, Faults::default(), |_| {});
    let peer = open(&mut world);
    leave(&mut world, &peer);
    assert_eq!(world.events().queued_bytes(0), 0);
    let (events, _) = attach(&world, 10);
    let peer = open(&mut world);
    assert!(world.events().queued_bytes(0) > 0);
    drop(events);
    leave(&mut world, &peer);
    assert_eq!(world.events().queued_bytes(0), 0);
    world.drain();
    world.check_laws(false);
}

fn subscribe(world: &mut World, path: &[u8]) -> Peer {
    let peer = connect(&world.network);
    peer.write(path);
    let request = br#"{"type":"subscribe","id":1,"channel":"a"}"#;
    peer.write(&frame(&world.network, 0x81, request));
    (0..10).for_each(|_| world.turn_shards());
    let received = String::from_utf8_lossy(&peer.read(usize::MAX)).into_owned();
    assert!(received.contains(r#""type":"subscribed""#), "{received}");
    peer
}

#[test]
fn a_channel_is_occupied_by_its_first_member_and_vacated_by_its_last() {
    let budget = HistoryBudget::new(1 << 20);
    let make_log =
        Arc::new(move |_, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    let mut world = World::with_hub(40, 1, Faults::default(), make_log, |file| {
        let handler = seawall::config::HandlerName::Hub;
        file.routes = vec![seawall::config::file::Route { handler, ..Default::default() }];
    });
    let (mut events, _) = attach(&world, 100);
    (0..3).for_each(|_| world.turn_shards());
    let peers: Vec<Peer> = (0..3).map(|_| subscribe(&mut world, crate::numbers::REQUEST)).collect();
    for peer in &peers {
        leave(&mut world, peer);
    }
    (0..5).for_each(|_| world.turn_shards());
    let kinds: Vec<&str> = events
        .take(0)
        .iter()
        .map(|event| match event {
            ShardEvent::Connected { .. } => "connected",
            ShardEvent::Disconnected { .. } => "disconnected",
            ShardEvent::ChannelOccupied { channel } if channel.as_str() == "a" => "occupied",
            ShardEvent::ChannelVacated { channel } if channel.as_str() == "a" => "vacated",
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "connected",
        "occupied",
        "connected",
        "connected",
        "disconnected",
        "disconnected",
        "disconnected",
        "vacated",
    ];
    assert_eq!(kinds, expected);
    world.drain();
    world.check_laws(false);
}

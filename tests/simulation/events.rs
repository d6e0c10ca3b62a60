//! Events of shards: each connection and channel comes and goes once, in order, or is counted.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall::backend::queue::{EventBounds, Events, Happening, ShardEvent};
use seawall::config::file::{Backend, File, Route};
use seawall::driver::sim::{Faults, Peer};
use seawall::driver::{Bell, Token};
use seawall::events::EventKind;
use seawall::hub::{HistoryBudget, Log, MemoryLog};

use crate::client::frame;
use crate::numbers::{connect, leave, open};
use crate::secrets::webhook_secret_file;
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

/// A hub whose application wants these kinds of events.
fn hub_world(
    seed: u64,
    faults: Faults,
    kinds: &[EventKind],
    edit: impl FnOnce(&mut File),
) -> World {
    let budget = HistoryBudget::new(1 << 20);
    let make_log =
        Arc::new(move |_, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    World::with_hub(seed, 1, faults, make_log, |file| {
        let handler = seawall::config::HandlerName::Hub;
        file.routes = vec![Route { handler, ..Route::default() }];
        file.backends = vec![Backend {
            events_url: "http://127.0.0.1:1/events".into(),
            events: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            secret_files: vec![webhook_secret_file()],
            ..Backend::default()
        }];
        edit(file);
    })
}

const OF_CONNECTIONS: [EventKind; 2] = [EventKind::Connected, EventKind::Disconnected];

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
        let event = match event {
            ShardEvent::Happened { event, .. } => event,
            ShardEvent::Lost(counts) => {
                for (lost, kind) in self.lost.iter_mut().zip(OF_CONNECTIONS) {
                    *lost += counts.0.get(&(0, kind)).copied().unwrap_or_default();
                }
                return;
            }
        };
        match event {
            Happening::Connected { client, path } => {
                self.connected += 1;
                let is_new = self.open.insert(client.token);
                assert!(is_new && &*path == "/echo", "seed {seed}: it is opened once");
            }
            Happening::Disconnected { client, bytes_received, .. } => {
                self.disconnected += 1;
                assert!(bytes_received > 0, "seed {seed}: there was a request at least");
                let known = self.open.remove(&client.token);
                assert!(known || self.lost[0] > 0, "seed {seed}: it was opened before");
            }
            other => panic!("seed {seed}: other kinds are not wanted: {other:?}"),
        }
    }
}

#[test]
fn events_and_losses_add_up_to_what_has_happened() {
    let mut lost = 0;
    for seed in seeds(6000, 40) {
        let mut world = hub_world(seed, Faults::harmless(), &OF_CONNECTIONS, |file| {
            file.limits.message_bytes_max = 64 * 1024;
            file.limits.outbox_bytes_max = 16 * 1024;
        });
        let events_max = [1, 3, 1000][(seed % 3) as usize];
        let (mut events, bell) = attach(&world, events_max);
        let mut ledger = Ledger::default();
        let mut peers = Vec::new();
        for _ in 0..60 {
            match world.network.random_below(4) {
                0 | 1 => {
                    let peer = connect(&world.network);
                    peer.write(crate::numbers::REQUEST);
                    peers.push(peer);
                }
                2 => {
                    if let Some(peer) = peers.pop() {
                        leave(&mut world, &peer);
                    }
                }
                _ => drop(peers.pop()),
            }
            world.turn_shards();
            if world.network.random_below(6) == 0 {
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
    let mut world = hub_world(40, Faults::default(), &OF_CONNECTIONS, |_| {});
    let (mut events, _) = attach(&world, 10);
    let peer = open(&mut world);
    world.network.advance_clock(3_000_000_000);
    leave(&mut world, &peer);
    let [
        ShardEvent::Happened { event: Happening::Connected { client, .. }, .. },
        ShardEvent::Happened { event: ended, .. },
    ] = &events.take(0)[..]
    else {
        panic!("two events")
    };
    assert_eq!(client.address.map(|address| address.port()), Some(40_000));
    let Happening::Disconnected { client: of, code, duration_ms, bytes_received, .. } = ended
    else {
        panic!("{ended:?}")
    };
    assert_eq!((of, code.get()), (client, 1000));
    assert!((2900..3200).contains(duration_ms), "{duration_ms} ms");
    let sent = crate::numbers::REQUEST.len() + crate::numbers::CLOSE.len();
    assert_eq!(*bytes_received, sent as u64);
    world.drain();
    world.check_laws(false);
}

#[test]
fn without_a_consumer_nothing_is_queued() {
    let mut world = hub_world(40, Faults::default(), &OF_CONNECTIONS, |_| {});
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
fn members_and_channels_come_and_go_in_order() {
    let kinds = [
        EventKind::Connected,
        EventKind::Disconnected,
        EventKind::Subscribed,
        EventKind::Unsubscribed,
        EventKind::ChannelOccupied,
        EventKind::ChannelVacated,
        EventKind::MemberAdded,
        EventKind::MemberRemoved,
    ];
    let mut world = hub_world(40, Faults::default(), &kinds, |_| {});
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
            ShardEvent::Happened { event, backend: 0, .. } => event.kind().name(),
            other => panic!("{other:?}"),
        })
        .collect();
    let joined = ["connected", "member_added", "subscribed"];
    let left = ["unsubscribed", "disconnected"];
    assert_eq!(kinds[..4], ["connected", "channel_occupied", "member_added", "subscribed"]);
    assert_eq!(kinds[4..10], [joined, joined].concat());
    let count = |name: &str| kinds.iter().filter(|kind| **kind == name).count();
    assert!(left.iter().chain(&["member_removed"]).all(|name| count(name) == 3), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"channel_vacated"));
    assert_eq!(kinds.len(), 20, "{kinds:?}");
    world.drain();
    world.check_laws(false);
}

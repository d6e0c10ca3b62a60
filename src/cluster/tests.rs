//! The logs of several nodes over the model of the engine: whatever fails, each member's messages
//! are in order, and each gap is reported.

mod linger;
mod pace;
mod roster;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::model::{ModelEngine, ModelFaults};
use super::{ClusterLog, Layout, LogLimits};
use crate::hub::testing::Plain;
use crate::hub::{
    ChannelName, Done, Draft, Epoch, KeyScope, Log, Position, Publication, Range, Retention, Since,
    Storing,
};

const RETENTION: Retention = Retention { messages_max: 1000, ttl_ms: 1_000_000 };
const CHANNELS: usize = 3;
const NODES: usize = 3;
const LINGER_MS: u64 = 300;
/// Whatever is to follow does so within this time.
const QUIET_MS: u64 = 1_000;

/// Contents by channel, epoch and offset, as any node has seen them first.
type Truth = HashMap<(u32, u64, u64), String>;

struct Node {
    log: ClusterLog,
    /// The position up to which members of each watched channel have everything. `None`: it is not
    /// known yet.
    positions: [Option<Position>; CHANNELS],
    watched: [bool; CHANNELS],
    /// Contents of appends in flight, by ticket.
    appends: BTreeMap<u64, (u32, String)>,
    /// Reads in flight, by ticket: the channel, and whether the read begins to watch it.
    reads: BTreeMap<u64, (u32, Option<Since>)>,
}

struct World {
    seed: u64,
    random: u64,
    engine: ModelEngine,
    nodes: Vec<Node>,
    truth: Truth,
    /// Appends that were acknowledged.
    acknowledged: Vec<(u32, Position, String)>,
    tickets: u64,
    now_ms: u64,
    gaps: u64,
}

fn content_of(publication: &Publication) -> String {
    publication.message().expect("it is a message").content.to_owned()
}

/// Makes the log of a node over the model.
fn make_log(engine: &ModelEngine, origin: u64) -> ClusterLog {
    let layout = Arc::new(Layout::new("seawall", &["engine".to_owned()]));
    let limits = LogLimits {
        subscribe_timeout_ms: 5_000,
        renewal_ms: 20_000,
        tail_messages_max: 10,
        tail_bytes_max: 8_000,
        linger_ms: LINGER_MS,
        lingering_max: 2,
        epoch_gaps_per_s: 20,
    };
    let storing = Storing::with_only(&Plain);
    ClusterLog::new(engine.port(None), layout, limits, storing, origin)
}

impl World {
    fn new(seed: u64, faults: ModelFaults) -> Self {
        let engine = ModelEngine::new(seed * 7919 + 1, faults);
        let make_node = |origin| {
            let mut log = make_log(&engine, origin);
            log.set_key_bounds(100, 60_000);
            for channel in 0..CHANNELS as u32 {
                let name = ChannelName::new(&channel.to_string());
                assert_eq!(log.open(&name, channel, RETENTION, Epoch(0)).channel, channel);
            }
            Node {
                log,
                positions: [None; CHANNELS],
                watched: [false; CHANNELS],
                appends: BTreeMap::new(),
                reads: BTreeMap::new(),
            }
        };
        let nodes = (0..NODES as u64).map(make_node).collect();
        let (truth, acknowledged) = (Truth::new(), Vec::new());
        let random = seed * 2 + 1;
        Self {
            seed,
            random,
            engine,
            nodes,
            truth,
            acknowledged,
            tickets: 0,
            now_ms: 1_000,
            gaps: 0,
        }
    }

    fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % bound
    }

    fn append(&mut self, node: usize, channel: u32) {
        self.tickets += 1;
        let content = self.tickets.to_string();
        let key = (self.random_below(3) == 0)
            .then(|| KeyScope { owner: "u:ann".into(), key: content.as_str().into() });
        let draft = Draft {
            content: content.as_str().into(),
            from: None,
            exclude: None,
            time_ms: self.now_ms,
            accepted_ns: 7,
            storing: Storing::with_only(&Plain),
        };
        let own = &mut self.nodes[node];
        own.appends.insert(self.tickets, (channel, content));
        own.log.append(self.tickets, channel, draft, key);
    }

    /// A member arrives or all leave, as a home would report it.
    fn toggle_watch(&mut self, node: usize, channel: u32) {
        let own = &mut self.nodes[node];
        let at = channel as usize;
        if own.reads.values().any(|read| *read == (channel, None)) {
            // A home keeps watching while a member joins.
            return;
        }
        own.watched[at] = !own.watched[at];
        own.positions[at] = None;
        own.log.set_watched(channel, own.watched[at]);
        if own.watched[at] {
            self.read_position(node, channel);
        }
    }

    /// Reads the position with which a member begins.
    fn read_position(&mut self, node: usize, channel: u32) {
        self.tickets += 1;
        let own = &mut self.nodes[node];
        own.reads.insert(self.tickets, (channel, None));
        let range = Range { since: None, messages_max: 0, bytes_max: 0, reverse: false };
        own.log.recover(self.tickets, channel, range);
    }

    /// Reads what follows a position that was acknowledged.
    fn recover(&mut self, node: usize) {
        if self.acknowledged.is_empty() {
            return;
        }
        let at = self.random_below(self.acknowledged.len() as u64) as usize;
        let (channel, position, _) = self.acknowledged[at];
        let since = Some(Since { epoch: Some(position.epoch), offset: position.offset });
        self.tickets += 1;
        let own = &mut self.nodes[node];
        own.reads.insert(self.tickets, (channel, since));
        let range = Range { since, messages_max: 1000, bytes_max: 1 << 20, reverse: false };
        if own.watched[channel as usize] {
            own.log.recover(self.tickets, channel, range);
        } else {
            own.log.read(self.tickets, channel, range);
        }
    }

    fn act(&mut self) {
        let node = self.random_below(NODES as u64) as usize;
        let channel = self.random_below(CHANNELS as u64) as u32;
        match self.random_below(12) {
            0 => self.toggle_watch(node, channel),
            1 => self.recover(node),
            2..5 => self.append(node, channel),
            _ => self.engine.step(),
        }
        self.now_ms += self.random_below(20);
        self.engine.set_time(self.now_ms);
        self.drain(node);
    }

    /// Takes the completions of a node, and checks them.
    fn drain(&mut self, node: usize) {
        let now_ms = self.now_ms;
        self.nodes[node].log.set_time(now_ms);
        self.nodes[node].log.expire_messages(now_ms, 100);
        while let Some(done) = self.nodes[node].log.next() {
            self.check(node, done);
        }
    }

    fn note(&mut self, channel: u32, epoch: Epoch, offset: u64, content: &str) {
        let seed = self.seed;
        let known = self.truth.entry((channel, epoch.0, offset)).or_insert_with(|| content.into());
        assert_eq!(known, content, "seed {seed}: one message for each position");
    }

    fn check(&mut self, node: usize, done: Done) {
        let seed = self.seed;
        match done {
            Done::Appended { ticket, position, duplicate } => {
                let (channel, content) = self.nodes[node].appends.remove(&ticket).unwrap();
                assert!(!duplicate, "seed {seed}: each key is used once");
                self.note(channel, position.epoch, position.offset, &content);
                self.acknowledged.push((channel, position, content));
            }
            Done::Delivered { key, publication } => {
                let position = publication.position.unwrap();
                self.note(key, position.epoch, position.offset, &content_of(&publication));
                let own = &mut self.nodes[node].positions[key as usize];
                match own {
                    // The page may have been ahead of the deliveries.
                    Some(before)
                        if before.epoch == position.epoch && position.offset <= before.offset => {}
                    Some(before) => {
                        assert_eq!(before.epoch, position.epoch, "seed {seed}: it was announced");
                        assert!(
                            position.offset == before.offset + 1,
                            "seed {seed}: {before:?} precedes {position:?}"
                        );
                        *own = Some(position);
                    }
                    None => *own = Some(position),
                }
            }
            Done::EpochChanged { key, position } | Done::Gap { key, position } => {
                self.gaps += 1;
                self.nodes[node].positions[key as usize] = Some(position);
            }
            Done::Page { ticket, page } => {
                let (channel, since) = self.nodes[node].reads.remove(&ticket).unwrap();
                for one in &page.messages {
                    self.note(channel, page.position.epoch, one.offset(), &content_of(one));
                }
                let offsets: Vec<_> = page.messages.iter().map(|one| one.offset()).collect();
                let from = since.map_or(page.position.offset, |since| since.offset);
                if since.is_some() && page.complete {
                    let expected: Vec<_> = (from + 1..=page.position.offset).collect();
                    assert_eq!(offsets, expected, "seed {seed}: exactly the missed messages");
                }
                let own = &mut self.nodes[node];
                if since.is_none() && own.watched[channel as usize] {
                    own.positions[channel as usize].get_or_insert(page.position);
                }
            }
            Done::Failed { ticket, .. } => {
                let own = &mut self.nodes[node];
                if own.appends.remove(&ticket).is_some() {
                    return;
                }
                let (channel, since) = own.reads.remove(&ticket).expect("it was submitted once");
                if since.is_none() {
                    // The client subscribes again.
                    self.read_position(node, channel);
                }
            }
            other => panic!("seed {seed}: unexpected {other:?}"),
        }
    }

    /// Lets everything complete, without faults, and checks that all nodes agree.
    fn settle(&mut self) {
        self.engine.set_faults(ModelFaults::default());
        for channel in 0..CHANNELS as u32 {
            // A later message reveals what was lost before it.
            self.append(0, channel);
        }
        let mut quiet_ms = 0;
        for _ in 0..200_000 {
            self.engine.step();
            // Reads that failed are repeated after a time, and channels linger for one.
            self.now_ms += 1;
            (0..NODES).for_each(|node| self.drain(node));
            quiet_ms = if self.engine.is_quiet() { quiet_ms + 1 } else { 0 };
            if quiet_ms > QUIET_MS {
                break;
            }
        }
        assert!(quiet_ms > QUIET_MS, "seed {}: something goes round", self.seed);
        for node in &self.nodes {
            assert!(node.appends.is_empty() && node.reads.is_empty(), "seed {}", self.seed);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let watched = node.watched.iter().filter(|watched| **watched).count();
            assert_eq!(self.engine.subscriptions(at), watched, "seed {}: none is left", self.seed);
        }
        self.check_history();
    }

    /// What was acknowledged in the present epoch is in the history, and members have its end.
    fn check_history(&mut self) {
        for channel in 0..CHANNELS as u32 {
            self.tickets += 1;
            let range =
                Range { since: None, messages_max: 10_000, bytes_max: u64::MAX, reverse: false };
            self.nodes[0].log.read(self.tickets, channel, range);
            let page = loop {
                self.engine.step();
                match self.nodes[0].log.next() {
                    Some(Done::Page { page, .. }) => break page,
                    Some(other) => panic!("seed {}: {other:?}", self.seed),
                    None => {}
                }
            };
            let kept: HashMap<u64, String> =
                page.messages.iter().map(|one| (one.offset(), content_of(one))).collect();
            for (of, position, content) in &self.acknowledged {
                if *of == channel && position.epoch == page.position.epoch {
                    let found = kept.get(&position.offset);
                    assert_eq!(found, Some(content), "seed {}: it was acknowledged", self.seed);
                }
            }
            for node in self.nodes.iter().filter(|node| node.watched[channel as usize]) {
                let own = node.positions[channel as usize];
                assert_eq!(own, Some(page.position), "seed {}: members are up to date", self.seed);
            }
        }
    }
}

fn run(seeds: std::ops::Range<u64>, faults: ModelFaults) -> u64 {
    let times = std::env::var("SEAWALL_SEEDS").map_or(1, |times| times.parse().unwrap());
    let mut gaps = 0;
    for seed in seeds.start..seeds.start + (seeds.end - seeds.start) * times {
        let mut world = World::new(seed, faults);
        for _ in 0..600 {
            world.act();
        }
        world.settle();
        gaps += world.gaps;
    }
    gaps
}

#[test]
fn members_of_all_nodes_get_every_message_in_one_order() {
    let gaps = run(0..100, ModelFaults::default());
    assert_eq!(gaps, 0, "nothing fails, so nothing is lost");
}

#[test]
fn what_is_lost_on_the_way_is_read_again() {
    let faults = ModelFaults { cut: 50, lose_push: 10, ..ModelFaults::default() };
    assert_eq!(run(1000..1200, faults), 0, "the history has it all");
}

#[test]
fn an_engine_that_loses_writes_causes_gaps_and_nothing_worse() {
    let faults = ModelFaults { cut: 80, lose_push: 20, fail_over: 100, ..ModelFaults::default() };
    assert!(run(2000..2200, faults) > 100);
}

#[test]
fn a_clock_that_is_set_back_delays_no_timeout() {
    let mut world = World::new(1, ModelFaults::default());
    let hour_ms = 3_600_000;
    world.now_ms = 2 * hour_ms;
    world.nodes[0].log.set_time(world.now_ms);
    // The engine does not confirm the subscription: nothing steps it.
    world.toggle_watch(0, 0);
    let log = &mut world.nodes[0].log;
    log.expire_messages(hour_ms, 10);
    assert!(log.next().is_none(), "the time to wait has not passed");
    assert_eq!(log.next_expiry_ms(), Some(hour_ms + 5_000));
    log.expire_messages(hour_ms + 5_000, 10);
    assert!(matches!(log.next(), Some(Done::Failed { .. })));
}

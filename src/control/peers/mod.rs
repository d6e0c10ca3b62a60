//! Other nodes of the cluster: their list, calls to them, and the revocations that all apply.
//!
//! A call is a message to one node or to all, and is answered to the caller. A node that does not
//! answer in time is counted as unanswered; nodes that have been silent for long are not waited for
//! at all. Calls may be lost with the engine, so revocations are also kept there: each node applies
//! those that it has missed with its next heartbeat.

mod engine_watch;
mod message;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::redis::{Bus, LifeSigns, Outer, OuterNumbers, REVOCATIONS_AT_ONCE};
use crate::cluster::{ClusterSettings, Incarnation};
use crate::hub::EngineNotice;
use crate::metrics::ClusterNumbers;
pub(crate) use message::{KeptRevocation, PeerCall, PeerError};
use message::{Letter, Message};

/// How long a call waits for answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of the process waits until others know of it.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// A node that has been silent for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);
/// Ended nodes that are remembered.
const DEPARTED_MAX: usize = 1024;
/// The longest delay between attempts of a node to reach the engine.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// What a node says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct PeerRecord {
    pub(super) node: u32,
    /// The host's name, and the process id.
    pub(super) name: String,
    pub(super) version: String,
    pub(super) shards: u16,
    pub(super) connections: u64,
    pub(super) draining: bool,
    /// Unix time (s).
    pub(super) started: u64,
    /// Names what it lists in the engine.
    #[serde(default)]
    pub(super) incarnation: String,
}

/// A node, and the time since its record was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PeerNode {
    #[serde(flatten)]
    pub(super) record: PeerRecord,
    pub(super) silent_ms: u64,
    /// Whether it is this node.
    pub(super) own: bool,
    /// Whether it has been silent for so long that no call waits for it.
    pub(super) lost: bool,
}

/// The answers to a call.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) answers: Vec<(u32, Result<Value, PeerError>)>,
    /// Nodes that have not answered in time.
    pub(super) unanswered: usize,
}

/// How long heartbeats have been steady: otherwise records of other nodes may look old because the
/// engine was away.
#[derive(Debug, Default)]
struct Steadiness {
    /// The first heartbeat since the last interruption, and the last one.
    since: Option<(Instant, Instant)>,
}

impl Steadiness {
    /// Notes a heartbeat, and when it succeeded, if it did. Returns whether heartbeats have been
    /// steady for `node_ttl`.
    fn note_beat(&mut self, at: Option<Instant>, node_ttl: Duration) -> bool {
        self.since = match (at, self.since) {
            (Some(now), Some((first, last))) if now - last <= node_ttl / 2 => Some((first, now)),
            (Some(now), _) => Some((now, now)),
            (None, _) => None,
        };
        // Other nodes may wait that long before they connect again.
        self.since.is_some_and(|(first, last)| last - first >= node_ttl + RECONNECT_MAX)
    }
}

/// When each node was last heard of, by the clock of this host: the ages of records are by that of
/// the engine, which may be set.
#[derive(Debug, Default)]
struct Pulses(HashMap<u32, (u64, Instant)>);

impl Pulses {
    /// Notes records: one is new if it is not older than the one before.
    fn note_records(&mut self, nodes: &[PeerNode], now: Instant) {
        self.0.retain(|node, _| nodes.iter().any(|one| one.record.node == *node));
        for PeerNode { record, silent_ms, .. } in nodes {
            let pulse = self.0.entry(record.node).or_insert((*silent_ms, now));
            if *silent_ms <= pulse.0 {
                pulse.1 = now;
            }
            pulse.0 = *silent_ms;
        }
    }

    /// Returns whether no new record of a node was read for this long.
    fn is_silent(&self, node: u32, now: Instant, at_least: Duration) -> bool {
        self.0.get(&node).is_some_and(|(_, heard)| now.duration_since(*heard) >= at_least)
    }
}

/// The nodes that this node has reported as lost.
#[derive(Debug, Default)]
struct LostReports(HashSet<u32>);

impl LostReports {
    /// Returns the dead that this node has to report, once each. The living node with the lowest
    /// number reports them. If it dies, the next one does that again, since the report may not have
    /// been sent.
    fn find_new<'n>(
        &mut self,
        nodes: &'n [PeerNode],
        is_dead: impl Fn(&PeerNode) -> bool,
    ) -> Vec<&'n PeerRecord> {
        let (dead, alive): (Vec<_>, Vec<_>) = nodes.iter().partition(|one| is_dead(one));
        self.0.retain(|node| dead.iter().any(|one| one.record.node == *node));
        let reports = alive.iter().min_by_key(|one| one.record.node).is_some_and(|one| one.own);
        let new = dead.into_iter().filter(|one| reports && self.0.insert(one.record.node));
        new.map(|one| &one.record).collect()
    }
}

type Answer = (u32, Result<Value, PeerError>);

/// See the module.
pub(super) struct ClusterPeers {
    outer: Arc<Outer>,
    bus: Arc<Bus>,
    node: u32,
    heartbeat: Duration,
    /// A node that has been silent for this long is dead: no call waits for it.
    node_ttl: Duration,
    nodes: ArcSwap<Vec<PeerNode>>,
    /// Incarnations of the nodes that have ended last: their records may be read once more.
    departed: Mutex<VecDeque<Incarnation>>,
    /// Calls that wait for answers.
    waiting: Mutex<HashMap<u64, UnboundedSender<Answer>>>,
    calls: AtomicU64,
    /// Answers that have not come in time.
    unanswered: AtomicU64,
    /// All revocations that the engine keeps were read once.
    has_read: AtomicBool,
    /// The process ends: no heartbeat follows.
    is_leaving: AtomicBool,
}

impl ClusterPeers {
    pub(super) fn new(outer: Arc<Outer>, node: u32, settings: &ClusterSettings) -> Arc<Self> {
        Arc::new(Self {
            bus: outer.bus().clone(),
            outer,
            node,
            heartbeat: settings.heartbeat,
            node_ttl: settings.node_ttl,
            departed: Mutex::default(),
            nodes: ArcSwap::default(),
            waiting: Mutex::default(),
            calls: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            has_read: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        })
    }

    /// Returns the name of what this node lists in the engine.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.outer.incarnation()
    }

    /// Returns this node's number.
    pub(super) fn node(&self) -> u32 {
        self.node
    }

    /// Returns whether the engine has been reached since the start, and its revocations read.
    pub(super) fn was_ready(&self) -> bool {
        self.outer.was_ready() && self.has_read.load(Ordering::Relaxed)
    }

    /// Returns numbers for metrics.
    pub(super) fn numbers(&self) -> ClusterNumbers {
        let OuterNumbers {
            instances,
            connected,
            losses,
            lineages,
            sweeps,
            dropped,
            in_flight_bytes,
            queued_bytes,
        } = self.outer.numbers();
        let nodes = self.nodes().iter().filter(|one| !one.lost).count() as u64;
        ClusterNumbers {
            instances,
            connected,
            losses,
            lineages,
            sweeps,
            unanswered: self.unanswered.load(Ordering::Relaxed),
            dropped,
            in_flight_bytes,
            queued_bytes,
            nodes,
        }
    }

    /// Calls `report` when the engine has gone away for long, and when it is back, for as long as
    /// the process runs.
    pub(super) async fn watch_engine(self: Arc<Self>, report: impl Fn(EngineNotice)) {
        let connected = self.outer.watch_connected();
        engine_watch::watch_engine(connected, engine_watch::AWAY_AFTER, report).await;
    }

    /// Returns all nodes, in the order of their numbers.
    pub(super) fn nodes(&self) -> Arc<Vec<PeerNode>> {
        self.nodes.load_full()
    }

    /// Returns the numbers of this node and of the others that a call waits for, in order.
    pub(super) fn all_present(&self) -> Vec<u32> {
        let mut nodes: Vec<_> = self.others().chain([self.node]).collect();
        nodes.sort_unstable();
        nodes
    }

    /// Returns the other nodes that a call waits for.
    fn others(&self) -> impl Iterator<Item = u32> {
        let nodes = self.nodes();
        let others: Vec<_> = nodes.iter().filter(|one| !one.own && !one.lost).collect();
        others.into_iter().map(|one| one.record.node).collect::<Vec<_>>().into_iter()
    }

    /// Returns whether another node with this number takes calls.
    pub(super) fn is_present(&self, node: u32) -> bool {
        self.others().any(|one| one == node)
    }

    fn lock_waiting(&self) -> MutexGuard<'_, HashMap<u64, UnboundedSender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, to: Option<u32>, letter: Letter) {
        let message = Message { from: self.node, letter };
        self.bus.send(to, serde_json::to_vec(&message).expect("messages are JSON"));
    }

    /// Calls a node, or all other nodes, and waits for their answers.
    pub(super) async fn call(&self, to: Option<u32>, call: PeerCall) -> Answered {
        let mut missing: Vec<_> = match to {
            Some(node) => self.others().filter(|one| *one == node).collect(),
            None => self.others().collect(),
        };
        let mut answered = Answered::default();
        if missing.is_empty() {
            return answered;
        }
        let (sender, mut answers) = unbounded_channel();
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        self.lock_waiting().insert(id, sender);
        self.send(to, Letter::Call { id, call });
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        while !missing.is_empty() {
            let Ok(Some((from, answer))) = tokio::time::timeout_at(deadline, answers.recv()).await
            else {
                break;
            };
            missing.retain(|node| *node != from);
            answered.answers.push((from, answer));
        }
        self.lock_waiting().remove(&id);
        answered.unanswered = missing.len();
        self.unanswered.fetch_add(missing.len() as u64, Ordering::Relaxed);
        answered
    }

    /// Sends a call that needs no answer.
    pub(super) fn notify(&self, to: u32, call: PeerCall) {
        self.send(Some(to), Letter::Notice { call });
    }

    /// Keeps a revocation in the engine for nodes that miss the call.
    pub(super) fn keep_revocation(&self, revocation: &KeptRevocation, life_ms: u64) {
        let text = serde_json::to_string(revocation).expect("revocations are JSON");
        self.bus.keep_revocation(text, life_ms);
    }

    /// Receives messages: answers go to their calls, and calls to `handle`.
    pub(super) async fn receive<H, F>(self: Arc<Self>, handle: H)
    where
        H: Fn(PeerCall) -> F + Clone + 'static,
        F: Future<Output = Result<Value, PeerError>>,
    {
        let receiver = self.bus.take_receiver();
        let mut received: UnboundedReceiver<Vec<u8>> = receiver.expect("there is one receiver");
        while let Some(bytes) = received.recv().await {
            let Ok(Message { from, letter }) = serde_json::from_slice(&bytes) else {
                tracing::warn!("ignoring a message of another node that cannot be read");
                continue;
            };
            if from == self.node {
                continue;
            }
            match letter {
                Letter::Answer { id, answer } => {
                    if let Some(caller) = self.lock_waiting().get(&id) {
                        // The caller may have stopped waiting.
                        let _ = caller.send((from, answer.into()));
                    }
                }
                Letter::Departure { incarnation } => {
                    if let Some(incarnation) = Incarnation::parse(&incarnation) {
                        self.note_departure(incarnation);
                    }
                }
                Letter::Notice { call } => {
                    let handle = handle.clone();
                    tokio::task::spawn_local(async move { drop(handle(call).await) });
                }
                Letter::Call { id, call } => {
                    let (own, handle) = (self.clone(), handle.clone());
                    tokio::task::spawn_local(async move {
                        let answer = handle(call).await.into();
                        own.send(Some(from), Letter::Answer { id, answer });
                    });
                }
            }
        }
    }

    /// Writes this node's record, and reads those of others, for as long as the process runs.
    /// `revoke` applies a revocation that this node has missed; `report_lost` reports a dead node,
    /// if this node has to.
    pub(super) async fn beat(
        self: Arc<Self>,
        record: impl Fn() -> PeerRecord,
        revoke: impl Fn(KeptRevocation),
        report_lost: impl Fn(&PeerRecord),
    ) {
        let mut last_revocation = 0;
        let (mut steady, mut pulses) = (Steadiness::default(), Pulses::default());
        let mut reports = LostReports::default();
        while !self.is_leaving.load(Ordering::Relaxed) {
            let own = serde_json::to_string(&record()).expect("records are JSON");
            let forget_ms = FORGOTTEN_AFTER.max(2 * self.node_ttl).as_millis() as u64;
            let read = self.bus.beat((self.node, own), forget_ms, last_revocation).await;
            let now = Instant::now();
            let is_steady = steady.note_beat(read.is_some().then_some(now), self.node_ttl);
            // While the engine is away, the last list stays.
            if let Some(read) = read {
                let nodes = self.list_nodes(read.nodes);
                pulses.note_records(&nodes, now);
                let is_dead = |node: &PeerNode| {
                    node.lost && pulses.is_silent(node.record.node, now, self.node_ttl / 2)
                };
                self.outer.set_life_signs(is_steady.then(|| self.read_signs(&nodes, is_dead)));
                if is_steady {
                    reports.find_new(&nodes, is_dead).into_iter().for_each(&report_lost);
                }
                self.nodes.store(Arc::new(nodes));
                last_revocation = read.last_revocation;
                let texts = read.revocations.iter();
                texts.filter_map(|text| serde_json::from_str(text).ok()).for_each(&revoke);
                if read.revocations.len() >= REVOCATIONS_AT_ONCE {
                    continue;
                }
                self.has_read.store(true, Ordering::Relaxed);
            } else {
                self.outer.set_life_signs(None);
            }
            tokio::time::sleep(self.heartbeat).await;
        }
    }

    /// Returns the incarnations of the living and of the dead.
    fn read_signs(&self, nodes: &[PeerNode], is_dead: impl Fn(&PeerNode) -> bool) -> LifeSigns {
        let mut signs = LifeSigns::default();
        for node in nodes {
            // A node of an earlier release has none, and lists nothing.
            let Some(incarnation) = Incarnation::parse(&node.record.incarnation) else { continue };
            let set = if is_dead(node) { &mut signs.lost } else { &mut signs.alive };
            set.insert(incarnation);
        }
        let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        for one in departed.iter() {
            signs.alive.remove(one);
            signs.lost.insert(*one);
        }
        signs
    }

    /// A node has ended: what it lists ends.
    fn note_departure(&self, incarnation: Incarnation) {
        let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        departed.push_back(incarnation);
        if departed.len() > DEPARTED_MAX {
            departed.pop_front();
        }
    }

    fn list_nodes(&self, records: Vec<(u64, String)>) -> Vec<PeerNode> {
        let read = |(silent_ms, text): (u64, String)| {
            let record: PeerRecord = serde_json::from_str(&text).ok()?;
            let (own, lost) =
                (record.node == self.node, silent_ms > self.node_ttl.as_millis() as u64);
            Some(PeerNode { record, silent_ms, own, lost })
        };
        let mut nodes: Vec<_> = records.into_iter().filter_map(read).collect();
        nodes.sort_by_key(|one| one.record.node);
        nodes
    }

    /// Leaves the list: other nodes no longer wait for this one, and end what it lists.
    pub(super) async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        let incarnation = self.outer.incarnation().to_string();
        self.send(None, Letter::Departure { incarnation });
        // The engine may be away.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.bus.leave(self.node)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_living_node_reports_each_dead_one_once() {
        let record = |node| PeerRecord {
            node,
            name: String::new(),
            version: String::new(),
            shards: 1,
            connections: 0,
            draining: false,
            started: 0,
            incarnation: String::new(),
        };
        let node = |number, own, lost| PeerNode { record: record(number), silent_ms: 0, own, lost };
        let mut reports = LostReports::default();
        let mut find = |nodes: &[PeerNode]| {
            let found = reports.find_new(nodes, |one| one.lost);
            found.iter().map(|record| record.node).collect::<Vec<_>>()
        };
        let none: [u32; 0] = [];
        let (own, dead) = (node(5, true, false), node(9, false, true));
        assert_eq!(find(&[node(1, false, false), own.clone(), dead.clone()]), none, "1 does");
        assert_eq!(find(&[node(1, false, true), own.clone(), dead.clone()]), [1, 9]);
        assert_eq!(find(&[node(1, false, true), own.clone(), dead.clone()]), none, "once");
        assert_eq!(find(&[own.clone(), node(9, false, false)]), none, "it is back");
        assert_eq!(find(&[own, dead]), [9]);
    }

    #[test]
    fn a_clock_of_the_engine_that_is_set_kills_no_node() {
        let (mut pulses, start) = (Pulses::default(), Instant::now());
        let second = Duration::from_secs(1);
        let make_node = |silent_ms| PeerNode {
            record: PeerRecord {
                node: 1,
                name: String::new(),
                version: String::new(),
                shards: 1,
                connections: 0,
                draining: false,
                started: 0,
                incarnation: String::new(),
            },
            silent_ms,
            own: false,
            lost: silent_ms > 10_000,
        };
        let mut is_silent = |at: u32, silent_ms| {
            let now = start + at * second;
            pulses.note_records(&[make_node(silent_ms)], now);
            pulses.is_silent(1, now, 5 * second)
        };
        assert!(!is_silent(0, 1_000) && !is_silent(2, 900));
        assert!(!is_silent(4, 3_600_000), "the clock was set forward");
        assert!(!is_silent(6, 1_000), "it is heard of again");
        assert!(!is_silent(8, 3_000) && !is_silent(10, 5_000), "it is silent from now on");
        assert!(is_silent(12, 7_000) && is_silent(18, 13_000));
    }

    #[test]
    fn heartbeats_are_steady_after_a_while_without_interruption() {
        let (mut own, start) = (Steadiness::default(), Instant::now());
        let second = Duration::from_secs(1);
        let mut beat =
            |at: Option<u32>| own.note_beat(at.map(|at| start + at * second), 10 * second);
        let steady: Vec<_> = [0, 4, 8].map(|at| beat(Some(at))).to_vec();
        assert_eq!(steady, [false; 3]);
        assert!(!beat(Some(12)) && beat(Some(16)));
        assert!(!beat(Some(24)), "the engine was away");
        assert!(!beat(Some(29)) && !beat(Some(34)) && beat(Some(39)));
        assert!(!beat(None) && !beat(Some(40)));
    }
}

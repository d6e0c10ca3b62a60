//! Other nodes of the cluster: their list, calls to them, and the revocations that all apply.
//!
//! A call is a message to one node or to all, and is answered to the caller. A node that does not
//! answer in time is counted as unanswered; nodes that have been silent for long are not waited for
//! at all. Calls may be lost with the engine, so revocations are also kept there: each node applies
//! those that it has missed with its next heartbeat.

mod engine_watch;
mod message;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cluster::redis::{Bus, Outer, OuterNumbers, REVOCATIONS_AT_ONCE};
use crate::hub::EngineNotice;
use crate::metrics::ClusterNumbers;
pub(crate) use message::{KeptRevocation, PeerCall, PeerError};
use message::{Letter, Message};

/// How long a call waits for answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of the process waits until others know of it.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// A node that has been silent for this long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A node that has been silent for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

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

type Answer = (u32, Result<Value, PeerError>);

/// See the module.
pub(super) struct ClusterPeers {
    outer: Arc<Outer>,
    bus: Arc<Bus>,
    node: u32,
    heartbeat: Duration,
    nodes: ArcSwap<Vec<PeerNode>>,
    /// Calls that wait for answers.
    waiting: Mutex<HashMap<u64, UnboundedSender<Answer>>>,
    calls: AtomicU64,
    /// All revocations that the engine keeps were read once.
    has_read: AtomicBool,
    /// The process ends: no heartbeat follows.
    is_leaving: AtomicBool,
}

impl ClusterPeers {
    pub(super) fn new(outer: Arc<Outer>, node: u32, heartbeat: Duration) -> Arc<Self> {
        Arc::new(Self {
            bus: outer.bus().clone(),
            outer,
            node,
            heartbeat,
            nodes: ArcSwap::default(),
            waiting: Mutex::default(),
            calls: AtomicU64::new(0),
            has_read: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        })
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
        let OuterNumbers { instances, connected, losses, dropped, in_flight_bytes, queued_bytes } =
            self.outer.numbers();
        let nodes = self.nodes().iter().filter(|one| !one.lost).count() as u64;
        ClusterNumbers {
            instances,
            connected,
            losses,
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
    /// `revoke` applies a revocation that this node has missed.
    pub(super) async fn beat(
        self: Arc<Self>,
        record: impl Fn() -> PeerRecord,
        revoke: impl Fn(KeptRevocation),
    ) {
        let mut last_revocation = 0;
        while !self.is_leaving.load(Ordering::Relaxed) {
            let own = serde_json::to_string(&record()).expect("records are JSON");
            let forget_ms = FORGOTTEN_AFTER.as_millis() as u64;
            let read = self.bus.beat((self.node, own), forget_ms, last_revocation).await;
            // While the engine is away, the last list stays.
            if let Some(read) = read {
                self.nodes.store(Arc::new(self.list_nodes(read.nodes)));
                last_revocation = read.last_revocation;
                let texts = read.revocations.iter();
                texts.filter_map(|text| serde_json::from_str(text).ok()).for_each(&revoke);
                if read.revocations.len() >= REVOCATIONS_AT_ONCE {
                    continue;
                }
                self.has_read.store(true, Ordering::Relaxed);
            }
            tokio::time::sleep(self.heartbeat).await;
        }
    }

    fn list_nodes(&self, records: Vec<(u64, String)>) -> Vec<PeerNode> {
        let read = |(silent_ms, text): (u64, String)| {
            let record: PeerRecord = serde_json::from_str(&text).ok()?;
            let (own, lost) =
                (record.node == self.node, silent_ms > SILENCE_MAX.as_millis() as u64);
            Some(PeerNode { record, silent_ms, own, lost })
        };
        let mut nodes: Vec<_> = records.into_iter().filter_map(read).collect();
        nodes.sort_by_key(|one| one.record.node);
        nodes
    }

    /// Leaves the list: other nodes no longer wait for this one.
    pub(super) async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        // The engine may be away.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.bus.leave(self.node)).await;
    }
}

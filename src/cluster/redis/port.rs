//! The queues between shards and the outer thread.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crossbeam_queue::SegQueue;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::sweep::LifeSigns;
use crate::cluster::command::{Action, EngineCommand, EngineEvent, EnginePort};
use crate::cluster::layout::Incarnation;
use crate::driver::Bell;
use crate::metrics::{EngineLoss, Histograms};

/// Bytes of publications queued for a shard above which further ones are dropped.
const PUSHED_BYTES_MAX: usize = 8 << 20;

/// The state of the connections to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterNumbers {
    pub instances: u64,
    pub connected: u64,
    /// Connections that were lost, by cause.
    pub losses: [u64; EngineLoss::ALL.len()],
    /// Lineages seen, the first included.
    pub lineages: u64,
    /// Dead incarnations swept.
    pub sweeps: u64,
    /// Publications dropped because a shard did not take them.
    pub dropped: u64,
    /// Bytes of commands that are not answered yet.
    pub in_flight_bytes: u64,
    /// Bytes of publications that shards have not taken yet.
    pub queued_bytes: u64,
}

/// A command, with the shard that receives its event.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) shard: u16,
    pub(super) command: EngineCommand,
    /// Bytes counted for it until it is completed.
    pub(super) bytes: u64,
    pub(super) since: Instant,
}

/// Durations that the outer thread records, and readers of metrics take.
struct Times {
    /// The start of the shards' clock.
    epoch: Instant,
    recorded: Mutex<Histograms>,
}

impl Times {
    fn lock(&self) -> MutexGuard<'_, Histograms> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of one shard.
#[derive(Default)]
struct Inbox {
    events: SegQueue<EngineEvent>,
    /// Bytes of the queued publications.
    pushed_bytes: AtomicUsize,
    /// Publications were dropped since the shard last learned of it.
    has_dropped: AtomicBool,
    /// The bell was rung since the shard last found the queue empty.
    is_announced: AtomicBool,
    bell: OnceLock<Arc<dyn Bell>>,
}

/// The queues of all shards and instances.
pub(super) struct Shared {
    instances: Vec<UnboundedSender<Submitted>>,
    shards: Vec<Inbox>,
    in_flight_bytes: AtomicU64,
    /// The part of it that is messages, which is limited.
    appended_bytes: AtomicU64,
    appended_bytes_max: u64,
    connected: AtomicUsize,
    /// Whether all instances are connected.
    are_all_connected: watch::Sender<bool>,
    /// All instances have been connected at the same time.
    was_ready: AtomicBool,
    /// Connections that were lost, by cause.
    losses: [AtomicU64; EngineLoss::ALL.len()],
    lineages: AtomicU64,
    sweeps: AtomicU64,
    /// Publications dropped because a shard did not take them.
    dropped: AtomicU64,
    /// Set once durations are to be recorded.
    times: OnceLock<Times>,
    /// The present one of this node.
    incarnation: AtomicU64,
    /// What heartbeats have shown of all nodes.
    life_signs: watch::Sender<Option<Arc<LifeSigns>>>,
}

fn is_append(command: &EngineCommand) -> bool {
    matches!(command.action, Action::Append { .. })
}

fn pushed_bytes(event: &EngineEvent) -> usize {
    match event {
        EngineEvent::Pushed { message, .. } => size_of::<EngineEvent>() + message.envelope.len(),
        EngineEvent::News { news, .. } => {
            size_of::<EngineEvent>() + news.member.encoded_bytes_max()
        }
        _ => 0,
    }
}

/// A number that no other node has.
fn rand_number() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Shared {
    pub(super) fn new(
        instances: Vec<UnboundedSender<Submitted>>,
        shards: usize,
        appended_bytes_max: u64,
    ) -> Self {
        Self {
            instances,
            shards: (0..shards).map(|_| Inbox::default()).collect(),
            in_flight_bytes: AtomicU64::new(0),
            appended_bytes: AtomicU64::new(0),
            appended_bytes_max,
            connected: AtomicUsize::new(0),
            are_all_connected: watch::Sender::new(false),
            was_ready: AtomicBool::new(false),
            losses: Default::default(),
            lineages: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            times: OnceLock::new(),
            incarnation: AtomicU64::new(rand_number()),
            life_signs: watch::Sender::new(None),
        }
    }

    /// Returns the present incarnation of this node.
    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Relaxed))
    }

    /// Begins another incarnation, unless `old` has ended already, and has all shards list their
    /// members again.
    pub(super) fn renew_incarnation(&self, old: Incarnation) {
        let new = rand_number();
        let (old, order) = (old.0, Ordering::Relaxed);
        if self.incarnation.compare_exchange(old, new, order, order).is_ok() {
            self.send_to_all(|| EngineEvent::Unlisted);
        }
    }

    /// Sets what heartbeats have shown of all nodes. `None`: it is not known.
    pub(super) fn set_life_signs(&self, signs: Option<LifeSigns>) {
        self.life_signs.send_replace(signs.map(Arc::new));
    }

    /// Returns the way to learn of changes of these signs.
    pub(super) fn watch_life_signs(&self) -> watch::Receiver<Option<Arc<LifeSigns>>> {
        self.life_signs.subscribe()
    }

    /// Queues an event for a shard, and wakes it. A publication past the bound is dropped.
    pub(super) fn send_event(&self, shard: u16, event: EngineEvent) {
        let inbox = &self.shards[usize::from(shard)];
        let bytes = pushed_bytes(&event);
        if bytes > 0 && inbox.pushed_bytes.load(Ordering::Relaxed) > PUSHED_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            inbox.has_dropped.store(true, Ordering::Release);
            return;
        }
        inbox.pushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        inbox.events.push(event);
        if !inbox.is_announced.swap(true, Ordering::AcqRel)
            && let Some(bell) = inbox.bell.get()
        {
            bell.ring();
        }
    }

    /// Queues an event for all shards.
    pub(super) fn send_to_all(&self, event: impl Fn() -> EngineEvent) {
        (0..self.shards.len() as u16).for_each(|shard| self.send_event(shard, event()));
    }

    /// A command is completed.
    pub(super) fn note_completion(&self, command: &EngineCommand, bytes: u64) {
        let before = self.in_flight_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "each command is completed once");
        if is_append(command) {
            self.appended_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        // One thread calls this.
        let connected = if is_connected {
            self.connected.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.connected.fetch_sub(1, Ordering::Relaxed) - 1
        };
        let are_all_connected = connected == self.instances.len();
        self.was_ready.fetch_or(are_all_connected, Ordering::Relaxed);
        self.are_all_connected.send_replace(are_all_connected);
    }

    /// Counts a connection that was lost.
    pub(super) fn count_loss(&self, cause: EngineLoss) {
        self.losses[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a lineage that an instance did not have before.
    pub(super) fn count_lineage(&self) {
        self.lineages.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a sweep.
    pub(super) fn count_sweep(&self) {
        self.sweeps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether all instances are connected, to be watched.
    pub(super) fn watch_connected(&self) -> watch::Receiver<bool> {
        self.are_all_connected.subscribe()
    }

    /// Records durations from now on. `epoch`: the start of the shards' clock.
    pub(super) fn keep_times(&self, epoch: Instant) {
        let times = Times { epoch, recorded: Mutex::default() };
        assert!(self.times.set(times).is_ok(), "they are kept once");
    }

    /// Takes what was recorded since the last call; `None`: nothing is recorded.
    pub(super) fn take_times(&self) -> Option<Histograms> {
        self.times.get().map(|times| std::mem::take(&mut *times.lock()))
    }

    /// Records the round trip of a command.
    pub(super) fn record_round_trip(&self, since: Instant) {
        if let Some(times) = self.times.get() {
            let took_ns = since.elapsed().as_nanos() as u64;
            times.lock().engine_round_trip.record(took_ns);
        }
    }

    /// Records the arrival of a publish that this process accepted then, on the shards' clock.
    pub(super) fn record_arrival(&self, accepted_ns: u64) {
        if let Some(times) = self.times.get() {
            let now_ns = times.epoch.elapsed().as_nanos() as u64;
            times.lock().publish_to_arrival.record(now_ns.saturating_sub(accepted_ns));
        }
    }

    pub(super) fn was_ready(&self) -> bool {
        self.was_ready.load(Ordering::Relaxed)
    }

    pub(super) fn numbers(&self) -> OuterNumbers {
        let queued = self.shards.iter().map(|one| one.pushed_bytes.load(Ordering::Relaxed));
        OuterNumbers {
            instances: self.instances.len() as u64,
            connected: self.connected.load(Ordering::Relaxed) as u64,
            losses: self.losses.each_ref().map(|one| one.load(Ordering::Relaxed)),
            lineages: self.lineages.load(Ordering::Relaxed),
            sweeps: self.sweeps.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Ordering::Relaxed),
            queued_bytes: queued.sum::<usize>() as u64,
        }
    }
}

/// The port of a shard.
pub(super) struct ShardPort {
    shared: Arc<Shared>,
    shard: u16,
}

impl ShardPort {
    /// Makes the port of a shard, which has one.
    pub(super) fn new(shared: Arc<Shared>, shard: u16, bell: Arc<dyn Bell>) -> Self {
        let inbox = &shared.shards[usize::from(shard)];
        assert!(inbox.bell.set(bell).is_ok(), "a shard has one port");
        Self { shared, shard }
    }
}

impl EnginePort for ShardPort {
    fn submit(&mut self, command: EngineCommand) -> bool {
        let (shared, bytes) = (&self.shared, command.bytes());
        shared.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
        if is_append(&command) {
            let before = shared.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
            if before + bytes > shared.appended_bytes_max {
                shared.note_completion(&command, bytes);
                return false;
            }
        }
        let instance = &shared.instances[usize::from(command.place.instance)];
        let since = Instant::now();
        // The outer thread outlives the ports.
        let _ = instance.send(Submitted { shard: self.shard, command, bytes, since });
        true
    }

    fn next_event(&mut self) -> Option<EngineEvent> {
        let inbox = &self.shared.shards[usize::from(self.shard)];
        let event = inbox.events.pop().or_else(|| {
            // An event queued after this rings the bell, so look once more for one before it.
            inbox.is_announced.store(false, Ordering::SeqCst);
            let has_dropped = inbox.has_dropped.swap(false, Ordering::AcqRel);
            inbox.events.pop().or_else(|| has_dropped.then_some(EngineEvent::Dropped))
        })?;
        inbox.pushed_bytes.fetch_sub(pushed_bytes(&event), Ordering::Relaxed);
        Some(event)
    }
}

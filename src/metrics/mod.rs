//! Metrics: counters and histograms that each shard owns, merged when they are read.
//!
//! Recording costs an addition or an array access, never an atomic operation or a lock. Reading
//! costs the shard an exchange: it receives an empty [`Snapshot`], fills in its counters, and swaps
//! the histograms, so that what it has recorded since the last reading is handed over without a
//! copy. The reader adds up all snapshots; the sum equals recording in a single place.
//!
//! Measured (median of 400 readings of one shard with all seven histograms in use): a copy into new
//! memory that the reader frees took 5.9 µs, a copy into reused memory 7.7 µs, the exchange 0.06
//! µs. The memory for an exchange is allocated each time: keeping it would double the memory of
//! each shard's histograms, which with many shards is more than all queues use.

mod backends;
mod counters;
pub mod hdr;
mod histograms;
pub mod interval_log;
mod process;
pub mod prometheus;
pub mod text;

use std::time::Duration;

pub use counters::{CloseClass, Counters};
pub use histograms::{HISTOGRAMS, Histograms, Recorder, Unit};

use crate::driver::DriverCounters;
use crate::driver::host::ProcessNumbers;
use crate::events::EventKind;
use crate::hooks::HookNumbers;

/// All metrics of one shard (or, merged, of the node) at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub counters: Counters,
    pub histograms: Histograms,
    pub gauges: Gauges,
    /// One entry per shard.
    pub drivers: Vec<(u16, Gauges, DriverCounters)>,
}

/// Metrics of the whole process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Time since the shards started.
    pub uptime: Duration,
    /// The system call by which shards submit and wait.
    pub wait_call: &'static str,
    /// The engine's name.
    pub driver: &'static str,
    /// Failed writes of the histogram log.
    pub histogram_log_errors: u64,
    /// Log lines dropped because standard error was not read.
    pub log_lines_dropped: u64,
    /// Open connections to the admin address.
    pub admin_connections: u64,
    /// Connections to the admin address closed by a deadline or to make room.
    pub admin_evictions: u64,
    /// Memory of the process and its sockets (bytes).
    pub memory_used_bytes: u64,
    /// Level of memory shortage, from 0 (none) to 3.
    pub memory_shortage: u64,
    /// When the first certificate expires (Unix time, s); 0 = there is none.
    pub certificate_expires_s: i64,
    /// Whether the server is draining.
    pub draining: bool,
    /// Kernel counters of the process.
    pub host: ProcessNumbers,
    /// Start of the process (Unix time, s).
    pub started_unix_s: f64,
    pub limits: NodeLimits,
    /// `None`: the server is alone.
    pub cluster: Option<ClusterNumbers>,
    /// Of each application that receives events.
    pub events: Vec<EventNumbers>,
    /// Of each application that is asked questions.
    pub hooks: Vec<HookGauges>,
    /// Of each application that exchanges messages.
    pub links: Vec<LinkGauges>,
}

/// The links to an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkGauges {
    pub backend: String,
    /// Links that take new sessions, and those that drain.
    pub ready: u64,
    pub draining: u64,
    pub sessions: u64,
    /// Bytes of records that wait to be sent.
    pub queue_bytes: u64,
    /// Bytes of messages that are not acknowledged.
    pub unacked_bytes: u64,
    pub records_in: u64,
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Links that ended without having drained.
    pub lost: u64,
    /// Attempts to dial that failed.
    pub dial_failures: u64,
}

/// The questions to an application.
#[derive(Clone, Debug)]
pub struct HookGauges {
    pub backend: String,
    pub numbers: HookNumbers,
}

/// The events of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventNumbers {
    pub backend: String,
    pub accepted: Vec<(EventKind, u64)>,
    pub lost: Vec<(EventKind, u64)>,
    /// Attempts to send a batch again.
    pub retries: u64,
    pub waiting: u64,
    pub bytes: u64,
    /// How long the oldest event has waited.
    pub lag: Duration,
}

/// Why a connection to an instance of a cluster's engine was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineLoss {
    /// It was closed, or has failed.
    Closed,
    /// Nothing was heard for too long.
    Silent,
    /// The engine has another lineage.
    Lineage,
    /// The engine has become a replica.
    Replica,
    /// The engine rejects the scripts, or answers something else than they do.
    Invalid,
}

impl EngineLoss {
    /// All causes.
    pub const ALL: [Self; 5] =
        [Self::Closed, Self::Silent, Self::Lineage, Self::Replica, Self::Invalid];

    /// Returns the value of the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Lineage => "lineage",
            Self::Replica => "replica",
            Self::Invalid => "invalid",
        }
    }
}

/// The state of a node's connections to its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterNumbers {
    /// Instances of the engine, and those that are connected.
    pub instances: u64,
    pub connected: u64,
    /// Connections to instances that were lost, by cause.
    pub losses: [u64; EngineLoss::ALL.len()],
    /// Lineages of instances that were seen, the first included.
    pub lineages: u64,
    /// Times that this node has ended what a dead node listed.
    pub sweeps: u64,
    /// Nodes that have not answered a call in time.
    pub unanswered: u64,
    /// Publications dropped because a shard did not take them.
    pub dropped: u64,
    /// Bytes of commands that are not answered yet.
    pub in_flight_bytes: u64,
    /// Bytes of publications that shards have not taken yet.
    pub queued_bytes: u64,
    /// Nodes that take calls, this one included.
    pub nodes: u64,
}

/// Configured limits, as gauges to compare with use. 0 = no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeLimits {
    pub connections_max: u64,
    pub shard_connections_max: u64,
    pub memory_bytes_max: u64,
    pub shard_outbox_bytes_max: u64,
    pub channels_max: u64,
    pub history_bytes_max: u64,
    /// Limit of open files.
    pub open_files: u64,
}

/// Current values, as opposed to counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections in any stage.
    pub slots: u64,
    /// Open WebSockets.
    pub open: u64,
    /// Connections whose handshake is incomplete.
    pub handshakes: u64,
    /// Parked connections: new or quiet ones, whose input is only polled for.
    pub parked: u64,
    /// Connections with TLS.
    pub tls: u64,
    /// Deferred connection work (close, wake, park).
    pub deferred_work: u64,
    /// Bytes in outboxes.
    pub outbox_bytes: u64,
    /// Bytes of recovered messages queued for returning subscribers.
    pub recovering_bytes: u64,
    /// Largest outbox since the start (bytes).
    pub outbox_bytes_peak: u64,
    /// Bytes of incomplete requests and messages.
    pub partial_bytes: u64,
    /// Bytes received and not yet processed.
    pub held_bytes: u64,
    /// Connections with compression contexts.
    pub contexts: u64,
    /// Bytes of these contexts.
    pub context_bytes: u64,
    /// Inflaters in use by incomplete messages.
    pub inflaters_leased: u64,
    /// Bytes of compressors and inflaters shared by connections.
    pub codec_pool_bytes: u64,
    /// Open channels.
    pub channels: u64,
    /// Subscriptions.
    pub channel_members: u64,
    /// Messages in channels' histories.
    pub history_messages: u64,
    /// Bytes of messages in channels' histories.
    pub history_bytes: u64,
    /// Changes of lists of members that the engine of a cluster has yet to confirm.
    pub roster_changes: u64,
    /// Idempotency keys remembered.
    pub idempotency_keys: u64,
    /// Memory of the tables of channels (bytes).
    pub channel_bytes: u64,
    /// Memory of subscriptions (bytes).
    pub subscription_bytes: u64,
    /// Memory of lists of members (bytes).
    pub presence_bytes: u64,
    /// Memory of idempotency keys (bytes).
    pub idempotency_bytes: u64,
    /// Memory of sessions, of the hub and of gateways (bytes).
    pub session_bytes: u64,
    /// Sessions of gateways.
    pub gateway_sessions: u64,
    /// Bytes of mail about channels, queued for shards.
    pub mailbox_bytes: u64,
    /// Time of turns since the start (ns), where histograms are on.
    pub busy_ns: u64,
    /// Time between turns since the start (ns), where histograms are on.
    pub idle_ns: u64,
}

impl Gauges {
    fn add(&mut self, other: &Gauges) {
        self.slots += other.slots;
        self.open += other.open;
        self.handshakes += other.handshakes;
        self.parked += other.parked;
        self.tls += other.tls;
        self.deferred_work += other.deferred_work;
        self.outbox_bytes += other.outbox_bytes;
        self.recovering_bytes += other.recovering_bytes;
        self.outbox_bytes_peak = self.outbox_bytes_peak.max(other.outbox_bytes_peak);
        self.partial_bytes += other.partial_bytes;
        self.held_bytes += other.held_bytes;
        self.contexts += other.contexts;
        self.context_bytes += other.context_bytes;
        self.inflaters_leased += other.inflaters_leased;
        self.codec_pool_bytes += other.codec_pool_bytes;
        self.channels += other.channels;
        self.channel_members += other.channel_members;
        self.history_messages += other.history_messages;
        self.history_bytes += other.history_bytes;
        self.roster_changes += other.roster_changes;
        self.idempotency_keys += other.idempotency_keys;
        self.channel_bytes += other.channel_bytes;
        self.subscription_bytes += other.subscription_bytes;
        self.presence_bytes += other.presence_bytes;
        self.idempotency_bytes += other.idempotency_bytes;
        self.session_bytes += other.session_bytes;
        self.gateway_sessions += other.gateway_sessions;
        self.mailbox_bytes += other.mailbox_bytes;
        self.busy_ns += other.busy_ns;
        self.idle_ns += other.idle_ns;
    }
}

impl Snapshot {
    /// Creates an empty snapshot, to be exchanged for a shard's metrics.
    pub fn new(histograms: bool) -> Self {
        Self { histograms: Histograms::new(histograms), ..Self::default() }
    }

    /// Adds another shard's metrics.
    pub fn merge(&mut self, other: &Snapshot) {
        self.counters.add(&other.counters);
        self.histograms.add(&other.histograms);
        self.gauges.add(&other.gauges);
        self.drivers.extend_from_slice(&other.drivers);
    }
}

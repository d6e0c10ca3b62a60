//! The numbers: plain counters and histograms a shard owns alone, merged when somebody asks.
//!
//! Recording costs an addition or an array access, never an atomic or a lock. Reading costs the
//! shard an exchange: it is given an empty [`Snapshot`], fills in its counters, and swaps the
//! histograms, so that what it recorded since the last reading leaves without being copied. The
//! reader adds up; adding up the snapshots of all shards equals recording in one.
//!
//! Measured before choosing, the median of 400 readings of one shard with all seven histograms in
//! use: a copy into new memory that the reader frees took 5.9 µs, one into memory that comes back
//! 7.7 µs, and the exchange 0.06 µs. The memory given in exchange is new each time: kept sets would
//! be a second one for each shard, and with many shards that is more than all queues hold.

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

/// Everything one shard (or, merged, the node) knows of itself at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub counters: Counters,
    pub histograms: Histograms,
    pub gauges: Gauges,
    /// One entry a shard.
    pub drivers: Vec<(u16, Gauges, DriverCounters)>,
}

/// What is known of the process as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Time since the shards were started.
    pub uptime: Duration,
    /// The system call by which shards submit and wait.
    pub wait_call: &'static str,
    /// Writes of the histogram log that failed.
    pub histogram_log_errors: u64,
    /// Lines of the log that were dropped because standard error was not read.
    pub log_lines_dropped: u64,
    /// Connections to the admin address.
    pub admin_connections: u64,
    /// Of these, closed by a deadline or to make room.
    pub admin_evictions: u64,
    /// Memory of the process and of its sockets (bytes).
    pub memory_used_bytes: u64,
    /// How much is refused for want of it, from 0 (nothing) to 3.
    pub memory_shortage: u64,
    /// Whether it is about to stop.
    pub draining: bool,
    /// What the kernel knows of the process.
    pub host: ProcessNumbers,
    /// When it started (Unix time, s).
    pub started_unix_s: f64,
    pub limits: NodeLimits,
}

/// Configured limits, as gauges to compare with what is in use. 0 = no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeLimits {
    pub connections_max: u64,
    pub shard_connections_max: u64,
    pub memory_bytes_max: u64,
    pub shard_outbox_bytes_max: u64,
    pub channels_max: u64,
    pub history_bytes_max: u64,
    /// Files that the process may have open.
    pub open_files: u64,
}

/// What is so now, rather than what has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections in any stage.
    pub slots: u64,
    /// Open WebSockets.
    pub open: u64,
    /// Connections that have not finished their handshake.
    pub handshakes: u64,
    /// New or quiet connections whose input is only watched for.
    pub parked: u64,
    /// Ends, wakes and parkings of connections that wait for their turn.
    pub upkeep: u64,
    /// Bytes that wait to be sent.
    pub outbox_bytes: u64,
    /// Bytes of recovered messages queued for returning subscribers.
    pub recovering_bytes: u64,
    /// The most that waited for one connection since the start.
    pub outbox_bytes_peak: u64,
    /// Bytes of partial requests and messages.
    pub partial_bytes: u64,
    /// Bytes received and not looked at yet.
    pub held_bytes: u64,
    /// Connections that keep compression contexts.
    pub contexts: u64,
    /// Bytes of these contexts.
    pub context_bytes: u64,
    /// Inflaters that messages coming in parts hold.
    pub inflaters_leased: u64,
    /// Bytes of compressors and inflaters that connections share.
    pub codec_pool_bytes: u64,
    /// Open channels.
    pub channels: u64,
    /// Subscriptions.
    pub channel_members: u64,
    /// Messages kept for channels' histories.
    pub history_messages: u64,
    /// Bytes of them.
    pub history_bytes: u64,
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
    /// Memory of hub sessions (bytes).
    pub session_bytes: u64,
    /// Bytes of mail about channels that waits for shards.
    pub mailbox_bytes: u64,
    /// Time that turns took since the start (ns), where histograms are on.
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
        self.upkeep += other.upkeep;
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
        self.idempotency_keys += other.idempotency_keys;
        self.channel_bytes += other.channel_bytes;
        self.subscription_bytes += other.subscription_bytes;
        self.presence_bytes += other.presence_bytes;
        self.idempotency_bytes += other.idempotency_bytes;
        self.session_bytes += other.session_bytes;
        self.mailbox_bytes += other.mailbox_bytes;
        self.busy_ns += other.busy_ns;
        self.idle_ns += other.idle_ns;
    }
}

impl Snapshot {
    /// An empty one, to be exchanged for a shard's numbers.
    pub fn new(histograms: bool) -> Self {
        Self { histograms: Histograms::new(histograms), ..Self::default() }
    }

    /// Adds another shard's numbers.
    pub fn merge(&mut self, other: &Snapshot) {
        self.counters.add(&other.counters);
        self.histograms.add(&other.histograms);
        self.gauges.add(&other.gauges);
        self.drivers.extend_from_slice(&other.drivers);
    }
}

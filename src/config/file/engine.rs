//! The engine's rows: rings, memory and turns.

use serde::{Deserialize, Serialize};

use super::table::{ANY, Kind, OptionType, section};

/// Which engine moves bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// `io_uring` where it is allowed, else epoll.
    #[default]
    Auto,
    Uring,
    Epoll,
}

impl OptionType for DriverChoice {
    const KIND: Kind = Kind::Choice(&["auto", "uring", "epoll"]);
}

section! {
    /// Rings, their memory, and how much work one turn of a shard does.
    Engine "engine" repeated false;

    /// The kernel interface for all client connections: `uring` = `io_uring`; `epoll`; `auto` =
    /// `uring` where the host allows it, else `epoll`. The start banner, `/v1/node` and `seawall
    /// doctor` show the one in use, and the reason.
    driver: DriverChoice = DriverChoice::Auto,
    "`uring` to fail at the start rather than run on epoll, which takes two system calls and more \
     for each message; `epoll` where io_uring must not be used.";

    /// Pins each shard to a core (shard modulo cores).
    pin: bool = true,
    "Switch off where other busy processes share the cores.";

    /// Submission entries of a ring.
    ring_entries: u32 = 1024 => "entries" in 64..=8192,
    "Raise when `seawall_ring_overflows_total` grows. Half is enough for few connections; the \
     cost is locked memory.";

    /// Completion entries of a ring, rounded up to a power of two; 0 = eight per submission entry,
    /// otherwise at least two per submission entry. A completion that does not fit ends its
    /// connection's receive, which is then armed again.
    completion_entries: u32 = 0 => "entries" in 0..=65_536,
    "Raise when `seawall_ring_overflows_total` grows while turns are short.";

    /// Size of one receive buffer. A message that fits into one is read without a copy; small
    /// messages touch only a buffer's first page.
    buffer_bytes: u32 = 64 * 1024 => "bytes" in 1024..=1 << 20,
    "16 KiB saves memory where messages are small and many arrive at once; larger buffers avoid \
     copies where most messages exceed one.";

    /// Receive buffers of the node, divided by shards: at least eight of `buffer_bytes` per shard.
    /// Address space rather than memory: only what is in flight is touched, and unused pages are
    /// returned.
    buffer_memory_bytes: u64 = 256 << 20 => "bytes" in 8192..=ANY,
        because "each shard needs eight buffers of engine.buffer_bytes",
    "Raise when `seawall_receive_starvations_total` grows while `seawall_buffers_published` is at \
     its bound; lower where memory is tight.";

    /// Accepts pending on each listener of a shard.
    accepts_per_listener: u32 = 16 => "accepts" in 1..=1024,
    "Raise when connections arrive in waves of thousands and `seawall_accept_to_open_seconds` \
     shows that they wait.";

    /// Completions handled in one turn, before a shard submits and does its other work.
    turn_completions_max: u32 = 512 => "completions" in 1..=ANY,
    "Lower when `seawall_turn_seconds` is long and tail latency matters more than throughput.";

    /// Messages and control frames processed in one turn: about 1 ms of work. A connection gets a
    /// quarter of that; the rest of its input follows after that of others.
    turn_frames_max: u32 = 8 * 1024 => "frames" in 1..=ANY,
    "Lower when tail latency matters more than throughput; raise where few clients pipeline very \
     many small messages.";

    /// Bytes compressed in one turn at level 1: about 1 ms of work. At other levels, and for
    /// inflation, as many as take the same time. A connection gets a quarter of that; the rest of
    /// its input follows after that of others.
    turn_codec_bytes_max: u32 = 384 * 1024 => "bytes" in 1..=ANY,
    "Lower when compressed messages of a few clients lengthen `seawall_turn_seconds` for all.";

    /// Inflaters of a shard for compressed messages that arrive in parts, 48 KB each, made when
    /// needed. Further messages are stored compressed until they are complete.
    inflaters_max: u32 = 16 => "inflaters" in 0..=ANY,
    "Raise when `seawall_inflater_waits_total` grows and memory for unfinished messages is short.";

    /// Timers fired in one turn.
    turn_timers_max: u32 = 256 => "timers" in 1..=ANY,
    "Lower when heartbeats of very many connections lengthen turns.";

    /// Deliveries to members of channels in one turn of a shard.
    turn_fanout_max: u32 = 2048 => "deliveries" in 1..=ANY,
    "Lower when publishes to very many members lengthen `seawall_turn_seconds` for all; raise to \
     deliver each of them sooner.";

    /// Bytes of mail queued for a shard; past it, reading from publishers pauses, and the API
    /// answers 503.
    mailbox_bytes_max: u64 = 64 << 20 => "bytes" in 1_048_576..=ANY,
    "Raise where bursts of large publishes cross shards and memory is available.";

    /// Bytes of one send. Messages queued behind it can still be dropped (`slow_reader`).
    send_bytes_max: u32 = 256 * 1024 => "bytes" in 4096..=1 << 30,
    "Raise for few clients with large messages on fast networks.";

    /// Pieces of memory of one send.
    send_segments_max: u32 = 256 => "segments" in 1..=1024,
    "Raise when very many large messages are queued for one connection.";

    /// A reply that equals its message (an echo) and has at least this many bytes is sent from the
    /// receive buffer, without a copy.
    reply_in_place_bytes_min: u32 = 512 => "bytes" in 0..=ANY,
    "Measured: no difference at 20 bytes, 3 % less CPU at 1 KiB, 22 % less at 16 KiB.";

    /// Memory that each of a shard's pools keeps for outgoing messages.
    pool_bytes_max: u32 = 1 << 20 => "bytes" in 0..=ANY,
    "Raise when large messages are answered in bursts.";

    /// The maximum time to wait for a batch of completions; 0 = off.
    min_wait_us: u32 = 0 => "microseconds" in 0..=1_000_000,
    "50 to 200 saves CPU where that much latency does not matter.";

    /// Size of that batch.
    min_wait_completions: u32 = 16 => "completions" in 1..=ANY,
    "Set to about the batch that `seawall_batch` shows under load.";

    /// After this time without a byte from the client, plus up to half of it at random, the
    /// connection is parked: a poll replaces its receive, which saves 0.6 KB of kernel memory. A
    /// second message within the time ends the parking. New connections begin parked. 0 = never.
    park_after_ms: u32 = 5_000 => "milliseconds" in 0..=ANY,
    "Keep below the heartbeat's interval, or no connection is ever parked. Raise where clients \
     send every few seconds: a message to a parked connection costs two more operations.";

    /// A new connection is handed to the least loaded shard when this one has this many more.
    handover_connections: u32 = 256 => "connections" in 0..=ANY,
    "Lower for few, busy connections that must be spread evenly.";
}

//! The engine's rows: rings, memory and turns.

use super::table::section;

section! {
    /// The rings, their memory, and how much is done in one turn of a shard.
    Engine "engine" repeated false;

    /// Pins each shard to a core (shard modulo cores).
    pin: bool = true,
    "Switch off where other busy processes share the cores, or the host moves threads better.";

    /// Submission entries of a ring.
    ring_entries: u32 = 1024,
    "Raise when `seawall_ring_overflows_total` grows. Half is enough for few connections; locked \
     memory is the price.";

    /// Completion entries of a ring, rounded up to a power of two; 0 = eight for each submission
    /// entry. A completion that finds no room ends its connection's receive, which is then armed
    /// anew.
    completion_entries: u32 = 0,
    "Raise when `seawall_ring_overflows_total` grows while turns are short.";

    /// Size of one receive buffer. A message that fits into one is never copied to be read; small
    /// messages touch only a buffer's first page.
    buffer_bytes: u32 = 64 * 1024,
    "16 KiB save memory where messages are small and many arrive at once; larger ones spare \
     copies where most messages are larger than a buffer.";

    /// Receive buffers of the whole node, divided by shards; their count is this by
    /// `buffer_bytes`. Address space rather than memory: only what is in flight is touched, and
    /// what rests is given back.
    buffer_memory_bytes: u64 = 256 << 20,
    "Raise when `seawall_receive_starvations_total` grows though `seawall_buffers_published` is at \
     this bound; lower where memory is tight.";

    /// Accepts that stand ready on each listener of a shard.
    accepts_per_listener: u32 = 16,
    "Raise when connections come in waves of thousands and `seawall_accept_to_open_seconds` \
     shows them waiting.";

    /// Completions handled in one turn, before a shard submits and looks at its other work.
    turn_completions_max: u32 = 512,
    "Lower when `seawall_turn_seconds` is long and tails matter more than throughput.";

    /// Messages and control frames looked at in one turn: about 1 ms of work. A connection has a
    /// quarter of that before the others, and continues behind them.
    turn_frames_max: u32 = 8 * 1024,
    "Lower when tails matter more than throughput; raise where few clients pipeline very many \
     small messages.";

    /// Bytes compressed in one turn at level 1, which is about 1 ms of work; at other levels, or
    /// inflated, as many as cost the same. A connection has a quarter of that before the others.
    turn_codec_bytes_max: u32 = 384 * 1024,
    "Lower when compressed messages of some lengthen `seawall_turn_seconds` for all.";

    /// Inflaters of a shard that compressed messages coming in parts may hold, 48 KB each, made
    /// when needed. Messages beyond wait as they came until they are whole.
    inflaters_max: u32 = 16,
    "Raise when `seawall_inflater_waits_total` grows and memory for unfinished messages is short.";

    /// Timers fired in one turn.
    turn_timers_max: u32 = 256,
    "Lower when heartbeats of very many connections lengthen turns.";

    /// Deliveries to members of channels that a shard makes in one turn.
    turn_fanout_max: u32 = 2048,
    "Lower when publications to very many members lengthen `seawall_turn_seconds` for all; higher \
     spreads each of them sooner.";

    /// Bytes of mail that may wait for a shard; past it publishers are slowed down, and the API
    /// answers 503.
    mailbox_bytes_max: u64 = 64 << 20,
    "Raise where bursts of large publications cross shards and memory is there.";

    /// Bytes that leave in one send; what waits behind them can still be acted on.
    send_bytes_max: u32 = 256 * 1024,
    "Raise for few clients with large messages on fast networks.";

    /// Pieces of memory that leave in one send (at most 1024).
    send_segments_max: u32 = 256,
    "Raise when very many large messages wait for one connection.";

    /// A reply that is its message (an echo) and has at least so many bytes leaves from the very
    /// buffer the message came in, without a copy.
    reply_in_place_bytes_min: u32 = 512,
    "Measured: no difference at 20 bytes, 3 % less CPU at 1 KiB, 22 % less at 16 KiB.";

    /// Memory that each of a shard's pools keeps warm for messages on their way out.
    pool_bytes_max: u32 = 1 << 20,
    "Raise when large messages are answered in bursts.";

    /// Waits up to this long for a batch of completions; 0 = off.
    min_wait_us: u32 = 0,
    "Set to 50 to 200 to save CPU where that much latency does not matter.";

    /// Completions worth that wait.
    min_wait_completions: u32 = 16,
    "About the batch that `seawall_batch` shows under load.";

    /// After so long without a byte from the client, and up to half as much more, its armed
    /// receive is replaced by a watch that takes 0.6 KB less of the kernel's memory; a second
    /// message within the time brings the receive back. A new connection begins with the watch.
    /// 0 = never.
    park_after_ms: u32 = 5_000,
    "Below the interval of the heartbeat, or no connection is ever parked; longer where clients \
     send every few seconds: a message to a parked connection costs two more operations.";

    /// A new connection is handed to the least loaded shard when this one has so many more.
    handover_connections: u32 = 256,
    "Lower for few, busy connections that must be spread evenly.";
}

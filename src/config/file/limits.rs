//! Limits and rates of clients.

use super::table::{ANY, Kind, OptionType, section};
use crate::admission::limiter::Excess;

impl OptionType for Excess {
    const KIND: Kind = Kind::Choice(&["drop", "error", "close"]);
}

section! {
    /// Limits, each with the effect of exceeding it.
    Limits "limits" repeated false;

    /// Connections of one shard; past it: handed to another shard, else 503. 0 = what the
    /// open-files limit allows, at most 131,072.
    connections_per_shard_max: u32 = 0 => "connections" in 0..=ANY,
    "Set to what the host's memory holds: about 4 KB per connection, kernel included.";

    /// Connections of the node; past it: 503. 0 = as many as its shards may have.
    connections_max: u32 = 0 => "connections" in 0..=ANY,
    "Set where the host's memory runs out before its open files.";

    /// Connections of one address (see `address_prefix_v4`), handshakes included; past it: 429.
    /// 0 = no limit.
    connections_per_address_max: u32 = 0 => "connections" in 0..=ANY,
    "Set on the open internet, to some hundreds: offices and mobile carriers share addresses. \
     Behind proxies, set `trusted_proxies` first, or the proxies are the addresses.";

    /// Connections of one user; past it: 429, or close 4429 where the token comes later. 0 = no
    /// limit.
    connections_per_user_max: u32 = 0 => "connections" in 0..=ANY,
    "Set to the number of devices and tabs that a person uses, such as 20.";

    /// New connections per second on the node; past it: 503. 0 = no limit.
    connections_per_second_max: u32 = 0 => "connections per second" in 0..=ANY,
    "Set to the rate that your backend can serve when all clients reconnect at once.";

    /// New connections per second from one address; past it: 429. 0 = no limit.
    connections_per_address_second_max: u32 = 0 => "connections per second" in 0..=ANY,
    "Set together with `connections_per_address_max`, to a fifth of it.";

    /// Leading bits of an IPv4 address that identify a client.
    address_prefix_v4: u32 = 32 => "bits" in 0..=32,
    "24 where a provider spreads one client over neighbouring addresses. Requires a restart.";

    /// Leading bits of an IPv6 address that identify a client; commonly a client has all addresses
    /// of a /64 network.
    address_prefix_v6: u32 = 64 => "bits" in 0..=128,
    "56 or 48 where clients have whole networks. Requires a restart.";

    /// Connections of a shard that have not finished their handshake; past it: 503.
    handshakes_per_shard_max: u32 = 16_384 => "handshakes" in 1..=ANY,
    "Lower under floods of slow handshakes, with `timeouts.handshake_timeout_ms`.";

    /// `Retry-After` of 429 and 503 answers.
    retry_after_s: u32 = 5 => "seconds" in 0..=ANY,
    "Raise where clients retry too soon.";

    /// Memory of the process and of its sockets in the kernel. From 90 % of it, no new compression
    /// contexts are made; from 95 %, new connections are rejected (503); at the bound, publishes
    /// and subscriptions too. No existing connection is closed. 0 = no limit.
    memory_bytes_max: u64 = 0 => "bytes" in 0..=ANY,
    "Set to nine tenths of the container's or host's memory.";

    /// Bytes of a request's head; past it: 431.
    head_bytes_max: u32 = 16 * 1024 => "bytes" in 256..=1 << 20,
    "The default is the limit of common proxies. Raise for clients with larger cookies or tokens.";

    /// Bytes of a request's target (path and query); past it: 414.
    target_bytes_max: u32 = 8 * 1024 => "bytes" in 0..=ANY,
    "Raise where tokens travel in the query.";

    /// Header lines of a request; past it: 431.
    headers_max: u32 = 64 => "header lines" in 1..=100,
    "Raise behind proxies that add many.";

    /// Bytes of one message; past it: close 1009, before anything is stored.
    message_bytes_max: u64 = 16 << 20 => "bytes" in 1..=1 << 30,
    "Set to the largest message that your application sends.";

    /// Fragments of one message; past it: close 1008.
    fragments_max: u32 = 131_072 => "fragments" in 1..=ANY,
    "Lower where clients do not stream: browsers send one fragment per message.";

    /// Bytes queued for one connection; past it, reading from it pauses. Replies to input that had
    /// already arrived, and one message of maximum size, are still queued.
    outbox_bytes_max: u64 = 1 << 20 => "bytes" in 0..=ANY,
    "Lower to bound the cost of slow readers; raise for bursts to clients on slow lines.";

    /// Bytes queued for all connections of a shard; past it, reading from connections with more
    /// than an equal share pauses; past twice as much, these are closed with 4413.
    outbox_shard_bytes_max: u64 = 256 << 20 => "bytes" in 0..=ANY,
    "Set to half the memory that a shard may spend on slow readers.";

    /// Memory for unfinished messages of a shard; past it, connections that add to it are closed
    /// with 1013. At least `message_bytes_max`.
    partial_shard_bytes_max: u64 = 512 << 20 => "bytes" in 1..=ANY,
        because "one message of limits.message_bytes_max must fit",
    "Set to the memory that a shard may spend on messages that arrive slowly.";

    /// Memory for compression contexts of the node (`compression = "takeover"`), divided by shards;
    /// past it, connections are opened in `shared` mode.
    compression_bytes_max: u64 = 256 << 20 => "bytes" in 0..=ANY,
    "Raise when `seawall_compression_lowered_total` grows and memory is available.";

    /// How many times its size a compressed message may inflate to, above 1 MiB; past it: close
    /// 1009. 0 = only `message_bytes_max` counts.
    inflate_ratio_max: u32 = 200 => "times" in 0..=ANY,
    "Raise where clients send megabytes of nearly constant data: records in JSON reach about 5, \
     and the most that is possible is 1,032.";

    /// Bytes discarded from a connection that is being rejected or closed; past it, the connection
    /// is reset, and the client may not receive the answer: a client that sends an oversized
    /// message reads the reason only after sending all of it.
    linger_bytes_max: u64 = 32 << 20 => "bytes" in 0..=ANY,
    "Keep above `message_bytes_max`.";
}

section! {
    /// Rates per second. `excess` defines the effect of exceeding them. After idle time, bursts of
    /// `burst_ms` worth of each are allowed.
    Rates "rates" repeated false;

    /// Messages of one connection, pings included. 0 = no limit, as for every rate.
    connection_messages: u32 = 0 => "messages per second" in 0..=ANY,
    "Set to a few times what your application sends.";

    /// Message bytes of one connection. After idle time, a single larger message is allowed.
    connection_bytes: u32 = 0 => "bytes per second" in 0..=ANY,
    "Set where a few uploads would use up the network's bandwidth.";

    /// Subscriptions of one connection.
    connection_subscribes: u32 = 0 => "subscribes per second" in 0..=ANY,
    "Set above what a page subscribes to when it opens.";

    /// Publishes of one connection.
    connection_publishes: u32 = 0 => "publishes per second" in 0..=ANY,
    "Set with the cost of a publish in mind: it is multiplied by the channel's members.";

    /// `history` and `presence` requests of one connection.
    connection_reads: u32 = 0 => "reads per second" in 0..=ANY,
    "Set where clients read in loops: a reply may be megabytes long.";

    /// Messages of one user on all connections.
    user_messages: u32 = 0 => "messages per second" in 0..=ANY,
    "Set where users open many connections.";

    /// Message bytes of one user on all connections.
    user_bytes: u32 = 0 => "bytes per second" in 0..=ANY,
    "See `user_messages`.";

    /// Subscriptions of one user on all connections.
    user_subscribes: u32 = 0 => "subscribes per second" in 0..=ANY,
    "See `user_messages`.";

    /// Publishes of one user on all connections.
    user_publishes: u32 = 0 => "publishes per second" in 0..=ANY,
    "See `user_messages`.";

    /// `history` and `presence` requests of one user on all connections.
    user_reads: u32 = 0 => "reads per second" in 0..=ANY,
    "See `user_messages`.";

    /// Size of a burst: after idle time, this much time's worth of each rate is allowed at once.
    burst_ms: u32 = 2_000 => "milliseconds" in 0..=ANY,
    "Lower to smooth traffic; raise for pages that open with many requests.";

    /// The effect of exceeding a rate: `drop` = the message is discarded silently; `error` = it is
    /// answered with `rate_limited` (on an echo, as `drop`); `close` = the connection is closed
    /// with 4429.
    excess: Excess = Excess::Error,
    "`close` where well-behaved clients never reach the limit.";
}

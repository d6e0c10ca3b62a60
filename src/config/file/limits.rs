//! The bounds on what clients can make the server hold, and do.

use super::table::{Kind, OptionType, section};
use crate::admission::limiter::Excess;

impl OptionType for Excess {
    const KIND: Kind = Kind::Choice(&["drop", "error", "close"]);
}

section! {
    /// Bounds, each with its answer when reached.
    Limits "limits" repeated false;

    /// Connections of one shard; past it: handed to another shard, else 503. 0 = what the
    /// open-files limit allows, at most 131,072.
    connections_per_shard_max: u32 = 0,
    "Set to what the host's memory holds: about 4 KB a connection with the kernel's part.";

    /// Connections of the whole node; past it: 503. 0 = as many as its shards may have.
    connections_max: u32 = 0,
    "Set where the host's memory, not its open-files limit, is what runs out.";

    /// Connections of one address (see `address_prefix_v4`), handshakes included; past it: 429.
    /// 0 = no limit.
    connections_per_address_max: u32 = 0,
    "Set on the open internet, to some hundreds: offices and mobile carriers share addresses. \
     Behind proxies, tell the server about them first, or they are the address.";

    /// Connections of one user; past it: 429, or close 4429 where the token comes later. 0 = no
    /// limit.
    connections_per_user_max: u32 = 0,
    "Set to what a person's devices and tabs come to, such as 20.";

    /// New connections in a second on the whole node; past it: 503. 0 = no limit.
    connections_per_second_max: u32 = 0,
    "Set to what the application behind can take when everybody comes back at once.";

    /// New connections in a second from one address; past it: 429. 0 = no limit.
    connections_per_address_second_max: u32 = 0,
    "Set with `connections_per_address_max`, to a fifth of it.";

    /// Bits of an IPv4 address that tell clients apart.
    address_prefix_v4: u32 = 32,
    "24 where a provider spreads one client over neighbouring addresses. Takes a restart.";

    /// Bits of an IPv6 address that tell clients apart: a client commonly has 64 bits to itself.
    address_prefix_v6: u32 = 64,
    "56 or 48 where clients have whole networks. Takes a restart.";

    /// Connections of a shard that have not finished their handshake; past it: 503.
    handshakes_per_shard_max: u32 = 16_384,
    "Lower under floods of slow handshakes, with `timeouts.handshake_timeout_ms`.";

    /// `Retry-After` of these answers.
    retry_after_s: u32 = 5,
    "Longer where clients come back too soon.";

    /// Memory of the process and of its sockets in the kernel. From nine tenths of it on, new
    /// compression contexts are given up, from 95 hundredths on new connections (503), at the
    /// bound publishes and subscriptions too; nothing that exists is closed for it. 0 = no bound.
    memory_bytes_max: u64 = 0,
    "Set to nine tenths of what the container or host has for it.";

    /// Bytes of a request's head; past it: 431.
    head_bytes_max: u32 = 16 * 1024,
    "The default is what common proxies pass on. Raise for clients that send larger cookies or \
     tokens.";

    /// Bytes of a request's target (path and query); past it: 414.
    target_bytes_max: u32 = 8 * 1024,
    "Raise where tokens travel in the query.";

    /// Header lines of a request (at most 100); past it: 431.
    headers_max: u32 = 64,
    "Raise behind proxies that add many.";

    /// Bytes of one message; past it: close 1009, before anything is stored.
    message_bytes_max: u64 = 16 << 20,
    "Set to the largest message that your application sends.";

    /// Fragments of one message; past it: close 1008.
    fragments_max: u32 = 131_072,
    "Lower where clients do not stream: browsers send one fragment a message.";

    /// Bytes that may wait for one connection; past it reading from it stops. Replies to what was
    /// on its way in by then still fit, and so does one largest message.
    outbox_bytes_max: u64 = 1 << 20,
    "Lower to bound what slow readers cost; raise for bursts to clients on slow lines.";

    /// Bytes that may wait for all connections of a shard; past it reading stops on those for
    /// which more than an even share waits, and past twice as much they are closed with 4413.
    outbox_shard_bytes_max: u64 = 256 << 20,
    "Set to half the memory that a shard may spend on slow readers.";

    /// Memory for unfinished messages of a shard; past it, connections that add to it are closed
    /// with 1013.
    partial_shard_bytes_max: u64 = 512 << 20,
    "Set to the memory a shard may spend on messages that arrive slowly.";

    /// Memory for compression contexts of the whole node (`compression = "takeover"`), divided by
    /// shards; past it, connections are opened in `shared` mode.
    compression_bytes_max: u64 = 256 << 20,
    "Raise when `seawall_compression_lowered_total` grows and memory is there.";

    /// A compressed message may inflate to so many times its size, above 1 MiB; past it: close
    /// 1009. 0 = `message_bytes_max` alone counts.
    inflate_ratio_max: u32 = 200,
    "Raise where clients send megabytes of nearly nothing: records in JSON come to about 5, the \
     most that is possible is 1,032.";

    /// Bytes discarded from a connection that is being refused or closed; past it, it is reset,
    /// which may destroy the answer. A client that sends a message above the limit reads why only
    /// when it has sent it.
    linger_bytes_max: u64 = 32 << 20,
    "Keep above `message_bytes_max`.";
}

section! {
    /// What may be done in a second. More than that is answered as `excess` says.
    Rates "rates" repeated false;

    /// Messages of one connection, pings included. 0 = no limit, here and below.
    connection_messages: u32 = 0,
    "Set to some times what your application sends.";

    /// Bytes of messages of one connection. A single message above it may come after a rest.
    connection_bytes: u32 = 0,
    "Set where uploads of some would fill the line for all.";

    /// Subscriptions of one connection.
    connection_subscribes: u32 = 0,
    "Above what a page subscribes to when it opens.";

    /// Publishes of one connection.
    connection_publishes: u32 = 0,
    "Set with what one publish costs in mind: it is multiplied by the channel's members.";

    /// Requests for histories and for lists of members (`history`, `presence`) of one connection.
    connection_reads: u32 = 0,
    "Set where clients read in loops: a reply may have megabytes.";

    /// Messages of one user on all connections.
    user_messages: u32 = 0,
    "Set where users have many connections.";

    /// Bytes of messages of one user.
    user_bytes: u32 = 0,
    "As above.";

    /// Subscriptions of one user.
    user_subscribes: u32 = 0,
    "As above.";

    /// Publishes of one user.
    user_publishes: u32 = 0,
    "As above.";

    /// Requests for histories and for lists of members of one user.
    user_reads: u32 = 0,
    "As above.";

    /// So much of a second's worth, or of several, may come at once after a rest.
    burst_ms: u32 = 2_000,
    "Shorter to smooth, longer to allow for pages that open.";

    /// What happens to what is too much: `drop` without a word; `error` = an answer with
    /// `rate_limited` (on an echo, as `drop`); `close` with 4429.
    excess: Excess = Excess::Error,
    "`close` where well-behaved clients never get there.";
}

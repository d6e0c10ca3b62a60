//! The configuration file as written: every key with its default, its unit in its name.
//!
//! Keys that are not listed here are errors. What the values mean together is decided in
//! [`super::Config::validate`].

use serde::{Deserialize, Serialize};

use crate::driver::listener::Steer;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Shards, each a thread with a ring of its own; 0 = one a core. More than cores is allowed:
    /// each ring has its own table of connections, bounded by the open-files limit.
    pub shards: u16,
    pub admin: Admin,
    pub engine: Engine,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub drain: Drain,
    pub metrics: Metrics,
    pub log: Log,
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
}

/// The address for operators.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `ADDR:PORT`, `unix:PATH`, or empty for none. Without keys it must be loopback or a path.
    pub listen: String,
    /// Host names (without port) that requests may name, besides loopback addresses.
    pub hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9100".into(), hosts: vec!["localhost".into()] }
    }
}

/// The rings and their memory.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Pins each shard to a core (shard modulo cores).
    pub pin: bool,
    /// Submission entries of a ring; its completion queue has eight times as many.
    pub ring_entries: u32,
    /// Bytes of one receive buffer. A message that fits into one is never copied to be read; small
    /// messages touch only a buffer's first page.
    pub buffer_bytes: u32,
    /// Receive buffers of the whole node, divided by shards (bytes). Address space rather than
    /// memory: only what is in flight is touched, and what rests is given back.
    pub buffer_memory_bytes: u64,
    /// Completions a shard handles before it submits and looks at its other work.
    pub turn_completions_max: u32,
    /// Waits up to this long for a batch of completions (µs); 0 = off. Saves CPU, costs latency.
    pub min_wait_us: u32,
    /// Completions worth that wait.
    pub min_wait_completions: u32,
    /// A new connection is handed to the least loaded shard when this one has so many more.
    pub handover_connections: u32,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            pin: true,
            ring_entries: 1024,
            buffer_bytes: 64 * 1024,
            buffer_memory_bytes: 256 << 20,
            turn_completions_max: 512,
            min_wait_us: 0,
            min_wait_completions: 16,
            handover_connections: 256,
        }
    }
}

/// Bounds, each with its answer when reached.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of one shard; past it: handed to another shard, else 503. 0 = what the
    /// open-files limit allows, at most 131,072.
    pub connections_per_shard_max: u32,
    /// Bytes of a request's head; past it: 431.
    pub head_bytes_max: u32,
    /// Bytes of a request's target; past it: 414.
    pub target_bytes_max: u32,
    /// Header lines of a request (at most 100); past it: 431.
    pub headers_max: u32,
    /// Bytes of one message; past it: close 1009, before anything is stored.
    pub message_bytes_max: u64,
    /// Fragments of one message; past it: close 1008.
    pub fragments_max: u32,
    /// Bytes that may wait for one connection; past it reading stops. Replies to what was on its
    /// way in by then still fit, and so does one largest message.
    pub outbox_bytes_max: u64,
    /// Bytes that may wait for all connections of a shard; past it reading stops on those that
    /// add to them.
    pub outbox_shard_bytes_max: u64,
    /// Memory for unfinished messages of a shard (bytes); past it, connections that add to it are
    /// closed with 1013.
    pub partial_shard_bytes_max: u64,
    /// Bytes discarded from a connection that is being refused or closed; past it, it is reset,
    /// which may destroy the answer. A client that sends a message above the limit reads why only
    /// when it has sent it, so this is best above `message_bytes_max`.
    pub linger_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_shard_max: 0,
            head_bytes_max: 8 * 1024,
            target_bytes_max: 4 * 1024,
            headers_max: 64,
            message_bytes_max: 16 << 20,
            fragments_max: 131_072,
            outbox_bytes_max: 1 << 20,
            outbox_shard_bytes_max: 256 << 20,
            partial_shard_bytes_max: 512 << 20,
            linger_bytes_max: 32 << 20,
        }
    }
}

/// Deadlines of what has no route, or none any more; the others are the route's.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From accept to the whole request (PROXY header included); past it: 408.
    pub handshake_timeout_ms: u32,
    /// From the end of our answer to the peer's FIN; past it the connection is dropped.
    pub linger_timeout_ms: u32,
    /// Without a byte taken by the peer while bytes wait for it; past it: close 4413.
    pub send_timeout_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { handshake_timeout_ms: 10_000, linger_timeout_ms: 2_000, send_timeout_ms: 30_000 }
    }
}

/// The graceful end.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Closes are spread over this time, so that clients do not come back all at once.
    pub window_ms: u32,
    /// After this time what is left is dropped.
    pub deadline_ms: u32,
    /// Up to so many connections of a shard are closed at once, without spreading.
    pub at_once_connections: u32,
    /// `Retry-After` of the 503 meanwhile (s).
    pub retry_after_s: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            window_ms: 20_000,
            deadline_ms: 25_000,
            at_once_connections: 1_000,
            retry_after_s: 5,
        }
    }
}

/// What the server measures of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Records the histograms; off: counters only.
    pub histograms: bool,
    /// File to which the histograms of each interval are appended (`HdrHistogram` interval log);
    /// empty = none.
    pub histogram_log: String,
    /// Length of such an interval (s).
    pub histogram_log_interval_s: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { histograms: true, histogram_log: String::new(), histogram_log_interval_s: 10 }
    }
}

/// What the server says while it runs, on standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// `ADDR:PORT`, `[ADDR6]:PORT` or `unix:PATH`. `[::]:PORT` takes IPv4 as well.
    pub address: String,
    /// How connections spread over shards: `hash` of the addresses, or `cpu` that received the
    /// packet (only where interrupts are pinned like shards).
    pub steer: Steer,
    /// Connections that may wait for their accept, per shard (bounded by net.core.somaxconn).
    pub backlog: u32,
    /// Sends small frames at once instead of waiting for more (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Congestion control by name; `auto` = cubic where the host's default is BBR, which paces
    /// even small echoes with timers, and this process may choose; empty = the host's.
    pub congestion: String,
    /// TCP keepalive after this idle time (s); 0 = off: the heartbeat notices dead peers sooner.
    pub keepalive_s: u32,
    /// Gives up on unacknowledged data after this time (ms); 0 = the kernel's many minutes.
    pub user_timeout_ms: u32,
    /// Kernel receive buffer (bytes); 0 = automatic. A bound saves memory on slow networks.
    pub receive_buffer_bytes: u32,
    /// Kernel send buffer (bytes); 0 = automatic. A bound makes slow readers visible sooner.
    pub send_buffer_bytes: u32,
    /// Prefers connections whose packets arrive on the shard's core.
    pub incoming_cpu: bool,
    /// Polls the network device before sleeping (µs); 0 = off. Bare metal only.
    pub busy_poll_us: u32,
    /// IPv6 addresses only, on an IPv6 listener.
    pub only_v6: bool,
    /// Permission bits of a Unix socket's file.
    pub unix_mode: u32,
    /// Each connection begins with a PROXY header (v1 or v2); requires `trusted_proxies`.
    pub proxy_protocol: bool,
    /// The one header that names the client behind a trusted proxy: `""`, `"x-forwarded-for"` or
    /// `"forwarded"`.
    pub forwarded_header: String,
    /// Networks whose word about the client counts.
    pub trusted_proxies: Vec<String>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:9000".into(),
            steer: Steer::Hash,
            backlog: 4096,
            nodelay: true,
            congestion: "auto".into(),
            keepalive_s: 0,
            user_timeout_ms: 0,
            receive_buffer_bytes: 0,
            send_buffer_bytes: 0,
            incoming_cpu: false,
            busy_poll_us: 0,
            only_v6: false,
            unix_mode: 0o660,
            proxy_protocol: false,
            forwarded_header: String::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Begins with `/`.
    pub path: String,
    /// `exact`, or `prefix` for everything below the path.
    #[serde(rename = "match")]
    pub matching: Matching,
    /// What runs on the connection: `echo`.
    pub handler: HandlerName,
    /// Subprotocols that may be chosen.
    pub subprotocols: Vec<String>,
    /// Origins that may connect: `["*"]` = any, empty = the page's own host only. Requests without
    /// an Origin (no browser) always may.
    pub origins: Vec<String>,
    /// A ping each so many ms, spread at random; 0 = none.
    pub ping_interval_ms: u32,
    /// The pong must come within this time, else the connection is dropped.
    pub pong_timeout_ms: u32,
    /// Without a message from the client for so long: close 1001; 0 = never.
    pub idle_timeout_ms: u32,
    /// From our Close to the peer's; past it the connection is dropped.
    pub close_timeout_ms: u32,
    /// Connections older than this are closed with 1001, spread by a tenth; 0 = never.
    pub connection_age_max_ms: u32,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            path: "/echo".into(),
            matching: Matching::Exact,
            handler: HandlerName::Echo,
            subprotocols: Vec::new(),
            origins: Vec::new(),
            ping_interval_ms: 25_000,
            pong_timeout_ms: 20_000,
            idle_timeout_ms: 0,
            close_timeout_ms: 5_000,
            connection_age_max_ms: 0,
        }
    }
}

/// How a route's path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    #[default]
    Exact,
    Prefix,
}

/// What runs on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerName {
    /// Each message comes back with its opcode.
    #[default]
    Echo,
}

//! What clients reach: listeners and routes, each as many times as wanted.

use serde::{Deserialize, Serialize};

use super::table::{Kind, OptionType, section};
use crate::driver::listener::Steer;

impl OptionType for Steer {
    const KIND: Kind = Kind::Choice(&["hash", "cpu"]);
}

section! {
    /// One address that clients connect to. Without any: one with these defaults.
    Listener "listener" repeated true;

    /// `ADDR:PORT`, `[ADDR6]:PORT` or `unix:PATH`. `[::]:PORT` takes IPv4 as well.
    address: String = "127.0.0.1:9000".into(),
    "`0.0.0.0:PORT` or `[::]:PORT` to be reached from other hosts.";

    /// How connections spread over shards: `hash` of the addresses, or `cpu` that received the
    /// packet.
    steer: Steer = Steer::Hash,
    "`cpu` only where the network's interrupts are pinned to cores like the shards.";

    /// Connections that may wait for their accept, per shard (bounded by net.core.somaxconn).
    backlog: u32 = 4096,
    "Raise together with net.core.somaxconn where all clients reconnect at once.";

    /// Sends small frames at once instead of waiting for more (`TCP_NODELAY`).
    nodelay: bool = true,
    "Hardly ever: all that a turn has for a connection leaves together anyway.";

    /// Congestion control by name; `auto` = cubic where the host's default is BBR, which paces
    /// even small echoes with timers, and this process may choose; empty = the host's.
    congestion: String = "auto".into(),
    "`bbr` for clients on long, lossy lines that receive much.";

    /// TCP keepalive after this idle time; 0 = off: the heartbeat notices dead peers sooner.
    keepalive_s: u32 = 0,
    "Set where heartbeats are off.";

    /// Gives up on unacknowledged data after this time; 0 = the kernel's many minutes.
    user_timeout_ms: u32 = 0,
    "30,000 frees what clients left behind that vanished while data was on its way.";

    /// Kernel receive buffer of a connection; 0 = automatic.
    receive_buffer_bytes: u32 = 0,
    "A bound saves kernel memory where very many clients send at once.";

    /// Kernel send buffer of a connection; 0 = automatic.
    send_buffer_bytes: u32 = 0,
    "A bound makes slow readers visible sooner and caps what they hold in the kernel.";

    /// Prefers connections whose packets arrive on the shard's core.
    incoming_cpu: bool = false,
    "As `steer = \"cpu\"`, where the kernel is to choose among listeners by itself.";

    /// Polls the network device before sleeping; 0 = off.
    busy_poll_us: u32 = 0,
    "Bare metal with cores to spare only: it burns them for latency.";

    /// IPv6 addresses only, on an IPv6 listener.
    only_v6: bool = false,
    "Where another listener has the same port for IPv4.";

    /// Permission bits of a Unix socket's file.
    unix_mode: u32 = 0o660,
    "0o666 where the proxy in front runs as another user and group.";

    /// Each connection begins with a PROXY header (v1 or v2); requires `trusted_proxies`.
    proxy_protocol: bool = false,
    "Behind a TCP load balancer that sends it.";

    /// The one header that names the client behind a trusted proxy: `""`, `"x-forwarded-for"` or
    /// `"forwarded"`.
    forwarded_header: String = String::new(),
    "Behind an HTTP proxy; name the header that this proxy overwrites.";

    /// Networks whose word about the client counts.
    trusted_proxies: Vec<String> = Vec::new(),
    "The load balancers' addresses, never more than those.";
}

section! {
    /// What a path leads to. Without any: the hub at `/ws`, and an echo at `/echo`; one that is
    /// written replaces both.
    Route "route" repeated true absent true;

    /// Begins with `/`.
    path: String = "/echo".into(),
    "One route a path.";

    /// `exact`, or `prefix` for everything below the path.
    r#match: Matching = Matching::Exact,
    "`prefix` where the path carries names of rooms or tenants.";

    /// What runs on the connection: `hub` = channels, in JSON; `echo` = each message comes back.
    handler: HandlerName = HandlerName::Echo,
    "`hub` for applications; `echo` is for measuring and health checks from end to end.";

    /// Connections of this path; past it: 503. 0 = no limit.
    connections_max: u32 = 0,
    "Set where one path must leave room for the others.";

    /// Subprotocols that may be chosen; for the hub, empty = `seawall.v1`.
    subprotocols: Vec<String> = Vec::new(),
    "Where clients offer some.";

    /// Origins that may connect, as `https://app.example` or, for all subdomains,
    /// `https://*.app.example`: `["*"]` = any, empty = the page's own host only. Requests without
    /// an Origin (no browser) always may.
    origins: Vec<String> = Vec::new(),
    "List the sites whose pages use this server.";

    /// Compression of messages (permessage-deflate), where the client offers it: `off`; `shared` =
    /// each message by itself, which costs a connection no memory; `takeover` = with the memory of
    /// earlier messages, in contexts of the connection's own (about 50 KB at the default window).
    compression: CompressionMode = CompressionMode::Shared,
    "`takeover` where few clients get many small, similar messages; `off` where messages are \
     compressed already, or the network is fast and CPU is dear.";

    /// Effort of the compressor, from 1 to 9.
    compression_level: u32 = 1,
    "3 makes JSON a quarter smaller again for about three times the CPU; 6 gains little more.";

    /// Window of the compressors as a power of two, from 9 (512 bytes) to 15 (32 KiB). A client may
    /// ask for a smaller one.
    compression_window_bits: u32 = 12,
    "9 or 10 to save memory with `takeover`; 15 where messages of many kilobytes repeat \
     themselves.";

    /// Shorter messages are sent as they are.
    compression_bytes_min: u32 = 256,
    "Lower with `takeover`, where small messages resemble earlier ones; by itself a shorter one \
     hardly shrinks (128 bytes of JSON by a seventh).";

    /// A ping each so many milliseconds, spread at random; 0 = none.
    ping_interval_ms: u32 = 25_000,
    "Below the idle timeout of every proxy on the way (often 60 s); longer saves phones' batteries \
     and the server's idle CPU.";

    /// The pong must come within this time, else the connection is dropped.
    pong_timeout_ms: u32 = 20_000,
    "Shorter finds dead connections sooner; longer is kind to slow mobile lines.";

    /// Without a message from the client for so long: close 1001; 0 = never.
    idle_timeout_ms: u32 = 0,
    "Set where clients that say nothing should not stay.";

    /// From our Close to the peer's; past it the connection is dropped.
    close_timeout_ms: u32 = 5_000,
    "Longer for clients that finish work before they answer a Close.";

    /// Connections older than this are closed with 1001; 0 = never. The closes are spread over a
    /// tenth of it, also those of connections that a reload with a lower value makes too old.
    connection_age_max_ms: u32 = 0,
    "Set to rebalance connections over nodes behind a load balancer.";
}

/// The hub's protocol, as subprotocols name it.
pub const SUBPROTOCOL: &str = "seawall.v1";

/// What there is where no route is written.
pub fn default_routes() -> Vec<Route> {
    let hub = Route { path: "/ws".into(), handler: HandlerName::Hub, ..Route::default() };
    vec![hub, Route::default()]
}

/// How a route's path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    #[default]
    Exact,
    Prefix,
}

impl OptionType for Matching {
    const KIND: Kind = Kind::Choice(&["exact", "prefix"]);
}

/// How messages of a route are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionMode {
    /// No offer is taken.
    Off,
    /// Each message by itself.
    #[default]
    Shared,
    /// With what went before.
    Takeover,
}

impl OptionType for CompressionMode {
    const KIND: Kind = Kind::Choice(&["off", "shared", "takeover"]);
}

/// What runs on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerName {
    /// Each message comes back with its opcode.
    #[default]
    Echo,
    /// Channels, in the JSON protocol.
    Hub,
}

impl OptionType for HandlerName {
    const KIND: Kind = Kind::Choice(&["echo", "hub"]);
}

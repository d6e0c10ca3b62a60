//! Listeners and routes, each of which may be repeated.

use serde::{Deserialize, Serialize};

use super::table::{ANY, Kind, OptionType, section};
use crate::driver::listener::Steer;
use crate::tls::settings::ClientCertificates;

impl OptionType for Steer {
    const KIND: Kind = Kind::Choice(&["hash", "cpu"]);
}

section! {
    /// An address that clients connect to; may be repeated. Without any: one with these defaults.
    Listener "listener" repeated true;

    /// Address for clients: `ADDR:PORT`, `[ADDR6]:PORT` or `unix:PATH`. `[::]:PORT` takes IPv4 as
    /// well.
    address: String = "127.0.0.1:9000".into(),
    "Use `0.0.0.0:PORT` or `[::]:PORT` to accept connections from other hosts.";

    /// Enables TLS (`https://`, `wss://`), with a `[[certificate]]`.
    tls: bool = false,
    "Set where no proxy in front of the server terminates TLS.";

    /// Client certificates: `off`, `request` (optional) or `require`.
    tls_client_certificates: ClientCertificates = ClientCertificates::Off,
    "`require` where only devices or services with certificates of your own may connect.";

    /// File with the authorities that sign client certificates, as PEM.
    tls_client_ca: String = String::new(),
    "With `tls_client_certificates`.";

    /// Answers requests with a redirect (308) to `https://` on this port; 0 = off. `/healthz` and
    /// `/readyz` are answered all the same.
    tls_redirect_port: u32 = 0 => "port" in 0..=65_535,
    "443 on a listener at port 80, where people type addresses without `https://`.";

    /// How connections are spread over shards: by `hash` of the addresses, or to the shard of the
    /// `cpu` that received the packet.
    steer: Steer = Steer::Hash,
    "`cpu` only where the network's interrupts are pinned to cores as the shards are.";

    /// Connections waiting for accept, per shard (bounded by net.core.somaxconn).
    backlog: u32 = 4096 => "connections" in 0..=ANY,
    "Raise together with net.core.somaxconn where all clients reconnect at once.";

    /// Sends small frames at once instead of waiting for more (`TCP_NODELAY`).
    nodelay: bool = true,
    "Rarely: a turn sends all output of a connection together anyway.";

    /// Congestion control by name; `auto` = cubic where the host's default is BBR, which paces even
    /// small echoes with timers, and the process may choose; empty = the host's.
    congestion: String = "auto".into(),
    "`bbr` for clients on long, lossy lines that receive much.";

    /// TCP keepalive after this idle time; 0 = off: the heartbeat notices dead peers sooner.
    keepalive_s: u32 = 0 => "seconds" in 0..=ANY,
    "Set where heartbeats are off.";

    /// Drops a connection whose data is not acknowledged for this time; 0 = the kernel's default of
    /// many minutes.
    user_timeout_ms: u32 = 0 => "milliseconds" in 0..=ANY,
    "30,000 frees the memory of clients that vanished while data was in flight.";

    /// Kernel receive buffer of a connection; 0 = automatic.
    receive_buffer_bytes: u32 = 0 => "bytes" in 0..=ANY,
    "A bound saves kernel memory where very many clients send at once.";

    /// Kernel send buffer of a connection; 0 = automatic.
    send_buffer_bytes: u32 = 0 => "bytes" in 0..=ANY,
    "A bound detects slow readers sooner and limits what they hold in the kernel.";

    /// Prefers connections whose packets arrive on the shard's core.
    incoming_cpu: bool = false,
    "Instead of `steer = \"cpu\"`, to let the kernel choose among the shards' listeners.";

    /// Polls the network device before sleeping; 0 = off.
    busy_poll_us: u32 = 0 => "microseconds" in 0..=ANY,
    "Only on bare metal with spare cores: it trades CPU for latency.";

    /// IPv6 addresses only, on an IPv6 listener.
    only_v6: bool = false,
    "Where another listener has the same port for IPv4.";

    /// Permission bits of a Unix socket's file.
    unix_mode: u32 = 0o660 => "permission bits" in 0..=0o777,
    "0o666 where the proxy in front runs as another user and group.";

    /// Each connection begins with a PROXY header (v1 or v2); requires `trusted_proxies`.
    proxy_protocol: bool = false,
    "Behind a TCP load balancer that sends it.";

    /// The one header that names the client behind a trusted proxy: `""`, `"x-forwarded-for"` or
    /// `"forwarded"`.
    forwarded_header: String = String::new(),
    "Behind an HTTP proxy; name the header that this proxy overwrites.";

    /// Networks of proxies that may name a client's address.
    trusted_proxies: Vec<String> = Vec::new(),
    "The load balancers' addresses, never more than those.";
}

section! {
    /// The handler and options of a path; may be repeated. Without any: the hub at `/ws` and an
    /// echo at `/echo`; a `[[route]]` replaces both.
    Route "route" repeated true absent true;

    /// The path, which begins with `/`.
    path: String = "/echo".into(),
    "One route per path.";

    /// `exact`, or `prefix` for everything below the path.
    r#match: Matching = Matching::Exact,
    "`prefix` where the path carries names of rooms or tenants.";

    /// The handler of connections: `hub` = channels, in JSON; `gateway` = messages go to the
    /// application over links, and its messages to the client; `pusher` = channels of an `[[app]]`,
    /// in the Pusher protocol, at `PATH/KEY`; `echo` = sends every message back.
    handler: HandlerName = HandlerName::Echo,
    "`hub` for channels; `pusher` for clients that exist; `gateway` for a protocol of your own; \
     `echo` for measurements and end-to-end health checks.";

    /// Name of the `[[backend]]` that receives events of its connections, and answers their calls
    /// or receives their messages; empty = the only one, if there is exactly one. For the handlers
    /// `hub` and `gateway`, or with `connect`.
    backend: String = String::new(),
    "Set where several applications share the server.";

    /// Who decides whether a client may connect, and who it is: `auth` = its token, as `[auth]`
    /// says; `backend` = the application is asked about each client that has neither a token nor a
    /// valid ticket.
    connect: ConnectRule = ConnectRule::Auth,
    "`backend` where clients are known by a cookie or by a session of the application.";

    /// When clients of a `gateway` are connected: `backend` = once the application accepts;
    /// `at_once` = before the application knows of them.
    accept: AcceptRule = AcceptRule::Backend,
    "`at_once` where the application decides by the client's first message, or admits any.";

    /// Policy for clients of a `gateway` for which more than `limits.outbox_bytes_max` wait:
    /// `close` = the connection is closed (4413); `drop` = further messages are dropped, and
    /// counted.
    slow_reader: RouteSlowReader = RouteSlowReader::Close,
    "`drop` where a newer message replaces an older one.";

    /// Connections of this path; past it: 503. 0 = no limit.
    connections_max: u32 = 0 => "connections" in 0..=ANY,
    "Set where one path must leave room for the others.";

    /// Subprotocols that clients may choose; for the hub, empty = `seawall.v1`.
    subprotocols: Vec<String> = Vec::new(),
    "Set where clients offer some.";

    /// Origins that may connect, as `https://app.example` or, for all subdomains,
    /// `https://*.app.example`: `["*"]` = any, empty = the page's own host only, or any for
    /// `pusher`. Requests without an Origin (not from a browser) are always accepted.
    origins: Vec<String> = Vec::new(),
    "List the sites whose pages use this server.";

    /// Compression of messages (permessage-deflate), where the client offers it: `off`; `shared` =
    /// each message by itself, which costs a connection no memory; `takeover` = with a context per
    /// connection (about 50 KB at the default window) that remembers earlier messages.
    compression: CompressionMode = CompressionMode::Shared,
    "`takeover` where few clients get many small, similar messages; `off` where messages are \
     compressed already, or CPU is scarcer than bandwidth.";

    /// Effort of the compressor; higher is smaller and slower.
    compression_level: u32 = 1 => "effort" in 1..=9,
    "3 makes JSON another quarter smaller for about three times the CPU; 6 gains little more.";

    /// Window of the compressor, as a power of two: 9 is 512 bytes, 15 is 32 KiB. A client may ask
    /// for a smaller one.
    compression_window_bits: u32 = 12 => "bits" in 9..=15,
    "9 or 10 to save memory with `takeover`; 15 where messages of many kilobytes repeat \
     themselves.";

    /// Shorter messages are sent uncompressed.
    compression_bytes_min: u32 = 256 => "bytes" in 1..=1 << 30,
    "Lower with `takeover`, where small messages resemble earlier ones; otherwise shorter ones \
     hardly shrink (128 bytes of JSON by a seventh).";

    /// Interval between pings, jittered; 0 = none.
    ping_interval_ms: u32 = 25_000 => "milliseconds" in 0..=ANY,
    "Keep below the idle timeout of every proxy on the way (often 60 s); a longer one saves \
     phones' batteries and the server's idle CPU.";

    /// Time for the pong; past it the connection is dropped.
    pong_timeout_ms: u32 = 20_000 => "milliseconds" in 0..=ANY,
    "Lower to detect dead connections sooner; raise for slow mobile lines.";

    /// Time without a message from the client; past it: close 1001. 0 = never.
    idle_timeout_ms: u32 = 0 => "milliseconds" in 0..=ANY,
    "Set where silent clients should not stay connected.";

    /// Time from the server's Close to the peer's; past it the connection is dropped.
    close_timeout_ms: u32 = 5_000 => "milliseconds" in 0..=ANY,
    "Raise for clients that finish other work before they reply to a Close.";

    /// Connections older than this are closed with 1001; 0 = never. The closes are spread over a
    /// tenth of this time, also after a reload lowers it.
    connection_age_max_ms: u32 = 0 => "milliseconds" in 0..=ANY,
    "Set to rebalance connections over nodes behind a load balancer.";
}

/// The hub's protocol, as subprotocols name it.
pub const SUBPROTOCOL: &str = "seawall.v1";

/// The routes where none is configured.
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

/// Who decides whether a client may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectRule {
    /// The rules of `[auth]`.
    #[default]
    Auth,
    /// The application, before the upgrade.
    Backend,
}

impl OptionType for ConnectRule {
    const KIND: Kind = Kind::Choice(&["auth", "backend"]);
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
    /// Messages go to an application over links, and back.
    Gateway,
    /// Channels of apps, in the Pusher protocol.
    Pusher,
}

impl OptionType for HandlerName {
    const KIND: Kind = Kind::Choice(&["echo", "hub", "gateway", "pusher"]);
}

/// When clients of a gateway are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptRule {
    /// Once the application accepts.
    #[default]
    Backend,
    /// Before the application knows of them.
    AtOnce,
}

impl OptionType for AcceptRule {
    const KIND: Kind = Kind::Choice(&["backend", "at_once"]);
}

/// What happens to a client of a gateway that reads too slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteSlowReader {
    /// The connection is closed.
    #[default]
    Close,
    /// Messages that do not fit into its queue are dropped.
    Drop,
}

impl OptionType for RouteSlowReader {
    const KIND: Kind = Kind::Choice(&["close", "drop"]);
}

//! Configuration: converts what was written ([`mod@file`]) to what the server uses ([`Config`]).
//!
//! A [`file::table`] lists every option. [`Written`] merges flags over environment over file over
//! defaults. [`Config::validate`] rejects invalid values and combinations, each with the key at
//! fault and a remedy, so that no code behind this module has to check again. `reference` prints
//! the table for users.

mod acme;
mod apps;
mod backend;
mod cluster;
mod credentials;
mod endpoints;
pub mod file;
mod file_stamps;
mod folders;
mod hub;
mod layers;
mod links;
mod open_files;
mod ranges;
mod read;
pub mod reference;
mod reload;
mod secret_files;
mod sources;
mod state;
mod tls;
mod validate;
mod value;
mod webhooks;

use std::fmt;
use std::sync::Arc;

use crate::acme::AcmeSettings;
use crate::admission;
use crate::admission::limiter::RateBounds;
use crate::auth::{ApiKeys, JwksSource, Namespaces, PusherApps, Sealer, Verifier};
use crate::backend::BackendSettings;
use crate::cluster::ClusterSettings;
use crate::driver::batch::Bounds;
use crate::driver::listener::{Address, Options};
use crate::events::{EventKinds, EventTarget};
use crate::proto::http::{self, ForwardRule, Forwarding, Routes};
use crate::proto::ws;
use crate::proto::ws::deflate::InflateLimits;
use crate::tls::ListenerTls;
use crate::tls::certificates::CertificateSet;
pub use endpoints::address;
pub use file::{
    AcceptRule, ConnectRule, Drain, DriverChoice, Engine, HandlerName, Hub, LogFormat, Metrics,
    Process, RouteSlowReader, Timeouts,
};
pub use file_stamps::FileStamps;
pub use layers::{Given, Written};
pub use reload::Renewed;
pub use sources::{Source, Sources};
pub use tls::days_left;

/// An error in a configuration: the key at fault, and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The option at fault, if it is a single one: `limits.headers_max` or `listener.0.address`.
    pub key: Option<String>,
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

/// The errors found so far. Validation continues past each, so that all are reported at once.
#[derive(Debug, Default)]
struct Faults(Vec<ConfigError>);

impl Faults {
    /// Returns the value of a result, or records its error.
    fn check<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// Returns whether an error of this option was recorded.
    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|error| error.key.as_deref() == Some(key))
    }

    /// Returns the value if there were no errors; otherwise the errors, in the order of discovery.
    fn finish<T>(self, value: impl FnOnce() -> T) -> Result<T, Vec<ConfigError>> {
        if self.0.is_empty() { Ok(value()) } else { Err(self.0) }
    }
}

impl ConfigError {
    /// Joins several errors into one: with the key of the first, and all texts.
    fn all(errors: Vec<Self>) -> Self {
        let text = errors.iter().map(|error| error.text.as_str()).collect::<Vec<_>>().join("\n");
        Self { key: errors.into_iter().next().and_then(|error| error.key), text }
    }
}

fn error(text: impl Into<String>) -> ConfigError {
    ConfigError { key: None, text: text.into() }
}

/// Creates an error for the value of an option; its text is the key followed by `problem`.
fn at(key: &str, problem: impl fmt::Display) -> ConfigError {
    ConfigError { key: Some(key.to_owned()), text: format!("{key} {problem}") }
}

/// Creates an error for an option of a listener, a route or another repeated section.
fn of_one(key: String, text: String) -> ConfigError {
    ConfigError { key: Some(key), text }
}

/// The beginning of paths of the HTTP API of apps.
const APPS_PATH: &str = "/apps/";

/// A validated listener.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: Address,
    pub options: Options,
    /// Connections start with a PROXY header.
    pub proxy_protocol: bool,
    /// The header in which trusted proxies name the client, and these proxies.
    pub forwarding: Option<Forwarding>,
    /// Peers whose PROXY header is accepted.
    pub trusted: Vec<ipnet::IpNet>,
    /// Port of the `https://` URLs that requests are redirected to; `None`: no redirect.
    pub redirect_port: Option<u16>,
    /// The TLS settings; `None`: connections are not encrypted.
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// Returns whether only programs on this host reach it over TCP, which includes web pages.
    pub fn is_loopback(&self) -> bool {
        matches!(&self.address, Address::Tcp(tcp) if tcp.ip().to_canonical().is_loopback())
    }
}

/// The options of a route, in addition to the [`Routes`] table that matches it.
#[derive(Clone, Copy, Debug)]
pub struct RouteOptions {
    pub handler: HandlerName,
    /// The number under which its connections are counted; successive routes of one path share it.
    pub counter: u16,
    /// 0 = no limit.
    pub connections_max: u32,
    pub compression_level: u8,
    pub compression_bytes_min: u32,
    pub ping_interval_ms: u32,
    pub pong_timeout_ms: u32,
    pub idle_timeout_ms: u32,
    pub close_timeout_ms: u32,
    pub connection_age_max_ms: u32,
    /// Where events of its connections go.
    pub events: EventTarget,
    /// The index of the application that decides on clients and answers calls, or that messages of
    /// a gateway go to.
    pub application: Option<u8>,
    /// Who decides whether a client may connect.
    pub connect: ConnectRule,
    /// When clients of a gateway are connected.
    pub accept: AcceptRule,
    /// What happens to clients of a gateway that read too slowly.
    pub slow_reader: RouteSlowReader,
}

/// Days before a certificate's end from which on the log and `seawall doctor` warn of it.
pub const EXPIRY_WARNING_DAYS: i64 = 14;

/// Validated limits.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_per_shard_max: u32,
    pub handshakes_per_shard_max: u32,
    /// The `Retry-After` header after one of these limits was reached (s).
    pub retry_after_s: u32,
    pub admission: admission::Limits,
    pub http: http::Limits,
    pub ws: ws::Limits,
    /// Above this, reading from the connection pauses.
    pub outbox_high_bytes: usize,
    /// Below this, reading resumes.
    pub outbox_low_bytes: usize,
    /// Above this the connection is closed. Replies alone cannot reach it: it leaves room for a
    /// message of maximum size and for everything that the buffers can deliver until reading has
    /// paused.
    pub outbox_bytes_max: usize,
    pub outbox_shard_bytes_max: usize,
    pub partial_shard_bytes_max: u64,
    pub linger_bytes_max: u64,
    pub inflate_ratio_max: u32,
    /// Memory for the compression contexts of one shard's connections.
    pub compression_shard_bytes_max: u64,
}

/// Authentication of clients and of API callers.
#[derive(Debug)]
pub struct Auth {
    /// Whether tokens can be verified; if not, all clients are anonymous.
    pub keys_configured: bool,
    pub verifier: Arc<Verifier>,
    /// The source of further keys.
    pub jwks: Option<JwksSource>,
    /// One line for each key of `auth.jwks_file` that cannot be used.
    pub skipped_keys: Vec<String>,
    /// Whether clients without a token may stay although there are keys.
    pub allow_anonymous: bool,
    /// Whether tokens are accepted in the query as well.
    pub token_query: bool,
    /// Keys of the API.
    pub api_keys: Arc<ApiKeys>,
}

/// The source of the keys that seal tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKeys {
    /// Set by `resume.keys` or `resume.keys_file`.
    Configured,
    /// Stored in a file in `process.state_dir`.
    Kept,
    /// Random: tickets are valid until this process ends.
    Random,
}

/// Resumption of clients by tickets.
#[derive(Debug)]
pub struct Resume {
    pub sealer: Arc<Sealer>,
    pub keys: TicketKeys,
    pub ttl_s: u64,
}

/// A validated configuration.
#[derive(Debug)]
pub struct Config {
    /// The number of reloads before it.
    pub epoch: u64,
    pub shards: u16,
    pub admin: Option<Address>,
    pub admin_hosts: Vec<String>,
    /// How the admin address speaks TLS; `None`: it is plain.
    pub admin_tls: Option<Arc<rustls::ServerConfig>>,
    pub process: Process,
    pub engine: Engine,
    pub limits: Limits,
    pub rates: RateBounds,
    pub timeouts: Timeouts,
    pub drain: Drain,
    pub metrics: Metrics,
    pub log_format: LogFormat,
    pub log_level: String,
    pub listeners: Vec<Listener>,
    /// Certificates of all TLS listeners.
    pub certificates: Arc<CertificateSet>,
    /// What is ordered by ACME; `None`: nothing.
    pub acme: Option<AcmeSettings>,
    /// The files that these and other TLS options name, as they were when they were read.
    pub tls_files: FileStamps,
    /// How often these files are looked at for changes (s); 0 = never.
    pub certificate_watch_interval_s: u32,
    pub routes: Routes,
    pub route_options: Vec<RouteOptions>,
    pub hub: Hub,
    /// The engine that several nodes share; `None`: channels belong to this process.
    pub cluster: Option<Arc<ClusterSettings>>,
    /// Applications that receive events, answer questions and exchange messages.
    pub backends: Vec<Arc<BackendSettings>>,
    /// The kinds of events of channels that any of them wants.
    pub channel_events: EventKinds,
    pub namespaces: Namespaces,
    /// The apps of the Pusher protocol.
    pub apps: PusherApps,
    pub auth: Auth,
    pub resume: Resume,
    /// Whether `/metrics` requires an API key too.
    pub metrics_auth: bool,
    /// Files with secrets that their group can access.
    pub group_secrets: Vec<String>,
}

impl Config {
    /// Returns warnings about values that are accepted.
    pub fn warnings(&self) -> Vec<String> {
        let skipped = self.auth.skipped_keys.iter().map(|line| format!("auth.jwks_file: {line}"));
        let shared = (!self.group_secrets.is_empty()).then(|| {
            let files = self.group_secrets.join(" ");
            format!(
                "secret files are accessible to their group: {files}; if this is not intended, \
                 run `chmod g= {files}`"
            )
        });
        let expiring = self.certificates.certificates().iter().filter_map(|certificate| {
            let days = days_left(certificate);
            (days < EXPIRY_WARNING_DAYS).then(|| {
                let names = certificate.names().join(", ");
                format!("the certificate for {names} expires in {days} days; renew it, and reload")
            })
        });
        let exposed = self.backends.iter().filter_map(|backend| links::find_exposed(backend));
        skipped.chain(shared).chain(expiring).chain(exposed).collect()
    }

    /// Returns which requests to addresses for clients the control thread answers: those of the
    /// HTTP API of apps.
    pub fn forward_rule(&self) -> Option<ForwardRule> {
        let body_bytes_max = self.apps.body_bytes_max();
        let mut routes = self.route_options.iter();
        let is_used =
            !self.apps.is_empty() && routes.any(|route| route.handler == HandlerName::Pusher);
        is_used.then_some(ForwardRule { prefix: APPS_PATH, body_bytes_max })
    }

    /// Returns the number of receive buffers of one shard.
    pub fn buffers_per_shard(&self) -> u32 {
        let per_shard = self.engine.buffer_memory_bytes / u64::from(self.shards);
        (per_shard / u64::from(self.engine.buffer_bytes)).clamp(8, 32_768) as u32
    }

    /// Returns whether connections of any route may stay for a shorter time than with an older
    /// configuration. Routes keep their indexes.
    pub fn lowers_stays(&self, older: &Self) -> bool {
        let is_lower = |now: u32, before: u32| now != 0 && (before == 0 || now < before);
        self.route_options.iter().zip(&older.route_options).any(|(now, before)| {
            is_lower(now.connection_age_max_ms, before.connection_age_max_ms)
                || is_lower(now.idle_timeout_ms, before.idle_timeout_ms)
        })
    }

    /// Returns the bounds on inflating in one shard.
    pub fn inflate_limits(&self) -> InflateLimits {
        InflateLimits {
            leases_max: self.engine.inflaters_max as usize,
            ratio_max: self.limits.inflate_ratio_max,
        }
    }

    /// Returns the bounds of one send.
    pub fn send_bounds(&self) -> Bounds {
        Bounds {
            segments_max: self.engine.send_segments_max as usize,
            bytes_max: self.engine.send_bytes_max as usize,
        }
    }

    /// Returns the number of completion entries of a ring, rounded as the kernel does.
    pub fn completion_entries(&self) -> u32 {
        match self.engine.completion_entries {
            0 => self.engine.ring_entries.next_power_of_two() * 8,
            asked => asked.next_power_of_two(),
        }
    }

    /// Returns the size of a ring's table of sockets: for connections, and for sockets that are
    /// being accepted or rejected.
    pub fn sockets_per_shard(&self) -> u32 {
        let listeners = self.listeners.len() as u32;
        let headroom = validate::sockets_headroom(self.engine.accepts_per_listener, listeners);
        self.limits.connections_per_shard_max + headroom
    }
}

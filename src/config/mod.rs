//! Configuration: what was written ([`mod@file`]) becomes what the server runs on ([`Config`]).
//!
//! A [`file::table`] names every option. [`Written`] lays flags over environment over file over
//! defaults; [`Config::validate`] refuses illegal values and combinations, each with the key at
//! fault and what to do, so that nothing behind this module has to check again; `reference` prints
//! the table for people.

mod credentials;
mod endpoints;
pub mod file;
mod folders;
mod hub;
mod layers;
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

use std::fmt;
use std::sync::Arc;

use crate::admission;
use crate::admission::limiter::RateBounds;
use crate::auth::{ApiKeys, JwksSource, Namespaces, Sealer, Verifier};
use crate::driver::batch::Bounds;
use crate::driver::listener::{Address, Options};
use crate::proto::http::{self, Forwarding, Routes};
use crate::proto::ws;
use crate::proto::ws::deflate::InflateLimits;
use crate::tls::ListenerTls;
use crate::tls::certificates::CertificateSet;
pub use endpoints::address;
pub use file::{
    Drain, DriverChoice, Engine, HandlerName, Hub, LogFormat, Metrics, Process, Timeouts,
};
pub use layers::{Given, Written};
pub use reload::Renewed;
pub use sources::{Source, Sources};
pub use tls::days_left;

/// A configuration that cannot be used: which key, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The option at fault, where it is one: `limits.headers_max` or `listener.0.address`.
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
    /// A result's value; its error is kept.
    fn check<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// Whether an error of this option was found.
    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|error| error.key.as_deref() == Some(key))
    }

    /// The value, unless there were errors: then those, in the order in which they were found.
    fn finish<T>(self, value: impl FnOnce() -> T) -> Result<T, Vec<ConfigError>> {
        if self.0.is_empty() { Ok(value()) } else { Err(self.0) }
    }
}

impl ConfigError {
    /// Several errors as one: the first one's key, and the text of all.
    fn all(errors: Vec<Self>) -> Self {
        let text = errors.iter().map(|error| error.text.as_str()).collect::<Vec<_>>().join("\n");
        Self { key: errors.into_iter().next().and_then(|error| error.key), text }
    }
}

fn error(text: impl Into<String>) -> ConfigError {
    ConfigError { key: None, text: text.into() }
}

/// An option's value cannot be used; `problem` goes on after its name.
fn at(key: &str, problem: impl fmt::Display) -> ConfigError {
    ConfigError { key: Some(key.to_owned()), text: format!("{key} {problem}") }
}

/// An option of a listener or route cannot be used.
fn of_one(key: String, text: String) -> ConfigError {
    ConfigError { key: Some(key), text }
}

/// A validated listener.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: Address,
    pub options: Options,
    /// Connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Peers that may speak for clients.
    pub forwarding: Option<Forwarding>,
    /// Peers whose PROXY header is accepted.
    pub trusted: Vec<ipnet::IpNet>,
    /// What it offers clients that speak TLS; `None`: they speak plainly.
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// Whether only programs on this host reach it, over TCP, as web pages can.
    pub fn is_loopback(&self) -> bool {
        matches!(&self.address, Address::Tcp(tcp) if tcp.ip().to_canonical().is_loopback())
    }
}

/// A route's behaviour, beside the [`Routes`] table that finds it.
#[derive(Clone, Copy, Debug)]
pub struct RouteOptions {
    pub handler: HandlerName,
    /// Under which number its connections are counted: the same for all that a path had in turn.
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
}

/// Days before a certificate's end from which on the log and `seawall doctor` warn of it.
pub const EXPIRY_WARNING_DAYS: i64 = 14;

/// Validated limits.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_per_shard_max: u32,
    pub handshakes_per_shard_max: u32,
    /// `Retry-After` where one of these is reached.
    pub retry_after_s: u32,
    pub admission: admission::Limits,
    pub http: http::Limits,
    pub ws: ws::Limits,
    /// Reading stops here.
    pub outbox_high_bytes: usize,
    /// Reading goes on here.
    pub outbox_low_bytes: usize,
    /// Past this the connection is closed. Replies alone do not get there: there is room for a
    /// largest message and for all that the buffers can bring in until reading has stopped.
    pub outbox_bytes_max: usize,
    pub outbox_shard_bytes_max: usize,
    pub partial_shard_bytes_max: u64,
    pub linger_bytes_max: u64,
    pub inflate_ratio_max: u32,
    /// Memory for the compression contexts of a shard's connections.
    pub compression_shard_bytes_max: u64,
}

/// Who may connect.
#[derive(Debug)]
pub struct Auth {
    /// Whether there is anything to verify tokens with; without, all clients are anonymous.
    pub keys_configured: bool,
    pub verifier: Arc<Verifier>,
    /// Where its further keys are fetched.
    pub jwks: Option<JwksSource>,
    /// A line for each key of `auth.jwks_file` that is of no use.
    pub skipped_keys: Vec<String>,
    /// Clients without a token may stay although there are keys.
    pub allow_anonymous: bool,
    /// Tokens are taken from the query as well.
    pub token_query: bool,
    /// Keys of the API.
    pub api_keys: Arc<ApiKeys>,
}

/// Where the keys that seal tickets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketKeys {
    /// `resume.keys` or `resume.keys_file`.
    Configured,
    /// The file in `process.state_dir`.
    Kept,
    /// This process only: no ticket outlives it.
    Random,
}

/// How clients come back with tickets.
#[derive(Debug)]
pub struct Resume {
    pub sealer: Arc<Sealer>,
    pub keys: TicketKeys,
    pub ttl_s: u64,
}

/// What the server runs on.
#[derive(Debug)]
pub struct Config {
    /// How many reloads led to it.
    pub epoch: u64,
    pub shards: u16,
    pub admin: Option<Address>,
    pub admin_hosts: Vec<String>,
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
    /// Certificates of all that speak TLS.
    pub certificates: Arc<CertificateSet>,
    pub routes: Routes,
    pub route_options: Vec<RouteOptions>,
    pub hub: Hub,
    pub namespaces: Namespaces,
    pub auth: Auth,
    pub resume: Resume,
    /// Whether `/metrics` asks for an API key as well.
    pub metrics_auth: bool,
    /// Files of secrets that their group may read.
    pub group_secrets: Vec<String>,
}

impl Config {
    /// What is accepted and worth a line in the log.
    pub fn warnings(&self) -> Vec<String> {
        let skipped = self.auth.skipped_keys.iter().map(|line| format!("auth.jwks_file: {line}"));
        let shared = (!self.group_secrets.is_empty()).then(|| {
            let files = self.group_secrets.join(" ");
            format!(
                "files of secrets are accessible to their group: {files}; if that is not meant, \
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
        skipped.chain(shared).chain(expiring).collect()
    }

    /// Receive buffers of one shard.
    pub fn buffers_per_shard(&self) -> u32 {
        let per_shard = self.engine.buffer_memory_bytes / u64::from(self.shards);
        (per_shard / u64::from(self.engine.buffer_bytes)).clamp(8, 32_768) as u32
    }

    /// Whether connections of some route may stay for less time than by an older configuration.
    /// Routes keep their places.
    pub fn lowers_stays(&self, older: &Self) -> bool {
        let is_lower = |now: u32, before: u32| now != 0 && (before == 0 || now < before);
        self.route_options.iter().zip(&older.route_options).any(|(now, before)| {
            is_lower(now.connection_age_max_ms, before.connection_age_max_ms)
                || is_lower(now.idle_timeout_ms, before.idle_timeout_ms)
        })
    }

    /// Bounds on inflating in one shard.
    pub fn inflate_limits(&self) -> InflateLimits {
        InflateLimits {
            leases_max: self.engine.inflaters_max as usize,
            ratio_max: self.limits.inflate_ratio_max,
        }
    }

    /// How much leaves in one send.
    pub fn send_bounds(&self) -> Bounds {
        Bounds {
            segments_max: self.engine.send_segments_max as usize,
            bytes_max: self.engine.send_bytes_max as usize,
        }
    }

    /// Completion entries of a ring, as the kernel rounds them.
    pub fn completion_entries(&self) -> u32 {
        match self.engine.completion_entries {
            0 => self.engine.ring_entries.next_power_of_two() * 8,
            asked => asked.next_power_of_two(),
        }
    }

    /// Sockets a ring's table has room for: connections, and what is only just being accepted or
    /// refused.
    pub fn sockets_per_shard(&self) -> u32 {
        let listeners = self.listeners.len() as u32;
        let headroom = validate::sockets_headroom(self.engine.accepts_per_listener, listeners);
        self.limits.connections_per_shard_max + headroom
    }
}

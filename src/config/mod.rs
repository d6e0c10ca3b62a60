//! Configuration: what was written ([`mod@file`]) becomes what the server runs on ([`Config`]).
//!
//! Illegal combinations are refused here, each with the key at fault and what to do, so that
//! nothing behind this module has to check again.

pub mod file;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use crate::driver::listener::{Address, Congestion, Options};
use crate::proto::http::{self, Forwarding, ForwardingHeader, Origins, Routes};
use crate::proto::ws;
pub use file::{Drain, Engine, HandlerName, LogFormat, Metrics, Timeouts};

/// A configuration that cannot be used: which key, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn error(text: impl Into<String>) -> ConfigError {
    ConfigError(text.into())
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
}

/// A route's behaviour, beside the [`Routes`] table that finds it.
#[derive(Clone, Copy, Debug)]
pub struct RouteOptions {
    pub handler: HandlerName,
    pub ping_interval_ms: u32,
    pub pong_timeout_ms: u32,
    pub idle_timeout_ms: u32,
    pub close_timeout_ms: u32,
    pub connection_age_max_ms: u32,
}

/// Validated limits.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_per_shard_max: u32,
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
}

/// What the server runs on.
#[derive(Debug)]
pub struct Config {
    pub shards: u16,
    pub admin: Option<Address>,
    pub admin_hosts: Vec<String>,
    pub engine: Engine,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub drain: Drain,
    pub metrics: Metrics,
    pub log_format: LogFormat,
    pub log_level: String,
    pub listeners: Vec<Listener>,
    pub routes: Routes,
    pub route_options: Vec<RouteOptions>,
}

/// Connections a ring's table keeps free for accepts that are under way and refusals.
pub const SOCKETS_HEADROOM: u32 = 128;
/// Buffers that one connection may fill in the turn in which its reading is stopped.
const BUFFERS_RACING: u32 = 64;

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has a key or value that is not known.
    pub fn read(path: &Path) -> Result<file::File, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| error(format!("cannot read {}: {e}", path.display())))?;
        toml::from_str(&text).map_err(|e| error(format!("{}: {e}", path.display())))
    }

    /// Checks a file's values and brings them into the form that the server uses.
    ///
    /// `open_files` is the limit of open files, which bounds a ring's table of connections.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub fn validate(file: &file::File, open_files: u64, cores: usize) -> Result<Self, ConfigError> {
        let shards = if file.shards == 0 { cores.max(1) as u16 } else { file.shards };
        if shards > 1024 {
            return Err(error(format!("shards = {shards}: at most 1024 are supported")));
        }
        let limits = limits(&file.limits, open_files)?;
        let engine = engine(&file.engine, shards)?;
        let mut written = file.listeners.clone();
        if written.is_empty() {
            written.push(file::Listener::default());
        }
        let listeners = written.iter().map(listener).collect::<Result<Vec<_>, _>>()?;
        for (index, one) in listeners.iter().enumerate() {
            if listeners[..index].iter().any(|other| other.address == one.address) {
                return Err(error(format!("two listeners name the address {}", one.address)));
            }
        }
        let mut routes = file.routes.clone();
        if routes.is_empty() {
            routes.push(file::Route::default());
        }
        let table = routes.iter().map(route).collect::<Result<Vec<_>, _>>()?;
        if file.drain.window_ms > file.drain.deadline_ms {
            return Err(error("drain.window_ms must not be longer than drain.deadline_ms"));
        }
        if file.timeouts.handshake_timeout_ms == 0 {
            return Err(error(
                "timeouts.handshake_timeout_ms must not be 0: slow clients would \
                 hold their places for ever",
            ));
        }
        if file.metrics.histogram_log_interval_s == 0 {
            return Err(error("metrics.histogram_log_interval_s must not be 0"));
        }
        let (table, route_options): (Vec<_>, Vec<_>) = table.into_iter().unzip();
        let mut config = Self {
            shards,
            admin: admin(&file.admin)?,
            admin_hosts: file.admin.hosts.clone(),
            engine,
            limits,
            timeouts: file.timeouts.clone(),
            drain: file.drain.clone(),
            metrics: file.metrics.clone(),
            log_format: file.log.format,
            log_level: file.log.level.clone(),
            listeners,
            routes: Routes::new(table),
            route_options,
        };
        // A receive that is being cancelled may still use the buffers that are published, and
        // those that are published in the same turn.
        let buffers = config.buffers_per_shard().min(BUFFERS_RACING);
        config.limits.outbox_bytes_max +=
            2 * buffers as usize * config.engine.buffer_bytes as usize;
        Ok(config)
    }

    /// Receive buffers of one shard.
    pub fn buffers_per_shard(&self) -> u32 {
        let per_shard = self.engine.buffer_memory_bytes / u64::from(self.shards);
        (per_shard / u64::from(self.engine.buffer_bytes)).clamp(8, 32_768) as u32
    }
}

fn engine(written: &Engine, shards: u16) -> Result<Engine, ConfigError> {
    if !(64..=8192).contains(&written.ring_entries) {
        // The completion queue has eight times as many, and the kernel allows 65,536.
        return Err(error("engine.ring_entries must be between 64 and 8192"));
    }
    if !(1024..=1 << 20).contains(&written.buffer_bytes) {
        return Err(error("engine.buffer_bytes must be between 1024 and 1048576"));
    }
    let least = u64::from(written.buffer_bytes) * 8 * u64::from(shards);
    if written.buffer_memory_bytes < least {
        return Err(error(format!(
            "engine.buffer_memory_bytes must be at least {least}: eight buffers of {} bytes for \
             each of {shards} shards",
            written.buffer_bytes
        )));
    }
    if written.turn_completions_max == 0 {
        return Err(error("engine.turn_completions_max must not be 0"));
    }
    Ok(written.clone())
}

fn limits(written: &file::Limits, open_files: u64) -> Result<Limits, ConfigError> {
    let possible = (open_files.min(u64::from(u32::MAX)) as u32).saturating_sub(SOCKETS_HEADROOM);
    let connections = match written.connections_per_shard_max {
        0 => possible.min(131_072),
        asked if asked > possible => {
            return Err(error(format!(
                "limits.connections_per_shard_max = {asked}: the open-files limit of {open_files} \
                 allows {possible} a shard. Raise the limit (`ulimit -n`, systemd: LimitNOFILE=), \
                 or use more shards: each has a table of its own"
            )));
        }
        asked => asked,
    };
    if connections == 0 {
        return Err(error(format!(
            "the open-files limit of {open_files} leaves no room for connections: raise it"
        )));
    }
    if written.headers_max == 0 || written.headers_max > 100 {
        return Err(error("limits.headers_max must be between 1 and 100"));
    }
    if !(256..=1 << 20).contains(&written.head_bytes_max) {
        return Err(error("limits.head_bytes_max must be between 256 and 1048576"));
    }
    if written.message_bytes_max == 0 || written.message_bytes_max > 1 << 30 {
        return Err(error("limits.message_bytes_max must be between 1 and 1073741824 (1 GiB)"));
    }
    if written.partial_shard_bytes_max < written.message_bytes_max {
        return Err(error(
            "limits.partial_shard_bytes_max must be at least limits.message_bytes_max",
        ));
    }
    if written.fragments_max == 0 {
        return Err(error("limits.fragments_max must not be 0"));
    }
    let message_bytes_max = written.message_bytes_max as usize;
    let high = written.outbox_bytes_max as usize;
    Ok(Limits {
        connections_per_shard_max: connections,
        http: http::Limits {
            head_bytes_max: written.head_bytes_max as usize,
            target_bytes_max: written.target_bytes_max as usize,
            headers_max: written.headers_max as usize,
        },
        ws: ws::Limits { message_bytes_max, fragments_max: written.fragments_max },
        outbox_high_bytes: high,
        outbox_low_bytes: high / 2,
        outbox_bytes_max: 2 * high + message_bytes_max + ws::HEADER_BYTES_MAX_SERVER,
        outbox_shard_bytes_max: written.outbox_shard_bytes_max as usize,
        partial_shard_bytes_max: written.partial_shard_bytes_max,
        linger_bytes_max: written.linger_bytes_max,
    })
}

/// Reads `ADDR:PORT` or `unix:PATH`.
///
/// # Errors
/// Says what a good address looks like.
pub fn address(text: &str) -> Result<Address, ConfigError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err(error("`unix:` needs a path, as in unix:/run/seawall.sock"))
        } else {
            Ok(Address::Unix(path.into()))
        };
    }
    text.parse::<SocketAddr>().map(Address::Tcp).map_err(|_| {
        error(format!(
            "`{text}` is no address: write ADDR:PORT (127.0.0.1:9000), [ADDR6]:PORT ([::1]:9000) \
             or unix:PATH"
        ))
    })
}

fn admin(written: &file::Admin) -> Result<Option<Address>, ConfigError> {
    if written.listen.is_empty() {
        return Ok(None);
    }
    let address = address(&written.listen).map_err(|e| error(format!("admin.listen: {e}")))?;
    match &address {
        Address::Tcp(tcp) if !tcp.ip().is_loopback() => Err(error(format!(
            "admin.listen = \"{tcp}\" is not a loopback address: the admin address has no keys \
             yet, so it must be 127.0.0.1, [::1] or unix:PATH"
        ))),
        _ => Ok(Some(address)),
    }
}

fn listener(written: &file::Listener) -> Result<Listener, ConfigError> {
    let at = |e: ConfigError| error(format!("listener {}: {e}", written.address));
    let address = address(&written.address).map_err(at)?;
    let trusted = written
        .trusted_proxies
        .iter()
        .map(|text| network(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(at)?;
    let unix = matches!(address, Address::Unix(_));
    if written.proxy_protocol && trusted.is_empty() && !unix {
        return Err(at(error(
            "proxy_protocol = true requires trusted_proxies: anybody could claim any address",
        )));
    }
    let header = match written.forwarded_header.to_ascii_lowercase().as_str() {
        "" => None,
        "x-forwarded-for" => Some(ForwardingHeader::XForwardedFor),
        "forwarded" => Some(ForwardingHeader::Forwarded),
        other => {
            return Err(at(error(format!(
                "forwarded_header = \"{other}\": must be \"x-forwarded-for\", \"forwarded\" or \"\""
            ))));
        }
    };
    if header.is_some() && trusted.is_empty() && !unix {
        return Err(at(error("forwarded_header requires trusted_proxies")));
    }
    let options = Options {
        backlog: written.backlog.clamp(1, i32::MAX as u32),
        nodelay: written.nodelay,
        keepalive_s: written.keepalive_s,
        receive_buffer_bytes: written.receive_buffer_bytes,
        send_buffer_bytes: written.send_buffer_bytes,
        user_timeout_ms: written.user_timeout_ms,
        congestion: match written.congestion.as_str() {
            "auto" => Congestion::Auto,
            "" => Congestion::Host,
            name => Congestion::Named(name.to_owned()),
        },
        incoming_cpu: written.incoming_cpu,
        busy_poll_us: written.busy_poll_us,
        only_v6: written.only_v6,
        unix_mode: written.unix_mode,
        steer: written.steer,
    };
    let forwarding = header.map(|header| Forwarding { header, trusted: trusted.clone() });
    Ok(Listener { address, options, proxy_protocol: written.proxy_protocol, forwarding, trusted })
}

fn network(text: &str) -> Result<ipnet::IpNet, ConfigError> {
    text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from)).map_err(
        |_| {
            error(format!(
                "trusted_proxies: `{text}` is no network: write 10.0.0.0/8, 2001:db8::/32 or one \
                 address"
            ))
        },
    )
}

fn route(written: &file::Route) -> Result<(http::Route, RouteOptions), ConfigError> {
    let at = |text: &str| error(format!("route {}: {text}", written.path));
    if !written.path.starts_with('/') || written.path.contains(['?', '#', ' ']) {
        return Err(at("path must begin with `/` and have no `?`, `#` or space"));
    }
    if matches!(written.path.as_str(), "/healthz" | "/readyz") {
        return Err(at("this path answers health checks and cannot be a route"));
    }
    if written.ping_interval_ms > 0 && written.pong_timeout_ms == 0 {
        return Err(at("pong_timeout_ms must not be 0 where ping_interval_ms is set"));
    }
    let origins = match written.origins.as_slice() {
        [] => Origins::SameOrigin,
        list if list.iter().any(|origin| origin == "*") => Origins::Any,
        list => Origins::List(list.to_vec()),
    };
    Ok((
        http::Route {
            path: written.path.clone(),
            prefix: written.matching == file::Matching::Prefix,
            subprotocols: written.subprotocols.clone(),
            origins,
        },
        RouteOptions {
            handler: written.handler,
            ping_interval_ms: written.ping_interval_ms,
            pong_timeout_ms: written.pong_timeout_ms,
            idle_timeout_ms: written.idle_timeout_ms,
            close_timeout_ms: written.close_timeout_ms,
            connection_age_max_ms: written.connection_age_max_ms,
        },
    ))
}

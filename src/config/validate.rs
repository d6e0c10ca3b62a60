//! Validates a configuration file and converts it to the form that the server uses: first each
//! value by itself, then values that depend on each other.

use super::endpoints::{self, admin, listener, route};
use super::file::{self, Engine, File, Metrics, Process};
use super::file_stamps::FileStamps;
use super::tls::PreparedTls;
use super::{
    Auth, Config, ConfigError, Faults, Limits, Listener, RouteOptions, acme, apps, at, backend,
    cluster, credentials, error, hub, ranges, secret_files, tls, webhooks,
};
use crate::admission::limiter::{RateBound, RateBounds};
use crate::admission::{self, ROUTES_MAX};
use crate::auth::{Namespaces, PusherApps};
use crate::driver::listener::Address;
use crate::proto::http::{self, Routes};
use crate::proto::ws;

/// Connections that a shard accepts beyond its limit only to reject them with an answer, plus a
/// margin.
pub(super) const SURPLUS: u32 = 96;
/// Buffers that one connection may fill in the turn in which reading from it is paused.
const BUFFERS_RACING: u32 = 64;

/// Returns the entries of a ring's descriptor table that are not for connections.
pub(super) fn sockets_headroom(accepts_per_listener: u32, listeners: u32) -> u32 {
    accepts_per_listener.saturating_mul(listeners).saturating_add(SURPLUS)
}

impl Config {
    /// Validates a file's values and converts them to the form that the server uses.
    ///
    /// `open_files` is the limit of open files, which bounds a ring's table of connections.
    ///
    /// # Errors
    /// All errors in one, with the key of the first.
    pub fn validate(file: &File, open_files: u64, cores: usize) -> Result<Self, ConfigError> {
        Self::check(file, open_files, cores).map_err(ConfigError::all)
    }

    /// Does the same, and returns each error by itself.
    pub(super) fn check(
        file: &File,
        open_files: u64,
        cores: usize,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Faults::default();
        let cores = cores.clamp(1, file::SHARDS_MAX as usize) as u16;
        let shards = if file.shards == 0 { cores } else { file.shards };
        ranges::check_single_sections(file, &mut faults);
        let tls_files = FileStamps::of_tls(file);
        let endpoints = Endpoints::check(file, &mut faults);
        check_engine(&file.engine, shards, &mut faults);
        let accepts = file.engine.accepts_per_listener;
        let headroom = sockets_headroom(accepts, endpoints.listeners_written);
        let mut limits = limits(&file.limits, open_files, headroom, &mut faults);
        limits.compression_shard_bytes_max =
            file.limits.compression_bytes_max / u64::from(shards.max(1));
        check_process(&file.process, &mut faults);
        times(file, &mut faults);
        check_metrics(&file.metrics, &mut faults);
        let log_level = faults.check(level(&file.log.level));
        let resume = faults.check(credentials::resume(&file.resume));
        let acme = acme::settings(file, &mut faults);
        let cluster = cluster::settings(file, &mut faults);
        let Endpoints { listeners, tls, routes, admin, auth, namespaces, apps, .. } = endpoints;
        let backends = webhooks::all_targets(file, &apps, &mut faults);
        let PreparedTls { certificates, admin: admin_tls } = tls;
        let (table, route_options) = routes.into_iter().unzip();
        let parts = (auth, namespaces, resume, log_level);
        let (Some(auth), Some(namespaces), Some(resume), Some(log_level)) = parts else {
            return Err(faults.0);
        };
        let mut config = faults.finish(|| Self {
            epoch: 0,
            shards,
            admin,
            admin_hosts: file.admin.hosts.clone(),
            admin_tls,
            process: file.process.clone(),
            engine: file.engine.clone(),
            limits,
            rates: rates(&file.rates),
            timeouts: file.timeouts.clone(),
            drain: file.drain.clone(),
            metrics: file.metrics.clone(),
            log_format: file.log.format,
            log_level,
            listeners,
            certificates,
            acme,
            tls_files,
            certificate_watch_interval_s: file.tls.watch_interval_s,
            routes: Routes::new(table),
            route_options,
            hub: file.hub.clone(),
            cluster,
            backends,
            channel_events: backend::wanted_kinds(&namespaces),
            namespaces,
            apps,
            auth,
            resume,
            metrics_auth: file.admin.metrics_auth,
            group_secrets: secret_files::of_group(file),
        })?;
        let racing_bytes = config.racing_bytes();
        let outbox = &mut config.limits.outbox_bytes_max;
        *outbox = outbox.saturating_add(racing_bytes);
        Ok(config)
    }

    /// Bytes that a receive may still deliver while it is being cancelled: it may fill every
    /// published buffer, and as many again that are published in the same turn.
    fn racing_bytes(&self) -> usize {
        let buffers = self.buffers_per_shard().min(BUFFERS_RACING);
        2 * buffers as usize * self.engine.buffer_bytes as usize
    }
}

/// The addresses for clients and operators, and the rules of access to them.
struct Endpoints {
    listeners_written: u32,
    listeners: Vec<Listener>,
    tls: PreparedTls,
    routes: Vec<(http::Route, RouteOptions)>,
    admin: Option<Address>,
    auth: Option<Auth>,
    namespaces: Option<Namespaces>,
    apps: PusherApps,
}

impl Endpoints {
    fn check(file: &File, faults: &mut Faults) -> Self {
        let mut written = file.listeners.clone();
        if written.is_empty() {
            written.push(file::Listener::default());
        }
        faults.check(endpoints::reject_too_many(written.len()));
        let mut listeners = collect(&written, |index, one| listener(index, one, faults));
        let tls = tls::prepare(file, &written, &mut listeners, faults);
        let auth = credentials::auth(file, faults);
        let has_api_keys =
            auth.as_ref().map_or(!file.api_keys.is_empty(), |a| !a.api_keys.is_empty());
        let admin = faults.check(admin(&file.admin, has_api_keys)).flatten();
        faults.check(endpoints::reject_overlaps(&listeners, admin.as_ref()));
        let mut routes = file.routes.clone();
        if routes.is_empty() {
            routes = file::default_routes();
        }
        if routes.len() > ROUTES_MAX {
            let text =
                format!("must not have more than {ROUTES_MAX} entries: use `match = \"prefix\"`");
            faults.0.push(at("route", text));
        }
        let mut checked = collect(&routes, |index, one| route(index, one, faults));
        backend::connect_routes(file, &routes, &mut checked, faults);
        faults.check(endpoints::reject_duplicates(&routes));
        // Where a key has an error, `auth` is `None` and it is unknown whether keys exist.
        if auth.as_ref().is_some_and(|auth| !auth.keys_configured && !auth.allow_anonymous) {
            faults.check(endpoints::reject_hub_without_keys(&listeners, &routes));
        }
        let keys = auth.as_ref().is_none_or(|auth| auth.keys_configured);
        let bytes_max = file.limits.message_bytes_max;
        let namespaces = hub::namespaces(file, keys, bytes_max, faults);
        let listeners_written = written.len() as u32;
        let routes = checked;
        let apps = apps::apps(file, faults);
        Self { listeners_written, listeners, tls, routes, admin, auth, namespaces, apps }
    }
}

fn collect<W, V>(written: &[W], mut one: impl FnMut(usize, &W) -> Option<V>) -> Vec<V> {
    written.iter().enumerate().filter_map(|(index, written)| one(index, written)).collect()
}

fn check_process(written: &Process, faults: &mut Faults) {
    if written.user.is_empty() && !written.group.is_empty() {
        faults.0.push(at("process.group", "needs process.user: set the user as well"));
    }
}

fn check_engine(written: &Engine, shards: u16, faults: &mut Faults) {
    let (entries, least) = (written.completion_entries, written.ring_entries.saturating_mul(2));
    if entries != 0 && entries < least {
        let text =
            format!("must be 0 or at least twice engine.ring_entries ({least}), not {entries}");
        faults.0.push(at("engine.completion_entries", text));
    }
    let least = u64::from(written.buffer_bytes) * 8 * u64::from(shards);
    if written.buffer_memory_bytes < least && !faults.has("engine.buffer_memory_bytes") {
        faults.0.push(at(
            "engine.buffer_memory_bytes",
            format!(
                "must be at least {least}: eight buffers of {} bytes for each of {shards} shards",
                written.buffer_bytes
            ),
        ));
    }
}

/// Returns the maximum number of connections per shard.
fn connections_per_shard(
    written: &file::Limits,
    open_files: u64,
    headroom: u32,
) -> Result<u32, ConfigError> {
    let possible = (open_files.min(u64::from(u32::MAX)) as u32).saturating_sub(headroom);
    let connections = match written.connections_per_shard_max {
        0 => possible.min(131_072),
        asked if asked > possible => {
            return Err(at(
                "limits.connections_per_shard_max",
                format!(
                    "= {asked}: the open-files limit of {open_files} allows {possible} per shard. \
                     Raise the limit (`ulimit -n`, systemd: LimitNOFILE=), or use more shards: \
                     each has its own table"
                ),
            ));
        }
        asked => asked,
    };
    if connections == 0 {
        return Err(error(format!(
            "the open-files limit of {open_files} is too low for any connection; raise it (`ulimit \
             -n`, systemd: LimitNOFILE=)"
        )));
    }
    Ok(connections)
}

fn limits(written: &file::Limits, open_files: u64, headroom: u32, faults: &mut Faults) -> Limits {
    let connections = connections_per_shard(written, open_files, headroom);
    let connections_per_shard_max = faults.check(connections).unwrap_or(1);
    let partial = "limits.partial_shard_bytes_max";
    if written.partial_shard_bytes_max < written.message_bytes_max && !faults.has(partial) {
        faults.0.push(at(partial, "must be at least limits.message_bytes_max"));
    }
    let message_bytes_max = written.message_bytes_max.min(1 << 30) as usize;
    let high = written.outbox_bytes_max as usize;
    Limits {
        connections_per_shard_max,
        handshakes_per_shard_max: written.handshakes_per_shard_max,
        retry_after_s: written.retry_after_s,
        admission: admission_limits(written),
        http: http::Limits {
            head_bytes_max: written.head_bytes_max as usize,
            target_bytes_max: written.target_bytes_max as usize,
            headers_max: written.headers_max as usize,
        },
        ws: ws::Limits { message_bytes_max, fragments_max: written.fragments_max },
        outbox_high_bytes: high,
        outbox_low_bytes: high / 2,
        outbox_bytes_max: high
            .saturating_mul(2)
            .saturating_add(message_bytes_max + ws::HEADER_BYTES_MAX_SERVER),
        outbox_shard_bytes_max: written.outbox_shard_bytes_max as usize,
        partial_shard_bytes_max: written.partial_shard_bytes_max,
        linger_bytes_max: written.linger_bytes_max,
        inflate_ratio_max: written.inflate_ratio_max,
        compression_shard_bytes_max: written.compression_bytes_max,
    }
}

fn admission_limits(written: &file::Limits) -> admission::Limits {
    admission::Limits {
        connections_max: written.connections_max,
        connections_per_address_max: written.connections_per_address_max,
        connections_per_user_max: written.connections_per_user_max,
        connections_per_second_max: written.connections_per_second_max,
        connections_per_address_second_max: written.connections_per_address_second_max,
        address_prefix_v4: written.address_prefix_v4 as u8,
        address_prefix_v6: written.address_prefix_v6 as u8,
        memory_bytes_max: written.memory_bytes_max,
    }
}

fn rates(written: &file::Rates) -> RateBounds {
    let of = |connection, user| RateBound { connection, user };
    RateBounds {
        // In the order of `RateKind`.
        kinds: [
            of(written.connection_messages, written.user_messages),
            of(written.connection_bytes, written.user_bytes),
            of(written.connection_subscribes, written.user_subscribes),
            of(written.connection_publishes, written.user_publishes),
            of(written.connection_reads, written.user_reads),
        ],
        burst_ms: written.burst_ms,
        excess: written.excess,
    }
}

fn times(file: &File, faults: &mut Faults) {
    if file.drain.window_ms > file.drain.deadline_ms {
        faults.0.push(at(
            "drain.window_ms",
            format!(
                "must not be longer than drain.deadline_ms ({}), when the remaining connections \
                 are dropped",
                file.drain.deadline_ms
            ),
        ));
    }
}

fn check_metrics(written: &Metrics, faults: &mut Faults) {
    if !written.histogram_log.is_empty() && !written.histograms {
        faults.0.push(at(
            "metrics.histogram_log",
            "needs metrics.histograms = true, which records the histograms",
        ));
    }
}

fn level(written: &str) -> Result<String, ConfigError> {
    match written.parse::<tracing::Level>() {
        Ok(level) => Ok(level.to_string().to_lowercase()),
        Err(_) => {
            Err(at("log.level", format!("= \"{written}\": use error, warn, info, debug or trace")))
        }
    }
}

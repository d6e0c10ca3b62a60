//! The configuration as written: every key with its default, and its unit in its name.
//!
//! Sections are rows of one [`table`]; combinations of values are checked in
//! [`super::Config::validate`].

mod auth;
mod backend;
mod cluster;
mod endpoints;
mod engine;
mod hub;
mod limits;
mod process;
mod pusher;
mod secret;
pub mod table;
mod tls;

use serde::{Deserialize, Serialize};

pub use auth::{ApiKey, Auth, Key, Resume};
pub use backend::{AffinityRule, Backend};
pub use cluster::Cluster;
pub use endpoints::{
    AcceptRule, CompressionMode, ConnectRule, HandlerName, Listener, Matching, Route,
    RouteSlowReader, SUBPROTOCOL, default_routes,
};
pub use engine::{DriverChoice, Engine};
pub use hub::{Channel, Hub};
pub use limits::{Limits, Rates};
pub use process::Process;
pub use pusher::App;
pub use secret::{Secret, Secrets};
use table::{ANY, Kind, NumberColumns, OptionType, Row, Section, section};
pub use tls::{Acme, CertificateFiles, Tls};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// See [`TOP`].
    pub shards: u16,
    pub admin: Admin,
    pub process: Process,
    pub engine: Engine,
    pub limits: Limits,
    pub rates: Rates,
    pub timeouts: Timeouts,
    pub drain: Drain,
    pub metrics: Metrics,
    pub log: Log,
    pub hub: Hub,
    pub cluster: Cluster,
    pub auth: Auth,
    pub resume: Resume,
    pub tls: Tls,
    pub acme: Acme,
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    #[serde(rename = "certificate")]
    pub certificates: Vec<CertificateFiles>,
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
    #[serde(rename = "channel")]
    pub channels: Vec<Channel>,
    #[serde(rename = "backend")]
    pub backends: Vec<Backend>,
    #[serde(rename = "app")]
    pub apps: Vec<App>,
    #[serde(rename = "key")]
    pub keys: Vec<Key>,
    #[serde(rename = "api_key")]
    pub api_keys: Vec<ApiKey>,
}

/// Options that name files, beside those that end in `_file` or `_files`: by section and key.
const NAMED_FILES: [(&str, &str); 5] = [
    ("admin", "tls_client_ca"),
    ("certificate", "chain"),
    ("certificate", "key"),
    ("certificate", "ocsp"),
    ("listener", "tls_client_ca"),
];

impl File {
    /// Returns all files that it names, except logs: a reload reads them again.
    pub fn files(&self) -> Vec<String> {
        let table = toml::Table::try_from(self).expect("what came from TOML can be TOML again");
        let mut found = Vec::new();
        for (name, section) in table {
            let several = match section {
                toml::Value::Array(several) => several,
                one => vec![one],
            };
            for one in several.into_iter().filter_map(|one| one.try_into::<toml::Table>().ok()) {
                let is_file = |key: &str| {
                    key.ends_with("_file")
                        || key.ends_with("_files")
                        || NAMED_FILES.contains(&(name.as_str(), key))
                };
                for (_, value) in one.into_iter().filter(|(key, _)| is_file(key)) {
                    let paths = match value {
                        toml::Value::Array(paths) => paths,
                        path => vec![path],
                    };
                    found.extend(paths.iter().filter_map(toml::Value::as_str).map(str::to_owned));
                }
            }
        }
        found.retain(|path| !path.is_empty());
        found
    }
}

impl File {
    /// Returns the options with different values in another file: by key, and repeated sections as
    /// a whole.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |file| toml::Table::try_from(file).expect("what came from TOML is TOML again");
        let (own, others) = (table(self), table(other));
        let mut found = Vec::new();
        for section in &SECTIONS {
            if section.repeated {
                if own.get(section.name) != others.get(section.name) {
                    found.push(format!("[[{}]]", section.name));
                }
                continue;
            }
            let value = |table: &toml::Table, key: &str| match section.name {
                "" => table.get(key).cloned(),
                name => table.get(name)?.get(key).cloned(),
            };
            let differ = |row: &&Row| value(&own, row.key) != value(&others, row.key);
            found.extend(section.rows.iter().filter(differ).map(|row| section.path(row)));
        }
        found
    }
}

/// The maximum number of shards.
pub const SHARDS_MAX: u64 = 1024;

/// The options above the first section.
pub const TOP: Section = Section {
    name: "",
    repeated: false,
    absent: false,
    about: "The server as a whole.",
    rows: &[Row {
        key: "shards",
        kind: Kind::Number { max: SHARDS_MAX },
        secret: false,
        default: || toml::Value::Integer(0),
        number: Some(NumberColumns { unit: "shards", min: 0, max: SHARDS_MAX, reason: "" }),
        meaning: "Shards, each a thread with its own ring; 0 = one per core.",
        change: "Raise above the number of cores where the open-files limit cannot be raised: with \
                 rings it limits each shard, not the process. Lower to leave cores to other \
                 programs.",
    }],
};

/// The table, in the order of the reference.
pub const SECTIONS: [Section; 24] = [
    TOP,
    Admin::SECTION,
    Listener::SECTION,
    CertificateFiles::SECTION,
    Tls::SECTION,
    Acme::SECTION,
    Route::SECTION,
    Channel::SECTION,
    Hub::SECTION,
    Cluster::SECTION,
    Backend::SECTION,
    App::SECTION,
    Auth::SECTION,
    Key::SECTION,
    ApiKey::SECTION,
    Resume::SECTION,
    Limits::SECTION,
    Rates::SECTION,
    Timeouts::SECTION,
    Drain::SECTION,
    Metrics::SECTION,
    Log::SECTION,
    Process::SECTION,
    Engine::SECTION,
];

section! {
    /// The admin API, health checks and metrics.
    Admin "admin" repeated false;

    /// Address for operators: `ADDR:PORT`, `unix:PATH`, or empty for none. Without an
    /// `[[api_key]]` it must be loopback or a path.
    listen: String = "127.0.0.1:9100".into(),
    "Use a Unix socket to admit only one user of this host, or another port where 9100 is taken.";

    /// Host names (without port) that requests may use, besides loopback addresses and, with an
    /// `[[api_key]]`, any IP address. With an `[[api_key]]`, `/healthz` and `/readyz` answer under
    /// every name.
    hosts: Vec<String> = vec!["localhost".into()],
    "Add the name under which operators, backends or collectors reach the address.";

    /// Without an `[[api_key]]`: confirms that callers need none. A reload that removes the last
    /// key requires it, so that a file read while it is empty or half written opens nothing.
    allow_anonymous: bool = false,
    "Set before removing the last key of a running server.";

    /// Requires an API key for `/metrics` too.
    metrics_auth: bool = false,
    "Set where other hosts reach the address and the collector can send a key.";

    /// Serves the address over TLS, with the certificates of `[[certificate]]` or `[acme]`.
    tls: bool = false,
    "Set where other hosts reach the address: API keys and what they read cross the network.";

    /// File with the authorities that sign the certificates of callers, as PEM; every caller must
    /// show one then, also for health and metrics. Empty = none is asked for.
    tls_client_ca: String = String::new(),
    "Set where operators and collectors have certificates of your own authority.";
}

section! {
    /// Deadlines that no route sets.
    Timeouts "timeouts" repeated false;

    /// Time from accept to the complete request, PROXY header included; past it: 408. While the
    /// server drains, one second at most.
    handshake_timeout_ms: u32 = 10_000 => "milliseconds" in 1..=ANY,
        because "slow clients would hold their places for ever",
    "Lower under attack by slow handshakes; raise for clients on very slow lines.";

    /// Time from the end of the answer to the peer's FIN; past it the connection is dropped.
    linger_timeout_ms: u32 = 2_000 => "milliseconds" in 0..=ANY,
    "Raise where rejected clients report resets instead of the answer.";

    /// Time without the peer taking a byte while bytes are queued for it; past it: close 4413.
    send_timeout_ms: u32 = 30_000 => "milliseconds" in 0..=ANY,
    "Lower to shed stalled readers sooner; raise for lines that pause.";
}

section! {
    /// Graceful shutdown.
    Drain "drain" repeated false;

    /// Closes are spread over this time, so that clients do not all reconnect at once. At most
    /// `deadline_ms`.
    window_ms: u32 = 20_000 => "milliseconds" in 0..=ANY,
    "Raise for very many clients; keep below the time after which the supervisor kills.";

    /// After this time the remaining connections are dropped.
    deadline_ms: u32 = 25_000 => "milliseconds" in 0..=ANY,
    "Keep below the supervisor's limit (Kubernetes: 30 s).";

    /// A shard with at most this many connections closes all of them at once, and has their clients
    /// reconnect within a second.
    at_once_connections: u32 = 1_000 => "connections" in 0..=ANY,
    "Lower where accepting even a few clients again is expensive.";

    /// `Retry-After` of the 503 answers while draining, and the shortest delay in a `goodbye` where
    /// a shard has more connections than `at_once_connections`.
    retry_after_s: u32 = 5 => "seconds" in 0..=ANY,
    "Set to about the time that a restart takes.";
}

section! {
    /// What the server measures about itself.
    Metrics "metrics" repeated false;

    /// Records histograms; off: counters only.
    histograms: bool = true,
    "Rarely: recording was measured at less than one percent of a small echo's CPU.";

    /// File to which the histograms of each interval are appended (`HdrHistogram` interval log);
    /// empty = none.
    histogram_log: String = String::new(),
    "Set for load tests, and to study incidents afterwards.";

    /// Length of an interval of the log.
    histogram_log_interval_s: u32 = 10 => "seconds" in 1..=86_400,
    "1 for load tests, 60 for a log that is kept for weeks.";
}

section! {
    /// The log, on standard error.
    Log "log" repeated false;

    /// `text` or `json`.
    format: LogFormat = LogFormat::Text,
    "`json` where a collector reads the log.";

    /// Lowest level that is logged: `error`, `warn`, `info`, `debug` or `trace`.
    level: String = "info".into(),
    "`warn` to log problems only.";
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl OptionType for LogFormat {
    const KIND: Kind = Kind::Choice(&["text", "json"]);
}

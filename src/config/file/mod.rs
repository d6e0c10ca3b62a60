//! The configuration as written: every key with its default, its unit in its name.
//!
//! Sections are rows of one [`table`]; what the values mean together is decided in
//! [`super::Config::validate`].

mod auth;
mod endpoints;
mod engine;
mod hub;
mod limits;
mod process;
mod secret;
pub mod table;

use serde::{Deserialize, Serialize};

pub use auth::{ApiKey, Auth, Key, Resume};
pub use endpoints::{
    CompressionMode, HandlerName, Listener, Matching, Route, SUBPROTOCOL, default_routes,
};
pub use engine::Engine;
pub use hub::{Channel, Hub};
pub use limits::{Limits, Rates};
pub use process::Process;
pub use secret::{Secret, Secrets};
use table::{Kind, OptionType, Row, Section, section};

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
    pub auth: Auth,
    pub resume: Resume,
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    #[serde(rename = "route")]
    pub routes: Vec<Route>,
    #[serde(rename = "channel")]
    pub channels: Vec<Channel>,
    #[serde(rename = "key")]
    pub keys: Vec<Key>,
    #[serde(rename = "api_key")]
    pub api_keys: Vec<ApiKey>,
}

impl File {
    /// All files that it names, besides logs: what a reload reads again.
    pub fn files(&self) -> Vec<String> {
        let table = toml::Table::try_from(self).expect("what came from TOML can be TOML again");
        let mut found = Vec::new();
        for (_, section) in table {
            let several = match section {
                toml::Value::Array(several) => several,
                one => vec![one],
            };
            for one in several.into_iter().filter_map(|one| one.try_into::<toml::Table>().ok()) {
                let named = one.into_iter().filter(|(key, _)| key.ends_with("_file"));
                found.extend(named.filter_map(|(_, path)| Some(path.as_str()?.to_owned())));
            }
        }
        found.retain(|path| !path.is_empty());
        found
    }
}

impl File {
    /// The options whose values differ in another file: by key, and repeated sections as a whole.
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

/// What stands above the first section.
pub const TOP: Section = Section {
    name: "",
    repeated: false,
    absent: false,
    about: "The server as a whole.",
    rows: &[Row {
        key: "shards",
        kind: Kind::Number { max: 1024 },
        secret: false,
        default: || toml::Value::Integer(0),
        meaning: "Shards, each a thread with a ring of its own; 0 = one a core.",
        change: "More than cores reach more connections where the open-files limit cannot be \
                 raised: each ring has its own table of them. Fewer leave cores to others.",
    }],
};

/// The table, in the order of the reference.
pub const SECTIONS: [Section; 18] = [
    TOP,
    Admin::SECTION,
    Listener::SECTION,
    Route::SECTION,
    Channel::SECTION,
    Hub::SECTION,
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
    /// The address for operators.
    Admin "admin" repeated false;

    /// `ADDR:PORT`, `unix:PATH`, or empty for none. Without an `[[api_key]]` it must be loopback
    /// or a path.
    listen: String = "127.0.0.1:9100".into(),
    "A Unix socket where only one user of this host may look; another port where 9100 is taken.";

    /// Host names (without port) that requests may name, besides loopback addresses, and with an
    /// `[[api_key]]` any IP address. `/healthz` and `/readyz` then answer under every name.
    hosts: Vec<String> = vec!["localhost".into()],
    "Add the name under which operators, backends or collectors reach the address.";

    /// Without an `[[api_key]]`: confirms that callers need none. A reload that removes the last
    /// key requires it, so that a file that is read while it is empty or half written opens
    /// nothing.
    allow_anonymous: bool = false,
    "Set before removing the last key of a running server.";

    /// Asks for an API key on `/metrics` too.
    metrics_auth: bool = false,
    "Where others reach the address, and the collector can send a key.";
}

section! {
    /// Deadlines of what has no route, or none any more; the others are the route's.
    Timeouts "timeouts" repeated false;

    /// From accept to the whole request (PROXY header included); past it: 408. A server that
    /// drains waits a second at most.
    handshake_timeout_ms: u32 = 10_000,
    "Shorter under attack by slow handshakes; longer for clients on very slow lines.";

    /// From the end of our answer to the peer's FIN; past it the connection is dropped.
    linger_timeout_ms: u32 = 2_000,
    "Longer where refused clients report resets instead of the answer.";

    /// Without a byte taken by the peer while bytes wait for it; past it: close 4413.
    send_timeout_ms: u32 = 30_000,
    "Shorter to shed readers that have stopped; longer for lines that pause.";
}

section! {
    /// The graceful end.
    Drain "drain" repeated false;

    /// Closes are spread over this time, so that clients do not come back all at once.
    window_ms: u32 = 20_000,
    "Longer for very many clients; below what the supervisor waits before it kills.";

    /// After this time what is left is dropped.
    deadline_ms: u32 = 25_000,
    "Below the supervisor's own patience (Kubernetes: 30 s).";

    /// Up to this many connections, a shard closes all of them at once and asks them to reconnect
    /// within a second.
    at_once_connections: u32 = 1_000,
    "Lower where even few clients are expensive to accept again.";

    /// `Retry-After` of the 503 meanwhile, and the shortest delay in a `goodbye`, where a shard has
    /// more connections than that.
    retry_after_s: u32 = 5,
    "About the time a restart takes.";
}

section! {
    /// What the server measures of itself.
    Metrics "metrics" repeated false;

    /// Records the histograms; off: counters only.
    histograms: bool = true,
    "Hardly ever: recording was measured at less than one percent of a small echo's CPU.";

    /// File to which the histograms of each interval are appended (`HdrHistogram` interval log);
    /// empty = none.
    histogram_log: String = String::new(),
    "Set for load tests and for later study of a bad hour.";

    /// Length of such an interval.
    histogram_log_interval_s: u32 = 10,
    "1 for load tests, 60 for a log that is kept for weeks.";
}

section! {
    /// What the server says while it runs, on standard error.
    Log "log" repeated false;

    /// `text` or `json`.
    format: LogFormat = LogFormat::Text,
    "`json` where a collector reads it.";

    /// `error`, `warn`, `info`, `debug` or `trace`.
    level: String = "info".into(),
    "`warn` to hear of trouble only.";
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

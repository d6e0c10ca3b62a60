//! The start banner: the server's addresses, access rules and limits. A JSON log gets one event per
//! fact, with a key for each value.

use std::fmt::Write as _;

use crate::config::{Config, ConnectRule, HandlerName, LogFormat, TicketKeys};
use crate::control::LogWriter;
use crate::driver::listener::Address;
use crate::driver::{EngineFacts, EngineSize};
use crate::server::{Facts, Server};
use crate::text::terminal;

const BBR: &str = "BBR paces small messages with timers; to let Seawall choose cubic, add it to \
                   net.ipv4.tcp_allowed_congestion_control or grant CAP_NET_ADMIN";

/// One line of the block.
enum Fact<'f> {
    Clients { url: String, routes: String, congestion: &'f str },
    Playground { url: String },
    Hub { access: Access, jwks_url: Option<&'f str> },
    Tickets { keys: TicketKeys, state_dir: &'f str },
    Operators { url: Option<&'f str> },
    Engine { shards: u16, engine: &'f EngineFacts, buffers: u32, buffer_bytes: u32 },
    Guard { name: &'static str, value: &'f str },
    Histograms { file: &'f str, interval_s: u32 },
    Limits { connections: u64, per_shard: u32, open_files: u64, message_bytes: usize },
    Warning { text: String },
}

/// Whether clients of the hub need tokens.
#[derive(Clone, Copy, Debug)]
enum Access {
    /// Applications decide who may connect.
    Application,
    /// No keys are configured, so no client needs a token.
    Anonymous,
    Tokens,
    /// Tokens are verified; clients without one are anonymous.
    TokensOrAnonymous,
}

/// Prints the banner, or logs its facts as events.
pub(super) fn print_banner(
    log: &LogWriter,
    server: &Server,
    admin: Option<&str>,
    guard: &[(&'static str, String)],
    open_files: u64,
) {
    let config = server.config();
    let mut facts = client_facts(&config, &server.facts);
    facts.extend(hub_facts(&config));
    facts.push(Fact::Operators { url: admin });
    facts.extend(engine_facts(&config, &server.facts));
    facts.extend(guard.iter().map(|(name, value)| match *name {
        "warning" => Fact::Warning { text: value.clone() },
        name => Fact::Guard { name, value },
    }));
    let metrics = &config.metrics;
    if !metrics.histogram_log.is_empty() {
        let (file, interval_s) = (&metrics.histogram_log, metrics.histogram_log_interval_s);
        facts.push(Fact::Histograms { file, interval_s });
    }
    let per_shard = config.limits.connections_per_shard_max;
    let connections = u64::from(per_shard) * u64::from(config.shards);
    let message_bytes = config.limits.ws.message_bytes_max;
    facts.push(Fact::Limits { connections, per_shard, open_files, message_bytes });
    let version = env!("CARGO_PKG_VERSION");
    match config.log_format {
        LogFormat::Text => {
            let mut text = format!("seawall {version}\n");
            for fact in &facts {
                let (name, value) = fact.to_line();
                // Writing to a string cannot fail.
                let _ = writeln!(text, "  {name:<11} {value}");
            }
            log.write_lines(&terminal::escape_lines(&text));
        }
        LogFormat::Json => {
            tracing::info!(version, "starting");
            facts.iter().for_each(Fact::log);
        }
    }
}

/// Lists the listeners, and the URL of the playground.
fn client_facts<'f>(config: &'f Config, facts: &'f Facts) -> Vec<Fact<'f>> {
    let routes = config.routes.as_slice().iter();
    let paths = routes.map(|route| route.path.as_str()).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    let mut playground = None;
    let listening = facts.listening.iter().zip(&facts.congestion);
    for ((address, congestion), listener) in listening.zip(&config.listeners) {
        let secure = if listener.tls.is_some() { "s" } else { "" };
        let url = match address {
            Address::Tcp(tcp) => format!("ws{secure}://{tcp}"),
            Address::Unix(_) => address.to_string(),
        };
        if let (Address::Tcp(tcp), None) = (address, &playground) {
            let host = match tcp.ip() {
                ip if ip.is_unspecified() => "localhost".to_owned(),
                ip if ip.is_ipv6() => format!("[{ip}]"),
                ip => ip.to_string(),
            };
            playground = Some(format!("http{secure}://{host}:{}/", tcp.port()));
        }
        let congestion = congestion.as_deref().unwrap_or("no");
        found.push(Fact::Clients { url, routes: paths.clone(), congestion });
        if congestion.starts_with("bbr") {
            found.push(Fact::Warning { text: BBR.to_owned() });
        }
    }
    if let Some(url) = playground.filter(|_| config.has_hub() && config.hub.playground) {
        found.push(Fact::Playground { url });
    }
    found
}

/// Describes access to the hub, and its tickets.
fn hub_facts(config: &Config) -> Vec<Fact<'_>> {
    if !config.has_hub() {
        return Vec::new();
    }
    let hub_routes = || config.route_options.iter().filter(|own| own.handler == HandlerName::Hub);
    let access = match (config.auth.keys_configured, config.auth.allow_anonymous) {
        _ if hub_routes().all(|own| own.connect == ConnectRule::Backend) => Access::Application,
        (false, _) => Access::Anonymous,
        (true, false) => Access::Tokens,
        (true, true) => Access::TokensOrAnonymous,
    };
    let jwks_url = config.auth.jwks.as_ref().map(|source| source.url.as_str());
    let (keys, state_dir) = (config.resume.keys, config.process.state_dir.as_str());
    vec![Fact::Hub { access, jwks_url }, Fact::Tickets { keys, state_dir }]
}

/// Describes the engine, with its warnings.
fn engine_facts<'f>(config: &Config, facts: &'f Facts) -> Vec<Fact<'f>> {
    let engine = Fact::Engine {
        shards: config.shards,
        engine: &facts.engine,
        buffers: facts.engine.buffers,
        buffer_bytes: config.engine.buffer_bytes,
    };
    let warnings = facts.engine.warnings.iter().map(|text| Fact::Warning { text: text.clone() });
    std::iter::once(engine).chain(warnings).collect()
}

impl Access {
    fn key(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Anonymous => "anonymous",
            Self::Tokens => "tokens",
            Self::TokensOrAnonymous => "tokens_or_anonymous",
        }
    }
}

impl Fact<'_> {
    /// The name and the value of its line.
    fn to_line(&self) -> (&'static str, String) {
        match self {
            Self::Clients { url, routes, congestion } => {
                ("clients", format!("{url}  (routes: {routes}; {congestion} congestion control)"))
            }
            Self::Playground { url } => ("playground", url.clone()),
            Self::Hub { access, jwks_url } => ("hub", access_text(*access, *jwks_url)),
            Self::Tickets { keys, state_dir } => ("tickets", tickets_text(*keys, state_dir)),
            Self::Operators { url } => ("operators", url.unwrap_or("off").to_owned()),
            Self::Engine { shards, engine, buffers, buffer_bytes } => {
                let plural = if *shards == 1 { "" } else { "s" };
                let size = |size: &EngineSize| format!("{} {} and ", size.granted, size.title);
                let sizes: String = engine.sizes.iter().map(size).collect();
                let text = format!(
                    "{} ({}); {shards} shard{plural} with {sizes}{buffers} receive buffers of \
                     {buffer_bytes} bytes each",
                    engine.name, engine.reason
                );
                ("engine", text)
            }
            Self::Guard { name, value } => (name, (*value).to_owned()),
            Self::Histograms { file, interval_s } => {
                ("histograms", format!("{file}, every {interval_s} s"))
            }
            Self::Limits { connections, per_shard, open_files, message_bytes } => {
                let text = format!(
                    "{connections} connections ({per_shard} per shard; {open_files} open files), \
                     messages up to {message_bytes} bytes"
                );
                ("limits", text)
            }
            Self::Warning { text } => ("warning", text.clone()),
        }
    }

    /// Logs it as an event with a key for each value.
    fn log(&self) {
        match self {
            Self::Clients { url, routes, congestion } => {
                tracing::info!(fact = "clients", url, routes, congestion);
            }
            Self::Playground { url } => tracing::info!(fact = "playground", url),
            Self::Hub { access, jwks_url } => {
                tracing::info!(fact = "hub", access = access.key(), jwks_url);
            }
            Self::Tickets { keys, state_dir } => {
                let keys = match keys {
                    TicketKeys::Configured => "configured",
                    TicketKeys::Kept => "state_dir",
                    TicketKeys::Random => "random",
                };
                tracing::info!(fact = "tickets", keys, state_dir);
            }
            Self::Operators { url } => tracing::info!(fact = "operators", url),
            Self::Engine { shards, engine, buffers, buffer_bytes } => {
                let (fact, driver) = ("engine", engine.name);
                let ring_entries = engine.granted_size("ring_entries");
                let reason = &engine.reason;
                tracing::info!(fact, driver, reason, shards, ring_entries, buffers, buffer_bytes);
            }
            Self::Guard { name, value } => tracing::info!(fact = name, value),
            Self::Histograms { file, interval_s } => {
                tracing::info!(fact = "histograms", file, interval_s);
            }
            Self::Limits { connections, per_shard, open_files, message_bytes } => {
                let fact = "limits";
                tracing::info!(fact, connections, per_shard, open_files, message_bytes);
            }
            Self::Warning { text } => tracing::warn!("{text}"),
        }
    }
}

fn access_text(access: Access, jwks_url: Option<&str>) -> String {
    let source = jwks_url.map_or(String::new(), |url| format!(" (keys from {url})"));
    match access {
        Access::Application => {
            "applications decide who may connect (route.connect = \"backend\")".to_owned()
        }
        Access::Anonymous => "anonymous: clients connect without a token, because no keys are \
                              configured; to require tokens, add a [[key]] or set \
                              SEAWALL_KEY_SECRET"
            .to_owned(),
        Access::Tokens => format!("clients need a token{source}"),
        Access::TokensOrAnonymous => format!(
            "tokens are verified{source}; clients without one connect as anonymous \
             (auth.allow_anonymous)"
        ),
    }
}

fn tickets_text(keys: TicketKeys, state_dir: &str) -> String {
    match keys {
        TicketKeys::Configured => "sealed with resume.keys".to_owned(),
        TicketKeys::Kept => format!("survive a restart (key in {state_dir})"),
        TicketKeys::Random => "end with this process; to keep them across restarts, set \
                               process.state_dir or resume.keys"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::file::File;

    #[test]
    fn an_engine_is_described_by_its_own_facts() {
        let file = File { shards: 2, ..File::default() };
        let config = Config::validate(&file, 4096, 2).unwrap();
        let sizes = |granted| {
            vec![EngineSize { key: "ring_entries", title: "ring entries", configured: 64, granted }]
        };
        let mut facts = Facts {
            listening: Vec::new(),
            congestion: Vec::new(),
            engine: EngineFacts {
                name: "io_uring",
                reason: "the kernel allows it".to_owned(),
                wait_call: "io_uring_enter",
                system_calls: &[],
                features: Vec::new(),
                buffers: 16,
                sizes: sizes(32),
                warnings: vec!["locked memory is low".to_owned()],
            },
            open_files: 4096,
            started: Instant::now(),
        };
        let lines = |facts: &Facts| -> Vec<(&'static str, String)> {
            engine_facts(&config, facts).iter().map(Fact::to_line).collect()
        };
        let buffers = format!("16 receive buffers of {} bytes each", config.engine.buffer_bytes);
        let [(_, line), warning] = &lines(&facts)[..] else { panic!("a line and a warning") };
        assert_eq!(
            line,
            &format!(
                "io_uring (the kernel allows it); 2 shards with 32 ring entries and {buffers}"
            )
        );
        assert_eq!(warning, &("warning", "locked memory is low".to_owned()));
        facts.engine = EngineFacts {
            name: "another",
            sizes: Vec::new(),
            warnings: Vec::new(),
            ..facts.engine
        };
        assert_eq!(
            lines(&facts),
            [("engine", format!("another (the kernel allows it); 2 shards with {buffers}"))]
        );
    }
}

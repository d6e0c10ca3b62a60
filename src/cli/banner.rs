//! What a person (or a log's reader) wants to know at the start, in one block.

use std::fmt::Write as _;

use crate::config::{HandlerName, LogFormat};
use crate::control::LogWriter;
use crate::driver::listener::Address;
use crate::server::Server;
use crate::text::terminal;

/// The facts behind the block, in the order they are told.
struct Facts {
    /// Name, and what it says.
    lines: Vec<(&'static str, String)>,
}

/// Tells where the server listens, on what it runs, and which limits hold.
pub(super) fn announce(
    log: &LogWriter,
    server: &Server,
    admin: Option<&str>,
    guard: &[(&'static str, String)],
    open_files: u64,
) {
    let facts = Facts::gather(server, admin, guard, open_files);
    match server.config().log_format {
        LogFormat::Text => log.write_lines(&terminal::escape_lines(&facts.text())),
        LogFormat::Json => facts.log(),
    }
}

impl Facts {
    fn gather(
        server: &Server,
        admin: Option<&str>,
        guard: &[(&'static str, String)],
        open_files: u64,
    ) -> Self {
        let mut facts = Self { lines: Vec::new() };
        facts.clients(server);
        facts.auth(server);
        facts.add("operators", admin.map_or_else(|| "off".to_owned(), str::to_owned));
        facts.engine(server);
        facts.lines.extend_from_slice(guard);
        let config = &server.config();
        if !config.metrics.histogram_log.is_empty() {
            let seconds = config.metrics.histogram_log_interval_s;
            facts.add("histograms", format!("{} each {seconds} s", config.metrics.histogram_log));
        }
        let per_shard = config.limits.connections_per_shard_max;
        facts.add(
            "limits",
            format!(
                "{} connections ({per_shard} a shard; open files {open_files}), messages of {} \
                 bytes",
                u64::from(per_shard) * u64::from(config.shards),
                config.limits.ws.message_bytes_max
            ),
        );
        facts
    }

    fn add(&mut self, name: &'static str, value: String) {
        self.lines.push((name, value));
    }

    fn clients(&mut self, server: &Server) {
        let config = server.config();
        let routes = config.routes.as_slice().iter();
        let paths = routes.map(|route| route.path.as_str()).collect::<Vec<_>>().join(" ");
        for (address, congestion) in server.facts.listening.iter().zip(&server.facts.congestion) {
            let url = match address {
                Address::Tcp(tcp) => format!("ws://{tcp}"),
                Address::Unix(_) => address.to_string(),
            };
            let control = congestion.as_deref().unwrap_or("no");
            self.add("clients", format!("{url}  (routes: {paths}; {control} congestion control)"));
            if control.starts_with("bbr") {
                self.add(
                    "note",
                    "BBR paces small messages with timers; to let Seawall choose cubic, add it \
                     to net.ipv4.tcp_allowed_congestion_control or give CAP_NET_ADMIN"
                        .to_owned(),
                );
            }
        }
    }

    /// Who may use the hub.
    fn auth(&mut self, server: &Server) {
        let config = &server.config();
        if !config.route_options.iter().any(|route| route.handler == HandlerName::Hub) {
            return;
        }
        let who = match (&config.auth.jwks, config.auth.keys_configured) {
            (_, false) => "anybody: there are no keys to verify tokens with".to_owned(),
            (Some(source), _) => format!("clients with tokens (keys of {})", source.url),
            (None, _) => "clients with tokens".to_owned(),
        };
        let others = config.auth.keys_configured && config.auth.allow_anonymous;
        let others = if others { ", and others as anonymous" } else { "" };
        self.add("hub", format!("{who}{others}"));
        if config.resume.is_random {
            let text = "of this process only: set resume.keys to let them outlive it";
            self.add("tickets", text.to_owned());
        }
    }

    fn engine(&mut self, server: &Server) {
        let (config, facts) = (&server.config(), &server.facts);
        self.add(
            "engine",
            format!(
                "io_uring; {} shards, each {} ring entries, {} receive buffers of {} bytes",
                config.shards,
                facts.ring_entries,
                config.buffers_per_shard(),
                config.engine.buffer_bytes
            ),
        );
        if facts.ring_entries < config.engine.ring_entries {
            self.add(
                "warning",
                format!(
                    "locked memory allows only {} of {} ring entries: raise it (`ulimit -l \
                     unlimited`, systemd: LimitMEMLOCK=infinity)",
                    facts.ring_entries, config.engine.ring_entries
                ),
            );
        }
    }

    fn text(&self) -> String {
        let mut text = format!("seawall {}\n", env!("CARGO_PKG_VERSION"));
        for (name, value) in &self.lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {name:<11} {value}");
        }
        text
    }

    /// One event a fact, so that each is an object of its own in a log of JSON lines.
    fn log(&self) {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "seawall starts");
        for (name, value) in &self.lines {
            if *name == "warning" {
                tracing::warn!("{value}");
            } else {
                tracing::info!(fact = name, "{value}");
            }
        }
    }
}

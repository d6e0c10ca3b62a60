//! `seawall serve`: configuration, listeners, shards, control thread.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat, file};
use crate::control::{self, AdminListener, HistogramLog};
use crate::driver::listener::Address;
use crate::driver::{host, uring};
use crate::server::Server;

/// Flags win over the file, the file over the defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Configuration file (TOML); without it: the defaults, with an echo at /echo.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect: ADDR:PORT or unix:PATH; may be given more than once
    /// [default: 127.0.0.1:9000].
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Where operators connect: ADDR:PORT on loopback, or empty for none
    /// [default: 127.0.0.1:9100].
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<String>,
    /// Shards, each a thread with a ring of its own [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match start(arguments) {
        Ok((runtime, server, admin, log)) => control::run(&runtime, server, admin, log),
        Err(error) => {
            eprintln!("seawall: {error}");
            ExitCode::FAILURE
        }
    }
}

type Started = (tokio_uring::Runtime, Server, Option<AdminListener>, Option<HistogramLog>);

fn start(arguments: &Arguments) -> Result<Started, Box<dyn std::error::Error>> {
    host::use_small_pages();
    let open_files = host::raise_open_files();
    let written = merge(arguments)?;
    let config = Arc::new(Config::validate(&written, open_files, host::cores().len())?);
    log_to_stderr(&config)?;
    let admin = config.admin.as_ref().map(control::bind).transpose()?;
    let metrics = &config.metrics;
    let log = control::open_histogram_log(&metrics.histogram_log, metrics.histograms)?;
    uring::probe()?;
    let runtime = control::runtime()?;
    let server = Server::start(config)?;
    eprint!("{}", banner(&server, admin.as_ref(), open_files));
    Ok((runtime, server, admin, log))
}

/// The file with the flags laid over it.
fn merge(arguments: &Arguments) -> Result<file::File, ConfigError> {
    let mut written = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => file::File::default(),
    };
    if !arguments.listen.is_empty() {
        // A flag replaces the address of the file's listener in the same place and keeps its
        // options; more flags than listeners add listeners like the last.
        let template = written.listeners.last().cloned().unwrap_or_default();
        written.listeners.resize(arguments.listen.len(), template);
        for (listener, address) in written.listeners.iter_mut().zip(&arguments.listen) {
            listener.address.clone_from(address);
        }
    }
    if let Some(admin) = &arguments.admin {
        written.admin.listen.clone_from(admin);
    }
    if let Some(shards) = arguments.shards {
        written.shards = shards;
    }
    Ok(written)
}

fn log_to_stderr(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let level = &config.log_level;
    let filter = EnvFilter::try_new(level).map_err(|error| {
        format!("log.level = \"{level}\": {error}; use error, warn, info, debug or trace")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    // A second server in one process (tests) keeps the first one's log.
    let _ = match config.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(())
}

/// What a person wants to know at the start, in one block.
fn banner(server: &Server, admin: Option<&AdminListener>, open_files: u64) -> String {
    let config = &server.config;
    let facts = &server.facts;
    let mut text = format!("seawall {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<11} {value}");
    };
    let paths: Vec<_> = config.routes.as_slice().iter().map(|route| route.path.as_str()).collect();
    for (address, congestion) in facts.listening.iter().zip(&facts.congestion) {
        let url = match address {
            Address::Tcp(tcp) => format!("ws://{tcp}"),
            Address::Unix(_) => address.to_string(),
        };
        let control = congestion.as_deref().unwrap_or("no");
        let paths = paths.join(" ");
        line("clients", format!("{url}  (routes: {paths}; {control} congestion control)"));
        if control.starts_with("bbr") {
            line(
                "note",
                "BBR paces small messages with timers; to let Seawall choose cubic, add it to \
                 net.ipv4.tcp_allowed_congestion_control or give CAP_NET_ADMIN"
                    .to_owned(),
            );
        }
    }
    line("operators", admin.map_or("off".to_owned(), AdminListener::url));
    let buffers = config.buffers_per_shard();
    line(
        "engine",
        format!(
            "io_uring; {} shards, each {} ring entries, {buffers} receive buffers of {} bytes",
            config.shards, facts.ring_entries, config.engine.buffer_bytes
        ),
    );
    if facts.ring_entries < config.engine.ring_entries {
        line(
            "warning",
            format!(
                "locked memory allows only {} of {} ring entries: raise it (`ulimit -l unlimited`, \
                 systemd: LimitMEMLOCK=infinity)",
                facts.ring_entries, config.engine.ring_entries
            ),
        );
    }
    let per_shard = config.limits.connections_per_shard_max;
    line(
        "limits",
        format!(
            "{} connections ({per_shard} a shard; open files {open_files}), messages of {} bytes",
            u64::from(per_shard) * u64::from(config.shards),
            config.limits.ws.message_bytes_max
        ),
    );
    text
}

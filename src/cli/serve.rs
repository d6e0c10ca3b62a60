//! `seawall serve`: configuration, listeners, shards, control thread.

use std::process::ExitCode;
use std::sync::Arc;

use super::flags::Overrides;
use super::load::{Loaded, load};
use super::{banner, fail};
use crate::auth::Fetcher;
use crate::config::{Config, LogFormat};
use crate::control::{self, AdminListener, HistogramLog};
use crate::driver::{host, uring};
use crate::server::Server;

/// Flags win over the environment, the environment over the file, the file over the defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input; without it: the defaults, \
                with the hub at /ws and an echo at /echo [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match start(arguments) {
        Ok((runtime, server, admin, log, fetcher)) => {
            let code = control::run(&runtime, server, admin, log);
            drop(fetcher);
            code
        }
        Err(error) => fail(&*error),
    }
}

type Started =
    (tokio_uring::Runtime, Server, Option<AdminListener>, Option<HistogramLog>, Option<Fetcher>);

fn start(arguments: &Arguments) -> Result<Started, Box<dyn std::error::Error>> {
    host::use_small_pages();
    let Loaded { config, open_files, .. } =
        load(arguments.config.as_deref(), &arguments.overrides)?;
    let config = Arc::new(config);
    log_to_stderr(&config);
    let admin = config.admin.as_ref().map(control::bind).transpose()?;
    let metrics = &config.metrics;
    let log = control::open_histogram_log(&metrics.histogram_log, metrics.histograms)?;
    uring::probe()?;
    let fetcher = fetch_keys(&config)?;
    let runtime = control::runtime()?;
    let server = Server::start(config)?;
    let operators = admin.as_ref().map(AdminListener::url);
    banner::announce(&server, operators.as_deref(), open_files);
    Ok((runtime, server, admin, log, fetcher))
}

/// Fetches the keys of tokens before the first client comes, and goes on doing so.
fn fetch_keys(config: &Config) -> std::io::Result<Option<Fetcher>> {
    for line in &config.auth.skipped_keys {
        tracing::warn!("auth.jwks_file: {line}");
    }
    let source = config.auth.jwks.clone();
    source.map(|source| Fetcher::start(&config.auth.verifier, source)).transpose()
}

fn log_to_stderr(config: &Config) {
    let level: tracing::Level = config.log_level.parse().expect("the configuration was checked");
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    // A second server in one process (tests) keeps the first one's log.
    let _ = match config.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
}

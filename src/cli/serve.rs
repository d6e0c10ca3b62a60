//! `seawall serve`: configuration, listeners, shards, control thread.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use super::flags::Overrides;
use super::load::{Loaded, load};
use super::{banner, fail};
use crate::config::{Config, LogFormat};
use crate::control;
use crate::driver::listener::Address;
use crate::driver::{host, uring};
use crate::server::Server;

/// Flags win over the environment, the environment over the file, the file over the defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input; without it: the defaults, \
                with an echo at /echo [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match start(arguments) {
        Ok((runtime, server, admin)) => control::run(&runtime, server, admin),
        Err(error) => fail(&*error),
    }
}

type Started = (tokio_uring::Runtime, Server, Option<TcpListener>);

fn start(arguments: &Arguments) -> Result<Started, Box<dyn std::error::Error>> {
    host::use_small_pages();
    let Loaded { config, open_files, .. } =
        load(arguments.config.as_deref(), &arguments.overrides)?;
    let config = Arc::new(config);
    log_to_stderr(&config);
    let admin = match &config.admin {
        None => None,
        Some(Address::Tcp(address)) => Some(TcpListener::bind(address).map_err(|error| {
            format!(
                "cannot listen on {address} for operators: {error} (choose another address with \
                 --admin, or none with --admin \"\")"
            )
        })?),
        Some(Address::Unix(_)) => {
            return Err("admin.listen: a Unix socket is not supported for the admin address yet; \
                        use a loopback address"
                .into());
        }
    };
    uring::probe()?;
    let runtime = control::runtime()?;
    let server = Server::start(config)?;
    let operators = admin.as_ref().and_then(|listener| listener.local_addr().ok());
    let operators = operators.map(|address| format!("http://{address}/metrics"));
    banner::announce(&server, operators.as_deref(), open_files);
    Ok((runtime, server, admin))
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

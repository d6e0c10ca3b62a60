//! `seawall serve`: starts the server, and runs its control thread.

use std::process::ExitCode;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::flags::Overrides;
use super::load::{Loaded, load, read_again};
use super::{banner, format_failure};
use crate::acme;
use crate::auth::Fetcher;
use crate::config::{Config, LogFormat};
use crate::control::{self, AdminListener, LogWriter, Parts, Reloader, Signals};
use crate::driver::{self, host};
use crate::guard::Guard;
use crate::server::{Engine, EngineChoice, Server};
use crate::text::terminal;

/// Precedence of options: flags, environment, file, defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n\
        \x20 seawall serve\n\
        \x20 seawall serve --config seawall.toml --listen 0.0.0.0:9000\n\
        \x20 seawall serve --channel-pattern 'chat:*' --channel-history 100")]
pub(super) struct Arguments {
    #[arg(
        long,
        value_name = "FILE",
        help = "Configuration file (TOML), or - for standard input; default: all defaults, \
                with the hub at /ws and an echo at /echo [env: SEAWALL_CONFIG]"
    )]
    config: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let log = LogWriter::new();
    log.report_panics();
    let code = match start(arguments, &log) {
        Ok(Some((runtime, server, parts))) => control::run(&runtime, server, parts),
        // A signal ended the start.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            log.write_lines(&format_failure(&*error));
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

type Started = (control::Runtime, Server, Parts);

/// Starts the server; `None` if a signal ends it before it accepts clients.
fn start(
    arguments: &Arguments,
    log: &LogWriter,
) -> Result<Option<Started>, Box<dyn std::error::Error>> {
    host::use_small_pages();
    let Loaded { mut config, written, path, open_files, .. } =
        load(arguments.config.as_deref(), &arguments.overrides)?;
    let choice = EngineChoice::make(config.engine.driver)?;
    let too_many = choice.fit(&mut config, open_files);
    let mut guard = Guard::plan(&config, &written.file, path.as_deref())?;
    let owner = guard.owner();
    config.keep_ticket_key(owner)?;
    if let Some(settings) = &config.acme {
        acme::create_folder(&settings.folder, owner)?;
    }
    let engine = Engine::new(&choice, &config, too_many.into_iter().collect());
    let config = Arc::new(config);
    let set_level = install_log(log, &config);
    let bind = |address| control::bind(address, owner);
    let admin = config.admin.as_ref().map(bind).transpose()?;
    let metrics = &config.metrics;
    let (path_of_log, is_recorded) = (&metrics.histogram_log, metrics.histograms);
    let histogram_log = control::open_histogram_log(path_of_log, is_recorded, owner.is_none())?;
    let runtime = control::Runtime::new(matches!(engine, Engine::Uring(_)))?;
    let mut signals = Signals::watch(&runtime)?;
    let bound = Server::bind(config.clone(), owner)?;
    guard.enclose()?;
    log.start();
    let waiting = bound.start(&engine)?;
    guard.restrict(&[waiting.engine().system_calls, runtime.system_calls()].concat())?;
    let fetching = config.clone();
    let fetched = signals.run_unless_ended(&runtime, move || fetch_keys(&fetching))?;
    let Some(fetcher) = fetched.transpose()? else { return Ok(None) };
    // From here on, the control thread's handlers receive signals.
    driver::signals::set_serving();
    let server = waiting.serve();
    let has_tls = config.admin_tls.is_some();
    let operators = admin.as_ref().map(|admin: &AdminListener| admin.url(has_tls));
    banner::print_banner(log, &server, operators.as_deref(), guard.lines(), open_files);
    let (path, overrides) = (arguments.config.clone(), arguments.overrides.clone());
    let reloader = Reloader {
        read: Arc::new(move || read_again(path.as_deref(), &overrides)),
        set_level,
        file: written.file,
        open_files,
        cores: host::cores().len(),
        fetcher,
    };
    let parts = Parts { admin, histogram_log, log: log.clone(), signals, reloader };
    Ok(Some((runtime, server, parts)))
}

/// Fetches token keys before the first client connects, and keeps them fresh.
fn fetch_keys(config: &Config) -> std::io::Result<Option<Fetcher>> {
    for line in config.warnings() {
        tracing::warn!("{line}");
    }
    let source = config.auth.jwks.clone();
    source.map(|source| Fetcher::start(&config.auth.verifier, source)).transpose()
}

/// Writes a JSON log, with terminal control characters escaped as in the text log.
struct JsonLines(LogWriter);

impl std::io::Write for JsonLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.write_lines(&terminal::escape_json(&String::from_utf8_lossy(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Installs the log, and returns a function that sets its level.
fn install_log(log: &LogWriter, config: &Config) -> Box<dyn Fn(&str)> {
    let log = log.clone();
    let level = |level: &str| -> LevelFilter { level.parse().expect("the level was validated") };
    let (filter, handle) = reload::Layer::new(level(&config.log_level));
    let fields = debug_fn(|out, field, value| {
        let value = format!("{value:?}");
        // Indent all lines but the first, so that no value can look like an event.
        let value = terminal::escape_lines(value.trim_end()).replace('\n', "\n    ");
        match field.name() {
            "message" => write!(out, "{value}"),
            name => write!(out, "{name}={value}"),
        }
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer({
            let log = log.clone();
            move || log.clone()
        });
    let registry = tracing_subscriber::registry().with(filter);
    // A second server in one process (in tests) keeps the first one's log.
    let _ = match config.log_format {
        LogFormat::Text => registry.with(lines.fmt_fields(fields.delimited(" "))).try_init(),
        LogFormat::Json => {
            let lines = lines.with_writer(move || JsonLines(log.clone()));
            registry.with(lines.json()).try_init()
        }
    };
    Box::new(move |text| {
        // Fails only after the log is gone.
        let _ = handle.modify(|filter| *filter = level(text));
    })
}

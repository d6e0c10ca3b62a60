//! SIGHUP: the configuration is read again, and what can change while connections are open does.
//!
//! A configuration with a mistake is refused whole, with the reason, and the old one stays.
//!
//! Reading files and fetching keys may take seconds, so a reload is prepared in a thread of its
//! own, and applied by the control loop when that is done. There is one at a time: signals that
//! come meanwhile ask for one more reload after it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use crate::auth::Fetcher;
use crate::config::file::File;
use crate::config::{Config, ConfigError, Given, Renewed, Written};
use crate::server::Server;

/// Reads file, environment and flags.
pub(crate) type ReadConfig = Arc<dyn Fn() -> Result<Given, ConfigError> + Send + Sync>;

/// How the configuration is read, and what was read last.
pub(crate) struct Reloader {
    pub(crate) read: ReadConfig,
    /// Changes how much is logged.
    pub(crate) set_level: Box<dyn Fn(&str)>,
    /// What is in force.
    pub(crate) file: File,
    pub(crate) open_files: u64,
    pub(crate) cores: usize,
    /// Keeps the keys of tokens fresh.
    pub(crate) fetcher: Option<Fetcher>,
}

/// A configuration that is ready to be applied.
struct Prepared {
    renewed: Renewed,
    fetcher: Option<Fetcher>,
}

/// How the preparation of a reload ended: with the reason where it failed.
pub(super) struct Reloaded(Result<Box<Prepared>, String>);

/// What a reload has led to.
#[derive(Clone, Debug)]
pub(crate) struct ReloadOutcome {
    /// When (Unix time, ms).
    pub(crate) time_ms: u64,
    pub(crate) result: Result<Changes, String>,
}

/// What differs from the configuration before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Options whose new values are in force.
    pub(crate) applied: Vec<String>,
    /// Options whose new values need a restart.
    pub(crate) restart_required: Vec<String>,
}

/// Where the outcome of the last reload is found; empty before the first.
pub(crate) type LastReload = Arc<ArcSwapOption<ReloadOutcome>>;

/// The reloads of a running server.
pub(super) struct Reloads {
    reloader: Reloader,
    running: Option<oneshot::Receiver<Reloaded>>,
    /// Those that wait for the running one.
    waiting: Vec<oneshot::Sender<ReloadOutcome>>,
    /// Another one was asked for while one is running.
    is_wanted_again: bool,
    /// Those that wait for that one.
    waiting_again: Vec<oneshot::Sender<ReloadOutcome>>,
    last: LastReload,
}

impl Reloads {
    pub(super) fn new(reloader: Reloader) -> Self {
        Self {
            reloader,
            running: None,
            waiting: Vec::new(),
            is_wanted_again: false,
            waiting_again: Vec::new(),
            last: LastReload::default(),
        }
    }

    /// The outcome of the last reload, now and later.
    pub(super) fn last(&self) -> LastReload {
        self.last.clone()
    }

    /// Begins a reload, now or after the one that is running; `reply` gets its outcome.
    pub(super) fn begin(&mut self, server: &Server, reply: Option<oneshot::Sender<ReloadOutcome>>) {
        if self.running.is_some() {
            self.is_wanted_again = true;
            self.waiting_again.extend(reply);
            return;
        }
        self.waiting.extend(reply);
        let (sender, receiver) = oneshot::channel();
        let prepare = self.reloader.preparation(server);
        let thread = std::thread::Builder::new().name("reload".to_owned());
        let started = thread.spawn(move || {
            // The receiver is gone when the server has ended.
            let _ = sender.send(Reloaded(prepare()));
        });
        match started {
            Ok(_) => self.running = Some(receiver),
            Err(error) => {
                let error = format!("cannot start a thread: {error}");
                log_failure(&error, server);
                self.report(Err(error));
            }
        }
    }

    /// Keeps an outcome, and sends it to those that wait for it.
    fn report(&mut self, result: Result<Changes, String>) {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let outcome = ReloadOutcome { time_ms: since.as_millis() as u64, result };
        for reply in self.waiting.drain(..) {
            // The caller may have gone.
            let _ = reply.send(outcome.clone());
        }
        self.last.store(Some(Arc::new(outcome)));
    }

    /// Waits for the end of the running reload's preparation; for ever, where none is running.
    pub(super) async fn finished(&mut self) -> Reloaded {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let reloaded = running.await;
        self.running = None;
        reloaded.unwrap_or_else(|_| Reloaded(Err("internal error, which is logged".to_owned())))
    }

    /// Puts a prepared configuration in force and logs the outcome.
    pub(super) fn apply(&mut self, reloaded: Reloaded, server: &Server) {
        let result = match reloaded.0 {
            Ok(prepared) => Ok(self.reloader.apply(*prepared, server)),
            Err(error) => {
                log_failure(&error, server);
                Err(error)
            }
        };
        self.report(result);
        if std::mem::take(&mut self.is_wanted_again) {
            self.waiting = std::mem::take(&mut self.waiting_again);
            self.begin(server, None);
        }
    }
}

fn log_failure(error: &str, server: &Server) {
    let process = &server.config().process;
    let hint = if process.sandbox || !process.user.is_empty() {
        ", or restart: a process with a user or sandbox of its own cannot read all that a start can"
    } else {
        ""
    };
    tracing::error!(
        %error,
        "the configuration is refused, the old one stays in force; check it with \
         `seawall check-config`{hint}"
    );
}

impl Reloader {
    /// The part of a reload that may take long.
    fn preparation(
        &self,
        server: &Server,
    ) -> impl FnOnce() -> Result<Box<Prepared>, String> + Send + 'static {
        let (read, file, config) = (self.read.clone(), self.file.clone(), server.config());
        let (host, directory) = ((self.open_files, self.cores), server.directory());
        move || {
            let given = read().map_err(|error| error.to_string())?;
            let (written, _) =
                Written::load(&given, host.0, host.1).map_err(|error| error.to_string())?;
            // A shard that still runs on an earlier configuration may be about to upgrade a
            // connection on a route that the present one has closed.
            let settled = directory.all_run_on(config.epoch);
            let is_in_use = |route| !settled || directory.admission().has_connections(route);
            let renewed = written
                .renew((&file, &config), host, &is_in_use)
                .map_err(|error| error.to_string())?;
            for line in renewed.config.warnings() {
                tracing::warn!("{line}");
            }
            // The new keys are there before the first token that needs them.
            let fetcher = fetch_keys(&renewed.config).map_err(|error| error.to_string())?;
            Ok(Box::new(Prepared { renewed, fetcher }))
        }
    }

    fn apply(&mut self, prepared: Prepared, server: &Server) -> Changes {
        let Prepared { renewed: Renewed { file, config, waiting }, fetcher } = prepared;
        let applied = self.file.differences(&file);
        (self.set_level)(&config.log_level);
        server.renew(config);
        self.file = file;
        self.fetcher = fetcher;
        let changed = applied.join(", ");
        if waiting.is_empty() {
            tracing::info!(applied = changed, "the configuration is reloaded");
        } else {
            tracing::warn!(
                applied = changed,
                restart_required = waiting.join(", "),
                "the configuration is reloaded, except for changes that need a restart"
            );
        }
        let restart_required = waiting.iter().map(|key| (*key).to_owned()).collect();
        Changes { applied, restart_required }
    }
}

fn fetch_keys(config: &Config) -> std::io::Result<Option<Fetcher>> {
    let Some(source) = config.auth.jwks.clone() else { return Ok(None) };
    Fetcher::start(&config.auth.verifier, source).map(Some)
}

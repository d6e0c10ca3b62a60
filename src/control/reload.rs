//! Reloads: SIGHUP or an API call reads the configuration again and applies it to the running
//! server.
//!
//! A configuration with an error is rejected as a whole, with the reason, and the old one stays in
//! force.
//!
//! Reading files and fetching keys may take seconds, so a separate thread prepares a reload, and
//! the control loop applies the result. One reload runs at a time: requests that arrive during it
//! are merged into one more reload after it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use crate::auth::Fetcher;
use crate::config::file::File;
use crate::config::{Config, ConfigError, Given, Renewed, Written};
use crate::server::Server;

/// Reads the file, environment and flags.
pub(crate) type ReadConfig = Arc<dyn Fn() -> Result<Given, ConfigError> + Send + Sync>;

/// Reads configurations, and stores the one in force.
pub(crate) struct Reloader {
    pub(crate) read: ReadConfig,
    /// Sets the log level.
    pub(crate) set_level: Box<dyn Fn(&str)>,
    /// Options in force.
    pub(crate) file: File,
    pub(crate) open_files: u64,
    pub(crate) cores: usize,
    /// Refreshes the keys that verify tokens.
    pub(crate) fetcher: Option<Fetcher>,
}

/// A validated configuration, ready to be applied.
struct Prepared {
    renewed: Renewed,
    fetcher: Option<Fetcher>,
}

/// The result of a preparation: the error text where it failed.
pub(super) struct Reloaded(Result<Box<Prepared>, String>);

/// The outcome of a reload, as the API reports it.
#[derive(Clone, Debug)]
pub(crate) struct ReloadOutcome {
    /// End of the reload (Unix time, ms).
    pub(crate) time_ms: u64,
    pub(crate) result: Result<Changes, String>,
}

/// Options that differ from the previous configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Options whose new values are in force.
    pub(crate) applied: Vec<String>,
    /// Options whose new values take effect after a restart.
    pub(crate) restart_required: Vec<String>,
}

/// The shared outcome of the last reload; empty before the first.
pub(crate) type LastReload = Arc<ArcSwapOption<ReloadOutcome>>;

/// The running reload, and the one after it.
pub(super) struct Reloads {
    reloader: Reloader,
    running: Option<oneshot::Receiver<Reloaded>>,
    /// Callers that wait for the running reload.
    waiting: Vec<oneshot::Sender<ReloadOutcome>>,
    /// Another reload was requested while one is running.
    is_wanted_again: bool,
    /// Callers that wait for that one.
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

    /// Returns a handle to the outcome of the last reload; it follows later ones.
    pub(super) fn last(&self) -> LastReload {
        self.last.clone()
    }

    /// Starts a reload, at once or after the running one; `reply` receives its outcome.
    pub(super) fn begin(&mut self, server: &Server, reply: Option<oneshot::Sender<ReloadOutcome>>) {
        if self.running.is_some() {
            self.is_wanted_again = true;
            self.waiting_again.extend(reply);
            return;
        }
        self.waiting.extend(reply);
        let (sender, receiver) = oneshot::channel();
        let prepare = self.reloader.prepare_later(server);
        let thread = std::thread::Builder::new().name("reload".to_owned());
        let started = thread.spawn(move || {
            // The receiver is dropped when the server has ended.
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

    /// Stores an outcome, and sends it to the waiting callers.
    fn report(&mut self, result: Result<Changes, String>) {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let outcome = ReloadOutcome { time_ms: since.as_millis() as u64, result };
        for reply in self.waiting.drain(..) {
            // The caller may have disconnected.
            let _ = reply.send(outcome.clone());
        }
        self.last.store(Some(Arc::new(outcome)));
    }

    /// Waits for the preparation of the running reload; never returns if none runs.
    pub(super) async fn finished(&mut self) -> Reloaded {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let reloaded = running.await;
        self.running = None;
        reloaded.unwrap_or_else(|_| Reloaded(Err("internal error; see the log".to_owned())))
    }

    /// Puts a prepared configuration in force, logs the outcome, and starts the next reload if one
    /// was requested.
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
        "; or restart: a process with `process.user` or a sandbox may be unable to read all files"
    } else {
        ""
    };
    tracing::error!(
        %error,
        "configuration rejected, the old one stays in force; check it with \
         `seawall check-config`{hint}"
    );
}

impl Reloader {
    /// Returns the slow part of a reload, to run in a thread.
    fn prepare_later(
        &self,
        server: &Server,
    ) -> impl FnOnce() -> Result<Box<Prepared>, String> + Send + 'static {
        let (read, file, config) = (self.read.clone(), self.file.clone(), server.config());
        let (host, directory) = ((self.open_files, self.cores), server.directory());
        move || {
            let given = read().map_err(|error| error.to_string())?;
            let (written, _) =
                Written::load(&given, host.0, host.1).map_err(|error| error.to_string())?;
            // A shard still on an earlier configuration may be about to upgrade a connection on a
            // route that the present one has closed.
            let settled = directory.all_run_on(config.epoch);
            let is_in_use = |route| !settled || directory.admission().has_connections(route);
            let renewed = written
                .renew((&file, &config), host, &is_in_use)
                .map_err(|error| error.to_string())?;
            for line in renewed.config.warnings() {
                tracing::warn!("{line}");
            }
            // Install the new keys before the first token that needs them.
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
            tracing::info!(applied = changed, "configuration reloaded");
        } else {
            tracing::warn!(
                applied = changed,
                restart_required = waiting.join(", "),
                "configuration reloaded; some changes need a restart"
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

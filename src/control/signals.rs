//! The signals that the server acts on.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::Event;
use super::runtime::Runtime;
use crate::driver::signals;

/// Signals that other servers act on, and this one ignores.
const WITHOUT_MEANING: [(&str, fn() -> SignalKind); 4] = [
    ("SIGUSR1", SignalKind::user_defined1),
    ("SIGUSR2", SignalKind::user_defined2),
    ("SIGQUIT", SignalKind::quit),
    ("SIGALRM", SignalKind::alarm),
];

/// Logs each ignored signal with the ones that work.
pub(super) fn log_ignored() {
    for (name, kind) in WITHOUT_MEANING {
        tokio::spawn(async move {
            // Without a listener the signal is ignored without a log line.
            let Ok(mut signals) = signal(kind()) else { return };
            while signals.recv().await.is_some() {
                tracing::warn!(
                    signal = name,
                    "signal ignored: SIGHUP reloads the configuration, SIGTERM and SIGINT drain"
                );
            }
        });
    }
}

/// The signals that drain the server or reload its configuration.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// SIGHUP came during the start.
    is_reload_wanted: bool,
}

impl Signals {
    /// Installs the handlers: from now on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn watch(runtime: &Runtime) -> std::io::Result<Self> {
        let watched = runtime.block_on(async { Self::watch_here() })?;
        signals::release_hangup();
        Ok(watched)
    }

    fn watch_here() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            is_reload_wanted: false,
        })
    }

    /// Waits for the next signal, and returns the action for it.
    pub(super) async fn next_event(&mut self) -> Event {
        if std::mem::take(&mut self.is_reload_wanted) {
            return Event::Reload;
        }
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
        }
    }

    /// Runs slow work of the start in a thread, and returns its result; `None` if a signal ends the
    /// server first. A SIGHUP during it is handled once the server runs.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn run_unless_ended<T: Send + 'static>(
        &mut self,
        runtime: &Runtime,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<Option<T>> {
        let (sender, mut receiver) = oneshot::channel();
        std::thread::Builder::new().name("start".to_owned()).spawn(move || {
            // The receiver is dropped if a signal has ended the start.
            let _ = sender.send(work());
        })?;
        runtime.block_on(async {
            let mut is_reload_wanted = false;
            loop {
                tokio::select! {
                    done = &mut receiver => {
                        self.is_reload_wanted = is_reload_wanted;
                        return done.map(Some).map_err(std::io::Error::other);
                    }
                    event = self.next_event() => match event {
                        Event::Stop(_) => return Ok(None),
                        _ => is_reload_wanted = true,
                    },
                }
            }
        })
    }
}

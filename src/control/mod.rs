//! The control thread: signals, the admin address, the histogram log, and the end of the server.
//!
//! It runs inside `tokio_uring::start`, which hosts the tokio libraries beside file I/O through a
//! ring of its own. It never owns a client's socket: it talks to shards by mail only.

mod admin;
mod drain;
mod histogram_log;
mod memory;
mod reload;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_uring::Runtime;

use crate::driver::uring::UringError;
use crate::driver::{host, signals};
use crate::server::{Collector, Ended, Server};
use crate::shard::mailbox::Mail;
pub(crate) use admin::{AdminListener, bind};
use drain::Orders;
pub(crate) use histogram_log::{HistogramLog, open as open_histogram_log};
pub(crate) use reload::Reloader;

/// Submission entries of the control thread's ring.
const RING_ENTRIES: u32 = 32;
/// How long shards may take to end after their deadline before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);
/// Longer than any process lives.
const NEVER: Duration = Duration::from_hours(24 * 365 * 30);

/// The control thread's runtime. Made before the shards, so that want of locked memory is told
/// before anything runs, and with a small ring: it moves files only.
///
/// # Errors
/// With cause and cure, when `io_uring` refuses one more ring.
pub(crate) fn runtime() -> Result<Runtime, UringError> {
    Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))
        .map_err(|error| UringError::explain("the control thread's ring cannot be set up", error))
}

/// Runs the server until a signal ends it, or a shard fails.
pub(crate) fn run(
    runtime: &Runtime,
    server: Server,
    admin: Option<AdminListener>,
    log: Option<HistogramLog>,
    (signals, reloader): (Signals, Reloader),
) -> ExitCode {
    // The shards run by now, on threads of their own. With 20 scrapes a second on two busy cores
    // their p99.9 turnaround was 0.29 ms like this and 0.38 ms without.
    host::step_back();
    runtime.block_on(supervise(server, admin, log, signals, reloader))
}

async fn supervise(
    mut server: Server,
    admin: Option<AdminListener>,
    log: Option<HistogramLog>,
    signals: Signals,
    mut reloader: Reloader,
) -> ExitCode {
    let draining = Arc::new(AtomicBool::new(false));
    let errors = Arc::new(AtomicU64::new(0));
    let config = server.config();
    let metrics = &config.metrics;
    let collector = Collector::new(server.directory(), metrics.histograms);
    let every = Duration::from_secs(u64::from(metrics.histogram_log_interval_s));
    let mut writing = None;
    if let Some(log) = log {
        match log.start(collector.clone(), every, errors.clone()).await {
            Ok(started) => writing = Some(started),
            Err(error) => tracing::error!(%error, "there will be no histogram log"),
        }
    }
    let (orders, ordered) = Orders::new();
    tokio::spawn(memory::watch(server.directory(), server.live_config()));
    WITHOUT_MEANING.into_iter().for_each(|signal| drop(tokio::spawn(log_ignored(signal))));
    // Removed at the end, whatever the end is.
    let _socket_file = admin.and_then(|listener| {
        let state = admin::State::new(&server, collector.clone(), draining.clone(), errors, orders);
        admin::serve(listener, state)
    });
    let causes = (signals, ordered);
    let end = watch(&mut server, causes, &draining, &collector, &mut reloader).await;
    if let Some(writing) = writing {
        writing.finish().await;
    }
    if end != End::Overdue {
        server.join();
        tracing::info!("all connections are closed");
    }
    if end == End::Drained { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How the server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drained,
    /// A shard has failed; the others have drained.
    Failed,
    /// Shards did not end in time.
    Overdue,
}

/// What ends the server, or has it read its configuration again.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself.
    ///
    /// # Errors
    /// The kernel's.
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
        })
    }
}

/// Signals that operators send to other servers.
const WITHOUT_MEANING: [(&str, fn() -> SignalKind); 4] = [
    ("SIGUSR1", SignalKind::user_defined1),
    ("SIGUSR2", SignalKind::user_defined2),
    ("SIGQUIT", SignalKind::quit),
    ("SIGALRM", SignalKind::alarm),
];

/// Logs a signal that means nothing to the server, each time it comes.
async fn log_ignored((name, kind): (&str, fn() -> SignalKind)) {
    // Without a listener the signal is ignored in silence.
    let Ok(mut signals) = signal(kind()) else { return };
    while signals.recv().await.is_some() {
        tracing::warn!(
            signal = name,
            "signal ignored: SIGHUP reloads the configuration, SIGTERM and SIGINT drain"
        );
    }
}

/// Waits for all shards to end, and tells them when to.
async fn watch(
    server: &mut Server,
    (mut signals, mut ordered): (Signals, mpsc::Receiver<()>),
    draining: &AtomicBool,
    collector: &Collector,
    reloader: &mut Reloader,
) -> End {
    let overdue = tokio::time::sleep(NEVER);
    tokio::pin!(overdue);
    let mut end = End::Drained;
    loop {
        let signalled = tokio::select! {
            ended = server.ended() => {
                let Some(Ended { shard, result, last }) = ended else { return end };
                collector.finish(shard, last).await;
                let Err(error) = result else { continue };
                // The other shards are told to go: half a server would lose half its clients
                // in silence, and a supervisor restarts a whole one.
                tracing::error!(shard, %error, "a shard has failed, the server ends");
                end = End::Failed;
                if draining.load(Ordering::Relaxed) {
                    continue;
                }
                "shard failure"
            },
            _ = signals.terminate.recv() => "SIGTERM",
            _ = signals.interrupt.recv() => "SIGINT",
            Some(()) = ordered.recv() => {
                if draining.load(Ordering::Relaxed) {
                    continue;
                }
                "a call"
            }
            _ = signals.hangup.recv() => {
                reloader.reload(server).await;
                continue;
            }
            () = &mut overdue => {
                tracing::error!("shards did not end within the deadline; ending without them");
                return End::Overdue;
            }
        };
        if draining.swap(true, Ordering::Relaxed) {
            tracing::warn!(cause = signalled, "dropping what is left");
            server.tell(|| Mail::Stop);
        } else {
            tracing::info!(cause = signalled, "draining; a second signal ends at once");
            server.tell(|| Mail::Drain);
            tokio::spawn(drain::report(server.directory()));
            let deadline_ms = server.config().drain.deadline_ms;
            let deadline = Duration::from_millis(deadline_ms.into()) + GRACE;
            overdue.as_mut().reset(tokio::time::Instant::now() + deadline);
        }
    }
}

//! The control thread: signals, the admin address, the histogram log, and the end of the server.
//!
//! It runs on `tokio-uring`, which hosts the tokio libraries beside file I/O through a ring of its
//! own, or on tokio alone where rings are refused (`runtime.rs`). It never owns a client's socket:
//! it talks to shards by mail only.

mod admin;
mod appender;
mod drain;
mod histogram_log;
mod keys;
mod log_writer;
mod memory;
mod reload;
mod runtime;
mod signals;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::driver::host;
use crate::server::{Collector, Ended, Server};
use crate::shard::mail::Mail;
pub(crate) use admin::{AdminListener, bind};
use drain::{Order, Orders};
pub(crate) use histogram_log::{HistogramLog, open as open_histogram_log};
pub(crate) use log_writer::LogWriter;
pub(crate) use reload::Reloader;
use reload::{Reloaded, Reloads};
use runtime::FileIo;
pub(crate) use runtime::Runtime;
pub(crate) use signals::Signals;

/// How long shards may take to end after their deadline before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);
/// How long the last numbers of ended shards may take to be added up.
const LAST_NUMBERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any process lives.
const NEVER: Duration = Duration::from_hours(24 * 365 * 30);

/// What the control thread works with, besides the server.
pub(crate) struct Parts {
    pub(crate) admin: Option<AdminListener>,
    pub(crate) histogram_log: Option<HistogramLog>,
    pub(crate) log: LogWriter,
    pub(crate) signals: Signals,
    pub(crate) reloader: Reloader,
}

/// Runs the server until a signal ends it, or a shard fails.
pub(crate) fn run(runtime: &Runtime, server: Server, parts: Parts) -> ExitCode {
    // The shards run by now, on threads of their own. With 20 scrapes a second on two busy cores
    // their p99.9 turnaround was 0.29 ms like this and 0.38 ms without.
    host::step_back();
    match runtime.block_on(supervise(server, parts, runtime.file_io())) {
        End::Drained => ExitCode::SUCCESS,
        End::Failed | End::Overdue => ExitCode::FAILURE,
    }
}

async fn supervise(server: Server, parts: Parts, file_io: FileIo) -> End {
    let Parts { admin, histogram_log, log, signals, reloader } = parts;
    let draining = Arc::new(AtomicBool::new(false));
    let errors = Arc::new(AtomicU64::new(0));
    let config = server.config();
    let metrics = &config.metrics;
    let collector = Collector::new(server.directory(), metrics.histograms);
    let every = Duration::from_secs(u64::from(metrics.histogram_log_interval_s));
    let mut writing = None;
    if let Some(log) = histogram_log {
        match log.start(file_io, collector.clone(), every, errors.clone()).await {
            Ok(started) => writing = Some(started),
            Err(error) => {
                tracing::error!(%error, "cannot start the histogram log; continuing without it");
            }
        }
    }
    let (orders, ordered) = Orders::new();
    let reloads = Reloads::new(reloader);
    let last_reload = reloads.last();
    tokio::spawn(memory::watch(server.directory(), server.live_config()));
    signals::log_ignored();
    tokio::spawn(keys::watch(server.directory(), server.live_config()));
    // Removed at the end, whatever the end is.
    let _socket_file = admin.and_then(|listener| {
        let (collector, draining) = (collector.clone(), draining.clone());
        let state =
            admin::State::new(&server, collector, draining, (errors, log), (orders, last_reload));
        admin::serve(listener, state)
    });
    let watch = Watch {
        server,
        signals,
        ordered,
        draining,
        collector,
        reloads,
        last_numbers: JoinSet::new(),
        overdue: Box::pin(tokio::time::sleep(NEVER)),
    };
    let (server, end) = watch.run().await;
    if let Some(writing) = writing {
        writing.finish().await;
    }
    if end != End::Overdue {
        server.join();
        tracing::info!("all connections are closed");
    }
    end
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

/// What the control loop reacts to.
enum Event {
    /// A shard has ended; `None`: all have.
    Ended(Option<Ended>),
    /// End the server; the second time, at once.
    Stop(&'static str),
    /// From the admin address.
    Ordered(Order),
    Reload,
    Reloaded(Reloaded),
    Overdue,
}

/// The control loop. It awaits nothing but its next event: whatever takes time runs beside it (a
/// reload in a thread, the last numbers of a shard in a task), so that a signal and the failure of
/// a shard are acted on at once.
struct Watch {
    server: Server,
    signals: Signals,
    ordered: mpsc::Receiver<Order>,
    draining: Arc<AtomicBool>,
    collector: Arc<Collector>,
    reloads: Reloads,
    /// Additions of what ended shards knew to the totals: they wait for readings under way.
    last_numbers: JoinSet<()>,
    overdue: Pin<Box<Sleep>>,
}

impl Watch {
    /// Waits for all shards to end, and makes them end when a signal asks for it.
    async fn run(mut self) -> (Server, End) {
        let mut end = End::Drained;
        loop {
            match self.next().await {
                Event::Ended(None) => {
                    let numbers = async { while self.last_numbers.join_next().await.is_some() {} };
                    // Only what the histogram log records last depends on them.
                    let _ = tokio::time::timeout(LAST_NUMBERS_TIMEOUT, numbers).await;
                    return (self.server, end);
                }
                Event::Ended(Some(Ended { shard, result, last })) => {
                    let collector = self.collector.clone();
                    self.last_numbers.spawn(async move { collector.finish(shard, last).await });
                    if let Err(error) = result {
                        // The other shards drain: half a server would lose half its clients in
                        // silence, and a supervisor restarts a whole one.
                        tracing::error!(shard, %error, "a shard has failed; the server ends");
                        end = End::Failed;
                        self.drain("shard failure");
                    }
                }
                Event::Stop(cause) if self.is_draining() => {
                    tracing::warn!(cause, "closing the remaining connections now");
                    self.server.tell(|| Mail::Stop);
                }
                Event::Stop(cause) => self.drain(cause),
                Event::Ordered(Order::Drain) => self.drain("POST /v1/drain"),
                Event::Ordered(Order::Reload(reply)) => {
                    self.reloads.begin(&self.server, Some(reply));
                }
                Event::Reload => self.reloads.begin(&self.server, None),
                Event::Reloaded(reloaded) => self.reloads.apply(reloaded, &self.server),
                Event::Overdue => {
                    tracing::error!("shards did not end in time; ending without them");
                    return (self.server, End::Overdue);
                }
            }
        }
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            ended = self.server.ended() => Event::Ended(ended),
            event = self.signals.next() => event,
            Some(order) = self.ordered.recv() => Event::Ordered(order),
            reloaded = self.reloads.finished() => Event::Reloaded(reloaded),
            () = &mut self.overdue => Event::Overdue,
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Begins the graceful end, unless it has begun.
    fn drain(&mut self, cause: &'static str) {
        if self.draining.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!(cause, "draining; a second signal ends the process at once");
        self.server.tell(|| Mail::Drain);
        tokio::spawn(drain::report(self.server.directory()));
        let deadline_ms = self.server.config().drain.deadline_ms;
        let deadline = Duration::from_millis(deadline_ms.into()) + GRACE;
        self.overdue.as_mut().reset(Instant::now() + deadline);
    }
}

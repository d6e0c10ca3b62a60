//! The control thread: signals, the admin address, the histogram log, and the server's shutdown.
//!
//! It runs on `tokio-uring`, which hosts the tokio libraries beside file I/O through a ring of its
//! own, or on tokio alone where the kernel denies rings (`runtime.rs`). It never owns a client's
//! socket, and communicates with shards by mail only.

mod admin;
mod appender;
mod drain;
mod file_watch;
mod histogram_log;
mod keys;
mod log_writer;
mod memory;
mod peers;
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

use crate::acme::Renewal;
use crate::driver::host;
use crate::server::{Collector, Ended, Server};
use crate::shard::forwarded::forwarding_line;
use crate::shard::mail::{Act, ConnectionTarget, HubMail, Mail, Replacement};
use crate::tls::challenges::Challenges;
use admin::api::everywhere;
pub(crate) use admin::{AdminListener, bind};
use drain::{Order, Orders};
pub(crate) use histogram_log::{HistogramLog, open as open_histogram_log};
pub(crate) use log_writer::LogWriter;
use peers::{ClusterPeers, PeerCall, PeerRecord};
pub(crate) use reload::Reloader;
use reload::{Reloaded, Reloads};
use runtime::FileIo;
pub(crate) use runtime::Runtime;
pub(crate) use signals::Signals;

/// Time that shards get after the drain's deadline before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);
/// Limit for adding up the last counters of ended shards.
const LAST_NUMBERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for sending the last records to applications.
const LAST_RECORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for sending the last events to applications.
const LAST_EVENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// A deadline that is never reached.
const NEVER: Duration = Duration::from_hours(24 * 365 * 30);

/// Everything the control thread owns besides the server.
pub(crate) struct Parts {
    pub(crate) admin: Option<AdminListener>,
    pub(crate) histogram_log: Option<HistogramLog>,
    pub(crate) log: LogWriter,
    pub(crate) signals: Signals,
    pub(crate) reloader: Reloader,
}

/// Runs the control loop until a signal ends the server or a shard fails.
pub(crate) fn run(runtime: &Runtime, server: Server, parts: Parts) -> ExitCode {
    // Shards run on threads of their own by now, at normal priority. With 20 scrapes a second on
    // two busy cores their p99.9 turnaround was 0.29 ms with this call and 0.38 ms without.
    host::lower_priority();
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
    if let Some(outer) = server.outer() {
        collector.add_outer(outer, server.facts.started);
    }
    if let Some(links) = server.links() {
        collector.add_links(links.clone());
    }
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
    signals::log_ignored();
    start_watching(&server, &orders);
    let _renewal = start_renewal(&server, &orders);
    let peers = find_peers(&server);
    let state = admin::State::new(
        &server,
        collector.clone(),
        draining.clone(),
        (errors, log),
        (orders, last_reload),
        peers.clone(),
    );
    start_answering(&server, &state);
    if let Some(peers) = peers.clone() {
        join_cluster(&server, &peers, state.clone());
    }
    // Its drop removes the file, however this function ends.
    let _socket_file = admin.and_then(|listener| admin::serve(listener, state));
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
    if let Some(peers) = peers {
        peers.leave().await;
    }
    finish_backends(&server).await;
    if let Some(writing) = writing {
        writing.finish().await;
    }
    if end != End::Overdue {
        server.join();
        tracing::info!("all connections closed");
    }
    end
}

/// Starts the tasks that answer requests from shards, and commands from links.
fn start_answering(server: &Server, state: &admin::State) {
    let (requests, forwarded) = forwarding_line();
    server.directory().set_requests(requests);
    tokio::spawn(admin::answer_requests(state.clone(), forwarded));
    if let Some(links) = server.links() {
        tokio::spawn(admin::run_commands(links.open_commands(), state.clone()));
    }
}

/// Starts the tasks that watch memory, keys and files.
fn start_watching(server: &Server, orders: &Orders) {
    tokio::spawn(memory::watch_memory(server.directory(), server.live_config()));
    tokio::spawn(keys::watch_keys(server.directory(), server.live_config()));
    tokio::spawn(file_watch::watch_files(server.live_config(), orders.clone()));
}

/// Sends applications what waits for them.
async fn finish_backends(server: &Server) {
    if let Some(events) = server.events() {
        events.finish(LAST_EVENTS_TIMEOUT).await;
    }
    if let Some(links) = server.links() {
        links.finish(LAST_RECORDS_TIMEOUT).await;
    }
}

/// Finds the way to the other nodes of a cluster; `None`: this node is alone.
fn find_peers(server: &Server) -> Option<Arc<ClusterPeers>> {
    let (outer, hub) = (server.outer()?, server.directory().hub()?);
    let settings = server.config().cluster.clone()?;
    Some(ClusterPeers::new(outer, hub.realm.node, &settings))
}

/// Starts to answer other nodes, and to be listed by them.
fn join_cluster(server: &Server, peers: &Arc<ClusterPeers>, state: admin::State) {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{}:{}", name.trim(), std::process::id());
    let (node, own) = (peers.node(), state.clone());
    let record = move || own.peer_record(node, &name);
    let (own, revoking) = (state.clone(), state);
    let revoke = move |revocation| everywhere::note_revocation(&revoking, revocation);
    let events = server.events().cloned();
    let report_lost = move |lost: &PeerRecord| {
        if let Some(events) = &events {
            events.report_lost_node(lost.node, &lost.incarnation);
        }
    };
    tokio::task::spawn_local(peers.clone().beat(record, revoke, report_lost));
    tokio::task::spawn_local(
        peers.clone().receive(move |call| everywhere::answer_peer(own.clone(), call)),
    );
    let directory = server.directory();
    tokio::task::spawn_local(peers.clone().watch_engine(move |notice| {
        for shard in 0..directory.len() as u16 {
            let (target, act) = (ConnectionTarget::All, Act::NotifyEngine(notice));
            let mail = HubMail::Act { target, act, reply: None };
            directory.post(shard, Mail::Hub(Box::new(mail)));
        }
    }));
    let (sender, mut replaced) = mpsc::unbounded_channel();
    if let Some(hub) = server.directory().hub() {
        hub.set_remote(sender);
    }
    let peers = peers.clone();
    tokio::task::spawn_local(async move {
        while let Some(Replacement { old, by }) = replaced.recv().await {
            let call = PeerCall::Replaced { old: old.to_string(), by: by.to_string() };
            peers.notify(old.node, call);
        }
    });
}

/// Starts to order certificates, if any is to be ordered; the result's drop ends it.
fn start_renewal(server: &Server, orders: &Orders) -> Option<Renewal> {
    let settings = server.config().acme.clone()?;
    let orders = orders.clone();
    let started = Renewal::start(settings, Challenges::of_process().clone(), move || {
        orders.reload_later();
    });
    if let Err(error) = &started {
        tracing::error!(%error, "cannot start to order certificates");
    }
    started.ok()
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drained,
    /// A shard failed; the others were drained.
    Failed,
    /// Shards missed the deadline.
    Overdue,
}

/// An event of the control loop.
enum Event {
    /// A shard has ended; `None` when all have.
    Ended(Option<Ended>),
    /// Drain; a second one closes all connections at once.
    Stop(&'static str),
    /// An order from the admin address.
    Ordered(Order),
    Reload,
    Reloaded(Reloaded),
    Overdue,
}

/// The control loop. It awaits nothing but its next event: slow work runs beside it (a reload in a
/// thread, the last counters of a shard in a task), so that signals and shard failures are handled
/// at once.
struct Watch {
    server: Server,
    signals: Signals,
    ordered: mpsc::Receiver<Order>,
    draining: Arc<AtomicBool>,
    collector: Arc<Collector>,
    reloads: Reloads,
    /// Tasks that add the last counters of ended shards to the totals: they wait for running
    /// scrapes.
    last_numbers: JoinSet<()>,
    overdue: Pin<Box<Sleep>>,
}

impl Watch {
    /// Handles events until all shards have ended, or have missed their deadline.
    async fn run(mut self) -> (Server, End) {
        let mut end = End::Drained;
        loop {
            match self.next_event().await {
                Event::Ended(None) => {
                    let numbers = async { while self.last_numbers.join_next().await.is_some() {} };
                    // Only the last interval of the histogram log depends on them.
                    let _ = tokio::time::timeout(LAST_NUMBERS_TIMEOUT, numbers).await;
                    return (self.server, end);
                }
                Event::Ended(Some(Ended { shard, result, last })) => {
                    let collector = self.collector.clone();
                    self.last_numbers.spawn(async move { collector.finish(shard, last).await });
                    if let Err(error) = result {
                        // Drain the others: half a server would lose half its clients unnoticed,
                        // and a supervisor restarts a whole one.
                        tracing::error!(shard, %error, "shard failed; draining the others");
                        end = End::Failed;
                        self.begin_drain("shard failure");
                    }
                }
                Event::Stop(cause) if self.is_draining() => {
                    tracing::warn!(cause, "closing the remaining connections now");
                    self.server.broadcast(|| Mail::Stop);
                }
                Event::Stop(cause) => self.begin_drain(cause),
                Event::Ordered(Order::Drain) => self.begin_drain("POST /v1/drain"),
                Event::Ordered(Order::Reload(reply)) => {
                    self.reloads.begin(&self.server, Some(reply));
                }
                Event::Reload => self.reloads.begin(&self.server, None),
                Event::Reloaded(reloaded) => self.reloads.apply(reloaded, &self.server),
                Event::Overdue => {
                    tracing::error!("shards missed the drain deadline; ending without them");
                    return (self.server, End::Overdue);
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        tokio::select! {
            ended = self.server.next_ended() => Event::Ended(ended),
            event = self.signals.next_event() => event,
            Some(order) = self.ordered.recv() => Event::Ordered(order),
            reloaded = self.reloads.finished() => Event::Reloaded(reloaded),
            () = &mut self.overdue => Event::Overdue,
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Starts the drain, unless it has started.
    fn begin_drain(&mut self, cause: &'static str) {
        if self.draining.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!(cause, "draining; a second signal closes all connections at once");
        if let Some(links) = self.server.links() {
            links.drain();
        }
        self.server.broadcast(|| Mail::Drain);
        tokio::spawn(drain::report_progress(self.server.directory()));
        let deadline_ms = self.server.config().drain.deadline_ms;
        let deadline = Duration::from_millis(deadline_ms.into()) + GRACE;
        self.overdue.as_mut().reset(Instant::now() + deadline);
    }
}

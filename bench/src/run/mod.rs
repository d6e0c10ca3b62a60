//! Runs each load, from arguments to report: start the crew, measure, join, publish.

mod connect;
mod echo;
mod fanout;
mod hold;
mod hostile;
mod memory;
mod replay;
mod slow;
mod storm;

pub use connect::connect;
pub use echo::echo;
pub use fanout::fanout;
pub use hold::hold;
pub use hostile::hostile;
pub use replay::replay;
pub use slow::slow;
pub use storm::storm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::CommonArgs;
use crate::client::Terms;
use crate::cpu::CpuSample;
use crate::crew::{Crew, Failure, Ran, Shared, Spread};
use crate::deflate::Offer;
use crate::fleet::{Fleet, FleetPlan, Load};
use crate::monitor::Monitor;
use crate::report::Report;
use crate::sheet::{Shape, Sheet};
use crate::sys::ring_capacity;
use crate::target::{CONNECTIONS_PER_SOURCE, SocketHabits, Target};
use crate::upgrade::{Extras, Upgrade};

/// The measuring thread sleeps in steps of this, to notice a failed worker.
const NAP: Duration = Duration::from_millis(20);
/// Time without progress after the load's measured time, after which the load is stopped.
const END_NS: u64 = 60_000_000_000;
/// Limit for connections to become ready, beyond `--timeout`.
const READY_GRACE_NS: u64 = 1_000_000_000;
/// Time from the last connection's opening to the first message.
const START_DELAY_NS: u64 = 20_000_000;

/// Server and generator at one moment.
struct Moment {
    done: u64,
    wall_ns: u64,
    own: CpuSample,
    server: Option<CpuSample>,
}

impl Moment {
    fn take(shared: &Shared, server_pid: Option<u32>) -> Result<Self, Failure> {
        let server = server_pid.map(CpuSample::take).transpose()?;
        let own = CpuSample::take(std::process::id())?;
        Ok(Self { done: shared.done_sum(), wall_ns: shared.clock.now_ns(), own, server })
    }

    /// Rows that every load with a measured time has; `unit` in the singular.
    fn report(&self, from: &Self, report: &mut Report, unit: &str, bytes: Option<f64>) {
        let count = self.done - from.done;
        let span_ns = (self.wall_ns - from.wall_ns).max(1);
        let rate = count as f64 * 1e9 / span_ns as f64;
        report.row(&format!("{unit}s"), count.to_string(), "count", count);
        report.row(&format!("{unit}s per second"), format!("{rate:.0}"), "per_second", rate);
        report.name("rate", "per_second");
        if let (Some(now), Some(before)) = (&self.server, &from.server) {
            report.server(&now.since(before), count, unit, bytes);
        }
        report.generator(&self.own.since(&from.own));
    }
}

/// The parts of all workers.
#[derive(Clone)]
struct Workshop {
    shared: Arc<Shared>,
    target: Arc<Target>,
    terms: Arc<Terms>,
    timeout: Duration,
    /// Additions of the command line to requests.
    extras: Arc<Extras>,
}

impl Workshop {
    fn new(
        common: &CommonArgs,
        shape: Shape,
        verify: bool,
        connections_of_sources: usize,
        workers: usize,
    ) -> Result<Self, Failure> {
        let sources = connections_of_sources.div_ceil(CONNECTIONS_PER_SOURCE) as u32;
        if shape.raw && common.url.is_tls {
            let text = "--raw sends without WebSocket and without TLS; use ws://";
            return Err(Failure::Usage(text.to_owned()));
        }
        let tls = common.tls.client(&common.url).map_err(Failure::Usage)?;
        let target = Target::new(common.url.clone(), tls, sources, common.congestion())?;
        let deflate = shape.deflate;
        let offer = deflate.then_some(Offer::Alone);
        let extras = common.request.extras()?;
        let (authority, path) = (&common.url.authority, common.url.path.clone());
        let upgrade = Upgrade::with_extras(authority, &[path], offer, None, &extras);
        Ok(Self {
            shared: Shared::new(workers),
            target: Arc::new(target),
            terms: Arc::new(terms(upgrade, Sheet::new(shape), verify)),
            timeout: Duration::from_secs_f64(common.timeout),
            extras: Arc::new(extras),
        })
    }

    /// The same with another compression offer.
    fn with_offer(&self, common: &CommonArgs, offer: Offer) -> Self {
        let (authority, path) = (&common.url.authority, common.url.path.clone());
        let upgrade = Upgrade::with_extras(authority, &[path], Some(offer), None, &self.extras);
        let sheet = Sheet::new(self.terms.sheet.shape().clone());
        Self { terms: Arc::new(terms(upgrade, sheet, false)), ..self.clone() }
    }

    /// The same with other requests, for loads that receive messages and write their own frames.
    fn with_messages(&self, upgrade: Upgrade) -> Self {
        let sheet = Sheet::new(Shape::text(0));
        let terms = Arc::new(Terms { hear: true, ..terms(upgrade, sheet, false) });
        Self { terms, ..self.clone() }
    }

    /// The same with other requests, for loads that write their own frames and count answers.
    fn with_counts(&self, upgrade: Upgrade) -> Self {
        let sheet = Sheet::new(Shape::text(0));
        let terms = Arc::new(Terms { count_only: true, ..terms(upgrade, sheet, false) });
        Self { terms, ..self.clone() }
    }

    /// The plan of a fleet with the usual values.
    fn fleet_plan(&self, slots: u32, buffers: (u16, usize), first_number: u32) -> FleetPlan {
        FleetPlan {
            slots,
            buffer_count: buffers.0,
            buffer_size: buffers.1,
            timeout: self.timeout,
            quiet_sends: false,
            first_number,
            completions: 0,
            spin: false,
            park: false,
            habits: SocketHabits::default(),
        }
    }

    fn fleet(&self, plan: FleetPlan) -> std::io::Result<Fleet> {
        let (target, terms) = (Arc::clone(&self.target), Arc::clone(&self.terms));
        Fleet::new(plan, target, terms, self.shared.clock)
    }
}

/// Terms under which only the fleet reads messages.
fn terms(upgrade: Upgrade, sheet: Sheet, verify: bool) -> Terms {
    Terms { upgrade, sheet, verify, hear: false, count_only: false }
}

/// Starts the workers, measures, and joins them. Callers check the loads' own failures first: they
/// are the causes of what the measuring thread reports.
fn conduct<L: Load + Send + 'static, M>(
    common: &CommonArgs,
    shared: &Arc<Shared>,
    spread: Spread,
    make: impl Fn(usize) -> std::io::Result<(Fleet, L)> + Send + Sync + 'static,
    measure: impl FnOnce() -> Result<M, Failure>,
) -> Result<(Result<M, Failure>, Vec<Ran<L>>), Failure> {
    let monitor = Monitor::start(shared, &common.output)?;
    let crew = Crew::of_workers(shared, spread, make)?;
    let measured = measure();
    if measured.is_err() {
        shared.stop();
    }
    let has_ended = await_end(shared);
    // A worker's failure is the cause of what the measuring thread reports.
    let ran = crew.join_workers()?;
    monitor.finish()?;
    if !has_ended {
        return Err(Failure::Failed(format!(
            "the load did not end; no progress for {} s",
            END_NS / 1_000_000_000
        )));
    }
    Ok((measured, ran))
}

/// Waits until the load of every worker is over; stops it with a warning after no progress for
/// [`END_NS`].
fn await_end(shared: &Shared) -> bool {
    let state = || (shared.open.load(Ordering::Acquire), shared.done_sum());
    let (mut before, mut since_ns) = (state(), shared.clock.now_ns());
    while !shared.finished() {
        let (now, now_ns) = (state(), shared.clock.now_ns());
        if now != before {
            (before, since_ns) = (now, now_ns);
        } else if now_ns.saturating_sub(since_ns) > END_NS {
            shared.stop();
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Waits until `count` reaches `total`, as long as it grows.
///
/// # Errors
/// When it has not grown for `--timeout`, or the run was stopped.
fn wait_for_all(
    shared: &Shared,
    common: &CommonArgs,
    total: usize,
    hint: &str,
    count: impl Fn() -> usize,
) -> Result<(), Failure> {
    let limit_ns = nanos(common.timeout.max(1.0)) + READY_GRACE_NS;
    loop {
        let before = count();
        if before >= total {
            return Ok(());
        }
        if !wait_for(shared, limit_ns, || count() != before) {
            if shared.stopped() {
                return Err(stopped());
            }
            let (path, seconds) = (&common.url.path, limit_ns / 1_000_000_000);
            let path = path.split('?').next().unwrap_or_default();
            return Err(Failure::Failed(format!(
                "{before} of {total} connections are ready, and no other became so within \
                 {seconds} s: {hint} {path}?"
            )));
        }
    }
}

/// Takes the loads' own failures, a corrupt echo before any other.
fn results<L, R>(
    ran: Vec<Ran<L>>,
    finish: impl Fn(L) -> Result<R, Failure>,
) -> Result<(Vec<R>, u32), Failure> {
    let (mut results, mut overflow_count) = (Vec::new(), 0);
    let mut failure: Option<Failure> = None;
    for Ran { load, overflow_count: overflows, .. } in ran {
        overflow_count += overflows;
        match finish(load) {
            Ok(result) => results.push(result),
            Err(found) if failure.is_none() || matches!(found, Failure::Corrupt(_)) => {
                failure = Some(found);
            }
            Err(_) => {}
        }
    }
    failure.map_or(Ok((results, overflow_count)), Err)
}

/// Warns if latencies are unreliable.
fn warn_of_overflows(report: &mut Report, overflow_count: u32) {
    if overflow_count > 0 {
        report.warn(format!("{overflow_count} completions overflowed the generator's queue"));
    }
}

/// Adds up counts by reason.
fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (reason, count) in from {
        *into.entry(reason.clone()).or_default() += count;
    }
}

/// Rejects more slots than a ring can hold.
fn check_capacity(slots: usize, remedy: &str) -> Result<(), Failure> {
    let capacity = ring_capacity();
    if slots <= capacity {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{slots} connections do not fit one ring, which holds {capacity} (ulimit -n); {remedy}"
    )))
}

/// Waits until a time of the run's clock.
fn sleep_until(shared: &Shared, at_ns: u64) {
    loop {
        let left = at_ns.saturating_sub(shared.clock.now_ns());
        if left == 0 || shared.stopped() {
            return;
        }
        std::thread::sleep(NAP.min(Duration::from_nanos(left)));
    }
}

/// Waits until a condition holds, at most for `limit_ns`; returns whether it does.
fn wait_for(shared: &Shared, limit_ns: u64, holds: impl Fn() -> bool) -> bool {
    let until_ns = shared.clock.now_ns().saturating_add(limit_ns);
    while !holds() {
        if shared.stopped() || shared.clock.now_ns() >= until_ns {
            return holds();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// The failure of a stopped run: a worker's own failure replaces it.
fn stopped() -> Failure {
    Failure::Failed("the run was stopped".to_owned())
}

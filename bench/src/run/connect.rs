//! `connect` from its arguments to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Moment, nanos, sleep_until, terms};
use crate::cli::ConnectArgs;
use crate::connect::{ConnectLoad, ConnectPlan, ConnectResult};
use crate::crew::{Crew, Failure, Shared, share};
use crate::echo::nanoseconds;
use crate::fleet::{Fleet, FleetPlan};
use crate::report::Report;
use crate::sheet::Shape;
use crate::target::{SOURCES_OF_CHURN, Target};

/// From the start of the threads to the first connection.
const START_DELAY_NS: u64 = 50_000_000;
/// Handshakes and closes are small.
const BUFFERS: (u16, usize) = (256, 2048);

/// `connect`.
pub fn connect(args: &ConnectArgs) -> Result<(), Failure> {
    let common = &args.common;
    let threads = usize::from(common.threads).min(common.parallel as usize);
    let shape = Shape { size: 0, text: true, raw: false, depth: 1 };
    let terms = terms(common, shape, false);
    let target = Target::new(common.url.clone(), SOURCES_OF_CHURN, common.congestion())?;
    let target = Arc::new(target);
    let shared = Shared::new(threads);
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    let limit = |thread: usize| {
        let of = |total: u64| share(total as usize, thread, threads) as u64;
        args.connections.map_or(u64::MAX, of)
    };
    let plan_of = |thread: usize| ConnectPlan {
        parallel: share(common.parallel as usize, thread, threads) as u32,
        rate: args.rate,
        limit: limit(thread),
        start_ns,
        warmup_ns: nanos(args.warmup),
        duration_ns: nanos(args.duration),
        thread,
        threads,
    };
    let plans: Vec<ConnectPlan> = (0..threads).map(plan_of).collect();
    let timeout = Duration::from_secs_f64(common.timeout);
    let worker_shared = Arc::clone(&shared);
    let crew = Crew::start(&shared, threads, move |thread| {
        let plan = plans[thread];
        let fleet_plan = FleetPlan {
            slots: plan.parallel,
            buffer_count: BUFFERS.0,
            buffer_size: BUFFERS.1,
            timeout,
            quiet_sends: false,
            // Threads begin far from each other in the rotation of source addresses.
            first_number: (thread as u32) << 20,
        };
        let (target, terms) = (Arc::clone(&target), Arc::clone(&terms));
        let mut fleet = Fleet::new(fleet_plan, target, terms, worker_shared.clock)?;
        let mut load = ConnectLoad::new(plan, Arc::clone(&worker_shared));
        fleet.run(&mut load)?;
        Ok(load.finish())
    })?;
    let window = measure(args, &shared, start_ns);
    if window.is_err() {
        shared.stop();
    }
    let results = crew.join()?;
    let (from, until) = window?;
    publish(args, &from, &until, results)
}

fn measure(
    args: &ConnectArgs,
    shared: &Shared,
    start_ns: u64,
) -> Result<(Moment, Moment), Failure> {
    let from_ns = start_ns + nanos(args.warmup);
    sleep_until(shared, from_ns);
    let from = Moment::take(shared, args.common.server_pid)?;
    let until_ns = from_ns + nanos(args.duration);
    while shared.clock.now_ns() < until_ns && !shared.finished() && !shared.stopped() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let until = Moment::take(shared, args.common.server_pid)?;
    Ok((from, until))
}

fn publish(
    args: &ConnectArgs,
    from: &Moment,
    until: &Moment,
    results: Vec<ConnectResult>,
) -> Result<(), Failure> {
    let mut latency = nanoseconds();
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    for result in results {
        // The histograms have the same bounds, so adding cannot fail.
        latency.add(&result.latency).expect("same bounds");
        for (reason, count) in result.failures {
            *failures.entry(reason).or_default() += count;
        }
    }
    let mut report = Report::default();
    let shown = match args.rate {
        Some(rate) => format!("open, {rate} connections/s"),
        None => format!("closed, {} at a time", args.common.parallel),
    };
    report.row("loop", shown, "rate", args.rate);
    until.report(from, &mut report, "connection", None);
    report.latencies("handshake", "handshake", &latency);
    let failed: u64 = failures.values().sum();
    report.row("failed", failed.to_string(), "failed", failed);
    for (reason, count) in &failures {
        report.warn(format!("{count} connections failed: {reason}"));
    }
    report.publish(args.common.json.as_deref())?;
    match failed {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} connections failed"))),
    }
}

//! `connect` from its arguments to its report.

use std::collections::BTreeMap;

use super::{
    Moment, Workshop, check_capacity, conduct, merge, nanos, results, sleep_until, wait_for,
    warn_of_overflows,
};
use crate::cli::ConnectArgs;
use crate::connect::{Arrivals, ConnectLoad, ConnectPlan, ConnectResult};
use crate::crew::{Failure, Shared, Spread, share};
use crate::recorder::sum;
use crate::report::Report;
use crate::sheet::Shape;
use crate::target::{CONNECTIONS_PER_SOURCE, SOURCES_OF_CHURN};

/// From the start of the threads to the first connection.
const START_DELAY_NS: u64 = 50_000_000;
/// Handshakes and closes are small.
const BUFFERS: (u16, usize) = (256, 2048);

/// `connect`.
pub fn connect(args: &ConnectArgs) -> Result<(), Failure> {
    let common = &args.common;
    let slots = args.population.unwrap_or(common.parallel) as usize;
    let threads = usize::from(common.threads).min(slots);
    check_capacity(share(slots, 0, threads), "use more --threads")?;
    let sources = (SOURCES_OF_CHURN as usize * CONNECTIONS_PER_SOURCE).max(slots);
    let workshop = Workshop::new(common, Shape::text(0), false, sources, threads)?;
    let shared = workshop.shared.clone();
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    let limit = |thread: usize| {
        let of = |total: u64| share(total as usize, thread, threads) as u64;
        args.connections.map_or(u64::MAX, of)
    };
    let ramp_ns = nanos(args.ramp.unwrap_or(0.0));
    let arrivals = match (args.rate, args.hold) {
        (Some(rate), _) => Arrivals::Open { rate, ramp_ns },
        (None, Some(hold)) => Arrivals::Churn { hold_ns: nanos(hold) },
        (None, None) => Arrivals::Closed,
    };
    // A population is complete after one lifetime.
    let warmup_ns = nanos(args.warmup.max(args.hold.unwrap_or(0.0))).max(ramp_ns);
    let plan_of = |thread: usize| ConnectPlan {
        slots: share(slots, thread, threads) as u32,
        arrivals,
        limit: limit(thread),
        start_ns,
        warmup_ns,
        duration_ns: nanos(args.duration),
        worker: thread,
        workers: threads,
    };
    let plans: Vec<ConnectPlan> = (0..threads).map(plan_of).collect();
    let make = move |thread: usize| {
        let plan = plans[thread];
        // Threads start far apart in the rotation of source addresses.
        let fleet_plan = workshop.fleet_plan(plan.slots, BUFFERS, (thread as u32) << 20);
        let load = ConnectLoad::new(plan, workshop.shared.clone());
        Ok((workshop.fleet(fleet_plan)?, load))
    };
    let measure = || measure(args, &shared, start_ns + warmup_ns);
    let (measured, ran) = conduct(common, &shared, Spread::Even(threads), make, measure)?;
    let (from, until) = measured?;
    let (found, overflow_count) = results(ran, |load: ConnectLoad| Ok(load.finish()))?;
    publish(args, &from, &until, &found, overflow_count)
}

fn measure(args: &ConnectArgs, shared: &Shared, from_ns: u64) -> Result<(Moment, Moment), Failure> {
    sleep_until(shared, from_ns);
    let from = Moment::take(shared, args.common.server_pid)?;
    let left_ns = (from_ns + nanos(args.duration)).saturating_sub(shared.clock.now_ns());
    wait_for(shared, left_ns, || shared.finished());
    let until = Moment::take(shared, args.common.server_pid)?;
    Ok((from, until))
}

fn publish(
    args: &ConnectArgs,
    from: &Moment,
    until: &Moment,
    found: &[ConnectResult],
    overflow_count: u32,
) -> Result<(), Failure> {
    let latency = sum(found.iter().map(|result| &result.latency));
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    found.iter().for_each(|result| merge(&mut failures, &result.failures));
    let mut report = Report::default();
    let shown = match (args.rate, args.population) {
        (Some(rate), _) => format!("open, {rate} connections/s"),
        (None, Some(population)) => {
            format!("churn, {population} connections of {} s", args.hold.unwrap_or(0.0))
        }
        (None, None) => format!("closed, {} at a time", args.common.parallel),
    };
    report.row("loop", shown, "rate", args.rate);
    until.report(from, &mut report, "connection", None);
    report.name("opened", "count");
    report.latencies("handshake", "handshake", &latency);
    let failed: u64 = failures.values().sum();
    report.row("failed", failed.to_string(), "failed", failed);
    report.name("losses", "failed");
    report.name("errors", "failed");
    for (reason, count) in &failures {
        report.warn(format!("{count} connections failed: {reason}"));
    }
    warn_of_overflows(&mut report, overflow_count);
    let verdict = match failed {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} connections failed"))),
    };
    report.publish(&args.common, &latency, verdict)
}

//! `echo` from its arguments to its report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Moment, nanos, sleep_until, sources, terms};
use crate::cli::EchoArgs;
use crate::crew::{Crew, Failure, Shared, share};
use crate::echo::{EchoLoad, EchoPlan, EchoResult, Pace, buffers, nanoseconds};
use crate::fleet::{Fleet, FleetPlan};
use crate::report::{self, Report};
use crate::sheet::Shape;
use crate::sys::ring_capacity;
use crate::target::Target;

/// From the last connection's opening to the first message.
const START_DELAY_NS: u64 = 20_000_000;

/// `echo`.
pub fn echo(args: &EchoArgs) -> Result<(), Failure> {
    let common = &args.common;
    let threads = usize::from(common.threads).min(args.connections as usize);
    let connections = args.connections as usize;
    if share(connections, 0, threads) > ring_capacity() {
        return Err(Failure::Failed(format!(
            "{connections} connections do not fit {threads} rings of {} (ulimit -n): use more \
             --threads",
            ring_capacity()
        )));
    }
    let pace = args.rate.map_or(Pace::Closed { depth: args.depth }, |rate| Pace::Open { rate });
    let depth = if args.rate.is_some() { 16 } else { args.depth as usize };
    let shape = Shape { size: args.size as usize, text: !args.binary, raw: args.raw, depth };
    let terms = terms(common, shape, args.verify);
    let target = Target::new(common.url.clone(), sources(connections), common.congestion())?;
    let target = Arc::new(target);
    let shared = Shared::new(threads);
    let (buffer_count, buffer_size) = buffers(&terms);
    let plan_of = |thread: usize| EchoPlan {
        connections: share(connections, thread, threads) as u32,
        parallel: (common.parallel / threads as u32).max(1),
        pace,
        warmup_ns: nanos(args.warmup),
        duration_ns: nanos(args.duration),
        thread,
        threads,
    };
    let plans: Vec<EchoPlan> = (0..threads).map(plan_of).collect();
    let timeout = Duration::from_secs_f64(common.timeout);
    let worker_shared = Arc::clone(&shared);
    let crew = Crew::start(&shared, threads, move |thread| {
        let plan = plans[thread];
        let fleet_plan = FleetPlan {
            slots: plan.connections,
            buffer_count,
            buffer_size,
            timeout,
            quiet_sends: plan.pace == Pace::Closed { depth: 1 },
            first_number: plans[..thread].iter().map(|plan| plan.connections).sum(),
        };
        let (target, terms) = (Arc::clone(&target), Arc::clone(&terms));
        let mut fleet = Fleet::new(fleet_plan, target, terms, worker_shared.clock)?;
        let mut load = EchoLoad::new(plan, Arc::clone(&worker_shared));
        fleet.run(&mut load)?;
        load.finish().map(|result| (result, fleet.overflow_count()))
    })?;
    let window = measure(args, &shared, connections);
    if window.is_err() {
        shared.stop();
    }
    let results = crew.join()?;
    let (from, until) = window?;
    let mut report = Report::default();
    describe(args, &mut report);
    until.report(&from, &mut report, "message", Some(args.size as usize));
    publish(args, report, results)
}

/// Waits until all are open, starts the load, and samples both ends of the measured time.
fn measure(
    args: &EchoArgs,
    shared: &Shared,
    connections: usize,
) -> Result<(Moment, Moment), Failure> {
    while shared.open.load(Ordering::Acquire) < connections && !shared.stopped() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    shared.set_start(start_ns);
    let from_ns = start_ns + nanos(args.warmup);
    sleep_until(shared, from_ns);
    let from = Moment::take(shared, args.common.server_pid)?;
    sleep_until(shared, from_ns + nanos(args.duration));
    let until = Moment::take(shared, args.common.server_pid)?;
    Ok((from, until))
}

fn describe(args: &EchoArgs, report: &mut Report) {
    let kind = match (args.raw, args.binary) {
        (true, _) => "raw",
        (_, true) => "binary",
        _ => "text",
    };
    let shown = match args.rate {
        Some(rate) => format!("open, {rate} messages/s"),
        None => format!("closed, {} in flight per connection", args.depth),
    };
    report.row("connections", args.connections.to_string(), "connections", args.connections);
    report.row("payload", format!("{} bytes, {kind}", args.size), "size_bytes", args.size);
    report.row("loop", shown, "rate", args.rate);
}

fn publish(
    args: &EchoArgs,
    mut report: Report,
    results: Vec<(EchoResult, u32)>,
) -> Result<(), Failure> {
    let (mut latency, mut lag) = (nanoseconds(), nanoseconds());
    let (mut unanswered, mut overflow_count) = (0, 0);
    for (result, overflows) in results {
        // The histograms have the same bounds, so adding cannot fail.
        latency.add(&result.latency).expect("same bounds");
        lag.add(&result.lag).expect("same bounds");
        unanswered += result.unanswered;
        overflow_count += overflows;
    }
    report.latencies("latency", "latency", &latency);
    if args.rate.is_some() {
        report.latencies("sent late by", "lag", &lag);
    }
    report.row("unanswered", unanswered.to_string(), "unanswered", unanswered);
    if overflow_count > 0 {
        report.warn(format!("{overflow_count} completions overflowed the generator's queue"));
    }
    if args.verify {
        report.row("verified", "every byte", "verified", true);
    }
    if let Some(path) = &args.hgrm {
        report::write_hgrm(path, &latency)?;
    }
    report.publish(args.common.json.as_deref())?;
    match unanswered {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} messages got no echo"))),
    }
}

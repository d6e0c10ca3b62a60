//! `echo` from its arguments to its report.

use std::sync::atomic::Ordering;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, nanos, results, sleep_until,
    wait_for_all, warn_of_overflows,
};
use crate::cli::EchoArgs;
use crate::client::Traffic;
use crate::crew::{Failure, Ran, Shared, Spread, share};
use crate::echo::{EchoLoad, EchoPlan, EchoResult, Pace, buffers};
use crate::recorder::{nanoseconds, sum};
use crate::report::Report;
use crate::sheet::Shape;

/// `echo`.
pub fn echo(args: &EchoArgs) -> Result<(), Failure> {
    let common = &args.common;
    if args.raw && !args.size.is_fixed() {
        return Err(Failure::Usage("--raw needs one fixed --size".to_owned()));
    }
    let threads = usize::from(common.threads).min(args.connections as usize);
    let connections = args.connections as usize;
    check_capacity(share(connections, 0, threads), "use more --threads")?;
    let pace = args.rate.map_or(Pace::Closed { depth: args.depth }, |rate| Pace::Open { rate });
    let depth = if args.rate.is_some() { 16 } else { args.depth as usize };
    let (sizes, text, raw, deflate) = (args.size.clone(), !args.binary, args.raw, args.deflate);
    let shape = Shape { sizes, text, raw, depth, deflate };
    let workshop = Workshop::new(common, shape, args.verify, connections, threads)?;
    let shared = workshop.shared.clone();
    let buffers = buffers(&workshop.terms);
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
    let make = move |thread: usize| {
        let plan = plans[thread];
        let first_number = plans[..thread].iter().map(|plan| plan.connections).sum();
        let mut fleet_plan = workshop.fleet_plan(plan.connections, buffers, first_number);
        fleet_plan.quiet_sends = plan.pace == Pace::Closed { depth: 1 };
        let load = EchoLoad::new(plan, workshop.shared.clone());
        Ok((workshop.fleet(fleet_plan)?, load))
    };
    let measure = || measure(args, &shared, connections);
    let (measured, ran) = conduct(common, &shared, Spread::Even(threads), make, measure)?;
    let (from, until) = measured?;
    let mut report = Report::default();
    describe(args, &mut report);
    until.report(&from, &mut report, "message", Some(args.size.mean()));
    publish(args, report, ran)
}

/// Waits until all are open, starts the load, and samples both ends of the measured time.
fn measure(
    args: &EchoArgs,
    shared: &Shared,
    connections: usize,
) -> Result<(Moment, Moment), Failure> {
    let hint = "does an echo answer at";
    let open = || shared.open.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, connections, hint, open)?;
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
    report.name("opened", "connections");
    let size = format!("{}, {kind}", args.size.text());
    report.row("payload", size, "size_bytes", args.size.mean());
    report.row("loop", shown, "rate", args.rate);
}

fn publish(args: &EchoArgs, mut report: Report, ran: Vec<Ran<EchoLoad>>) -> Result<(), Failure> {
    let mut traffic = Traffic::default();
    ran.iter().for_each(|ran| traffic.add(&ran.traffic));
    let (found, overflow_count): (Vec<EchoResult>, u32) = results(ran, EchoLoad::finish)?;
    let latency = sum(found.iter().map(|result| &result.latency));
    let mut lag = nanoseconds();
    for result in &found {
        // The histograms have the same bounds, so adding cannot fail.
        lag.add(&result.lag).expect("same bounds");
    }
    let unanswered: u64 = found.iter().map(|result| result.unanswered).sum();
    report.latencies("latency", "latency", &latency);
    if args.rate.is_some() {
        report.latencies("sent late by", "lag", &lag);
    }
    report.row("unanswered", unanswered.to_string(), "unanswered", unanswered);
    report.name("losses", "unanswered");
    report.name("errors", "unanswered");
    if args.deflate {
        describe_deflate(args, &mut report, &traffic);
    }
    warn_of_overflows(&mut report, overflow_count);
    if args.verify {
        report.row("verified", "every byte", "verified", true);
    }
    let verdict = match unanswered {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} messages got no echo"))),
    };
    report.publish(&args.common, &latency, verdict)
}

fn describe_deflate(args: &EchoArgs, report: &mut Report, traffic: &Traffic) {
    let agreed = traffic.deflate_agreed >= u64::from(args.connections);
    let shown = match traffic.deflate_agreed {
        0 => "declined by the server; messages were sent uncompressed".to_owned(),
        _ if agreed => "agreed, without context takeover".to_owned(),
        count => format!("agreed on {count} of {} connections", args.connections),
    };
    report.row("permessage-deflate", shown, "deflate", agreed);
    if traffic.deflate_agreed == 0 {
        return;
    }
    let ratio = |small: u64, large: u64| small as f64 / large.max(1) as f64 * 100.0;
    let (plain, wire) = (traffic.sent_bytes, traffic.sent_wire_bytes);
    let shown = format!("{plain} bytes, {wire} compressed ({:.0} %)", ratio(wire, plain));
    report.row("sent, warm-up included", shown, "sent_bytes", plain);
    report.extra("sent_wire_bytes", wire);
    let (plain, wire) = (traffic.compressed_bytes, traffic.compressed_wire_bytes);
    let count = traffic.compressed;
    let shown =
        format!("{count} messages, {wire} bytes, {plain} inflated ({:.0} %)", ratio(wire, plain));
    report.row("received compressed", shown, "received_compressed", count);
    report.extra("received_bytes", plain);
    report.extra("received_wire_bytes", wire);
    if count == 0 {
        report.warn("permessage-deflate was agreed, and the server compressed no echo");
    }
}

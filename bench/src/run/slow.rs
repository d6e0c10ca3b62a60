//! `slow` from its arguments to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, merge, nanos, results, wait_for_all,
    warn_of_overflows,
};
use crate::bystanders::{Bystanders, Times};
use crate::cli::SlowArgs;
use crate::cpu::Memory;
use crate::crew::{Failure, Shared, Spread};
use crate::fleet::Either;
use crate::pulse::PulseResult;
use crate::report::Report;
use crate::sheet::Shape;
use crate::slow::{Slow, SlowPlan, SlowResult};
use crate::target::SocketHabits;

/// How often the server's memory is sampled.
const SAMPLE: Duration = Duration::from_millis(100);
const BUFFER_COUNT: u16 = 64;
const BUFFER_SIZE: usize = 64 * 1024;

type Role = Either<Bystanders, Slow>;

/// `slow`.
pub fn slow(args: &SlowArgs) -> Result<(), Failure> {
    let common = &args.common;
    let slow = ((f64::from(args.connections) * args.share).ceil() as u32).max(1);
    let Some(others) = args.connections.checked_sub(slow).filter(|others| *others > 0) else {
        let text = "--share leaves no connections to measure; use a smaller share";
        return Err(Failure::Usage(text.to_owned()));
    };
    check_capacity(args.connections as usize, "use fewer --connections")?;
    let total = args.connections as usize;
    let workshop = Workshop::new(common, Shape::text(args.size), false, total, 2)?;
    let shared = workshop.shared.clone();
    let times = Arc::new(Times::default());
    let (rate, parallel) = (args.rate, common.parallel);
    let plan = SlowPlan {
        slots: slow,
        parallel,
        read_rate: args.read_rate,
        send_rate: args.slow_rate,
        buffer_size: BUFFER_SIZE as u32,
    };
    let receive_buffer_bytes = Some(args.receive_buffer).filter(|bytes| *bytes > 0);
    let worker_times = Arc::clone(&times);
    let make = move |worker: usize| {
        let (shared, times) = (workshop.shared.clone(), Arc::clone(&worker_times));
        let buffers = (BUFFER_COUNT, BUFFER_SIZE);
        if worker == 0 {
            let fleet_plan = workshop.fleet_plan(others, buffers, 0);
            let load = Bystanders::new(shared, times, others, rate, parallel);
            return Ok((workshop.fleet(fleet_plan)?, Either::Left(load)));
        }
        let mut fleet_plan = workshop.fleet_plan(slow, buffers, others);
        fleet_plan.habits = SocketHabits { receive_buffer_bytes, ..SocketHabits::default() };
        let load = Slow::new(plan, shared, times);
        Ok((workshop.fleet(fleet_plan)?, Either::Right(load)))
    };
    let measure = || {
        let measured = measure(args, &shared, &times);
        Times::set(&times.close_ns, shared.clock.now_ns());
        measured
    };
    let (measured, ran) = conduct(common, &shared, Spread::FirstAlone(1), make, measure)?;
    let (found, overflow_count) = results(ran, |role: Role| match role {
        Either::Left(load) => load.finish().map(Either::Left),
        Either::Right(load) => load.finish().map(Either::Right),
    })?;
    publish(args, slow, &measured?, found, overflow_count)
}

/// Measurements of the measuring thread.
struct Measured {
    from: Moment,
    until: Moment,
    /// Milliseconds since the trouble began, with the server's memory.
    memory: Vec<(u64, Memory)>,
}

fn measure(args: &SlowArgs, shared: &Shared, times: &Times) -> Result<Measured, Failure> {
    let total = args.connections as usize;
    let hint = "does an echo answer at";
    let ready = || times.ready.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, total, hint, ready)?;
    let pid = args.common.server_pid;
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    Times::set(&times.start_ns, start_ns);
    Times::set(&times.trouble_ns, start_ns);
    let stop_ns = start_ns + nanos(args.duration);
    Times::set(&times.calm_ns, stop_ns);
    Times::set(&times.stop_ns, stop_ns);
    let mut memory = Vec::new();
    let mut watch = |until_ns: u64| -> Result<(), Failure> {
        while shared.clock.now_ns() < until_ns && !shared.stopped() {
            let at_ms = shared.clock.now_ns().saturating_sub(start_ns) / 1_000_000;
            if let Some(pid) = pid {
                memory.push((at_ms, Memory::take(pid)?));
            }
            let left_ns = until_ns.saturating_sub(shared.clock.now_ns());
            std::thread::sleep(SAMPLE.min(Duration::from_nanos(left_ns)));
        }
        Ok(())
    };
    let from = Moment::take(shared, pid)?;
    watch(stop_ns)?;
    let until = Moment::take(shared, pid)?;
    watch(stop_ns + nanos(args.settle))?;
    Ok(Measured { from, until, memory })
}

fn publish(
    args: &SlowArgs,
    slow: u32,
    measured: &Measured,
    found: Vec<Either<(PulseResult, Vec<String>), SlowResult>>,
    overflow_count: u32,
) -> Result<(), Failure> {
    let mut report = Report::default();
    let (mut pulse, mut lost) = (PulseResult::none(), Vec::new());
    let mut result = SlowResult::default();
    for part in found {
        match part {
            Either::Left((part, reasons)) => {
                pulse.add(&part);
                lost.extend(reasons);
            }
            Either::Right(part) => {
                result.sent += part.sent;
                result.echoed += part.echoed;
                result.still_open += part.still_open;
                merge(&mut result.ended, &part.ended);
            }
        }
    }
    report.row("connections", args.connections.to_string(), "connections", args.connections);
    report.name("opened", "connections");
    let reading = match args.read_rate {
        0 => "not at all".to_owned(),
        rate => format!("{rate} bytes/s"),
    };
    report.row("slow connections", format!("{slow}, reading {reading}"), "slow", slow);
    measured.until.report(&measured.from, &mut report, "message", None);
    report.latencies("others' latency", "latency", &pulse.latency);
    report.latencies("sent late by", "lag", &pulse.lag);
    report.row("unanswered", pulse.unanswered.to_string(), "unanswered", pulse.unanswered);
    report.row("others lost", lost.len().to_string(), "others_lost", lost.len());
    report.name("losses", "others_lost");
    endings(&mut report, &result);
    memory(&mut report, &measured.memory);
    warn_of_overflows(&mut report, overflow_count);
    let verdict = match (lost.first(), pulse.unanswered) {
        (None, 0) => Ok(()),
        (Some(why), _) => Err(format!("{} of the others were lost: {why}", lost.len())),
        (None, count) => Err(format!("{count} messages of the others got no echo")),
    };
    report.publish(&args.common, &pulse.latency, verdict.map_err(Failure::Failed))
}

fn endings(report: &mut Report, result: &SlowResult) {
    report.row(
        "sent or queued by slow connections",
        result.sent.to_string(),
        "slow_sent",
        result.sent,
    );
    report.row(
        "echoes they read, including at the end",
        result.echoed.to_string(),
        "slow_echoed",
        result.echoed,
    );
    let ended: u64 = result.ended.values().sum();
    report.row("slow connections ended", ended.to_string(), "slow_ended", ended);
    let by_key: BTreeMap<String, (&String, u64)> = result
        .ended
        .iter()
        .map(|(how, count)| {
            let key = format!("slow_{}", how.replace(|c: char| !c.is_alphanumeric(), "_"));
            (key, (how, *count))
        })
        .collect();
    for (key, (how, count)) in by_key {
        report.row(&format!("  {how}"), count.to_string(), &key, count);
    }
    let open = result.still_open;
    report.row("slow connections still open", open.to_string(), "slow_open", open);
}

fn memory(report: &mut Report, samples: &[(u64, Memory)]) {
    let ([(_, first), ..], [.., (_, last)]) = (samples, samples) else { return };
    let peak = samples.iter().map(|(_, memory)| memory.anon).max().unwrap_or(0);
    let kib = |bytes: u64| format!("{} KiB", bytes / 1024);
    report.row("server RssAnon before", kib(first.anon), "anon_before_bytes", first.anon);
    report.row("server RssAnon at most", kib(peak), "anon_peak_bytes", peak);
    report.row("server RssAnon at the end", kib(last.anon), "anon_end_bytes", last.anon);
    let series: Vec<serde_json::Value> =
        samples.iter().map(|(ms, memory)| serde_json::json!([ms, memory.anon])).collect();
    report.extra("server_memory_series", series);
}

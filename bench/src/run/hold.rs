//! `hold` from its arguments to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::memory::{self, Step};
use super::{
    START_DELAY_NS, Workshop, check_capacity, conduct, merge, nanos, results, sleep_until,
    wait_for, wait_for_all, warn_of_overflows,
};
use crate::cli::HoldArgs;
use crate::cpu::{CpuSample, CpuUse, Memory};
use crate::crew::{Failure, Shared, Spread, share};
use crate::deflate::Offer;
use crate::hold::{Goal, HoldLoad, HoldPlan, HoldResult};
use crate::pulse::PulseResult;
use crate::report::{Report, duration};
use crate::sheet::Shape;
use crate::sys::{ring_capacity, terminate};

/// Default connections of one ring; below the usual limits of open files.
const RING_CONNECTIONS: usize = 16_000;
/// Pings, closes and a few echoes are small, and each ring has buffers of its own.
const BUFFERS: (u16, usize) = (256, 1024);
/// Idle connections complete nothing; the kernel keeps bursts that overflow.
const COMPLETIONS: u32 = 4096;
/// Limit for pongs to the final pings, for all and per connection.
const ANSWER_NS: u64 = 30_000_000_000;
const ANSWER_EACH_NS: u64 = 100_000;
/// Failed connections after which opening is given up.
const FAILED_MAX: usize = 1_000;
/// Limit for echoes after the last message, including the workers' own limit.
const ECHO_WAIT_NS: u64 = 10_000_000_000;

/// Measurements of the measuring thread.
struct Held {
    steps: Vec<Step>,
    ramp_ns: u64,
    opened: usize,
    /// Server CPU of opening all connections, without their closing.
    open_cpu_ns: Option<u64>,
    idle: Option<CpuUse>,
    own_ramp: CpuUse,
    own_idle: CpuUse,
    own_memory: Memory,
    echo: Option<(CpuUse, Option<CpuUse>)>,
    alive: usize,
    open_at_last: usize,
    drain_ns: Option<u64>,
}

/// `hold`.
pub fn hold(args: &HoldArgs) -> Result<(), Failure> {
    let common = &args.common;
    let steps = steps(args)?;
    let connections = steps[steps.len() - 1];
    let threads = usize::from(common.threads);
    let fitting = connections.div_ceil(RING_CONNECTIONS.min(ring_capacity()));
    let rings = args.rings.map_or(fitting.max(threads), |rings| rings as usize).min(connections);
    check_capacity(share(connections, 0, rings), "use more --rings")?;
    let deflate = args.deflate || args.takeover;
    let shape = Shape { deflate, ..Shape::text(args.size) };
    let mut workshop = Workshop::new(common, shape, false, connections, rings)?;
    if args.takeover {
        workshop = workshop.with_offer(common, Offer::Takeover);
    }
    let park = args.park;
    let shared = workshop.shared.clone();
    let goal = Arc::new(Goal::default());
    let echo_rate = args.echo_share.map_or(1, |share| (share * connections as f64).ceil() as u64);
    let plan_of = |worker: usize| HoldPlan {
        worker,
        workers: rings,
        parallel: (common.parallel / rings as u32).max(1),
        slots: share(connections, worker, rings) as u32,
        greet: args.greet,
        echo_rate,
        echo_ns: nanos(args.echo_seconds),
    };
    let plans: Vec<HoldPlan> = (0..rings).map(plan_of).collect();
    let worker_goal = Arc::clone(&goal);
    let make = move |worker: usize| {
        let plan = plans[worker];
        let first_number = plans[..worker].iter().map(|plan| plan.slots).sum();
        let mut fleet_plan = workshop.fleet_plan(plan.slots, BUFFERS, first_number);
        fleet_plan.completions = COMPLETIONS;
        fleet_plan.park = park;
        let load = HoldLoad::new(plan, workshop.shared.clone(), Arc::clone(&worker_goal));
        Ok((workshop.fleet(fleet_plan)?, load))
    };
    let measure = || {
        let held = measure(args, &steps, &shared, &goal);
        goal.closing.store(true, Ordering::Release);
        held
    };
    let own_before = Memory::take(std::process::id())?;
    let (held, ran) = conduct(common, &shared, Spread::Even(threads), make, measure)?;
    let held = held?;
    let agreed: u64 = ran.iter().map(|ran| ran.traffic.deflate_agreed).sum();
    let (found, overflow_count) = results(ran, HoldLoad::finish)?;
    let mut report = Report::default();
    report.row("connections", connections.to_string(), "connections", connections);
    report.row("opened", held.opened.to_string(), "opened", held.opened);
    if deflate {
        report.row("permessage-deflate", format!("agreed on {agreed}"), "deflate_agreed", agreed);
    }
    report.row("rings", rings.to_string(), "rings", rings);
    times(&mut report, args, &held);
    memory::report(&mut report, &held.steps, (own_before, held.own_memory));
    publish(args, report, &held, &found, overflow_count)
}

fn steps(args: &HoldArgs) -> Result<Vec<usize>, Failure> {
    let steps: Vec<usize> = match args.steps.as_slice() {
        [] => vec![args.connections as usize],
        steps => steps.iter().map(|step| *step as usize).collect(),
    };
    let rising = steps.windows(2).all(|pair| pair[0] < pair[1]) && steps[0] > 0;
    if rising {
        Ok(steps)
    } else {
        Err(Failure::Usage("--steps must rise from above 0".to_owned()))
    }
}

/// Opens up to each step and measures there.
fn climb(
    args: &HoldArgs,
    steps: &[usize],
    shared: &Shared,
    goal: &Goal,
) -> Result<(Vec<Step>, u64), Failure> {
    let pid = args.common.server_pid;
    let mut found = vec![Step::take(0, pid)?];
    let mut ramp_ns = 0;
    for step in steps {
        let begin_ns = shared.clock.now_ns();
        goal.connections.store(*step, Ordering::Release);
        let failed = || goal.failed.load(Ordering::Acquire);
        let hopeless = || failed() >= FAILED_MAX.max(*step / 10);
        // With enough failures, stop as if all were open.
        let settled =
            || if hopeless() { *step } else { goal.settled.load(Ordering::Acquire).min(*step) };
        wait_for_all(shared, &args.common, *step, "does the server answer at", settled)?;
        ramp_ns += shared.clock.now_ns() - begin_ns;
        sleep_until(shared, shared.clock.now_ns() + nanos(args.settle));
        found.push(Step::take(*step - failed().min(*step), pid)?);
        if hopeless() {
            break;
        }
    }
    Ok((found, ramp_ns))
}

fn measure(
    args: &HoldArgs,
    steps: &[usize],
    shared: &Shared,
    goal: &Goal,
) -> Result<Held, Failure> {
    let pid = args.common.server_pid;
    let cpu = || pid.map(CpuSample::take).transpose();
    let own = || CpuSample::take(std::process::id());
    let (closed, own_closed) = (cpu()?, own()?);
    let (steps, ramp_ns) = climb(args, steps, shared, goal)?;
    let (before, own_before) = (cpu()?, own()?);
    let opened = shared.open.load(Ordering::Acquire);
    sleep_until(shared, shared.clock.now_ns() + nanos(args.hold));
    let (after, own_after) = (cpu()?, own()?);
    let own_memory = Memory::take(std::process::id())?;
    let open_cpu_ns = before.as_ref().zip(closed).map(|(now, then)| now.since(&then).cpu_ns);
    let idle = after.as_ref().zip(before).map(|(after, before)| after.since(&before));
    let echo = match args.echo_share {
        None => None,
        Some(_) => {
            talk(args, shared, goal);
            let server = cpu()?.zip(after).map(|(now, then)| now.since(&then));
            Some((own()?.since(&own_after), server))
        }
    };
    goal.asking.store(true, Ordering::Release);
    let open = shared.open.load(Ordering::Acquire);
    let answer_ns = ANSWER_NS + open as u64 * ANSWER_EACH_NS;
    wait_for(shared, answer_ns, || goal.alive.load(Ordering::Acquire) >= open);
    let alive = goal.alive.load(Ordering::Acquire);
    let open_at_last = shared.open.load(Ordering::Acquire);
    let drain_ns = args.drain.map(|limit| drain(args, shared, goal, limit)).transpose()?;
    Ok(Held {
        steps,
        ramp_ns,
        opened,
        open_cpu_ns,
        idle,
        own_ramp: own_before.since(&own_closed),
        own_idle: own_after.since(&own_before),
        own_memory,
        echo,
        alive,
        open_at_last,
        drain_ns,
    })
}

/// Lets connections send messages until all echoes have arrived or timed out.
fn talk(args: &HoldArgs, shared: &Shared, goal: &Goal) {
    // Idle workers check for events twenty times a second.
    let start_ns = shared.clock.now_ns() + START_DELAY_NS + 100_000_000;
    goal.echo_start_ns.store(start_ns, Ordering::Release);
    sleep_until(shared, start_ns + nanos(args.echo_seconds));
    let workers = shared.done.len();
    wait_for(shared, ECHO_WAIT_NS, || goal.echoed.load(Ordering::Acquire) >= workers);
}

/// Sends SIGTERM to the server, and waits until it has closed all connections; returns the time
/// until the last close.
fn drain(args: &HoldArgs, shared: &Shared, goal: &Goal, limit_s: f64) -> Result<u64, Failure> {
    goal.draining.store(true, Ordering::Release);
    let begin_ns = shared.clock.now_ns();
    terminate(args.common.server_pid.unwrap_or(0)).map_err(|error| {
        Failure::Failed(format!("cannot send SIGTERM to the server: {error}; is it running?"))
    })?;
    wait_for(shared, nanos(limit_s), || shared.open.load(Ordering::Acquire) == 0);
    Ok(goal.drained_ns.load(Ordering::Acquire).saturating_sub(begin_ns))
}

fn publish(
    args: &HoldArgs,
    mut report: Report,
    held: &Held,
    found: &[HoldResult],
    overflow_count: u32,
) -> Result<(), Failure> {
    let connections = steps(args)?.last().copied().unwrap_or(0);
    let mut pulse = PulseResult::none();
    found.iter().filter_map(|result| result.pulse.as_ref()).for_each(|part| pulse.add(part));
    pings(&mut report, found);
    if let Some((own, server)) = &held.echo {
        report.row("echoes", pulse.sent.to_string(), "echoes", pulse.sent);
        report.latencies("echo latency", "latency", &pulse.latency);
        report.latencies("sent late by", "lag", &pulse.lag);
        report.row("unanswered", pulse.unanswered.to_string(), "unanswered", pulse.unanswered);
        report.generator(own);
        if let Some(server) = server {
            let cores = server.cores();
            let shown = format!("{cores:.3} cores");
            report.row("server CPU while echoing", shown, "echo_cores", cores);
        }
    } else {
        report.generator(&held.own_ramp);
    }
    let lost = losses(&mut report, held, found, pulse.unanswered);
    warn_of_overflows(&mut report, overflow_count);
    let alive = held.alive;
    report.row("alive at the end", format!("{alive} of {connections}"), "alive", alive);
    let verdict = match (lost, alive == connections) {
        (None, true) => Ok(()),
        (Some(text), _) => Err(Failure::Failed(text)),
        (None, false) => {
            Err(Failure::Failed(format!("{} connections gave no pong", connections - alive)))
        }
    };
    report.publish(&args.common, &pulse.latency, verdict)
}

fn times(report: &mut Report, args: &HoldArgs, held: &Held) {
    report.row("ramp", duration(held.ramp_ns), "ramp_ns", held.ramp_ns);
    let rate = held.opened as f64 * 1e9 / held.ramp_ns.max(1) as f64;
    report.row("opened per second", format!("{rate:.0}"), "per_second", rate);
    report.name("rate", "per_second");
    if let Some(cpu_ns) = held.open_cpu_ns {
        let each = cpu_ns as f64 / held.opened.max(1) as f64;
        let shown = format!("{each:.0} ns");
        report.row("server CPU per connection opened", shown, "open_cpu_ns_each", each);
    }
    report.row("held", format!("{} s", args.hold), "hold_s", args.hold);
    if let Some(idle) = &held.idle {
        let cores = idle.cores();
        report.row("server CPU while idle", format!("{cores:.4} cores"), "idle_cores", cores);
    }
    let cores = held.own_idle.cores();
    let shown = format!("{cores:.4} cores");
    report.row("generator CPU while idle", shown, "generator_idle_cores", cores);
}

fn pings(report: &mut Report, found: &[HoldResult]) {
    let all: u64 = found.iter().map(|result| result.pings).sum();
    let least = found.iter().map(|result| result.pings_min).min().unwrap_or(0);
    let most = found.iter().map(|result| result.pings_max).max().unwrap_or(0);
    let shown = format!("{all}, {least} to {most} a connection");
    report.row("pings answered", shown, "pings", all);
    report.extra("pings_min_each", least);
    report.extra("pings_max_each", most);
}

/// Rows about losses and about the drain; returns the text of the run's failure.
fn losses(
    report: &mut Report,
    held: &Held,
    found: &[HoldResult],
    unanswered: u64,
) -> Option<String> {
    let (mut failed, mut lost, mut drained) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for result in found {
        merge(&mut failed, &result.failed);
        merge(&mut lost, &result.lost);
        merge(&mut drained, &result.drained);
    }
    let total = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
    let (failed_count, lost_count) = (total(&failed), total(&lost));
    report.row("could not be opened", failed_count.to_string(), "failed", failed_count);
    report.row("lost", lost_count.to_string(), "lost", lost_count);
    report.name("losses", "lost");
    let errors = failed_count + lost_count + unanswered;
    report.extra("errors", errors);
    let mut first = None;
    if let Some(ns) = held.drain_ns {
        report.row("drain, until the last close", duration(ns), "drain_ns", ns);
        for (how, count) in &drained {
            let key = format!("drained_{}", how.replace(|c: char| !c.is_alphanumeric(), "_"));
            report.row(&format!("  {how}"), count.to_string(), &key, *count);
        }
        let count = total(&drained);
        report.row("  drained in all", count.to_string(), "drained", count);
        let missing = (held.open_at_last as u64).saturating_sub(count);
        if missing > 0 {
            let text = format!("{missing} connections were not closed by the drain");
            report.warn(text.clone());
            first = Some(text);
        }
    }
    for (what, reasons) in [("could not be opened", &failed), ("were lost", &lost)] {
        for (reason, count) in reasons {
            let text = format!("{count} connections {what}: {reason}");
            report.warn(text.clone());
            first.get_or_insert(text);
        }
    }
    if unanswered > 0 {
        first.get_or_insert(format!("{unanswered} messages got no echo"));
    }
    first
}

//! `storm` from its arguments to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, merge, nanos, results, sleep_until,
    wait_for, wait_for_all, warn_of_overflows,
};
use crate::bystanders::{Bystanders, Times};
use crate::cli::{DropKind, Policy, StormArgs};
use crate::crew::{Failure, Shared, Spread, share};
use crate::fanout::Dialect;
use crate::fleet::Either;
use crate::policy::Reconnect;
use crate::pulse::PulseResult;
use crate::report::{Report, duration};
use crate::returning::{Channels, Returned, Returning};
use crate::sheet::Shape;
use crate::storm::{Crowd, CrowdPlan, CrowdResult};
use crate::sys::ring_capacity;
use crate::target::SocketHabits;
use crate::upgrade::Upgrade;

/// Connections of one ring; below the usual limits of open files.
const RING_CONNECTIONS: usize = 16_000;
const CROWD_BUFFERS: (u16, usize) = (256, 2048);
const SURVIVOR_BUFFERS: (u16, usize) = (256, 4096);
/// Phases of the survivors, in order.
const PHASES: [&str; 3] = ["before", "during", "after"];

type Role = Either<Bystanders, Crowd>;

/// `storm`.
pub fn storm(args: &StormArgs) -> Result<(), Failure> {
    let common = &args.common;
    let connections = args.connections as usize;
    let crowds = connections.div_ceil(RING_CONNECTIONS.min(ring_capacity()));
    let crowds = crowds.max(usize::from(common.threads)).min(connections);
    check_capacity(args.survivors as usize, "use fewer --survivors")?;
    let total = connections + args.survivors as usize;
    let workers = crowds + 1;
    let workshop = Workshop::new(common, Shape::text(args.size), false, total, workers)?;
    let shared = workshop.shared.clone();
    let times = Arc::new(Times::default());
    let policy = match args.policy {
        Policy::Fixed => Reconnect::Fixed { delay_ns: nanos(args.delay) },
        Policy::Backoff | Policy::Resume => {
            Reconnect::Backoff { base_ns: nanos(args.base), cap_ns: nanos(args.cap) }
        }
    };
    let (survivors, rate, parallel) = (args.survivors, args.survivor_rate, common.parallel);
    let reset = args.drop == DropKind::Reset;
    let worker_times = Arc::clone(&times);
    let resuming = (args.policy == Policy::Resume).then(|| {
        let paths = [args.hub_path.clone()];
        let authority = &common.url.authority;
        let protocol = Dialect::Seawall.protocol();
        let upgrade = Upgrade::with_extras(authority, &paths, None, protocol, &workshop.extras);
        (workshop.with_messages(upgrade), Channels::new(args.channels, args.missed))
    });
    let make = move |worker: usize| {
        let (shared, times) = (workshop.shared.clone(), Arc::clone(&worker_times));
        let Some(crowd) = worker.checked_sub(1) else {
            let plan = workshop.fleet_plan(survivors, SURVIVOR_BUFFERS, 0);
            let load = Bystanders::new(shared, times, survivors, rate, parallel);
            return Ok((workshop.fleet(plan)?, Either::Left(load)));
        };
        let slots = share(connections, crowd, crowds) as u32;
        let before: usize = (0..crowd).map(|c| share(connections, c, crowds)).sum();
        let returning = resuming.as_ref().map(|(_, channels)| {
            Returning::new(Arc::clone(channels), before as u32, slots, crowd == 0)
        });
        let herald = u32::from(returning.as_ref().is_some_and(|r| r.herald().is_some()));
        let workshop = resuming.as_ref().map_or(&workshop, |(hearing, _)| hearing);
        let first_number = survivors + before as u32;
        let mut plan = workshop.fleet_plan(slots + herald, CROWD_BUFFERS, first_number);
        plan.habits = SocketHabits { abortive: reset, ..SocketHabits::default() };
        let parallel = (parallel / crowds as u32).max(1);
        let plan_of = CrowdPlan { worker, slots, parallel, reset, policy };
        let load = Crowd::new(plan_of, shared, times, returning);
        Ok((workshop.fleet(plan)?, Either::Right(load)))
    };
    // Separate rings: the dropped connections cannot delay the survivors.
    let spread = Spread::FirstAlone(usize::from(common.threads));
    let measure = || {
        let moments = measure(args, &shared, &times);
        Times::set(&times.close_ns, shared.clock.now_ns());
        moments
    };
    let (moments, ran) = conduct(common, &shared, spread, make, measure)?;
    let (found, overflow_count) = results(ran, |role: Role| match role {
        Either::Left(load) => load.finish().map(Either::Left),
        Either::Right(load) => load.finish().map(Either::Right),
    })?;
    publish(args, &moments?, found, overflow_count)
}

/// Moments of the run: before the drop, and after the last reconnect (or the limit).
struct Moments {
    before: Moment,
    after: Moment,
    back: usize,
}

fn measure(args: &StormArgs, shared: &Shared, times: &Times) -> Result<Moments, Failure> {
    let crowd = args.connections as usize;
    let herald = usize::from(args.policy == Policy::Resume);
    let total = crowd + args.survivors as usize + herald;
    let hint = "does the server answer as this load expects at";
    let ready = || times.ready.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, total, hint, ready)?;
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    Times::set(&times.start_ns, start_ns);
    let drop_ns = start_ns + nanos(args.before);
    sleep_until(shared, drop_ns.saturating_sub(START_DELAY_NS));
    let before = Moment::take(shared, args.common.server_pid)?;
    Times::set(&times.trouble_ns, drop_ns);
    sleep_until(shared, drop_ns);
    let back = || times.back.load(Ordering::Acquire);
    wait_for(shared, nanos(args.limit), || back() >= crowd);
    Times::set(&times.calm_ns, shared.clock.now_ns());
    let after = Moment::take(shared, args.common.server_pid)?;
    let back = back();
    let stop_ns = shared.clock.now_ns() + nanos(args.after);
    Times::set(&times.stop_ns, stop_ns);
    sleep_until(shared, stop_ns);
    // Messages in flight get the workers' own limit.
    sleep_until(shared, shared.clock.now_ns() + Duration::from_millis(200).as_nanos() as u64);
    Ok(Moments { before, after, back })
}

fn publish(
    args: &StormArgs,
    moments: &Moments,
    found: Vec<Either<(PulseResult, Vec<String>), CrowdResult>>,
    overflow_count: u32,
) -> Result<(), Failure> {
    let mut report = Report::default();
    let (mut pulse, mut lost) = (PulseResult::none(), Vec::new());
    let mut crowd = CrowdResult::default();
    for part in found {
        match part {
            Either::Left((part, reasons)) => {
                pulse.add(&part);
                lost.extend(reasons);
            }
            Either::Right(part) => {
                crowd.back_ns.extend(part.back_ns);
                crowd.attempts += part.attempts;
                merge(&mut crowd.refused, &part.refused);
                merge(&mut crowd.failed, &part.failed);
                if let Some(returned) = part.returned {
                    crowd.returned.get_or_insert_default().add(returned);
                }
            }
        }
    }
    describe(args, &mut report);
    comebacks(args, &mut report, &mut crowd, moments);
    let faulty = crowd.returned.as_ref().map(|found| returned(args, &mut report, found));
    survivors(args, &mut report, &pulse, &lost);
    if let (Some(now), Some(then)) = (&moments.after.server, &moments.before.server) {
        let used = now.since(then);
        let shown = format!("{:.2} cores", used.cores());
        report.row("server CPU during the storm", shown, "storm_cores", used.cores());
    }
    report.generator(&moments.after.own.since(&moments.before.own));
    warn_of_overflows(&mut report, overflow_count);
    let missing = args.connections as usize - moments.back.min(args.connections as usize);
    let verdict = match (missing, lost.first(), pulse.unanswered) {
        (0, None, 0) if faulty == Some(true) => {
            Err("clients that resumed did not get what they missed, once and in order".to_owned())
        }
        (0, None, 0) => Ok(()),
        (0, None, count) => Err(format!("{count} messages of survivors got no echo")),
        (0, Some(why), _) => Err(format!("{} survivors were lost: {why}", lost.len())),
        (count, ..) => {
            Err(format!("{count} connections were not back after {} s (--limit)", args.limit))
        }
    };
    report.publish(&args.common, &pulse.latency, verdict.map_err(Failure::Failed))
}

fn describe(args: &StormArgs, report: &mut Report) {
    let drop = match args.drop {
        DropKind::Reset => "reset",
        DropKind::Close => "closed",
    };
    let policy = match args.policy {
        Policy::Fixed => format!("fixed, {} s", args.delay),
        Policy::Resume => {
            format!("resume, after backoff with full jitter, {} s up to {} s", args.base, args.cap)
        }
        Policy::Backoff => {
            format!("backoff with full jitter, {} s up to {} s", args.base, args.cap)
        }
    };
    report.row("connections", args.connections.to_string(), "connections", args.connections);
    report.name("opened", "back");
    report.row("dropped by", drop, "drop", drop);
    report.row("reconnect policy", policy.clone(), "policy", policy);
}

fn comebacks(args: &StormArgs, report: &mut Report, crowd: &mut CrowdResult, moments: &Moments) {
    crowd.back_ns.sort_unstable();
    let total = args.connections as usize;
    report.row("back", format!("{} of {total}", moments.back), "back", moments.back);
    for (name, share) in [("50 %", 0.5), ("99 %", 0.99), ("all", 1.0)] {
        let needed = ((total as f64 * share).ceil() as usize).max(1);
        let key = match name {
            "50 %" => "back_p50_ns",
            "99 %" => "back_p99_ns",
            _ => "back_all_ns",
        };
        let label = format!("time until {name} are back");
        match crowd.back_ns.get(needed - 1) {
            Some(ns) => report.row(&label, duration(*ns), key, *ns),
            None => report.row(&label, "never", key, serde_json::Value::Null),
        }
    }
    let span_s = crowd.back_ns.last().map_or(0.0, |ns| *ns as f64 / 1e9);
    let rate = crowd.back_ns.len() as f64 / span_s.max(1e-9);
    report.row("back per second", format!("{rate:.0}"), "per_second", rate);
    report.name("rate", "per_second");
    report.row("attempts", crowd.attempts.to_string(), "attempts", crowd.attempts);
    for (status, count) in &crowd.refused {
        let key = format!("refused_{status}");
        report.row(&format!("refused with {status}"), count.to_string(), &key, *count);
    }
    let failed: BTreeMap<&String, &u64> = crowd.failed.iter().collect();
    for (index, (reason, count)) in failed.iter().enumerate() {
        let key = format!("failed_{}", index + 1);
        report.row(&format!("failed: {reason}"), count.to_string(), &key, **count);
    }
    let refused: u64 = crowd.refused.values().sum();
    report.extra("refused", refused);
    report.extra("errors", refused + crowd.failed.values().sum::<u64>());
    // A curve of reconnects over time, with at most a hundred points.
    let step = crowd.back_ns.len().div_ceil(100).max(1);
    let last = crowd.back_ns.len();
    let points = (0..last).step_by(step).chain(last.checked_sub(1));
    let series: Vec<serde_json::Value> =
        points.map(|at| serde_json::json!([crowd.back_ns[at] as f64 / 1e6, at + 1])).collect();
    report.extra("back_series", series);
}

/// Adds rows of clients that resumed; returns whether there is a fault.
fn returned(args: &StormArgs, report: &mut Report, found: &Returned) -> bool {
    let expected = u64::from(args.connections) * u64::from(args.missed);
    report.row("channels", args.channels.to_string(), "channels", args.channels);
    report.row("messages missed by all", expected.to_string(), "missed", expected);
    report.row("  that came", found.messages.to_string(), "missed_came", found.messages);
    report.row("  lost", found.lost.to_string(), "missed_lost", found.lost);
    report.row("  doubled", found.doubled.to_string(), "missed_doubled", found.doubled);
    report.name("losses", "missed_lost");
    report.row("recovered", found.recovered.to_string(), "recovered", found.recovered);
    let unrecovered = found.unrecovered;
    report.row("not recovered", unrecovered.to_string(), "unrecovered", unrecovered);
    if let Some(text) = &found.refusal {
        report.warn(format!("the first client that was not recovered received: {text}"));
    }
    found.lost + found.doubled + unrecovered > 0 || found.messages < expected
}

fn survivors(args: &StormArgs, report: &mut Report, pulse: &PulseResult, lost: &[String]) {
    report.row("survivors", args.survivors.to_string(), "survivors", args.survivors);
    // `--expect` uses the latencies during the storm for p50 to max.
    let order = [1, 0, 2];
    for phase in order.into_iter().filter(|phase| *phase < pulse.phases.len()) {
        let label = format!("survivors {} the storm", PHASES[phase]);
        report.latencies(&label, &format!("latency_{}", PHASES[phase]), &pulse.phases[phase]);
    }
    report.latencies("sent late by", "lag", &pulse.lag);
    report.row("unanswered", pulse.unanswered.to_string(), "unanswered", pulse.unanswered);
    report.row("survivors lost", lost.len().to_string(), "survivors_lost", lost.len());
    report.name("losses", "survivors_lost");
}

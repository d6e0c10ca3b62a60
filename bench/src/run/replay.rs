//! `replay` from its arguments to its report.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, nanos, results, wait_for,
    wait_for_all, warn_of_overflows,
};
use crate::cli::ReplayArgs;
use crate::crew::{Failure, Shared, Spread, share};
use crate::recorder::{nanoseconds, sum};
use crate::replay::{Frame, Recording, Replay, ReplayPlan, ReplayResult};
use crate::report::Report;
use crate::sheet::Shape;

const BUFFERS: (u16, usize) = (256, 16 * 1024);

/// `replay`.
pub fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    let common = &args.common;
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?;
    let recording =
        Recording::parse(&text).map_err(|why| Failure::Usage(format!("{shown}: {why}")))?;
    let Some(end_ns) = recording.frames.last().map(|frame| frame.at_ns) else {
        return Err(Failure::Usage(format!("{shown} has no frames")));
    };
    let connections = recording.connections as usize;
    let threads = usize::from(common.threads).min(connections);
    check_capacity(share(connections, 0, threads), "use more --threads")?;
    let workshop = Workshop::new(common, Shape::text(0), false, connections, threads)?;
    let shared = workshop.shared.clone();
    let mut frames: Vec<VecDeque<Frame>> = vec![VecDeque::new(); threads];
    let expected = recording.frames.iter().filter(|frame| frame.expect_reply).count() as u64;
    let count = recording.frames.len() as u64;
    for mut frame in recording.frames {
        let worker = frame.connection as usize % threads;
        frame.connection /= threads as u32;
        frames[worker].push_back(frame);
    }
    let (speed, wait_ns) = (args.speed, nanos(args.wait));
    let parallel = (common.parallel / threads as u32).max(1);
    let make = move |worker: usize| {
        let slots = share(connections, worker, threads) as u32;
        let first_number = (0..worker).map(|w| share(connections, w, threads) as u32).sum();
        let frames = frames[worker].clone();
        let plan = ReplayPlan { worker, frames, slots, parallel, speed, end_ns, wait_ns };
        let fleet = workshop.fleet(workshop.fleet_plan(slots, BUFFERS, first_number))?;
        Ok((fleet, Replay::new(plan, workshop.shared.clone())))
    };
    let measure = || measure(args, &shared, connections);
    let (measured, ran) = conduct(common, &shared, Spread::Even(threads), make, measure)?;
    let (from, until) = measured?;
    let (found, overflow_count) = results(ran, Replay::finish)?;
    let mut report = Report::default();
    report.row("connections", connections.to_string(), "connections", connections);
    report.name("opened", "connections");
    report.row("frames recorded", count.to_string(), "frames", count);
    report.row("replies expected", expected.to_string(), "expected", expected);
    report.row("speed", format!("{speed}"), "speed", speed);
    until.report(&from, &mut report, "frame", None);
    publish(args, report, &found, overflow_count)
}

fn measure(
    args: &ReplayArgs,
    shared: &Shared,
    connections: usize,
) -> Result<(Moment, Moment), Failure> {
    let hint = "does an echo answer at";
    let open = || shared.open.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, connections, hint, open)?;
    let pid = args.common.server_pid;
    shared.set_start(shared.clock.now_ns() + START_DELAY_NS);
    let from = Moment::take(shared, pid)?;
    wait_for(shared, u64::MAX, || shared.finished());
    Ok((from, Moment::take(shared, pid)?))
}

fn publish(
    args: &ReplayArgs,
    mut report: Report,
    found: &[ReplayResult],
    overflow_count: u32,
) -> Result<(), Failure> {
    let latency = sum(found.iter().map(|result| &result.latency));
    let mut lateness = nanoseconds();
    for result in found {
        // The histograms have the same bounds, so adding cannot fail.
        lateness.add(&result.lateness).expect("same bounds");
    }
    let total = |of: fn(&ReplayResult) -> u64| found.iter().map(of).sum::<u64>();
    let (sent, replies, others) = (total(|r| r.sent), total(|r| r.replies), total(|r| r.others));
    let (unanswered, unsent) = (total(|r| r.unanswered), total(|r| r.unsent));
    report.row("sent", sent.to_string(), "sent", sent);
    report.latencies("reply latency", "latency", &latency);
    report.latencies("sent late by", "lag", &lateness);
    report.row("replies", replies.to_string(), "replies", replies);
    report.row("other messages", others.to_string(), "other_messages", others);
    report.row("unanswered", unanswered.to_string(), "unanswered", unanswered);
    report.row("not sent, connection gone", unsent.to_string(), "unsent", unsent);
    report.extra("losses", unanswered + unsent);
    report.extra("errors", unanswered + unsent);
    let lost: Vec<&String> = found.iter().flat_map(|result| &result.lost).collect();
    for why in lost.iter().take(3) {
        report.warn(format!("a connection was lost: {why}"));
    }
    warn_of_overflows(&mut report, overflow_count);
    let verdict = match (unanswered, unsent) {
        (0, 0) => Ok(()),
        (missing, 0) => Err(format!("{missing} frames got no reply")),
        (_, unsent) => Err(format!("{unsent} frames were not sent; their connections were lost")),
    };
    report.publish(&args.common, &latency, verdict.map_err(Failure::Failed))
}

//! `fanout` from its arguments to its report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::scope;
use std::time::Duration;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, nanos, results, sleep_until,
    wait_for, wait_for_all, warn_of_overflows,
};
use crate::bystanders::Times;
use crate::cli::FanoutArgs;
use crate::crew::{Failure, Shared, Spread, share};
use crate::fanout::api::{self, Api};
use crate::fanout::dialect::paths;
use crate::fanout::{
    Board, Dialect, FanoutPlan, Pace, Press, Pressed, Publishers, Share, Subscribed, Subscribers,
};
use crate::fleet::Either;
use crate::recorder::{nanoseconds, sum};
use crate::report::Report;
use crate::sheet::Shape;
use crate::sys::ring_capacity;
use crate::upgrade::Upgrade;

/// Connections of one ring; below the usual limits of open files.
const RING_CONNECTIONS: usize = 16_000;
const SUBSCRIBER_BUFFERS: (u16, usize) = (512, 8 * 1024);
const PUBLISHER_BUFFERS: (u16, usize) = (256, 4096);
/// Publishers over HTTP: each is a thread.
const API_PUBLISHERS_MAX: u32 = 64;
/// Time without a delivery after the last publish, after which missing messages count as lost.
const DRAIN_NS: u64 = 5_000_000_000;
/// Limit for acknowledgements after that.
const ACK_NS: u64 = 200_000_000;

type Role = Either<Publishers, Subscribers>;

/// `fanout`.
pub fn fanout(args: &FanoutArgs) -> Result<(), Failure> {
    let plan = plan(args)?;
    let common = &args.common;
    let subscribers = plan.subscribers as usize;
    let wires = usize::from(!plan.http);
    let rings = subscribers.div_ceil(RING_CONNECTIONS.min(ring_capacity()));
    let rings = rings.max(usize::from(common.threads)).min(subscribers);
    check_capacity(plan.publishers as usize * wires, "use fewer --publishers")?;
    let total = subscribers + plan.publishers as usize * wires;
    let workshop = Workshop::new(common, Shape::text(0), false, total, rings + wires)?;
    let shared = workshop.shared.clone();
    let (times, board) = (Arc::new(Times::default()), Arc::new(Board::default()));
    let to = |path: &str| {
        let paths = paths(path, plan.channels);
        let (authority, protocol) = (&common.url.authority, plan.dialect.protocol());
        Upgrade::with_extras(authority, &paths, None, protocol, &workshop.extras)
    };
    let publishing = args.publish_path.as_deref().unwrap_or(&common.url.path);
    let (publishing, subscribing) =
        (workshop.with_messages(to(publishing)), workshop.with_messages(to(&common.url.path)));
    let (parallel, spin) = (common.parallel, args.spin);
    let (worker_times, worker_board) = (Arc::clone(&times), Arc::clone(&board));
    let make = move |worker: usize| {
        let (shared, times) = (workshop.shared.clone(), Arc::clone(&worker_times));
        let Some(ring) = worker.checked_sub(wires) else {
            let mut fleet_plan = publishing.fleet_plan(plan.publishers, PUBLISHER_BUFFERS, 0);
            fleet_plan.spin = spin;
            let board = Arc::clone(&worker_board);
            let press = Press::new(plan, (0, plan.publishers), (0, 1), board, Arc::clone(&shared));
            let load = Publishers::new(press, shared, times, parallel);
            return Ok((publishing.fleet(fleet_plan)?, Either::Left(load)));
        };
        let slots = share(subscribers, ring, rings) as u32;
        let first = (0..ring).map(|r| share(subscribers, r, rings) as u32).sum();
        let parallel = (parallel / rings as u32).max(1);
        let own = Share { worker, first, slots, parallel };
        let load = Subscribers::new(plan, own, shared, times);
        let mut fleet_plan = subscribing.fleet_plan(slots, SUBSCRIBER_BUFFERS, first);
        fleet_plan.spin = spin;
        Ok((subscribing.fleet(fleet_plan)?, Either::Right(load)))
    };
    // Publishers have no thread of their own: it would wait for that of the subscribers.
    let threads = usize::from(common.threads);
    let measure = || {
        let measured = measure(args, &plan, &shared, &times, &board);
        Times::set(&times.close_ns, shared.clock.now_ns());
        measured
    };
    let (measured, ran) = conduct(common, &shared, Spread::Even(threads), make, measure)?;
    let (found, overflow_count) = results(ran, |role: Role| match role {
        Either::Left(load) => load.finish().map(Either::Left),
        Either::Right(load) => load.finish().map(Either::Right),
    })?;
    publish(args, &plan, measured?, found, overflow_count)
}

fn plan(args: &FanoutArgs) -> Result<FanoutPlan, Failure> {
    let http = args.api.is_some();
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    if args.dialect.is_bound() && !http && args.publishers < args.channels {
        return usage(
            "a publisher has only the channel of its path; use more --publishers or --api",
        );
    }
    if args.dialect == Dialect::Plain && (http || (args.rate.is_none() && args.window == 0)) {
        return usage(
            "a plain broadcast has no acknowledgements; use --rate or --window, without --api",
        );
    }
    if args.dialect.is_bound() && args.channels > 1 {
        let path = args.common.url.path.contains("{channel}");
        if !path {
            return usage("several channels need {channel} in the path of the URL");
        }
    }
    if http && args.publishers > API_PUBLISHERS_MAX {
        return usage("each publisher over HTTP is a thread; use at most 64 --publishers");
    }
    Ok(FanoutPlan {
        dialect: args.dialect,
        publishers: args.publishers,
        subscribers: args.subscribers,
        channels: args.channels,
        pace: args.rate.map_or(Pace::Closed { depth: args.depth, window: args.window }, |rate| {
            Pace::Open { rate }
        }),
        size: args.size,
        batch: args.batch,
        warmup_ns: nanos(args.warmup),
        duration_ns: nanos(args.duration),
        http,
        own_channel: args.own_channel,
    })
}

/// Measurements of the measuring thread.
struct Measured {
    from: Moment,
    until: Moment,
    /// Messages published in between.
    published: u64,
    /// What publishers over HTTP did.
    pressed: Vec<Pressed>,
}

fn measure(
    args: &FanoutArgs,
    plan: &FanoutPlan,
    shared: &Arc<Shared>,
    times: &Times,
    board: &Arc<Board>,
) -> Result<Measured, Failure> {
    let Some(url) = &args.api else {
        return watch(args, plan, shared, times, board);
    };
    let timeout = Duration::from_secs_f64(args.common.timeout);
    let api = Api::new(url, plan.dialect, plan.channels, args.api_key.clone(), timeout);
    scope(|scope| {
        let start = |publisher: u32| {
            let share = (publisher as usize, plan.publishers as usize);
            let board = Arc::clone(board);
            let press = Press::new(*plan, (publisher, 1), share, board, Arc::clone(shared));
            let api = &api;
            scope.spawn(move || {
                let outcome = api::publish(press, api, shared, times);
                if outcome.is_err() {
                    shared.stop();
                }
                outcome
            })
        };
        let threads: Vec<_> = (0..plan.publishers).map(start).collect();
        let measured = watch(args, plan, shared, times, board);
        if measured.is_err() {
            shared.stop();
        }
        let panicked = |_| Failure::Failed("a publisher panicked (see above)".to_owned());
        let mut pressed = Vec::new();
        for thread in threads {
            pressed.push(thread.join().map_err(panicked)??);
        }
        measured.map(|measured| Measured { pressed, ..measured })
    })
}

/// Starts the load when all connections are open, samples both ends of the measured time, and waits
/// until all messages are delivered or no more arrive.
fn watch(
    args: &FanoutArgs,
    plan: &FanoutPlan,
    shared: &Shared,
    times: &Times,
    board: &Board,
) -> Result<Measured, Failure> {
    let publishers = if plan.http { 0 } else { plan.publishers };
    let total = (plan.subscribers + publishers) as usize;
    let hint = "does a hub of this --dialect answer at";
    let ready = || times.ready.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, total, hint, ready)?;
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    Times::set(&times.start_ns, start_ns);
    let from_ns = start_ns + plan.warmup_ns;
    sleep_until(shared, from_ns);
    let (from, before) = (Moment::take(shared, args.common.server_pid)?, board.published());
    sleep_until(shared, from_ns + plan.duration_ns);
    let (until, after) = (Moment::take(shared, args.common.server_pid)?, board.published());
    // Messages in flight keep arriving, at any speed.
    loop {
        let done = shared.done_sum();
        let moved = || shared.done_sum() >= board.expected() || shared.done_sum() > done;
        if !wait_for(shared, DRAIN_NS, moved) || shared.done_sum() >= board.expected() {
            break;
        }
    }
    sleep_until(shared, shared.clock.now_ns() + ACK_NS);
    Ok(Measured { from, until, published: after - before, pressed: Vec::new() })
}

/// Messages that were not delivered once and in order.
#[derive(Default)]
struct Faults {
    lost: u64,
    late: u64,
    gaps: u64,
}

fn faults(plan: &FanoutPlan, sent: &[u64], found: &[Subscribed]) -> Faults {
    let mut faults = Faults::default();
    for part in found {
        let (mut skipped, streams) = (part.skipped, plan.streams());
        for (at, next) in part.next.iter().enumerate() {
            let channel = (part.first + (at / streams) as u32) % plan.channels;
            let Some(publisher) = plan.publisher_of(channel, at % streams) else { continue };
            let sent = plan.sent_to(channel, publisher, sent[publisher as usize]);
            skipped += sent.saturating_sub(u64::from(*next));
        }
        // A skipped message that arrived late is not lost.
        faults.lost += skipped.saturating_sub(part.late);
        faults.late += part.late;
        faults.gaps += part.gaps;
    }
    faults
}

fn publish(
    args: &FanoutArgs,
    plan: &FanoutPlan,
    measured: Measured,
    found: Vec<Either<Pressed, Subscribed>>,
    overflow_count: u32,
) -> Result<(), Failure> {
    let (mut pressed, mut subscribed) = (measured.pressed, Vec::new());
    for part in found {
        match part {
            Either::Left(part) => pressed.push(part),
            Either::Right(part) => subscribed.push(part),
        }
    }
    let mut sent = vec![0; plan.publishers as usize];
    let (mut unacknowledged, mut refused, mut refusal) = (0, 0, None);
    let mut lag = nanoseconds();
    for part in pressed {
        sent[part.first as usize..][..part.sent.len()].copy_from_slice(&part.sent);
        unacknowledged += part.unacknowledged;
        refused += part.refused;
        refusal = refusal.or(part.refusal);
        // The histograms have the same bounds, so adding cannot fail.
        lag.add(&part.lag).expect("same bounds");
    }
    let faults = faults(plan, &sent, &subscribed);
    let latency = sum(subscribed.iter().map(|part| &part.latency));
    let mut report = Report::default();
    describe(args, plan, &mut report);
    let unit = "delivered message";
    let bytes = Some(f64::from(args.size));
    report.spinning(args.spin);
    measured.until.report(&measured.from, &mut report, unit, bytes);
    let seconds = (measured.until.wall_ns - measured.from.wall_ns).max(1) as f64 / 1e9;
    let rate = measured.published as f64 / seconds;
    report.row("published", measured.published.to_string(), "published", measured.published);
    report.row("published per second", format!("{rate:.0}"), "published_per_second", rate);
    report.latencies("publish to delivery", "latency", &latency);
    if args.rate.is_some() {
        report.latencies("sent late by", "lag", &lag);
    }
    report.row("deliveries lost", faults.lost.to_string(), "losses", faults.lost);
    report.row("doubled or out of order", faults.late.to_string(), "disordered", faults.late);
    report.row("gaps reported by the server", faults.gaps.to_string(), "gaps", faults.gaps);
    report.row("publishes refused", refused.to_string(), "refused", refused);
    if plan.dialect.acknowledges() {
        let shown = unacknowledged.to_string();
        report.row("not acknowledged", shown, "unacknowledged", unacknowledged);
    }
    report.extra("errors", faults.lost + faults.late + refused + unacknowledged);
    warn_of_overflows(&mut report, overflow_count);
    let verdict = match (refusal, unacknowledged, faults.lost + faults.late) {
        (Some(text), ..) => Err(format!("{refused} publishes were refused: {text}")),
        (None, 1.., _) => Err(format!("{unacknowledged} publishes were not acknowledged")),
        (None, 0, 1..) if !args.allow_losses => Err(format!(
            "{} deliveries were lost, {} doubled or out of order (--allow-losses tolerates this)",
            faults.lost, faults.late
        )),
        _ => Ok(()),
    };
    report.publish(&args.common, &latency, verdict.map_err(Failure::Failed))
}

fn describe(args: &FanoutArgs, plan: &FanoutPlan, report: &mut Report) {
    let over = if plan.http { "HTTP" } else { "WebSockets" };
    let (publishers, subscribers) = (plan.publishers, plan.subscribers);
    report.row("publishers", format!("{publishers}, over {over}"), "publishers", publishers);
    report.row("subscribers", subscribers.to_string(), "connections", subscribers);
    report.name("opened", "connections");
    report.row("channels", plan.channels.to_string(), "channels", plan.channels);
    report.row("content", format!("{} bytes", args.size), "size_bytes", args.size);
    report.row("batch", args.batch.to_string(), "batch", args.batch);
    let shown = match (plan.pace, args.window) {
        (Pace::Open { rate }, _) => format!("open, {rate} messages/s"),
        (_, 0) => format!("closed, {} in flight per publisher", args.depth),
        (_, window) => format!("closed, at most {window} messages on their way"),
    };
    report.row("loop", shown, "rate", args.rate);
    report.extra("window", args.window);
}

//! `hostile` from its arguments to its report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{
    Moment, START_DELAY_NS, Workshop, check_capacity, conduct, merge, nanos, results, sleep_until,
    stopped, wait_for_all, warn_of_overflows,
};
use crate::bystanders::{Bystanders, Times};
use crate::cli::HostileArgs;
use crate::client::Traffic;
use crate::cpu::Memory;
use crate::crew::{Failure, Shared, Spread, share};
use crate::fanout::Dialect;
use crate::fleet::{Either, FleetPlan};
use crate::hostile::{Hostile, HostilePlan, HostileResult, Kind, Progress, Route, Supply};
use crate::pulse::PulseResult;
use crate::recorder::nanoseconds;
use crate::report::{Report, duration};
use crate::sheet::Shape;
use crate::target::{CONNECTIONS_PER_SOURCE, SOURCES_OF_CHURN, SocketHabits};
use crate::upgrade::Upgrade;

/// How often the server's memory is sampled.
const SAMPLE: Duration = Duration::from_millis(20);
const BYSTANDER_BUFFERS: (u16, usize) = (256, 4096);
/// Small, because the kernel fills them in one go, which delays the measured connections.
const GREEDY_BUFFERS: (u16, usize) = (16, 16 * 1024);
/// A reader that stops has an effect only once the kernel's buffers are full.
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;
/// Limits for the set-up of greedy clients, and for sending a limited number of batches.
const SETUP_NS: u64 = 10_000_000_000;
const BATCHES_NS: u64 = 60_000_000_000;
/// Phases of the echoes: warm-up, alone, greedy clients being set up, beside them, after.
const ALONE: usize = 1;
const BESIDE: usize = 3;
/// A token whose signature is forged: HS256, no subject.
const FORGED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDB9.\
                      Zm9yZ2VkZm9yZ2VkZm9yZ2VkZm9yZ2VkZm9yZ2VkZm8";

type Role = Either<Bystanders, Hostile>;
type Found = Either<(PulseResult, Vec<String>), (Kind, HostileResult)>;

/// `hostile`.
pub fn hostile(args: &HostileArgs) -> Result<(), Failure> {
    let common = &args.common;
    let groups = groups(args);
    let greedy: u32 = groups.iter().map(|(_, count)| count).sum();
    check_capacity(args.connections.max(greedy) as usize, "use fewer --connections")?;
    let supplies = groups
        .iter()
        .map(|(kind, _)| Supply::new(*kind, args.large_bytes as usize))
        .collect::<std::io::Result<Vec<_>>>()?;
    // Handshakes need ports, which closed connections occupy for a minute.
    let sources = SOURCES_OF_CHURN as usize * CONNECTIONS_PER_SOURCE;
    let workers = 1 + groups.len();
    let workshop = Workshop::new(common, Shape::text(args.size), false, sources, workers)?;
    let shared = workshop.shared.clone();
    let (times, progress) = (Arc::new(Times::default()), Arc::new(Progress::default()));
    let make = maker(args, workshop, groups, supplies, (&times, &progress));
    let measure = || {
        let measured = measure(args, greedy as usize, &shared, (&times, &progress));
        Times::set(&times.close_ns, shared.clock.now_ns());
        measured
    };
    let spread = Spread::FirstAlone(usize::from(common.threads));
    let (measured, ran) = conduct(common, &shared, spread, make, measure)?;
    let mut traffic = Traffic::default();
    // The first worker's connections are the well-behaved ones.
    ran.iter().skip(1).for_each(|ran| traffic.add(&ran.traffic));
    let (found, overflow_count) = results(ran, |role: Role| match role {
        Either::Left(load) => load.finish().map(Either::Left),
        Either::Right(load) => {
            let kind = load.kind();
            load.finish().map(|result| Either::Right((kind, result)))
        }
    })?;
    publish(args, greedy, &measured?, found, (traffic, overflow_count))
}

/// The kinds of a run, each with its number of clients.
fn groups(args: &HostileArgs) -> Vec<(Kind, u32)> {
    let greedy = args.greedy.unwrap_or((args.connections / 10).max(1));
    if args.kind != Kind::Mix {
        return vec![(args.kind, greedy)];
    }
    // Leave out the handshakes with tokens if no valid token is given: a server without keys needs
    // none.
    let kinds: Vec<Kind> = Kind::SINGLE
        .into_iter()
        .filter(|kind| *kind != Kind::Tokens || !args.common.request.tokens.is_empty())
        .collect();
    let count = |at| share(greedy as usize, at, kinds.len()) as u32;
    let counted = kinds.iter().enumerate().map(|(at, kind)| (*kind, count(at)));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Makes the workers, each on the thread that runs it.
fn maker(
    args: &HostileArgs,
    workshop: Workshop,
    groups: Vec<(Kind, u32)>,
    supplies: Vec<Supply>,
    (times, progress): (&Arc<Times>, &Arc<Progress>),
) -> impl Fn(usize) -> std::io::Result<(crate::fleet::Fleet, Role)> + Send + Sync + 'static {
    let (times, progress) = (Arc::clone(times), Arc::clone(progress));
    let (connections, rate, parallel) = (args.connections, args.rate, args.common.parallel);
    let (batches_max, settle_ns) = (args.batches, nanos(args.settle));
    let upgrades: Vec<Upgrade> = groups.iter().map(|(kind, _)| upgrade(args, *kind)).collect();
    // Each is taken once, by its worker.
    let parts = upgrades.into_iter().zip(supplies).map(Some).collect::<Vec<_>>();
    let parts = std::sync::Mutex::new(parts);
    move |worker: usize| {
        let (shared, times) = (workshop.shared.clone(), Arc::clone(&times));
        let Some(group) = worker.checked_sub(1) else {
            let plan = workshop.fleet_plan(connections, BYSTANDER_BUFFERS, 0);
            let load = Bystanders::new(shared, times, connections, rate, parallel);
            return Ok((workshop.fleet(plan)?, Either::Left(load)));
        };
        let (kind, greedy) = groups[group];
        let part = parts.lock().ok().and_then(|mut parts| parts[group].take());
        let (upgrade, supply) = part.ok_or_else(|| std::io::Error::other("made twice"))?;
        let plan = HostilePlan { kind, greedy, batches_max, settle_ns };
        let workshop = workshop.with_counts(upgrade);
        let first_number = connections + group as u32 * 1_000;
        let receive_buffer_bytes =
            (0..greedy).any(|slot| kind.is_unread(slot)).then_some(RECEIVE_BUFFER_BYTES);
        let fleet_plan = FleetPlan {
            habits: SocketHabits { abortive: true, receive_buffer_bytes },
            ..workshop.fleet_plan(plan.slots(), GREEDY_BUFFERS, first_number)
        };
        let load = Hostile::new(plan, supply, shared, times, Arc::clone(&progress));
        Ok((workshop.fleet(fleet_plan)?, Either::Right(load)))
    }
}

/// The requests of a kind.
fn upgrade(args: &HostileArgs, kind: Kind) -> Upgrade {
    let url = &args.common.url;
    let (path, protocol) = match kind.route() {
        Route::Echo => (&url.path, None),
        Route::Takeover => (&args.takeover_path, None),
        Route::Hub => (&args.hub_path, Dialect::Seawall.protocol()),
    };
    let mut paths = vec![path.clone()];
    if kind == Kind::Tokens {
        let tokens =
            std::iter::once(FORGED).chain(args.common.request.tokens.iter().map(String::as_str));
        paths = tokens.map(|token| format!("{path}?token={token}")).collect();
    }
    Upgrade::to_paths(&url.authority, &paths, kind.offer(), protocol)
}

/// Measurements of the measuring thread.
struct Measured {
    alone: (Moment, Moment),
    beside: (Moment, Moment),
    /// Greedy clients that were set up when the measured time beside them began.
    ready: usize,
    /// Memory before the greedy clients, and the maximum since.
    memory: Option<(Memory, Memory)>,
    /// Whether the server's memory exceeded its limit.
    is_stopped: bool,
}

fn measure(
    args: &HostileArgs,
    greedy: usize,
    shared: &Shared,
    (times, progress): (&Times, &Progress),
) -> Result<Measured, Failure> {
    let pid = args.common.server_pid;
    let all = args.connections as usize;
    let hint = "does an echo answer at";
    let ready = || times.ready.load(Ordering::Acquire);
    wait_for_all(shared, &args.common, all, hint, ready)?;
    let start_ns = shared.clock.now_ns() + START_DELAY_NS;
    let warm_ns = start_ns + nanos(args.warmup);
    Times::set(&times.start_ns, start_ns);
    Times::set(&times.warm_ns, warm_ns);
    sleep_until(shared, warm_ns);
    let alone_from = Moment::take(shared, pid)?;
    sleep_until(shared, warm_ns + nanos(args.duration));
    let alone = (alone_from, Moment::take(shared, pid)?);
    let first = pid.map(Memory::take).transpose()?;
    let mut watch = Watch { shared, pid, most: first, bytes_max: args.memory_max };
    Times::set(&times.trouble_ns, shared.clock.now_ns());
    let ready = || progress.ready.load(Ordering::Acquire);
    let setup_ns = shared.clock.now_ns() + SETUP_NS;
    let mut suffices = watch.until(setup_ns, || ready() >= greedy)?;
    Times::set(&times.full_ns, shared.clock.now_ns());
    let from = Moment::take(shared, pid)?;
    if suffices {
        let until_ns = shared.clock.now_ns() + nanos(args.duration);
        suffices = watch.until(until_ns, || false)?;
    }
    if suffices && args.batches > 0 {
        let until_ns = shared.clock.now_ns() + BATCHES_NS;
        let done = || progress.done.load(Ordering::Acquire) >= greedy;
        suffices = watch.until(until_ns, done)?;
    }
    let beside = (from, Moment::take(shared, pid)?);
    let calm_ns = shared.clock.now_ns();
    Times::set(&times.stop_ns, calm_ns);
    Times::set(&times.calm_ns, calm_ns);
    if shared.stopped() {
        return Err(stopped());
    }
    let memory = first.zip(watch.most);
    Ok(Measured { alone, beside, ready: ready(), memory, is_stopped: !suffices })
}

/// Samples the server's memory while it waits.
struct Watch<'a> {
    shared: &'a Shared,
    pid: Option<u32>,
    most: Option<Memory>,
    bytes_max: u64,
}

impl Watch<'_> {
    /// Waits until a time, or until a condition holds; returns false if memory exceeded its limit.
    fn until(&mut self, until_ns: u64, holds: impl Fn() -> bool) -> Result<bool, Failure> {
        while self.shared.clock.now_ns() < until_ns && !self.shared.stopped() && !holds() {
            if let Some(pid) = self.pid {
                let now = Memory::take(pid)?;
                let most = self.most.get_or_insert(now);
                most.rss = most.rss.max(now.rss);
                most.anon = most.anon.max(now.anon);
                if now.rss > self.bytes_max {
                    return Ok(false);
                }
            }
            let left_ns = until_ns.saturating_sub(self.shared.clock.now_ns());
            std::thread::sleep(SAMPLE.min(Duration::from_nanos(left_ns)));
        }
        Ok(true)
    }
}

fn publish(
    args: &HostileArgs,
    greedy: u32,
    measured: &Measured,
    found: Vec<Found>,
    (traffic, overflow_count): (Traffic, u32),
) -> Result<(), Failure> {
    let mut report = Report::default();
    let (mut pulse, mut lost) = (PulseResult::none(), Vec::new());
    let mut kinds = Vec::new();
    for part in found {
        match part {
            Either::Left((part, reasons)) => {
                pulse.add(&part);
                lost.extend(reasons);
            }
            Either::Right(part) => kinds.push(part),
        }
    }
    let phase = |at: usize| pulse.phases.get(at).cloned().unwrap_or_else(nanoseconds);
    let (alone, beside) = (phase(ALONE), phase(BESIDE));
    report.row("kind", args.kind.name(), "kind", args.kind.name());
    report.row("connections", args.connections.to_string(), "connections", args.connections);
    report.name("opened", "connections");
    let ready = measured.ready;
    report.row("greedy clients", greedy.to_string(), "greedy", greedy);
    report.row("greedy clients set up", ready.to_string(), "greedy_ready", ready);
    latencies(args, &mut report, &alone, &beside);
    report.latencies("sent late by", "lag", &pulse.lag);
    let lag_ns = pulse.lag.value_at_quantile(0.99);
    if lag_ns as f64 > args.bound_ms * 1e6 / 2.0 {
        let text = "echoes were sent late by {} (p99): the latencies are partly the generator's";
        report.warn(text.replace("{}", &duration(lag_ns)));
    }
    report.row("unanswered", pulse.unanswered.to_string(), "unanswered", pulse.unanswered);
    report.row("others lost", lost.len().to_string(), "others_lost", lost.len());
    report.name("losses", "others_lost");
    report.name("errors", "unanswered");
    costs(&mut report, measured);
    report_greedy(&mut report, &kinds, &traffic);
    warn_of_overflows(&mut report, overflow_count);
    if ready < greedy as usize {
        let text = format!("{ready} of {greedy} greedy clients were set up in time");
        report.warn(text);
    }
    let verdict = verdict(args, measured, &lost, pulse.unanswered);
    report.publish(&args.common, &beside, verdict)
}

fn verdict(
    args: &HostileArgs,
    measured: &Measured,
    lost: &[String],
    unanswered: u64,
) -> Result<(), Failure> {
    if measured.is_stopped {
        let most = args.memory_max;
        let text = format!("the server's memory passed {most} bytes (--memory-max)");
        return Err(Failure::Unmet(text));
    }
    match (lost.first(), unanswered) {
        (None, 0) => Ok(()),
        (Some(why), _) => {
            Err(Failure::Failed(format!("{} of the others were lost: {why}", lost.len())))
        }
        (None, count) => {
            Err(Failure::Failed(format!("{count} messages of the others got no echo")))
        }
    }
}

fn latencies(
    args: &HostileArgs,
    report: &mut Report,
    alone: &Histogram<u64>,
    beside: &Histogram<u64>,
) {
    report.latencies("beside greedy clients", "beside", beside);
    report.latencies("alone", "alone", alone);
    let (before, after) = (alone.value_at_quantile(0.99), beside.value_at_quantile(0.99));
    let ratio = after as f64 / before.max(1) as f64;
    report.row("p99 beside / alone", format!("{ratio:.1}"), "p99_ratio", ratio);
    report.name("ratio", "p99_ratio");
    let bound = (before as f64 * args.bound_times).max(args.bound_ms * 1e6);
    report.row("bound of p99", duration(bound as u64), "bound_ns", bound as u64);
    let of_bound = after as f64 / bound;
    let shown = format!("{:.0} %", of_bound * 100.0);
    report.row("p99 beside, of its bound", shown, "bound_share", of_bound);
    report.name("bound", "bound_share");
}

fn costs(report: &mut Report, measured: &Measured) {
    for (label, key, (from, until)) in [
        ("server CPU alone", "server_cores_alone", &measured.alone),
        ("server CPU beside", "server_cores_beside", &measured.beside),
    ] {
        if let (Some(now), Some(then)) = (&until.server, &from.server) {
            let cores = now.since(then).cores();
            report.row(label, format!("{cores:.2} cores"), key, cores);
        }
    }
    if let Some((first, most)) = measured.memory {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        report.row("server memory before", mib(first.rss), "rss_before_bytes", first.rss);
        report.row("server memory at most", mib(most.rss), "rss_peak_bytes", most.rss);
        report.extra("anon_peak_bytes", most.anon);
    }
    // Greedy clients keep their thread busy on purpose: the lag shows whether that matters.
    report.spinning(true);
    report.generator(&measured.beside.1.own.since(&measured.beside.0.own));
}

/// Rows about the work of greedy clients, and how the server closed them.
fn report_greedy(report: &mut Report, kinds: &[(Kind, HostileResult)], traffic: &Traffic) {
    let sum = |of: fn(&HostileResult) -> u64| kinds.iter().map(|(_, result)| of(result)).sum();
    let counts: [(&str, &str, u64); 8] = [
        ("greedy: connections", "greedy_opened", sum(|result| result.opened)),
        ("greedy: batches or handshakes", "greedy_batches", sum(|result| result.batches)),
        ("greedy: messages received", "greedy_messages", sum(|result| result.messages)),
        ("greedy: pongs received", "greedy_pongs", sum(|result| result.pongs)),
        ("greedy: bytes sent", "greedy_sent_bytes", traffic.written_bytes),
        ("greedy: bytes received", "greedy_received_bytes", traffic.read_bytes),
        ("greedy: open at the end", "greedy_open", sum(|result| result.still_open)),
        ("helpers lost", "helpers_lost", sum(|result| result.helpers_lost)),
    ];
    for (label, key, count) in counts {
        report.row(label, count.to_string(), key, count);
    }
    let (mut ended, mut rejected) = (BTreeMap::new(), BTreeMap::new());
    for (_, result) in kinds {
        merge(&mut ended, &result.ended);
        merge(&mut rejected, &result.rejected);
    }
    let all: u64 = ended.values().sum();
    report.row("greedy: ended by the server", all.to_string(), "greedy_ended", all);
    let mut ways: BTreeMap<String, (String, u64)> = BTreeMap::new();
    for (how, count) in &ended {
        let key = format!("greedy_{}", how.replace(|c: char| !c.is_alphanumeric(), "_"));
        ways.entry(key).or_insert_with(|| (how.clone(), 0)).1 += count;
    }
    for (key, (how, count)) in ways {
        report.row(&format!("  {how}"), count.to_string(), &key, count);
    }
    let all: u64 = rejected.values().sum();
    report.row("greedy: upgrades rejected", all.to_string(), "greedy_rejected", all);
    for (status, count) in &rejected {
        let key = format!("greedy_rejected_{status}");
        report.row(&format!("  with {status}"), count.to_string(), &key, *count);
    }
    let batches: serde_json::Map<String, serde_json::Value> =
        kinds.iter().map(|(kind, result)| (kind.name(), result.batches.into())).collect();
    report.extra("greedy_batches_by_kind", batches);
    report.extra("greedy_ended_by", serde_json::json!(ended));
}

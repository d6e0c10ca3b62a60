//! `hold` from its arguments to its report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{nanos, sleep_until, sources, terms};
use crate::cli::HoldArgs;
use crate::cpu::{CpuSample, Memory, Slab};
use crate::crew::{Crew, Failure, Shared, share};
use crate::fleet::{Fleet, FleetPlan};
use crate::hold::{Goal, HoldLoad};
use crate::report::{Report, duration};
use crate::sheet::Shape;
use crate::sys::ring_capacity;
use crate::target::Target;

/// Connections of one ring; below the usual limits of open files.
const RING_CONNECTIONS: usize = 16_000;
/// Pings and closes are small.
const BUFFERS: (u16, usize) = (256, 1024);
/// How long the answers to the last question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Caches of the kernel shown by name.
const CACHES_SHOWN: usize = 6;

/// Memory with a number of connections open.
struct Step {
    connections: usize,
    memory: Option<Memory>,
    slab: Option<Slab>,
}

/// What the measuring thread found.
struct Held {
    steps: Vec<Step>,
    ramp: Duration,
    /// Server CPU of opening all connections, without their closing.
    open_cpu_ns: Option<u64>,
    idle_cores: Option<f64>,
    alive: usize,
}

/// `hold`.
pub fn hold(args: &HoldArgs) -> Result<(), Failure> {
    let common = &args.common;
    let steps = steps(args)?;
    let connections = steps[steps.len() - 1];
    let capacity = RING_CONNECTIONS.min(ring_capacity());
    let threads = usize::from(common.threads).max(connections.div_ceil(capacity));
    let shape = Shape { size: 0, text: true, raw: false, depth: 1 };
    let terms = terms(common, shape, false);
    let target = Target::new(common.url.clone(), sources(connections), common.congestion())?;
    let target = Arc::new(target);
    let shared = Shared::new(threads);
    let goal = Arc::new(Goal::default());
    let parallel = (common.parallel / threads as u32).max(1);
    let timeout = Duration::from_secs_f64(common.timeout);
    let (worker_shared, worker_goal) = (Arc::clone(&shared), Arc::clone(&goal));
    let crew = Crew::start(&shared, threads, move |thread| {
        let slots = share(connections, thread, threads) as u32;
        let fleet_plan = FleetPlan {
            slots,
            buffer_count: BUFFERS.0,
            buffer_size: BUFFERS.1,
            timeout,
            quiet_sends: false,
            first_number: (0..thread).map(|t| share(connections, t, threads) as u32).sum(),
        };
        let (target, terms) = (Arc::clone(&target), Arc::clone(&terms));
        let mut fleet = Fleet::new(fleet_plan, target, terms, worker_shared.clock)?;
        let (shared, goal) = (Arc::clone(&worker_shared), Arc::clone(&worker_goal));
        let mut load = HoldLoad::new(shared, goal, thread, threads, parallel, slots);
        fleet.run(&mut load)?;
        load.finish()
    })?;
    let held = measure(args, &steps, &shared, &goal);
    goal.closing.store(true, Ordering::Release);
    if held.is_err() {
        shared.stop();
    }
    crew.join()?;
    let held = held?;
    publish(args, &held, connections)
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
        Err(Failure::Failed("--steps must rise from above 0".to_owned()))
    }
}

fn measure(
    args: &HoldArgs,
    steps: &[usize],
    shared: &Shared,
    goal: &Goal,
) -> Result<Held, Failure> {
    let pid = args.common.server_pid;
    let sample = |connections: usize| -> Result<Step, Failure> {
        let memory = pid.map(Memory::take).transpose()?;
        Ok(Step { connections, memory, slab: Slab::take() })
    };
    let mut found = vec![sample(0)?];
    let closed = pid.map(CpuSample::take).transpose()?;
    let mut ramp = Duration::ZERO;
    for step in steps {
        let begin = Instant::now();
        goal.connections.store(*step, Ordering::Release);
        while shared.open.load(Ordering::Acquire) < *step && !shared.stopped() {
            std::thread::sleep(Duration::from_millis(5));
        }
        ramp += begin.elapsed();
        sleep_until(shared, shared.clock.now_ns() + nanos(args.settle));
        found.push(sample(*step)?);
    }
    let before = pid.map(CpuSample::take).transpose()?;
    sleep_until(shared, shared.clock.now_ns() + nanos(args.hold));
    let after = pid.map(CpuSample::take).transpose()?;
    let open_cpu_ns = before.as_ref().zip(closed).map(|(now, then)| now.since(&then).cpu_ns);
    let idle_cores = after.zip(before).map(|(after, before)| after.since(&before).cores());
    goal.asking.store(true, Ordering::Release);
    let asked = Instant::now();
    let total = steps[steps.len() - 1];
    while goal.alive.load(Ordering::Acquire) < total
        && asked.elapsed() < ANSWER_LIMIT
        && !shared.stopped()
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let alive = goal.alive.load(Ordering::Acquire);
    Ok(Held { steps: found, ramp, open_cpu_ns, idle_cores, alive })
}

fn publish(args: &HoldArgs, held: &Held, connections: usize) -> Result<(), Failure> {
    let mut report = Report::default();
    report.row("connections", connections.to_string(), "connections", connections);
    let ramp_ns = held.ramp.as_nanos() as u64;
    report.row("ramp", duration(ramp_ns), "ramp_ns", ramp_ns);
    if let Some(cpu_ns) = held.open_cpu_ns {
        let each = cpu_ns as f64 / connections as f64;
        let shown = format!("{each:.0} ns");
        report.row("server CPU per connection opened", shown, "open_cpu_ns_each", each);
    }
    report.row("held", format!("{} s", args.hold), "hold_s", args.hold);
    if let Some(cores) = held.idle_cores {
        report.row("server CPU while idle", format!("{cores:.3} cores"), "idle_cores", cores);
    }
    memory(&mut report, &held.steps);
    slab(&mut report, &held.steps);
    let alive = held.alive;
    report.row("alive at the end", format!("{alive} of {connections}"), "alive", alive);
    report.publish(args.common.json.as_deref())?;
    if alive == connections {
        return Ok(());
    }
    Err(Failure::Failed(format!("{} connections gave no pong", connections - alive)))
}

/// The server's memory: all of it over the baseline, and the growth from step to step, in which the
/// server's fixed costs cancel out.
fn memory(report: &mut Report, steps: &[Step]) {
    let measured: Vec<(usize, Memory)> =
        steps.iter().filter_map(|step| Some((step.connections, step.memory?))).collect();
    let [(_, base), .., (last_count, last)] = measured.as_slice() else { return };
    let kib = |bytes: u64| format!("{} KiB", bytes / 1024);
    report.row("server RssAnon before", kib(base.anon), "anon_before_bytes", base.anon);
    report.row("server RssAnon after", kib(last.anon), "anon_after_bytes", last.anon);
    let each = |from: u64, to: u64, count: usize| (to as f64 - from as f64) / count as f64;
    let mut put = |label: &str, key: &str, value: f64| {
        report.row(label, format!("{value:.0} bytes"), key, value);
    };
    let anon = each(base.anon, last.anon, *last_count);
    put("RssAnon per connection", "anon_each_bytes", anon);
    put("RSS per connection", "rss_each_bytes", each(base.rss, last.rss, *last_count));
    for pair in measured[1..].windows(2) {
        let [(from, before), (to, after)] = pair else { continue };
        let grown = each(before.anon, after.anon, to - from);
        let label = format!("RssAnon per connection, {from} to {to}");
        put(&label, &format!("anon_each_{from}_to_{to}_bytes"), grown);
    }
    if let [.., (from, before), (to, after)] = &measured[1..] {
        let grown = each(before.anon, after.anon, to - from);
        put("RssAnon growth per connection, last step", "anon_growth_each_bytes", grown);
    }
}

/// The kernel's slab grows for both ends, since server and generator share the host.
fn slab(report: &mut Report, steps: &[Step]) {
    let [first, .., last] = steps else { return };
    let (Some(before), Some(after)) = (&first.slab, &last.slab) else {
        report.warn("no kernel slab: /proc/slabinfo is for root");
        return;
    };
    let (total, caches) = after.growth(before);
    let each = total as f64 / last.connections as f64;
    let label = "kernel slab per connection, both ends";
    report.row(label, format!("{each:.0} bytes"), "slab_each_bytes", each);
    for (name, bytes) in caches.iter().take(CACHES_SHOWN) {
        let each = *bytes as f64 / last.connections as f64;
        let key = format!("slab_{}_each_bytes", name.replace(['-', '.'], "_"));
        report.row(&format!("  {name}"), format!("{each:.0} bytes"), &key, each);
    }
}

//! Rows about memory: the server's process, the kernel's side of both ends, and the generator.

use serde_json::Value;

use crate::cpu::Memory;
use crate::crew::Failure;
use crate::kernel::{KNOWN_CACHES, KernelMemory};
use crate::report::Report;

/// Caches of the kernel shown by name besides the known ones.
const CACHES_SHOWN: usize = 8;

/// Memory with a number of connections open.
pub(super) struct Step {
    pub(super) connections: usize,
    server: Option<Memory>,
    kernel: KernelMemory,
}

impl Step {
    pub(super) fn take(connections: usize, server_pid: Option<u32>) -> Result<Self, Failure> {
        let server = server_pid.map(Memory::take).transpose()?;
        Ok(Self { connections, server, kernel: KernelMemory::take() })
    }
}

fn each(from: u64, to: u64, count: usize) -> f64 {
    (to as f64 - from as f64) / count.max(1) as f64
}

/// Adds all rows about memory. The first step has no connections; `own` is the generator's memory
/// before it made its rings and with all connections open.
pub(super) fn report(report: &mut Report, steps: &[Step], own: (Memory, Memory)) {
    server(report, steps);
    let [first, .., last] = steps else { return };
    kernel(report, first, last);
    let own = each(own.0.rss, own.1.rss, last.connections);
    let shown = format!("{own:.0} bytes");
    report.row("generator RSS per connection", shown, "generator_rss_each_bytes", own);
}

/// Adds the server's memory: the total over the baseline, and the growth from step to step, in
/// which fixed costs cancel out.
fn server(report: &mut Report, steps: &[Step]) {
    let measured: Vec<(usize, Memory)> =
        steps.iter().filter_map(|step| Some((step.connections, step.server?))).collect();
    let [(_, base), .., (last_count, last)] = measured.as_slice() else { return };
    let kib = |bytes: u64| format!("{} KiB", bytes / 1024);
    report.row("server RssAnon before", kib(base.anon), "anon_before_bytes", base.anon);
    report.row("server RssAnon after", kib(last.anon), "anon_after_bytes", last.anon);
    report.row("server RSS after", kib(last.rss), "rss_after_bytes", last.rss);
    let mut put = |label: &str, key: &str, value: f64| {
        report.row(label, format!("{value:.0} bytes"), key, value);
    };
    put("RssAnon per connection", "anon_each_bytes", each(base.anon, last.anon, *last_count));
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
    let by_connections =
        measured.iter().map(|(count, memory)| Value::from(vec![*count as u64, memory.anon]));
    report.extra("anon_by_connections", Value::Array(by_connections.collect()));
}

/// Adds the kernel's memory, which grows for both ends, because server and generator share the
/// host. Half of it is the server's if both ends are alike (see `kernel`).
fn kernel(report: &mut Report, first: &Step, last: &Step) {
    let count = last.connections;
    let (before, after) = (&first.kernel, &last.kernel);
    let mut put = |label: &str, key: &str, value: f64| {
        report.row(label, format!("{value:.0} bytes"), key, value);
    };
    let total = each(before.slab_total_bytes, after.slab_total_bytes, count);
    put("all slab pages per connection, both ends", "slab_total_each_bytes", total);
    put("  half of it: one end, if both wait alike", "slab_server_each_bytes", total / 2.0);
    let buffers = each(before.tcp_buffer_bytes, after.tcp_buffer_bytes, count);
    put("TCP buffers per connection, both ends", "tcp_buffers_each_bytes", buffers);
    let sockets = after.tcp_sockets.saturating_sub(before.tcp_sockets);
    report.row("TCP sockets, both ends", sockets.to_string(), "tcp_sockets", sockets);
    let (Some(before), Some(after)) = (&before.slab, &after.slab) else {
        report.warn("proc/proc/slabinfo is for root");
        return;
    };
    let (objects, caches) = after.growth(before);
    let objects = objects as f64 / count.max(1) as f64;
    let label = "slab objects per connection, both ends";
    report.row(label, format!("{objects:.0} bytes"), "slab_each_bytes", objects);
    let known = |name: &str| KNOWN_CACHES.contains(&name) || name.starts_with("lsm");
    let (named, others): (Vec<_>, Vec<_>) = caches.iter().partition(|(name, _)| known(name));
    for (name, bytes) in named.into_iter().chain(others.into_iter().take(CACHES_SHOWN)) {
        let each = *bytes as f64 / count.max(1) as f64;
        if each < 1.0 {
            continue;
        }
        let key = format!("slab_{}_each_bytes", name.replace(['-', '.'], "_"));
        report.row(&format!("  {name}"), format!("{each:.0} bytes"), &key, each);
    }
}

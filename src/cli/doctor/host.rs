//! Examines limits and memory: how many connections this process may have.

use super::finding::{Finding, State, read_kernel_file};
use crate::config::Config;
use crate::driver::host;

/// Limits from `/proc/self/limits`, before the process raises any; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    open_files: [Option<u64>; 2],
    locked_bytes: [Option<u64>; 2],
}

impl Limits {
    pub(super) fn read() -> Self {
        Self::parse(&read_kernel_file("/proc/self/limits").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let pair = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let mut words = line.unwrap_or_default().split_whitespace();
            let mut next = || words.next().and_then(|word| word.parse().ok());
            [next(), next()]
        };
        Self { open_files: pair("Max open files"), locked_bytes: pair("Max locked memory") }
    }
}

/// Bit of `CAP_IPC_LOCK` in `CapEff` of `/proc/self/status`.
const CAP_IPC_LOCK: u32 = 14;
/// Kernel and process memory of an idle connection, rounded up (measured with
/// `seawall-bench hold`).
const CONNECTION_BYTES: u64 = 4_800;

/// `is_epoll`: the engine's sockets are descriptors of the process; `is_lowered`: it has lowered
/// the limit of connections for that.
pub(super) fn examine(
    config: &Config,
    limits: Limits,
    open_files: u64,
    is_epoll: bool,
    is_lowered: bool,
) -> Vec<Finding> {
    vec![
        if is_epoll {
            examine_shared_open_files(config, limits, is_lowered)
        } else {
            examine_open_files(config, limits, open_files)
        },
        examine_locked_memory(config, limits, is_epoll),
        examine_cores(config),
        examine_memory(config),
        examine_huge_pages(),
    ]
}

fn format_limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

fn examine_open_files(config: &Config, limits: Limits, open_files: u64) -> Finding {
    let [soft, hard] = limits.open_files.map(format_limit);
    let per_shard = config.limits.connections_per_shard_max;
    let all = u64::from(per_shard) * u64::from(config.shards);
    Finding::new(
        "open files",
        "The limit bounds each ring's table of connections (not the process); the soft limit is \
         raised to the hard one at start",
        format!("soft {soft}, hard {hard}: {per_shard} connections per shard, {all} in total"),
    )
    .unless(
        open_files >= 100_000,
        State::Warning,
        format!(
            "systemd: LimitNOFILE=1048576; shell: ulimit -Hn 1048576; or more shards: --shards {} \
             reach 100,000 connections",
            100_000_u64.div_ceil(u64::from(per_shard.max(1)))
        ),
    )
}

/// The same where all shards share the limit.
fn examine_shared_open_files(config: &Config, limits: Limits, is_lowered: bool) -> Finding {
    let [soft, hard] = limits.open_files.map(format_limit);
    let per_shard = config.limits.connections_per_shard_max;
    let all = u64::from(per_shard) * u64::from(config.shards);
    let found =
        format!("soft {soft}, hard {hard}: {per_shard} connections per shard, {all} in total");
    let why = "With epoll the limit bounds the connections of all shards together; the soft limit \
               is raised to the hard one at start";
    let is_enough = !is_lowered || all >= 100_000;
    Finding::new("open files", why, found).unless(
        is_enough,
        State::Warning,
        "systemd: LimitNOFILE=1048576; shell: ulimit -Hn 1048576",
    )
}

fn examine_locked_memory(config: &Config, limits: Limits, is_epoll: bool) -> Finding {
    let exempt = has_capability(CAP_IPC_LOCK);
    let need = if is_epoll { 0 } else { ring_bytes(config) * u64::from(config.shards) };
    let soft = limits.locked_bytes[0];
    let found = format!(
        "limit {}, needed about {need} bytes{}",
        format_limit(soft),
        if exempt { " (exempt: CAP_IPC_LOCK)" } else { "" }
    );
    Finding::new(
        "locked memory",
        "Rings count against this limit, unless the process has CAP_IPC_LOCK; if it is too low, \
         they are made smaller",
        found,
    )
    .unless(
        exempt || soft.is_none_or(|limit| limit >= need),
        State::Warning,
        "systemd: LimitMEMLOCK=infinity; shell: ulimit -l unlimited",
    )
}

/// Locked memory of one shard: 64 bytes per submission, 16 per completion and per buffer entry.
fn ring_bytes(config: &Config) -> u64 {
    let buffers = u64::from(config.buffers_per_shard().next_power_of_two());
    let entries = u64::from(config.engine.ring_entries.next_power_of_two());
    entries * 64 + u64::from(config.completion_entries()) * 16 + buffers * 16
}

fn has_capability(bit: u32) -> bool {
    let status = read_kernel_file("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    bits >> bit & 1 == 1
}

fn examine_cores(config: &Config) -> Finding {
    let cores = host::cores().len();
    let quota = read_kernel_file("/sys/fs/cgroup/cpu.max").and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    let shards = usize::from(config.shards);
    let allowed = quota.map_or(String::new(), |quota| format!(", a quota of {quota:.1}"));
    let starved = quota.is_some_and(|quota| quota < cores.min(shards) as f64);
    Finding::new(
        "cores",
        "Each shard needs a core; a lower quota stalls shards during their turns",
        format!("{cores}{allowed}; {shards} shards"),
    )
    .unless(!starved, State::Warning, "raise the quota, or lower --shards to it")
}

fn examine_memory(config: &Config) -> Finding {
    let all = u64::from(config.limits.connections_per_shard_max) * u64::from(config.shards);
    let need = all * CONNECTION_BYTES;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| read_kernel_file(path)?.parse::<u64>().ok());
    let available = read_kernel_file("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    });
    let least = [limit, available].into_iter().flatten().min().unwrap_or(u64::MAX);
    let mib = |bytes: u64| bytes >> 20;
    Finding::new(
        "memory",
        "An idle connection takes about 4 KB in the kernel and 0.14 KB in the process; queues come \
         on top",
        format!("{} MiB available; {all} idle connections take {} MiB", mib(least), mib(need)),
    )
    .unless(
        least >= need,
        State::Warning,
        format!(
            "add memory, or set --limits-connections-per-shard-max {}",
            least / CONNECTION_BYTES / u64::from(config.shards)
        ),
    )
}

fn examine_huge_pages() -> Finding {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let modes = read_kernel_file(path).unwrap_or_else(|| "unknown".into());
    let mode = modes.split(['[', ']']).nth(1).unwrap_or(&modes).to_owned();
    // The server opts out: see `driver::host::use_small_pages`.
    Finding::new("huge pages", "Seawall opts out of them, whatever the setting", mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_the_kernels_format() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 20000                files\n\
                    Max locked memory         8388608              unlimited            bytes";
        let limits = Limits::parse(text);
        assert_eq!(limits.open_files, [Some(1024), Some(20_000)]);
        assert_eq!(limits.locked_bytes, [Some(8_388_608), None]);
    }
}

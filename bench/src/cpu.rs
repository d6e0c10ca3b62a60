//! CPU time of a process in the scheduler's nanoseconds, and its memory.
//!
//! `/proc/PID/stat` counts in ticks of 10 ms, too coarse for a short run; the first field of each
//! thread's `schedstat` is exact to the last context switch or tick. Its second field, the time
//! spent runnable without a processor, distinguishes an idle server from one delayed by other
//! processes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Instant;

/// Share of its time from which a thread counts as saturated.
pub const SATURATED: f64 = 0.95;
/// Share of its time spent waiting for a processor from which other processes disturb the run.
const CONTENDED: f64 = 0.05;

/// CPU time of each thread of a process (ns), at one moment.
#[derive(Debug, Clone)]
pub struct CpuSample {
    at: Instant,
    threads: BTreeMap<u32, ThreadTime>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ThreadTime {
    on_cpu_ns: u64,
    /// Runnable, waiting for a processor.
    queued_ns: u64,
}

/// What happened between two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuUse {
    pub cpu_ns: u64,
    pub wall_ns: u64,
    /// Share of its time that the busiest thread was on a processor.
    pub busiest_share: f64,
    /// Share of its time that this thread waited for a processor.
    pub queued_share: f64,
}

impl CpuUse {
    pub fn saturated(&self) -> bool {
        self.busiest_share + self.queued_share >= SATURATED
    }

    /// Whether other processes used its processor: then neither throughput nor latencies are its
    /// own.
    pub fn contended(&self) -> bool {
        self.queued_share > CONTENDED
    }

    /// Processors kept busy on average.
    pub fn cores(&self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns.max(1) as f64
    }
}

impl CpuSample {
    /// Reads all threads of `pid`.
    pub fn take(pid: u32) -> io::Result<Self> {
        let at = Instant::now();
        let folder = format!("/proc/{pid}/task");
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|error| no_process(pid, &error))? {
            let name = entry?.file_name();
            let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and the read.
            let Ok(text) = fs::read_to_string(format!("{folder}/{thread}/schedstat")) else {
                continue;
            };
            let mut fields = text.split_ascii_whitespace().map_while(|field| field.parse().ok());
            if let (Some(on_cpu_ns), Some(queued_ns)) = (fields.next(), fields.next()) {
                threads.insert(thread, ThreadTime { on_cpu_ns, queued_ns });
            }
        }
        Ok(Self { at, threads })
    }

    /// The difference to an earlier sample. Threads that ended in between are missing.
    pub fn since(&self, earlier: &Self) -> CpuUse {
        let wall_ns = self.at.duration_since(earlier.at).as_nanos() as u64;
        let used = self.threads.iter().map(|(id, now)| {
            let before = earlier.threads.get(id).copied().unwrap_or_default();
            let on_cpu_ns = now.on_cpu_ns.saturating_sub(before.on_cpu_ns);
            let queued_ns = now.queued_ns.saturating_sub(before.queued_ns);
            ThreadTime { on_cpu_ns, queued_ns }
        });
        let busiest = used.clone().max_by_key(|time| time.on_cpu_ns).unwrap_or_default();
        let share = |ns: u64| ns as f64 / wall_ns.max(1) as f64;
        CpuUse {
            cpu_ns: used.map(|time| time.on_cpu_ns).sum(),
            wall_ns,
            busiest_share: share(busiest.on_cpu_ns),
            queued_share: share(busiest.queued_ns),
        }
    }
}

/// Resident memory of a process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous pages: heap, stacks, private mappings.
    pub anon: u64,
    /// All resident pages, files and shared memory included.
    pub rss: u64,
}

impl Memory {
    pub fn take(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|error| no_process(pid, &error))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::other(format!("/proc/{pid}/status has no RssAnon: has it ended?"))
        })
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            first_number(line).map(|kib| kib * 1024)
        };
        Some(Self { anon: field("RssAnon:")?, rss: field("VmRSS:")? })
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn no_process(pid: u32, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read process {pid}: {error}; has it ended?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_is_seen_and_sleeping_is_not() {
        let pid = std::process::id();
        let before = CpuSample::take(pid).unwrap();
        let start = Instant::now();
        while start.elapsed().as_millis() < 60 {
            std::hint::spin_loop();
        }
        let spun = CpuSample::take(pid).unwrap().since(&before);
        // Other tests share the processors, so only a part of the time is certain.
        assert!(spun.cpu_ns > 5_000_000, "{spun:?}");
        assert!(spun.wall_ns >= 60_000_000, "{spun:?}");
        assert!(spun.cores() > 0.0 && spun.busiest_share > 0.0);
    }

    #[test]
    fn saturation_is_of_one_thread() {
        let share = |busiest_share, queued_share| CpuUse {
            cpu_ns: 180,
            wall_ns: 100,
            busiest_share,
            queued_share,
        };
        assert!(share(0.96, 0.0).saturated() && !share(0.96, 0.0).contended());
        assert!(!share(0.9, 0.01).saturated(), "two threads at 90 % are not one at 95 %");
        assert!(share(0.5, 0.5).saturated() && share(0.5, 0.5).contended());
    }

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     100 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { anon: 102_400, rss: 2_097_152 }));
        assert_eq!(Memory::parse("Name:\tx\n"), None);
        let own = Memory::take(std::process::id()).unwrap();
        assert!(own.rss >= own.anon && own.anon > 0);
        assert!(Memory::take(u32::MAX).unwrap_err().to_string().contains("has it ended?"));
    }
}

//! What the process asks of its host: cores, and the limit of open files.

use std::io;
use std::sync::LazyLock;
use std::time::Instant;

use super::allocator::slots;

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    // SAFETY: all-zero is a valid CPU set, and the call fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        set
    };
    // SAFETY: the index stays below the set's size.
    let is_set = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
    let cores: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_set).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Time in ns since it was first asked for.
pub fn monotonic_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// When the core is not there, or not allowed to this process.
pub fn pin_to(core: usize) -> io::Result<()> {
    // SAFETY: all-zero is a valid CPU set; the index is checked by the macro's own bound.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes small pages for all memory of the process. With huge ones the first byte of every shard's
/// table of connections would make two megabytes resident (64 shards: 350 MB before the first
/// connection).
pub fn use_small_pages() {
    // SAFETY: changes how later page faults of this process are served, and nothing else. A kernel
    // without huge pages rejects it harmlessly.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1_u64, 0_u64, 0_u64, 0_u64) };
}

/// Lets every thread of normal priority go before the calling one, so that what it does for
/// operators does not make messages wait.
pub fn lower_priority() {
    // Not more: on a host where many shards wait for few cores, operators must still be answered.
    const NICE: i32 = 5;
    // SAFETY: changes the priority of the calling thread (0) and nothing else; lowering it is
    // always allowed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the one structure that lives across them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 1024;
        }
        let most = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) == 0 {
            limit = most;
        }
    }
    limit.rlim_cur
}

/// Resident memory of this process (bytes); 0 where /proc is not there.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What the kernel counts about this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessNumbers {
    /// Processor time of all threads, in user and kernel mode (s).
    pub cpu_s: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// Open descriptors, without sockets that only a ring knows; `None` where /proc does not list
    /// them to this user.
    pub open_files: Option<u64>,
}

/// Reads them.
pub fn process_numbers() -> ProcessNumbers {
    // SAFETY: all-zero is a valid value, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    // SAFETY: reads a constant of the system.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(0) as u64;
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = pages.split_whitespace().map(|pages| pages.parse().unwrap_or(0));
    let mut bytes = || pages.next().unwrap_or(0) * page_bytes;
    let (virtual_bytes, resident_bytes) = (bytes(), bytes());
    // The descriptor that lists the others is one of them.
    let listed = std::fs::read_dir("/proc/self/fd").ok();
    let open_files = listed.map(|listed| (listed.count() as u64).saturating_sub(1));
    let cpu_s = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    ProcessNumbers { cpu_s, resident_bytes, virtual_bytes, open_files }
}

/// What lies in the buffers of all TCP sockets of this network namespace (bytes); 0 where /proc is
/// not there.
pub fn tcp_buffer_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.split_whitespace().skip_while(|w| *w != "mem").nth(1));
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Returns memory to the system that the calling thread has freed, and forgets what large messages
/// have left and was not needed since the last call; whether some of that is still kept.
///
/// The allocator returns memory some milliseconds after it was freed, but only when it is called:
/// a thread that falls idle after a burst would keep the burst's memory.
pub fn return_memory() -> bool {
    // SAFETY: the call takes no pointer and may be made at any time; without the allocator in
    // place it has nothing to collect.
    unsafe { libmimalloc_sys::mi_collect(false) };
    slots::forget_unneeded()
}

/// Returns a bounded part of what large messages have left in excess to the system; whether there
/// is more.
pub fn return_excess() -> bool {
    if slots::has_excess() {
        slots::return_some();
    }
    slots::has_excess()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_and_a_thread_can_be_kept_on_it() {
        let core = cores()[0];
        std::thread::spawn(move || {
            pin_to(core).unwrap();
            assert_eq!(cores(), [core]);
        })
        .join()
        .unwrap();
        assert!(pin_to(1023).is_err());
    }

    #[test]
    fn a_process_has_used_time_and_memory() {
        let mut numbers = process_numbers();
        // The clock of processor time may be coarse.
        while numbers.cpu_s <= 0.0 {
            numbers = process_numbers();
        }
        assert!(numbers.resident_bytes > 0 && numbers.virtual_bytes >= numbers.resident_bytes);
        assert!(numbers.open_files.is_none_or(|files| files >= 3));
    }

    #[test]
    fn the_open_files_limit_does_not_shrink() {
        assert!(raise_open_files() >= 256);
        assert_eq!(raise_open_files(), raise_open_files());
    }
}

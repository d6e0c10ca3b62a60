//! Host facts and limits: cores, open files, priority, memory.

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

/// Time since the first call (ns).
pub fn monotonic_ns() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// Pins the calling thread to a core.
///
/// # Errors
/// When the core does not exist or is not allowed to this process.
pub fn pin_to(core: usize) -> io::Result<()> {
    // SAFETY: all-zero is a valid CPU set; the index is checked by the macro's own bound.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opts out of huge pages for all memory of the process. With them, the first byte of every shard's
/// table of connections would make two megabytes resident (64 shards: 350 MB before the first
/// connection).
pub fn use_small_pages() {
    // SAFETY: changes how later page faults of this process are served, and nothing else. Kernels
    // without huge pages reject it, which is harmless.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1_u64, 0_u64, 0_u64, 0_u64) };
}

/// Lowers the calling thread's priority, so that work for operators does not delay messages.
pub fn lower_priority() {
    // A moderate step: on a host where many shards share few cores, operators must still be
    // answered.
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

/// Resident memory of this process (bytes); 0 without /proc.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Kernel counters of this process.
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

/// Reads the counters.
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
    // Do not count the descriptor that lists the others.
    let listed = std::fs::read_dir("/proc/self/fd").ok();
    let open_files = listed.map(|listed| (listed.count() as u64).saturating_sub(1));
    let cpu_s = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    ProcessNumbers { cpu_s, resident_bytes, virtual_bytes, open_files }
}

/// Bytes in the buffers of all TCP sockets of this network namespace; 0 without /proc.
pub fn tcp_buffer_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.split_whitespace().skip_while(|w| *w != "mem").nth(1));
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Returns memory freed by the calling thread to the system, and adds slot memory not needed since
/// the last call to the excess. Returns whether free slots keep memory.
///
/// The allocator returns memory some milliseconds after it was freed, but only when it is called:
/// without this call, a thread that falls idle after a burst would keep the burst's memory.
pub fn return_memory() -> bool {
    // SAFETY: the call takes no pointer and may be made at any time; without the allocator in
    // place it has nothing to collect.
    unsafe { libmimalloc_sys::mi_collect(false) };
    slots::forget_unneeded()
}

/// Returns all free memory of the calling thread, and that of C libraries, to the system: also what
/// [`return_memory`] leaves for the next burst.
pub fn return_all_memory() {
    // SAFETY: see `return_memory`.
    unsafe { libmimalloc_sys::mi_collect(true) };
    return_c_memory();
}

/// Returns free memory of C libraries to the system. They allocate with the C library's allocator,
/// which keeps what was freed below anything that is still in use.
///
/// The call visits all free memory, so make it only after much was freed.
pub fn return_c_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointer, and may be made at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns a bounded part of the excess of slot memory to the system; returns whether more remains.
#[inline]
pub fn return_excess() -> bool {
    slots::has_excess() && {
        slots::return_some();
        slots::has_excess()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_to_a_core() {
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

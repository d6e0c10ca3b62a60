//! The engine's clock, read as rarely as possible: a reading takes 35 instructions and the
//! processor's time-stamp counter, and a lone message paid for four of them. An [`Instant`] would
//! take twice as many.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix time is read again after so long (ns); until then it follows the monotonic clock. A step of
/// the system's clock is noticed that late.
const UNIX_AGE_MAX_NS: u64 = 100_000_000;

/// The kernel's monotonic clock (ns), which also is that of [`Instant`].
#[inline]
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to this structure, which lives across it. It cannot fail: the clock
    // exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// See the module.
#[derive(Debug)]
pub(in crate::driver) struct Clock {
    /// The epoch on the kernel's monotonic clock (ns).
    start_ns: u64,
    /// The last reading (ns since the epoch).
    now_ns: u64,
    /// Nothing has been done since.
    is_fresh: bool,
    /// Unix time (ns) at the epoch, as of the reading of `unix_read_ns`.
    unix_epoch_ns: u64,
    unix_read_ns: Option<u64>,
}

impl Clock {
    pub(in crate::driver) fn new(epoch: Instant) -> Self {
        let (before_ns, since, after_ns) = (monotonic_ns(), epoch.elapsed(), monotonic_ns());
        let start_ns = (before_ns.midpoint(after_ns)).saturating_sub(since.as_nanos() as u64);
        Self { start_ns, now_ns: 0, is_fresh: false, unix_epoch_ns: 0, unix_read_ns: None }
    }

    /// Reads the monotonic clock (ns since the epoch).
    #[inline]
    pub(in crate::driver) fn read(&mut self) -> u64 {
        self.now_ns = monotonic_ns().saturating_sub(self.start_ns);
        self.is_fresh = true;
        self.now_ns
    }

    /// The last reading, unless something has been done since.
    #[inline]
    pub(in crate::driver) fn read_once(&mut self) -> u64 {
        if self.is_fresh { self.now_ns } else { self.read() }
    }

    /// Notes that time goes by: something is done.
    #[inline]
    pub(in crate::driver) fn age(&mut self) {
        self.is_fresh = false;
    }

    /// Unix time of the last reading (ms).
    #[inline]
    pub(in crate::driver) fn unix_ms(&mut self) -> u64 {
        let is_known =
            self.unix_read_ns.is_some_and(|read_ns| self.now_ns - read_ns < UNIX_AGE_MAX_NS);
        if !is_known {
            self.read_unix();
        }
        (self.unix_epoch_ns + self.now_ns) / 1_000_000
    }

    #[cold]
    fn read_unix(&mut self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ns = unix.map_or(0, |since| since.as_nanos() as u64);
        let now_ns = self.read();
        self.unix_epoch_ns = unix_ns.saturating_sub(now_ns);
        self.unix_read_ns = Some(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_shared_until_something_is_done() {
        let mut clock = Clock::new(Instant::now());
        let first = clock.read();
        assert!(clock.is_fresh);
        assert_eq!(clock.read_once(), first);
        clock.age();
        assert!(!clock.is_fresh);
    }

    #[test]
    fn unix_time_follows_the_system_and_its_steps() {
        let mut clock = Clock::new(Instant::now());
        clock.read();
        let before_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(clock.unix_ms() >= before_ms - 1);
        // As if the system's clock had been set back by a day since, and the reading had aged.
        clock.unix_epoch_ns += 86_400_000_000_000;
        assert!(clock.unix_ms() >= before_ms + 86_000_000, "not read at each call");
        clock.now_ns += UNIX_AGE_MAX_NS;
        assert!(clock.unix_ms() < before_ms + 86_000_000, "read again in time");
    }
}

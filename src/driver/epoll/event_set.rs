//! The epoll instance of a shard, and its waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Events that one wait takes.
const EVENTS_MAX: usize = 512;

/// See the module.
pub(super) struct EventSet {
    descriptor: OwnedFd,
    events: Box<[libc::epoll_event]>,
    /// Events of the last wait.
    count: usize,
    /// Whether waits are timed in nanoseconds (`epoll_pwait2`), not in milliseconds.
    is_precise: bool,
    /// Calls that waited.
    pub(super) waits: u64,
}

/// The kernel's structure on every architecture (`struct __kernel_timespec`).
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

impl EventSet {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the call has no memory effects.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: checked to be a fresh descriptor.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX].into();
        Ok(Self { descriptor, events, count: 0, is_precise: true, waits: 0 })
    }

    /// Has waits report these events of a descriptor under `data`.
    pub(super) fn add(&self, descriptor: &impl AsFd, events: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        let (set, added) = (self.descriptor.as_raw_fd(), descriptor.as_fd().as_raw_fd());
        // SAFETY: the kernel only reads the event, which lives across the call.
        let result = unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, added, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Ends that. A descriptor of which there is a duplicate would otherwise stay when it is
    /// closed.
    pub(super) fn remove(&self, descriptor: &impl AsFd) {
        let (set, removed) = (self.descriptor.as_raw_fd(), descriptor.as_fd().as_raw_fd());
        // SAFETY: the call takes no event. It fails only if the descriptor is not in the set.
        unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, removed, std::ptr::null_mut()) };
    }

    /// Waits for events, at most this long (ns); `None`: until there is one. A signal and the
    /// deadline end it without events.
    pub(super) fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        self.count = 0;
        let mut result = self.wait_once(timeout_ns);
        if self.is_precise
            && matches!(&result, Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)))
        {
            // An old filter of system calls does not know the call.
            self.is_precise = false;
            result = self.wait_once(timeout_ns);
        }
        match result {
            Ok(count) => self.count = count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn wait_once(&mut self, timeout_ns: Option<u64>) -> io::Result<usize> {
        self.waits += 1;
        let count = if self.is_precise {
            self.wait_precisely(timeout_ns)
        } else {
            self.wait_coarsely(timeout_ns)
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn wait_precisely(&mut self, timeout_ns: Option<u64>) -> i64 {
        let timeout = timeout_ns.map(|ns| KernelTimespec {
            seconds: (ns / 1_000_000_000) as i64,
            nanoseconds: (ns % 1_000_000_000) as i64,
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: the kernel writes at most as many events as there is room for, and reads the
        // timeout, which lives across the call.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                timeout,
                no_mask,
                0_usize,
            )
        }
    }

    fn wait_coarsely(&mut self, timeout_ns: Option<u64>) -> i64 {
        let timeout_ms =
            timeout_ns.map_or(-1, |ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe {
            libc::epoll_pwait(
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                timeout_ms,
                std::ptr::null(),
            )
        };
        i64::from(count)
    }

    /// An event of the last wait, as its flags and data.
    pub(super) fn event(&self, index: usize) -> (i32, u64) {
        let event = self.events[index];
        (event.events as i32, event.u64)
    }

    /// Events of the last wait.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether the last wait took as many events as it could: there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.count == self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::event::{make_event, signal_event};

    #[test]
    fn waits_end_by_events_and_deadlines_however_they_are_timed() {
        for is_precise in [true, false] {
            let mut set = EventSet { is_precise, ..EventSet::new().unwrap() };
            let event = make_event().unwrap();
            set.add(&event, libc::EPOLLIN | libc::EPOLLET, 7).unwrap();
            for _ in 0..2 {
                signal_event(&event);
                set.wait(None).unwrap();
                assert_eq!((set.count(), set.event(0)), (1, (libc::EPOLLIN, 7)));
                // Nothing has read the event, and its edge was reported.
                set.wait(Some(0)).unwrap();
                assert_eq!(set.count(), 0);
            }
            let began = std::time::Instant::now();
            set.wait(Some(1_500_000)).unwrap();
            assert!(set.count() == 0 && began.elapsed().as_nanos() >= 1_500_000);
            set.remove(&event);
            signal_event(&event);
            set.wait(Some(0)).unwrap();
            assert_eq!((set.count(), set.is_full()), (0, false));
        }
    }
}

//! Lets shards reach each other's rings, and other threads wake a shard.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use crate::driver::{Bell, event};

/// The rings of all shards, for messages between them, and their bells, for when a message fails.
///
/// It holds a duplicate of every ring's descriptor: while a shard may still use a number, the
/// kernel cannot reuse it for another file.
pub struct Peers {
    shards: Vec<OnceLock<(OwnedFd, Arc<EventBell>)>>,
}

impl Peers {
    /// Makes room for this many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self { shards: (0..shards).map(|_| OnceLock::new()).collect() })
    }

    pub(super) fn set_ring(&self, shard: u16, ring: RawFd, bell: Arc<EventBell>) -> io::Result<()> {
        // SAFETY: dup has no memory effects; a descriptor it returns is ours alone.
        let copy = unsafe { libc::fcntl(ring, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above, checked to be a descriptor.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        let set = self.shards[usize::from(shard)].set((copy, bell));
        assert!(set.is_ok(), "a shard has one ring");
        Ok(())
    }

    pub(super) fn ring_of(&self, shard: u16) -> Option<RawFd> {
        self.shards.get(usize::from(shard))?.get().map(|(ring, _)| ring.as_raw_fd())
    }

    /// Wakes a shard through its bell instead of its ring.
    pub(super) fn wake_shard(&self, shard: u16) {
        if let Some((_, bell)) = self.shards.get(usize::from(shard)).and_then(OnceLock::get) {
            bell.ring();
        }
    }
}

/// Wakes a ring from any thread, through an eventfd that the ring reads.
pub(super) struct EventBell {
    pub(super) event: OwnedFd,
}

impl Bell for EventBell {
    fn ring(&self) {
        event::signal_event(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::driver::uring::{Uring, UringOptions, probe_features};
    use crate::driver::{Driver as _, Wait};

    #[test]
    fn a_doorbell_that_fails_rings_the_bell_instead() {
        let features = probe_features().expect("the tests need io_uring");
        let peers = Peers::new(2);
        let options = UringOptions {
            ring_entries: 64,
            completion_entries: 128,
            sockets_max: 8,
            buffers: 8,
            buffer_bytes: 1024,
            min_wait_us: 0,
            min_wait_completions: 1,
            features,
            epoch: Instant::now(),
        };
        let mut driver = Uring::new(options, 0, peers.clone()).unwrap();
        // SAFETY: eventfd has no memory effects; the descriptor it returns is ours alone.
        let event = unsafe {
            let event = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            assert!(event >= 0);
            OwnedFd::from_raw_fd(event)
        };
        let mut rung = File::from(event.try_clone().unwrap());
        // No ring is behind this descriptor, so a message to it fails.
        let not_a_ring = event.as_raw_fd();
        peers.set_ring(1, not_a_ring, Arc::new(EventBell { event })).unwrap();
        driver.doorbell(1);
        let deadline = Instant::now() + Duration::from_secs(20);
        while driver.counters().doorbells_failed == 0 {
            assert!(Instant::now() < deadline, "the failure was not reported");
            driver.submit(Wait::No).unwrap();
            let _ = driver.next();
        }
        let mut count = [0; 8];
        rung.read_exact(&mut count).expect("the bell was rung");
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}

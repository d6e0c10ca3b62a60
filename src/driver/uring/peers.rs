//! How shards reach each other's rings, and how other threads wake one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use crate::driver::Bell;

/// The rings of all shards, so that each can send messages to each.
///
/// It holds a descriptor of its own of every ring: a number in it is never reused for another file
/// while a shard may still ring there.
pub struct Peers {
    rings: Vec<OnceLock<OwnedFd>>,
}

impl Peers {
    /// Room for this many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self { rings: (0..shards).map(|_| OnceLock::new()).collect() })
    }

    pub(super) fn set(&self, shard: u16, ring: RawFd) -> io::Result<()> {
        // SAFETY: dup has no memory effects; a descriptor it returns is ours alone.
        let copy = unsafe { libc::fcntl(ring, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above, checked to be a descriptor.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        assert!(self.rings[usize::from(shard)].set(copy).is_ok(), "a shard has one ring");
        Ok(())
    }

    pub(super) fn get(&self, shard: u16) -> Option<RawFd> {
        self.rings.get(usize::from(shard))?.get().map(AsRawFd::as_raw_fd)
    }
}

/// Wakes a ring from any thread through an eventfd that the ring reads.
pub(super) struct EventBell {
    pub(super) event: OwnedFd,
}

impl Bell for EventBell {
    fn ring(&self) {
        let one = 1_u64;
        // SAFETY: writes eight bytes that live across the call. The counter would overflow only
        // after 2^64 unread rings.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

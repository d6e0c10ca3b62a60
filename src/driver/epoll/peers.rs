//! Lets shards hand each other sockets, and any thread wake a shard.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::driver::Bell;
use crate::driver::event::{make_event, signal_event};

/// The doors of all shards.
pub struct Peers {
    doors: Vec<OnceLock<Arc<Door>>>,
}

impl Peers {
    /// Makes room for this many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self { doors: (0..shards).map(|_| OnceLock::new()).collect() })
    }

    pub(super) fn set(&self, shard: u16, door: Arc<Door>) {
        let set = self.doors[usize::from(shard)].set(door);
        assert!(set.is_ok(), "a shard has one door");
    }

    pub(super) fn get(&self, shard: u16) -> Option<&Arc<Door>> {
        self.doors.get(usize::from(shard))?.get()
    }
}

/// What comes to a shard from other threads. Its event is never read: each signal is an edge.
pub(super) struct Door {
    pub(super) event: OwnedFd,
    /// The bell was rung, and the shard has not noticed it yet.
    is_rung: AtomicBool,
    arrivals: Mutex<Vec<(u64, OwnedFd)>>,
}

impl Door {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let (is_rung, arrivals) = (AtomicBool::new(false), Mutex::default());
        Ok(Arc::new(Self { event: make_event()?, is_rung, arrivals }))
    }

    /// Hands a socket over, under a key.
    pub(super) fn hand_over(&self, key: u64, socket: OwnedFd) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push((key, socket));
        signal_event(&self.event);
    }

    /// Takes the sockets that have arrived.
    pub(super) fn take_arrivals(&self) -> Vec<(u64, OwnedFd)> {
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notices that the bell was rung.
    pub(super) fn take_ring(&self) -> bool {
        self.is_rung.swap(false, Ordering::AcqRel)
    }
}

impl Bell for Door {
    fn ring(&self) {
        // A ring that was not noticed yet will be, after what this one announces.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            signal_event(&self.event);
        }
    }
}

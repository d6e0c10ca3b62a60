//! Listening sockets: accepts that are armed, and what is known of waiting connections.
//!
//! A listener is in the event set only while accepts are armed: a Unix listener is shared by all
//! shards, which are woken one at a time (`EPOLLEXCLUSIVE`), and a full shard must not be the one.

use std::io;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::event_set::EventSet;
use super::sockets::LISTENER;

/// One listener.
struct Listening {
    socket: OwnedFd,
    /// Accepts that are armed.
    armed: u32,
    /// Connections may wait.
    is_ready: bool,
    /// It is in the queue of sockets.
    is_queued: bool,
    is_in_set: bool,
}

/// All listeners of a shard, by their numbers.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Option<Listening>>,
}

impl Listeners {
    /// Takes a listener in, under its number.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub(super) fn insert(
        &mut self,
        listener: u16,
        socket: OwnedFd,
        set: &EventSet,
    ) -> io::Result<()> {
        // Another shard may take the connection for which this one is woken.
        SockRef::from(&socket).set_nonblocking(true)?;
        let index = usize::from(listener);
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        add(set, &socket, listener)?;
        let (is_ready, is_queued, is_in_set) = (false, false, true);
        self.listeners[index] =
            Some(Listening { socket, armed: 0, is_ready, is_queued, is_in_set });
        Ok(())
    }

    fn get(&mut self, listener: u16) -> Option<&mut Listening> {
        self.listeners.get_mut(usize::from(listener))?.as_mut()
    }

    /// Arms an accept.
    pub(super) fn arm(&mut self, listener: u16) {
        if let Some(listening) = self.get(listener) {
            listening.armed += 1;
        }
    }

    /// Connections may wait at a listener.
    pub(super) fn note_ready(&mut self, listener: u16) {
        if let Some(listening) = self.get(listener) {
            listening.is_ready = true;
        }
    }

    /// Whether the listener should be queued, and is from now on.
    pub(super) fn begin_turn(&mut self, listener: u16) -> bool {
        let Some(listening) = self.get(listener) else { return false };
        let begins = listening.armed > 0 && listening.is_ready && !listening.is_queued;
        listening.is_queued |= begins;
        begins
    }

    /// The listener whose turn has come, if an accept is armed.
    pub(super) fn take_turn(&mut self, listener: u16) -> Option<&OwnedFd> {
        let listening = self.get(listener)?;
        listening.is_queued = false;
        (listening.armed > 0).then_some(&listening.socket)
    }

    /// An accept has found that nothing waits.
    pub(super) fn note_empty(&mut self, listener: u16) {
        if let Some(listening) = self.get(listener) {
            listening.is_ready = false;
        }
    }

    /// An armed accept has ended.
    pub(super) fn complete(&mut self, listener: u16) {
        if let Some(listening) = self.get(listener) {
            listening.armed -= 1;
        }
    }

    /// Has the set report the listeners with armed accepts, and no others. What the kernel has no
    /// memory for is tried again with the next call.
    pub(super) fn register(&mut self, set: &EventSet) {
        for (number, listening) in self.listeners.iter_mut().enumerate() {
            let Some(listening) = listening else { continue };
            let should_be = listening.armed > 0;
            if should_be && !listening.is_in_set {
                listening.is_in_set = add(set, &listening.socket, number as u16).is_ok();
            } else if !should_be && listening.is_in_set {
                set.remove(&listening.socket);
                listening.is_in_set = false;
            }
        }
    }

    /// Closes a listener; accepts that are armed end in silence.
    pub(super) fn close(&mut self, listener: u16, set: &EventSet) {
        let Some(place) = self.listeners.get_mut(usize::from(listener)) else { return };
        if let Some(listening) = place.take() {
            set.remove(&listening.socket);
        }
    }

    /// Whether one is open.
    pub(super) fn has_open(&self) -> bool {
        self.listeners.iter().any(Option::is_some)
    }

    /// How many numbers are in use.
    pub(super) fn count(&self) -> u16 {
        self.listeners.len() as u16
    }
}

/// Has the set report a listener; at once if connections wait.
fn add(set: &EventSet, socket: &OwnedFd, listener: u16) -> io::Result<()> {
    let events = libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE;
    set.add(socket, events, u64::from(LISTENER | u32::from(listener)))
}

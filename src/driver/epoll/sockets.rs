//! The connections' sockets: what is armed, what is known of their readiness, and whose turn it is.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use slab::Slab;

use crate::driver::{Batch, Socket, Token};

/// Input may be there, an end or a failure included.
pub(super) const READABLE: u8 = 1;
/// There may be room for output.
pub(super) const WRITABLE: u8 = 2;
/// The peer has ended its side, or the connection has failed: input stays readable.
pub(super) const ENDED: u8 = 4;
/// The socket is in the queue.
const QUEUED: u8 = 8;

/// A place in the queue that is a listener's, with its number in the lower bits.
pub(super) const LISTENER: u32 = 1 << 31;

/// The operation that awaits input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    Nothing,
    Streaming,
    Once,
    Watch,
}

/// One socket.
pub(super) struct SocketState {
    pub(super) descriptor: OwnedFd,
    /// Distinguishes it from earlier sockets at its place, in events of the same wait: one wait
    /// cannot bring so many sockets that it wraps.
    serial: u16,
    /// The token of what is armed.
    pub(super) token: Token,
    /// A send that waits for room.
    pub(super) resting: Option<Box<Batch>>,
    pub(super) armed: Armed,
    flags: u8,
}

// A connection's memory in this engine.
const _: () = assert!(size_of::<SocketState>() <= 24);

impl SocketState {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flags: u8) {
        self.flags |= flags;
    }

    pub(super) fn clear(&mut self, flags: u8) {
        self.flags &= !flags;
    }

    /// Whether input can be looked for.
    pub(super) fn can_receive(&self) -> bool {
        self.armed != Armed::Nothing && self.has(READABLE)
    }

    /// Whether the resting send can continue.
    pub(super) fn can_send(&self) -> bool {
        self.resting.is_some() && self.has(WRITABLE)
    }
}

/// All sockets of a shard, and the queue of those that something can be done for.
pub(super) struct Sockets {
    entries: Slab<SocketState>,
    /// The serial number of the newest socket.
    serial: u16,
    /// First come, first served. A place may be stale: its socket may be closed by now.
    queue: VecDeque<u32>,
}

impl Sockets {
    /// Reserves room for this many; it becomes resident as it is used.
    pub(super) fn new(sockets_max: usize) -> Self {
        Self { entries: Slab::with_capacity(sockets_max), serial: 0, queue: VecDeque::new() }
    }

    /// Inserts a socket, which has room for output; returns its name and the data of its events.
    pub(super) fn insert(&mut self, descriptor: OwnedFd) -> (Socket, u64) {
        self.serial = self.serial.wrapping_add(1);
        let index = self.entries.insert(SocketState {
            descriptor,
            serial: self.serial,
            token: Token { slot: 0, generation: 0 },
            resting: None,
            armed: Armed::Nothing,
            flags: WRITABLE,
        });
        assert!((index as u32) < LISTENER, "fewer sockets than descriptors");
        (Socket(index as u32), u64::from(self.serial) << 32 | index as u64)
    }

    pub(super) fn remove(&mut self, socket: Socket) -> SocketState {
        let entry = self.entries.remove(socket.0 as usize);
        assert!(
            entry.armed == Armed::Nothing && entry.resting.is_none(),
            "nothing is in flight on a socket that leaves"
        );
        entry
    }

    /// An open socket.
    pub(super) fn get(&mut self, socket: Socket) -> &mut SocketState {
        &mut self.entries[socket.0 as usize]
    }

    /// The socket that an event is about, unless it was closed since.
    pub(super) fn of_event(&mut self, data: u64) -> Option<Socket> {
        let index = data as u32;
        let entry = self.entries.get(index as usize)?;
        (u64::from(entry.serial) == data >> 32).then_some(Socket(index))
    }

    /// Puts a socket at the end of the queue, if something can be done for it and it is not there.
    pub(super) fn enqueue(&mut self, socket: Socket) {
        let entry = &mut self.entries[socket.0 as usize];
        if (entry.can_receive() || entry.can_send()) && !entry.has(QUEUED) {
            entry.set(QUEUED);
            self.queue.push_back(socket.0);
        }
    }

    /// Puts a listener there.
    pub(super) fn enqueue_listener(&mut self, listener: u16) {
        self.queue.push_back(LISTENER | u32::from(listener));
    }

    /// Takes the first place out of the queue.
    pub(super) fn dequeue(&mut self) -> Option<u32> {
        loop {
            let place = self.queue.pop_front()?;
            if place & LISTENER != 0 {
                return Some(place);
            }
            if let Some(entry) = self.entries.get_mut(place as usize)
                && entry.has(QUEUED)
            {
                entry.clear(QUEUED);
                return Some(place);
            }
        }
    }

    /// Whether something can be done.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Gives back memory that a burst needed.
    pub(super) fn trim(&mut self) {
        self.queue.shrink_to(64);
    }
}

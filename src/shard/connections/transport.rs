//! What lies between the bytes on the wire and those that stages process and queue.
//!
//! A stage replaces the one before it, a transport outlives them all: it opens what was received
//! before a stage sees it (`tls.rs`), and seals what is queued as its send is built, never earlier
//! (`outbox/sealing.rs`), so that what waits can still be shared, dropped or compressed. Nothing
//! else may assume that a byte queued is a byte on the wire:
//!
//! - Counts of traffic and the driver's results are bytes on the wire. Outboxes, their marks and
//!   all limits count queued bytes, and, once they are sealed, those on the wire.
//! - A receive may open into several pieces, or into none yet.
//! - A reply leaves from its receive buffer only where the transport is plain.
//! - The end of the stream may need bytes of its own, which leave behind everything queued and
//!   before the writing side is shut down.

use std::num::NonZeroU32;

/// The transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Bytes pass as they are.
    Plain,
    Tls(TlsHandle),
}

/// Names the TLS side of a connection in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsHandle(NonZeroU32);

impl TlsHandle {
    /// The handle of a place in a slab.
    pub(super) fn new(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a shard has far fewer connections"))
    }

    pub(super) fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

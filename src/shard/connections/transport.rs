//! The transport between bytes on the wire and the bytes that stages process and queue.
//!
//! A stage replaces the previous one; the transport stays for the whole connection. It opens
//! received bytes before a stage gets them (`tls.rs`), and seals queued bytes when their send is
//! built, not earlier (`outbox/sealing.rs`), so that queued output can still be shared, dropped or
//! compressed. No other code may assume that queued bytes equal bytes on the wire:
//!
//! - Counts of traffic and results of the driver are bytes on the wire. Outboxes, their marks and
//!   all limits count queued bytes, and, once these are sealed, bytes on the wire.
//! - A receive may yield several pieces of content, or none yet.
//! - An in-place reply is sent only if the transport is plain.
//! - The end of the stream may need bytes of its own, which are sent after everything queued and
//!   before the writing side is shut down.

use std::num::NonZeroU32;

/// The transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Bytes are not changed.
    Plain,
    Tls(TlsHandle),
}

/// Identifies the TLS state of a connection in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsHandle(NonZeroU32);

impl TlsHandle {
    /// Makes the handle of an index in a slab.
    pub(super) fn new(place: usize) -> Self {
        let number = u32::try_from(place + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a shard has far fewer connections"))
    }

    pub(super) fn slab_index(self) -> usize {
        self.0.get() as usize - 1
    }
}

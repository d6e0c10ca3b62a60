//! What lies between the bytes on the wire and those that stages process and queue.
//!
//! A stage replaces the one before it, a transport outlives them all: it opens what was received
//! before a stage sees it, and seals what is queued as its send is built, never earlier, so that
//! what waits can still be shared, dropped or compressed. Nothing else may assume that a byte
//! queued is a byte on the wire:
//!
//! - Counts of traffic and the driver's results are bytes on the wire. Outboxes, their marks and
//!   all limits count queued bytes; [`Transport::queued_of`] converts what a send has taken.
//! - A receive may open into several pieces, or into none yet.
//! - A reply leaves from its receive buffer only where the transport can seal it in place.
//! - The end of the stream may need bytes of its own ([`Transport::finish`]), which leave behind
//!   everything queued and before the writing side is shut down.

use crate::driver::Batch;

/// The transport of a connection.
#[derive(Debug)]
pub(super) enum Transport {
    /// Bytes pass as they are.
    Plain,
}

impl Transport {
    /// Opens received bytes in place: returns the next piece of what they mean and moves `wire`
    /// past it. `None`: the transport needs more.
    #[expect(clippy::mut_mut, reason = "the input moves past what was opened")]
    #[inline]
    pub(super) fn open<'w>(&mut self, wire: &mut &'w mut [u8]) -> Option<&'w mut [u8]> {
        match self {
            Self::Plain => Some(std::mem::take(wire)).filter(|bytes| !bytes.is_empty()),
        }
    }

    /// Seals the part of a batch that is about to be sent.
    #[inline]
    pub(super) fn seal(&mut self, batch: &mut Batch) {
        match self {
            Self::Plain => debug_assert!(batch.offered_bytes() > 0, "a send has something to send"),
        }
    }

    /// How many queued bytes have left with the first `wire` bytes of what was sealed last.
    #[inline]
    pub(super) fn queued_of(&mut self, wire: usize) -> usize {
        match self {
            Self::Plain => wire,
        }
    }

    /// Whether a reply may leave from the buffer that its message came in.
    #[inline]
    pub(super) fn seals_in_place(&self) -> bool {
        match self {
            Self::Plain => true,
        }
    }

    /// Seals the end of a receive buffer in place, from `start` on; returns where the bytes to be
    /// sent begin. Only where [`Self::seals_in_place`].
    #[inline]
    pub(super) fn seal_in_place(&mut self, bytes: &mut [u8], start: usize) -> usize {
        match self {
            Self::Plain => {
                debug_assert!(start < bytes.len(), "a reply is not empty");
                start
            }
        }
    }

    /// The stream ends behind what is queued.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Plain => {}
        }
    }

    /// Whether the transport has bytes of its own to send.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        match self {
            Self::Plain => false,
        }
    }
}

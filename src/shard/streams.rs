//! Connections that fill whole receive buffers, received from in turn, one buffer each.
//!
//! A continuous receive brings all that a socket holds, which may be megabytes, before it can be
//! cancelled. With a few such connections the first would take every buffer in each turn, the
//! others would starve beside it, and the kernel's copies alone would hold each turn for
//! milliseconds. So a connection that fills buffers beside others, or that has left input
//! unfinished, *takes turns*: it queues here, and each turn of the shard receives one buffer from
//! each of the first few. It gets its continuous receive back once it sends less than half a buffer
//! at a time.
//!
//! Large messages use half of a turn's buffers at most (`rotation.rs`).
//!
//! Measured with `scripts/load-hostile.sh --kind large`: other connections were starved for 300 ms
//! without turns. Tried and rejected: a length for the continuous receive (Linux 6.17), which caps
//! nothing without bundles.

use super::Shard;
use super::core::Core;
use super::rotation::LARGE_BYTES;
use super::slot::Unfinished;
use crate::driver::{Driver, Input};

/// Bytes received in one turn from connections that take turns.
const TURN_BYTES: usize = 256 * 1024;

impl Core {
    /// Notes that a connection has received so many bytes at once. With the second half-full buffer
    /// of a turn it takes turns, and with the first in a turn that is long already.
    pub(super) fn note_stream(&mut self, index: u32, len: usize) {
        let most = self.config.engine.buffer_bytes as usize / 2;
        let is_first = !self.work.has_moved(index, most);
        if len < most || (is_first && self.work.turn_left() > self.work.turn_max() / 2) {
            return;
        }
        let slot = &mut self.slots[index as usize];
        if slot.unfinished == Unfinished::No {
            slot.unfinished = Unfinished::Lately;
        }
    }
}

impl<D: Driver> Shard<D> {
    /// Queues a connection for a receive of one buffer.
    pub(super) fn queue_stream(&mut self, index: u32) {
        let slot = &mut self.core.slots[index as usize];
        slot.held = true;
        let is_large = Core::partial_bytes(slot) >= LARGE_BYTES;
        self.streams.push(self.core.token(index), is_large);
    }

    /// Receives one buffer from each of the connections whose turn it is.
    pub(super) fn feed_streams(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let buffer_bytes = self.core.config.engine.buffer_bytes as usize;
        let mut left = (TURN_BYTES / buffer_bytes).max(2);
        let large_max = left / 2;
        self.streams.begin_turn();
        while left > 0
            && let Some(token) = self.streams.pop(large_max)
        {
            let Some(index) = self.core.find(token) else { continue };
            let slot = &mut self.core.slots[index as usize];
            slot.held = false;
            if !slot.paused {
                slot.input = Input::Likely;
                left -= 1;
            }
            self.settle(index);
        }
        self.cut |= !self.streams.is_empty();
    }
}

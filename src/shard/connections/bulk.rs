//! Connections that fill whole receive buffers, received from in turn, one buffer each.
//!
//! A multishot receive delivers all that a socket holds, which may be megabytes, before it can be
//! cancelled. With a few such connections, the first would fill every buffer in each turn, the
//! others would starve, and the kernel's copies alone would take milliseconds of each turn. So a
//! connection that fills buffers while others are active, or that has left input unfinished, *takes
//! turns*: it is queued here, and each turn of the shard receives one buffer from each of the first
//! few. It gets its multishot receive back once it sends less than half a buffer at a time.
//!
//! Large messages use at most half of a turn's buffers (`rotation.rs`).
//!
//! Measured with `scripts/load-hostile.sh --kind large`: without turns, other connections were
//! starved for 300 ms. Tried and rejected: a length limit for the multishot receive (Linux 6.17),
//! which has no effect without bundles.

use super::Connections;
use super::rotation::LARGE_BYTES;
use crate::driver::Driver;

/// Bytes received in one turn from connections that take turns.
const TURN_BYTES: usize = 256 * 1024;

impl Connections {
    /// Records that a connection has received this many bytes at once. With its second half-full
    /// buffer in a turn the connection starts to take turns; in a turn that is already long, with
    /// its first.
    pub(super) fn note_bulk_input(&mut self, index: u32, len: usize) {
        let most = self.config.engine.buffer_bytes as usize / 2;
        let is_first = !self.work.has_moved(index, most);
        if len < most || (is_first && self.work.turn_left() > self.work.turn_max() / 2) {
            return;
        }
        self.slot_mut(index).receiving_mut().begin_turns();
    }

    /// Queues a connection for its next receive of one buffer.
    pub(super) fn queue_bulk_receive(&mut self, index: u32) {
        let is_large = self.slot(index).partial_bytes() >= LARGE_BYTES;
        self.bulk.push(self.token(index), is_large);
    }

    /// Receives one buffer from each of the next connections in the queue; returns whether more are
    /// queued.
    pub(in crate::shard) fn receive_bulk(&mut self, driver: &mut impl Driver) -> bool {
        if self.bulk.is_empty() {
            return false;
        }
        let buffer_bytes = self.config.engine.buffer_bytes as usize;
        let mut left = (TURN_BYTES / buffer_bytes).max(2);
        let large_max = left / 2;
        self.bulk.begin_turn();
        while left > 0
            && let Some(token) = self.bulk.pop(large_max)
        {
            let Some(index) = self.find(token) else { continue };
            left -= usize::from(self.slot_mut(index).receiving_mut().take_turn());
            self.reconcile(driver, index);
        }
        !self.bulk.is_empty()
    }

    /// Arms the receives again that had found no free buffer.
    pub(in crate::shard) fn receive_starved(&mut self, driver: &mut impl Driver) {
        if self.starved.is_empty() || !driver.has_buffers() {
            return;
        }
        let mut starved = std::mem::take(&mut self.starved);
        for token in starved.drain(..) {
            if let Some(index) = self.find(token) {
                self.slot_mut(index).receiving_mut().end_wait();
                self.reconcile(driver, index);
            }
        }
        // Keep the capacity.
        self.starved = starved;
    }

    /// Returns whether all input that had arrived is processed: no deferred work, unfinished input,
    /// or pending receive is queued.
    pub(in crate::shard) fn is_caught_up(&self) -> bool {
        self.deferred.is_empty()
            && self.unfinished.is_empty()
            && self.starved.is_empty()
            && self.bulk.is_empty()
    }
}

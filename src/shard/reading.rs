//! Backpressure: whether a connection's input is looked at, held, or not received at all.
//!
//! A connection is *ready* while its own outbox and those of all connections have room, and the
//! hub waits for nothing on its behalf. Only then is its input looked at. What was received
//! otherwise is held in order, and the connection is *unfinished*: it has held input, or a message
//! that is inflated or answered in part. Unfinished connections that are ready queue for the end of
//! a turn's input; those that are not are looked at again by [`Core::reconsider`], which whoever
//! makes room calls: a send that has ended, a home that has answered, a mailbox that has drained.
//!
//! Always: an unfinished connection that is ready is queued. Replies queued ahead of what a client
//! reads stay within `outbox_bytes_max` and one largest reply, and its unanswered requests within
//! one message and the receive buffers that were under way.

use super::Shard;
use super::core::Core;
use super::rotation::LARGE_BYTES;
use super::slot::{Slot, Stage, Unfinished};
use super::upkeep::Chore;
use crate::driver::Driver;

/// Shares of a turn that go to connections in the middle of a large message.
const LARGE_SHARES_MAX: usize = 2;

impl Core {
    /// Whether the connection's input may be looked at.
    #[inline]
    pub(super) fn is_ready(&self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        if matches!(slot.stage, Stage::Closing { .. }) {
            // Only the peer's Close is looked for, and nothing is answered.
            return true;
        }
        self.has_outbox_room(slot) && !(self.hub.is_some() && self.hub_waits(index))
    }

    /// Whether one more reply may be queued. Once reading has paused, it takes more room to go on.
    #[inline]
    pub(super) fn has_outbox_room(&self, slot: &Slot) -> bool {
        let Some(outbox) = &slot.outbox else { return true };
        let limits = &self.config.limits;
        let most = if slot.paused { limits.outbox_low_bytes } else { limits.outbox_high_bytes };
        outbox.bytes() <= most && !self.crowds(outbox.bytes())
    }

    /// Whether an outbox of so many bytes is one of those that fill the memory for all outboxes.
    /// Those with less than their share are not the cause, and are served as ever.
    pub(super) fn crowds(&self, outbox_bytes: usize) -> bool {
        let most = self.config.limits.outbox_shard_bytes_max as u64;
        self.gauges.outbox_bytes > most && outbox_bytes as u64 > most / self.slots.len() as u64
    }

    /// Holds input that may not be looked at now.
    pub(super) fn hold(&mut self, index: u32, bytes: &[u8]) {
        self.held.push(index, bytes);
        let slot = &mut self.slots[index as usize];
        if !slot.is_unfinished() {
            slot.unfinished = Unfinished::Waiting;
        }
        // Until it was looked at, nothing more is received.
        self.pause(index);
        let unfinished = self.gauges.partial_bytes + self.held.bytes() as u64;
        if unfinished > self.config.limits.partial_shard_bytes_max {
            self.refuse_partial(index);
        }
    }

    /// Receives nothing more for now.
    fn pause(&mut self, index: u32) {
        if !std::mem::replace(&mut self.slots[index as usize].paused, true) {
            self.counters.read_pauses += 1;
            // The send deadline applies from now on.
            self.set_deadline(index);
        }
    }

    /// The one rule of pausing and resuming, applied after anything that may change its outcome.
    pub(super) fn reconsider(&mut self, index: u32) {
        let Some(slot) = self.slots.get(index as usize) else { return };
        if !slot.stage.is_open() || !(slot.is_unfinished() || slot.paused) {
            return;
        }
        let (unfinished, bytes) =
            (slot.is_unfinished(), slot.outbox.as_ref().map_or(0, |outbox| outbox.bytes()));
        if !self.is_ready(index) {
            self.pause(index);
            if self.crowds(bytes) {
                self.throttle(index);
            }
        } else if unfinished {
            self.queue_unfinished(index);
        } else {
            self.slots[index as usize].paused = false;
        }
    }

    /// Notes whether anything of the connection's input is left to be done, and queues it if so.
    pub(super) fn note_unfinished(&mut self, index: u32) {
        let has_requests = self.hub.is_some() && self.hub_has_requests(index);
        let is_held = self.held.len(index) > 0;
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let was_unfinished = slot.is_unfinished();
        let is_unfinished = match &slot.stage {
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => {
                has_requests || is_held || receiver.is_suspended()
            }
            _ => false,
        };
        slot.unfinished = match (is_unfinished, slot.unfinished) {
            (false, Unfinished::No) => Unfinished::No,
            (false, _) => Unfinished::Lately,
            (true, Unfinished::Queued) => Unfinished::Queued,
            (true, _) => Unfinished::Waiting,
        };
        let is_over = slot.input_ended && slot.stage.is_open() && !is_unfinished;
        if was_unfinished && is_over {
            // The peer's end came behind what was held.
            self.do_later(index, Chore::Finish);
        } else if is_unfinished || slot.paused {
            self.reconsider(index);
        }
    }

    fn queue_unfinished(&mut self, index: u32) {
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        if std::mem::replace(&mut slot.unfinished, Unfinished::Queued) != Unfinished::Queued {
            let is_large = Self::partial_bytes(slot) >= LARGE_BYTES;
            self.unfinished.push(token, is_large);
        }
    }

    /// Lists the connection among those that are looked at when all outboxes together have drained.
    fn throttle(&mut self, index: u32) {
        let token = self.token(index);
        if !std::mem::replace(&mut self.slots[index as usize].throttled, true) {
            self.throttled.push(token);
        }
    }

    /// Continues with what was held of a connection, by one share.
    fn continue_input(&mut self, index: u32) {
        self.work.begin_fresh_slice();
        self.work.spend_frame();
        if self.hub.is_some() && self.hub_has_requests(index) {
            self.hub_continue(index);
        }
        let may_go_on = self.slots.get(index as usize).is_some_and(|slot| slot.stage.is_open())
            && self.is_ready(index)
            && !(self.hub.is_some() && self.hub_has_requests(index));
        if may_go_on && !self.work.is_share_spent() {
            let (mut bytes, start) = self.held.take(index);
            let rest = self.look_at_input(index, &mut bytes[start..], false).rest;
            let goes_on = self.slots[index as usize].stage.is_open();
            self.held.put_back(index, bytes, if goes_on { rest } else { 0 });
        }
        self.work.end_slice(index);
        self.note_unfinished(index);
    }
}

impl<D: Driver> Shard<D> {
    /// Serves unfinished connections in turn, until the turn's effort is spent; one share at least,
    /// so that they come to an end whatever the others do.
    pub(super) fn serve_unfinished(&mut self) {
        let least = self.core.work.spent() + self.core.work.share_max();
        self.core.unfinished.begin_turn();
        while let Some(token) = self.core.unfinished.pop(LARGE_SHARES_MAX) {
            let Some(index) = self.core.find(token) else { continue };
            let slot = &mut self.core.slots[index as usize];
            if slot.unfinished != Unfinished::Queued {
                // It was finished, or begun anew, since it was queued.
                continue;
            }
            slot.unfinished = Unfinished::Waiting;
            if !self.core.is_ready(index) {
                self.core.reconsider(index);
                continue;
            }
            self.core.counters.inputs_continued += 1;
            self.core.continue_input(index);
            self.settle(index);
            if self.core.work.is_turn_spent() && self.core.work.spent() >= least {
                break;
            }
        }
        self.cut |= !self.core.unfinished.is_empty();
    }

    /// Looks again at connections that were stopped because all outboxes together were full.
    pub(super) fn feed_throttled(&mut self) {
        let low = self.core.config.limits.outbox_shard_bytes_max as u64 / 2;
        if self.core.throttled.is_empty() || self.core.gauges.outbox_bytes > low {
            return;
        }
        for token in std::mem::take(&mut self.core.throttled) {
            if let Some(index) = self.core.find(token) {
                self.core.slots[index as usize].throttled = false;
                self.core.reconsider(index);
                self.settle(index);
            }
        }
    }
}

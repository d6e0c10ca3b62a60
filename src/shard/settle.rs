//! Tells the driver what follows from a slot's state.
//!
//! [`Shard::settle`] is called after whatever may have changed a slot. It compares what should be
//! in the kernel with what is there and asks for the difference, so no transition has to remember
//! which operations it must start or cancel.

use super::Shard;
use super::compression::compress_waiting;
use super::slot::{Armed, Cancel, Parked, Stage, Teardown, Unfinished};
use crate::driver::Driver;

impl<D: Driver> Shard<D> {
    pub(super) fn settle(&mut self, index: u32) {
        let core = &mut self.core;
        let slot = &mut core.slots[index as usize];
        if slot.outbox.is_none() {
            match slot.stage {
                Stage::Finishing => core.abort(index, 1006),
                Stage::Lingering { .. } if slot.input_ended => core.abort(index, 1006),
                _ => {}
            }
        }
        let token = core.token(index);
        let slot = &mut core.slots[index as usize];
        let socket = slot.socket;
        if matches!(slot.stage, Stage::Ending) {
            if slot.in_flight == 0 && slot.teardown != Teardown::Socket {
                slot.teardown = Teardown::Socket;
                slot.in_flight = 1;
                self.driver.close(socket, token);
            } else if slot.cancel == Cancel::Unasked && slot.is_cancellable() {
                // What has completed meanwhile, or was just between two waits, is looked at again.
                slot.cancel = Cancel::Asked;
                slot.in_flight += 1;
                self.driver.cancel_all(socket, token);
            }
            return;
        }
        if matches!(slot.stage, Stage::Lingering { .. })
            && slot.outbox.is_none()
            && slot.teardown == Teardown::Nothing
        {
            slot.teardown = Teardown::Writing;
            slot.in_flight += 1;
            // The answer ends here, and the time for the peer's FIN begins.
            slot.stage_tick = core.tick;
            core.set_deadline(index);
            self.driver.shutdown(socket, token);
        }
        let slot = &mut core.slots[index as usize];
        if slot.paused {
            if slot.armed != Armed::Nothing && slot.cancel == Cancel::Unasked {
                slot.cancel = Cancel::Asked;
                slot.in_flight += 1;
                self.driver.cancel_receive(socket, token);
            }
        } else {
            self.listen_to(index);
        }
        let slot = &mut self.core.slots[index as usize];
        let ready = match &slot.outbox {
            Some(outbox) => !outbox.is_sending(),
            None => self.core.hub.is_some() && self.core.has_backlog(index),
        };
        let slot = &mut self.core.slots[index as usize];
        if ready && !slot.dirty && !slot.lending {
            slot.dirty = true;
            self.core.dirty.push(index);
        }
    }

    /// Arms what is to tell of input: a receive, or for a parked connection a watch, and one
    /// receive after the watch has found something. Whatever is armed sees what came before it was,
    /// so nothing is lost in a change.
    ///
    /// A handshake takes one receive at a time, mostly a single one, and nothing is armed once the
    /// peer has said its last word: a connection that opens, is watched, and closes needs no
    /// cancellation.
    fn listen_to(&mut self, index: u32) {
        let token = self.core.token(index);
        let slot = &mut self.core.slots[index as usize];
        let socket = slot.socket;
        let parked = slot.parked == Parked::Yes;
        if parked && slot.armed == Armed::Streaming && slot.cancel == Cancel::Unasked {
            slot.cancel = Cancel::Asked;
            slot.in_flight += 1;
            self.driver.cancel_receive(socket, token);
        } else if slot.armed == Armed::Nothing && slot.may_hear() {
            slot.in_flight += 1;
            let readable = std::mem::take(&mut slot.readable);
            if readable || slot.stage.is_handshake() || slot.unfinished != Unfinished::No {
                slot.armed = Armed::Once;
                self.driver.receive_once(socket, token, readable);
            } else if parked {
                slot.armed = Armed::Watch;
                self.driver.watch(socket, token);
            } else {
                slot.armed = Armed::Streaming;
                self.driver.receive(socket, token);
            }
        }
    }

    /// Sends what the turn has queued, one send a connection.
    pub(super) fn flush(&mut self) {
        let core = &mut self.core;
        let bounds = core.config.send_bounds();
        let mut unwatched = Vec::new();
        // Compression gets what is left of the turn, and a share at least.
        let mut effort = core.work.turn_left().max(core.work.share_max());
        let mut waiting_to_compress = Vec::new();
        let mut dirty = std::mem::take(&mut core.dirty);
        for index in dirty.drain(..) {
            let share = effort.min(core.work.share_max());
            core.deflaters.set_allowance(share);
            let began = core.deflaters.work().effort;
            if core.hub.is_some() && core.has_backlog(index) {
                core.refill(index, bounds.bytes_max);
            }
            let Some(slot) = core.slots.get_mut(index as usize).filter(|slot| slot.dirty) else {
                continue;
            };
            slot.dirty = false;
            let Some(outbox) = &mut slot.outbox else { continue };
            if matches!(slot.stage, Stage::Ending) || slot.lending {
                continue;
            }
            if outbox.has_later() && !outbox.is_sending() {
                let level = core.config.route_options[usize::from(slot.route)].compression_level;
                let parts = (&mut core.deflaters, &mut core.pools, &mut core.gauges);
                compress_waiting(slot, level, bounds.bytes_max, parts);
            }
            let spent = core.deflaters.work().effort - began;
            core.work.spend(spent);
            effort = effort.saturating_sub(spent);
            let Some(outbox) = &mut slot.outbox else { continue };
            let waiting = outbox.bytes() as u64;
            let Some(mut batch) = outbox.take_batch(bounds) else {
                if outbox.has_later() && !outbox.is_sending() {
                    slot.dirty = true;
                    waiting_to_compress.push((spent > 0, index));
                }
                continue;
            };
            core.histograms.send_queue_bytes.record(waiting);
            batch.offer(bounds.bytes_max);
            core.work.spend_moved(batch.offered());
            batch.token = crate::driver::Token { slot: index, generation: slot.generation };
            slot.in_flight += 1;
            self.driver.send(slot.socket, batch);
            if slot.timer.tick == super::timers::UNSET {
                unwatched.push(index);
            }
        }
        debug_assert!(core.dirty.is_empty(), "building sends makes nothing dirty");
        core.dirty = dirty;
        core.deflaters.set_allowance(u64::MAX);
        // Those that have had nothing of this turn come first in the next.
        waiting_to_compress.sort_by_key(|(served, _)| *served);
        core.dirty.extend(waiting_to_compress.iter().map(|(_, index)| *index));
        self.cut |= !core.dirty.is_empty();
        // Every other timer looks at the send deadline too; these have none but that.
        for index in unwatched {
            self.core.set_deadline(index);
        }
    }

    /// Arms receives again that had found no buffer.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() || !self.driver.has_buffers() {
            return;
        }
        let mut starved = std::mem::take(&mut self.starved);
        for token in starved.drain(..) {
            if let Some(index) = self.core.find(token) {
                self.core.slots[index as usize].held = false;
                self.settle(index);
            }
        }
        // Keeps the capacity.
        self.starved = starved;
    }
}

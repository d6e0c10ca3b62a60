//! Tells the driver what follows from a slot's state.
//!
//! [`Shard::settle`] is called after whatever may have changed a slot. It compares what should be
//! in the kernel with what is there and asks for the difference, so no transition has to remember
//! which operations it must start or cancel.

use std::io;

use super::Shard;
use super::compression::compress_waiting;
use super::core::Core;
use super::slot::{Armed, Cancel, Parked, Stage, Teardown};
use crate::driver::batch::Bounds;
use crate::driver::{Batch, Driver, Input, Token, Wait};
use crate::proto::ws::CloseCode;

/// Bytes that one turn hands to the kernel, which copies them while all others wait; past it only
/// short sends leave, and the others with the next turns.
const MOVED_BYTES_MAX: usize = 512 * 1024;
/// What a short send is.
const SMALL_BYTES: u64 = 16 * 1024;

/// What is left to the connections of one flush.
struct Flushing {
    bounds: Bounds,
    /// Effort for compression.
    effort: u64,
    moved_bytes: usize,
}

/// What becomes of a connection with output.
enum Next {
    Nothing,
    /// Its output has to wait for the next turn; `was_served`: some of it was compressed.
    Deferred {
        was_served: bool,
    },
    Send(Box<Batch>),
}

impl Core {
    /// Builds a connection's next send, within what is left of the flush.
    fn next_send(&mut self, index: u32, flushing: &mut Flushing) -> Next {
        let bounds = flushing.bounds;
        self.deflaters.set_allowance(flushing.effort.min(self.work.share_max()));
        let began = self.deflaters.work().effort;
        if self.hub.is_some() && self.has_backlog(index) {
            self.refill(index, bounds.bytes_max);
        }
        let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.dirty) else {
            return Next::Nothing;
        };
        slot.dirty = false;
        let Some(outbox) = &mut slot.outbox else { return Next::Nothing };
        if matches!(slot.stage, Stage::Ending) || slot.lending || outbox.is_sending() {
            return Next::Nothing;
        }
        if outbox.has_later() {
            let level = self.config.route_options[usize::from(slot.route)].compression_level;
            let parts = (&mut self.deflaters, &mut self.pools, &mut self.gauges);
            compress_waiting(slot, level, bounds.bytes_max, parts);
        }
        let spent = self.deflaters.work().effort - began;
        self.work.spend(spent);
        flushing.effort = flushing.effort.saturating_sub(spent);
        let Some(outbox) = &mut slot.outbox else { return Next::Nothing };
        let queued = outbox.bytes() as u64;
        if flushing.moved_bytes > MOVED_BYTES_MAX && queued > SMALL_BYTES {
            return Next::Deferred { was_served: false };
        }
        let Some(mut batch) = outbox.take_batch(bounds) else {
            if outbox.has_later() {
                return Next::Deferred { was_served: spent > 0 };
            }
            return Next::Nothing;
        };
        self.histograms.send_queue_bytes.record(queued);
        batch.offer(bounds.bytes_max);
        batch.token = Token { slot: index, generation: slot.generation };
        self.work.spend_moved(batch.offered());
        flushing.moved_bytes += batch.offered();
        Next::Send(batch)
    }
}

impl<D: Driver> Shard<D> {
    pub(super) fn settle(&mut self, index: u32) {
        let core = &mut self.core;
        let slot = &mut core.slots[index as usize];
        if slot.outbox.is_none() && !slot.lending {
            match slot.stage {
                Stage::Finishing => core.abort(index, CloseCode::ABNORMAL),
                Stage::Lingering { .. } if slot.input_ended => {
                    core.abort(index, CloseCode::ABNORMAL);
                }
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
        let takes_turns = slot.takes_turns();
        if (parked || takes_turns)
            && slot.armed == Armed::Streaming
            && slot.cancel == Cancel::Unasked
        {
            slot.cancel = Cancel::Asked;
            slot.in_flight += 1;
            self.driver.cancel_receive(socket, token);
        } else if slot.armed == Armed::Nothing && slot.may_hear() {
            if takes_turns && slot.input == Input::Unknown {
                return self.queue_stream(index);
            }
            slot.in_flight += 1;
            let input = std::mem::replace(&mut slot.input, Input::Unknown);
            if input != Input::Unknown || slot.stage.is_handshake() {
                slot.armed = Armed::Once;
                self.driver.receive_once(socket, token, input);
            } else if parked {
                slot.armed = Armed::Watch;
                self.driver.watch(socket, token);
            } else {
                slot.armed = Armed::Streaming;
                self.driver.receive(socket, token);
            }
        }
    }

    /// Sends what the turn has queued, one send a connection. What exceeds the turn's bounds of
    /// compression and of bytes moved is deferred to the next.
    pub(super) fn flush(&mut self) {
        // Compression gets the rest of the turn, but half of a turn at most, since what has come
        // meanwhile waits for it, and a share at least.
        let work = &self.core.work;
        let effort = work.turn_left().min(work.turn_max() / 2).max(work.share_max());
        let bounds = self.core.config.send_bounds();
        self.flush_within(Flushing { bounds, effort, moved_bytes: 0 });
        self.cut |= !self.core.dirty.is_empty();
    }

    /// Sends short output at once, and leaves the rest for [`Self::flush`].
    ///
    /// # Errors
    /// When the driver can go on no longer.
    pub(super) fn send_ahead(&mut self) -> io::Result<()> {
        if self.core.dirty.is_empty() {
            return Ok(());
        }
        let bounds = self.core.config.send_bounds();
        self.flush_within(Flushing { bounds, effort: 0, moved_bytes: MOVED_BYTES_MAX + 1 });
        self.driver.submit(Wait::No)
    }

    fn flush_within(&mut self, mut flushing: Flushing) {
        let core = &mut self.core;
        let (mut unwatched, mut deferred) = (Vec::new(), Vec::new());
        let mut dirty = std::mem::take(&mut core.dirty);
        for index in dirty.drain(..) {
            match core.next_send(index, &mut flushing) {
                Next::Nothing => {}
                Next::Deferred { was_served } => {
                    core.slots[index as usize].dirty = true;
                    deferred.push((was_served, index));
                }
                Next::Send(batch) => {
                    let slot = &mut core.slots[index as usize];
                    slot.in_flight += 1;
                    self.driver.send(slot.socket, batch);
                    if slot.timer.tick == super::timers::UNSET {
                        unwatched.push(index);
                    }
                }
            }
        }
        debug_assert!(core.dirty.is_empty(), "building sends makes nothing dirty");
        core.dirty = dirty;
        core.deflaters.set_allowance(u64::MAX);
        // Connections that have had nothing of this turn come first in the next.
        deferred.sort_by_key(|(was_served, _)| *was_served);
        core.dirty.extend(deferred.iter().map(|(_, index)| *index));
        // Every other timer looks at the send deadline too; these have none but that.
        for index in unwatched {
            core.set_deadline(index);
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

//! Backpressure: whether a connection's input is processed, held, or not received at all.
//!
//! A connection is *ready* while its outbox, and all outboxes together, have room and its session
//! waits for nothing. Only then is its input processed; otherwise input is held, in order. A
//! connection is *unfinished* if it has held input, or a message that is inflated or answered in
//! part. Unfinished connections that are ready are queued, and served after the turn's new input.
//! Those that are not ready are checked again by [`Connections::reconsider`], which must be called
//! after everything that makes room: a completed send, a home's reply, a drained mailbox.
//!
//! Invariants: an unfinished connection that is ready is queued. Queued replies stay within
//! `outbox_bytes_max` plus one largest reply, and unanswered requests within one message plus the
//! receive buffers that were filled before reading paused.

use super::deferred::DeferredTask;
use super::rotation::LARGE_BYTES;
use super::slot::Slot;
use super::stage::Stage;
use super::transport::Transport;
use super::{Connections, SessionReadiness, Sessions};
use crate::driver::Driver;
use crate::session::hub::Budget;

/// The number of connections in the middle of a large message that are served in one turn.
const LARGE_SHARES_MAX: usize = 2;

/// The size of sessions' backlogs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct QueuedSize {
    /// Bytes that count towards the limits of outboxes.
    pub(in crate::shard) bytes: usize,
    /// Bytes of recovered messages, which have a limit of their own for all connections together.
    pub(in crate::shard) missed_bytes: usize,
}

impl Connections {
    /// Returns the bytes queued for all connections, in outboxes and backlogs.
    #[inline]
    pub(in crate::shard) fn queued_bytes(&self) -> u64 {
        self.pools.queued_bytes() + self.backlogs.bytes as u64
    }

    /// Counts a change of a session's backlog.
    pub(in crate::shard) fn count_backlog(&mut self, before: QueuedSize, after: QueuedSize) {
        let all = &mut self.backlogs;
        assert!(all.bytes >= before.bytes && all.missed_bytes >= before.missed_bytes);
        all.bytes = all.bytes - before.bytes + after.bytes;
        all.missed_bytes = all.missed_bytes - before.missed_bytes + after.missed_bytes;
    }

    /// Records the length of a connection's queue, for the peak.
    pub(in crate::shard) fn note_queue_peak(&mut self, bytes: usize) {
        self.gauges.outbox_bytes_peak = self.gauges.outbox_bytes_peak.max(bytes as u64);
    }

    /// Bytes in the outbox of a connection.
    pub(in crate::shard) fn outbox_bytes(&self, index: u32) -> usize {
        self.slot(index).queued_bytes()
    }

    /// Returns the bytes that a connection has sent.
    pub(in crate::shard) fn sent_bytes(&self, index: u32) -> u64 {
        self.slot(index).traffic().bytes_sent
    }

    /// Returns the bytes that a connection will have sent when its queue is sent; `None` if they
    /// change on their way, by encryption or compression.
    pub(in crate::shard) fn position_when_sent(&self, index: u32) -> Option<u64> {
        let slot = self.slot(index);
        let Stage::Open(receiver) = slot.stage() else { return None };
        let is_plain = slot.transport() == Transport::Plain && receiver.sending().is_none();
        is_plain.then(|| slot.traffic().bytes_sent + slot.queued_bytes() as u64)
    }

    /// Sets the readiness of a connection's session. If it has become ready, [`Self::reconsider`]
    /// must follow.
    pub(in crate::shard) fn set_readiness(&mut self, index: u32, state: SessionReadiness) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.set_readiness(state);
        }
    }

    /// Returns the budget of requests for the session of the slice's connection.
    pub(in crate::shard) fn request_budget(&self, index: u32) -> Budget {
        self.work.budget(&self.config.limits, self.outbox_bytes(index))
    }

    /// Returns the readiness of a connection's session, as last set.
    pub(in crate::shard) fn readiness(&self, index: u32) -> SessionReadiness {
        self.slot(index).readiness()
    }

    /// Returns the size of all sessions' backlogs.
    pub(in crate::shard) fn backlogs(&self) -> QueuedSize {
        self.backlogs
    }

    /// Returns whether the connection's input may be processed.
    #[inline]
    pub(super) fn is_ready(&self, index: u32) -> bool {
        let slot = self.slot(index);
        // Closing: input is only searched for the peer's Close, and causes no replies.
        matches!(slot.stage(), Stage::Closing { .. })
            || (!slot.readiness().is_waiting() && self.has_outbox_room(slot))
    }

    /// Returns whether one more reply may be queued. While reading is paused, more room is
    /// required.
    #[inline]
    fn has_outbox_room(&self, slot: &Slot) -> bool {
        let Some(outbox) = slot.outbox() else { return true };
        let limits = &self.config.limits;
        let is_paused = slot.receiving().is_paused();
        let most = if is_paused { limits.outbox_low_bytes } else { limits.outbox_high_bytes };
        outbox.bytes() <= most && !self.exceeds_fair_share(outbox.bytes())
    }

    /// Returns the bytes of replies that may be queued before the connection must be checked again.
    #[inline]
    pub(super) fn reply_room_bytes(&self, index: u32) -> usize {
        let limits = &self.config.limits;
        let own = limits.outbox_high_bytes.saturating_sub(self.slot(index).queued_bytes());
        let all = (limits.outbox_shard_bytes_max as u64).saturating_sub(self.queued_bytes());
        own.min(usize::try_from(all).unwrap_or(usize::MAX))
    }

    /// Returns whether all queues together exceed their memory, and a queue of this length exceeds
    /// its share of that. Connections below their share are served as usual.
    pub(in crate::shard) fn exceeds_fair_share(&self, queue_bytes: usize) -> bool {
        let most = self.config.limits.outbox_shard_bytes_max as u64;
        self.queued_bytes() > most && queue_bytes as u64 > most / self.slots.len() as u64
    }

    /// Returns whether the next frame of the current input may be processed within this slice.
    #[inline]
    pub(super) fn may_continue(&self, index: u32) -> bool {
        let slot = self.slot(index);
        !self.work.is_share_spent()
            && slot.readiness().may_take_more()
            && self.has_outbox_room(slot)
    }

    /// Holds input that cannot be processed now.
    pub(super) fn hold_input(&mut self, sessions: &mut impl Sessions, index: u32, bytes: &[u8]) {
        self.held.push(index, bytes);
        let receiving = self.slot_mut(index).receiving_mut();
        if !receiving.is_unfinished() {
            receiving.set_unfinished(true);
        }
        // Pause until the held input has been processed.
        self.pause_receiving(index);
        if self.has_too_much_unfinished() {
            self.close_for_partial(sessions, index);
        }
    }

    /// Returns whether unfinished requests and messages and held input exceed their limit.
    pub(super) fn has_too_much_unfinished(&self) -> bool {
        let unfinished = self.partials.bytes() + self.held.bytes() as u64;
        unfinished > self.config.limits.partial_shard_bytes_max
    }

    /// Pauses receiving.
    pub(super) fn pause_receiving(&mut self, index: u32) {
        if self.slot_mut(index).receiving_mut().pause() {
            self.counters.read_pauses += 1;
            // The send deadline applies from now on.
            self.set_deadline(index);
        }
    }

    /// Decides whether a connection pauses or resumes. Call it after anything that may change the
    /// outcome; no other code resumes a connection.
    pub(in crate::shard) fn reconsider(&mut self, index: u32) {
        let Some(slot) = self.slots.get(index as usize) else { return };
        let receiving = slot.receiving();
        let is_unfinished = receiving.is_unfinished();
        if !slot.stage().is_websocket() || !(is_unfinished || receiving.is_paused()) {
            return;
        }
        let bytes = slot.queued_bytes();
        if !self.is_ready(index) {
            self.pause_receiving(index);
            if self.exceeds_fair_share(bytes) {
                self.list_throttled(index);
            }
        } else if is_unfinished {
            self.queue_unfinished(index);
        } else {
            self.slot_mut(index).receiving_mut().resume();
        }
    }

    /// Updates whether anything of the connection's input is unfinished, and queues it if so.
    pub(in crate::shard) fn note_unfinished(&mut self, index: u32) {
        let is_held = self.held.len(index) > 0;
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let has_requests = slot.readiness().has_requests();
        let is_unfinished = match slot.stage() {
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => {
                has_requests || is_held || receiver.is_suspended()
            }
            _ => false,
        };
        let is_open = slot.stage().is_websocket();
        let receiving = slot.receiving_mut();
        let was_unfinished = receiving.set_unfinished(is_unfinished);
        let is_over = receiving.has_ended() && is_open && !is_unfinished;
        if was_unfinished && is_over {
            // The end of the input was received behind the held input.
            self.defer_task(index, DeferredTask::Finish);
        } else if is_unfinished || receiving.is_paused() {
            self.reconsider(index);
        }
    }

    fn queue_unfinished(&mut self, index: u32) {
        let token = self.token(index);
        let slot = self.slot_mut(index);
        if slot.receiving_mut().mark_queued() {
            let is_large = slot.partial_bytes() >= LARGE_BYTES;
            self.unfinished.push(token, is_large);
        }
    }

    /// Lists the connection among those that are checked again when all outboxes together have
    /// drained.
    fn list_throttled(&mut self, index: u32) {
        let token = self.token(index);
        if self.slot_mut(index).receiving_mut().mark_throttled() {
            self.throttled.push(token);
        }
    }

    /// Removes ended connections from the list of throttled ones, which is otherwise only read when
    /// the shortage has ended.
    pub(super) fn trim_throttled(&mut self) {
        if self.throttled.len() > self.slots.len() {
            let mut throttled = std::mem::take(&mut self.throttled);
            throttled.retain(|token| self.find(*token).is_some());
            self.throttled = throttled;
        }
    }

    /// Returns whether all queues together are so long that pausing is not enough, and a queue of
    /// this length exceeds its share.
    pub(in crate::shard) fn is_far_over(&self, queue_bytes: usize) -> bool {
        let most = 2 * self.config.limits.outbox_shard_bytes_max as u64;
        self.queued_bytes() > most && self.exceeds_fair_share(queue_bytes)
    }

    /// Closes a connection that exceeds a limit of queued bytes. If only its own outbox is long,
    /// its input is paused instead.
    pub(super) fn check_outbox(&mut self, sessions: &mut impl Sessions, index: u32) {
        let slot = self.slot(index);
        let Some(outbox) = slot.outbox().filter(|_| slot.stage().is_websocket()) else { return };
        let bytes = outbox.bytes();
        self.note_queue_peak(bytes);
        // Pausing is not enough if very many connections grow from little to much at once.
        let limits = &self.config.limits;
        if bytes > limits.outbox_bytes_max || self.is_far_over(bytes) {
            self.close_slow_consumer(sessions, index);
        }
    }

    /// Processes held input of a connection, one share of it.
    fn continue_input(&mut self, sessions: &mut impl Sessions, index: u32) {
        self.work.begin_fresh_slice();
        self.work.spend_frame();
        if self.slot(index).readiness().has_requests() {
            sessions.resume_requests(self, index);
        }
        let may_continue =
            self.slots.get(index as usize).is_some_and(|slot| {
                slot.stage().is_websocket() && !slot.readiness().has_requests()
            }) && self.is_ready(index);
        if may_continue && !self.work.is_share_spent() {
            let (mut bytes, start) = self.held.take(index);
            let rest = self.process_within_share(sessions, index, &mut bytes[start..], false).rest;
            let is_open = self.slot(index).stage().is_websocket();
            self.held.put_back(index, bytes, if is_open { rest } else { 0 });
        }
        self.work.end_slice(index);
        self.note_unfinished(index);
    }

    /// Serves unfinished connections in turn until the turn's effort is spent, but at least one, so
    /// that they finish whatever other connections do. Returns whether more are queued.
    pub(in crate::shard) fn serve_unfinished(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) -> bool {
        let least = self.work.spent_effort() + self.work.share_max();
        self.unfinished.begin_turn();
        while let Some(token) = self.unfinished.pop(LARGE_SHARES_MAX) {
            let Some(index) = self.find(token) else { continue };
            if !self.slot_mut(index).receiving_mut().unmark_queued() {
                // It was finished, or queued again, since it was queued.
                continue;
            }
            if !self.is_ready(index) {
                self.reconsider(index);
                continue;
            }
            self.counters.inputs_continued += 1;
            self.continue_input(sessions, index);
            self.reconcile(driver, index);
            if self.work.is_turn_spent() && self.work.spent_effort() >= least {
                break;
            }
        }
        self.has_unfinished()
    }

    /// Returns whether unfinished connections are queued.
    pub(in crate::shard) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Checks the connections again that were throttled because all outboxes together were full.
    pub(in crate::shard) fn resume_throttled(&mut self, driver: &mut impl Driver) {
        let low = self.config.limits.outbox_shard_bytes_max as u64 / 2;
        if self.throttled.is_empty() || self.queued_bytes() > low {
            return;
        }
        for token in std::mem::take(&mut self.throttled) {
            if let Some(index) = self.find(token) {
                self.slot_mut(index).receiving_mut().unmark_throttled();
                self.reconsider(index);
                self.reconcile(driver, index);
            }
        }
    }
}

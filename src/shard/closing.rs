//! Closing: every way in which a connection leaves the stages where messages flow.
//!
//! | call | what is sent | next stage |
//! | --- | --- | --- |
//! | [`Core::close`] | `goodbye`, Close | Closing: the peer's Close is awaited |
//! | [`Core::fail`] | `goodbye`, Close | Lingering: input is discarded |
//! | [`Core::close_slow_reader`] | the same, instead of the queue | Lingering |
//! | [`Core::refuse`] | an HTTP error | Lingering |
//! | [`Core::abort`] | nothing | Ending |
//!
//! Always: a connection leaves its stage once, so each is counted out once, by its close code; and
//! what is sent begins where a frame may, whatever has begun to leave before it.

use super::core::Core;
use super::journal::Particulars;
use super::slot::{Cancel, Stage, Unfinished};
use crate::admission::Standing;
use crate::proto::http::{self, Refusal};
use crate::proto::ws::{self, CloseCode};

/// A client that exceeded a limit is asked to stay away for so long, and at random for up to as
/// much more as below.
const EXCESS_RETRY_MIN_MS: u32 = 1000;
const EXCESS_RETRY_SPREAD_MS: u32 = 4000;

impl Core {
    /// Moves a connection to a stage in which no message flows any more, and takes it out of every
    /// count of its earlier stage.
    ///
    /// `code`: how the WebSocket ended, if it was open.
    pub(super) fn leave(&mut self, index: u32, next: Stage, code: CloseCode) {
        if self.slots[index as usize].stage.is_open() {
            self.log_close(index, code);
            self.hub_end(index);
            self.end_compression(index, matches!(next, Stage::Ending));
        }
        let slot = &mut self.slots[index as usize];
        if slot.stage.is_open() {
            self.counters.close(code);
            self.gauges.open -= 1;
            let route = usize::from(slot.route);
            let counter = self.config.route_options[route].counter;
            self.directory.admission().leave_route(route, counter);
        } else if slot.stage.is_handshake() {
            self.gauges.handshakes -= 1;
            // A connection to be rejected leaves this stage here: it is never opened.
            let refused = matches!(slot.standing, Standing::Refused(_));
            self.refused_handshakes -= u32::from(refused);
            self.counters.handshakes_abandoned += u64::from(matches!(next, Stage::Ending));
        }
        if !self.in_input {
            self.gauges.partial_bytes -= Self::partial_bytes(slot) as u64;
        }
        self.held.clear(index);
        let slot = &mut self.slots[index as usize];
        slot.unfinished = Unfinished::No;
        if matches!(next, Stage::Ending) {
            // A cancellation under way may be of the receive alone: all must be cancelled now.
            slot.cancel = Cancel::Unasked;
        }
        slot.stage = next;
        slot.stage_tick = self.tick;
        slot.paused = false;
        self.set_deadline(index);
    }

    /// Drops the connection; nothing more is sent.
    pub(super) fn abort(&mut self, index: u32, code: CloseCode) {
        if !matches!(self.slots[index as usize].stage, Stage::Ending) {
            self.leave(index, Stage::Ending, code);
        }
    }

    /// Sends a Close, with a `goodbye` before it where the hub is spoken, and awaits the peer's.
    pub(super) fn close(&mut self, index: u32, code: CloseCode, reason: &str, retry_after_ms: u32) {
        if !matches!(self.slots[index as usize].stage, Stage::Open(_)) {
            return;
        }
        self.say_goodbye(index, code, reason, retry_after_ms);
        self.hub_end(index);
        let slot = &mut self.slots[index as usize];
        let Stage::Open(receiver) = &mut slot.stage else { return };
        let receiver = std::mem::take(receiver);
        slot.stage = Stage::Closing { receiver, code };
        slot.stage_tick = self.tick;
        self.queue_close(index, code, reason);
        self.set_deadline(index);
        // Held input begins where a frame does, and the peer's Close may be in it.
        self.note_unfinished(index);
    }

    /// Sends a Close, with a `goodbye` before it where the hub is spoken, and looks at nothing that
    /// comes after it.
    pub(super) fn fail(&mut self, index: u32, code: CloseCode, reason: &str, retry_after_ms: u32) {
        if matches!(self.slots[index as usize].stage, Stage::Open(_)) {
            self.announce_close(index, code, reason, retry_after_ms);
            self.queue_close(index, code, reason);
        }
        self.leave(index, Stage::Lingering { discarded: 0 }, code);
    }

    /// Drops what is queued for a connection, except the rest of a frame that has begun to leave.
    pub(super) fn drop_queue(&mut self, index: u32) {
        if let Some(outbox) = &mut self.slots[index as usize].outbox {
            self.gauges.outbox_bytes -= outbox.drop_unsent(&mut self.pools) as u64;
            if outbox.is_empty() && !outbox.is_sending() {
                let outbox = self.slots[index as usize].outbox.take();
                outbox.into_iter().for_each(|outbox| self.pools.recycle_outbox(outbox));
            }
        }
        self.hub_drop_backlog(index);
    }

    pub(super) fn queue_close(&mut self, index: u32, code: CloseCode, reason: &str) {
        let mut frame = Vec::with_capacity(128);
        ws::append_close(&mut frame, code, reason);
        self.queue(index, &frame);
    }

    /// Closes the connection of a slow consumer, and drops its queue.
    pub(super) fn close_slow_reader(&mut self, index: u32) {
        const REASON: &str = "slow consumer: send queue is full";
        self.counters.slow_reader_closes += 1;
        let retry_after_ms = self.retry_after_excess_ms();
        self.drop_queue(index);
        self.fail(index, CloseCode::SLOW_CONSUMER, REASON, retry_after_ms);
    }

    /// How long a client that exceeded a limit is asked to stay away.
    pub(super) fn retry_after_excess_ms(&mut self) -> u32 {
        EXCESS_RETRY_MIN_MS + self.random(EXCESS_RETRY_SPREAD_MS)
    }

    /// Answers a request with an error, and lingers.
    pub(super) fn refuse(&mut self, index: u32, refusal: Refusal, message: &str) {
        self.counters.refuse(refusal);
        let retry_after_s = self.draining.then(|| self.drain_retry_after_s());
        let mut answer = Vec::with_capacity(512);
        http::refuse(refusal, message, retry_after_s, &mut answer);
        self.log_rejection(index, refusal.code(), |_| Particulars {
            code: refusal.status(),
            detail: message.to_owned(),
            ..Particulars::default()
        });
        self.queue(index, &answer);
        self.leave(index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
    }
}

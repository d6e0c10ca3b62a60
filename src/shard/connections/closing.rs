//! Closing: every way in which a connection leaves the stages where messages flow.
//!
//! | call | what is sent | next stage |
//! | --- | --- | --- |
//! | [`Connections::close`] | `goodbye`, Close | Closing: the peer's Close is awaited |
//! | [`Connections::fail_websocket`] | `goodbye`, Close | Lingering: input is discarded |
//! | [`Connections::close_slow_consumer`] | the same, instead of the queue | Lingering |
//! | [`Connections::reject`] | an HTTP error | Lingering |
//! | [`Connections::abort`] | nothing | Ending |
//!
//! Invariants: a connection leaves the open stages once, and so is counted once, by its close code.
//! Everything queued for a closing connection starts at a frame boundary, even if an earlier frame
//! was sent in part.

use super::journal::Particulars;
use super::stage::Stage;
use super::{Connections, Goodbye, Sessions};
use crate::proto::http::{self, Refusal};
use crate::proto::ws::{self, CloseCode};
use crate::tls::HandshakeFailure;

/// An error answer to a request.
#[derive(Clone, Debug)]
pub(super) struct Rejected<'m> {
    pub(super) refusal: Refusal,
    /// The reason and the remedy.
    pub(super) message: &'m str,
    /// The `Retry-After` header (s).
    pub(super) retry_after_s: Option<u32>,
    /// The reason in the log.
    pub(super) reason: &'static str,
}

/// The minimum time after which a client that exceeded a limit should reconnect, and the range of
/// the random time added to it.
const EXCESS_RETRY_MIN_MS: u32 = 1000;
const EXCESS_RETRY_SPREAD_MS: u32 = 4000;

impl Connections {
    /// Moves a connection to a stage without messages, and removes it from all counts of its
    /// earlier stage.
    ///
    /// `code`: how the WebSocket ended, if it was open.
    pub(super) fn leave(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        next: Stage,
        code: CloseCode,
    ) {
        if self.slot(index).stage().is_websocket() {
            self.log_close(index, code);
            self.end_session(sessions, index, code);
        }
        self.leave_stage(index, next, code);
    }

    /// Does the same, for a connection whose session has ended.
    fn leave_stage(&mut self, index: u32, next: Stage, code: CloseCode) {
        self.cancel_asking(index);
        self.cancel_opening(index);
        let is_ending = matches!(next, Stage::Ending);
        let slot = self.slot(index);
        if slot.stage().is_websocket() {
            let route = slot.route();
            self.end_compression(index, is_ending);
            self.counters.count_close(code);
            self.gauges.open -= 1;
            let counter = self.config.route_options[route].counter;
            self.directory.admission().leave_route(route, counter);
        } else if slot.stage().is_handshake() {
            // A connection being rejected always ends here, because it is never opened.
            let rejected = u32::from(slot.is_rejected());
            self.gauges.handshakes -= 1;
            self.rejected_handshakes -= rejected;
            self.counters.handshakes_abandoned += u64::from(is_ending);
        }
        if self.slot(index).receiving().is_unfinished() {
            self.held.clear(index);
        }
        let tick = self.tick;
        let slot = self.slot_mut(index);
        slot.receiving_mut().end_processing();
        if is_ending {
            // The cancellation in flight may be for the receive only: now all operations must be
            // cancelled.
            slot.receiving_mut().forget_cancel();
        }
        slot.enter_stage(next, tick);
        self.finish_transport(index);
        if self.partials.bytes_of(index) > 0 {
            self.partials.set_bytes(index, 0);
        }
        self.set_deadline(index);
    }

    /// Drops the connection; nothing more is sent.
    pub(in crate::shard) fn abort(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        code: CloseCode,
    ) {
        if !matches!(self.slot(index).stage(), Stage::Ending) {
            self.leave(sessions, index, Stage::Ending, code);
        }
    }

    /// Ends a connection whose WebSocket is closed, after everything queued was sent.
    pub(super) fn end_connection(&mut self, index: u32) {
        assert!(!self.slot(index).stage().is_websocket(), "a WebSocket is closed before it ends");
        self.leave_stage(index, Stage::Ending, CloseCode::ABNORMAL);
    }

    /// Drops a connection after a send or receive has failed.
    pub(super) fn drop_broken(&mut self, sessions: &mut impl Sessions, index: u32) {
        if !matches!(self.slot(index).stage(), Stage::Ending) {
            self.counters.connection_errors += 1;
            self.abort(sessions, index, CloseCode::ABNORMAL);
        }
    }

    /// Sends a Close, preceded by a `goodbye` if the session's protocol has one, and awaits the
    /// peer's.
    pub(in crate::shard) fn close(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        goodbye: Goodbye<'_>,
    ) {
        if !self.is_open(index) {
            return;
        }
        let wire_code = sessions.say_goodbye(self, index, goodbye, true);
        self.end_session(sessions, index, goodbye.code);
        let tick = self.tick;
        let slot = self.slot_mut(index);
        let Stage::Open(receiver) = slot.stage_mut() else { return };
        let receiver = std::mem::take(receiver);
        slot.enter_stage(Stage::Closing { receiver, code: goodbye.code }, tick);
        self.queue_close(index, wire_code, goodbye.reason);
        self.set_deadline(index);
        // Held input starts at a frame boundary, and may contain the peer's Close.
        self.note_unfinished(index);
    }

    /// Sends a Close, preceded by a `goodbye` if the session's protocol has one, and ignores all
    /// further input.
    pub(in crate::shard) fn fail_websocket(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        goodbye: Goodbye<'_>,
    ) {
        if self.is_open(index) {
            let wire_code = sessions.say_goodbye(self, index, goodbye, false);
            self.queue_close(index, wire_code, goodbye.reason);
        }
        self.leave(sessions, index, Stage::Lingering { discarded: 0 }, goodbye.code);
    }

    /// Closes the connection of a slow consumer, and drops its queue, except the rest of a frame
    /// that was sent in part.
    pub(in crate::shard) fn close_slow_consumer(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
    ) {
        self.counters.slow_reader_closes += 1;
        let goodbye = Goodbye {
            code: CloseCode::SLOW_CONSUMER,
            reason: "slow consumer: send queue is full",
            retry_after_ms: self.retry_after_excess_ms(),
        };
        self.drop_queue(index);
        sessions.drop_backlog(self, index);
        self.fail_websocket(sessions, index, goodbye);
    }

    /// Closes the connection whose message has just grown, because all unfinished messages together
    /// exceed their limit.
    pub(super) fn close_for_partial(&mut self, sessions: &mut impl Sessions, index: u32) {
        if self.slot(index).stage().is_websocket() {
            self.counters.partial_closes += 1;
            let goodbye = Goodbye {
                code: CloseCode::TRY_AGAIN_LATER,
                reason: "too many unfinished messages at once; retry later",
                retry_after_ms: self.retry_after_excess_ms(),
            };
            self.fail_websocket(sessions, index, goodbye);
        } else {
            let message = "too many unfinished messages at once; retry later";
            self.reject_asking(sessions, index, message);
            self.reject_forwarding(sessions, index, message);
        }
    }

    fn drop_queue(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if let Some(outbox) = slot.outbox_mut() {
            outbox.drop_unsent(&mut self.pools);
            slot.release_outbox(&mut self.pools);
        }
    }

    pub(super) fn queue_close(&mut self, index: u32, code: CloseCode, reason: &str) {
        let mut frame = self.pools.take_answer();
        ws::append_close(&mut frame, code, reason);
        self.queue_bytes(index, &frame);
        self.pools.recycle_answer(frame);
    }

    /// Returns the time after which a client that exceeded a limit should reconnect.
    fn retry_after_excess_ms(&mut self) -> u32 {
        EXCESS_RETRY_MIN_MS + self.random_below(EXCESS_RETRY_SPREAD_MS)
    }

    /// Answers a request with an error, then lingers.
    pub(super) fn reject(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        refusal: Refusal,
        message: &str,
    ) {
        let retry_after_s = self.is_draining.then(|| self.drain_retry_after_s());
        let reason = refusal.code();
        let rejected = Rejected { refusal, message, retry_after_s, reason };
        self.reject_as(sessions, index, &rejected);
    }

    /// Does the same, with a `Retry-After` and a reason for the log.
    pub(super) fn reject_as(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        &Rejected { refusal, message, retry_after_s, reason }: &Rejected<'_>,
    ) {
        assert!(self.slot(index).stage().is_handshake(), "HTTP answers precede the upgrade");
        if self.is_in_tls_handshake(index) {
            // No answer is possible before the request.
            let is_late = refusal == Refusal::Timeout;
            let failure =
                if is_late { HandshakeFailure::Timeout } else { HandshakeFailure::Aborted };
            self.note_tls_failure(index, failure);
            return self.abort(sessions, index, CloseCode::ABNORMAL);
        }
        self.counters.count_refusal(refusal);
        let mut answer = Vec::with_capacity(512);
        http::refuse(refusal, message, retry_after_s, &mut answer);
        self.log_rejection(index, reason, |connections| Particulars {
            code: refusal.status(),
            path: match connections.slot(index).stage() {
                Stage::Asking(asking) => asking.path.to_string(),
                _ => String::new(),
            },
            detail: message.to_owned(),
        });
        self.queue_bytes(index, &answer);
        self.leave(sessions, index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
    }
}

//! The receive state of one connection: the operation armed in the kernel, what is known of pending
//! input, and why nothing is received.
//!
//! Invariants: at most one operation is armed, and at most one cancellation of it is in flight. A
//! connection that waits for its turn or for buffers, that is paused, or whose input has ended arms
//! nothing. Only [`Receiving::next_step`] decides what to arm.

use super::flags::Flags;
use crate::driver::Input;

/// The receive operation armed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    Nothing,
    /// A multishot receive, which continues until it is cancelled.
    Streaming,
    /// A single receive.
    Once,
    /// A poll for input.
    Watch,
}

/// Whether the connection is parked, and so polled for input instead of receiving: it has sent
/// nothing yet, or has been quiet for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    No,
    /// Queued to be parked.
    Soon,
    Yes,
}

/// Whether input is held, or a message is inflated or answered in part; see `backpressure.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfinished {
    No,
    /// Nothing is unfinished, but something was, or the connection fills whole buffers: it takes
    /// turns to receive, one buffer at a time (`bulk.rs`).
    Lately,
    /// Unfinished, and not ready to continue.
    Waiting,
    /// Unfinished, and queued to continue.
    Queued,
}

/// A cancellation of the armed operation. Its completion may arrive before or after that of its
/// target.
///
/// It is not requested again before both have arrived. When thousands of connections were parked at
/// once, targets completed many turns later, and each turn would have requested another
/// cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    Idle,
    Requested,
    /// It has found its target, whose completion is pending.
    Found,
    /// The target has completed; the completion of the cancellation is pending.
    Late,
}

impl Cancel {
    /// Handles the completion of the cancellation.
    fn complete_cancel(&mut self, found: bool) {
        *self = match (*self, found) {
            (Self::Requested, true) => Self::Found,
            (Self::Requested, false) | (Self::Late, _) => Self::Idle,
            (other, _) => other,
        };
    }

    /// Handles the last completion of the target.
    fn complete_target(&mut self) {
        *self = match *self {
            Self::Found => Self::Idle,
            Self::Requested => Self::Late,
            other => other,
        };
    }
}

/// The next step towards the receive operation that should be armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveStep {
    Nothing,
    /// Cancel the armed operation.
    Cancel,
    /// Queue the connection for its turn to receive one buffer.
    AwaitTurn,
    /// Arm a single receive.
    Once(Input),
    Watch,
    Stream,
}

/// The consequences of the connection's stage for receiving.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveStage {
    pub(super) is_handshake: bool,
    /// Both Closes are exchanged, and only ours is still to be sent.
    pub(super) is_parting: bool,
}

/// The receive state of one connection. See the module.
#[derive(Debug)]
pub(super) struct Receiving {
    armed: Armed,
    parked: Parked,
    /// What is known of pending input.
    input: Input,
    cancel: Cancel,
    unfinished: Unfinished,
    flags: Flags,
}

/// Nothing is received until the outbox has drained, or held input is processed.
const PAUSED: u8 = 0;
/// Listed to be checked again when all outboxes together have drained.
const THROTTLED: u8 = 1;
/// The receive waits for buffers, or for its turn.
const AWAITING: u8 = 2;
/// The peer has sent a FIN, or the socket has failed.
const ENDED: u8 = 3;

impl Receiving {
    /// Makes the state of a new connection.
    pub(super) fn new() -> Self {
        Self {
            armed: Armed::Nothing,
            parked: Parked::No,
            input: Input::Unknown,
            cancel: Cancel::Idle,
            unfinished: Unfinished::No,
            flags: Flags::default(),
        }
    }

    /// Decides what to arm or cancel, and records it as done; the caller must do it.
    ///
    /// A handshake uses single receives, mostly only one, and nothing is armed after the peer's
    /// Close. So a connection that opens, is watched, and closes needs no cancellation. A newly
    /// armed operation also reports earlier input, so switching between operations loses nothing.
    #[inline]
    pub(super) fn next_step(&mut self, stage: ReceiveStage) -> ReceiveStep {
        let is_armed = self.armed != Armed::Nothing;
        if self.flags.has(PAUSED) {
            return if is_armed { self.cancel_step() } else { ReceiveStep::Nothing };
        }
        let is_parked = self.parked == Parked::Yes;
        if is_armed {
            let should_change = is_parked || self.takes_turns();
            return if should_change && self.armed == Armed::Streaming {
                self.cancel_step()
            } else {
                ReceiveStep::Nothing
            };
        }
        let is_known = self.input != Input::Unknown;
        if self.flags.has(AWAITING) || self.flags.has(ENDED) || (!is_known && stage.is_parting) {
            return ReceiveStep::Nothing;
        }
        if self.takes_turns() && !is_known {
            self.flags.set(AWAITING, true);
            return ReceiveStep::AwaitTurn;
        }
        let input = std::mem::replace(&mut self.input, Input::Unknown);
        let (armed, step) = if is_known || stage.is_handshake {
            (Armed::Once, ReceiveStep::Once(input))
        } else if is_parked {
            (Armed::Watch, ReceiveStep::Watch)
        } else {
            (Armed::Streaming, ReceiveStep::Stream)
        };
        self.armed = armed;
        step
    }

    fn cancel_step(&mut self) -> ReceiveStep {
        if self.request_cancel() { ReceiveStep::Cancel } else { ReceiveStep::Nothing }
    }

    /// Records that a cancellation is requested; returns false if one is in flight.
    pub(super) fn request_cancel(&mut self) -> bool {
        let is_idle = self.cancel == Cancel::Idle;
        if is_idle {
            self.cancel = Cancel::Requested;
        }
        is_idle
    }

    /// Allows a new cancellation, of all operations: the one in flight may be for the receive only.
    pub(super) fn forget_cancel(&mut self) {
        self.cancel = Cancel::Idle;
    }

    /// Returns whether the multishot receive is armed and is to stay armed.
    #[inline]
    pub(super) fn is_steady(&self) -> bool {
        self.armed == Armed::Streaming
            && self.parked != Parked::Yes
            && self.unfinished == Unfinished::No
            && !self.flags.has_any(u8::MAX)
    }

    /// Returns whether an operation is armed.
    pub(super) fn is_armed(&self) -> bool {
        self.armed != Armed::Nothing
    }

    /// Handles the completion of a cancellation.
    pub(super) fn complete_cancel(&mut self, found: bool) {
        self.cancel.complete_cancel(found);
    }

    /// Handles the last completion of the armed operation.
    pub(super) fn complete_armed(&mut self) {
        debug_assert!(self.is_armed(), "only an armed operation completes");
        self.armed = Armed::Nothing;
        self.cancel.complete_target();
    }

    /// Marks the receive as waiting for a free buffer. Its input is still in the socket, so no poll
    /// is needed before the next receive.
    pub(super) fn mark_starved(&mut self) {
        self.flags.set(AWAITING, true);
        if self.parked == Parked::Yes {
            self.input = Input::There;
        } else if !self.takes_turns() {
            self.input = Input::Likely;
        }
    }

    /// Marks pending input as waiting for the connection's turn.
    pub(super) fn await_turn(&mut self) {
        self.flags.set(AWAITING, true);
    }

    /// Ends the wait for buffers or for a turn.
    pub(super) fn end_wait(&mut self) {
        self.flags.set(AWAITING, false);
    }

    /// Records that input is pending, so the next receive will find it.
    pub(super) fn expect_input(&mut self) {
        self.flags.set(AWAITING, false);
        self.input = Input::There;
    }

    /// Uses the connection's turn to receive one buffer; returns false if it is not needed.
    pub(super) fn take_turn(&mut self) -> bool {
        self.flags.set(AWAITING, false);
        if !self.flags.has(PAUSED) {
            self.input = Input::Likely;
        }
        !self.flags.has(PAUSED)
    }

    /// Records that the peer has ended its side.
    pub(super) fn note_end(&mut self) {
        self.flags.set(ENDED, true);
    }

    /// Returns whether the peer has ended its side.
    pub(super) fn has_ended(&self) -> bool {
        self.flags.has(ENDED)
    }

    /// Returns whether input may be unread in the socket because receiving is suspended.
    pub(super) fn may_leave_input_unread(&self) -> bool {
        self.flags.has(PAUSED)
            || self.is_unfinished()
            || self.flags.has(AWAITING)
            || self.input != Input::Unknown
    }

    /// Pauses receiving; returns whether it was not paused before.
    pub(super) fn pause(&mut self) -> bool {
        !self.flags.replace(PAUSED, true)
    }

    /// Resumes receiving.
    pub(super) fn resume(&mut self) {
        self.flags.set(PAUSED, false);
    }

    /// Returns whether receiving is paused.
    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.flags.has(PAUSED)
    }

    /// Marks the connection as listed among the throttled; returns whether it was not.
    pub(super) fn mark_throttled(&mut self) -> bool {
        !self.flags.replace(THROTTLED, true)
    }

    /// Marks the connection as removed from that list.
    pub(super) fn unmark_throttled(&mut self) {
        self.flags.set(THROTTLED, false);
    }

    /// Returns whether the connection is on that list.
    pub(super) fn is_throttled(&self) -> bool {
        self.flags.has(THROTTLED)
    }

    /// Returns whether input is held, or a message is inflated or answered in part.
    #[inline]
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.unfinished, Unfinished::Waiting | Unfinished::Queued)
    }

    /// Returns whether the connection takes turns to receive.
    #[inline]
    pub(super) fn takes_turns(&self) -> bool {
        self.unfinished != Unfinished::No
    }

    /// Returns whether the connection takes turns although nothing is unfinished.
    #[inline]
    pub(super) fn is_calm(&self) -> bool {
        self.unfinished == Unfinished::Lately
    }

    /// Makes the connection take turns from now on.
    pub(super) fn begin_turns(&mut self) {
        if self.unfinished == Unfinished::No {
            self.unfinished = Unfinished::Lately;
        }
    }

    /// Gives the connection its multishot receive back, if nothing is unfinished.
    pub(super) fn end_turns(&mut self) {
        if self.unfinished == Unfinished::Lately {
            self.unfinished = Unfinished::No;
        }
    }

    /// Sets whether anything is unfinished; returns the old value.
    pub(super) fn set_unfinished(&mut self, is_unfinished: bool) -> bool {
        let was_unfinished = self.is_unfinished();
        self.unfinished = match (is_unfinished, self.unfinished) {
            (false, Unfinished::No) => Unfinished::No,
            (false, _) => Unfinished::Lately,
            (true, Unfinished::Queued) => Unfinished::Queued,
            (true, _) => Unfinished::Waiting,
        };
        was_unfinished
    }

    /// Marks the unfinished connection as queued; returns whether it was not.
    pub(super) fn mark_queued(&mut self) -> bool {
        std::mem::replace(&mut self.unfinished, Unfinished::Queued) != Unfinished::Queued
    }

    /// Marks the connection as removed from the queue; returns whether it is still to be continued.
    /// It may have been finished in the meantime, because its token stays in the queue.
    pub(super) fn unmark_queued(&mut self) -> bool {
        let is_queued = self.unfinished == Unfinished::Queued;
        if is_queued {
            self.unfinished = Unfinished::Waiting;
        }
        is_queued
    }

    /// Returns whether the connection is queued to be continued.
    pub(super) fn is_queued(&self) -> bool {
        self.unfinished == Unfinished::Queued
    }

    /// Ends the processing of messages: nothing is unfinished, and nothing pauses input any more.
    pub(super) fn end_processing(&mut self) {
        self.unfinished = Unfinished::No;
        self.flags.set(PAUSED, false);
    }

    /// Restores the serialized part of another state.
    pub(super) fn restore(&mut self, is_paused: bool, has_ended: bool) {
        self.flags.set(PAUSED, is_paused);
        self.flags.set(ENDED, has_ended);
    }

    /// Returns whether the connection is parked.
    #[inline]
    pub(super) fn is_parked(&self) -> bool {
        self.parked == Parked::Yes
    }

    /// Returns whether the connection is neither parked nor queued for it.
    pub(super) fn is_unparked(&self) -> bool {
        self.parked == Parked::No
    }

    /// Marks the connection as queued to be parked.
    pub(super) fn park_soon(&mut self) {
        self.parked = Parked::Soon;
    }

    /// Parks the connection: its input is polled for from now on.
    pub(super) fn park(&mut self) {
        debug_assert!(self.parked != Parked::Yes, "a connection is parked once");
        self.parked = Parked::Yes;
    }

    /// Unparks the connection, or cancels its queued parking.
    pub(super) fn unpark(&mut self) {
        self.parked = Parked::No;
    }

    /// Checks the invariants. `is_websocket`: the WebSocket is open or closing; `is_asking`: a
    /// decision is pending.
    pub(super) fn check_invariants(&self, is_websocket: bool, is_asking: bool) {
        if self.is_unfinished() {
            assert!(is_websocket, "only an open connection leaves input unfinished");
        }
        if self.flags.has(PAUSED) {
            assert!(is_websocket || is_asking, "only open or undecided connections are paused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: ReceiveStage = ReceiveStage { is_handshake: false, is_parting: false };

    #[test]
    fn a_cancellation_and_its_target_end_in_either_order() {
        let after = |steps: &[fn(&mut Cancel)]| {
            let mut cancel = Cancel::Requested;
            steps.iter().for_each(|step| step(&mut cancel));
            cancel
        };
        let (found, missed): (fn(&mut Cancel), fn(&mut Cancel)) =
            (|cancel| cancel.complete_cancel(true), |cancel| cancel.complete_cancel(false));
        let target: fn(&mut Cancel) = Cancel::complete_target;
        assert_eq!(after(&[found]), Cancel::Found, "not requested again before its target ends");
        assert_eq!(after(&[found, target]), Cancel::Idle);
        assert_eq!(after(&[target]), Cancel::Late, "nor before it has completed itself");
        assert_eq!(after(&[target, missed]), Cancel::Idle);
        assert_eq!(after(&[target, found]), Cancel::Idle);
        assert_eq!(after(&[missed]), Cancel::Idle, "what it missed is there to be cancelled");
    }

    #[test]
    fn a_parked_connection_is_watched_then_received_from_once() {
        let mut receiving = Receiving::new();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Stream);
        receiving.park();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Cancel);
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing, "requested once");
        receiving.complete_cancel(true);
        receiving.complete_armed();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Watch);
        receiving.complete_armed();
        receiving.expect_input();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Once(Input::There));
    }

    #[test]
    fn a_handshake_is_received_once_at_a_time_and_parting_receives_nothing_unknown() {
        let mut receiving = Receiving::new();
        let handshake = ReceiveStage { is_handshake: true, is_parting: false };
        assert_eq!(receiving.next_step(handshake), ReceiveStep::Once(Input::Unknown));
        receiving.complete_armed();
        let parting = ReceiveStage { is_handshake: false, is_parting: true };
        assert_eq!(receiving.next_step(parting), ReceiveStep::Nothing);
        receiving.expect_input();
        assert_eq!(receiving.next_step(parting), ReceiveStep::Once(Input::There));
    }

    #[test]
    fn what_is_armed_is_cancelled_once_when_paused_and_armed_again_after() {
        let mut receiving = Receiving::new();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Stream);
        receiving.pause();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Cancel);
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing);
        receiving.complete_cancel(true);
        receiving.complete_armed();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing, "still paused");
        receiving.resume();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Stream);
    }

    #[test]
    fn a_connection_that_opens_while_taking_turns_keeps_taking_them() {
        let mut receiving = Receiving::new();
        receiving.begin_turns();
        receiving.park();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::AwaitTurn);
    }

    #[test]
    fn nothing_is_armed_while_paused_awaiting_or_ended() {
        let mut receiving = Receiving::new();
        assert!(receiving.pause() && !receiving.pause());
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing);
        receiving.resume();
        receiving.await_turn();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing);
        receiving.end_wait();
        receiving.note_end();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing);
    }

    #[test]
    fn a_connection_that_takes_turns_receives_one_buffer_each() {
        let mut receiving = Receiving::new();
        receiving.begin_turns();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::AwaitTurn);
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Nothing);
        assert!(receiving.take_turn());
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Once(Input::Likely));
        receiving.complete_armed();
        receiving.end_turns();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Stream);
    }
}

//! The state of receiving on one connection: what is armed in the kernel, what is known of input
//! that is yet to come, and why nothing is received for now.
//!
//! Always: at most one operation is armed, and at most one cancellation of it is under way. A
//! connection that awaits its turn or buffers, that is paused, or whose input has ended arms
//! nothing. [`Receiving::next_step`] is the one place that decides what to arm.

use super::flags::Flags;
use crate::driver::Input;

/// The receive operation armed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    Nothing,
    /// A receive that continues until it is cancelled.
    Streaming,
    /// One receive.
    Once,
    /// A poll for something to receive.
    Watch,
}

/// Whether input is polled for rather than received, because the connection has sent nothing yet
/// or has been quiet for long.
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
    /// Not any more, or the connection fills whole buffers. It is received from in turn, one
    /// buffer at a time (`bulk.rs`).
    Lately,
    /// Something has to happen before it can be continued.
    Waiting,
    /// Queued to be continued.
    Queued,
}

/// A cancellation of the armed operation, whose own completion comes before its target's or after.
///
/// It is not requested again before both have come: while thousands were parked at once, targets
/// came many turns later, and every turn requested another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    Idle,
    Requested,
    /// It has found its target, whose completion is to come.
    Found,
    /// The target has completed; its own completion is to come.
    Late,
}

impl Cancel {
    /// The cancellation has completed.
    fn complete(&mut self, found: bool) {
        *self = match (*self, found) {
            (Self::Requested, true) => Self::Found,
            (Self::Requested, false) | (Self::Late, _) => Self::Idle,
            (other, _) => other,
        };
    }

    /// What was armed has completed.
    fn complete_target(&mut self) {
        *self = match *self {
            Self::Found => Self::Idle,
            Self::Requested => Self::Late,
            other => other,
        };
    }
}

/// What to do so that a connection receives as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveStep {
    Nothing,
    /// Cancel what is armed.
    Cancel,
    /// Queue the connection for a receive of one buffer.
    AwaitTurn,
    /// Receive once.
    Once(Input),
    Watch,
    Stream,
}

/// What the connection's stage means for receiving.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveStage {
    pub(super) is_handshake: bool,
    /// Both Closes are exchanged, and nothing but ours is left to be sent.
    pub(super) is_parting: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Receiving {
    armed: Armed,
    parked: Parked,
    /// What is known of input that is yet to be received.
    input: Input,
    cancel: Cancel,
    unfinished: Unfinished,
    flags: Flags,
}

/// Nothing is received until the outbox has drained, or held input was processed.
const PAUSED: u8 = 0;
/// Listed among those that wait until all outboxes together have drained.
const THROTTLED: u8 = 1;
/// The receive waits for buffers, or for its turn.
const AWAITING: u8 = 2;
/// The peer has sent its FIN, or the socket has failed.
const ENDED: u8 = 3;

impl Receiving {
    /// The state of a new connection.
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

    /// Decides what to arm or cancel, and notes that it is done: the caller performs it.
    ///
    /// A handshake takes one receive at a time, mostly a single one, and nothing is armed once the
    /// peer has sent its Close: a connection that opens, is watched, and closes needs no
    /// cancellation. Whatever is armed sees what came before it, so a change loses nothing.
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

    /// Notes that a cancellation is requested; returns whether none was under way.
    pub(super) fn request_cancel(&mut self) -> bool {
        let is_idle = self.cancel == Cancel::Idle;
        if is_idle {
            self.cancel = Cancel::Requested;
        }
        is_idle
    }

    /// Allows another cancellation, of everything: the one under way may be of the receive alone.
    pub(super) fn forget_cancel(&mut self) {
        self.cancel = Cancel::Idle;
    }

    /// Whether the continuous receive is armed and nothing is to be changed about it.
    #[inline]
    pub(super) fn is_steady(&self) -> bool {
        self.armed == Armed::Streaming
            && self.parked != Parked::Yes
            && self.unfinished == Unfinished::No
            && !self.flags.has_any(u8::MAX)
    }

    /// Whether an operation is armed.
    pub(super) fn is_armed(&self) -> bool {
        self.armed != Armed::Nothing
    }

    /// The cancellation has completed.
    pub(super) fn complete_cancel(&mut self, found: bool) {
        self.cancel.complete(found);
    }

    /// The armed operation has completed for the last time.
    pub(super) fn complete(&mut self) {
        debug_assert!(self.is_armed(), "only what is armed completes");
        self.armed = Armed::Nothing;
        self.cancel.complete_target();
    }

    /// Marks the receive as waiting for a free buffer. Its input is still in the socket, so that it
    /// need not be polled for again.
    pub(super) fn mark_starved(&mut self) {
        self.flags.set(AWAITING, true);
        if self.parked == Parked::Yes {
            self.input = Input::There;
        } else if !self.takes_turns() {
            self.input = Input::Likely;
        }
    }

    /// Something has come, but its receive waits for its turn.
    pub(super) fn await_turn(&mut self) {
        self.flags.set(AWAITING, true);
    }

    /// The wait for buffers or for a turn is over.
    pub(super) fn end_wait(&mut self) {
        self.flags.set(AWAITING, false);
    }

    /// The next receive is for what has come.
    pub(super) fn expect_input(&mut self) {
        self.flags.set(AWAITING, false);
        self.input = Input::There;
    }

    /// The connection's turn to receive one buffer has come; returns whether it uses it.
    pub(super) fn take_turn(&mut self) -> bool {
        self.flags.set(AWAITING, false);
        if !self.flags.has(PAUSED) {
            self.input = Input::Likely;
        }
        !self.flags.has(PAUSED)
    }

    /// The peer has ended its side.
    pub(super) fn note_end(&mut self) {
        self.flags.set(ENDED, true);
    }

    /// Whether the peer has ended its side.
    pub(super) fn has_ended(&self) -> bool {
        self.flags.has(ENDED)
    }

    /// Whether input may lie in the socket unread, because nothing is received for now.
    pub(super) fn may_leave_input_unread(&self) -> bool {
        self.flags.has(PAUSED)
            || self.is_unfinished()
            || self.flags.has(AWAITING)
            || self.input != Input::Unknown
    }

    /// Pauses; returns whether it was not paused before.
    pub(super) fn pause(&mut self) -> bool {
        !self.flags.replace(PAUSED, true)
    }

    /// Resumes.
    pub(super) fn resume(&mut self) {
        self.flags.set(PAUSED, false);
    }

    /// Whether reading is paused.
    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.flags.has(PAUSED)
    }

    /// Marks the connection as listed among the throttled; returns whether it was not.
    pub(super) fn mark_throttled(&mut self) -> bool {
        !self.flags.replace(THROTTLED, true)
    }

    /// Marks it as taken off that list.
    pub(super) fn unmark_throttled(&mut self) {
        self.flags.set(THROTTLED, false);
    }

    /// Whether it is on that list.
    pub(super) fn is_throttled(&self) -> bool {
        self.flags.has(THROTTLED)
    }

    /// Whether input is held, or a message is inflated or answered in part.
    #[inline]
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(self.unfinished, Unfinished::Waiting | Unfinished::Queued)
    }

    /// Whether the connection is received from in turn with others.
    #[inline]
    pub(super) fn takes_turns(&self) -> bool {
        self.unfinished != Unfinished::No
    }

    /// Whether it takes turns, though nothing of it is unfinished.
    #[inline]
    pub(super) fn is_calm(&self) -> bool {
        self.unfinished == Unfinished::Lately
    }

    /// Has the connection take turns from now on.
    pub(super) fn begin_turns(&mut self) {
        if self.unfinished == Unfinished::No {
            self.unfinished = Unfinished::Lately;
        }
    }

    /// Gives the connection its continuous receive back, if nothing of it is unfinished.
    pub(super) fn end_turns(&mut self) {
        if self.unfinished == Unfinished::Lately {
            self.unfinished = Unfinished::No;
        }
    }

    /// Notes whether anything is unfinished; returns whether it was before.
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

    /// Marks the connection as taken from the queue; returns whether it is still to be continued:
    /// it may have been finished since, while its token stayed in the queue.
    pub(super) fn unmark_queued(&mut self) -> bool {
        let is_queued = self.unfinished == Unfinished::Queued;
        if is_queued {
            self.unfinished = Unfinished::Waiting;
        }
        is_queued
    }

    /// Whether it is queued to be continued.
    pub(super) fn is_queued(&self) -> bool {
        self.unfinished == Unfinished::Queued
    }

    /// No message will be processed any more: nothing is unfinished, and nothing pauses input.
    pub(super) fn end_processing(&mut self) {
        self.unfinished = Unfinished::No;
        self.flags.set(PAUSED, false);
    }

    /// Adopts what was serialized of another state.
    pub(super) fn restore(&mut self, is_paused: bool, has_ended: bool) {
        self.flags.set(PAUSED, is_paused);
        self.flags.set(ENDED, has_ended);
    }

    /// Whether the connection is parked.
    #[inline]
    pub(super) fn is_parked(&self) -> bool {
        self.parked == Parked::Yes
    }

    /// Whether the connection is neither parked nor queued for it.
    pub(super) fn is_unparked(&self) -> bool {
        self.parked == Parked::No
    }

    /// Queues the connection to be parked.
    pub(super) fn park_soon(&mut self) {
        self.parked = Parked::Soon;
    }

    /// Parks it: its input is polled for from now on.
    pub(super) fn park(&mut self) {
        debug_assert!(self.parked != Parked::Yes, "parked once");
        self.parked = Parked::Yes;
    }

    /// Leaves it unparked, or takes it out of the queue.
    pub(super) fn unpark(&mut self) {
        self.parked = Parked::No;
    }

    /// Checks what always holds. `is_websocket`: messages flow, or it is closing; `is_asking`: a
    /// decision is awaited.
    pub(super) fn check(&self, is_websocket: bool, is_asking: bool) {
        if self.is_unfinished() {
            assert!(is_websocket, "only an open connection leaves input unfinished");
        }
        if self.flags.has(PAUSED) {
            assert!(is_websocket || is_asking, "only what is open or awaits a decision is paused");
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
            (|cancel| cancel.complete(true), |cancel| cancel.complete(false));
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
        receiving.complete();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Watch);
        receiving.complete();
        receiving.expect_input();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Once(Input::There));
    }

    #[test]
    fn a_handshake_is_received_once_at_a_time_and_parting_receives_nothing_unknown() {
        let mut receiving = Receiving::new();
        let handshake = ReceiveStage { is_handshake: true, is_parting: false };
        assert_eq!(receiving.next_step(handshake), ReceiveStep::Once(Input::Unknown));
        receiving.complete();
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
        receiving.complete();
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
        receiving.complete();
        receiving.end_turns();
        assert_eq!(receiving.next_step(OPEN), ReceiveStep::Stream);
    }
}

//! Processes WebSocket frames of a connection: handles their events, and queues replies.

use super::compression::ReplyCompression;
use super::input::Processed;
use super::replies::{InPlace, InPlaceRoom, Replies};
use super::sessions::MessageContext;
use super::stage::Stage;
use super::{Connections, Goodbye, Sessions, TooMuch};
use crate::admission::limiter::{Excess, RateBounds};
use crate::config::{Engine, HandlerName};
use crate::metrics::Counters;
use crate::proto::ws::{self, CloseCode, CloseFrame, Control, OpCode, WireEvent};
use crate::session::echo;

/// An event that ends the processing of an input.
#[derive(Clone, Copy)]
enum After {
    /// The peer sent a Close with this code, if any.
    PeerClosed(Option<CloseCode>),
    Failed(ws::ProtocolError),
    /// More messages than the rate limit allows: when to retry.
    TooMuch {
        wait_ms: u32,
    },
}

impl After {
    fn from_close(frame: Option<CloseFrame<'_>>) -> Self {
        Self::PeerClosed(frame.map(|frame| frame.code))
    }

    /// Handles a message above the rate limit on a route whose protocol has no errors to reply
    /// with.
    fn from_excess(rates: &RateBounds, too_much: TooMuch, counters: &mut Counters) -> Option<Self> {
        counters.count_over_rate(too_much.kind);
        let wait_ms = too_much.wait_ms.min(u64::from(u32::MAX)) as u32;
        (rates.excess == Excess::Close).then_some(Self::TooMuch { wait_ms })
    }
}

/// The result of one step through the input.
enum Seen {
    /// No further event can be found now.
    Nothing,
    /// Frames without an event.
    Frames,
    /// An event that was handled.
    Event,
    Follow(After),
}

/// The state of processing one input.
struct Scan {
    /// The length of the whole input.
    received_len: usize,
    /// Whether a reply may be sent from the input's own memory.
    may_lend: bool,
    /// Such a reply, if there is one.
    in_place: Option<InPlace>,
    pongs: u32,
    /// The effort of the codecs that was counted so far.
    effort: u64,
}

impl Scan {
    /// Returns where an in-place reply to the current message is recorded; `is_last`: the message
    /// ends the input.
    #[inline]
    fn in_place_room(&mut self, is_last: bool, engine: &Engine) -> Option<InPlaceRoom<'_>> {
        (self.may_lend && is_last).then_some(InPlaceRoom {
            reply: &mut self.in_place,
            received_len: self.received_len,
            bytes_min: engine.reply_in_place_bytes_min as usize,
        })
    }
}

impl Connections {
    /// Processes frames of an open connection.
    pub(super) fn process_frames(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        mut input: &mut [u8],
        may_lend: bool,
    ) -> Processed {
        let mut scan = Scan {
            received_len: input.len(),
            may_lend: may_lend && !self.slot(index).is_lending(),
            in_place: None,
            pongs: 0,
            effort: self.codec_effort(),
        };
        let after = loop {
            match self.next_event(sessions, index, &mut input, &mut scan) {
                Seen::Event if !input.is_empty() && self.may_continue(index) => {}
                Seen::Frames if self.may_continue(index) => {}
                Seen::Follow(after) => break Some(after),
                Seen::Event | Seen::Frames | Seen::Nothing => break None,
            }
        };
        self.spend_on_codecs(&mut scan.effort);
        self.follow_frames(sessions, index, after);
        let rest = match self.slot(index).stage() {
            Stage::Open(_) => input.len(),
            Stage::Closing { .. } => self.seek_peer_close(sessions, index, input),
            _ => 0,
        };
        Processed { rest, in_place: scan.in_place }
    }

    /// Counts frames without an event, if there were many.
    fn count_frames(&mut self, index: u32) -> Seen {
        let stage = self.slot(index).stage();
        if !matches!(stage, Stage::Open(receiver) if receiver.has_yielded()) {
            return Seen::Nothing;
        }
        (0..ws::FRAMES_AT_ONCE).for_each(|_| self.work.spend_frame());
        Seen::Frames
    }

    /// Takes one event out of the input, and handles it.
    #[expect(clippy::mut_mut, reason = "the input moves past what was consumed")]
    #[inline]
    fn next_event(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        input: &mut &mut [u8],
        scan: &mut Scan,
    ) -> Seen {
        let Some(parts) = self.slots[index as usize].open_parts() else { return Seen::Nothing };
        let sending = parts.receiver.sending();
        let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
        let Some(event) = parts.receiver.next_inflated(input, limits, inflaters) else {
            return self.count_frames(index);
        };
        self.work.spend_frame();
        let (mut after, mut excess, mut is_for_session, now_ns) = (None, None, false, self.now_ns);
        let (route, rates) = (&self.config.route_options[parts.route], &self.config.rates);
        let mut replies = Replies {
            outbox: parts.outbox,
            pools: &mut self.pools,
            counters: &mut self.counters,
            messages_sent: parts.messages_sent,
            in_place: scan.in_place_room(input.is_empty(), &self.config.engine),
            compression: ReplyCompression::new(sending, route),
            deflaters: &mut self.deflaters,
            records_turnaround: self.histograms.is_on(),
            now_ns,
            tick: self.tick,
        };
        match event {
            WireEvent::Message { kind, payload } => {
                *parts.messages_received = parts.messages_received.saturating_add(1);
                replies.counters.messages_received += 1;
                *parts.message_tick = self.tick;
                match self.meter.take_message(index, rates, sessions, payload.len(), now_ns) {
                    Err(much) if route.handler != HandlerName::Hub => excess = Some(much),
                    taken if route.handler != HandlerName::Echo => {
                        let budget = self.work.budget(&self.config.limits, replies.queued_bytes());
                        let context = MessageContext { index, now_ns, budget };
                        sessions.receive_message(context, kind, payload, taken.err());
                        is_for_session = true;
                    }
                    _ => echo::reply(kind, payload, &mut replies),
                }
            }
            WireEvent::Ping(payload) => {
                replies.counters.pings_received += 1;
                match self.meter.take_message(index, rates, sessions, payload.len(), now_ns) {
                    Ok(()) => drop(replies.queue_frame(OpCode::Control(Control::Pong), payload)),
                    Err(much) => excess = Some(much),
                }
            }
            WireEvent::Pong(payload) => {
                let answer = payload.as_slice().try_into().ok();
                self.note_pong(sessions, index, answer, &mut scan.pongs);
            }
            WireEvent::Close(frame) => after = Some(After::from_close(frame)),
            WireEvent::Failed(error) => after = Some(After::Failed(error)),
        }
        if sending.is_some() {
            self.spend_on_codecs(&mut scan.effort);
        }
        if is_for_session {
            sessions.finish_message(self, index);
        }
        after.or_else(|| self.judge_excess(excess)).map_or(Seen::Event, Seen::Follow)
    }

    /// Returns what follows from more messages than the rate limit allows.
    #[inline]
    fn judge_excess(&mut self, excess: Option<TooMuch>) -> Option<After> {
        After::from_excess(&self.config.rates, excess?, &mut self.counters)
    }

    /// Counts the codecs' effort since the last call.
    fn spend_on_codecs(&mut self, since: &mut u64) {
        let effort = self.codec_effort();
        self.work.spend(effort - std::mem::replace(since, effort));
    }

    /// Records a pong. At most one is awaited; during a flood of pongs the others are not hashed.
    fn note_pong(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        answer: Option<[u8; 16]>,
        pongs: &mut u32,
    ) {
        *pongs += 1;
        if let (Some(answer), ..=2) = (answer, *pongs) {
            self.take_pong(sessions, index, answer);
        }
    }

    /// Handles the event that has ended the processing of an input.
    fn follow_frames(&mut self, sessions: &mut impl Sessions, index: u32, after: Option<After>) {
        match after {
            None => self.check_outbox(sessions, index),
            Some(After::PeerClosed(code)) => {
                self.queue_close(index, ws::reply_code(code), "");
                self.leave(sessions, index, Stage::Finishing, code.unwrap_or(CloseCode::NO_STATUS));
            }
            Some(After::TooMuch { wait_ms }) => {
                let (code, reason) =
                    (CloseCode::RATE_LIMITED, "rate limit exceeded; send less per second");
                self.close(sessions, index, Goodbye { code, reason, retry_after_ms: wait_ms });
            }
            Some(After::Failed(error)) => self.fail_frames(sessions, index, error),
        }
    }

    /// Fails the connection after a protocol error of the peer.
    pub(super) fn fail_frames(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        error: ws::ProtocolError,
    ) {
        self.counters.count_protocol_error(error);
        let (code, reason) = (error.close_code(), error.reason());
        self.fail_websocket(sessions, index, Goodbye { code, reason, retry_after_ms: 0 });
    }

    /// Processes frames after our Close was sent: only the peer's Close matters. Returns the number
    /// of unprocessed bytes.
    pub(super) fn seek_peer_close(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        mut input: &mut [u8],
    ) -> usize {
        let mut effort = self.codec_effort();
        loop {
            let slot = &mut self.slots[index as usize];
            let Stage::Closing { receiver, code } = slot.stage_mut() else { return 0 };
            let code = *code;
            let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
            match receiver.next_inflated(&mut input, limits, inflaters) {
                None if receiver.has_yielded() => {}
                None => break,
                Some(WireEvent::Close(_)) => {
                    self.leave(sessions, index, Stage::Finishing, code);
                    return 0;
                }
                Some(WireEvent::Failed(error)) => {
                    self.counters.count_protocol_error(error);
                    self.leave(sessions, index, Stage::Lingering { discarded: 0 }, code);
                    return 0;
                }
                Some(WireEvent::Message { .. } | WireEvent::Ping(_) | WireEvent::Pong(_)) => {}
            }
            self.work.spend_frame();
            self.spend_on_codecs(&mut effort);
            if self.work.is_share_spent() {
                break;
            }
        }
        self.spend_on_codecs(&mut effort);
        input.len()
    }
}

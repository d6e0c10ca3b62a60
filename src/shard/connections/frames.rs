//! WebSocket frames of a connection: their events, what replies to them, and what follows.

use super::compression::Reply;
use super::input::Processed;
use super::replies::{InPlace, Replies};
use super::sessions::Heard;
use super::stage::Stage;
use super::{Connections, Goodbye, Sessions, TooMuch};
use crate::admission::limiter::{Excess, RateBounds};
use crate::config::HandlerName;
use crate::metrics::Counters;
use crate::proto::ws::{self, CloseCode, Control, Event, OpCode};
use crate::session::Session;

/// What the frames of one input led to.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    /// The peer sent a Close with this code, if any.
    PeerClosed(Option<CloseCode>),
    Failed(ws::ProtocolError),
    /// More messages than may be sent in a second: when to try again.
    TooMuch {
        wait_ms: u32,
    },
}

impl After {
    /// More came than may in a second, on a route that has no errors to answer with.
    fn excess(rates: &RateBounds, too_much: TooMuch, counters: &mut Counters) -> Self {
        counters.over_rate(too_much.kind);
        let wait_ms = too_much.wait_ms.min(u64::from(u32::MAX)) as u32;
        if rates.excess == Excess::Close { Self::TooMuch { wait_ms } } else { Self::Nothing }
    }
}

/// What one look at the input has found.
enum Seen {
    /// Nothing more can be found now.
    Nothing,
    /// Frames that led to no event.
    Frames,
    Event(After),
}

/// The state of looking through one input.
struct Scan {
    /// Bytes of the whole input.
    received_len: usize,
    /// Whether a reply may leave from the input's own memory.
    may_lend: bool,
    /// Such a reply.
    in_place: Option<InPlace>,
    pongs: u32,
    /// Effort of the codecs that was counted.
    effort: u64,
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
            may_lend,
            in_place: None,
            pongs: 0,
            effort: self.codec_effort(),
        };
        let after = loop {
            let seen = self.next_event(sessions, index, &mut input, &mut scan);
            let is_over = match &seen {
                Seen::Frames => !self.may_continue(index),
                Seen::Event(After::Nothing) => input.is_empty() || !self.may_continue(index),
                Seen::Nothing | Seen::Event(_) => true,
            };
            if is_over {
                break if let Seen::Event(after) = seen { after } else { After::Nothing };
            }
        };
        self.spend_on_codecs(&mut scan.effort);
        self.follow_frames(sessions, index, after);
        let rest = match self.slot(index).stage() {
            Stage::Open(_) => input.len(),
            Stage::Closing { .. } => self.process_closing_frames(sessions, index, input),
            _ => 0,
        };
        Processed { rest, in_place: scan.in_place }
    }

    /// Counts frames that have led to no event, where there were many.
    fn count_frames(&mut self, index: u32) -> Seen {
        let stage = self.slot(index).stage();
        if !matches!(stage, Stage::Open(receiver) if receiver.has_yielded()) {
            return Seen::Nothing;
        }
        (0..ws::FRAMES_AT_ONCE).for_each(|_| self.work.spend_frame());
        Seen::Frames
    }

    /// Takes one event out of the input, and does what follows from it.
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
        let (mut after, mut is_for_session, now_ns) = (After::Nothing, false, self.now_ns);
        let (route, rates) = (&self.config.route_options[parts.route], &self.config.rates);
        let may_lend = scan.may_lend && !parts.is_lending && input.is_empty();
        let mut replies = Replies {
            outbox: parts.outbox,
            pools: &mut self.pools,
            counters: &mut self.counters,
            messages_sent: parts.messages_sent,
            in_place: may_lend.then_some(&mut scan.in_place),
            received_len: scan.received_len,
            in_place_bytes_min: self.config.engine.reply_in_place_bytes_min as usize,
            compression: Reply::new(sending, route),
            deflaters: &mut self.deflaters,
            is_timed: self.histograms.is_on(),
            now_ns,
            tick: self.tick,
        };
        match event {
            Event::Message { kind, payload } => {
                *parts.messages_received = parts.messages_received.saturating_add(1);
                replies.counters.messages_received += 1;
                *parts.message_tick = self.tick;
                match self.meter.take(index, rates, sessions, payload.len(), now_ns) {
                    taken if route.handler == HandlerName::Hub => {
                        let queued = replies.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
                        let budget = self.work.budget(&self.config.limits, queued);
                        let heard_at = Heard { index, now_ns, budget };
                        sessions.receive(heard_at, kind, payload, taken.err());
                        is_for_session = true;
                    }
                    Ok(()) => Session::Echo.message(kind, payload, &mut replies),
                    Err(much) => after = After::excess(rates, much, replies.counters),
                }
            }
            Event::Ping(payload) => {
                replies.counters.pings_received += 1;
                match self.meter.take(index, rates, sessions, payload.len(), now_ns) {
                    Ok(()) => drop(replies.frame(OpCode::Control(Control::Pong), payload)),
                    Err(much) => after = After::excess(rates, much, replies.counters),
                }
            }
            Event::Pong(payload) => {
                let answer = payload.as_slice().try_into().ok();
                self.note_pong(sessions, index, answer, &mut scan.pongs);
            }
            Event::Close(frame) => after = After::PeerClosed(frame.map(|frame| frame.code)),
            Event::Failed(error) => after = After::Failed(error),
        }
        if sending.is_some() {
            self.spend_on_codecs(&mut scan.effort);
        }
        if is_for_session {
            sessions.apply(self, index);
        }
        Seen::Event(after)
    }

    /// Counts what codecs have done since.
    fn spend_on_codecs(&mut self, since: &mut u64) {
        let effort = self.codec_effort();
        self.work.spend(effort - std::mem::replace(since, effort));
    }

    /// One answer is awaited; a flood of pongs is not worth a hash each.
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

    /// What the frames of one input led to is done.
    fn follow_frames(&mut self, sessions: &mut impl Sessions, index: u32, after: After) {
        match after {
            After::Nothing => self.check_outbox(sessions, index),
            After::PeerClosed(code) => {
                self.queue_close(index, ws::reply_code(code), "");
                self.leave(sessions, index, Stage::Finishing, code.unwrap_or(CloseCode::NO_STATUS));
            }
            After::TooMuch { wait_ms } => {
                let (code, reason) = (CloseCode::RATE_LIMITED, "too much a second: send less");
                self.close(sessions, index, Goodbye { code, reason, retry_after_ms: wait_ms });
            }
            After::Failed(error) => {
                self.counters.protocol_error(error);
                let (code, reason) = (error.close_code(), error.reason());
                self.fail(sessions, index, Goodbye { code, reason, retry_after_ms: 0 });
            }
        }
    }

    /// Processes frames of a connection that was sent a Close: only the peer's Close matters.
    /// Returns how many bytes have to wait.
    pub(super) fn process_closing_frames(
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
                Some(Event::Close(_)) => {
                    self.leave(sessions, index, Stage::Finishing, code);
                    return 0;
                }
                Some(Event::Failed(error)) => {
                    self.counters.protocol_error(error);
                    self.leave(sessions, index, Stage::Lingering { discarded: 0 }, code);
                    return 0;
                }
                Some(Event::Message { .. } | Event::Ping(_) | Event::Pong(_)) => {}
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

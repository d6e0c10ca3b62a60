//! Bytes from a peer, by stage: PROXY header, request, frames, or nothing that is looked at.
//!
//! What follows a stage's end in the same bytes belongs to the next stage and is passed on at
//! once: a PROXY header, a request and its first frames may all come in one segment.

use std::net::IpAddr;
use std::sync::Arc;

use super::compression::Reply;
use super::core::Core;
use super::journal::Particulars;
use super::meter::TooMuch;
use super::replies::{InPlace, Replies};
use super::slot::{Partial, PeerAddress, Slot, Stage, Unfinished};
use super::work::{HANDSHAKE_EFFORT, TOKEN_EFFORT};
use crate::admission::limiter::{Excess, RateBounds};
use crate::auth::Identity;
use crate::config::HandlerName;
use crate::metrics::Counters;
use crate::proto::http::{self, Compression, Head, Outcome};
use crate::proto::proxy::{self, ProxyHeader};
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

/// What looking at input came to.
pub(super) struct Looked {
    /// Bytes at the end of the input that have to wait.
    pub(super) rest: usize,
    /// A reply that leaves from the input's own memory.
    pub(super) in_place: Option<InPlace>,
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

/// How far a head has come.
enum HeadStep {
    /// It needs more; it begins here.
    Unfinished { start: usize },
    /// It has ended, and so many bytes behind it have to wait.
    Done { rest: usize },
}

impl Core {
    /// Takes bytes that a connection received: looks at them as far as its share of the turn
    /// reaches, and holds the rest.
    ///
    /// Returns a reply that leaves from these bytes; only where `may_lend`.
    pub(super) fn input(
        &mut self,
        index: u32,
        bytes: &mut [u8],
        may_lend: bool,
    ) -> Option<InPlace> {
        let slot = &mut self.slots[index as usize];
        slot.bytes_received += bytes.len() as u64;
        slot.heard_tick = self.tick;
        self.counters.bytes_received += bytes.len() as u64;
        self.work.spend_moved(bytes.len());
        let slot = &self.slots[index as usize];
        let waits = slot.stage.is_open()
            && (slot.is_unfinished() || self.work.has_used_share(index) || !self.is_ready(index));
        if waits {
            self.hold(index, bytes);
            self.reconsider(index);
            return None;
        }
        self.note_stream(index, bytes.len());
        let slot = &self.slots[index as usize];
        // What comes less than a buffer at a time does not need to be held back.
        let is_calm = slot.unfinished == Unfinished::Lately
            && bytes.len() < self.config.engine.buffer_bytes as usize / 2;
        self.work.begin_slice(index);
        let Looked { rest, in_place } = self.look_at_input(index, bytes, may_lend);
        self.work.end_slice(index);
        if rest > 0 {
            self.hold(index, &bytes[bytes.len() - rest..]);
            self.reconsider(index);
        } else if self.is_suspended(index) {
            self.note_unfinished(index);
        } else if is_calm {
            self.slots[index as usize].unfinished = Unfinished::No;
        }
        in_place
    }

    /// Whether a message of the connection is inflated in part and needs no more input for now.
    fn is_suspended(&self, index: u32) -> bool {
        match &self.slots[index as usize].stage {
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.is_suspended(),
            _ => false,
        }
    }

    /// Looks at bytes within the slice at hand.
    pub(super) fn look_at_input(&mut self, index: u32, bytes: &mut [u8], may_lend: bool) -> Looked {
        let before = Self::partial_bytes(&self.slots[index as usize]) as u64;
        // A byte of text costs a third of the effort to inflate.
        self.inflaters.set_allowance(3 * self.work.share_left().max(1) as usize);
        self.in_input = true;
        let looked = self.look_at(index, bytes, may_lend);
        self.in_input = false;
        let after = Self::partial_bytes(&self.slots[index as usize]) as u64;
        self.gauges.partial_bytes = self.gauges.partial_bytes + after - before;
        let unfinished = self.gauges.partial_bytes + self.held.bytes() as u64;
        if after > before && unfinished > self.config.limits.partial_shard_bytes_max {
            self.refuse_partial(index);
        }
        looked
    }

    /// All unfinished messages together are too much: the one that has just grown has to go.
    pub(super) fn refuse_partial(&mut self, index: u32) {
        if self.slots[index as usize].stage.is_open() {
            self.counters.partial_closes += 1;
            let retry_after_ms = self.retry_after_excess_ms();
            let reason = "too many unfinished messages at once, please try again later";
            self.fail(index, CloseCode::TRY_AGAIN_LATER, reason, retry_after_ms);
        }
    }

    fn look_at(&mut self, index: u32, bytes: &mut [u8], may_lend: bool) -> Looked {
        let rest = match &mut self.slots[index as usize].stage {
            Stage::Open(_) => return self.frames(index, bytes, may_lend),
            Stage::Closing { .. } => self.closing_frames(index, bytes),
            Stage::Proxy { .. } | Stage::Http { .. } => self.head(index, bytes),
            Stage::Lingering { discarded } => {
                *discarded += bytes.len() as u64;
                if *discarded > self.config.limits.linger_bytes_max {
                    self.abort(index, CloseCode::ABNORMAL);
                }
                0
            }
            Stage::Finishing | Stage::Ending => 0,
        };
        Looked { rest, in_place: None }
    }

    /// Bytes of a head: on their own, or behind what came before them.
    fn head(&mut self, index: u32, bytes: &mut [u8]) -> usize {
        let slot = &mut self.slots[index as usize];
        let (Stage::Proxy { partial, .. } | Stage::Http { partial, .. }) = &mut slot.stage else {
            return 0;
        };
        let Some(mut held) = partial.take() else {
            let mut scanned = 0;
            return match self.advance_head(index, bytes, &mut scanned) {
                HeadStep::Done { rest } => rest,
                HeadStep::Unfinished { start } => {
                    let partial = Box::new(Partial { bytes: bytes[start..].to_vec(), scanned });
                    self.hold_head(index, partial);
                    0
                }
            };
        };
        held.bytes.extend_from_slice(bytes);
        let Partial { bytes: joined, scanned } = &mut *held;
        match self.advance_head(index, joined, scanned) {
            // The head ended in the bytes at hand, so what follows it is theirs alone.
            HeadStep::Done { rest } => rest,
            HeadStep::Unfinished { start } => {
                held.bytes.drain(..start);
                self.hold_head(index, held);
                0
            }
        }
    }

    fn hold_head(&mut self, index: u32, held: Box<Partial>) {
        if let Stage::Proxy { partial, .. } | Stage::Http { partial, .. } =
            &mut self.slots[index as usize].stage
        {
            *partial = Some(held);
        }
    }

    /// Works through head stages.
    fn advance_head(&mut self, index: u32, bytes: &mut [u8], scanned: &mut usize) -> HeadStep {
        let mut start = 0;
        if let Stage::Proxy { accepted_us, .. } = self.slots[index as usize].stage {
            match self.proxy_header(index, bytes) {
                Ok(ProxyHeader::Partial) => return HeadStep::Unfinished { start: 0 },
                Ok(ProxyHeader::Complete { consumed, source }) => {
                    let slot = &mut self.slots[index as usize];
                    if source.is_some() {
                        slot.peer = PeerAddress::from(source);
                    }
                    slot.stage = Stage::Http { partial: None, accepted_us };
                    start = consumed;
                    *scanned = 0;
                    if start == bytes.len() {
                        return HeadStep::Done { rest: 0 };
                    }
                }
                Err(()) => {
                    self.counters.proxy_errors += 1;
                    self.log_rejection(index, "proxy_header", |_| Particulars::default());
                    self.abort(index, CloseCode::ABNORMAL);
                    return HeadStep::Done { rest: 0 };
                }
            }
        }
        match self.request(index, &mut bytes[start..], scanned) {
            Some(rest) => HeadStep::Done { rest },
            None => HeadStep::Unfinished { start },
        }
    }

    /// A PROXY header is believed only from a trusted peer; a Unix socket's peer is local.
    fn proxy_header(&self, index: u32, bytes: &[u8]) -> Result<ProxyHeader, ()> {
        let slot = &self.slots[index as usize];
        let listener = &self.config.listeners[usize::from(slot.listener)];
        let trusted = slot
            .peer
            .get()
            .is_none_or(|peer| listener.trusted.iter().any(|net| net.contains(&peer.ip())));
        if !trusted {
            return Err(());
        }
        proxy::parse(bytes).map_err(|_| ())
    }

    /// Looks at a request. Returns how many bytes behind it have to wait; `None`: it is unfinished.
    fn request(&mut self, index: u32, bytes: &mut [u8], scanned: &mut usize) -> Option<usize> {
        let mut answer = self.pools.answer();
        let gate = self.handshake(index);
        let slot = &self.slots[index as usize];
        let listener = &self.config.listeners[usize::from(slot.listener)];
        let context = http::Context {
            gate: Some(&gate),
            routes: &self.config.routes,
            pages: &self.pages,
            limits: &self.config.limits.http,
            forwarding: listener.forwarding.as_ref(),
            peer: slot.peer.get().map(|peer| peer.ip()),
            same_origin: self.same_origin(index),
            availability: self.availability(index),
            context_room_bytes: self.context_room_bytes(),
        };
        let head = http::receive(bytes, scanned, &context, &mut answer);
        let (findings, standing) = gate.into_parts();
        self.work.spend(HANDSHAKE_EFFORT);
        if findings.identity.is_some() || findings.failure.is_some() {
            self.work.spend(TOKEN_EFFORT);
        }
        self.slots[index as usize].standing = standing;
        let refused = matches!(
            head,
            Head::Complete { outcome: Outcome::Answer { refusal: Some(_), .. }, .. }
        );
        self.note(index, &findings, refused);
        if let Head::Complete {
            client,
            outcome: Outcome::Answer { refusal: Some(refusal), .. },
            ..
        } = head
        {
            let slot = &mut self.slots[index as usize];
            slot.peer = slot.peer.with_ip(client);
            self.log_rejected_request(index, refusal, findings.denied, (bytes, &answer));
        }
        if !answer.is_empty() {
            self.queue(index, &answer);
        }
        self.pools.recycle_answer(answer);
        match head {
            Head::Partial => return None,
            Head::Complete {
                consumed,
                client,
                outcome: Outcome::Upgrade { route, compression },
            } => {
                self.open(index, route, client, compression, findings.identity);
                if consumed < bytes.len() {
                    return Some(self.frames(index, &mut bytes[consumed..], false).rest);
                }
            }
            Head::Complete { client, outcome: Outcome::Answer { refusal, .. }, .. } => {
                match refusal {
                    Some(refusal) => self.counters.refuse(refusal),
                    None => self.counters.answered += 1,
                }
                self.slots[index as usize].peer = self.slots[index as usize].peer.with_ip(client);
                self.leave(index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
            }
        }
        Some(0)
    }

    /// The upgrade: consumes the HTTP stage, so that nothing of HTTP can be written after the 101.
    ///
    /// `identity`: of the request's token.
    fn open(
        &mut self,
        index: u32,
        route: usize,
        client: Option<IpAddr>,
        compression: Compression,
        identity: Option<Arc<Identity>>,
    ) {
        let slot = &self.slots[index as usize];
        let (Stage::Http { accepted_us, .. } | Stage::Proxy { accepted_us, .. }) = slot.stage
        else {
            return;
        };
        let receiver = self.open_receiver(route, compression);
        let slot = &mut self.slots[index as usize];
        slot.stage = Stage::Open(receiver);
        self.gauges.handshakes -= 1;
        slot.route = route as u16;
        slot.peer = slot.peer.with_ip(client);
        slot.opened_tick = self.tick;
        slot.message_tick = self.tick;
        slot.pinged = false;
        let took_us = ((self.now_ns / 1000) as u32).wrapping_sub(accepted_us);
        self.histograms.accept_to_open.record(u64::from(took_us.max(1)) * 1000);
        self.counters.opened += 1;
        self.gauges.open += 1;
        self.schedule_first_ping(index);
        self.open_parked(index);
        self.set_deadline(index);
        self.hub_open(index, identity);
    }

    /// Looks at frames of an open connection.
    fn frames(&mut self, index: u32, mut input: &mut [u8], may_lend: bool) -> Looked {
        let mut scan = Scan {
            received_len: input.len(),
            may_lend,
            in_place: None,
            pongs: 0,
            effort: self.codec_effort(),
        };
        let after = loop {
            let seen = self.next_event(index, &mut input, &mut scan);
            let is_over = match &seen {
                Seen::Frames => !self.may_go_on(index),
                Seen::Event(After::Nothing) => input.is_empty() || !self.may_go_on(index),
                Seen::Nothing | Seen::Event(_) => true,
            };
            if is_over {
                break if let Seen::Event(after) = seen { after } else { After::Nothing };
            }
        };
        self.spend_on_codecs(&mut scan.effort);
        self.after_frames(index, after);
        let rest = match &self.slots[index as usize].stage {
            Stage::Open(_) => input.len(),
            Stage::Closing { .. } => self.closing_frames(index, input),
            _ => 0,
        };
        Looked { rest, in_place: scan.in_place }
    }

    /// Counts frames that have led to no event, where there were many.
    fn count_frames(&mut self, index: u32) -> Seen {
        let stage = &self.slots[index as usize].stage;
        if !matches!(stage, Stage::Open(receiver) if receiver.has_yielded()) {
            return Seen::Nothing;
        }
        (0..ws::FRAMES_AT_ONCE).for_each(|_| self.work.spend_frame());
        Seen::Frames
    }

    /// Takes one event out of the input, and does what follows from it.
    #[expect(clippy::mut_mut, reason = "the input moves past what was consumed")]
    #[inline]
    fn next_event(&mut self, index: u32, input: &mut &mut [u8], scan: &mut Scan) -> Seen {
        let slot = &mut self.slots[index as usize];
        let Slot { stage, outbox, messages_received, messages_sent, lending, .. } = slot;
        let Stage::Open(receiver) = stage else { return Seen::Nothing };
        let sending = receiver.sending();
        let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
        let Some(event) = receiver.next_inflated(input, limits, inflaters) else {
            return self.count_frames(index);
        };
        self.work.spend_frame();
        let (mut after, mut heard) = (After::Nothing, false);
        let route = &self.config.route_options[usize::from(slot.route)];
        let mut replies = Replies {
            outbox,
            pools: &mut self.pools,
            counters: &mut self.counters,
            gauges: &mut self.gauges,
            messages_sent,
            in_place: (scan.may_lend && !*lending && input.is_empty())
                .then_some(&mut scan.in_place),
            received_len: scan.received_len,
            in_place_bytes_min: self.config.engine.reply_in_place_bytes_min as usize,
            compression: Reply::new(sending, route),
            deflaters: &mut self.deflaters,
            measured: self.histograms.is_on(),
            now_ns: self.now_ns,
            tick: self.tick,
        };
        match event {
            Event::Message { kind, payload } => {
                *messages_received = messages_received.saturating_add(1);
                replies.counters.messages_received += 1;
                slot.message_tick = self.tick;
                let (rates, hub) = (&self.config.rates, self.hub.as_deref());
                let taken = self.meter.take(index, rates, hub, payload.len(), self.now_ns);
                match taken {
                    _ if route.handler == HandlerName::Hub => {
                        let high_bytes = self.config.limits.outbox_high_bytes;
                        let budget = self.work.requests(high_bytes, replies.outbox.as_deref());
                        let (hub, at) = (&mut self.hub, (index, self.now_ns, budget));
                        Core::hub_receive(hub, at, (kind, payload), taken.err());
                        heard = true;
                    }
                    Ok(()) => Session::Echo.message(kind, payload, &mut replies),
                    Err(much) => after = After::excess(rates, much, replies.counters),
                }
            }
            Event::Ping(payload) => {
                replies.counters.pings_received += 1;
                let (rates, hub) = (&self.config.rates, self.hub.as_deref());
                match self.meter.take(index, rates, hub, payload.len(), self.now_ns) {
                    Ok(()) => drop(replies.frame(OpCode::Control(Control::Pong), payload)),
                    Err(much) => after = After::excess(rates, much, replies.counters),
                }
            }
            Event::Pong(payload) => {
                let answer = payload.as_slice().try_into().ok();
                self.heard_pong(index, answer, &mut scan.pongs);
            }
            Event::Close(frame) => after = After::PeerClosed(frame.map(|frame| frame.code)),
            Event::Failed(error) => after = After::Failed(error),
        }
        if sending.is_some() {
            self.spend_on_codecs(&mut scan.effort);
        }
        if heard {
            self.hub_apply(index);
        }
        Seen::Event(after)
    }

    /// Whether the next frame of the input at hand may be looked at within this slice.
    fn may_go_on(&self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        !self.work.is_share_spent()
            && self.has_outbox_room(slot)
            && !(self.hub.is_some() && (self.hub_waits(index) || self.hub_has_requests(index)))
    }

    /// Counts what codecs have done since.
    fn spend_on_codecs(&mut self, since: &mut u64) {
        let effort = self.codec_effort();
        self.work.spend(effort - std::mem::replace(since, effort));
    }

    /// One answer is awaited; a flood of pongs is not worth a hash each.
    fn heard_pong(&mut self, index: u32, answer: Option<[u8; 16]>, heard: &mut u32) {
        *heard += 1;
        if let (Some(answer), ..=2) = (answer, *heard) {
            self.pong(index, answer);
        }
    }

    /// What the frames of one input led to is done.
    fn after_frames(&mut self, index: u32, after: After) {
        match after {
            After::Nothing => self.check_outbox(index),
            After::PeerClosed(code) => {
                self.queue_close(index, ws::reply_code(code), "");
                self.leave(index, Stage::Finishing, code.unwrap_or(CloseCode::NO_STATUS));
            }
            After::TooMuch { wait_ms } => {
                self.close(index, CloseCode::RATE_LIMITED, "too much a second: send less", wait_ms);
            }
            After::Failed(error) => {
                self.counters.protocol_error(error);
                self.fail(index, error.close_code(), error.reason(), 0);
            }
        }
    }

    /// Looks at frames of a connection that was sent a Close: only the peer's Close matters.
    /// Returns how many bytes have to wait.
    fn closing_frames(&mut self, index: u32, mut input: &mut [u8]) -> usize {
        let mut effort = self.codec_effort();
        loop {
            let slot = &mut self.slots[index as usize];
            let Stage::Closing { receiver, code } = &mut slot.stage else { return 0 };
            let code = *code;
            let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
            match receiver.next_inflated(&mut input, limits, inflaters) {
                None if receiver.has_yielded() => {}
                None => break,
                Some(Event::Close(_)) => {
                    self.leave(index, Stage::Finishing, code);
                    return 0;
                }
                Some(Event::Failed(error)) => {
                    self.counters.protocol_error(error);
                    self.leave(index, Stage::Lingering { discarded: 0 }, code);
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

    /// Closes a connection past all bounds. Where only its own outbox is long, its input waits.
    fn check_outbox(&mut self, index: u32) {
        let limits = &self.config.limits;
        let slot = &mut self.slots[index as usize];
        let Some(outbox) = slot.outbox.as_ref().filter(|_| slot.stage.is_open()) else { return };
        let bytes = outbox.bytes();
        self.gauges.outbox_bytes_peak = self.gauges.outbox_bytes_peak.max(bytes as u64);
        // Pausing is not enough where many connections at once go from little to much.
        let is_crowded = self.gauges.outbox_bytes > 2 * limits.outbox_shard_bytes_max as u64;
        if bytes > limits.outbox_bytes_max || (is_crowded && self.crowds(bytes)) {
            self.close_slow_reader(index);
        }
    }
}

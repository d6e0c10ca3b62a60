//! Bytes from a peer, by stage: PROXY header, request, frames, or nothing that is looked at.
//!
//! What follows a stage's end in the same bytes belongs to the next stage and is passed on at
//! once: a PROXY header, a request and its first frames may all come in one segment.

use std::net::IpAddr;

use super::compression::Reply;
use super::core::Core;
use super::meter::TooMuch;
use super::replies::Replies;
use super::slot::{Partial, PeerAddress, Slot, Stage};
use crate::admission::limiter::{Excess, RateBounds};
use crate::config::HandlerName;
use crate::metrics::Counters;
use crate::proto::http::{self, Compression, Head, Outcome};
use crate::proto::proxy::{self, ProxyHeader};
use crate::proto::ws::{self, Control, Event, OpCode};
use crate::session::Session;

/// What the frames of one input led to.
#[derive(Clone, Copy)]
enum After {
    Nothing,
    /// The peer sent a Close with this code, if any.
    PeerClosed(Option<u16>),
    Failed(ws::ProtocolError),
    /// More messages than may be sent in a second.
    TooMuch,
}

impl After {
    /// More came than may in a second, on a route that has no errors to answer with.
    fn excess(rates: &RateBounds, too_much: TooMuch, counters: &mut Counters) -> Self {
        counters.over_rate(too_much.kind);
        if rates.excess == Excess::Close { Self::TooMuch } else { Self::Nothing }
    }
}

impl Core {
    /// Looks at bytes that a connection received.
    pub(super) fn input(&mut self, index: u32, bytes: &mut [u8]) {
        let before = Self::partial_bytes(&self.slots[index as usize]) as u64;
        self.in_input = true;
        self.look_at(index, bytes);
        self.in_input = false;
        let after = Self::partial_bytes(&self.slots[index as usize]) as u64;
        self.gauges.partial_bytes = self.gauges.partial_bytes + after - before;
        if after > before && self.gauges.partial_bytes > self.config.limits.partial_shard_bytes_max
        {
            self.refuse_partial(index);
        }
    }

    /// All unfinished messages together are too much: the one that has just grown has to go.
    fn refuse_partial(&mut self, index: u32) {
        if self.slots[index as usize].stage.is_open() {
            self.counters.partial_closes += 1;
            self.fail(index, 1013, "too many unfinished messages at once, please try again later");
        }
    }

    fn look_at(&mut self, index: u32, bytes: &mut [u8]) {
        let slot = &mut self.slots[index as usize];
        slot.bytes_received += bytes.len() as u64;
        slot.heard_tick = self.tick;
        self.counters.bytes_received += bytes.len() as u64;
        match &mut slot.stage {
            Stage::Open(_) => self.frames(index, bytes),
            Stage::Closing { .. } => self.closing_frames(index, bytes),
            Stage::Proxy { .. } | Stage::Http { .. } => self.head(index, bytes),
            Stage::Lingering { discarded } => {
                *discarded += bytes.len() as u64;
                if *discarded > self.config.limits.linger_bytes_max {
                    self.abort(index, 1006);
                }
            }
            Stage::Finishing | Stage::Ending => {}
        }
    }

    /// Bytes of a head: on their own, or behind what came before them.
    fn head(&mut self, index: u32, bytes: &mut [u8]) {
        self.may_lend = false;
        let slot = &mut self.slots[index as usize];
        let (Stage::Proxy { partial, .. } | Stage::Http { partial, .. }) = &mut slot.stage else {
            return;
        };
        let Some(mut held) = partial.take() else {
            let mut scanned = 0;
            if let Some(rest) = self.advance_head(index, bytes, &mut scanned) {
                let partial = Box::new(Partial { bytes: bytes[rest..].to_vec(), scanned });
                self.hold(index, partial);
            }
            return;
        };
        held.bytes.extend_from_slice(bytes);
        let Partial { bytes, scanned } = &mut *held;
        if let Some(rest) = self.advance_head(index, bytes, scanned) {
            held.bytes.drain(..rest);
            self.hold(index, held);
        }
    }

    fn hold(&mut self, index: u32, held: Box<Partial>) {
        if let Stage::Proxy { partial, .. } | Stage::Http { partial, .. } =
            &mut self.slots[index as usize].stage
        {
            *partial = Some(held);
        }
    }

    /// Works through head stages. Returns where the unfinished head begins, if one does.
    fn advance_head(&mut self, index: u32, bytes: &mut [u8], scanned: &mut usize) -> Option<usize> {
        let mut start = 0;
        if let Stage::Proxy { accepted_us, .. } = self.slots[index as usize].stage {
            match self.proxy_header(index, bytes) {
                Ok(ProxyHeader::Partial) => return Some(0),
                Ok(ProxyHeader::Complete { consumed, source }) => {
                    let slot = &mut self.slots[index as usize];
                    if source.is_some() {
                        slot.peer = PeerAddress::from(source);
                    }
                    slot.stage = Stage::Http { partial: None, accepted_us };
                    start = consumed;
                    *scanned = 0;
                    if start == bytes.len() {
                        return None;
                    }
                }
                Err(()) => {
                    self.counters.proxy_errors += 1;
                    self.abort(index, 1006);
                    return None;
                }
            }
        }
        self.request(index, &mut bytes[start..], scanned).then_some(start)
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

    /// Looks at a request; returns whether it is still unfinished.
    fn request(&mut self, index: u32, bytes: &mut [u8], scanned: &mut usize) -> bool {
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
            availability: self.availability(index),
            context_room_bytes: self.context_room_bytes(),
        };
        let head = http::receive(bytes, scanned, &context, &mut answer);
        let (findings, standing) = gate.into_parts();
        self.slots[index as usize].standing = standing;
        let refused = matches!(
            head,
            Head::Complete { outcome: Outcome::Answer { refusal: Some(_), .. }, .. }
        );
        self.note(index, &findings, refused);
        self.admitted = findings.identity;
        if !answer.is_empty() {
            self.queue(index, &answer);
        }
        self.pools.recycle_answer(answer);
        match head {
            Head::Partial => return true,
            Head::Complete {
                consumed,
                client,
                outcome: Outcome::Upgrade { route, compression },
            } => {
                self.open(index, route, client, compression);
                if consumed < bytes.len() {
                    self.frames(index, &mut bytes[consumed..]);
                }
            }
            Head::Complete { client, outcome: Outcome::Answer { refusal, .. }, .. } => {
                match refusal {
                    Some(refusal) => self.counters.refuse(refusal),
                    None => self.counters.answered += 1,
                }
                self.slots[index as usize].peer = self.slots[index as usize].peer.with_ip(client);
                self.leave(index, Stage::Lingering { discarded: 0 }, 1006);
            }
        }
        false
    }

    /// The upgrade: consumes the HTTP stage, so that nothing of HTTP can be written after the 101.
    fn open(&mut self, index: u32, route: usize, client: Option<IpAddr>, compression: Compression) {
        let identity = self.admitted.take();
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

    /// Frames of an open connection.
    fn frames(&mut self, index: u32, mut input: &mut [u8]) {
        let queued_before = self.slots[index as usize].outbox.as_ref().map_or(0, |o| o.bytes());
        let mut after = After::Nothing;
        let mut pongs: u32 = 0;
        let received_at = input.as_ptr().addr();
        while matches!(after, After::Nothing) {
            let slot = &mut self.slots[index as usize];
            let Slot { stage, outbox, messages_received, messages_sent, lending, .. } = slot;
            let Stage::Open(receiver) = stage else { return };
            let sending = receiver.sending();
            let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
            let Some(event) = receiver.next_inflated(&mut input, limits, inflaters) else { break };
            self.events += 1;
            let mut heard = false;
            let route = &self.config.route_options[usize::from(slot.route)];
            let is_hub = route.handler == HandlerName::Hub;
            let mut replies = Replies {
                outbox,
                pools: &mut self.pools,
                counters: &mut self.counters,
                gauges: &mut self.gauges,
                messages_sent,
                lent: (self.may_lend && !*lending && input.is_empty()).then_some(&mut self.lent),
                received_at,
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
                        _ if is_hub => {
                            let (hub, what) = (&mut self.hub, (kind, payload.as_slice()));
                            Core::hub_receive(hub, index, self.now_ns, what, taken.err());
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
                    self.heard_pong(index, answer, &mut pongs);
                }
                Event::Close(frame) => after = After::PeerClosed(frame.map(|frame| frame.code)),
                Event::Failed(error) => after = After::Failed(error),
            }
            if heard {
                self.hub_apply(index);
            }
        }
        self.after_frames(index, after, queued_before);
    }

    /// One answer is awaited; a flood of pongs is not worth a hash each.
    fn heard_pong(&mut self, index: u32, answer: Option<[u8; 16]>, heard: &mut u32) {
        *heard += 1;
        if let (Some(answer), ..=2) = (answer, *heard) {
            self.pong(index, answer);
        }
    }

    /// What the frames of one input led to is done.
    fn after_frames(&mut self, index: u32, after: After, queued_before: usize) {
        match after {
            After::Nothing => self.check_outbox(index, queued_before),
            After::PeerClosed(code) => {
                self.queue_close(index, ws::reply_code(code), "");
                self.leave(index, Stage::Finishing, code.unwrap_or(1005));
            }
            After::TooMuch => self.close(index, 4429, "too much a second: send less"),
            After::Failed(error) => {
                self.counters.protocol_error(error);
                self.fail(index, error.close_code(), error.reason());
            }
        }
    }

    /// Frames of a connection that was sent a Close: only the peer's Close matters.
    fn closing_frames(&mut self, index: u32, mut input: &mut [u8]) {
        loop {
            let slot = &mut self.slots[index as usize];
            let Stage::Closing { receiver, code } = &mut slot.stage else { return };
            let code = *code;
            let (limits, inflaters) = (&self.config.limits.ws, Some(&mut self.inflaters));
            match receiver.next_inflated(&mut input, limits, inflaters) {
                None => return,
                Some(Event::Close(_)) => return self.leave(index, Stage::Finishing, code),
                Some(Event::Failed(error)) => {
                    self.counters.protocol_error(error);
                    return self.leave(index, Stage::Lingering { discarded: 0 }, code);
                }
                Some(Event::Message { .. } | Event::Ping(_) | Event::Pong(_)) => {}
            }
        }
    }

    /// Stops reading from a connection that does not read, and closes one past all bounds.
    ///
    /// What this input has just queued does not count yet: nearly always the kernel takes it with
    /// the turn's send, and a cancelled receive for each large message would cost more than it
    /// saves. If it still waits when the next input comes, the connection does not keep up.
    fn check_outbox(&mut self, index: u32, queued_before: usize) {
        let limits = &self.config.limits;
        let slot = &mut self.slots[index as usize];
        let Some(outbox) = slot.outbox.as_ref().filter(|_| slot.stage.is_open()) else { return };
        let bytes = outbox.bytes();
        self.gauges.outbox_bytes_peak = self.gauges.outbox_bytes_peak.max(bytes as u64);
        if bytes > limits.outbox_bytes_max {
            return self.close_slow_reader(index);
        }
        let crowds = self.crowds(bytes);
        if crowds && self.gauges.outbox_bytes > 2 * limits.outbox_shard_bytes_max as u64 {
            // Pausing was not enough: many connections at once went from little to much.
            return self.close_slow_reader(index);
        }
        let slot = &mut self.slots[index as usize];
        if (queued_before > limits.outbox_high_bytes || crowds) && !slot.paused {
            slot.paused = true;
            self.counters.read_pauses += 1;
            if crowds {
                self.throttle(index);
            }
            // The send deadline applies from now on.
            self.set_deadline(index);
        }
    }

    /// Whether an outbox of so many bytes is one of those that fill the memory for all outboxes.
    /// Those with less than their share are not the cause, and are served as ever.
    pub(super) fn crowds(&self, outbox_bytes: usize) -> bool {
        let most = self.config.limits.outbox_shard_bytes_max as u64;
        self.gauges.outbox_bytes > most && outbox_bytes as u64 > most / self.slots.len() as u64
    }

    /// Lists the connection among those that read again when all outboxes together have drained.
    pub(super) fn throttle(&mut self, index: u32) {
        let token = self.token(index);
        if !std::mem::replace(&mut self.slots[index as usize].throttled, true) {
            self.throttled.push(token);
        }
    }
}

//! What is said to one connection: compressed if that was agreed on, and queued in its outbox.

use super::compression::Reply;
use super::core::Core;
use super::outbox::{Outbox, Pools};
use super::slot::{Slot, Stage};
use crate::metrics::{Counters, Gauges};
use crate::proto::ws::deflate::{Compressing, Deflaters};
use crate::proto::ws::{self, DataKind, OpCode, Payload};
use crate::session::Outlet;

impl Core {
    /// Sends a text that is no answer to the input at hand.
    pub(super) fn tell(&mut self, index: u32, text: Vec<u8>) {
        let slot = &mut self.slots[index as usize];
        let Slot { stage, outbox, messages_sent, .. } = slot;
        let Stage::Open(receiver) = stage else { return };
        let route = &self.config.route_options[usize::from(slot.route)];
        let mut replies = Replies {
            outbox,
            pools: &mut self.pools,
            counters: &mut self.counters,
            gauges: &mut self.gauges,
            messages_sent,
            in_place: None,
            received_len: 0,
            in_place_bytes_min: usize::MAX,
            compression: Reply::new(receiver.sending(), route),
            deflaters: &mut self.deflaters,
            measured: false,
            now_ns: self.now_ns,
            tick: self.tick,
        };
        replies.reply(DataKind::Text, Payload::Owned(text));
    }
}

/// A reply that leaves from the buffer that its message came in: the message itself, which ends the
/// input. There is room for a header before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPlace {
    pub(super) kind: DataKind,
    pub(super) len: usize,
}

/// The outlet of one connection while its input is looked at.
pub(super) struct Replies<'c> {
    pub(super) outbox: &'c mut Option<Box<Outbox>>,
    pub(super) pools: &'c mut Pools,
    pub(super) counters: &'c mut Counters,
    pub(super) gauges: &'c mut Gauges,
    pub(super) messages_sent: &'c mut u32,
    /// There, if a reply may leave from the input's own memory: its message ends the input.
    pub(super) in_place: Option<&'c mut Option<InPlace>>,
    /// Bytes of the whole input.
    pub(super) received_len: usize,
    /// From this size on, a reply that is the message itself leaves from the buffer that it came
    /// in: a copy pushes the turn's other messages out of the core's cache.
    pub(super) in_place_bytes_min: usize,
    /// Whether and how messages are compressed.
    pub(super) compression: Option<Reply>,
    pub(super) deflaters: &'c mut Deflaters,
    /// Whether it matters when a reply has left.
    pub(super) measured: bool,
    pub(super) now_ns: u64,
    pub(super) tick: u32,
}

impl Replies<'_> {
    /// Compresses a reply, or queues it to be compressed when the send is built; gives it back if
    /// it does not shrink.
    fn compressed<'p>(
        &mut self,
        reply: Reply,
        kind: DataKind,
        payload: Payload<'p>,
    ) -> Option<Payload<'p>> {
        let Self { outbox, pools, gauges, deflaters, .. } = self;
        let waits = outbox.as_ref().is_some_and(|outbox| outbox.has_later());
        let is_long = Compressing::is_for(payload.len());
        let outbox = if reply.sending.context.is_some() || is_long || waits {
            let outbox = opened(outbox, pools, self.tick);
            gauges.outbox_bytes += payload.len() as u64;
            outbox.later(pools, kind, payload);
            outbox
        } else {
            let (bits, level) = (reply.sending.bits, reply.level);
            let Some(bytes) = deflaters.compress_alone(bits, level, payload.as_slice()) else {
                return Some(payload);
            };
            let (header, len) = ws::compressed_frame_header(kind, bytes.len());
            gauges.outbox_bytes += (len + bytes.len()) as u64;
            let outbox = opened(outbox, pools, self.tick);
            outbox.copy(pools, [&header[..len], bytes]);
            outbox
        };
        if self.measured {
            outbox.mark(self.now_ns);
        }
        None
    }

    pub(super) fn frame(&mut self, opcode: OpCode, payload: Payload<'_>) -> &mut Outbox {
        let outbox = opened(self.outbox, self.pools, self.tick);
        let (header, len) = ws::frame_header(opcode, payload.len());
        self.gauges.outbox_bytes += (len + payload.len()) as u64;
        outbox.frame(self.pools, &header[..len], payload);
        outbox
    }
}

fn opened<'o>(outbox: &'o mut Option<Box<Outbox>>, pools: &mut Pools, tick: u32) -> &'o mut Outbox {
    outbox.get_or_insert_with(|| {
        let mut outbox = pools.outbox();
        outbox.progress_tick = tick;
        outbox
    })
}

impl Outlet for Replies<'_> {
    fn reply(&mut self, kind: DataKind, payload: Payload<'_>) {
        *self.messages_sent = self.messages_sent.saturating_add(1);
        self.counters.messages_sent += 1;
        let payload = match self.compression {
            Some(reply) if payload.len() >= reply.bytes_min => {
                match self.compressed(reply, kind, payload) {
                    Some(payload) => payload,
                    None => return,
                }
            }
            _ => payload,
        };
        if let (None, Some(in_place), Payload::Borrowed(bytes)) =
            (&self.outbox, &mut self.in_place, &payload)
            && bytes.len() >= self.in_place_bytes_min
            // The message's own header may have come with earlier bytes, and left no room.
            && self.received_len - bytes.len() >= ws::frame_header(kind.opcode(), bytes.len()).1
        {
            **in_place = Some(InPlace { kind, len: bytes.len() });
            return;
        }
        let (now_ns, measured) = (self.now_ns, self.measured);
        let outbox = self.frame(kind.opcode(), payload);
        if measured {
            outbox.mark(now_ns);
        }
    }
}

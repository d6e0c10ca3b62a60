//! Queues output of one connection: compressed if negotiated, otherwise as it is.

use super::Connections;
use super::compression::ReplyCompression;
use super::outbox::{Outbox, Pools};
use super::slot::ensure_outbox;
use crate::metrics::Counters;
use crate::proto::ws::deflate::{Compressing, Deflaters};
use crate::proto::ws::{self, DataKind, OpCode, Payload};
use crate::session::Outlet;

impl Connections {
    /// Sends a message that does not reply to the current input; a text must be UTF-8.
    pub(in crate::shard) fn send_message(&mut self, index: u32, kind: DataKind, payload: Vec<u8>) {
        self.send_payload(index, kind, Payload::Owned(payload));
    }

    /// Does the same with a copy of the payload.
    pub(in crate::shard) fn send_copy(&mut self, index: u32, kind: DataKind, payload: &[u8]) {
        self.send_payload(index, kind, Payload::Owned(payload.to_vec()));
    }

    fn send_payload(&mut self, index: u32, kind: DataKind, payload: Payload<'_>) {
        let Some(parts) = self.slots[index as usize].open_parts() else { return };
        let route = &self.config.route_options[parts.route];
        let mut replies = Replies {
            outbox: parts.outbox,
            pools: &mut self.pools,
            counters: &mut self.counters,
            messages_sent: parts.messages_sent,
            in_place: None,
            compression: ReplyCompression::new(parts.receiver.sending(), route),
            deflaters: &mut self.deflaters,
            records_turnaround: false,
            now_ns: self.now_ns,
            tick: self.tick,
        };
        replies.reply(kind, payload);
    }

    /// Queues bytes that are not messages: control frames and HTTP answers.
    pub(super) fn queue_bytes(&mut self, index: u32, bytes: &[u8]) {
        let slot = &mut self.slots[index as usize];
        let outbox = slot.open_outbox(&mut self.pools, self.tick);
        outbox.queue_small(&mut self.pools, bytes);
    }

    /// Queues the rest of a reply to input received at `at_ns`, before all other output.
    pub(super) fn queue_first(&mut self, index: u32, bytes: &[u8], at_ns: u64) {
        let slot = &mut self.slots[index as usize];
        let outbox = slot.open_outbox(&mut self.pools, self.tick);
        outbox.queue_first(&mut self.pools, bytes, at_ns);
    }
}

/// A reply that is sent from the receive buffer of its message: it equals the message, which ends
/// the input. Its header is written in the room before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPlace {
    pub(super) kind: DataKind,
    pub(super) len: usize,
}

/// Where an in-place reply is recorded, and the conditions for one.
pub(super) struct InPlaceRoom<'c> {
    pub(super) reply: &'c mut Option<InPlace>,
    /// The length of the whole input.
    pub(super) received_len: usize,
    /// The minimum size of an in-place reply: copying larger ones would evict the turn's other
    /// messages from the core's cache.
    pub(super) bytes_min: usize,
}

/// The outlet of one connection while its input is processed.
pub(super) struct Replies<'c> {
    pub(super) outbox: &'c mut Option<Box<Outbox>>,
    pub(super) pools: &'c mut Pools,
    pub(super) counters: &'c mut Counters,
    pub(super) messages_sent: &'c mut u32,
    /// `Some` if a reply may be sent from the input's own memory, because its message ends the
    /// input.
    pub(super) in_place: Option<InPlaceRoom<'c>>,
    /// The compression of messages, if negotiated.
    pub(super) compression: Option<ReplyCompression>,
    pub(super) deflaters: &'c mut Deflaters,
    /// Whether the turnaround of replies is recorded in the histogram.
    pub(super) records_turnaround: bool,
    pub(super) now_ns: u64,
    pub(super) tick: u32,
}

impl Replies<'_> {
    /// Returns the bytes in the connection's outbox.
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Compresses a reply, or queues it to be compressed when the send is built; returns it if it
    /// does not shrink.
    fn queue_compressed<'p>(
        &mut self,
        reply: ReplyCompression,
        kind: DataKind,
        payload: Payload<'p>,
    ) -> Option<Payload<'p>> {
        let Self { outbox, pools, deflaters, .. } = self;
        let waits = outbox.as_ref().is_some_and(|outbox| outbox.has_uncompressed());
        let is_long = Compressing::is_for(payload.len());
        let outbox = if reply.sending.context.is_some() || is_long || waits {
            let outbox = ensure_outbox(outbox, pools, self.tick);
            outbox.queue_uncompressed(pools, kind, payload);
            outbox
        } else {
            let (bits, level) = (reply.sending.bits, reply.level);
            let Some(bytes) = deflaters.compress_alone(bits, level, payload.as_slice()) else {
                return Some(payload);
            };
            let (header, len) = ws::compressed_frame_header(kind, bytes.len());
            let outbox = ensure_outbox(outbox, pools, self.tick);
            outbox.queue_copy(pools, [&header[..len], bytes]);
            outbox
        };
        if self.records_turnaround {
            outbox.mark_reply(self.now_ns);
        }
        None
    }

    pub(super) fn queue_frame(&mut self, opcode: OpCode, payload: Payload<'_>) -> &mut Outbox {
        let outbox = ensure_outbox(self.outbox, self.pools, self.tick);
        let (header, len) = ws::frame_header(opcode, payload.len());
        outbox.queue_frame(self.pools, &header[..len], payload);
        outbox
    }
}

impl Outlet for Replies<'_> {
    fn reply(&mut self, kind: DataKind, payload: Payload<'_>) {
        *self.messages_sent = self.messages_sent.saturating_add(1);
        self.counters.messages_sent += 1;
        let payload = match self.compression {
            Some(reply) if payload.len() >= reply.bytes_min => {
                match self.queue_compressed(reply, kind, payload) {
                    Some(payload) => payload,
                    None => return,
                }
            }
            _ => payload,
        };
        if let (Some(room), None, Payload::Borrowed(bytes)) =
            (&mut self.in_place, &self.outbox, &payload)
            && bytes.len() >= room.bytes_min
            // The message's own header may have arrived with earlier bytes, and so left no room.
            && room.received_len - bytes.len() >= ws::frame_header(kind.opcode(), bytes.len()).1
        {
            *room.reply = Some(InPlace { kind, len: bytes.len() });
            return;
        }
        let (now_ns, records_turnaround) = (self.now_ns, self.records_turnaround);
        let outbox = self.queue_frame(kind.opcode(), payload);
        if records_turnaround {
            outbox.mark_reply(now_ns);
        }
    }
}

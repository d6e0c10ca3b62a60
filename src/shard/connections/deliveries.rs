//! Queues frames that many connections send, by reference.

use std::sync::Arc;

use super::Connections;
use super::compression::ReplyCompression;
use super::outbox::Piece;
use super::stage::Stage;
use crate::proto::ws::deflate::Deflaters;

/// As the time of acceptance: the delivery is not recorded in a histogram.
pub(in crate::shard) const NOT_RECORDED: u64 = 0;

/// The kind of frames that a connection receives: connections of an equal kind receive the same
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct PieceKind {
    /// The window of compressed messages, and the minimum length of messages that are compressed.
    window: Option<(u8, usize)>,
}

/// Whether a shared frame can be queued for a connection now.
#[derive(Clone, Copy)]
pub(in crate::shard) enum FrameRoom {
    /// A send is in flight, messages wait to be compressed or depend on those before them, or the
    /// next send is full.
    Nothing,
    /// There is room for one that is compressed so.
    For(Option<ReplyCompression>),
}

impl Connections {
    /// Returns whether a connection can be sent frames of several publications as one piece: their
    /// kind, and the maximum length. `None`: send them one by one.
    pub(in crate::shard) fn room_for_piece(&self, index: u32) -> Option<(PieceKind, usize)> {
        let slot = self.slot(index);
        let Stage::Open(receiver) = slot.stage() else { return None };
        let window = match ReplyCompression::new(receiver.sending(), self.route(index)) {
            Some(how) if how.sending.context.is_some() => return None,
            how => how.map(|how| (how.sending.bits, how.bytes_min)),
        };
        let most = self.config.engine.send_bytes_max as usize;
        let room = match slot.outbox() {
            _ if slot.is_lending() => return None,
            None => most,
            Some(outbox)
                if outbox.is_sending()
                    || outbox.has_uncompressed()
                    || !outbox.has_room_for_mark() =>
            {
                return None;
            }
            Some(outbox) => most.saturating_sub(outbox.bytes()),
        };
        Some((PieceKind { window }, room))
    }

    /// Queues frames of several publications, for which there is room; `is_last`: this is their
    /// last receiver in this shard.
    pub(in crate::shard) fn queue_piece(&mut self, index: u32, piece: &Piece, is_last: bool) {
        let is_timed = self.histograms.is_on();
        let messages = piece.messages();
        let slot = &mut self.slots[index as usize];
        let outbox = slot.open_outbox(&mut self.pools, self.tick);
        outbox.queue_piece(&mut self.pools, piece, is_timed, is_last);
        slot.note_messages_sent(messages);
        self.counters.messages_sent += u64::from(messages);
        self.counters.deliveries += u64::from(messages);
        if slot.mark_dirty() {
            self.dirty.push(index);
        }
    }

    /// Records the delivery times of pieces that were sent since the time was last set.
    pub(super) fn record_sent_pieces(&mut self) {
        let (now_ns, histograms) = (self.now_ns, &mut self.histograms);
        for sent in self.pools.take_sent_pieces() {
            for part in &*sent.parts {
                let took_ns = now_ns.saturating_sub(part.accepted_ns);
                histograms.publish_to_delivery.record_n(took_ns, sent.count.into());
                if sent.is_last {
                    histograms.fanout.record(took_ns);
                }
            }
        }
    }

    /// Returns whether a shared frame can be queued now, and how it is compressed.
    #[inline]
    pub(in crate::shard) fn room_for_frame(&self, index: u32) -> FrameRoom {
        let slot = self.slot(index);
        let Stage::Open(receiver) = slot.stage() else { return FrameRoom::Nothing };
        let sending = receiver.sending();
        let most = self.config.engine.send_bytes_max as usize;
        let has_room = sending.is_none_or(|sending| sending.context.is_none())
            && !slot.is_lending()
            && slot.outbox().is_none_or(|outbox| {
                !outbox.is_sending() && !outbox.has_uncompressed() && outbox.bytes() < most
            });
        if has_room {
            let compress = |sending| ReplyCompression::new(Some(sending), self.route(index));
            FrameRoom::For(sending.and_then(compress))
        } else {
            FrameRoom::Nothing
        }
    }

    /// Returns whether another frame from a backlog may be queued, up to this many bytes in the
    /// outbox.
    pub(in crate::shard) fn has_room_below(&self, index: u32, bytes_max: usize) -> bool {
        self.is_open(index)
            && self
                .slot(index)
                .outbox()
                .is_none_or(|outbox| !outbox.has_uncompressed() && outbox.bytes() < bytes_max)
    }

    /// Returns the compression of messages to a connection.
    pub(in crate::shard) fn compressing(&self, index: u32) -> Option<ReplyCompression> {
        let Stage::Open(receiver) = self.slot(index).stage() else { return None };
        ReplyCompression::new(receiver.sending(), self.route(index))
    }

    pub(in crate::shard) fn deflaters_mut(&mut self) -> &mut Deflaters {
        &mut self.deflaters
    }

    /// Queues a frame of a publication. `accepted_ns`: when the publication was accepted, or
    /// [`NOT_RECORDED`]; `is_last`: this is its last member in this shard.
    pub(in crate::shard) fn queue_frame(
        &mut self,
        index: u32,
        frame: Arc<[u8]>,
        accepted_ns: u64,
        is_last: bool,
    ) {
        self.counters.deliveries += 1;
        self.queue_shared(index, frame, accepted_ns, is_last);
    }

    /// Queues a frame that is sent to several connections; arguments as for [`Self::queue_frame`].
    #[inline]
    pub(in crate::shard) fn queue_shared(
        &mut self,
        index: u32,
        frame: Arc<[u8]>,
        accepted_ns: u64,
        is_last: bool,
    ) {
        let is_recorded = self.histograms.is_on() && accepted_ns != NOT_RECORDED;
        let slot = &mut self.slots[index as usize];
        let outbox = slot.open_outbox(&mut self.pools, self.tick);
        outbox.queue_shared(&mut self.pools, frame);
        if is_recorded {
            outbox.mark_delivery(accepted_ns.min(self.now_ns), is_last);
        }
        slot.note_message_sent();
        self.counters.messages_sent += 1;
        if slot.mark_dirty() {
            self.dirty.push(index);
        }
    }
}

//! Several publications that are queued in many outboxes as one piece.
//!
//! Each member of a channel gets one segment and one mark for all of them. That they have left is
//! counted by piece, and the time of each publication is recorded once for all connections whose
//! sends completed at the same moment, so the histograms hold the same values as if each frame had
//! had a mark of its own.

use std::sync::Arc;

use super::{Mark, Marked, Outbox, Pools};
use crate::driver::Segment;

/// Frames behind each other, and when their publications were accepted.
#[derive(Clone, Debug)]
pub(in crate::shard) struct Piece {
    frames: Arc<[u8]>,
    accepted_ns: Arc<[u64]>,
}

impl Piece {
    /// Takes the frames of so many publications, each with the time of its acceptance.
    pub(in crate::shard) fn new(frames: &[u8], accepted_ns: &[u64]) -> Self {
        debug_assert!(frames.len() >= 2 * accepted_ns.len(), "each publication has a frame");
        Self { frames: frames.into(), accepted_ns: accepted_ns.into() }
    }

    /// Bytes of the frames.
    pub(in crate::shard) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Publications.
    pub(in crate::shard) fn messages(&self) -> u32 {
        self.accepted_ns.len() as u32
    }
}

/// A piece that has left some connections.
#[derive(Debug)]
pub(in crate::shard) struct SentPiece {
    pub(in crate::shard) accepted_ns: Arc<[u64]>,
    /// How many connections.
    pub(in crate::shard) count: u32,
    /// Whether the last of its receivers here is among them.
    pub(in crate::shard) is_last: bool,
}

impl Outbox {
    /// Whether a piece gets a mark of its own.
    pub(in crate::shard) fn has_room_for_mark(&self) -> bool {
        self.marks.len() < super::MARKS_MAX
    }

    /// Adds a piece that others send as well. `is_timed`: that it has left is to be recorded;
    /// `is_last`: for the last of its receivers here.
    pub(in crate::shard) fn queue_piece(
        &mut self,
        pools: &mut Pools,
        piece: &Piece,
        is_timed: bool,
        is_last: bool,
    ) {
        debug_assert!(!self.has_uncompressed(), "publications do not wait to be compressed");
        self.push(Segment::Shared(piece.frames.clone()));
        self.count(pools, piece.len());
        let Some(&first_ns) = piece.accepted_ns.first().filter(|_| is_timed) else { return };
        self.marks.push_back(Mark {
            end: self.queued_total,
            at_ns: first_ns,
            messages: piece.messages(),
            what: if is_last { Marked::LastDelivery } else { Marked::Delivery },
            piece: Some(piece.accepted_ns.clone()),
        });
    }
}

impl Outbox {
    /// Marks what was queued last as a publication that was accepted at `accepted_ns`.
    pub(in crate::shard) fn mark_delivery(&mut self, accepted_ns: u64, last: bool) {
        debug_assert!(self.pending.is_empty(), "publications do not wait to be compressed");
        self.set_mark(accepted_ns, if last { Marked::LastDelivery } else { Marked::Delivery }, 1);
    }

    pub(super) fn set_mark(&mut self, at_ns: u64, what: Marked, messages: u32) {
        let end = self.queued_total;
        let full = self.marks.len() >= super::MARKS_MAX;
        match self.marks.back_mut() {
            Some(last)
                if (last.at_ns == at_ns && last.what == what && last.piece.is_none()) || full =>
            {
                last.end = end;
                last.messages += messages;
            }
            _ => self.marks.push_back(Mark { end, at_ns, messages, what, piece: None }),
        }
    }

    /// Passes the marks that are wholly sent: see [`Outbox::complete_send`].
    pub(super) fn pass_marks(&mut self, pools: &mut Pools, mut left: impl FnMut(Marked, u64, u32)) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.end <= self.sent_total) {
            let Some(accepted_ns) = mark.piece else {
                left(mark.what, mark.at_ns, mark.messages);
                continue;
            };
            // What has joined the mark because there were too many.
            let joined = mark.messages - accepted_ns.len() as u32;
            if joined > 0 {
                left(Marked::Delivery, mark.at_ns, joined);
            }
            pools.note_sent_piece(accepted_ns, mark.what == Marked::LastDelivery);
        }
    }
}

impl Pools {
    /// Counts a piece that has left a connection.
    pub(super) fn note_sent_piece(&mut self, accepted_ns: Arc<[u64]>, is_last: bool) {
        // Members of a channel are served one after the other, and so complete their sends.
        if let Some(sent) = self.sent_pieces.last_mut()
            && Arc::ptr_eq(&sent.accepted_ns, &accepted_ns)
        {
            sent.count += 1;
            sent.is_last |= is_last;
            return;
        }
        self.sent_pieces.push(SentPiece { accepted_ns, count: 1, is_last });
    }

    /// Whether pieces have left whose times are to be recorded.
    #[inline]
    pub(in crate::shard) fn has_sent_pieces(&self) -> bool {
        !self.sent_pieces.is_empty()
    }

    /// Takes out what has left, to be recorded.
    pub(in crate::shard) fn take_sent_pieces(&mut self) -> std::vec::Drain<'_, SentPiece> {
        self.sent_pieces.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::batch::Bounds;
    use crate::shard::connections::outbox::Taken;

    const BOUNDS: Bounds = Bounds { bytes_max: 4096, segments_max: 8 };

    /// Sends up to so many bytes; returns what left with marks of its own.
    fn send(outbox: &mut Outbox, pools: &mut Pools, bytes_max: usize) -> Vec<(Marked, u64, u32)> {
        let mut left = Vec::new();
        let Some(batch) = outbox.take_batch(BOUNDS) else { return left };
        let taken = batch.offered_bytes().min(bytes_max);
        let taken = Taken { wire_bytes: taken, queued_bytes: taken };
        outbox.complete_send(batch, taken, pools, |what, at_ns, count| {
            left.push((what, at_ns, count));
        });
        left
    }

    fn sent(pools: &mut Pools) -> Vec<(Vec<u64>, u32, bool)> {
        let sent = pools.take_sent_pieces();
        sent.map(|one| (one.accepted_ns.to_vec(), one.count, one.is_last)).collect()
    }

    #[test]
    fn a_piece_counts_once_all_of_it_has_left() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let piece = Piece::new(b"first second", &[3, 7]);
        let mut outboxes = [false, false, true].map(|is_last| {
            let mut outbox = pools.outbox(0);
            outbox.queue_piece(&mut pools, &piece, true, is_last);
            outbox
        });
        let [first, second, third] = &mut outboxes;
        assert!(send(first, &mut pools, usize::MAX).is_empty());
        assert!(send(second, &mut pools, 5).is_empty(), "a part of it");
        assert!(send(third, &mut pools, usize::MAX).is_empty());
        assert_eq!(sent(&mut pools), [(vec![3, 7], 2, true)]);
        assert!(!pools.has_sent_pieces());
        assert!(send(second, &mut pools, usize::MAX).is_empty());
        assert_eq!(sent(&mut pools), [(vec![3, 7], 1, false)]);
    }

    #[test]
    fn what_joins_the_mark_of_a_piece_is_recorded_beside_it() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let mut outbox = pools.outbox(0);
        for n in 0..super::super::MARKS_MAX as u64 - 1 {
            outbox.queue_shared(&mut pools, Arc::from(*b"x"));
            outbox.mark_delivery(n, false);
        }
        outbox.queue_piece(&mut pools, &Piece::new(b"abcd", &[100, 101]), true, false);
        assert!(!outbox.has_room_for_mark(), "further pieces have to wait");
        outbox.queue_shared(&mut pools, Arc::from(*b"y"));
        outbox.mark_delivery(500, false);
        while !outbox.is_empty() {
            for (what, at_ns, count) in send(&mut outbox, &mut pools, usize::MAX) {
                assert_eq!((what, count), (Marked::Delivery, 1), "{at_ns}");
            }
        }
        assert_eq!(sent(&mut pools), [(vec![100, 101], 1, false)]);
    }

    #[test]
    fn pieces_that_are_dropped_are_not_recorded() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let piece = Piece::new(b"abcd", &[1, 2]);
        let mut outbox = pools.outbox(0);
        outbox.queue_piece(&mut pools, &piece, true, true);
        outbox.drop_unsent(&mut pools);
        assert!(outbox.is_empty() && pools.queued_bytes() == 0);
        outbox.queue_piece(&mut pools, &piece, false, true);
        assert!(send(&mut outbox, &mut pools, usize::MAX).is_empty());
        assert!(!pools.has_sent_pieces(), "neither dropped nor timed");
    }
}

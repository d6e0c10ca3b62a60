//! Pieces: several publications that are queued in many outboxes as one.
//!
//! A member of a channel gets one segment and one mark for all publications of a piece. Sends of a
//! piece are counted together, and the time of each publication is recorded once for all
//! connections whose sends completed at the same moment. If a send ends within a piece, the
//! publications that were sent are recorded separately. So the histograms have the same values as
//! if each frame had a mark of its own.

use std::sync::Arc;

use super::{Mark, MarkState, Marked, Outbox, Pools};
use crate::driver::Segment;

/// A publication of a piece whose delivery is recorded.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct PiecePart {
    pub(in crate::shard) accepted_ns: u64,
    /// The number of bytes of the piece behind its frame.
    bytes_behind: u32,
}

/// Consecutive frames, and the times when their publications were accepted.
#[derive(Clone, Debug)]
pub(in crate::shard) struct Piece {
    frames: Arc<[u8]>,
    messages: u32,
    /// The publications that are recorded.
    parts: Arc<[PiecePart]>,
}

/// Builds a piece.
#[derive(Debug, Default)]
pub(in crate::shard) struct PieceBuilder {
    frames: Vec<u8>,
    messages: u32,
    /// For each recorded publication: when it was accepted, and where its frame ends.
    ends: Vec<(u64, usize)>,
}

impl PieceBuilder {
    /// Returns the bytes of the frames so far.
    pub(in crate::shard) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Appends the frame of a publication. `accepted_ns`: when the publication was accepted;
    /// `None`: its delivery is not recorded.
    pub(in crate::shard) fn push(&mut self, frame: &[u8], accepted_ns: Option<u64>) {
        self.frames.extend_from_slice(frame);
        self.messages += 1;
        self.ends.extend(accepted_ns.map(|accepted_ns| (accepted_ns, self.frames.len())));
    }

    /// Returns the piece; `None` if nothing was appended.
    pub(in crate::shard) fn build(self) -> Option<Piece> {
        let Self { frames, messages, ends } = self;
        let part = |(accepted_ns, end)| {
            let bytes_behind = u32::try_from(frames.len() - end).expect("a send is shorter");
            PiecePart { accepted_ns, bytes_behind }
        };
        let parts = ends.into_iter().map(part).collect();
        (messages > 0).then(|| Piece { frames: frames.into(), messages, parts })
    }
}

impl Piece {
    /// Returns the bytes of the frames.
    pub(in crate::shard) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns the number of publications.
    pub(in crate::shard) fn messages(&self) -> u32 {
        self.messages
    }
}

/// A piece that was sent to some connections.
#[derive(Debug)]
pub(in crate::shard) struct SentPiece {
    pub(in crate::shard) parts: Arc<[PiecePart]>,
    /// The number of connections.
    pub(in crate::shard) count: u32,
    /// Whether the last of its receivers in this shard is among them.
    pub(in crate::shard) is_last: bool,
}

impl Outbox {
    /// Returns whether there is room for a mark of a piece.
    pub(in crate::shard) fn has_room_for_mark(&self) -> bool {
        self.marks.len() < super::MARKS_MAX
    }

    /// Queues a piece, which is shared with other outboxes. `is_timed`: its delivery is recorded;
    /// `is_last`: this is its last receiver in this shard.
    pub(in crate::shard) fn queue_piece(
        &mut self,
        pools: &mut Pools,
        piece: &Piece,
        is_timed: bool,
        is_last: bool,
    ) {
        debug_assert!(!self.has_uncompressed(), "publications do not wait to be compressed");
        self.has_had_pieces = true;
        self.push(Segment::Shared(piece.frames.clone()));
        self.count_bytes(pools, piece.len());
        if !is_timed || piece.parts.is_empty() {
            return;
        }
        self.marks.push_back(Mark {
            end: self.queued_total,
            at_ns: 0,
            messages: 0,
            what: if is_last { Marked::LastDelivery } else { Marked::Delivery },
            piece: Some(piece.parts.clone()),
        });
    }
}

impl Outbox {
    /// Marks the last queued frame as a publication that was accepted at `accepted_ns`.
    pub(in crate::shard) fn mark_delivery(&mut self, accepted_ns: u64, last: bool) {
        debug_assert!(self.pending.is_empty(), "publications do not wait to be compressed");
        self.set_mark(accepted_ns, if last { Marked::LastDelivery } else { Marked::Delivery }, 1);
    }

    pub(super) fn set_mark(&mut self, at_ns: u64, what: Marked, messages: u32) {
        let end = self.queued_total;
        let is_full = self.marks.len() >= super::MARKS_MAX;
        match self.marks.back_mut() {
            // Nothing joins the mark of a piece: above the limit, at most one more mark follows it.
            Some(last)
                if last.piece.is_none()
                    && ((last.at_ns == at_ns && last.what == what) || is_full) =>
            {
                last.end = end;
                last.messages += messages;
            }
            _ => self.marks.push_back(Mark { end, at_ns, messages, what, piece: None }),
        }
    }

    /// Removes the marks that are completely sent: see [`Outbox::complete_send`].
    pub(super) fn pass_marks(&mut self, pools: &mut Pools, mut left: impl FnMut(Marked, u64, u32)) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.end <= self.sent_total) {
            match mark.piece {
                Some(parts) => pools.note_sent_piece(parts, mark.what == Marked::LastDelivery),
                None => left(mark.what, mark.at_ns, mark.messages),
            }
        }
        if !self.has_had_pieces {
            return;
        }
        let Some(Mark { end, what, piece: Some(parts), .. }) = self.marks.front_mut() else {
            return;
        };
        let has_left = |part: &PiecePart| *end - u64::from(part.bytes_behind) <= self.sent_total;
        let count = parts.partition_point(has_left);
        if count > 0 {
            parts[..count].iter().for_each(|part| left(*what, part.accepted_ns, 1));
            *parts = parts[count..].into();
        }
    }

    /// Returns the marks as plain data.
    pub(super) fn mark_states(&self, now_ns: u64) -> Vec<MarkState> {
        let state = |end: u64, at_ns, messages, what| MarkState {
            end: end - self.sent_total,
            age_ns: now_ns.saturating_sub(at_ns),
            messages,
            what,
        };
        let states = self.marks.iter().flat_map(|mark| match &mark.piece {
            None => vec![state(mark.end, mark.at_ns, mark.messages, mark.what)],
            Some(parts) => {
                let end = |part: &PiecePart| mark.end - u64::from(part.bytes_behind);
                let each = |part| state(end(part), part.accepted_ns, 1, mark.what);
                parts.iter().map(each).collect()
            }
        });
        states.collect()
    }
}

impl Pools {
    /// Counts a piece that was sent to a connection.
    pub(super) fn note_sent_piece(&mut self, parts: Arc<[PiecePart]>, is_last: bool) {
        // Members of a channel are served one after the other, so their sends complete in
        // succession.
        if let Some(sent) = self.sent_pieces.last_mut()
            && Arc::ptr_eq(&sent.parts, &parts)
        {
            sent.count += 1;
            sent.is_last |= is_last;
            return;
        }
        self.sent_pieces.push(SentPiece { parts, count: 1, is_last });
    }

    /// Returns whether sent pieces are to be recorded.
    #[inline]
    pub(in crate::shard) fn has_sent_pieces(&self) -> bool {
        !self.sent_pieces.is_empty()
    }

    /// Removes and returns the sent pieces, to be recorded.
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

    /// A piece of frames, each with when its publication was accepted (ns); 0: it is not recorded.
    fn piece(frames: &[(&[u8], u64)]) -> Piece {
        let mut builder = PieceBuilder::default();
        for (frame, accepted_ns) in frames {
            builder.push(frame, Some(*accepted_ns).filter(|ns| *ns > 0));
        }
        builder.build().unwrap()
    }

    fn sent(pools: &mut Pools) -> Vec<(Vec<u64>, u32, bool)> {
        let times = |parts: &[PiecePart]| parts.iter().map(|part| part.accepted_ns).collect();
        pools.take_sent_pieces().map(|one| (times(&one.parts), one.count, one.is_last)).collect()
    }

    #[test]
    fn each_publication_of_a_piece_counts_once_its_frame_has_left() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let piece = piece(&[(b"first", 3), (b"no time", 0), (b"second", 7)]);
        assert_eq!((piece.len(), piece.messages()), (18, 3));
        let mut outboxes = [false, false, true].map(|is_last| {
            let mut outbox = pools.take_outbox(0);
            outbox.queue_piece(&mut pools, &piece, true, is_last);
            outbox
        });
        let [first, second, third] = &mut outboxes;
        assert!(send(first, &mut pools, usize::MAX).is_empty());
        assert!(send(second, &mut pools, 4).is_empty(), "a part of the first frame");
        assert_eq!(send(third, &mut pools, 5), [(Marked::LastDelivery, 3, 1)]);
        assert_eq!(sent(&mut pools), [(vec![3, 7], 1, false)]);
        assert_eq!(send(second, &mut pools, 13), [(Marked::Delivery, 3, 1)]);
        assert!(send(second, &mut pools, usize::MAX).is_empty());
        assert!(send(third, &mut pools, usize::MAX).is_empty());
        assert_eq!(sent(&mut pools), [(vec![7], 1, false), (vec![7], 1, true)]);
        assert!(!pools.has_sent_pieces() && outboxes.iter().all(|outbox| outbox.is_empty()));
    }

    #[test]
    fn the_completion_of_a_piece_is_awaited() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let piece = piece(&[(b"first", 3), (b"second", 7)]);
        let mut outbox = pools.take_outbox(0);
        outbox.queue_shared(&mut pools, Arc::from(*b"frame"));
        outbox.mark_delivery(3, true);
        let batch = outbox.take_batch(BOUNDS).unwrap();
        assert!(outbox.is_last_batch(&batch), "a delivery may leave quietly");
        let sent = Taken { wire_bytes: 5, queued_bytes: 5 };
        outbox.complete_send(batch, sent, &mut pools, |_, _, _| {});
        outbox.queue_piece(&mut pools, &piece, true, true);
        let batch = outbox.take_batch(BOUNDS).unwrap();
        assert!(!outbox.is_last_batch(&batch));
        outbox.fail_send(batch, &mut pools);
    }

    #[test]
    fn marks_stay_bounded_and_nothing_joins_a_piece() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let mut outbox = pools.take_outbox(0);
        let most = super::super::MARKS_MAX as u64;
        for n in 0..most - 1 {
            outbox.queue_shared(&mut pools, Arc::from(*b"x"));
            outbox.mark_delivery(n, false);
        }
        outbox.queue_piece(&mut pools, &piece(&[(b"ab", 100), (b"cd", 101)]), true, false);
        assert!(!outbox.has_room_for_mark(), "further pieces have to wait");
        for n in 0..10 {
            outbox.queue_shared(&mut pools, Arc::from(*b"y"));
            outbox.mark_delivery(500 + n, false);
        }
        assert_eq!(outbox.marks.len() as u64, most + 1);
        let mut counted = 0;
        while !outbox.is_empty() {
            let left = send(&mut outbox, &mut pools, usize::MAX);
            counted += left.iter().map(|(_, _, count)| count).sum::<u32>();
        }
        assert_eq!(u64::from(counted), most - 1 + 10);
        assert_eq!(sent(&mut pools), [(vec![100, 101], 1, false)]);
    }

    #[test]
    fn pieces_that_are_dropped_are_not_recorded() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let piece = piece(&[(b"ab", 1), (b"cd", 2)]);
        let mut outbox = pools.take_outbox(0);
        outbox.queue_piece(&mut pools, &piece, true, true);
        outbox.drop_unsent(&mut pools);
        assert!(outbox.is_empty() && pools.queued_bytes() == 0);
        outbox.queue_piece(&mut pools, &piece, false, true);
        assert!(send(&mut outbox, &mut pools, usize::MAX).is_empty());
        assert!(!pools.has_sent_pieces(), "neither dropped nor timed");
    }

    #[test]
    fn a_serialized_piece_keeps_the_time_of_each_publication() {
        let mut pools = Pools::new(16 * 1024, 1 << 20);
        let mut outbox = pools.take_outbox(0);
        outbox.queue_piece(&mut pools, &piece(&[(b"first", 3), (b"second", 7)]), true, true);
        assert!(send(&mut outbox, &mut pools, 2).is_empty());
        let state = outbox.serialize(10).unwrap();
        let mut restored = pools.take_outbox(0);
        restored.restore(&mut pools, &state, 10);
        assert_eq!(send(&mut restored, &mut pools, 3), [(Marked::LastDelivery, 3, 1)]);
        assert_eq!(send(&mut restored, &mut pools, 9), [(Marked::LastDelivery, 7, 1)]);
        outbox.clear(&mut pools);
    }
}

//! Sealed batches: for connections whose transport encrypts output.
//!
//! A batch is sealed when it is filled, not earlier, and no other is sealed before it is sent, so
//! that queued output can still be shared, dropped or compressed. Once sealed, the outbox counts
//! its bytes as on the wire.

use crate::driver::batch::Bounds;
use crate::driver::{Batch, Segment};

use super::{Outbox, Pools};

/// A transport that seals output in records.
pub(in crate::shard) trait Seal {
    /// The maximum content of one record (bytes).
    const CONTENT_BYTES_MAX: usize;

    /// Returns the bytes of a record in addition to its content.
    fn record_overhead_bytes(&self) -> usize;
    /// Returns whether content may be sealed already.
    fn takes_content(&self) -> bool;
    /// Writes the transport's own bytes that must precede further content.
    fn write_owed(&mut self, wire: &mut Vec<u8>);
    /// Seals content in records of the maximum size.
    fn seal<'p>(&mut self, plain: impl Iterator<Item = &'p [u8]>, wire: &mut Vec<u8>);
    /// Writes the end of the stream, if it is due, after all content.
    fn write_end(&mut self, wire: &mut Vec<u8>);
}

fn content_bytes_max<S: Seal>(_: &S) -> usize {
    S::CONTENT_BYTES_MAX
}

/// Returns the content that fills one send once it is sealed.
fn plain_bytes_max(bounds: Bounds, seal: &impl Seal) -> usize {
    let records_max = bounds.bytes_max.div_ceil(content_bytes_max(seal)) + 1;
    bounds.bytes_max.saturating_sub(records_max * seal.record_overhead_bytes()).max(1)
}

impl Outbox {
    /// Fills a sealed batch with output; `None` if there is none, or a batch is in flight.
    pub(in crate::shard) fn take_sealed_batch(
        &mut self,
        pools: &mut Pools,
        bounds: Bounds,
        seal: &mut impl Seal,
    ) -> Option<Box<Batch>> {
        let mut batch = self.batch.take()?;
        if !batch.is_empty() {
            return Some(batch);
        }
        let ready_bytes = if seal.takes_content() { self.bytes - self.pending_bytes } else { 0 };
        let plain_bytes = ready_bytes.min(plain_bytes_max(bounds, seal));
        let records = plain_bytes.div_ceil(content_bytes_max(seal));
        let overhead_bytes = records * seal.record_overhead_bytes();
        let mut wire = pools.take_chunk(plain_bytes + overhead_bytes);
        seal.write_owed(&mut wire);
        let owed_bytes = wire.len();
        if plain_bytes > 0 {
            let mut left = plain_bytes;
            let slices = self.waiting.iter().map_while(|segment| {
                let taken = segment.len().min(left);
                left -= taken;
                (taken > 0).then(|| &segment.as_slice()[..taken])
            });
            seal.seal(slices, &mut wire);
            debug_assert_eq!(wire.len(), owed_bytes + plain_bytes + overhead_bytes);
            self.drop_front(pools, plain_bytes);
            self.move_marks(owed_bytes, plain_bytes, seal);
        }
        if plain_bytes == self.bytes {
            seal.write_end(&mut wire);
        }
        if wire.is_empty() {
            pools.recycle_segment(Segment::Owned(wire));
            self.batch = Some(batch);
            return None;
        }
        let added_bytes = wire.len() - plain_bytes;
        pools.count_queued(added_bytes);
        self.bytes += added_bytes;
        self.queued_total += added_bytes as u64;
        batch.push(Segment::Owned(wire));
        Some(batch)
    }

    /// Removes sealed bytes from the front of the queue.
    fn drop_front(&mut self, pools: &mut Pools, mut bytes: usize) {
        while bytes > 0 {
            let front = self.waiting.pop_front().expect("what was sealed has waited");
            if front.len() > bytes {
                self.waiting.push_front(front.without_first(bytes));
                return;
            }
            bytes -= front.len();
            pools.recycle_segment(front);
        }
    }

    /// Moves marks to where their messages end on the wire: marks within a record, to its end.
    fn move_marks<S: Seal>(&mut self, owed_bytes: usize, plain_bytes: usize, seal: &S) {
        let (record, overhead) = (S::CONTENT_BYTES_MAX as u64, seal.record_overhead_bytes() as u64);
        let (owed, plain) = (owed_bytes as u64, plain_bytes as u64);
        for mark in &mut self.marks {
            let at = mark.end - self.sent_total;
            let records = at.min(plain).div_ceil(record);
            let end = if at <= plain { (records * record).min(plain) } else { at };
            mark.end = self.sent_total + owed + end + records * overhead;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::connections::outbox::{Marked, Taken};

    /// Seals by framing content with brackets.
    #[derive(Default)]
    struct Brackets {
        owed: Vec<u8>,
        ends: bool,
    }

    impl Seal for Brackets {
        const CONTENT_BYTES_MAX: usize = 4;

        fn record_overhead_bytes(&self) -> usize {
            2
        }

        fn takes_content(&self) -> bool {
            true
        }

        fn write_owed(&mut self, wire: &mut Vec<u8>) {
            wire.append(&mut self.owed);
        }

        fn seal<'p>(&mut self, plain: impl Iterator<Item = &'p [u8]>, wire: &mut Vec<u8>) {
            let plain: Vec<u8> = plain.flatten().copied().collect();
            for content in plain.chunks(Self::CONTENT_BYTES_MAX) {
                wire.push(b'[');
                wire.extend_from_slice(content);
                wire.push(b']');
            }
        }

        fn write_end(&mut self, wire: &mut Vec<u8>) {
            if std::mem::take(&mut self.ends) {
                wire.push(b'.');
            }
        }
    }

    /// Eight bytes of content a batch.
    const BOUNDS: Bounds = Bounds { bytes_max: 22, segments_max: 8 };

    /// Sends up to so many bytes; returns them, and the times of the marks that have left.
    fn send(
        outbox: &mut Outbox,
        pools: &mut Pools,
        seal: &mut Brackets,
        most: usize,
    ) -> (Vec<u8>, Vec<u64>) {
        let mut left = Vec::new();
        let Some(batch) = outbox.take_sealed_batch(pools, BOUNDS, seal) else {
            return (Vec::new(), left);
        };
        let sent: Vec<u8> = batch.slices().flatten().copied().take(most).collect();
        let taken = Taken { wire_bytes: sent.len(), queued_bytes: sent.len() };
        outbox.complete_send(batch, taken, pools, |what, at_ns, _| {
            assert_eq!(what, Marked::Reply);
            left.push(at_ns);
        });
        (sent, left)
    }

    #[test]
    fn batches_are_sealed_one_by_one_and_all_is_counted() {
        let (mut pools, mut seal) = (Pools::new(16 * 1024, 1 << 20), Brackets::default());
        let mut outbox = pools.take_outbox(0);
        outbox.queue_copy(&mut pools, [b"abc", b""]);
        outbox.mark_reply(1);
        outbox.queue_shared(&mut pools, b"defghijklmno"[..].into());
        outbox.mark_reply(2);
        seal.owed.extend_from_slice(b"!!");
        seal.ends = true;
        // "abc" ends within the first record, which has not wholly left.
        let (sent, left) = send(&mut outbox, &mut pools, &mut seal, 5);
        assert_eq!((&sent[..], &left[..]), (&b"!![ab"[..], &[][..]));
        let (sent, left) = send(&mut outbox, &mut pools, &mut seal, 4);
        assert_eq!((&sent[..], &left[..]), (&b"cd]["[..], &[1][..]));
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, usize::MAX).0, b"efgh]");
        let (sent, left) = send(&mut outbox, &mut pools, &mut seal, usize::MAX);
        assert_eq!((&sent[..], &left[..]), (&b"[ijkl][mno]."[..], &[2][..]));
        assert!(outbox.is_empty() && pools.queued_bytes() == 0);
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, usize::MAX).0, b"");
    }

    #[test]
    fn what_is_sealed_leaves_though_the_queue_is_dropped() {
        let (mut pools, mut seal) = (Pools::new(16 * 1024, 1 << 20), Brackets::default());
        let mut outbox = pools.take_outbox(0);
        outbox.queue_shared(&mut pools, b"abcdefghijkl"[..].into());
        outbox.queue_shared(&mut pools, b"dropped"[..].into());
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, 7).0, b"[abcd][");
        outbox.drop_unsent(&mut pools);
        outbox.queue_copy(&mut pools, [b"XY", b""]);
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, usize::MAX).0, b"efgh]");
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, usize::MAX).0, b"[ijkl][XY]");
        assert!(outbox.is_empty() && pools.queued_bytes() == 0);
    }

    #[test]
    fn the_end_alone_is_something_to_send() {
        let (mut pools, mut seal) = (Pools::new(16 * 1024, 1 << 20), Brackets::default());
        let mut outbox = pools.take_outbox(0);
        seal.ends = true;
        assert_eq!(send(&mut outbox, &mut pools, &mut seal, usize::MAX).0, b".");
        assert!(outbox.is_empty() && pools.queued_bytes() == 0);
    }
}

//! The bytes of one send: segments whose memory stays in place while the kernel reads it.
//!
//! A shard fills a batch and gives it to the driver, which returns it when the kernel is done with
//! it; [`Batch::advance`] continues a short send. [`Bounds`] limit a batch, so that segments still
//! queued behind it can be dropped or compressed.
//!
//! Tried and rejected: queues that keep a single segment or mark in themselves, without a ring
//! buffer. They saved less than 1 % of an echo and of a delivery.

use std::collections::VecDeque;
use std::sync::Arc;

use super::token::Token;

/// Limits of one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Segments of one batch at most.
    pub segments_max: usize,
    /// Bytes of a batch of several segments at most; a single segment may be larger.
    pub bytes_max: usize,
}

/// A run of bytes at a fixed address.
#[derive(Debug)]
pub enum Segment {
    /// Bytes of this connection only, beginning at a frame.
    Owned(Vec<u8>),
    /// Bytes of this connection only that continue the previous frame, up to its end.
    Rest(Vec<u8>),
    /// Whole frames, shared by many connections.
    Shared(Arc<[u8]>),
    /// The end of another segment, whose beginning has been sealed.
    Tail(Box<SegmentTail>),
}

/// See [`Segment::Tail`]. A type that holds no [`Segment`]: a recursive one would make each drop of
/// a segment a call.
#[derive(Debug)]
pub struct SegmentTail {
    bytes: TailBytes,
    start: usize,
}

/// The bytes of a whole segment.
#[derive(Debug)]
enum TailBytes {
    Own(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl SegmentTail {
    /// Returns the bytes that remain.
    #[cold]
    fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            TailBytes::Own(bytes) => &bytes[self.start..],
            TailBytes::Shared(bytes) => &bytes[self.start..],
        }
    }

    /// Returns the memory of the whole segment, if it is of this connection only.
    pub fn into_owned(self) -> Option<Vec<u8>> {
        match self.bytes {
            TailBytes::Own(bytes) => Some(bytes),
            TailBytes::Shared(_) => None,
        }
    }
}

impl Segment {
    /// Returns the bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Owned(bytes) | Segment::Rest(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
            Segment::Tail(tail) => tail.as_slice(),
        }
    }

    /// The segment without its first `bytes` bytes, of which it has more.
    #[must_use]
    pub fn without_first(self, bytes: usize) -> Self {
        debug_assert!(bytes < self.len(), "an empty segment would never complete");
        let (whole, start) = match self {
            Segment::Tail(mut tail) => {
                tail.start += bytes;
                return Segment::Tail(tail);
            }
            Segment::Owned(whole) | Segment::Rest(whole) => (TailBytes::Own(whole), bytes),
            Segment::Shared(whole) => (TailBytes::Shared(whole), bytes),
        };
        Segment::Tail(Box::new(SegmentTail { bytes: whole, start }))
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Segments that are sent together.
#[derive(Debug)]
pub struct Batch {
    /// The connection that sends them.
    pub token: Token,
    segments: VecDeque<Segment>,
    /// Bytes of the front segment already sent: `0 <= offset < front.len()`.
    offset: usize,
    /// Bytes not yet sent.
    bytes: usize,
    /// Bytes that one send offers to the kernel at most.
    offered_max: usize,
    /// The driver need not wake the shard when all of it has left: it may report that with the next
    /// completions. It takes at once what there is room for, and reports a short send at once.
    pub is_quiet: bool,
    /// When a quiet send was submitted, on the driver's clock (ns): it left then.
    pub(super) left_ns: Option<u64>,
    /// Names a quiet send of this batch to the driver.
    pub(super) serial: u32,
    /// Scratch space of the driver: the segments as the kernel reads them.
    pub(super) vectors: Vec<libc::iovec>,
    /// Scratch space of the driver for kernels that need a message header.
    pub(super) header: Option<Box<libc::msghdr>>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            token: Token { slot: 0, generation: 0 },
            segments: VecDeque::new(),
            offset: 0,
            bytes: 0,
            offered_max: usize::MAX,
            is_quiet: false,
            left_ns: None,
            serial: 0,
            vectors: Vec::new(),
            header: None,
        }
    }
}

impl Batch {
    /// Bytes not yet sent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the bytes of the last send left, where that was before its completion (ns).
    pub fn left_ns(&self) -> Option<u64> {
        self.left_ns
    }

    /// Whether all bytes are sent.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether a segment of this length fits.
    fn has_room_for(&self, len: usize, bounds: Bounds) -> bool {
        self.segments.is_empty()
            || (self.segments.len() < bounds.segments_max && self.bytes + len <= bounds.bytes_max)
    }

    /// Appends a segment, which must not be empty.
    pub fn push(&mut self, segment: Segment) {
        debug_assert!(!segment.is_empty(), "an empty segment would never complete");
        self.bytes += segment.len();
        self.segments.push_back(segment);
    }

    /// Moves as many waiting segments into the batch as [`Bounds`] allow.
    pub fn fill_from(
        &mut self,
        waiting: &mut VecDeque<Segment>,
        waiting_bytes: usize,
        bounds: Bounds,
    ) {
        if self.segments.is_empty()
            && waiting.len() <= bounds.segments_max
            && waiting_bytes <= bounds.bytes_max
        {
            // The usual case: swap the queues instead of moving each segment.
            std::mem::swap(&mut self.segments, waiting);
            self.bytes = waiting_bytes;
            return;
        }
        while let Some(segment) =
            waiting.pop_front_if(|segment| self.has_room_for(segment.len(), bounds))
        {
            self.push(segment);
        }
    }

    /// Limits the bytes that one send offers: the kernel copies them at once, and a segment of
    /// megabytes would delay all other connections.
    pub fn limit_offer(&mut self, bytes_max: usize) {
        self.offered_max = bytes_max.max(1);
    }

    /// Bytes that the next send offers.
    pub fn offered_bytes(&self) -> usize {
        self.bytes.min(self.offered_max)
    }

    /// Whether the next send offers all bytes not yet sent.
    pub fn offers_all(&self) -> bool {
        self.offered_bytes() == self.bytes
    }

    /// The slices that the next send offers, in order.
    pub fn offered_slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = self.offered_bytes();
        self.slices().map_while(move |bytes| {
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    /// The slices not yet sent, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut offset = self.offset;
        self.segments.iter().map(move |segment| &segment.as_slice()[std::mem::take(&mut offset)..])
    }

    /// Number of segments not yet fully sent.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Records that the kernel took `sent` more bytes, and passes finished segments to `finished`.
    pub fn advance(&mut self, sent: usize, mut finished: impl FnMut(Segment)) {
        assert!(sent <= self.bytes, "the kernel takes at most what it was offered");
        self.bytes -= sent;
        let mut left = self.offset + sent;
        while let Some(front) = self.segments.front() {
            if left < front.len() {
                break;
            }
            left -= front.len();
            finished(self.segments.pop_front().expect("the front was checked"));
        }
        self.offset = left;
    }

    /// Records that the kernel took all bytes, or that no more are to be sent, and passes all
    /// segments to `finished`.
    #[inline]
    pub fn finish(&mut self, mut finished: impl FnMut(Segment)) {
        while let Some(segment) = self.segments.pop_front() {
            finished(segment);
        }
        (self.offset, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn short_sends_lose_and_repeat_nothing(
            sizes in prop::collection::vec(1usize..40, 1..20),
            steps in prop::collection::vec(1usize..60, 1..400),
        ) {
            let mut batch = Batch::default();
            let mut expected = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let bytes = vec![index as u8; *size];
                expected.extend_from_slice(&bytes);
                batch.push(if index % 2 == 0 {
                    Segment::Owned(bytes)
                } else {
                    Segment::Shared(bytes.into())
                });
            }
            let mut sent = Vec::new();
            let mut finished = 0;
            for step in steps {
                let step = step.min(batch.bytes());
                let rest: Vec<u8> = batch.slices().flatten().copied().collect();
                prop_assert_eq!(rest.len(), batch.bytes());
                sent.extend_from_slice(&rest[..step]);
                batch.advance(step, |_| finished += 1);
            }
            let rest: Vec<u8> = batch.slices().flatten().copied().collect();
            sent.extend_from_slice(&rest);
            prop_assert_eq!(sent, expected);
            prop_assert_eq!(finished + batch.segment_count(), sizes.len());
        }
    }
}

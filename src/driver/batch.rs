//! The bytes of one send: segments whose memory stays put while the kernel reads it.
//!
//! A batch is filled by the shard, given to the driver, and comes back when the kernel is done
//! with it; a short send goes on with [`Batch::advance`]. It is filled within [`Bounds`], so that
//! what waits behind it can still be acted on.

use std::collections::VecDeque;
use std::sync::Arc;

use super::token::Token;

/// How much may leave in one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most segments of one batch.
    pub segments_max: usize,
    /// Most bytes of one batch of several segments; a single one may be larger.
    pub bytes_max: usize,
}

/// A run of bytes at a fixed address.
#[derive(Debug)]
pub enum Segment {
    /// Bytes of this connection alone. They begin where a frame begins.
    Owned(Vec<u8>),
    /// Bytes of this connection alone that continue the frame before them, up to its end.
    Rest(Vec<u8>),
    /// A whole frame that many connections send.
    Shared(Arc<[u8]>),
}

impl Segment {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Owned(bytes) | Segment::Rest(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Segments that leave in one send.
#[derive(Debug)]
pub struct Batch {
    /// Whose bytes these are.
    pub token: Token,
    segments: VecDeque<Segment>,
    /// Bytes of the front segment that have left already: `0 <= offset < front.len()`.
    offset: usize,
    /// Bytes that have not left yet.
    bytes: usize,
    /// The most that one send offers to the kernel.
    offered_max: usize,
    /// Scratch of the driver for the kernel's view of the segments.
    pub(super) vectors: Vec<libc::iovec>,
    /// Scratch of the driver where the kernel wants a message header.
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
            vectors: Vec::new(),
            header: None,
        }
    }
}

impl Batch {
    /// Bytes that have not left yet.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether a segment of this length may still join.
    fn admits(&self, len: usize, bounds: Bounds) -> bool {
        self.segments.is_empty()
            || (self.segments.len() < bounds.segments_max && self.bytes + len <= bounds.bytes_max)
    }

    /// Adds a segment that is not empty at the end.
    pub fn push(&mut self, segment: Segment) {
        debug_assert!(!segment.is_empty(), "an empty segment would never be completed");
        self.bytes += segment.len();
        self.segments.push_back(segment);
    }

    /// Takes as many of the waiting segments as may leave together.
    pub fn fill(&mut self, waiting: &mut VecDeque<Segment>, waiting_bytes: usize, bounds: Bounds) {
        if self.segments.is_empty()
            && waiting.len() <= bounds.segments_max
            && waiting_bytes <= bounds.bytes_max
        {
            // Nearly always so: the queues change places and nothing is moved.
            std::mem::swap(&mut self.segments, waiting);
            self.bytes = waiting_bytes;
            return;
        }
        while let Some(segment) = waiting.pop_front_if(|segment| self.admits(segment.len(), bounds))
        {
            self.push(segment);
        }
    }

    /// Decides how many bytes one send offers at most: the kernel copies them at once, and a
    /// segment of megabytes would keep all others waiting.
    pub fn offer(&mut self, bytes_max: usize) {
        self.offered_max = bytes_max.max(1);
    }

    /// Bytes that the next send offers.
    pub fn offered(&self) -> usize {
        self.bytes.min(self.offered_max)
    }

    /// Whether the next send offers all bytes that have not left yet.
    pub fn offers_all(&self) -> bool {
        self.offered() == self.bytes
    }

    /// The bytes that the next send offers, in order.
    pub fn offered_slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = self.offered();
        self.slices().map_while(move |bytes| {
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    /// The bytes that have not left yet, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut offset = self.offset;
        self.segments.iter().map(move |segment| &segment.as_slice()[std::mem::take(&mut offset)..])
    }

    /// Number of segments that have not left yet.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Takes note that `sent` more bytes have left, and gives the finished segments away.
    pub fn advance(&mut self, sent: usize, mut finished: impl FnMut(Segment)) {
        assert!(sent <= self.bytes, "the kernel cannot take more than it was offered");
        self.bytes -= sent;
        let mut left = self.offset + sent;
        while let Some(front) = self.segments.front() {
            if left < front.len() {
                break;
            }
            left -= front.len();
            finished(self.segments.pop_front().expect("the front was just looked at"));
        }
        self.offset = left;
    }

    /// Gives every segment away, sent or not.
    pub fn clear(&mut self, finished: impl FnMut(Segment)) {
        self.segments.drain(..).for_each(finished);
        self.offset = 0;
        self.bytes = 0;
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
            prop_assert_eq!(finished + batch.segments(), sizes.len());
        }
    }
}

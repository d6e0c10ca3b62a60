//! Memory that outboxes use and return, and the count of bytes in all of them.

use super::Outbox;
use super::batches::SentPiece;
use crate::driver::Segment;

/// Size of a small chunk: it has room for the replies of one turn of a busy connection.
pub(in crate::shard) const CHUNK_BYTES: usize = 4096;
/// The maximum number of empty outboxes that are kept, enough for one turn's deliveries. With 512,
/// half of the 1,000 members of a channel allocated and freed one for each message, four
/// allocations each. [`Pools::trim`] frees outboxes that are not needed.
const OUTBOXES_MAX: usize = 4096;

/// Pools of memory for outboxes, bounded in size.
#[derive(Debug)]
pub(in crate::shard) struct Pools {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    large_bytes: usize,
    /// The maximum memory in each pool (bytes).
    pool_bytes_max: usize,
    #[expect(clippy::vec_box, reason = "the box itself is what is kept")]
    outboxes: Vec<Box<Outbox>>,
    answer: Vec<u8>,
    /// Bytes in all outboxes of the shard.
    queued_bytes: u64,
    /// Pieces that were sent, and are to be recorded.
    pub(super) sent_pieces: Vec<SentPiece>,
}

impl Pools {
    /// `buffer_bytes`: the size of a receive buffer; a large chunk has room for the largest message
    /// in it. `pool_bytes_max`: the maximum memory in each pool.
    pub(in crate::shard) fn new(buffer_bytes: usize, pool_bytes_max: usize) -> Self {
        Self {
            small: Vec::new(),
            large: Vec::new(),
            large_bytes: buffer_bytes.max(2 * CHUNK_BYTES),
            pool_bytes_max,
            outboxes: Vec::new(),
            answer: Vec::new(),
            queued_bytes: 0,
            sent_pieces: Vec::new(),
        }
    }

    /// Returns the bytes in all outboxes of the shard.
    #[inline]
    pub(in crate::shard) fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Counts bytes that were queued in an outbox.
    #[inline]
    pub(in crate::shard) fn count_queued(&mut self, len: usize) {
        self.queued_bytes += len as u64;
    }

    /// Counts bytes that were sent or dropped from an outbox.
    #[inline]
    pub(in crate::shard) fn uncount_queued(&mut self, len: usize) {
        assert!(self.queued_bytes >= len as u64, "queued bytes are counted");
        self.queued_bytes -= len as u64;
    }

    /// Returns scratch memory for writing an HTTP answer or a Close.
    pub(in crate::shard) fn take_answer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answer)
    }

    /// Takes the scratch memory back.
    pub(in crate::shard) fn recycle_answer(&mut self, mut answer: Vec<u8>) {
        answer.clear();
        self.answer = answer;
    }

    pub(in crate::shard) fn take_chunk(&mut self, len: usize) -> Vec<u8> {
        let (pool, capacity) = if len <= CHUNK_BYTES {
            (&mut self.small, CHUNK_BYTES)
        } else if len <= self.large_bytes {
            (&mut self.large, self.large_bytes)
        } else {
            return Vec::with_capacity(len);
        };
        pool.pop().unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    /// Takes a segment's memory back, if it has a pooled size and the pool is not full.
    #[expect(clippy::inline_always, reason = "each engine has a copy: calls cost 2 % of an echo")]
    #[inline(always)]
    pub(in crate::shard) fn recycle_segment(&mut self, segment: Segment) {
        match segment {
            Segment::Shared(shared) => drop(shared),
            Segment::Owned(bytes) | Segment::Rest(bytes) => self.recycle_bytes(bytes),
            Segment::Tail(tail) => {
                if let Some(bytes) = tail.into_owned() {
                    self.recycle_bytes(bytes);
                }
            }
        }
    }

    #[inline(never)]
    fn recycle_bytes(&mut self, mut bytes: Vec<u8>) {
        let capacity = bytes.capacity();
        let pool = if capacity == CHUNK_BYTES {
            &mut self.small
        } else if capacity == self.large_bytes {
            &mut self.large
        } else {
            return;
        };
        if (pool.len() + 1) * capacity <= self.pool_bytes_max {
            bytes.clear();
            pool.push(bytes);
        }
    }

    /// Returns an empty outbox with its batch, which begins now.
    #[inline(never)]
    pub(in crate::shard) fn take_outbox(&mut self, tick: u32) -> Box<Outbox> {
        let mut outbox = self.outboxes.pop().unwrap_or_else(|| Box::new(Outbox::new()));
        outbox.begin_use(tick);
        outbox
    }

    /// Takes back an empty outbox, which has its batch.
    pub(in crate::shard) fn recycle_outbox(&mut self, outbox: Box<Outbox>) {
        debug_assert!(outbox.is_empty() && !outbox.is_sending());
        if self.outboxes.len() < OUTBOXES_MAX {
            self.outboxes.push(outbox);
        }
    }

    /// Halves the pools. Called at intervals, so that the memory of a burst is freed.
    pub(in crate::shard) fn trim(&mut self) {
        for pool in [&mut self.small, &mut self.large] {
            if pool.len() > 16 {
                pool.truncate(pool.len() / 2);
                pool.shrink_to_fit();
            }
        }
        if self.outboxes.len() > 16 {
            self.outboxes.truncate(self.outboxes.len() / 2);
            self.outboxes.shrink_to_fit();
        }
    }
}

//! Receive buffers: one slab of memory, lent to the kernel through a provided-buffer ring.
//!
//! The kernel uses published buffers in the order they were published. If all were published at
//! once, each would be touched in time and stay resident. So only a few are published
//! (`demand.rs`), refilled each turn from a last-in-first-out list, which reuses the same warm
//! pages. [`Buffers::trim`] returns pages that were not used in a period.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::demand::Demand;
use crate::driver::mapping::{Mapping, PAGE_BYTES};

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// Offset between the starts of successive buffers within their first pages (bytes): with starts at
/// powers of two, the beginnings of all buffers, which is all that small messages use, would share
/// the same few cache sets.
const STAGGER_BYTES: usize = 192;

/// The buffers of one ring.
///
/// Invariant: `lent + published + free.len() == total`, checked after every change in debug.
pub(super) struct Buffers {
    entries: Mapping,
    slab: Mapping,
    mask: u16,
    tail: u16,
    buffer_bytes: u32,
    /// Slab bytes per buffer: whole pages that no other buffer shares.
    stride: usize,
    total: u32,
    free: Vec<u16>,
    published: u32,
    lent: u32,
    demand: Demand,
    /// Fewest published and fewest free buffers since the last [`Buffers::trim`].
    published_least: u32,
    free_least: usize,
    used: bool,
    /// Per buffer: whether its pages may be resident.
    resident: Vec<bool>,
}

impl Buffers {
    /// Reserves `total` buffers (made a power of two, at most 32,768) and registers their ring.
    pub(super) fn new(
        submitter: &Submitter<'_>,
        total: u32,
        buffer_bytes: u32,
    ) -> io::Result<Self> {
        let total = total.clamp(8, 32_768);
        let total = if total.is_power_of_two() { total } else { total.next_power_of_two() / 2 };
        let entries = Mapping::new(total as usize * size_of::<BufRingEntry>())?;
        let stride = (buffer_bytes as usize).next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let slab = Mapping::new(total as usize * stride)?;
        // SAFETY: the mapping is page aligned, large enough for `total` entries, and lives until
        // nothing is armed: a shard ends only then, and leaks the mapping if it panics.
        unsafe {
            submitter.register_buf_ring_with_flags(
                entries.address().as_ptr() as u64,
                total as u16,
                GROUP,
                0,
            )?;
        }
        let mut buffers = Self {
            entries,
            slab,
            mask: (total - 1) as u16,
            tail: 0,
            buffer_bytes,
            stride,
            total,
            free: (0..total as u16).rev().collect(),
            published: 0,
            lent: 0,
            demand: Demand::new(total),
            published_least: 0,
            free_least: total as usize,
            used: false,
            resident: vec![false; total as usize],
        };
        buffers.top_up();
        buffers.published_least = buffers.published;
        Ok(buffers)
    }

    /// Publishes buffers until the target is reached or none is free.
    pub(super) fn top_up(&mut self) {
        let target = self.demand.target();
        if self.published >= target || self.free.is_empty() {
            return;
        }
        while self.published < target {
            let Some(buffer) = self.free.pop() else { break };
            let address = self.slab.address().as_ptr() as u64 + self.start_offset(buffer) as u64;
            let index = usize::from(self.tail & self.mask);
            // SAFETY: `index < total` entries of the mapping; an entry at the tail belongs to us
            // until the tail moves past it. The tail field shares memory with entry 0's reserved
            // half-word, which the setters do not write.
            unsafe {
                let entry = &mut *self.entry_at(index);
                entry.set_addr(address);
                entry.set_len(self.buffer_bytes);
                entry.set_bid(buffer);
            }
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        self.free_least = self.free_least.min(self.free.len());
        // SAFETY: entry 0 is initialised memory of the mapping, and its tail half-word is shared
        // with the kernel as an atomic.
        unsafe {
            let tail = BufRingEntry::tail(self.entry_at(0));
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
        self.check_invariants();
    }

    /// The address of ring entry `index`.
    #[expect(clippy::cast_ptr_alignment, reason = "a mapping begins at a page")]
    fn entry_at(&self, index: usize) -> *mut BufRingEntry {
        assert!(index < self.total as usize);
        // SAFETY: the mapping has room for `total` entries.
        unsafe { self.entries.address().as_ptr().cast::<BufRingEntry>().add(index) }
    }

    /// Records that the kernel filled a buffer.
    pub(super) fn lend_buffer(&mut self, buffer: u16, len: u32) {
        assert!(u32::from(buffer) < self.total, "the kernel fills only buffers of this ring");
        self.published -= 1;
        self.lent += 1;
        self.published_least = self.published_least.min(self.published);
        self.used = true;
        self.demand.record_filled(len);
        self.resident[usize::from(buffer)] = true;
        self.check_invariants();
    }

    /// Returns a lent buffer to the free list.
    pub(super) fn release_buffer(&mut self, buffer: u16) {
        assert!(self.lent > 0, "only a lent buffer is released");
        self.lent -= 1;
        self.free.push(buffer);
        self.check_invariants();
    }

    /// Records that a receive found no buffer.
    pub(super) fn record_starved(&mut self) {
        self.demand.record_starved();
    }

    /// Offset of a buffer in the slab.
    fn start_offset(&self, buffer: u16) -> usize {
        let buffer = usize::from(buffer);
        buffer * self.stride + buffer * STAGGER_BYTES % PAGE_BYTES
    }

    /// Whether at least a quarter of the target is ready to be filled.
    pub(super) fn has_buffers(&self) -> bool {
        self.published + self.free.len() as u32 >= self.demand.target().div_ceil(4)
    }

    /// The bytes of a lent buffer.
    pub(super) fn bytes(&mut self, buffer: u16, len: u32) -> &mut [u8] {
        assert!(u32::from(buffer) < self.total && len <= self.buffer_bytes);
        let start = self.start_offset(buffer);
        // SAFETY: the range lies in the slab; the kernel has filled it and will not write to it
        // until it is published again; `&mut self` excludes a second borrow.
        unsafe {
            std::slice::from_raw_parts_mut(self.slab.address().as_ptr().add(start), len as usize)
        }
    }

    /// Ends a period: lowers the target after low demand, and discards pages that it did not use.
    ///
    /// Sound only while the kernel is not filling buffers: with deferred task work it does so only
    /// inside our own `io_uring_enter`, and only what has been reaped may be discarded, which the
    /// caller guarantees by calling when no completion waits.
    pub(super) fn trim(&mut self) {
        self.demand.end_period(self.published_least);
        for index in 0..self.free_least.min(self.free.len()) {
            self.discard_buffer(self.free[index]);
        }
        if !self.used && self.lent == 0 && self.resident.contains(&true) {
            // No bytes were received: the published buffers are idle as well.
            self.resident.fill(false);
            self.slab.discard(0, self.slab.len());
        }
        self.used = false;
        self.published_least = self.published;
        self.free_least = self.free.len();
    }

    fn discard_buffer(&mut self, buffer: u16) {
        if std::mem::take(&mut self.resident[usize::from(buffer)]) {
            self.slab.discard(usize::from(buffer) * self.stride, self.stride);
        }
    }

    /// Keeps the memory mapped until the process ends: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.entries.leak();
        self.slab.leak();
    }

    pub(super) fn lent(&self) -> u32 {
        self.lent
    }

    pub(super) fn published(&self) -> u32 {
        self.published
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.lent + self.published + self.free.len() as u32,
            self.total,
            "every buffer is lent, published or free"
        );
    }
}

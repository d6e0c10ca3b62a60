//! Slots for large blocks: memory that grows in place and stays mapped for the next block.
//!
//! Address space for [`SLOTS_MAX`] slots is reserved at once; pages are allocated on the first
//! write. A block that grows within its slot is never copied. Memory that a block has touched stays
//! with its slot after the free, and the slot freed last is reused first.
//!
//! Invariants:
//! - Slots in use have at most [`UNUSED_BYTES_MAX`] of touched memory beyond their blocks, all of
//!   them together. So clients gain nothing from large messages followed by small ones that keep
//!   their slots.
//! - While [`has_excess`] is false, free slots have at most [`FREE_BYTES_MAX`]. [`return_some`]
//!   returns the excess in small parts: returning 15 MiB at once held a turn for 1.4 ms.
//!   [`forget_unneeded`] adds memory that was not needed for a while to the excess.
//!
//! Tried and rejected: huge pages. They cost less per byte, but on a virtual machine whose host has
//! not backed them, the first touch of one held a turn for 4.6 ms.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4096;
/// Slots, and so their blocks, begin at a page.
pub(super) const ALIGN_MAX: usize = PAGE_BYTES;
/// Bytes of the longest block that gets a slot.
pub(super) const SLOT_BYTES: usize = 256 << 20;
const SLOTS_MAX: usize = 1024;
const RESERVED_BYTES: usize = SLOTS_MAX * SLOT_BYTES;
/// Touched memory of slots in use beyond their blocks, at most (bytes).
const UNUSED_BYTES_MAX: usize = 32 << 20;
/// Touched memory of free slots, at most (bytes).
const FREE_BYTES_MAX: usize = 64 << 20;
/// Memory that one call of [`return_some`] returns, at most (bytes).
const RETURNED_BYTES_MAX: usize = 2 << 20;

/// Start of the reserved addresses; null if there are none.
static START: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static SLOTS: Mutex<Slots> = Mutex::new(Slots::new());
/// Whether free slots have more memory than the limit.
static HAS_EXCESS: AtomicBool = AtomicBool::new(false);

/// A stack of slot indices. It has room for all of them, and allocates nothing: it is part of the
/// allocator.
#[derive(Debug)]
struct Stack {
    indices: [u16; SLOTS_MAX],
    len: usize,
}

impl Stack {
    const fn new() -> Self {
        Self { indices: [0; SLOTS_MAX], len: 0 }
    }

    fn push(&mut self, index: usize) {
        self.indices[self.len] = index as u16;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<usize> {
        self.len = self.len.checked_sub(1)?;
        Some(self.indices[self.len].into())
    }

    /// Removes the index pushed first.
    fn pop_oldest(&mut self) -> Option<usize> {
        self.len = self.len.checked_sub(1)?;
        let oldest = self.indices[0];
        self.indices.copy_within(1..=self.len, 0);
        Some(oldest.into())
    }

    /// Adds an index at the bottom, as if it had been pushed first.
    fn push_oldest(&mut self, index: usize) {
        self.indices.copy_within(0..self.len, 1);
        self.indices[0] = index as u16;
        self.len += 1;
    }
}

/// All slots: which are free, and how much touched memory each has.
#[derive(Debug)]
struct Slots {
    /// Address space was requested; the kernel may have refused it.
    is_reserved: bool,
    /// Slots from this index on were never used.
    fresh: usize,
    /// Free slots with touched memory.
    warm: Stack,
    /// Free slots without touched memory.
    cold: Stack,
    /// Bytes of each slot that may have been written since its memory was last returned.
    touched: [u32; SLOTS_MAX],
    /// Touched memory of slots in use beyond their blocks (bytes).
    unused_bytes: usize,
    /// Touched memory of free slots (bytes).
    free_bytes: usize,
    /// The part of `free_bytes` to keep.
    kept_bytes: usize,
    /// Fewest warm slots since unneeded ones were last forgotten.
    unneeded: usize,
}

impl Slots {
    const fn new() -> Self {
        Self {
            is_reserved: false,
            fresh: SLOTS_MAX,
            warm: Stack::new(),
            cold: Stack::new(),
            touched: [0; SLOTS_MAX],
            unused_bytes: 0,
            free_bytes: 0,
            kept_bytes: FREE_BYTES_MAX,
            unneeded: 0,
        }
    }

    /// Reserves the address space on the first call.
    fn reserve_range(&mut self) {
        if std::mem::replace(&mut self.is_reserved, true) {
            return;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let start = unsafe { libc::mmap(null_mut(), RESERVED_BYTES, protection, flags, -1, 0) };
        if start != libc::MAP_FAILED {
            START.store(start.cast(), Ordering::Release);
            self.fresh = 0;
        }
    }

    /// Takes a slot for a block of `len` bytes; also returns how many bytes of it may be dirty.
    fn take(&mut self, len: usize) -> Option<(usize, usize)> {
        self.reserve_range();
        let index = self.take_warm(len).or_else(|| self.cold.pop()).or_else(|| {
            let index = self.fresh;
            self.fresh = (index + 1).min(SLOTS_MAX);
            (index < SLOTS_MAX).then_some(index)
        })?;
        self.unneeded = self.unneeded.min(self.warm.len);
        self.kept_bytes = FREE_BYTES_MAX;
        let dirty_bytes = self.touched[index] as usize;
        self.set_len(index, 0, len);
        Some((index, dirty_bytes))
    }

    /// Takes a slot with touched memory, unless too much of it would be unused. Counts it as in
    /// use, with all of its memory unused.
    fn take_warm(&mut self, len: usize) -> Option<usize> {
        let index = usize::from(*self.warm.indices[..self.warm.len].last()?);
        let touched = self.touched[index] as usize;
        if self.unused_bytes + touched.saturating_sub(len) > UNUSED_BYTES_MAX {
            return None;
        }
        self.free_bytes -= touched;
        self.unused_bytes += touched;
        self.warm.pop()
    }

    /// Accounts for a new length of a slot's block.
    fn set_len(&mut self, index: usize, len: usize, new_len: usize) {
        let touched = self.touched[index] as usize;
        assert!(len <= touched && new_len <= SLOT_BYTES, "a block lies in touched memory");
        self.unused_bytes -= touched - len;
        self.touched[index] = touched.max(new_len) as u32;
        self.unused_bytes += self.touched[index] as usize - new_len;
    }

    /// Changes the length of a slot's block; returns the range whose memory must be returned.
    fn resize(&mut self, index: usize, len: usize, new_len: usize) -> Option<(usize, usize)> {
        self.set_len(index, len, new_len);
        if self.unused_bytes <= UNUSED_BYTES_MAX {
            return None;
        }
        let touched = std::mem::replace(&mut self.touched[index], new_len as u32) as usize;
        self.unused_bytes -= touched - new_len;
        Some((new_len, touched))
    }

    fn free(&mut self, index: usize, len: usize) {
        let touched = self.touched[index] as usize;
        self.unused_bytes -= touched - len;
        self.free_bytes += touched;
        self.warm.push(index);
    }

    fn has_excess(&self) -> bool {
        self.free_bytes > self.kept_bytes
    }

    /// Takes the slot freed first, if there is an excess, with the range of its memory to return.
    fn begin_return(&mut self) -> Option<(usize, (usize, usize))> {
        if !self.has_excess() {
            return None;
        }
        let index = self.warm.pop_oldest()?;
        // Another thread may forget unneeded slots before this slot is back.
        self.unneeded = self.unneeded.min(self.warm.len);
        let touched = self.touched[index] as usize;
        let rest = touched.saturating_sub(RETURNED_BYTES_MAX);
        self.touched[index] = rest as u32;
        self.free_bytes -= touched - rest;
        Some((index, (rest, touched)))
    }

    /// Puts back a slot whose memory was returned.
    fn end_return(&mut self, index: usize) {
        if self.touched[index] > 0 {
            self.warm.push_oldest(index);
        } else {
            self.cold.push(index);
        }
    }

    fn forget_unneeded(&mut self) {
        assert!(self.unneeded <= self.warm.len, "unneeded slots are free");
        let unneeded = &self.warm.indices[..self.unneeded];
        let bytes: usize =
            unneeded.iter().map(|index| self.touched[usize::from(*index)] as usize).sum();
        self.kept_bytes = self.kept_bytes.min(self.free_bytes - bytes);
        self.unneeded = self.warm.len;
    }
}

/// The locked slots; unlocking publishes `HAS_EXCESS`.
struct Locked(MutexGuard<'static, Slots>);

impl Drop for Locked {
    fn drop(&mut self) {
        HAS_EXCESS.store(self.0.has_excess(), Ordering::Relaxed);
    }
}

fn lock_slots() -> Locked {
    Locked(SLOTS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn whole_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_BYTES)
}

fn slot_address(index: usize) -> *mut u8 {
    START.load(Ordering::Acquire).wrapping_add(index * SLOT_BYTES)
}

fn index_of(block: *mut u8) -> usize {
    (block.addr() - START.load(Ordering::Acquire).addr()) / SLOT_BYTES
}

/// Returns memory of a slot to the system. It reads as zero afterwards, also where the system keeps
/// it because it is locked.
///
/// # Safety
/// The range begins and ends at pages of the slot, and its contents are no longer used.
unsafe fn discard_pages(index: usize, (start, end): (usize, usize)) {
    // SAFETY: the range lies in the reserved memory; the caller guarantees the rest.
    unsafe {
        let start = slot_address(index).add(start);
        let len = slot_address(index).add(end).offset_from_unsigned(start);
        if libc::madvise(start.cast(), len, libc::MADV_DONTNEED) != 0 {
            start.write_bytes(0, len);
        }
    }
}

/// Whether a block lies in a slot.
pub(super) fn owns_block(block: *mut u8) -> bool {
    let start = START.load(Ordering::Acquire).addr();
    start != 0 && block.addr().wrapping_sub(start) < RESERVED_BYTES
}

/// A slot taken for a block.
pub(super) struct Taken {
    pub(super) block: *mut u8,
    /// Bytes behind this index are zero; those before it may have any value.
    pub(super) dirty_bytes: usize,
}

/// Takes a slot for a block of `len` bytes; `None` if none is free.
pub(super) fn take_slot(len: usize) -> Option<Taken> {
    assert!(len <= SLOT_BYTES, "longer blocks have no slot");
    let mut slots = lock_slots();
    let (index, dirty_bytes) = slots.0.take(whole_pages(len))?;
    Some(Taken { block: slot_address(index), dirty_bytes })
}

/// Frees a slot.
///
/// # Safety
/// [`take_slot`] made the block, `len` is its length, and it is no longer used.
pub(super) unsafe fn free_slot(block: *mut u8, len: usize) {
    lock_slots().0.free(index_of(block), whole_pages(len));
}

/// Changes the length of a block in place.
///
/// # Safety
/// [`take_slot`] made the block, `len` is its length, and bytes behind `new_len` are no longer
/// used.
pub(super) unsafe fn resize_slot(block: *mut u8, len: usize, new_len: usize) {
    let index = index_of(block);
    let unused = lock_slots().0.resize(index, whole_pages(len), whole_pages(new_len));
    if let Some(range) = unused {
        // SAFETY: the range lies behind the block.
        unsafe { discard_pages(index, range) };
    }
}

/// Whether free slots have more touched memory than the limit.
#[inline]
pub(in crate::driver) fn has_excess() -> bool {
    HAS_EXCESS.load(Ordering::Relaxed)
}

/// Returns a bounded part of the excess to the system.
pub(in crate::driver) fn return_some() {
    let Some((index, range)) = lock_slots().0.begin_return() else { return };
    // SAFETY: the slot is free, and in no stack from which another thread could take it.
    unsafe { discard_pages(index, range) };
    lock_slots().0.end_return(index);
}

/// Adds the memory of slots not needed since the last call to the excess; returns whether free
/// slots with touched memory remain.
pub(in crate::driver) fn forget_unneeded() -> bool {
    let mut slots = lock_slots();
    slots.0.forget_unneeded();
    slots.0.free_bytes > 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Slots with the lengths of their blocks, and the slots whose memory is being returned.
    struct Model {
        slots: Box<Slots>,
        live: Vec<(usize, usize)>,
        returning: Vec<usize>,
    }

    impl Model {
        fn new() -> Self {
            let mut slots = Box::new(Slots::new());
            // Reserve nothing: the model only counts.
            (slots.is_reserved, slots.fresh) = (true, 0);
            Self { slots, live: Vec::new(), returning: Vec::new() }
        }

        fn step(&mut self, step: usize, which: prop::sample::Index, bytes: usize) {
            let len = whole_pages(bytes);
            match step {
                0 | 1 => self.live.push((self.slots.take(len).unwrap().0, len)),
                2 if !self.live.is_empty() => {
                    let which = which.index(self.live.len());
                    let (index, old_len) = &mut self.live[which];
                    self.slots.resize(*index, *old_len, len);
                    *old_len = len;
                }
                3 if !self.live.is_empty() => {
                    let (index, len) = self.live.swap_remove(which.index(self.live.len()));
                    self.slots.free(index, len);
                }
                4 => self.slots.forget_unneeded(),
                // Several threads may return memory at the same time.
                5 if !self.returning.is_empty() => {
                    let which = which.index(self.returning.len());
                    self.slots.end_return(self.returning.swap_remove(which));
                }
                _ => {
                    if let Some((index, (start, end))) = self.slots.begin_return() {
                        assert!(start < end && end - start <= RETURNED_BYTES_MAX);
                        self.returning.push(index);
                    }
                }
            }
        }

        /// Frees all blocks, and returns all memory.
        fn end(&mut self) {
            self.live.drain(..).for_each(|(index, len)| self.slots.free(index, len));
            self.returning.drain(..).for_each(|index| self.slots.end_return(index));
            self.slots.forget_unneeded();
            self.slots.forget_unneeded();
            while let Some((index, _)) = self.slots.begin_return() {
                self.slots.end_return(index);
            }
        }

        fn check(&self) {
            let Self { slots, live, returning } = self;
            let touched = |index: usize| slots.touched[index] as usize;
            let unused: usize = live.iter().map(|(index, len)| touched(*index) - len).sum();
            assert_eq!(slots.unused_bytes, unused);
            assert!(unused <= UNUSED_BYTES_MAX);
            let indices = |stack: &Stack| -> Vec<usize> {
                stack.indices[..stack.len].iter().map(|index| (*index).into()).collect()
            };
            let (warm, cold) = (indices(&slots.warm), indices(&slots.cold));
            let free: usize = warm.iter().chain(returning).map(|index| touched(*index)).sum();
            assert_eq!(slots.free_bytes, free);
            assert!(slots.has_excess() || free <= FREE_BYTES_MAX);
            assert!(warm.iter().all(|index| touched(*index) > 0));
            assert!(cold.iter().all(|index| touched(*index) == 0));
            let mut all = [warm, cold, returning.clone()].concat();
            all.extend(live.iter().map(|(index, _)| *index));
            all.sort_unstable();
            assert!(all.into_iter().eq(0..slots.fresh), "each slot is in one stack or in use");
        }
    }

    proptest! {
        /// Whatever blocks are allocated, resized and freed, memory beside them is bounded, and
        /// returned in the end.
        #[test]
        fn memory_beside_blocks_is_bounded(steps in prop::collection::vec(
            (0..7usize, any::<prop::sample::Index>(), 1..=SLOT_BYTES), 1..200)) {
            let mut model = Model::new();
            for (step, which, bytes) in steps {
                model.step(step, which, bytes);
                model.check();
            }
            model.end();
            model.check();
            assert_eq!(model.slots.free_bytes, 0);
        }
    }

    #[test]
    fn without_address_space_there_are_no_slots() {
        let mut slots = Box::new(Slots::new());
        // The state after a reservation that the kernel refused.
        slots.is_reserved = true;
        assert_eq!(slots.take(PAGE_BYTES), None);
        slots.forget_unneeded();
        assert_eq!(slots.begin_return(), None);
    }

    #[test]
    fn memory_that_is_returned_reads_as_zero() {
        let taken = take_slot(SLOT_BYTES).expect("there are slots");
        let index = index_of(taken.block);
        // SAFETY: only this test has the block, until it is freed.
        unsafe {
            taken.block.write_bytes(7, 4 * PAGE_BYTES);
            discard_pages(index, (PAGE_BYTES, 3 * PAGE_BYTES));
            let bytes = std::slice::from_raw_parts(taken.block, 4 * PAGE_BYTES);
            let (returned, kept) = (&bytes[PAGE_BYTES..3 * PAGE_BYTES], &bytes[..PAGE_BYTES]);
            assert!(returned.iter().all(|byte| *byte == 0) && kept.iter().all(|byte| *byte == 7));
            free_slot(taken.block, SLOT_BYTES);
        }
    }

    #[test]
    fn the_slot_freed_last_is_taken_first_and_the_oldest_is_returned_first() {
        let mut stack = Stack::new();
        (0..4).for_each(|index| stack.push(index));
        assert_eq!((stack.pop(), stack.pop_oldest(), stack.pop()), (Some(3), Some(0), Some(2)));
        stack.push_oldest(7);
        assert_eq!((stack.pop_oldest(), stack.pop_oldest(), stack.pop()), (Some(7), Some(1), None));
    }
}

//! The process's allocator: mimalloc, and `slots` for large blocks.
//!
//! Messages of many megabytes come and go quickly, and tables grow by doubling. A general heap
//! copies them when they grow, maps their memory page by page, and unmaps hundreds of megabytes at
//! once. In a slot they grow in place, in memory that the previous block left mapped.
//!
//! Measured on a virtual machine: fresh memory costs 600 us/MiB and more, so a message that grew
//! from the heap to 4 MiB of fresh memory held a turn for 5 ms. Tried and rejected: one mapping per
//! string, grown with `mremap`.

pub(super) mod slots;

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;

/// Blocks of at least this size get a slot (bytes).
const LARGE_BYTES: usize = 512 << 10;

/// Blocks of this size and larger have this alignment by themselves, and smaller ones that of any
/// value that fits into them, as `malloc` promises. The call that takes an alignment needs twice
/// the instructions of the one that does not: 40 for a small block.
const ALIGN_MAX: usize = align_of::<libc::max_align_t>();

/// The global allocator; see the module.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: small blocks are mimalloc's. A large one is mimalloc's or lies in a slot, whose addresses
// are distinct, so each block is freed where it was allocated. A slot has room for the longest
// large block, and begins at a page, the largest alignment of large blocks.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout)
            && let Some(taken) = slots::take_slot(layout.size())
        {
            return taken.block;
        }
        if layout.align() <= ALIGN_MAX && layout.align() <= layout.size() {
            // SAFETY: any size may be asked for.
            return unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the caller's contract is that of the callee.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout)
            && let Some(taken) = slots::take_slot(layout.size())
        {
            // SAFETY: the slot has that many bytes.
            unsafe { taken.block.write_bytes(0, layout.size().min(taken.dirty_bytes)) };
            return taken.block;
        }
        // SAFETY: the caller's contract is that of the callee.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_in_slot(block, layout) {
            // SAFETY: the slot was taken for this layout, and the caller no longer uses it.
            return unsafe { slots::free_slot(block, layout.size()) };
        }
        // SAFETY: the caller's contract is that of the callee.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that the new size is valid for this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let was_in_slot = is_in_slot(block, layout);
        if was_in_slot && is_large(new_layout) {
            // SAFETY: the slot was taken for this layout.
            unsafe { slots::resize_slot(block, layout.size(), new_size) };
            return block;
        }
        if !was_in_slot && !is_large(new_layout) {
            // SAFETY: the caller's contract is that of the callee.
            return unsafe { MiMalloc.realloc(block, layout, new_size) };
        }
        // SAFETY: both blocks have room for the smaller of the two sizes, and are distinct.
        unsafe {
            let new_block = self.alloc(new_layout);
            if !new_block.is_null() {
                block.copy_to_nonoverlapping(new_block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new_block
        }
    }
}

fn is_large(layout: Layout) -> bool {
    layout.align() <= slots::ALIGN_MAX && (LARGE_BYTES..=slots::SLOT_BYTES).contains(&layout.size())
}

fn is_in_slot(block: *mut u8, layout: Layout) -> bool {
    is_large(layout) && slots::owns_block(block)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Serializes tests that depend on free slots with the one that takes all of them.
    fn lock_slots() -> MutexGuard<'static, ()> {
        static LOCK: Mutex<()> = Mutex::new(());
        LOCK.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block that is resized like the buffer of a `Vec`.
    struct Block {
        start: *mut u8,
        layout: Layout,
    }

    impl Block {
        fn new(size: usize, align: usize) -> Self {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout is not empty.
            let start = unsafe { Allocator.alloc_zeroed(layout) };
            assert!(!start.is_null());
            Self { start, layout }
        }

        fn new_untouched(size: usize) -> Self {
            let layout = Layout::from_size_align(size, 1).unwrap();
            // SAFETY: the layout is not empty.
            Self { start: unsafe { Allocator.alloc(layout) }, layout }
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: the block was made for this layout.
            self.start = unsafe { Allocator.realloc(self.start, self.layout, size) };
            assert!(!self.start.is_null());
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        }

        fn as_bytes(&mut self) -> &mut [u8] {
            // SAFETY: the block has this length, and all of it was written or zeroed.
            unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
        }

        fn is_in_slot(&self) -> bool {
            is_in_slot(self.start, self.layout)
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            // SAFETY: the block was made for this layout.
            unsafe { Allocator.dealloc(self.start, self.layout) };
        }
    }

    #[test]
    fn contents_survive_every_change_of_size() {
        let sizes =
            [100, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 5 * LARGE_BYTES, 70 * LARGE_BYTES];
        for align in [1, 8, 4096] {
            for from in sizes {
                for to in sizes {
                    let mut block = Block::new(from, align);
                    assert!(block.as_bytes().iter().step_by(97).all(|byte| *byte == 0));
                    assert!(block.start.addr().is_multiple_of(align));
                    let mark = |place: usize| (place / 1000) as u8 ^ place as u8;
                    let places = || (0..from.min(to)).step_by(997).chain([from.min(to) - 1]);
                    places().for_each(|place| block.as_bytes()[place] = mark(place));
                    block.resize(to);
                    assert!(places().all(|place| block.as_bytes()[place] == mark(place)));
                    // Dirty it: the next block must still read zeros.
                    block.as_bytes()[to - 1] = 7;
                    block.as_bytes()[0] = 7;
                }
            }
        }
    }

    #[test]
    fn a_block_grows_in_place() {
        let _lock = lock_slots();
        let mut block = Block::new(LARGE_BYTES, 8);
        let start = block.start;
        assert!(block.is_in_slot());
        block.resize(slots::SLOT_BYTES);
        assert_eq!(block.start, start);
        block.resize(LARGE_BYTES);
        assert_eq!(block.start, start);
    }

    #[test]
    fn blocks_without_a_slot_come_from_the_heap() {
        let _lock = lock_slots();
        assert!(!Block::new(LARGE_BYTES, 2 * slots::ALIGN_MAX).is_in_slot(), "its alignment");
        assert!(!Block::new(slots::SLOT_BYTES + 1, 1).is_in_slot(), "too long");
        let mut blocks: Vec<Block> = Vec::new();
        loop {
            let block = Block::new_untouched(LARGE_BYTES);
            if !block.is_in_slot() {
                break;
            }
            blocks.push(block);
        }
        // The last one is in the heap; it moves once a slot is free.
        let mut block = Block::new(LARGE_BYTES, 1);
        assert!(!block.is_in_slot());
        block.as_bytes()[LARGE_BYTES - 1] = 9;
        drop(blocks);
        block.resize(2 * LARGE_BYTES);
        assert!(block.is_in_slot());
        assert_eq!(block.as_bytes()[LARGE_BYTES - 1], 9);
    }

    #[test]
    fn blocks_are_aligned_as_their_layout_asks() {
        for align in [1, 64, 4096, 4 << 20] {
            assert!(Block::new(LARGE_BYTES, align).start.addr().is_multiple_of(align));
        }
    }

    #[test]
    fn impossible_sizes_are_rejected() {
        let layout = Layout::from_size_align(isize::MAX as usize - 4096, 1).unwrap();
        // SAFETY: the layout is not empty.
        assert!(unsafe { Allocator.alloc(layout) }.is_null());
    }
}

//! A ring's receive buffers: a provided-buffer ring over one mapping.
//!
//! The kernel uses buffers in the order they were provided, so all of them become resident in time.
//! The owner provides only as many as one batch of completions may need.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::ring::Ring;

/// The only buffer group of a ring.
pub const GROUP: u16 = 0;

/// Buffers of one size, lent to the kernel until a completion names one.
pub struct Buffers {
    entries: NonNull<BufRingEntry>,
    storage: NonNull<u8>,
    count: u16,
    size: usize,
    tail: u16,
}

impl Buffers {
    /// Maps `count` buffers of `size` bytes, and provides all of them to the kernel.
    ///
    /// # Panics
    /// If `count` is not a power of two up to 32,768: the ring indexes with a mask.
    pub fn new(ring: &Ring, count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "buffer count {count}");
        assert!(size > 0 && u32::try_from(size).is_ok(), "buffer size {size}");
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let storage = map(usize::from(count) * size)?;
        // SAFETY: the entries are mapped, zeroed, page-aligned, and never unmapped (see `map`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                GROUP,
                0,
            )?;
        }
        let mut buffers = Self { entries, storage, count, size, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The bytes of a buffer the kernel has filled and named in a completion.
    ///
    /// # Panics
    /// If `id` or `len` is out of range, a bug of the kernel or the caller.
    pub fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.size, "buffer {id} with {len} bytes");
        // SAFETY: inside the mapping by the assertion; the kernel does not write to a buffer
        // between its completion and `give_back`, which needs `&mut self`.
        unsafe {
            let start = self.storage.as_ptr().add(usize::from(id) * self.size);
            std::slice::from_raw_parts(start, len)
        }
    }

    /// The address of a buffer, to send from it.
    pub fn address(&self, id: u16) -> *const u8 {
        assert!(id < self.count, "buffer {id}");
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.storage.as_ptr().add(usize::from(id) * self.size) }
    }

    /// Provides a buffer to the kernel again.
    pub fn give_back(&mut self, id: u16) {
        let address = self.address(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is masked into the ring; the kernel reads an entry only after the
        // store of the tail below, and `tail` is the u16 the ABI puts into the first entry.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(address);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Maps anonymous zeroed pages for the lifetime of the process, which is that of the ring.
fn map(len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh anonymous mapping touches no memory of ours.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::RingSizes;

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let ring = Ring::new(RingSizes { submissions: 4, completions: 8, files: 1 }).unwrap();
        let mut buffers = Buffers::new(&ring, 4, 512).unwrap();
        let starts: Vec<usize> = (0..4).map(|id| buffers.address(id) as usize).collect();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == 512));
        assert_eq!(buffers.bytes(3, 512), [0; 512]);
        buffers.give_back(2);
        assert_eq!(buffers.tail, 5);
    }

    #[test]
    #[should_panic(expected = "buffer 4")]
    fn a_buffer_outside_is_refused() {
        let ring = Ring::new(RingSizes { submissions: 4, completions: 8, files: 1 }).unwrap();
        let buffers = Buffers::new(&ring, 4, 512).unwrap();
        buffers.bytes(4, 1);
    }
}

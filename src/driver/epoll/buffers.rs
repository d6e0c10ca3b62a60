//! The receive buffers: one that stays warm, and one for while the first is lent.

use std::io;

use crate::driver::mapping::{Mapping, PAGE_BYTES};

/// A socket is received from only when its bytes are asked for, and the shard returns a buffer
/// before it asks for more, or sends it on, which ends at once.
pub(super) const BUFFERS: u16 = 2;

/// See the module. Invariant: a buffer is either free or lent.
pub(super) struct Buffers {
    memory: Mapping,
    buffer_bytes: usize,
    /// Bytes from the start of a buffer to the next one's.
    stride: usize,
    /// Last in, first out: the warm one is used again.
    free: Vec<u16>,
    /// Whether any was used since [`Buffers::trim`].
    is_used: bool,
    /// Whether pages of the memory may be resident.
    is_resident: bool,
}

impl Buffers {
    pub(super) fn new(buffer_bytes: u32) -> io::Result<Self> {
        let buffer_bytes = buffer_bytes as usize;
        let stride = buffer_bytes.next_multiple_of(PAGE_BYTES);
        let memory = Mapping::new(stride * usize::from(BUFFERS))?;
        let free = (0..BUFFERS).rev().collect();
        Ok(Self { memory, buffer_bytes, stride, free, is_used: false, is_resident: false })
    }

    /// Lends a free buffer.
    pub(super) fn lend(&mut self) -> Option<u16> {
        let buffer = self.free.pop();
        self.is_used |= buffer.is_some();
        self.is_resident |= buffer.is_some();
        buffer
    }

    /// Takes a lent buffer back.
    pub(super) fn release(&mut self, buffer: u16) {
        assert!(buffer < BUFFERS && !self.free.contains(&buffer), "a lease is released once");
        self.free.push(buffer);
    }

    /// The first bytes of a lent buffer.
    pub(super) fn bytes(&mut self, buffer: u16, len: usize) -> &mut [u8] {
        assert!(buffer < BUFFERS && len <= self.buffer_bytes);
        let start = usize::from(buffer) * self.stride;
        // SAFETY: the range lies in the mapping, which is initialized (its pages read as zero
        // until they are written), and `&mut self` excludes a second borrow.
        unsafe { std::slice::from_raw_parts_mut(self.memory.address().as_ptr().add(start), len) }
    }

    /// All bytes of a lent buffer.
    pub(super) fn whole(&mut self, buffer: u16) -> &mut [u8] {
        self.bytes(buffer, self.buffer_bytes)
    }

    /// Returns the memory to the system if no buffer was used since the last call.
    pub(super) fn trim(&mut self) {
        let is_used = std::mem::take(&mut self.is_used);
        if self.is_resident && !is_used && self.lent() == 0 {
            self.is_resident = false;
            self.memory.discard(0, self.memory.len());
        }
    }

    pub(super) fn lent(&self) -> u32 {
        u32::from(BUFFERS) - self.free()
    }

    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_lent_and_their_memory_goes_back_when_idle() {
        let mut buffers = Buffers::new(1000).unwrap();
        let leases: Vec<u16> = std::iter::from_fn(|| buffers.lend()).collect();
        assert_eq!((leases.len(), buffers.lent(), buffers.free()), (BUFFERS.into(), 2, 0));
        for lease in &leases {
            buffers.whole(*lease).fill(*lease as u8 + 1);
        }
        assert!(leases.iter().all(|lease| buffers.bytes(*lease, 1000) == [*lease as u8 + 1; 1000]));
        leases.iter().for_each(|lease| buffers.release(*lease));
        buffers.trim();
        assert_eq!(buffers.bytes(0, 1), [1], "it was used lately");
        buffers.trim();
        assert_eq!(buffers.bytes(0, 1), [0], "discarded pages read as zero");
    }
}

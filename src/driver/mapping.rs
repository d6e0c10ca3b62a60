//! Anonymous memory of whole pages, for receive buffers.

use std::io;
use std::ptr::NonNull;

/// Bytes of a page; a kernel with larger ones discards less.
pub(in crate::driver) const PAGE_BYTES: usize = 4096;

/// Anonymous memory, reserved at once and resident page by page.
pub(in crate::driver) struct Mapping {
    address: NonNull<u8>,
    len: usize,
    leaked: bool,
}

impl Mapping {
    pub(in crate::driver) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address: NonNull<u8> =
            NonNull::new(address.cast()).expect("mmap maps page zero only on request");
        // With huge pages, the first byte would make two megabytes resident.
        // SAFETY: the range is the mapping just made; the advice changes no contents, and kernels
        // without huge pages refuse it, which is harmless.
        unsafe { libc::madvise(address.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
        Ok(Self { address, len, leaked: false })
    }

    pub(in crate::driver) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(in crate::driver) fn len(&self) -> usize {
        self.len
    }

    /// Keeps the memory mapped until the process ends.
    pub(in crate::driver) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Returns pages to the kernel; they read as zero afterwards.
    pub(in crate::driver) fn discard(&self, start: usize, len: usize) {
        debug_assert!(start + len <= self.len);
        // SAFETY: the range lies in this mapping, and the caller holds no reference into it.
        unsafe {
            libc::madvise(self.address.as_ptr().add(start).cast(), len, libc::MADV_DONTNEED);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the mapping is ours, and nothing borrows from it.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}

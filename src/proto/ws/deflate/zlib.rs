//! Raw DEFLATE streams of the C zlib behind a safe API: the contexts that single connections keep.
//!
//! The only `unsafe` of the protocol. What makes it sound: a stream lives in memory of its own that
//! never moves (zlib's state points back to it); it is made by the matching `Init2` and freed by
//! the matching `End`, once; and the pointers to input and output are set from slices for one call
//! and are not used after it. Memory comes from Rust's allocator, which is where the process's
//! other memory is, and is counted on its way.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use libz_sys::{uInt, z_stream};

use super::{CameTo, Flow};

/// Bytes before each piece of zlib's memory, in which its length is kept; keeps the alignment.
const PREFIX_BYTES: usize = 16;
/// Bits of `data_type` after an inflate: bits of the last byte not yet used, and "between blocks".
const UNUSED_BITS: c_int = 0x1f;
const BETWEEN_BLOCKS: c_int = 0x80;

unsafe extern "C" {
    /// As `inflateReset`, but the window stays; part of zlib's interface, missing in the bindings.
    fn inflateResetKeep(stream: *mut z_stream) -> c_int;
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.checked_add(PREFIX_BYTES)?, PREFIX_BYTES).ok()
}

unsafe extern "C" fn allocate(held: *mut c_void, items: uInt, size: uInt) -> *mut c_void {
    let bytes = (items as usize).saturating_mul(size as usize);
    let Some(layout) = layout(bytes) else { return std::ptr::null_mut() };
    // SAFETY: the layout is not empty, it has the prefix; `held` points to the stream's counter.
    unsafe {
        let start = alloc(layout);
        if start.is_null() {
            // As everywhere in the process.
            handle_alloc_error(layout);
        }
        start.cast::<[u8; 8]>().write(bytes.to_ne_bytes());
        *held.cast::<usize>() += bytes;
        // zlib 1.2.11 and later reads parts of its memory before it writes them.
        start.add(PREFIX_BYTES).write_bytes(0, bytes);
        start.add(PREFIX_BYTES).cast()
    }
}

unsafe extern "C" fn release(held: *mut c_void, address: *mut c_void) {
    // SAFETY: zlib gives back what `allocate` gave it, so the prefix and the layout are as there;
    // `held` points to the stream's counter.
    unsafe {
        let start = address.cast::<u8>().sub(PREFIX_BYTES);
        let bytes = usize::from_ne_bytes(start.cast::<[u8; 8]>().read());
        *held.cast::<usize>() -= bytes;
        if let Some(layout) = layout(bytes) {
            dealloc(start, layout);
        }
    }
}

/// A stream and the bytes that zlib holds for it, at a fixed address.
struct Stream {
    raw: z_stream,
    held_bytes: usize,
}

/// An owned stream that `init` has made and that `end` is to free.
#[derive(Debug)]
struct Handle {
    stream: NonNull<Stream>,
    end: unsafe extern "C" fn(*mut z_stream) -> c_int,
}

impl Handle {
    fn new(
        init: impl FnOnce(*mut z_stream) -> c_int,
        end: unsafe extern "C" fn(*mut z_stream) -> c_int,
    ) -> Option<Self> {
        let raw = z_stream {
            next_in: std::ptr::null_mut(),
            avail_in: 0,
            total_in: 0,
            next_out: std::ptr::null_mut(),
            avail_out: 0,
            total_out: 0,
            msg: std::ptr::null_mut(),
            state: std::ptr::null_mut(),
            zalloc: allocate,
            zfree: release,
            opaque: std::ptr::null_mut(),
            data_type: 0,
            adler: 0,
            reserved: 0,
        };
        let stream = NonNull::from(Box::leak(Box::new(Stream { raw, held_bytes: 0 })));
        let mut handle = Self { stream, end };
        // SAFETY: the stream was just made, and nothing else refers to it.
        let made = unsafe {
            let stream = handle.stream.as_ptr();
            (*stream).raw.opaque = (&raw mut (*stream).held_bytes).cast();
            init(&raw mut (*stream).raw)
        };
        if made != libz_sys::Z_OK {
            // Nothing was made that `end` could free: zlib refuses a stream without state.
            handle.end = no_end;
            return None;
        }
        Some(handle)
    }

    fn raw(&mut self) -> *mut z_stream {
        // SAFETY: the stream lives as long as the handle.
        unsafe { &raw mut (*self.stream.as_ptr()).raw }
    }

    fn held_bytes(&self) -> usize {
        // SAFETY: the stream lives as long as the handle, and no call of zlib is under way.
        size_of::<Stream>() + unsafe { (*self.stream.as_ptr()).held_bytes }
    }

    /// One call with these slices; gives what was read and written, and what zlib said.
    fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        call: unsafe extern "C" fn(*mut z_stream, c_int) -> c_int,
        flush: c_int,
    ) -> (usize, usize, c_int) {
        let count = |len: usize| uInt::try_from(len).unwrap_or(uInt::MAX);
        let (read_max, written_max) = (count(input.len()), count(output.len()));
        let raw = self.raw();
        // SAFETY: the stream was made by the matching `Init2`; both slices outlive the call, the
        // input is only read, and the pointers are not used again: each call sets its own.
        unsafe {
            (*raw).next_in = input.as_ptr().cast_mut();
            (*raw).avail_in = read_max;
            (*raw).next_out = output.as_mut_ptr();
            (*raw).avail_out = written_max;
            let said = call(raw, flush);
            let read = read_max - (*raw).avail_in;
            let written = written_max - (*raw).avail_out;
            (read as usize, written as usize, said)
        }
    }
}

unsafe extern "C" fn no_end(_stream: *mut z_stream) -> c_int {
    libz_sys::Z_OK
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by the matching `Init2` and freed once; then nothing refers to the box.
        unsafe {
            (self.end)(self.raw());
            drop(Box::from_raw(self.stream.as_ptr()));
        }
    }
}

/// A compressor that remembers what it has compressed.
#[derive(Debug)]
pub(super) struct Deflate(Handle);

impl Deflate {
    /// `bits` of window from 9 to 15, `memory` (zlib's memLevel) from 1 to 9; `None` for others.
    pub(super) fn new(level: u8, bits: u8, memory: u8) -> Option<Self> {
        let init = |raw| {
            let (level, bits, memory) = (c_int::from(level), -c_int::from(bits), memory.into());
            let method = libz_sys::Z_DEFLATED;
            let strategy = libz_sys::Z_DEFAULT_STRATEGY;
            let size = size_of::<z_stream>() as c_int;
            // SAFETY: a stream whose allocation functions are set, and this binding's own size.
            unsafe {
                let version = libz_sys::zlibVersion();
                libz_sys::deflateInit2_(raw, level, method, bits, memory, strategy, version, size)
            }
        };
        Handle::new(init, libz_sys::deflateEnd).map(Self)
    }

    /// Compresses and flushes up to a byte's border: bytes read, and bytes written.
    pub(super) fn flush(&mut self, input: &[u8], output: &mut [u8]) -> (usize, usize) {
        let (read, written, _) =
            self.0.step(input, output, libz_sys::deflate, libz_sys::Z_SYNC_FLUSH);
        (read, written)
    }

    /// Forgets everything, a flush that found no room included.
    pub(super) fn reset(&mut self) {
        // SAFETY: the stream was made by `deflateInit2_`.
        unsafe { libz_sys::deflateReset(self.0.raw()) };
    }

    /// Bytes of memory behind it.
    pub(super) fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

/// An inflater that remembers what it has inflated.
#[derive(Debug)]
pub(super) struct Inflate(Handle);

impl Inflate {
    /// `bits` of window from 8 to 15; `None` for others.
    pub(super) fn new(bits: u8) -> Option<Self> {
        let init = |raw| {
            let size = size_of::<z_stream>() as c_int;
            // SAFETY: a stream whose allocation functions are set, and this binding's own size.
            unsafe {
                let version = libz_sys::zlibVersion();
                libz_sys::inflateInit2_(raw, -c_int::from(bits), version, size)
            }
        };
        Handle::new(init, libz_sys::inflateEnd).map(Self)
    }

    /// Inflates as far as input and output go.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Flow {
        let (read, written, said) =
            self.0.step(input, output, libz_sys::inflate, libz_sys::Z_SYNC_FLUSH);
        let came_to = match said {
            libz_sys::Z_OK | libz_sys::Z_BUF_ERROR => CameTo::Pause,
            libz_sys::Z_STREAM_END => CameTo::FinalBlock,
            _ => CameTo::Failure,
        };
        Flow { read, written, came_to }
    }

    /// Continues after a final block; later blocks can still refer to earlier output.
    pub(super) fn continue_stream(&mut self) {
        // SAFETY: the stream was made by `inflateInit2_`.
        unsafe { inflateResetKeep(self.0.raw()) };
    }

    /// Whether the last step ended between two blocks, at the border of a byte.
    pub(super) fn is_between_blocks(&mut self) -> bool {
        // SAFETY: the stream lives as long as the handle.
        let state = unsafe { (*self.0.raw()).data_type };
        state & (BETWEEN_BLOCKS | UNUSED_BITS) == BETWEEN_BLOCKS
    }

    /// Bytes of memory behind it.
    pub(super) fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

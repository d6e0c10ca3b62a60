//! Event descriptors, by which any thread wakes a driver.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Makes an event descriptor.
pub(super) fn make_event() -> io::Result<OwnedFd> {
    // SAFETY: eventfd has no memory effects.
    let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: checked to be a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(event) })
}

/// Signals the event.
pub(super) fn signal_event(event: &OwnedFd) {
    let one = 1_u64;
    // SAFETY: writes eight bytes that live across the call. The counter would overflow only after
    // 2^64 signals that nothing has read.
    unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
}

//! The system calls of a connection. None of them waits.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::SockRef;

use crate::driver::Batch;

/// Segments of one send that the kernel takes at most (`UIO_MAXIOV`).
const SEGMENTS_MAX: usize = 1024;
/// Sockets stay in blocking mode, so that another engine can use them: each call says that it does
/// not wait.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Why a call has failed.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Accepts a connection. The peer's address is `None` for Unix sockets; IPv4-mapped IPv6 is
/// returned as IPv4.
pub(super) fn accept(listener: &OwnedFd) -> Result<(OwnedFd, Option<SocketAddr>), i32> {
    let (socket, address) = SockRef::from(listener).accept().map_err(|error| errno(&error))?;
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Ok((socket.into(), address.as_socket().map(canonical)))
}

/// Receives what is there, once.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes at most the buffer's length.
    let received = unsafe {
        let (address, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        libc::recv(socket.as_raw_fd(), address, len, libc::MSG_DONTWAIT)
    };
    usize::try_from(received).map_err(|_| errno(&io::Error::last_os_error()))
}

/// Sends as many of these bytes as there is room for.
pub(super) fn send_bytes(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, i32> {
    SockRef::from(socket).send_with_flags(bytes, SEND_FLAGS).map_err(|error| errno(&error))
}

/// Sends as much as there is room for of what a batch offers; returns that, and how much was
/// tried. `scratch` keeps its memory from call to call.
pub(super) fn send_batch(
    socket: &OwnedFd,
    batch: &Batch,
    scratch: &mut Vec<IoSlice<'static>>,
) -> (Result<usize, i32>, usize) {
    if batch.segment_count() == 1 {
        let bytes = batch.offered_slices().next().expect("there is one segment");
        return (send_bytes(socket, bytes), bytes.len());
    }
    let mut slices = reuse(std::mem::take(scratch));
    slices.extend(batch.offered_slices().take(SEGMENTS_MAX).map(IoSlice::new));
    let tried = slices.iter().map(|slice| slice.len()).sum();
    let sent = SockRef::from(socket).send_vectored_with_flags(&slices, SEND_FLAGS);
    *scratch = reuse(slices);
    (sent.map_err(|error| errno(&error)), tried)
}

/// Empties a list and keeps its memory, for slices of another lifetime.
fn reuse<'new>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'new>> {
    slices.clear();
    // Collecting a list's own iterator keeps its memory.
    slices.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

/// Shuts the writing side down; a socket that is not connected any more is that already.
pub(super) fn shut_down(socket: &OwnedFd) {
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_slices_keeps_its_memory() {
        let mut slices: Vec<IoSlice<'static>> = Vec::with_capacity(100);
        slices.push(IoSlice::new(b"x"));
        let address = slices.as_ptr() as usize;
        let slices = reuse(slices);
        assert_eq!((slices.as_ptr() as usize, slices.len()), (address, 0));
        assert!(slices.capacity() >= 100);
    }
}

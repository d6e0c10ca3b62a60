//! The bare epoll echo: level-triggered, one `recv` and one `send` per readiness event.
//!
//! While a peer does not read its echo, its connection is polled for writing only: the rest of the
//! echo waits here, and TCP flow control stops the peer.

use std::io;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

/// Bytes of one `recv`.
const CHUNK: usize = 64 * 1024;
/// Events taken by one `epoll_wait`.
const EVENTS: usize = 1024;

struct Connection {
    stream: TcpStream,
    /// Bytes that the socket did not accept; usually empty, without an allocation.
    unsent: Vec<u8>,
}

/// An epoll instance; the kernel closes it with the process.
struct Epoll(RawFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(Self(fd)),
        }
    }

    fn control(&self, operation: i32, fd: RawFd, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: `event` lives through the call, which copies it.
        match unsafe { libc::epoll_ctl(self.0, operation, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn wait<'a>(
        &self,
        room: &'a mut [MaybeUninit<libc::epoll_event>; EVENTS],
    ) -> io::Result<&'a [libc::epoll_event]> {
        // SAFETY: the kernel writes at most `EVENTS` events into `room`.
        let count =
            unsafe { libc::epoll_wait(self.0, room.as_mut_ptr().cast(), EVENTS as i32, -1) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(&[]) } else { Err(error) };
        }
        // SAFETY: the kernel has initialised the first `count` events.
        Ok(unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), count as usize) })
    }
}

/// Serves until the process ends.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    let listening = listener.as_raw_fd();
    epoll.control(libc::EPOLL_CTL_ADD, listening, libc::EPOLLIN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let mut room = [MaybeUninit::uninit(); EVENTS];
    loop {
        for event in epoll.wait(&mut room)? {
            let fd = event.u64 as RawFd;
            if fd == listening {
                accept(listener, &epoll, &mut connections)?;
                continue;
            }
            let Some(slot) = connections.get_mut(fd as usize) else { continue };
            let Some(connection) = slot else { continue };
            if !serve_ready(connection, &epoll, &mut chunk)? {
                *slot = None;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The peer disconnected before the accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let fd = stream.as_raw_fd();
        epoll.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN)?;
        if connections.len() <= fd as usize {
            connections.resize_with(fd as usize + 1, || None);
        }
        connections[fd as usize] = Some(Connection { stream, unsent: Vec::new() });
    }
}

/// Echoes what one `recv` returns; returns false when the connection is over.
fn serve_ready(connection: &mut Connection, epoll: &Epoll, chunk: &mut [u8]) -> io::Result<bool> {
    let fd = connection.stream.as_raw_fd();
    if !connection.unsent.is_empty() {
        let Some(sent) = send(fd, &connection.unsent) else { return Ok(false) };
        connection.unsent.drain(..sent);
        if connection.unsent.is_empty() {
            epoll.control(libc::EPOLL_CTL_MOD, fd, libc::EPOLLIN)?;
        }
        return Ok(true);
    }
    // SAFETY: `chunk` is valid for writes of its length.
    let received = unsafe { libc::recv(fd, chunk.as_mut_ptr().cast(), chunk.len(), 0) };
    let received = match received {
        0 => return Ok(false),
        -1 => return Ok(would_block()),
        bytes => &chunk[..bytes as usize],
    };
    let Some(sent) = send(fd, received) else { return Ok(false) };
    if sent < received.len() {
        connection.unsent.extend_from_slice(&received[sent..]);
        epoll.control(libc::EPOLL_CTL_MOD, fd, libc::EPOLLOUT)?;
    }
    Ok(true)
}

/// Sends bytes; returns how many the socket accepted, `None` when the connection is over.
fn send(fd: RawFd, bytes: &[u8]) -> Option<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    match sent {
        -1 if would_block() => Some(0),
        -1 => None,
        sent => Some(sent as usize),
    }
}

fn would_block() -> bool {
    let kind = io::Error::last_os_error().kind();
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

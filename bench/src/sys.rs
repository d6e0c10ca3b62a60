//! System calls that neither the standard library nor socket2 offers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Direct descriptors requested for a ring at most.
const RING_CAPACITY_MAX: usize = 1 << 20;
/// The minimum that every Linux grants, for when the limit cannot be read.
const RING_CAPACITY_MIN: usize = 1024;

/// Lets `connect` choose the port when it knows the whole tuple, instead of `bind`, which would
/// need a port that is free for all destinations.
///
/// # Errors
/// When the socket is not IPv4.
pub fn bind_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` lives through the call and its size is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many connections one ring can hold: the limit of open files bounds its table.
pub fn ring_capacity() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call, which fills it.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    match outcome {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX).min(RING_CAPACITY_MAX),
        _ => RING_CAPACITY_MIN,
    }
}

/// Removes the timer slack of the calling thread: by default the kernel may extend its waits by 50
/// us, which would be in every latency of an open loop.
///
/// # Errors
/// When the kernel does not support it.
pub fn remove_timer_slack() -> io::Result<()> {
    let slack_ns: libc::c_ulong = 1;
    // SAFETY: this request takes a number and touches no memory.
    let outcome = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns, 0, 0, 0) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread priority over all others on its core, for a thread that does little and
/// measures delays.
///
/// # Errors
/// Without `CAP_SYS_NICE`.
pub fn raise_priority() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads the one structure; 0 is the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends SIGTERM to a process.
///
/// # Errors
/// When the process does not exist, or belongs to another user.
pub fn terminate(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: `kill` touches no memory.
    let outcome = unsafe { libc::kill(pid, libc::SIGTERM) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Wakes a thread that drives several rings: an eventfd that the kernel writes to.
#[derive(Debug)]
pub struct Signal(OwnedFd);

impl Signal {
    pub fn new() -> io::Result<Self> {
        // SAFETY: `eventfd` touches no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and unshared.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for a signal, at most `limit`, and clears it.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let span = libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: limit.subsec_nanos().into(),
        };
        // SAFETY: both structures live through the call; no signal mask is given.
        let outcome = unsafe { libc::ppoll(&raw mut poll, 1, &raw const span, std::ptr::null()) };
        if outcome < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let mut count = 0_u64;
        // SAFETY: `count` has the eight bytes that an eventfd gives; an empty one gives none.
        unsafe { libc::read(self.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        Ok(())
    }
}

impl AsRawFd for Signal {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_socket_bound_without_port_has_an_address_only() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bind_without_port(&socket).unwrap();
        let source = std::net::SocketAddr::from(([127, 1, 0, 9], 0));
        socket.bind(&source.into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(source));
    }

    #[test]
    fn the_capacity_is_that_of_the_process() {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let soft = line.split_whitespace().nth(3).unwrap();
        let expected = soft.parse().map_or(RING_CAPACITY_MAX, |n: usize| n.min(RING_CAPACITY_MAX));
        assert_eq!(ring_capacity(), expected);
    }
}

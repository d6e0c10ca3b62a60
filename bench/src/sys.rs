//! The two system calls that neither the standard library nor socket2 offers.

use std::io;
use std::os::fd::AsRawFd;

/// Most direct descriptors a ring is asked for.
const RING_CAPACITY_MAX: usize = 1 << 20;
/// Where the limit cannot be read, the least that every Linux grants.
const RING_CAPACITY_MIN: usize = 1024;

/// Lets `connect` choose the port, when it knows the whole tuple, instead of `bind`, which would
/// need a port that is free for all.
///
/// # Errors
/// The socket is not IPv4.
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

/// How many connections one ring can hold: its table is bounded by the limit of open files.
pub fn ring_capacity() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives through the call, which fills it.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    match outcome {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX).min(RING_CAPACITY_MAX),
        _ => RING_CAPACITY_MIN,
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

//! Bare TCP echoes without WebSocket, on one thread: the limits of every comparison.
//!
//! Their cost per message is that of the kernel's TCP through their interface. A WebSocket server
//! can approach it, and can only beat it by answering several messages in one send.

pub mod epoll;
pub mod uring;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections queued for accept: a load opens thousands at once.
const BACKLOG: i32 = 4096;

/// Opens the listener of a bare echo.
///
/// `congestion` is set on the listener and inherited by its connections: on a host whose default
/// paces (BBR), every small echo would wait for timers. `SO_REUSEPORT` stays off: if a server of an
/// earlier run is still there, the bind must fail instead of sharing its connections.
pub fn listen(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes()).map_err(|error| {
            let known = "see /proc/sys/net/ipv4/tcp_available_congestion_control";
            io::Error::new(error.kind(), format!("congestion control {name}: {error} ({known})"))
        })?;
    }
    socket.bind(&address.into()).map_err(|error| {
        let remedy = "is a server of an earlier run still running? see `ss -ltnp`";
        io::Error::new(error.kind(), format!("cannot bind {address}: {error} ({remedy})"))
    })?;
    socket.listen(BACKLOG)?;
    let listener: TcpListener = socket.into();
    // Port 0 lets the kernel choose: the caller reads the port from this line.
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

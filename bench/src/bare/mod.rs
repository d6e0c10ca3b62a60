//! The limits of every comparison: TCP echoes that know nothing of WebSocket, on one thread.
//!
//! What they cost per message is what the kernel's TCP costs through that interface; a WebSocket
//! server can approach them and not pass them, except by answering several messages in one send.

pub mod epoll;
pub mod uring;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait for their accept: a load opens thousands at once.
const BACKLOG: i32 = 4096;

/// Opens the listener of a bare echo.
///
/// `congestion` is set on the listener and inherited by its connections: a host whose default
/// paces (BBR) would otherwise add timers to every small echo. No `SO_REUSEPORT`: a server left
/// over from an earlier run must make this one fail instead of sharing its connections.
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
        let cure = "is a server of an earlier run left over? `ss -ltnp` shows it";
        io::Error::new(error.kind(), format!("cannot bind {address}: {error} ({cure})"))
    })?;
    socket.listen(BACKLOG)?;
    let listener: TcpListener = socket.into();
    // Port 0 asks for any; whoever started this reads which.
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

//! What the peers share: one listener on one thread, from one argument.

use std::future::Future;
use std::io;

use tokio::net::{TcpListener, TcpStream};

/// Accepts on the address given as the only argument, and spawns `serve` for each connection on a
/// current-thread runtime. `TCP_NODELAY` is set, as every one of the libraries advises.
///
/// # Errors
/// The argument is missing or no address, or the listener failed.
pub fn run<F, R>(serve: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let mut arguments = std::env::args().skip(1);
    let (Some(address), None) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("one argument: the ADDR:PORT to listen on"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen(&address)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream));
        }
    })
}

/// A backlog for thousands of connections opened at once, the same as the others'.
fn listen(address: &str) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 4096;
    let address = address.parse().map_err(io::Error::other)?;
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

//! What the peers share: one listener on one thread, and what the arguments say.

use std::future::Future;
use std::io;

use tokio::net::{TcpListener, TcpStream};

/// How messages are compressed, by the second argument.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Deflate {
    /// Not at all: there is no such argument.
    Off,
    /// Each by itself: `deflate`.
    Alone,
    /// With what was sent before: `takeover`.
    Takeover,
}

/// What the second argument says.
pub fn deflate() -> Deflate {
    match std::env::args().nth(2).as_deref() {
        Some("deflate") => Deflate::Alone,
        Some("takeover") => Deflate::Takeover,
        _ => Deflate::Off,
    }
}

/// Accepts on the address given as the first argument, and spawns `serve` for each connection on a
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
    let Some(address) = arguments.next() else {
        return Err(io::Error::other("arguments: the ADDR:PORT to listen on [deflate|takeover]"));
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

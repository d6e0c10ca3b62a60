//! Links that applications dial.

use std::cell::Cell;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;

use super::dial::Dialing;
use super::numbers::LinkCounters;
use super::slot::{FailureLog, LinkRegister};
use super::stream::{LinkIo, LinkStream, WatchedIo, limit_messages};
use super::task::Greeting;

/// What carries the bytes of a link, from another thread.
pub trait AcceptedIo: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> AcceptedIo for T {}

/// A socket that has become a WebSocket, of which this side is the server.
pub enum AcceptedSocket {
    /// It belongs to no runtime. `early`: what was read of it already.
    Tcp { tcp: std::net::TcpStream, early: Vec<u8> },
    /// It belongs to another runtime, which waits for it.
    Other(Box<dyn AcceptedIo>),
    /// It cannot be used.
    Failed(io::Error),
}

impl AcceptedSocket {
    async fn open(self, dialing: &Dialing) -> io::Result<LinkStream> {
        let (io, early): (Box<dyn LinkIo>, _) = match self {
            Self::Tcp { tcp, early } => {
                let tcp = TcpStream::from_std(tcp)?;
                tcp.set_nodelay(true)?;
                (Box::new(tcp), early)
            }
            Self::Other(io) => (Box::new(io), Vec::new()),
            Self::Failed(error) => return Err(error),
        };
        let io = WatchedIo::new(io, dialing.counters.clone());
        let limits = Some(limit_messages(dialing.record_bytes_max));
        Ok(WebSocketStream::from_partially_read(io, early, Role::Server, limits).await)
    }
}

/// Exchanges hellos, and runs the link until it ends.
pub(super) async fn keep_accepted(
    register: &LinkRegister,
    backend: u8,
    dialing: &Dialing,
    socket: AcceptedSocket,
    log: &FailureLog,
) {
    const PLACE: &str = "GET /v1/link";
    let greeting = async {
        let stream = socket.open(dialing).await.map_err(|error| error.to_string())?;
        dialing.greet(stream).await.map_err(|end| end.to_string())
    };
    let greeting = tokio::time::timeout(dialing.settings.timeout, greeting).await;
    let is_logged = Cell::new(false);
    let (stream, greeting): (LinkStream, Greeting) = match greeting {
        Ok(Ok(greeted)) => greeted,
        failed => {
            let silent = "the application has sent no `hello` in time (backend.link_timeout_ms)";
            let failure = failed.map_or_else(|_| Some(silent.to_owned()), Result::err);
            LinkCounters::add(&dialing.counters.dial_failures, 1);
            return log.log_failure(&is_logged, &PLACE, &failure.unwrap_or_default());
        }
    };
    log.log_open(&is_logged, &PLACE, &greeting.hello.instance);
    let open = register.admit(backend, &log.backend, dialing, &greeting);
    register.note_accepted(backend, &open);
    // The application dials again itself.
    let end = register.run(&open, (stream, greeting), &|| ()).await;
    if !end.is_planned() && !open.link.is_draining() {
        LinkCounters::add(&dialing.counters.lost, 1);
        log.log_failure(&is_logged, &PLACE, &end.to_string());
    }
}

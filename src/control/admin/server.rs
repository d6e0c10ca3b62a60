//! Accepts the admin address's connections and serves HTTP on them, within their [`Pool`].

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::MissedTickBehavior;

use super::journal::{Journal, Peer};
use super::pool::{Place, Pool};
use super::tls;
use super::watched::Watched;

/// Time between two checks of deadlines.
const TICK: Duration = Duration::from_secs(1);
/// Delay before the next accept after one failed.
const RETRY: Duration = Duration::from_millis(50);
/// Accepts in a row before other tasks run: a flood of connections must not evict one whose request
/// has not been read yet.
const ACCEPTS_MAX: usize = 16;
/// The maximum size of a request's head (bytes).
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Descriptors held back, so that the reserve can accept when the process has no others.
const SPARE_DESCRIPTORS: usize = 4;

/// Marks, as a request extension, a connection of the reserve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved;

/// A TCP or Unix listener.
pub(super) trait Accept: AsFd {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Accepts the next connection, and returns its peer's address.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((stream, Peer(Some(peer.ip().to_canonical()))))
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Peer)> {
        Self::accept(self).await.map(|(stream, _)| (stream, Peer(None)))
    }
}

/// Accepts and serves connections until the process ends. `tls`: how the next one speaks TLS, if it
/// does.
pub(super) async fn run(
    listener: impl Accept,
    router: Router,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
    (pool, journal): (Arc<Pool>, Arc<Journal>),
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Before the first connection: afterwards there may be no descriptor to duplicate it with.
    let mut spare = Vec::new();
    keep_spare(&listener, &mut spare);
    let mut accepted = 0;
    let mut has_failed = false;
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            _ = ticks.tick() => {
                pool.evict_overdue();
                journal.summarize();
                keep_spare(&listener, &mut spare);
                continue;
            }
        };
        match stream {
            Ok((stream, peer)) => {
                let place = Arc::new(pool.enter());
                let stream = Watched::new(stream, place.clone());
                let serving = serve(stream, peer, router.clone(), tls(), journal.clone());
                place.set_task(tokio::spawn(serving).abort_handle());
                has_failed = false;
                accepted += 1;
                if accepted % ACCEPTS_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            // The client disconnected before the accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "cannot accept an admin connection");
                }
                // The evicted connection's descriptor is closed when its task runs.
                if pool.evict_one() {
                    tokio::task::yield_now().await;
                } else if spare.pop().is_none() {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Duplicates descriptors, which are closed one by one when the process has no others.
fn keep_spare(listener: &impl Accept, spare: &mut Vec<OwnedFd>) {
    while spare.len() < SPARE_DESCRIPTORS {
        let Ok(descriptor) = listener.as_fd().try_clone_to_owned() else { return };
        spare.push(descriptor);
    }
}

/// Serves one connection, after its handshake if it speaks TLS.
async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: Watched<S>,
    peer: Peer,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    journal: Arc<Journal>,
) {
    let place = stream.place.clone();
    let Some(config) = tls else { return serve_requests(stream, peer, router, place).await };
    match tls::shake_hands(stream, config).await {
        Ok(stream) => serve_requests(stream, peer, router, place).await,
        Err(error) => {
            error.inspect(|error| journal.log_handshake(peer, error));
        }
    }
}

async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    router: Router,
    own: Arc<Place>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let place = own.clone();
        place.begin_request();
        request.extensions_mut().insert(peer);
        if place.is_reserved {
            request.extensions_mut().insert(Reserved);
        }
        let response = router.call(request);
        async move {
            let response = response.await;
            match &response {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    place.leave();
                }
                _ => place.end_request(),
            }
            response
        }
    });
    let mut builder = http1::Builder::new();
    let io = TokioIo::new(stream);
    let connection = builder.max_buf_size(HEAD_BYTES_MAX).serve_connection(io, service);
    let connection = connection.with_upgrades();
    // An error concerns this client only.
    let _ = connection.await;
}

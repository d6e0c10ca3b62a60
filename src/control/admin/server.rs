//! Accepts the admin address's connections and serves HTTP on them, within their [`Pool`].

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::MissedTickBehavior;

use super::journal::{Journal, Peer};
use super::pool::{Place, Pool};

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

/// Accepts and serves connections until the process ends.
pub(super) async fn run(
    listener: impl Accept,
    router: Router,
    pool: Arc<Pool>,
    journal: Arc<Journal>,
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
                spawn_connection(stream, peer, router.clone(), pool.enter());
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

fn spawn_connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    router: Router,
    place: Place,
) {
    let place = Arc::new(place);
    let io = TokioIo::new(Watched { stream, place: place.clone() });
    let router = TowerToHyperService::new(router);
    let own = place.clone();
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
            place.end_request();
            response
        }
    });
    let connection =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).serve_connection(io, service);
    let task = tokio::spawn(async move {
        // An error concerns this client only.
        let _ = connection.await;
    });
    place.set_task(task.abort_handle());
}

/// A stream that records in its pool entry when bytes move.
struct Watched<S> {
    stream: S,
    place: Arc<Place>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.place.note_received();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(1..)) = result {
            self.place.note_sent();
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if let Poll::Ready(Ok(1..)) = result {
            self.place.note_sent();
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

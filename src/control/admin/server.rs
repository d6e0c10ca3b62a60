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

/// Between two looks at the connections' deadlines.
const EACH: Duration = Duration::from_secs(1);
/// Before another attempt where the kernel accepts nothing.
const RETRY: Duration = Duration::from_millis(50);
/// Connections accepted in a row. Then those that are accepted are read: none is evicted by a
/// flood behind it before its request has been looked for.
const ACCEPTS_MAX: usize = 16;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Descriptors kept for connections of the reserve.
const SPARE_DESCRIPTORS: usize = 4;

/// The connection came out of the reserve: found among a request's extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved;

/// A listener of either kind.
pub(super) trait Accept: AsFd {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and its peer's address.
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

/// Accepts and serves until the process ends.
pub(super) async fn run(
    listener: impl Accept,
    router: Router,
    pool: Arc<Pool>,
    journal: Arc<Journal>,
) {
    let mut ticks = tokio::time::interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut spare = Vec::new();
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
                spawn(stream, peer, router.clone(), pool.enter());
                has_failed = false;
                accepted += 1;
                if accepted % ACCEPTS_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            // The client has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "cannot accept a connection at the admin address");
                }
                // An evicted connection's descriptor is free once its task has run.
                if pool.evict_one() {
                    tokio::task::yield_now().await;
                } else if spare.pop().is_none() {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Holds descriptors that are given up when the process has no others.
fn keep_spare(listener: &impl Accept, spare: &mut Vec<OwnedFd>) {
    while spare.len() < SPARE_DESCRIPTORS {
        let Ok(descriptor) = listener.as_fd().try_clone_to_owned() else { return };
        spare.push(descriptor);
    }
}

fn spawn(
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
        // What goes wrong on a connection concerns its client only.
        let _ = connection.await;
    });
    place.set_task(task.abort_handle());
}

/// A stream that notes in its place when bytes move.
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

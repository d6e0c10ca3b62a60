//! The socket of a link: a WebSocket over anything that carries bytes, which notes when bytes
//! arrive, and counts them.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::WebSocketConfig;

use super::numbers::LinkCounters;
use super::outbound::MESSAGE_BYTES_MAX;
use crate::link::HEADER_BYTES;

/// What carries the bytes of a link.
pub(super) trait LinkIo: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> LinkIo for T {}

/// The WebSocket of a link.
pub(super) type LinkStream = WebSocketStream<WatchedIo>;

/// When bytes last arrived.
#[derive(Clone, Debug)]
pub(super) struct LastHeard(Rc<Cell<Instant>>);

impl LastHeard {
    pub(super) fn now() -> Self {
        Self(Rc::new(Cell::new(Instant::now())))
    }

    /// Notes that something has arrived, or that nothing could.
    pub(super) fn note(&self) {
        self.0.set(Instant::now());
    }

    pub(super) fn get(&self) -> Instant {
        self.0.get()
    }
}

/// Bytes in both directions.
pub(super) struct WatchedIo {
    inner: Box<dyn LinkIo>,
    heard: LastHeard,
    counters: Arc<LinkCounters>,
}

impl WatchedIo {
    pub(super) fn new(inner: Box<dyn LinkIo>, counters: Arc<LinkCounters>) -> Self {
        Self { inner, heard: LastHeard::now(), counters }
    }

    /// Returns when bytes last arrived, also later on.
    pub(super) fn heard(&self) -> LastHeard {
        self.heard.clone()
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let len = buffer.filled().len() - before;
        if len > 0 {
            self.heard.note();
            self.counters.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(len)) = &polled {
            self.counters.bytes_out.fetch_add(*len as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Returns the limits of a link's WebSocket.
pub(super) fn limit_messages(record_bytes_max: usize) -> WebSocketConfig {
    // Senders split at 256 KiB, but a message of several records may be somewhat longer.
    let most = record_bytes_max + HEADER_BYTES + MESSAGE_BYTES_MAX;
    WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most))
}

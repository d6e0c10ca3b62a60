//! Logs rejected admin requests: at `info` the first of each reason in a second, and then a count
//! of the rest; at `debug` each one. Queries are not logged.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{self, Request};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Level, enabled};

use super::State;
use crate::text::repeats::Repeats;

/// The maximum length of a request's path in the log (bytes).
const PATH_BYTES_MAX: usize = 128;

/// Rejections of the current second, by reason.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Repeats>);

/// The client's address, as a request extension; `None` over a Unix socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

/// Why a request was rejected, as a response extension.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) reason: &'static str,
    pub(super) detail: Arc<str>,
}

impl Journal {
    /// Logs how many rejections were suppressed, and starts the next second. Call it every second.
    pub(super) fn summarize(&self) {
        let mut repeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, suppressed) in repeats.take() {
            tracing::info!(reason, suppressed, "more admin requests rejected");
        }
    }

    /// Logs a TLS handshake that has failed.
    pub(super) fn log_handshake(&self, Peer(peer): Peer, detail: &str) {
        if enabled!(Level::INFO) && self.admits("tls_handshake") {
            let address = peer.map(tracing::field::display);
            tracing::info!(reason = "tls_handshake", address, detail, "admin handshake failed");
        }
    }

    fn admits(&self, reason: &'static str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).admits(reason)
    }
}

/// Logs the response of a request if it is a rejection.
pub(super) async fn log_rejection(
    extract::State(state): extract::State<State>,
    request: Request,
    next: Next,
) -> Response {
    if !enabled!(Level::INFO) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    let Some(Rejection { reason, detail }) = response.extensions().get() else { return response };
    if !state.0.journal.admits(reason) {
        return response;
    }
    let address = peer.map(tracing::field::display);
    let path = &uri.path()[..uri.path().floor_char_boundary(PATH_BYTES_MAX)];
    let (method, code, detail) = (method.as_str(), response.status().as_u16(), &**detail);
    if enabled!(Level::DEBUG) {
        tracing::debug!(reason, address, method, path, code, detail, "admin request rejected");
    } else {
        tracing::info!(reason, address, method, path, code, detail, "admin request rejected");
    }
    response
}

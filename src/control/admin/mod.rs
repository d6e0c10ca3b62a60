//! The admin address: metrics, histograms, health and what runs here, for operators on this host.
//!
//! It has no keys yet, so it listens on loopback or a Unix socket only, and its [`guard`] keeps
//! web pages out.

mod accept;
mod guard;
mod listener;
mod pages;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::config::Config;
use crate::server::{Collector, Facts, Server};
use crate::shard::mailbox::Directory;
use guard::Guard;
use listener::Socket;
pub(crate) use listener::{AdminListener, SocketFile, bind};

/// What answers need.
#[derive(Clone)]
pub(super) struct State(Arc<Inner>);

struct Inner {
    facts: Facts,
    config: Arc<Config>,
    directory: Arc<Directory>,
    collector: Arc<Collector>,
    draining: Arc<AtomicBool>,
    log_errors: Arc<AtomicU64>,
}

impl State {
    pub(super) fn new(
        server: &Server,
        collector: Arc<Collector>,
        draining: Arc<AtomicBool>,
        log_errors: Arc<AtomicU64>,
    ) -> Self {
        Self(Arc::new(Inner {
            facts: server.facts.clone(),
            config: server.config.clone(),
            directory: server.directory(),
            collector,
            draining,
            log_errors,
        }))
    }
}

/// Answers until the process ends, in a task of its own. The socket's file, if any, is to be kept
/// until then.
pub(super) fn serve(listener: AdminListener, state: State) -> Option<SocketFile> {
    let AdminListener { socket, file } = listener;
    tokio::spawn(async move {
        let unix = matches!(socket, Socket::Unix(_));
        let guard = Guard::new(&state.0.config.admin_hosts, unix);
        let router = router(guard, state);
        let result = match socket {
            Socket::Tcp(socket) => match tcp(socket) {
                Ok(socket) => axum::serve(socket, router).await,
                Err(error) => Err(error),
            },
            Socket::Unix(socket) => match unix_socket(socket) {
                Ok(socket) => axum::serve(socket, router).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            tracing::error!(%error, "the admin address has stopped answering");
        }
    });
    file
}

fn tcp(socket: std::net::TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
}

fn unix_socket(
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<tokio::net::UnixListener> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(socket)
}

fn router(guard: Guard, state: State) -> Router {
    Router::new()
        .route("/metrics", get(pages::metrics))
        .route("/healthz", get(pages::health))
        .route("/readyz", get(pages::ready))
        .route("/v1/node", get(pages::node))
        .route("/v1/histograms", get(pages::histograms))
        .route("/v1/histograms/{name}", get(pages::histogram))
        .fallback(|| async {
            let message = "there are /metrics, /healthz, /readyz, /v1/node, /v1/histograms, \
                           /v1/histograms/NAME and /v1/histograms/NAME.hgrm";
            refuse(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(|| async {
            let message = "this is only read: use GET";
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .with_state(state)
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({"error": {"code": code, "message": message}}))).into_response()
}

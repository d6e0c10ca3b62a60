//! The admin address: metrics, histograms, health and what runs here, for operators on this host.
//!
//! Without API keys it listens on loopback or a Unix socket only. Its [`guard`] asks for keys where
//! there are some, and keeps web pages out.

mod accept;
mod api;
mod guard;
mod journal;
mod listener;
mod pages;
mod pool;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::json;
use tokio::sync::Semaphore;

use super::drain::Orders;
use super::log_writer::LogWriter;
use super::reload::LastReload;
use crate::config::Config;
use crate::server::{Collector, Facts, Server};
use crate::shard::mail::Directory;
use crate::shard::mail::HubShared;
use journal::{Journal, Rejection};
use listener::AdminSocket;
pub(crate) use listener::{AdminListener, SocketFile, bind};
use pool::Pool;

/// What answers need.
#[derive(Clone)]
pub(super) struct State(Arc<Inner>);

struct Inner {
    facts: Facts,
    /// When the server started (Unix time, s).
    started_unix_s: f64,
    config: Arc<ArcSwap<Config>>,
    directory: Arc<Directory>,
    collector: Arc<Collector>,
    draining: Arc<AtomicBool>,
    log_errors: Arc<AtomicU64>,
    log: LogWriter,
    pool: Arc<Pool>,
    journal: Arc<Journal>,
    /// KiB of bodies that may be held at once.
    bodies: Semaphore,
    orders: Orders,
    last_reload: LastReload,
}

fn started_unix_s(facts: &Facts) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(facts.started.elapsed()).as_secs_f64()
}

impl State {
    pub(super) fn new(
        server: &Server,
        collector: Arc<Collector>,
        draining: Arc<AtomicBool>,
        (log_errors, log): (Arc<AtomicU64>, LogWriter),
        (orders, last_reload): (Orders, LastReload),
    ) -> Self {
        Self(Arc::new(Inner {
            facts: server.facts.clone(),
            started_unix_s: started_unix_s(&server.facts),
            config: server.live_config(),
            directory: server.directory(),
            collector,
            draining,
            log_errors,
            log,
            pool: Pool::new(server.facts.open_files),
            journal: Arc::default(),
            bodies: Semaphore::new(api::BODIES_KIB_MAX),
            orders,
            last_reload,
        }))
    }
}

impl State {
    /// What the server runs by now.
    fn config(&self) -> Arc<Config> {
        self.0.config.load_full()
    }

    /// What the shards share about channels.
    fn hub(&self) -> Result<Arc<HubShared>, api::ApiError> {
        self.0.directory.hub().ok_or_else(api::no_hub)
    }

    /// Unix time (ms).
    fn unix_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// The shards' clock (ns).
    fn clock_ns(&self) -> u64 {
        self.0.facts.started.elapsed().as_nanos() as u64
    }
}

/// Answers until the process ends, in a task of its own. The socket's file, if any, is to be kept
/// until then.
pub(super) fn serve(listener: AdminListener, state: State) -> Option<SocketFile> {
    let AdminListener { socket, file } = listener;
    tokio::spawn(async move {
        let unix = matches!(socket, AdminSocket::Unix(_));
        let (router, pool) = (router(unix, state.clone()), state.0.pool.clone());
        let journal = state.0.journal.clone();
        let error = match socket {
            AdminSocket::Tcp(socket) => match tcp(socket) {
                Ok(socket) => return server::run(socket, router, pool, journal).await,
                Err(error) => error,
            },
            AdminSocket::Unix(socket) => match unix_socket(socket) {
                Ok(socket) => return server::run(socket, router, pool, journal).await,
                Err(error) => error,
            },
        };
        tracing::error!(%error, "the admin address cannot be served");
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

/// A path's method, for requests that no web page can send by itself.
fn call(method: MethodRouter<State>) -> MethodRouter<State> {
    method.route_layer(middleware::from_fn(guard::json_only))
}

fn router(unix: bool, state: State) -> Router {
    Router::new()
        .route("/metrics", call(get(pages::metrics)))
        .route("/healthz", call(get(pages::health)))
        .route("/readyz", call(get(pages::ready)))
        .route("/v1/node", call(get(pages::node)))
        .route("/v1/histograms", call(get(pages::histograms)))
        .route("/v1/histograms/{name}", call(get(pages::histogram)))
        .route("/v1/drain", call(post(pages::drain)))
        .route("/v1/reload", call(post(pages::reload)))
        .merge(api::router())
        .fallback(|| async {
            let message = "there are /metrics, /healthz, /readyz, and what /v1/openapi.json \
                           describes";
            refuse(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(|| async {
            let message = "method not allowed; see /v1/openapi.json";
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state((state.clone(), unix), guard::guard))
        .layer(middleware::from_fn_with_state(state.clone(), journal::note))
        .with_state(state)
}

fn refuse(status: StatusCode, code: &'static str, message: &str) -> Response {
    let body = axum::Json(json!({"error": {"code": code, "message": message}}));
    let mut response = (status, body).into_response();
    response.extensions_mut().insert(Rejection { reason: code, detail: message.into() });
    response
}

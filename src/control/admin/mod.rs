//! The admin address: metrics, histograms, health, and the API for operators and backends.
//!
//! Without API keys it listens on loopback or a Unix socket only. Its [`guard`] requires keys where
//! some are configured, and rejects web pages.

mod accept;
pub(super) mod api;
mod forwarded;
mod guard;
mod journal;
mod link_commands;
mod listener;
mod pages;
mod pool;
mod server;
mod tls;
mod watched;

pub(super) use forwarded::answer_requests;
pub(super) use link_commands::run_commands;

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
use super::peers::{ClusterPeers, PeerRecord};
use super::reload::LastReload;
use crate::backend::events::EventFlow;
use crate::backend::hooking::HookFlow;
use crate::backend::links::LinkFlow;
use crate::config::Config;
use crate::server::{Collector, Facts, Server};
use crate::shard::mail::Directory;
use crate::shard::mail::HubShared;
use journal::{Journal, Rejection};
use listener::AdminSocket;
pub(crate) use listener::{AdminListener, SocketFile, bind};
use pool::Pool;

/// State shared by all handlers.
#[derive(Clone)]
pub(super) struct State(Arc<Inner>);

struct Inner {
    facts: Facts,
    /// Start of the server (Unix time, s).
    started_unix_s: f64,
    config: Arc<ArcSwap<Config>>,
    directory: Arc<Directory>,
    collector: Arc<Collector>,
    draining: Arc<AtomicBool>,
    log_errors: Arc<AtomicU64>,
    log: LogWriter,
    pool: Arc<Pool>,
    journal: Arc<Journal>,
    /// KiB of request bodies still available ([`api::BODIES_KIB_MAX`]).
    bodies: Semaphore,
    orders: Orders,
    last_reload: LastReload,
    /// The other nodes of the cluster; `None`: this node is alone.
    peers: Option<Arc<ClusterPeers>>,
    /// The events on their way to applications; `None`: none wants any.
    events: Option<Arc<EventFlow>>,
    /// The questions on their way to applications; `None`: none is asked.
    hooks: Option<Arc<HookFlow>>,
    /// The links to applications; `None`: there are no applications.
    links: Option<Arc<LinkFlow>>,
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
        peers: Option<Arc<ClusterPeers>>,
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
            peers,
            events: server.events().cloned(),
            hooks: server.hooks().cloned(),
            links: server.links().cloned(),
        }))
    }
}

impl State {
    /// The configuration in force.
    fn config(&self) -> Arc<Config> {
        self.0.config.load_full()
    }

    /// The state of channels that shards share; an error where no route uses the hub.
    fn hub(&self) -> Result<Arc<HubShared>, api::ApiError> {
        self.0.directory.hub().ok_or_else(api::no_hub)
    }

    fn peers(&self) -> Option<&ClusterPeers> {
        self.0.peers.as_deref()
    }

    /// What this node says of itself to others.
    pub(super) fn peer_record(&self, node: u32, name: &str) -> PeerRecord {
        let directory = &self.0.directory;
        let open = (0..directory.len() as u16).map(|shard| directory.open_count(shard));
        PeerRecord {
            node,
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shards: directory.len() as u16,
            connections: open.map(u64::from).sum(),
            draining: self.0.draining.load(std::sync::atomic::Ordering::Relaxed),
            started: self.0.started_unix_s as u64,
            incarnation: self
                .peers()
                .map_or_else(String::new, |peers| peers.incarnation().to_string()),
        }
    }

    /// Unix time now (ms).
    fn unix_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// The shards' clock now (ns).
    fn clock_ns(&self) -> u64 {
        self.0.facts.started.elapsed().as_nanos() as u64
    }
}

/// Serves the address until the process ends, in a task of its own. Keep the socket's file, if any,
/// until then.
pub(super) fn serve(listener: AdminListener, state: State) -> Option<SocketFile> {
    let AdminListener { socket, file } = listener;
    tokio::spawn(async move {
        let is_unix = matches!(socket, AdminSocket::Unix(_));
        let (router, pool) = (router(is_unix, state.clone()), state.0.pool.clone());
        let journal = state.0.journal.clone();
        // Read for each connection: a reload may have exchanged certificates.
        let tls = move || state.config().admin_tls.clone();
        let error = match socket {
            AdminSocket::Tcp(socket) => match to_tokio_tcp(socket) {
                Ok(socket) => return server::run(socket, router, tls, (pool, journal)).await,
                Err(error) => error,
            },
            AdminSocket::Unix(socket) => match to_tokio_unix(socket) {
                Ok(socket) => return server::run(socket, router, tls, (pool, journal)).await,
                Err(error) => error,
            },
        };
        tracing::error!(%error, "cannot serve the admin address");
    });
    file
}

fn to_tokio_tcp(socket: std::net::TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
}

fn to_tokio_unix(
    socket: std::os::unix::net::UnixListener,
) -> std::io::Result<tokio::net::UnixListener> {
    socket.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(socket)
}

/// Wraps a path's methods so that no web page can send their requests by itself.
fn json_call(method: MethodRouter<State>) -> MethodRouter<State> {
    method.route_layer(middleware::from_fn(guard::json_only))
}

/// All routes, behind the guard and the log of rejections.
fn router(is_unix: bool, state: State) -> Router {
    Router::new()
        .route("/metrics", json_call(get(pages::get_metrics)))
        .route("/healthz", json_call(get(pages::get_health)))
        .route("/readyz", json_call(get(pages::get_readiness)))
        .route("/v1/node", json_call(get(pages::get_node)))
        .route("/v1/histograms", json_call(get(pages::list_histograms)))
        .route("/v1/histograms/{name}", json_call(get(pages::get_histogram)))
        .route("/v1/drain", json_call(post(pages::start_drain)))
        .route("/v1/reload", json_call(post(pages::reload_config)))
        .merge(api::call_routes())
        .fallback(|| async {
            let message = "no such page; there are /metrics, /healthz, /readyz and the calls in \
                           /v1/openapi.json";
            error_response(StatusCode::NOT_FOUND, "not_found", message)
        })
        .method_not_allowed_fallback(|| async {
            let message = "method not allowed; see /v1/openapi.json";
            error_response(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(DefaultBodyLimit::max(api::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state((state.clone(), is_unix), guard::guard))
        // Signatures authorize these requests.
        .merge(api::app::routes())
        .layer(middleware::from_fn_with_state(state.clone(), journal::log_rejection))
        .with_state(state)
}

/// An error in the API's format, marked for the log of rejections.
fn error_response(status: StatusCode, code: &'static str, message: &str) -> Response {
    let body = axum::Json(json!({"error": {"code": code, "message": message}}));
    let mut response = (status, body).into_response();
    response.extensions_mut().insert(Rejection { reason: code, detail: message.into() });
    response
}

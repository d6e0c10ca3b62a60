//! The admin address: metrics and health, for operators on this host.
//!
//! It has no keys yet, so it must not be reachable by a web page either: a request that carries an
//! `Origin`, or that names a host other than this one, is refused.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{self, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::metrics::text;
use crate::server::{self, Server};
use crate::shard::mailbox::Directory;

/// What answers need.
#[derive(Clone)]
pub(super) struct State {
    directory: Arc<Directory>,
    hosts: Arc<Vec<String>>,
    draining: Arc<AtomicBool>,
}

impl State {
    pub(super) fn new(server: &Server, draining: Arc<AtomicBool>) -> Self {
        Self {
            directory: server.directory(),
            hosts: Arc::new(server.config.admin_hosts.clone()),
            draining,
        }
    }
}

/// Answers until the process ends.
pub(super) async fn serve(listener: TcpListener, state: State) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    axum::serve(listener, router(state)).await
}

fn router(state: State) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { axum::Json(json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .fallback(|| async {
            let message = "the admin address has /metrics, /healthz and /readyz";
            refuse(StatusCode::NOT_FOUND, "not_found", message)
        })
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({"error": {"code": code, "message": message}}))).into_response()
}

/// Keeps web pages out.
async fn guard(
    extract::State(state): extract::State<State>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        let message = "requests from web pages (with an Origin) are not answered here";
        return refuse(StatusCode::FORBIDDEN, "forbidden", message);
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_own_host(host, &state.hosts) {
        let message = "the Host is not of this machine: use its loopback address, or list the name \
                       in admin.hosts";
        return refuse(StatusCode::FORBIDDEN, "forbidden", message);
    }
    next.run(request).await
}

fn is_own_host(host: &str, allowed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let loopback = name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || allowed.iter().any(|one| one.eq_ignore_ascii_case(name))
}

async fn metrics(extract::State(state): extract::State<State>) -> Response {
    match server::snapshot(&state.directory).await {
        Some(snapshot) => {
            let headers = [(header::CONTENT_TYPE, text::OPENMETRICS_TYPE)];
            (headers, text::openmetrics(snapshot)).into_response()
        }
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "all shards have ended"),
    }
}

async fn ready(extract::State(state): extract::State<State>) -> Response {
    if state.draining.load(Ordering::Relaxed) {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is draining");
    }
    axum::Json(json!({"status": "ready"})).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let allowed = ["localhost".to_owned(), "seawall.internal".to_owned()];
        for host in ["127.0.0.1", "127.0.0.1:9100", "[::1]:9100", "LOCALHOST:1", "seawall.internal"]
        {
            assert!(is_own_host(host, &allowed), "{host}");
        }
        for host in ["", "evil.example:9100", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"] {
            assert!(!is_own_host(host, &allowed), "{host}");
        }
    }
}

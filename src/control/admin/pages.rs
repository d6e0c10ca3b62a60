//! Pages for operators: health, metrics, histograms, the node, drain and reload.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State as Extracted;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::api::Named;
use super::{State, accept, error_response};
use crate::config::Config;
use crate::control::memory::Usage;
use crate::control::peers::ClusterPeers;
use crate::control::reload::{Changes, ReloadOutcome};
use crate::driver::{EngineFacts, host};
use crate::metrics::hdr::{self, Detail, Summary};
use crate::metrics::{HISTOGRAMS, Histograms, NodeLimits, Process, prometheus, text};
use crate::server::Facts;

/// `/healthz`: 200 while the process answers.
pub(super) async fn get_health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `/readyz`: 200 while new clients are accepted. An engine that goes away later changes nothing:
/// the clients would have no other node to go to.
pub(super) async fn get_readiness(Extracted(state): Extracted<State>) -> Response {
    if state.0.draining.load(Ordering::Relaxed) {
        return error_response(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the server is draining",
        );
    }
    if state.peers().is_some_and(|peers| !peers.was_ready()) {
        let message = "the cluster's engine has not been reached since the start; see the log";
        return error_response(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    }
    Json(json!({"status": "ready", "driver": state.0.facts.engine.name})).into_response()
}

/// `POST /v1/drain`: starts the drain, as SIGTERM does; further calls change nothing.
pub(super) async fn start_drain(Extracted(state): Extracted<State>) -> (StatusCode, Json<Value>) {
    state.0.orders.drain().await;
    let drain = &state.config().drain;
    let open: u64 = (0..state.0.directory.len() as u16)
        .map(|shard| u64::from(state.0.directory.open_count(shard)))
        .sum();
    let answer = json!({
        "draining": true,
        "connections_open": open,
        "window_ms": drain.window_ms,
        "deadline_ms": drain.deadline_ms,
    });
    (StatusCode::ACCEPTED, Json(answer))
}

/// `POST /v1/reload`: reloads the configuration, as SIGHUP does, and answers with the outcome.
pub(super) async fn reload_config(Extracted(state): Extracted<State>) -> Response {
    match state.0.orders.reload().await {
        None => {
            error_response(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is ending")
        }
        Some(ReloadOutcome { result: Ok(changes), .. }) => {
            let Changes { applied, restart_required } = changes;
            Json(json!({"applied": applied, "restart_required": restart_required})).into_response()
        }
        Some(ReloadOutcome { result: Err(error), .. }) => {
            let message = format!("{error}\nThe previous configuration stays in force.");
            error_response(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", &message)
        }
    }
}

/// The outcome of the last reload as JSON; null before the first.
fn last_reload(state: &State) -> Value {
    let Some(outcome) = state.0.last_reload.load_full() else { return Value::Null };
    match &outcome.result {
        Ok(Changes { applied, restart_required }) => json!({
            "time_ms": outcome.time_ms,
            "ok": true,
            "applied": applied,
            "restart_required": restart_required,
        }),
        Err(error) => json!({"time_ms": outcome.time_ms, "ok": false, "error": error}),
    }
}

/// `/metrics`: all metrics, as Prometheus text or, if preferred, as OpenMetrics.
pub(super) async fn get_metrics(
    Extracted(state): Extracted<State>,
    headers: HeaderMap,
) -> Response {
    let snapshot = state.0.collector.read().await;
    let (admin_connections, admin_evictions) = state.0.pool.counts();
    let process = Process {
        uptime: state.0.facts.started.elapsed(),
        driver: state.0.facts.engine.name,
        wait_call: state.0.facts.engine.wait_call,
        histogram_log_errors: state.0.log_errors.load(Ordering::Relaxed),
        log_lines_dropped: state.0.log.dropped(),
        admin_connections,
        admin_evictions,
        memory_used_bytes: Usage::read(&state.0.directory).total_bytes(),
        memory_shortage: state.0.directory.admission().shortage() as u64,
        certificate_expires_s: state.config().certificates.expires_s().unwrap_or(0),
        draining: state.0.draining.load(Ordering::Relaxed),
        host: host::process_numbers(),
        started_unix_s: state.0.started_unix_s,
        limits: node_limits(&state),
        cluster: state.peers().map(ClusterPeers::numbers),
        events: state.0.events.as_ref().map(|flow| flow.numbers()).unwrap_or_default(),
        hooks: state.0.hooks.as_ref().map(|flow| flow.numbers()).unwrap_or_default(),
        links: state.0.links.as_ref().map(|flow| flow.numbers()).unwrap_or_default(),
    };
    let openmetrics = text::format_openmetrics(snapshot, &process);
    let (kind, body) =
        if accept::is_preferred(&headers, "application/openmetrics-text", "text/plain") {
            (text::OPENMETRICS_TYPE, openmetrics)
        } else {
            (prometheus::TYPE, prometheus::from_openmetrics(&openmetrics))
        };
    ([(header::CONTENT_TYPE, kind), (header::VARY, "Accept")], body).into_response()
}

/// The limits in force, as metrics.
fn node_limits(state: &State) -> NodeLimits {
    let config = state.config();
    let limits = &config.limits;
    let shard_connections_max = u64::from(limits.connections_per_shard_max);
    let possible = shard_connections_max * u64::from(config.shards);
    let connections_max = match u64::from(limits.admission.connections_max) {
        0 => possible,
        configured => configured.min(possible),
    };
    NodeLimits {
        connections_max,
        shard_connections_max,
        memory_bytes_max: limits.admission.memory_bytes_max,
        shard_outbox_bytes_max: limits.outbox_shard_bytes_max as u64,
        channels_max: config.hub.channels_max.into(),
        history_bytes_max: config.hub.history_bytes_max,
        open_files: state.0.facts.open_files,
    }
}

/// `/v1/histograms`: key figures of each histogram.
pub(super) async fn list_histograms(Extracted(state): Extracted<State>, uri: Uri) -> Response {
    match read_histograms(&state, &uri).await {
        Ok(histograms) => {
            let all = HISTOGRAMS.iter().zip(histograms.all());
            let list: Vec<_> =
                all.map(|(described, histogram)| Summary::new(described, &histogram)).collect();
            Json(list).into_response()
        }
        Err(refusal) => *refusal,
    }
}

/// `/v1/histograms/NAME`: one histogram; as `NAME.hgrm`, or as `text/plain`, its distribution.
pub(super) async fn get_histogram(
    Extracted(state): Extracted<State>,
    Named(name): Named,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (name, as_text) = match name.strip_suffix(".hgrm") {
        Some(name) => (name, true),
        None => (name.as_str(), accept::is_preferred(&headers, "text/plain", "application/json")),
    };
    let Some(at) = HISTOGRAMS.iter().position(|(known, ..)| *known == name) else {
        let names: Vec<_> = HISTOGRAMS.iter().map(|(name, ..)| *name).collect();
        let message = format!("no histogram `{name}`; there are {}", names.join(", "));
        return error_response(StatusCode::NOT_FOUND, "not_found", &message);
    };
    let histograms = match read_histograms(&state, &uri).await {
        Ok(histograms) => histograms,
        Err(refusal) => return *refusal,
    };
    let described = &HISTOGRAMS[at];
    let histogram = histograms.all().nth(at).expect("one histogram for each name");
    if as_text {
        let headers =
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::VARY, "Accept")];
        return (headers, hdr::format_hgrm(described.1, &histogram)).into_response();
    }
    ([(header::VARY, "Accept")], Json(Detail::new(described, &histogram))).into_response()
}

/// Reads the histograms of the shard that the query names, or of all.
async fn read_histograms(state: &State, uri: &Uri) -> Result<Histograms, Box<Response>> {
    let error_response =
        |status, code, message: &str| Box::new(error_response(status, code, message));
    let collector = &state.0.collector;
    if !collector.has_histograms() {
        let message = "histograms are off; set metrics.histograms = true";
        return Err(error_response(StatusCode::NOT_FOUND, "not_found", message));
    }
    let shards = state.config().shards;
    let whole = match uri.query().filter(|query| !query.is_empty()) {
        None => return Ok(collector.read().await.histograms),
        Some(query) => query.strip_prefix("shard=").and_then(|number| number.parse().ok()),
    };
    let Some(shard) = whole else {
        let message = format!("invalid query; use shard=N with N from 0 to {}", shards - 1);
        return Err(error_response(StatusCode::BAD_REQUEST, "bad_request", &message));
    };
    match collector.read_shard(shard).await {
        Some(snapshot) => Ok(snapshot.histograms),
        None => {
            let message = format!("no shard {shard}; shards are 0 to {}", shards - 1);
            Err(error_response(StatusCode::NOT_FOUND, "not_found", &message))
        }
    }
}

fn describe_listeners(facts: &Facts) -> Vec<Value> {
    let listeners = facts.listening.iter().zip(&facts.congestion);
    let described = listeners.map(|(address, congestion)| {
        json!({"address": address.to_string(), "congestion_control": congestion})
    });
    described.collect()
}

/// Describes the engine and its configuration.
fn describe_driver(engine: &EngineFacts, config: &Config) -> Value {
    let features: Map<String, Value> = engine
        .features
        .iter()
        .map(|feature| (feature.key.to_owned(), feature.is_available.into()))
        .collect();
    let mut described = json!({
        "name": engine.name,
        "reason": engine.reason,
        "features": features,
        "buffers_per_shard": engine.buffers,
        "buffer_bytes": config.engine.buffer_bytes,
        "pinned": config.engine.pin,
    });
    for size in &engine.sizes {
        described[size.key] = size.granted.into();
        described[format!("{}_configured", size.key)] = size.configured.into();
    }
    described
}

/// `/v1/node`: versions, host, engine, routes and limits.
pub(super) async fn get_node(Extracted(state): Extracted<State>) -> Json<Value> {
    let (facts, config, directory) = (&state.0.facts, &state.config(), &state.0.directory);
    let routes = config.routes.as_slice().iter().zip(&config.route_options);
    let routes: Vec<_> = routes
        .enumerate()
        .filter(|(index, _)| !config.routes.is_retired(*index))
        .map(|(_, (route, options))| {
            json!({
                "path": route.path,
                "match": if route.prefix { "prefix" } else { "exact" },
                "handler": options.handler,
                "subprotocols": route.subprotocols,
            })
        })
        .collect();
    let open: Vec<_> = (0..config.shards).map(|shard| directory.open_count(shard)).collect();
    let limits = &config.limits;
    let per_shard = u64::from(limits.connections_per_shard_max);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_s": facts.started.elapsed().as_secs_f64(),
        "draining": state.0.draining.load(Ordering::Relaxed),
        "last_reload": last_reload(&state),
        "shards": config.shards,
        "connections_open": {
            "total": open.iter().map(|open| u64::from(*open)).sum::<u64>(),
            "by_shard": open,
        },
        "driver": describe_driver(&facts.engine, config),
        "limits": {
            "connections_max": per_shard * u64::from(config.shards),
            "connections_per_shard_max": per_shard,
            "open_files": facts.open_files,
            "head_bytes_max": limits.http.head_bytes_max,
            "message_bytes_max": limits.ws.message_bytes_max,
            "fragments_max": limits.ws.fragments_max,
            "outbox_bytes_max": limits.outbox_high_bytes,
            "outbox_shard_bytes_max": limits.outbox_shard_bytes_max,
            "partial_shard_bytes_max": limits.partial_shard_bytes_max,
        },
        "listeners": describe_listeners(facts),
        "routes": routes,
        "metrics": {
            "histograms": config.metrics.histograms,
            "histogram_log": config.metrics.histogram_log,
            "histogram_log_interval_s": config.metrics.histogram_log_interval_s,
        },
    }))
}

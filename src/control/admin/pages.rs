//! What operators can read.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State as Extracted;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::api::Named;
use super::{State, accept, refuse};
use crate::config::Config;
use crate::control::memory::Usage;
use crate::control::reload::{Changes, ReloadOutcome};
use crate::driver::{EngineFacts, host};
use crate::metrics::hdr::{self, Detail, Summary};
use crate::metrics::{HISTOGRAMS, Histograms, NodeLimits, Process, prometheus, text};
use crate::server::Facts;

/// `/healthz`: the process answers.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `/readyz`: new clients are welcome.
pub(super) async fn ready(Extracted(state): Extracted<State>) -> Response {
    if state.0.draining.load(Ordering::Relaxed) {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is draining");
    }
    Json(json!({"status": "ready"})).into_response()
}

/// `POST /v1/drain`: begins the graceful end, as SIGTERM does; again does no more.
pub(super) async fn drain(Extracted(state): Extracted<State>) -> (StatusCode, Json<Value>) {
    state.0.orders.drain().await;
    let drain = &state.config().drain;
    let open: u64 = (0..state.0.directory.len() as u16)
        .map(|shard| u64::from(state.0.directory.open(shard)))
        .sum();
    let answer = json!({
        "draining": true,
        "connections_open": open,
        "window_ms": drain.window_ms,
        "deadline_ms": drain.deadline_ms,
    });
    (StatusCode::ACCEPTED, Json(answer))
}

/// `POST /v1/reload`: reads the configuration again, as SIGHUP does, and answers with the outcome.
pub(super) async fn reload(Extracted(state): Extracted<State>) -> Response {
    match state.0.orders.reload().await {
        None => refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is ending"),
        Some(ReloadOutcome { result: Ok(changes), .. }) => {
            let Changes { applied, restart_required } = changes;
            Json(json!({"applied": applied, "restart_required": restart_required})).into_response()
        }
        Some(ReloadOutcome { result: Err(error), .. }) => {
            let message = format!("{error}\nThe previous configuration stays in force.");
            refuse(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", &message)
        }
    }
}

/// The outcome of the last reload; null before the first.
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

/// `/metrics`: all numbers, as Prometheus text or, if asked for, as OpenMetrics.
pub(super) async fn metrics(Extracted(state): Extracted<State>, headers: HeaderMap) -> Response {
    let snapshot = state.0.collector.read().await;
    let (admin_connections, admin_evictions) = state.0.pool.counts();
    let process = Process {
        uptime: state.0.facts.started.elapsed(),
        wait_call: state.0.facts.engine.wait_call,
        histogram_log_errors: state.0.log_errors.load(Ordering::Relaxed),
        log_lines_dropped: state.0.log.dropped(),
        admin_connections,
        admin_evictions,
        memory_used_bytes: Usage::read(&state.0.directory).total_bytes(),
        memory_shortage: state.0.directory.admission().shortage() as u64,
        draining: state.0.draining.load(Ordering::Relaxed),
        host: host::process_numbers(),
        started_unix_s: state.0.started_unix_s,
        limits: limits(&state),
    };
    let openmetrics = text::openmetrics(snapshot, &process);
    let (kind, body) = if accept::asks_for(&headers, "application/openmetrics-text", "text/plain") {
        (text::OPENMETRICS_TYPE, openmetrics)
    } else {
        (prometheus::TYPE, prometheus::from_openmetrics(&openmetrics))
    };
    ([(header::CONTENT_TYPE, kind), (header::VARY, "Accept")], body).into_response()
}

/// The limits in force.
fn limits(state: &State) -> NodeLimits {
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

/// `/v1/histograms`: the key figures of each.
pub(super) async fn histograms(Extracted(state): Extracted<State>, uri: Uri) -> Response {
    match recorded(&state, &uri).await {
        Ok(histograms) => {
            let all = HISTOGRAMS.iter().zip(histograms.all());
            let list: Vec<_> =
                all.map(|(described, histogram)| Summary::new(described, &histogram)).collect();
            Json(list).into_response()
        }
        Err(refusal) => *refusal,
    }
}

/// `/v1/histograms/NAME`: all of one; as `NAME.hgrm`, or as `text/plain`, its distribution.
pub(super) async fn histogram(
    Extracted(state): Extracted<State>,
    Named(name): Named,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (name, as_text) = match name.strip_suffix(".hgrm") {
        Some(name) => (name, true),
        None => (name.as_str(), accept::asks_for(&headers, "text/plain", "application/json")),
    };
    let Some(at) = HISTOGRAMS.iter().position(|(known, ..)| *known == name) else {
        let names: Vec<_> = HISTOGRAMS.iter().map(|(name, ..)| *name).collect();
        let message = format!("there is no histogram `{name}`; there are {}", names.join(", "));
        return refuse(StatusCode::NOT_FOUND, "not_found", &message);
    };
    let histograms = match recorded(&state, &uri).await {
        Ok(histograms) => histograms,
        Err(refusal) => return *refusal,
    };
    let described = &HISTOGRAMS[at];
    let histogram = histograms.all().nth(at).expect("there are as many as have names");
    if as_text {
        let headers =
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::VARY, "Accept")];
        return (headers, hdr::hgrm(described.1, &histogram)).into_response();
    }
    ([(header::VARY, "Accept")], Json(Detail::new(described, &histogram))).into_response()
}

/// The histograms of the shard that the query names, or of all.
async fn recorded(state: &State, uri: &Uri) -> Result<Histograms, Box<Response>> {
    let refuse = |status, code, message: &str| Box::new(refuse(status, code, message));
    let collector = &state.0.collector;
    if !collector.has_histograms() {
        let message = "histograms are not recorded: metrics.histograms is false";
        return Err(refuse(StatusCode::NOT_FOUND, "not_found", message));
    }
    let shards = state.config().shards;
    let whole = match uri.query().filter(|query| !query.is_empty()) {
        None => return Ok(collector.read().await.histograms),
        Some(query) => query.strip_prefix("shard=").and_then(|number| number.parse().ok()),
    };
    let Some(shard) = whole else {
        let message = format!("the query may be shard=N, N from 0 to {}", shards - 1);
        return Err(refuse(StatusCode::BAD_REQUEST, "bad_request", &message));
    };
    match collector.read_shard(shard).await {
        Some(snapshot) => Ok(snapshot.histograms),
        None => {
            let message = format!("there is no shard {shard}; they go from 0 to {}", shards - 1);
            Err(refuse(StatusCode::NOT_FOUND, "not_found", &message))
        }
    }
}

fn listeners(facts: &Facts) -> Vec<Value> {
    let listeners = facts.listening.iter().zip(&facts.congestion);
    let described = listeners.map(|(address, congestion)| {
        json!({"address": address.to_string(), "congestion_control": congestion})
    });
    described.collect()
}

/// The engine, and how it is configured.
fn driver(engine: &EngineFacts, config: &Config) -> Value {
    let features: Map<String, Value> = engine
        .features
        .iter()
        .map(|feature| (feature.key.to_owned(), feature.is_available.into()))
        .collect();
    let mut described = json!({
        "name": engine.name,
        "features": features,
        "buffers_per_shard": config.buffers_per_shard(),
        "buffer_bytes": config.engine.buffer_bytes,
        "pinned": config.engine.pin,
    });
    for size in &engine.sizes {
        described[size.key] = size.granted.into();
        described[format!("{}_configured", size.key)] = size.configured.into();
    }
    described
}

/// `/v1/node`: what runs here, and on what.
pub(super) async fn node(Extracted(state): Extracted<State>) -> Json<Value> {
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
    let open: Vec<_> = (0..config.shards).map(|shard| directory.open(shard)).collect();
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
        "driver": driver(&facts.engine, config),
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
        "listeners": listeners(facts),
        "routes": routes,
        "metrics": {
            "histograms": config.metrics.histograms,
            "histogram_log": config.metrics.histogram_log,
            "histogram_log_interval_s": config.metrics.histogram_log_interval_s,
        },
    }))
}

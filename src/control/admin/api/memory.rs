//! Reports memory by class, as shards account for it (bytes).

use axum::Json;
use axum::extract::State as Extracted;
use serde_json::{Value, json};

use super::State;
use crate::control::memory::Usage;
use crate::control::peers::ClusterPeers;

/// `GET /v1/memory`.
pub(super) async fn report_memory(Extracted(state): Extracted<State>) -> Json<Value> {
    let snapshot = state.0.collector.read().await;
    let gauges = snapshot.gauges;
    let drivers = || snapshot.drivers.iter().map(|(.., driver)| driver);
    let buffers = |count: fn(&crate::driver::DriverCounters) -> u32| -> u64 {
        drivers().map(|d| u64::from(count(d)) * u64::from(d.buffer_bytes)).sum()
    };
    let admission = state.0.directory.admission();
    let usage = Usage::read(&state.0.directory);
    let hub = state.0.directory.hub();
    let revocations = hub.map_or(0, |hub| hub.realm.revoked_bytes());
    let cluster = state.peers().map(ClusterPeers::numbers).unwrap_or_default();
    let classes = [
        ("connections", gauges.slots * crate::shard::SLOT_BYTES),
        ("sessions", gauges.session_bytes),
        ("subscriptions", gauges.subscription_bytes),
        ("channels", gauges.channel_bytes),
        ("presence", gauges.presence_bytes),
        ("idempotency_keys", gauges.idempotency_bytes),
        ("outboxes", gauges.outbox_bytes),
        ("recovering_messages", gauges.recovering_bytes),
        ("unfinished_messages", gauges.partial_bytes + gauges.held_bytes),
        ("history", gauges.history_bytes),
        ("mailboxes", gauges.mailbox_bytes),
        ("compression_contexts", gauges.context_bytes),
        ("codec_pools", gauges.codec_pool_bytes),
        ("revocations", revocations),
        ("events", state.0.events.as_ref().map_or(0, |flow| flow.bytes())),
        ("hooks", state.0.hooks.as_ref().map_or(0, |flow| flow.bytes())),
        ("links", state.0.links.as_ref().map_or(0, |flow| flow.bytes())),
        ("engine_queues", cluster.in_flight_bytes + cluster.queued_bytes),
        ("receive_buffers", buffers(|driver| driver.buffers_published + driver.buffers_lent)),
    ];
    let accounted: u64 = classes.iter().map(|(_, bytes)| bytes).sum();
    let by_name: serde_json::Map<String, Value> =
        classes.iter().map(|(name, bytes)| ((*name).to_owned(), (*bytes).into())).collect();
    Json(json!({
        "resident_bytes": usage.resident_bytes,
        "classes": by_name,
        // Code, fixed tables, identities, and the allocator's overhead.
        "other_bytes": usage.resident_bytes.saturating_sub(accounted),
        "kernel": {
            "sockets": usage.socket_bytes,
            "buffers": usage.kernel_buffer_bytes,
        },
        "receive_buffers_reserved_bytes": buffers(|driver| driver.buffers_total),
        "used_bytes": usage.total_bytes(),
        "memory_bytes_max": state.config().limits.admission.memory_bytes_max,
        "refused": admission.shortage().name(),
    }))
}

//! Where the memory is: bytes by class, as the shards account for them.

use axum::Json;
use axum::extract::State as Extracted;
use serde_json::{Value, json};

use super::State;
use crate::driver::host;

/// `GET /v1/memory`.
pub(super) async fn memory(Extracted(state): Extracted<State>) -> Json<Value> {
    let snapshot = state.0.collector.read().await;
    let gauges = snapshot.gauges;
    let buffers: u64 = snapshot
        .drivers
        .iter()
        .map(|(.., driver)| u64::from(driver.buffers_total) * u64::from(driver.buffer_bytes))
        .sum();
    Json(json!({
        "resident_bytes": host::resident_bytes(),
        "classes": {
            "connections": gauges.slots * crate::shard::SLOT_BYTES,
            "outboxes": gauges.outbox_bytes,
            "unfinished_messages": gauges.partial_bytes,
            "history": gauges.history_bytes,
            "mailboxes": gauges.mailbox_bytes,
            "compression_contexts": gauges.context_bytes,
            "codec_pools": gauges.codec_pool_bytes,
        },
        "receive_buffers_reserved_bytes": buffers,
    }))
}

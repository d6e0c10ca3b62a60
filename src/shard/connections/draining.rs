//! Connections during a drain: when their clients should reconnect.

use super::Connections;
use super::slot::Slot;
use super::stage::Stage;

/// If a shard has few connections, their clients reconnect within this time.
const FEW_SPREAD_MS: u32 = 1000;
/// The `Retry-After` of such a shard.
const FEW_RETRY_AFTER_S: u32 = 1;

impl Connections {
    /// Begins a drain; `has_few`: there are so few connections that clients may reconnect at once.
    pub(in crate::shard) fn begin_draining(&mut self, has_few: bool) {
        self.is_draining = true;
        self.drains_few |= has_few;
    }

    pub(in crate::shard) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Returns whether a connection is in the middle of a message.
    pub(in crate::shard) fn has_unfinished_message(&self, index: u32) -> bool {
        let stage = self.slots.get(index as usize).map(Slot::stage);
        matches!(stage, Some(Stage::Open(receiver)) if !receiver.is_idle())
    }

    /// Returns the time after which a client should reconnect. Few clients reconnect within a
    /// second; many are spread over the window, after the time that a restart takes.
    pub(in crate::shard) fn retry_after_drain_ms(&mut self) -> u32 {
        let drain = &self.config.drain;
        let (least_ms, spread_ms) = if self.drains_few {
            (0, FEW_SPREAD_MS)
        } else {
            (drain.retry_after_s.saturating_mul(1000), drain.window_ms.max(FEW_SPREAD_MS))
        };
        least_ms.saturating_add(self.random_below(spread_ms))
    }

    /// Returns the `Retry-After` of a 503 during a drain (s).
    pub(super) fn drain_retry_after_s(&self) -> u32 {
        if self.drains_few { FEW_RETRY_AFTER_S } else { self.config.drain.retry_after_s }
    }
}

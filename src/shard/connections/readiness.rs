//! What a connection's session can take now, and what it has for its client.

use super::flags::Flags;

/// The readiness of a connection's session, as last reported by the layer of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct SessionReadiness(Flags);

impl SessionReadiness {
    /// `is_waiting`: it waits for a reply, or for a mailbox to drain, before it accepts more input.
    /// `has_requests`: it has requests queued. `has_backlog`: channel messages are queued for the
    /// connection, or something is to be reported once its outbox has drained.
    pub(in crate::shard) fn new(is_waiting: bool, has_requests: bool, has_backlog: bool) -> Self {
        let mut flags = Flags::default();
        flags.set(0, is_waiting);
        flags.set(1, has_requests);
        flags.set(2, has_backlog);
        Self(flags)
    }

    /// Sets whether publications are queued for a client behind a link.
    #[must_use]
    pub(in crate::shard) fn with_publications(mut self, has_publications: bool) -> Self {
        self.0.set(3, has_publications);
        self
    }

    /// Returns whether publications are queued for a client behind a link.
    pub(in crate::shard) fn has_publications(self) -> bool {
        self.0.has(3)
    }

    /// Returns whether it accepts another message at once: it neither waits nor has requests.
    #[inline]
    pub(super) fn may_take_more(self) -> bool {
        !self.0.has_any(0b011)
    }

    #[inline]
    pub(in crate::shard) fn is_waiting(self) -> bool {
        self.0.has(0)
    }

    #[inline]
    pub(super) fn has_requests(self) -> bool {
        self.0.has(1)
    }

    #[inline]
    pub(super) fn has_backlog(self) -> bool {
        self.0.has_any(0b1100)
    }
}

//! What all hub sessions of a process share: rights, keys, limits.

use std::sync::Arc;

use super::revoked::Revoked;
use crate::admission::Admission;
use crate::admission::limiter::RateBounds;
use crate::auth::{Identity, Namespace, Namespaces, Sealer, Subject, Verifier};
use crate::hub::Retention;
use crate::session::protocol::Protocols;
use crate::session::seawall::SeawallV1;

/// Limits of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub channels_max: u32,
    /// Unanswered requests of a connection, past which it is not read from.
    pub requests_max: u32,
    /// A connection without identity is closed after this.
    pub auth_timeout_ms: u32,
    /// How long a ticket can be used (s).
    pub ticket_ttl_s: u64,
    /// Members and messages in one answer, unless less is asked for.
    pub presence_page_max: u32,
    pub history_page_max: u32,
    /// The longest message, as the welcome states.
    pub message_bytes_max: u64,
    /// The longest request; a longer one is not even parsed.
    pub request_bytes_max: usize,
    /// What may be done in a second.
    pub rates: RateBounds,
}

/// See the module.
#[derive(Debug)]
pub struct Realm {
    /// Chosen at random when the process starts.
    pub node: u32,
    pub namespaces: Namespaces,
    /// `None`: anonymous mode.
    pub verifier: Option<Arc<Verifier>>,
    /// With keys: connections without a token may stay.
    pub allow_anonymous: bool,
    pub sealer: Arc<Sealer>,
    pub limits: SessionLimits,
    /// What clients may speak.
    pub protocols: Protocols,
    /// What users do on all shards.
    pub admission: Arc<Admission>,
    /// The identity of all clients without a token.
    pub(super) anybody: Arc<Identity>,
    /// Tickets and grants that backends have revoked.
    pub(super) revoked: Arc<Revoked>,
}

impl Realm {
    /// With nothing revoked, for clients that speak `seawall.v1`.
    pub fn new(
        node: u32,
        namespaces: Namespaces,
        verifier: Option<Arc<Verifier>>,
        allow_anonymous: bool,
        sealer: Arc<Sealer>,
        limits: SessionLimits,
        admission: Arc<Admission>,
    ) -> Self {
        let (anybody, revoked) = (Arc::default(), Arc::<Revoked>::default());
        revoked.expect_life(limits.ticket_ttl_s);
        Self {
            node,
            namespaces,
            verifier,
            allow_anonymous,
            sealer,
            limits,
            protocols: Protocols::new(&SeawallV1),
            admission,
            anybody,
            revoked,
        }
    }

    /// The same for clients that speak these protocols.
    #[must_use]
    pub fn with_protocols(self, protocols: Protocols) -> Self {
        Self { protocols, ..self }
    }

    /// This one by another configuration: the same node, with what it has revoked.
    #[must_use]
    pub fn renewed(&self, by: Self) -> Self {
        self.revoked.expect_life(by.limits.ticket_ttl_s);
        Self {
            node: self.node,
            anybody: self.anybody.clone(),
            revoked: self.revoked.clone(),
            protocols: self.protocols.clone(),
            admission: self.admission.clone(),
            ..by
        }
    }

    /// Whether connections may do without a token.
    pub fn is_open(&self) -> bool {
        self.verifier.is_none() || self.allow_anonymous
    }

    /// How long a token counts past its `exp` (s).
    pub(super) fn leeway_s(&self) -> u64 {
        self.verifier.as_ref().map_or(0, |verifier| verifier.leeway_s())
    }

    /// When the rights of a token with this `exp` end (Unix, ms). Connection tokens and channel
    /// tokens are treated alike.
    pub(super) fn end_ms(&self, exp_s: u64) -> u64 {
        exp_s.saturating_add(self.leeway_s()).saturating_mul(1000)
    }

    /// Whether the rights of a token with this `exp` have ended.
    pub(super) fn has_ended(&self, exp_s: u64, now_ms: u64) -> bool {
        self.end_ms(exp_s) <= now_ms
    }

    /// Memory of what was revoked (bytes).
    pub fn revoked_bytes(&self) -> u64 {
        self.revoked.bytes()
    }

    /// Voids the tickets and grants that a user or connection has had until now.
    pub fn revoke(&self, subject: &Subject, now_ms: u64) {
        self.revoked.revoke(subject, now_ms);
    }

    /// Voids the grants that a user or connection has had for a channel until now.
    pub fn revoke_channel(&self, subject: &Subject, channel: &str, now_ms: u64) {
        self.revoked.revoke_channel(subject, channel, now_ms);
    }
}

/// How much of a channel is kept.
pub fn retention(namespace: &Namespace) -> Retention {
    Retention {
        messages_max: namespace.history_messages,
        ttl_ms: u64::from(namespace.history_ttl_s) * 1000,
    }
}

//! State that all hub sessions of a process share: rights, keys and limits.

use std::sync::Arc;

use super::revoked::Revoked;
use crate::admission::Admission;
use crate::admission::limiter::RateBounds;
use crate::auth::{Identity, Namespace, Namespaces, PusherApps, Sealer, Subject, Verifier};
use crate::hub::Retention;
use crate::session::protocol::Protocols;
use crate::session::seawall::SeawallV1;

/// Limits of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub channels_max: u32,
    /// Requests of a connection in flight; at this number it is not read from.
    pub requests_max: u32,
    /// Time for authentication; a connection without an identity is closed after it.
    pub auth_timeout_ms: u32,
    /// Lifetime of a ticket (s).
    pub ticket_ttl_s: u64,
    /// Members and messages in one reply, unless the request asks for fewer.
    pub presence_page_max: u32,
    pub history_page_max: u32,
    /// The longest message (bytes), as the welcome states.
    pub message_bytes_max: u64,
    /// The longest request (bytes); a longer one is skipped without parsing.
    pub request_bytes_max: usize,
    /// Rate limits per second.
    pub rates: RateBounds,
}

/// See the module.
#[derive(Debug)]
pub struct Realm {
    /// Random, chosen when the process starts; connection ids contain it.
    pub node: u32,
    pub namespaces: Namespaces,
    /// `None`: anonymous mode.
    pub verifier: Option<Arc<Verifier>>,
    /// Whether connections without a token may stay although there are keys.
    pub allow_anonymous: bool,
    pub sealer: Arc<Sealer>,
    pub limits: SessionLimits,
    /// The apps whose clients speak the protocol that routes choose.
    pub apps: PusherApps,
    /// The protocols that clients may choose.
    pub protocols: Protocols,
    /// Admission state that all shards share, such as the rates of users.
    pub admission: Arc<Admission>,
    /// The identity of all clients without a token; shared to save memory.
    pub(super) anybody: Arc<Identity>,
    /// Tickets and grants that were revoked.
    pub(super) revoked: Arc<Revoked>,
}

impl Realm {
    /// Creates a realm without revocations, for clients that speak `seawall.v1`.
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
            apps: PusherApps::default(),
            protocols: Protocols::new(&SeawallV1),
            admission,
            anybody,
            revoked,
        }
    }

    /// Replaces the client protocols.
    #[must_use]
    pub fn with_protocols(self, protocols: Protocols) -> Self {
        Self { protocols, ..self }
    }

    /// Sets the apps.
    #[must_use]
    pub fn with_apps(self, apps: PusherApps) -> Self {
        Self { apps, ..self }
    }

    /// Applies another configuration. The node, the protocols, the admission state and all
    /// revocations stay.
    #[must_use]
    pub fn with_options(&self, by: Self) -> Self {
        self.revoked.expect_life(by.limits.ticket_ttl_s);
        Self {
            node: self.node,
            anybody: self.anybody.clone(),
            revoked: self.revoked.clone(),
            protocols: self.protocols.clone(),
            apps: by.apps.following(&self.apps),
            admission: self.admission.clone(),
            ..by
        }
    }

    /// Returns whether connections without a token are allowed.
    pub fn is_open(&self) -> bool {
        self.verifier.is_none() || self.allow_anonymous
    }

    /// Returns how long a token stays valid past its `exp` (s).
    pub(super) fn leeway_s(&self) -> u64 {
        self.verifier.as_ref().map_or(0, |verifier| verifier.leeway_s())
    }

    /// Returns when the rights of a token with this `exp` end (Unix, ms). Connection tokens and
    /// channel tokens are treated alike.
    pub(super) fn end_ms(&self, exp_s: u64) -> u64 {
        exp_s.saturating_add(self.leeway_s()).saturating_mul(1000)
    }

    /// Returns whether the rights of a token with this `exp` have ended.
    pub(super) fn has_ended(&self, exp_s: u64, now_ms: u64) -> bool {
        self.end_ms(exp_s) <= now_ms
    }

    /// Returns the memory of the revocations (bytes).
    pub fn revoked_bytes(&self) -> u64 {
        self.revoked.bytes()
    }

    /// Notes a revocation of another node: what was issued up to this time (Unix, ms) is void.
    pub fn note_revocation(&self, subject: &Subject, channel: Option<&str>, until_ms: u64) {
        self.revoked.note_revocation(subject, channel, until_ms);
    }

    /// Voids the tickets and grants that were issued to a user or connection until now. Returns up
    /// to which time of issue (Unix, ms): not before anything that this node has issued.
    pub fn revoke(&self, subject: &Subject, now_ms: u64) -> u64 {
        self.revoked.revoke(subject, now_ms)
    }

    /// Voids the grants for a channel that were issued to a user or connection until now. Returns
    /// the same.
    pub fn revoke_channel(&self, subject: &Subject, channel: &str, now_ms: u64) -> u64 {
        self.revoked.revoke_channel(subject, channel, now_ms)
    }
}

/// Returns the retention of a namespace's channels.
pub fn retention_of(namespace: &Namespace) -> Retention {
    Retention {
        messages_max: namespace.history_messages,
        ttl_ms: u64::from(namespace.history_ttl_s) * 1000,
    }
}

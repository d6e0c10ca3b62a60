//! What all hub sessions of a process go by: who may what, keys, limits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::Admission;
use crate::admission::limiter::RateBounds;
use crate::auth::{Identity, Namespace, Namespaces, Sealer, Verifier};
use crate::hub::Retention;

/// Identities whose tickets were voided that are remembered.
const VOIDED_MAX: usize = 65_536;

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
    /// The longest message, told in the welcome.
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
    /// What users do on all shards.
    pub admission: Arc<Admission>,
    /// Who came without a token: one for all of them.
    pub(super) anybody: Arc<Identity>,
    voided: Arc<Mutex<Voided>>,
}

#[derive(Debug, Default)]
struct Voided {
    /// Tickets of this user or connection that were issued at this time (Unix, ms) or before are
    /// void.
    by_subject: HashMap<Box<str>, u64>,
    order: VecDeque<Box<str>>,
}

impl Realm {
    /// Without voided tickets.
    pub fn new(
        node: u32,
        namespaces: Namespaces,
        verifier: Option<Arc<Verifier>>,
        allow_anonymous: bool,
        sealer: Arc<Sealer>,
        limits: SessionLimits,
        admission: Arc<Admission>,
    ) -> Self {
        let (anybody, voided) = (Arc::default(), Arc::default());
        Self {
            node,
            namespaces,
            verifier,
            allow_anonymous,
            sealer,
            limits,
            admission,
            anybody,
            voided,
        }
    }

    /// This one by another configuration: the same node, with the tickets it has voided.
    #[must_use]
    pub fn renewed(&self, by: Self) -> Self {
        Self {
            node: self.node,
            anybody: self.anybody.clone(),
            voided: self.voided.clone(),
            admission: self.admission.clone(),
            ..by
        }
    }

    /// Whether connections may do without a token.
    pub fn is_open(&self) -> bool {
        self.verifier.is_none() || self.allow_anonymous
    }

    /// How long a token counts past its end (s).
    pub(super) fn leeway_s(&self) -> u64 {
        self.verifier.as_ref().map_or(0, |verifier| verifier.leeway_s())
    }

    /// Voids the tickets that a user or connection has had until now. Of very many, the first that
    /// were voided are forgotten.
    pub fn void_tickets(&self, subject: &str, now_ms: u64) {
        let mut voided = self.voided.lock().unwrap_or_else(PoisonError::into_inner);
        if voided.by_subject.insert(subject.into(), now_ms).is_none() {
            voided.order.push_back(subject.into());
        }
        while voided.order.len() > VOIDED_MAX {
            if let Some(first) = voided.order.pop_front() {
                voided.by_subject.remove(&first);
            }
        }
    }

    /// Whether a ticket was voided.
    pub(super) fn is_void<'s>(
        &self,
        subjects: impl IntoIterator<Item = &'s str>,
        issued_ms: u64,
    ) -> bool {
        let voided = self.voided.lock().unwrap_or_else(PoisonError::into_inner);
        subjects
            .into_iter()
            .any(|subject| voided.by_subject.get(subject).is_some_and(|until| issued_ms <= *until))
    }
}

/// How much of a channel is kept.
pub fn retention(namespace: &Namespace) -> Retention {
    Retention {
        messages_max: namespace.history_messages,
        ttl_ms: u64::from(namespace.history_ttl_s) * 1000,
    }
}

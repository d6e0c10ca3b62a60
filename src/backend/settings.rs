//! What a configuration says about an application.

use std::time::Duration;

use rustls::RootCertStore;

use super::signature::Signer;
use crate::events::EventKinds;
use crate::hooks::HookLimits;

/// An application.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    pub name: String,
    /// Empty: it receives no events.
    pub events_url: String,
    /// `None`: it is asked nothing.
    pub hooks: Option<HookSettings>,
    /// The kinds of events about nodes that it wants.
    pub node_events: EventKinds,
    pub signer: Signer,
    /// Authorities of its certificate; `None`: the host's.
    pub authorities: Option<RootCertStore>,
    /// Bound on the memory of events that wait.
    pub events_bytes_max: usize,
    /// How long a batch of events is sent again.
    pub retry_for: Duration,
    /// How long a channel is without members before that is reported.
    pub vacate_delay: Duration,
}

impl BackendSettings {
    /// Returns the addresses to which requests are sent.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        let hooks = self.hooks.as_ref().map(|hooks| &*hooks.url);
        Some(&*self.events_url).filter(|url| !url.is_empty()).into_iter().chain(hooks)
    }
}

/// How an application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    pub url: String,
    /// The headers of a handshake that it receives, in lowercase.
    pub headers: Vec<String>,
    pub limits: HookLimits,
}

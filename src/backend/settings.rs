//! What a configuration says about an application.

use std::time::Duration;

use rustls::RootCertStore;

use super::signature::Signer;

/// An application.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    pub name: String,
    pub events_url: String,
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

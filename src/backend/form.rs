//! The form of requests to an application: how they are signed. What events look like in each form
//! is in `events/form.rs`.

use std::sync::Arc;

use axum::body::Bytes;

use super::signature::Signer;
use crate::auth::PusherApp;

/// See the module.
#[derive(Clone, Debug)]
pub enum RequestForm {
    /// Standard Webhooks, with events as `BACKEND.md` specifies them.
    Standard(Signer),
    /// Webhooks of Pusher Channels, for the backend of this app.
    Pusher(Arc<PusherApp>),
}

impl RequestForm {
    /// Returns the headers that sign a request. `id`: the same in each attempt; `time_s`: Unix
    /// time.
    pub(super) fn sign(&self, id: &str, time_s: u64, body: &Bytes) -> Vec<(&'static str, String)> {
        match self {
            Self::Standard(signer) => vec![
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", time_s.to_string()),
                ("webhook-signature", signer.sign(id, time_s, body)),
            ],
            Self::Pusher(app) => {
                vec![("x-pusher-key", app.key().to_owned()), ("x-pusher-signature", app.sign(body))]
            }
        }
    }

    /// Returns the same form with a secret that any program could use.
    pub(super) fn forged(&self) -> Self {
        const SECRET: [u8; 24] = [0; 24];
        match self {
            Self::Standard(_) => Self::Standard(Signer::new(vec![SECRET.to_vec()])),
            Self::Pusher(app) => {
                let forged = PusherApp::new(app.id(), app.key(), &SECRET, app.options.clone());
                Self::Pusher(Arc::new(forged))
            }
        }
    }
}

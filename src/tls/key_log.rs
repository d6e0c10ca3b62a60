//! How traffic secrets, from which later keys follow, get out of rustls: through a key log that
//! keeps two of them for the step of a handshake that is under way, and writes nothing anywhere.

use std::cell::RefCell;

use rustls::KeyLog;

use super::secrets::TrafficSecret;
use super::suite::SECRET_BYTES_MAX;

/// The traffic secrets of one connection, once they are known.
pub(super) struct LoggedSecrets {
    pub(super) client: TrafficSecret,
    pub(super) server: TrafficSecret,
    has_client: bool,
    has_server: bool,
}

impl Default for LoggedSecrets {
    fn default() -> Self {
        let none = || TrafficSecret::new([0; SECRET_BYTES_MAX]);
        Self { client: none(), server: none(), has_client: false, has_server: false }
    }
}

impl LoggedSecrets {
    pub(super) fn is_complete(&self) -> bool {
        self.has_client && self.has_server
    }
}

thread_local! {
    /// What was logged since it was last taken.
    static LOGGED: RefCell<LoggedSecrets> = RefCell::default();
}

/// Takes what was logged on this thread.
pub(super) fn take() -> LoggedSecrets {
    LOGGED.take()
}

const CLIENT_LABEL: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_LABEL: &str = "SERVER_TRAFFIC_SECRET_0";

/// See the module.
#[derive(Debug)]
pub(super) struct TrafficSecretLog;

impl KeyLog for TrafficSecretLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if secret.len() > SECRET_BYTES_MAX {
            return;
        }
        LOGGED.with_borrow_mut(|logged| {
            let (kept, has) = match label {
                CLIENT_LABEL => (&mut logged.client, &mut logged.has_client),
                SERVER_LABEL => (&mut logged.server, &mut logged.has_server),
                _ => return,
            };
            kept[..secret.len()].copy_from_slice(secret);
            *has = true;
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_LABEL | SERVER_LABEL)
    }
}

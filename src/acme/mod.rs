//! Certificates ordered from an authority by ACME (RFC 8555), in a thread of their own.
//!
//! The thread orders a certificate when there is none, when the names change, and some time before
//! it expires. It writes it to a folder and has the configuration reloaded, as if an operator had
//! replaced the file: what serves it knows nothing of ACME. Challenges are answered by the shards
//! (`tls/challenges.rs`).
//!
//! Several processes may share a folder. The one that holds the lock on it orders; the others read
//! what it has written.

mod http;
mod order;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crate::tls::challenges::Challenges;
pub(crate) use http::read_certificates;
use store::Store;
pub use store::{CERTIFICATE_FILE, create_folder, read_certificate};

/// How the authority is shown that the server answers for its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum Challenge {
    /// By a handshake on port 443 (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a page on port 80 (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
}

/// What is ordered, where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// In lower case.
    pub names: Vec<String>,
    /// URL of the authority's directory.
    pub directory: String,
    /// Address for the authority's mails; empty: none.
    pub contact: String,
    pub folder: PathBuf,
    pub challenge: Challenge,
    /// PEM file of authorities that sign the directory's own certificate; empty: the host's.
    pub ca: String,
    /// A certificate is renewed so long before it expires.
    pub renew_before: Duration,
}

/// Time until another try after a failure: it doubles with each one up to the longest.
const RETRY_MIN: Duration = Duration::from_mins(1);
const RETRY_MAX: Duration = Duration::from_hours(6);
/// How often it is checked whether a certificate is due.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// Keeps a certificate fresh until it is dropped.
#[derive(Debug)]
pub struct Renewal {
    stop: Arc<AtomicBool>,
    thread: Thread,
}

impl Drop for Renewal {
    /// Stops the thread; it ends after its present order.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl Renewal {
    /// Starts the thread. `reload` has the configuration read again, and is called after each new
    /// certificate.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        settings: AcmeSettings,
        challenges: Arc<Challenges>,
        reload: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        let thread = std::thread::Builder::new().name("acme".to_owned());
        let thread = thread.spawn(move || {
            let mut worker = Worker { settings, challenges, reload, store: None, failures: 0 };
            while !is_stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(worker.work());
            }
        })?;
        Ok(Self { stop, thread: thread.thread().clone() })
    }
}

struct Worker<R> {
    settings: AcmeSettings,
    challenges: Arc<Challenges>,
    reload: R,
    /// The folder, once its lock is held.
    store: Option<Store>,
    failures: u32,
}

impl<R: Fn()> Worker<R> {
    /// Orders a certificate if one is due; returns when to look again.
    fn work(&mut self) -> Duration {
        match self.order_if_due() {
            Ok(()) => {
                self.failures = 0;
                CHECK_INTERVAL
            }
            Err(error) => {
                let retry = retry_after(self.failures);
                self.failures += 1;
                let (names, retry_s) = (self.settings.names.join(", "), retry.as_secs());
                tracing::error!(names, error, retry_s, "cannot order a certificate");
                retry
            }
        }
    }

    fn order_if_due(&mut self) -> Result<(), String> {
        if self.store.is_none() {
            let Some(store) = Store::open(&self.settings.folder)? else {
                // Another process orders.
                return Ok(());
            };
            self.store = Some(store);
        }
        let Some(store) = &self.store else { return Ok(()) };
        if !store.is_due(&self.settings.names, self.settings.renew_before) {
            return Ok(());
        }
        let names = self.settings.names.join(", ");
        tracing::info!(names, directory = self.settings.directory, "ordering a certificate");
        let ordered = order::run(&self.settings, store, &self.challenges);
        self.challenges.clear();
        store.write_certificate(&ordered?)?;
        tracing::info!(names, "a certificate was issued");
        (self.reload)();
        Ok(())
    }
}

fn retry_after(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_later_and_later() {
        assert_eq!(retry_after(0), RETRY_MIN);
        assert_eq!(retry_after(3), 8 * RETRY_MIN);
        assert_eq!(retry_after(40), RETRY_MAX);
    }
}

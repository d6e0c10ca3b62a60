//! Fetches keys from a URL at intervals, in a separate thread.
//!
//! The first fetch is made before clients are accepted: a client rejected for a missing key would
//! take that as final. Later fetches are made at the configured interval, sooner after a failure
//! (the old keys remain in use), and when a token names an unknown key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use ureq::tls::{RootCerts, TlsConfig};

use super::jwks::Jwks;
use super::verifier::Verifier;

const BYTES_MAX: u64 = 256 * 1024;
/// Time limit of a whole fetch, including redirects.
const TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: u32 = 3;

/// The URL of the keys, and how often they are fetched.
#[derive(Clone, Debug)]
pub struct JwksSource {
    pub url: String,
    /// Interval between fetches.
    pub refresh: Duration,
    /// Interval after a failed fetch.
    pub retry: Duration,
    /// Minimum time between fetches that unknown keys of tokens cause: any client can send those.
    pub gap: Duration,
}

impl JwksSource {
    /// Creates a source with the configured interval.
    pub fn new(url: &str, refresh_s: u32) -> Self {
        let refresh = Duration::from_secs(refresh_s.into());
        let gap = refresh.min(Duration::from_secs(10));
        Self { url: url.to_owned(), refresh, retry: gap, gap }
    }
}

/// Keeps a verifier's keys fresh until it is dropped.
#[derive(Debug)]
pub struct Fetcher {
    stop: Arc<AtomicBool>,
    thread: Thread,
}

impl Drop for Fetcher {
    /// Stops the thread; it ends after its current fetch.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl Fetcher {
    /// Fetches once and then continues in a thread. Logs a warning if the first fetch fails. If the
    /// verifier has keys of the same URL already, the thread makes the first fetch.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(verifier: &Arc<Verifier>, source: JwksSource) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut work = Work::new(verifier.clone(), source, stop.clone());
        if verifier.has_fetched() {
            // No client waits for this fetch, so it need not block the caller.
            work.due_at_once = true;
        } else {
            work.fetch();
        }
        let thread = std::thread::Builder::new().name("jwks".to_owned());
        let thread = thread.spawn(move || work.run())?.thread().clone();
        verifier.set_fetcher(thread.clone());
        Ok(Self { stop, thread })
    }
}

/// Returns a TLS configuration that checks certificates against the host's authorities.
fn tls_config() -> TlsConfig {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(crypto)
        .build()
}

/// Rejects a set without a usable key: an issuer that has withdrawn all its keys cannot be
/// distinguished from a response that was cut short.
fn require_usable(read: Jwks) -> Result<Jwks, String> {
    if !read.keys.is_empty() {
        return Ok(read);
    }
    let text = "the set has no key that can be used here".to_owned();
    Err(if read.skipped.is_empty() { text } else { format!("{text}: {}", read.skipped.join("; ")) })
}

struct Work {
    verifier: Arc<Verifier>,
    source: JwksSource,
    agent: ureq::Agent,
    stop: Arc<AtomicBool>,
    fetched: Instant,
    failed: bool,
    /// The first fetch is still to be made, without waiting for the interval.
    due_at_once: bool,
    /// The last warning; an identical one is not logged again.
    warned: String,
}

impl Work {
    fn new(verifier: Arc<Verifier>, source: JwksSource, stop: Arc<AtomicBool>) -> Self {
        let config = ureq::config::Config::builder()
            .tls_config(tls_config())
            .timeout_global(Some(TIMEOUT))
            .max_redirects(REDIRECTS_MAX)
            .https_only(source.url.starts_with("https://"))
            .user_agent(concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            verifier,
            source,
            agent: config.new_agent(),
            stop,
            fetched: Instant::now(),
            failed: false,
            due_at_once: false,
            warned: String::new(),
        }
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = self.next_fetch_at();
            if self.due_at_once || due <= now {
                self.fetch();
            } else {
                // An unpark from `drop` or a token wakes it earlier; the loop checks the state
                // again.
                std::thread::park_timeout(due - now);
            }
        }
    }

    fn next_fetch_at(&self) -> Instant {
        let regular = if self.failed { self.source.retry } else { self.source.refresh };
        let wanted = self.verifier.is_fetch_wanted();
        self.fetched + if wanted { regular.min(self.source.gap) } else { regular }
    }

    fn fetch(&mut self) {
        self.due_at_once = false;
        self.verifier.begin_fetch();
        let read = self.get().and_then(|text| Jwks::read(&text)).and_then(require_usable);
        self.fetched = Instant::now();
        self.failed = read.is_err();
        let succeeded = read.is_ok();
        match read {
            Ok(read) => {
                if read.skipped.is_empty() {
                    self.warned.clear();
                } else {
                    let skipped = read.skipped.join("; ");
                    self.warn(format!("skipped keys of the set: {skipped}"));
                }
                tracing::debug!(url = self.source.url, keys = read.keys.len(), "keys fetched");
                self.verifier.replace_fetched(read.keys);
            }
            Err(fault) => {
                self.warn(format!("cannot fetch keys; keeping the previous ones: {fault}"));
            }
        }
        // After the keys are replaced: a token that is verified meanwhile finds either its key, or
        // the id still pending.
        self.verifier.end_fetch(succeeded, self.source.gap);
    }

    fn warn(&mut self, text: String) {
        if text != self.warned {
            tracing::warn!(url = self.source.url, "{text}");
            self.warned = text;
        }
    }

    fn get(&self) -> Result<String, String> {
        let response = self.agent.get(&self.source.url).call();
        let mut response = response.map_err(|fault| fault.to_string())?;
        let body = response.body_mut().with_config().limit(BYTES_MAX);
        body.read_to_string().map_err(|fault| fault.to_string())
    }
}

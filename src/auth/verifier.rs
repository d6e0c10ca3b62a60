//! Verifies tokens (JWT, RFC 7519, as JWS in compact form, RFC 7515 3.1).
//!
//! Shards verify tokens while keys are replaced: a set of keys is swapped as a whole, so readers
//! never block.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{Claims, Expected, TOKEN_BYTES_MAX};
use super::error::AuthError;
use super::identity::{ChannelGrant, Identity};
use super::keys::{Fingerprint, Key};
use super::wanted::Wanted;

/// The keys, and the requirements of tokens.
#[derive(Debug)]
pub struct Verifier {
    /// Configured keys.
    fixed: Vec<Key>,
    /// Keys from a URL; `None` before the first fetch succeeded.
    fetched: ArcSwapOption<Vec<Key>>,
    /// Whether keys are fetched from a URL.
    fetches: bool,
    pub(super) expected: Expected,
    /// Incremented when the first fetched keys arrive, and when one of them is withdrawn.
    changes: AtomicU64,
    /// A token named an unknown key, so the keys should be fetched again.
    wanted: AtomicBool,
    /// The unknown ids that tokens have named.
    ids: Wanted,
    /// The thread that fetches keys, once it runs.
    fetcher: OnceLock<Thread>,
}

/// Whether a key that has verified a token is still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    Good,
    Withdrawn,
    /// No keys have been fetched yet.
    Unknown,
}

/// The fields of a token's header that are used.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 4.1.11); this verifier supports none.
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// Creates a verifier with these keys; with `fetches`, [`Self::replace_fetched`] adds others.
    pub fn new(fixed: Vec<Key>, fetches: bool, expected: Expected) -> Self {
        Self {
            fixed,
            fetched: ArcSwapOption::empty(),
            fetches,
            expected,
            changes: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            ids: Wanted::default(),
            fetcher: OnceLock::new(),
        }
    }

    /// Returns whether there are keys, or will be. If not, clients are anonymous.
    pub fn has_keys(&self) -> bool {
        self.fetches || !self.fixed.is_empty()
    }

    /// Returns how long a token is accepted past its `exp` (s). [`Identity::expires_s`] does not
    /// include this.
    pub fn leeway_s(&self) -> u64 {
        self.expected.leeway_s
    }

    /// Returns whether there is a key to verify with now.
    pub fn has_usable_keys(&self) -> bool {
        !self.fixed.is_empty() || self.has_fetched()
    }

    /// Returns whether keys have been fetched.
    pub fn has_fetched(&self) -> bool {
        self.fetched.load().is_some()
    }

    /// Replaces the fetched keys as a whole.
    pub fn replace_fetched(&self, keys: Vec<Key>) {
        let old = self.fetched.swap(Some(Arc::new(keys)));
        let new = self.fetched.load();
        let is_there = |key: &Key| {
            new.iter().flat_map(|keys| keys.iter()).any(|one| one.fingerprint == key.fingerprint)
        };
        // An additional key changes nothing for open connections, so only the first arrival and
        // withdrawals count.
        if old.is_none_or(|old| !old.iter().all(is_there)) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Copies the keys that another verifier has fetched from the same URL, so that a reload keeps
    /// them.
    pub fn adopt_fetched(&self, from: &Self) {
        self.fetched.store(from.fetched.load_full());
    }

    /// Returns a counter, incremented when the first fetched keys arrive, and when one of them is
    /// withdrawn.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Returns whether a key is still valid.
    pub fn standing(&self, key: Fingerprint) -> KeyStanding {
        let fetched = self.fetched.load();
        let all = self.fixed.iter().chain(fetched.iter().flat_map(|keys| keys.iter()));
        match all.into_iter().any(|one| one.fingerprint == key) {
            true => KeyStanding::Good,
            false if self.fetches && fetched.is_none() => KeyStanding::Unknown,
            false => KeyStanding::Withdrawn,
        }
    }

    /// Verifies a connection's token, and returns its identity.
    ///
    /// # Errors
    /// Why it is rejected.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Identity, AuthError> {
        let (payload, key) = self.verify_signature(token)?;
        let claims = Claims::read(&payload)?;
        let expires_s = claims.check(&self.expected, now_s)?;
        if claims.channel()?.is_some() {
            let text = "a token with `channel` is for that channel only, not for connections";
            return Err(AuthError::Claims(text));
        }
        claims.identity(expires_s, Some(key))
    }

    /// Verifies a channel token for a connection of this user, and returns the rights to this
    /// channel.
    ///
    /// # Errors
    /// Why it is rejected.
    pub fn verify_channel(
        &self,
        token: &str,
        channel: &str,
        user: Option<&str>,
        now_s: u64,
    ) -> Result<ChannelGrant, AuthError> {
        let (payload, key) = self.verify_signature(token)?;
        let claims = Claims::read(&payload)?;
        let expires_s = claims.check(&self.expected, now_s)?;
        let missing = AuthError::Claims("`channel` is missing; it must name the token's channel");
        let right = claims.channel()?.ok_or(missing)?;
        if !right.pattern.matches(channel) {
            return Err(AuthError::Channel);
        }
        if claims.user()?.is_some_and(|subject| user != Some(&subject)) {
            return Err(AuthError::Subject);
        }
        Ok(ChannelGrant { rights: right.rights, expires_s, key: Some(key) })
    }

    /// Verifies the signature; returns the claims and the key.
    pub(super) fn verify_signature(
        &self,
        token: &str,
    ) -> Result<(Vec<u8>, Fingerprint), AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (head, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed);
        let head: Head =
            serde_json::from_slice(&decode(head)?).map_err(|_| AuthError::Malformed)?;
        // An unknown critical extension makes the token invalid (RFC 7515 4.1.11).
        if head.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        let id = head.kid.as_deref().unwrap_or_default();
        let verified = |key: &Key| {
            // The key determines the algorithm (RFC 8725 3.1): a token cannot choose a weaker one.
            if head.alg != key.algorithm.name() {
                return Err(AuthError::Algorithm);
            }
            let algorithm = key.algorithm.jwt();
            let message = message.as_bytes();
            match jsonwebtoken::crypto::verify(signature, message, &key.decoding, algorithm) {
                Ok(true) => Ok((decode(payload)?, key.fingerprint)),
                Ok(false) => Err(AuthError::Signature),
                Err(_) => Err(AuthError::Malformed),
            }
        };
        // Configured keys take precedence: a set at a URL cannot replace one of them.
        if let Some(key) = self.fixed.iter().find(|key| key.id == id) {
            return verified(key);
        }
        let fetched = self.fetched.load();
        if let Some(key) = fetched.iter().flat_map(|keys| keys.iter()).find(|key| key.id == id) {
            return verified(key);
        }
        let fault = match fetched.as_ref() {
            _ if !self.fetches => AuthError::UnknownKey,
            None => AuthError::NoKeys,
            Some(_) if self.ids.record(id) => AuthError::KeyPending,
            Some(_) => AuthError::UnknownKey,
        };
        // After the id was recorded, so that the fetch requested here decides about it.
        self.request_fetch();
        Err(fault)
    }

    /// Wakes the fetching thread, at most once per fetch.
    fn request_fetch(&self) {
        if let Some(fetcher) = self.fetcher.get()
            && !self.wanted.swap(true, Ordering::Relaxed)
        {
            fetcher.unpark();
        }
    }

    /// Sets the thread to wake when a token names an unknown key.
    pub(super) fn set_fetcher(&self, thread: Thread) {
        // Later calls have no effect: there is one URL, and so one thread.
        let _ = self.fetcher.set(thread);
    }

    pub(super) fn is_fetch_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn begin_fetch(&self) {
        // The request is cleared before the fetch: a token that arrives during it requests another
        // one, because its key may be newer than the response.
        self.wanted.store(false, Ordering::Relaxed);
        self.ids.begin();
    }

    /// Notes the end of a fetch; the next one is possible after `gap`.
    pub(super) fn end_fetch(&self, succeeded: bool, gap: Duration) {
        self.ids.end(succeeded, gap);
    }
}

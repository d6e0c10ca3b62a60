//! Verifies tokens (JWT, RFC 7519, as JWS in compact form, RFC 7515 3.1).
//!
//! Shards verify while keys are being exchanged: a set of keys is replaced whole, and readers never
//! wait for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{Claims, Expected};
use super::error::AuthError;
use super::identity::{ChannelGrant, Identity};
use super::keys::{Fingerprint, Key};
use super::wanted::Wanted;

/// Longer tokens are not looked at.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Keys, and what is expected of tokens.
#[derive(Debug)]
pub struct Verifier {
    /// Configured ones.
    fixed: Vec<Key>,
    /// Those from a URL; `None`: they have never arrived.
    fetched: ArcSwapOption<Vec<Key>>,
    /// Whether keys come from a URL at all.
    fetches: bool,
    pub(super) expected: Expected,
    /// How often fetched keys have arrived for the first time, or one of them was withdrawn.
    changes: AtomicU64,
    /// A token named a key that is not there: the set at the URL may have changed.
    wanted: AtomicBool,
    /// The ids of those keys.
    ids: Wanted,
    /// Who fetches, once there is somebody.
    fetcher: OnceLock<Thread>,
}

/// Whether a key that verified something once still verifies tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    Good,
    Withdrawn,
    /// The keys from the URL have not arrived yet.
    Unknown,
}

/// A token's head, as far as it matters.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 4.1.11); we understand none.
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// With these keys, and with others that [`Self::replace_fetched`] will bring where `fetches`.
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

    /// Whether there is, or will be, anything to verify with. Without, clients are anonymous.
    pub fn has_keys(&self) -> bool {
        self.fetches || !self.fixed.is_empty()
    }

    /// A token is taken for so much longer than its `exp` says, and [`Identity::expires_s`] is
    /// that `exp`.
    pub fn leeway_s(&self) -> u64 {
        self.expected.leeway_s
    }

    /// Whether there is a key to verify with now.
    pub fn has_usable_keys(&self) -> bool {
        !self.fixed.is_empty() || self.has_fetched()
    }

    /// Whether keys have arrived from the URL.
    pub fn has_fetched(&self) -> bool {
        self.fetched.load().is_some()
    }

    /// Replaces the keys that came from a URL. Readers use the old ones until then.
    pub fn replace_fetched(&self, keys: Vec<Key>) {
        let old = self.fetched.swap(Some(Arc::new(keys)));
        let new = self.fetched.load();
        let is_there = |key: &Key| {
            new.iter().flat_map(|keys| keys.iter()).any(|one| one.fingerprint == key.fingerprint)
        };
        if old.is_none_or(|old| !old.iter().all(is_there)) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes over the keys that another verifier has fetched from the same URL.
    pub fn adopt_fetched(&self, from: &Self) {
        self.fetched.store(from.fetched.load_full());
    }

    /// Grows each time fetched keys arrive for the first time, or one of them is withdrawn.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether a key still verifies tokens.
    pub fn standing(&self, key: Fingerprint) -> KeyStanding {
        let fetched = self.fetched.load();
        let all = self.fixed.iter().chain(fetched.iter().flat_map(|keys| keys.iter()));
        match all.into_iter().any(|one| one.fingerprint == key) {
            true => KeyStanding::Good,
            false if self.fetches && fetched.is_none() => KeyStanding::Unknown,
            false => KeyStanding::Withdrawn,
        }
    }

    /// Who a connection's token says it is.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Identity, AuthError> {
        let (payload, key) = self.payload(token)?;
        let claims = Claims::read(&payload)?;
        let expires_s = claims.check(&self.expected, now_s)?;
        if claims.channel()?.is_some() {
            let text = "with `channel` it is for that channel only, and opens no connection";
            return Err(AuthError::Claims(text));
        }
        claims.identity(expires_s, Some(key))
    }

    /// What a channel token grants a connection of this user for this channel.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify_channel(
        &self,
        token: &str,
        channel: &str,
        user: Option<&str>,
        now_s: u64,
    ) -> Result<ChannelGrant, AuthError> {
        let (payload, key) = self.payload(token)?;
        let claims = Claims::read(&payload)?;
        let expires_s = claims.check(&self.expected, now_s)?;
        let missing = AuthError::Claims("`channel` is missing: it names what the token is for");
        let right = claims.channel()?.ok_or(missing)?;
        if !right.pattern.matches(channel) {
            return Err(AuthError::Channel);
        }
        if claims.user()?.is_some_and(|subject| user != Some(&subject)) {
            return Err(AuthError::Subject);
        }
        Ok(ChannelGrant { rights: right.rights, expires_s, key: Some(key) })
    }

    /// The claims of a token whose signature is its key's, and that key.
    pub(super) fn payload(&self, token: &str) -> Result<(Vec<u8>, Fingerprint), AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (head, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed);
        let head: Head =
            serde_json::from_slice(&decode(head)?).map_err(|_| AuthError::Malformed)?;
        if head.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        let id = head.kid.as_deref().unwrap_or_default();
        let verified = |key: &Key| {
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
            Some(_) if self.ids.note(id) => AuthError::KeyPending,
            Some(_) => AuthError::UnknownKey,
        };
        // After the note: the fetch that this asks for speaks about this id.
        self.want_fetch();
        Err(fault)
    }

    /// Wakes who fetches, once until it has looked.
    fn want_fetch(&self) {
        if let Some(fetcher) = self.fetcher.get()
            && !self.wanted.swap(true, Ordering::Relaxed)
        {
            fetcher.unpark();
        }
    }

    /// Lets a thread be woken when a token names a key that is not there.
    pub(super) fn set_fetcher(&self, thread: Thread) {
        // The first one stays: there is one URL.
        let _ = self.fetcher.set(thread);
    }

    pub(super) fn is_fetch_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn fetch_has_begun(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        self.ids.begin();
    }

    /// The next fetch is possible after `gap`.
    pub(super) fn fetch_has_ended(&self, succeeded: bool, gap: Duration) {
        self.ids.end(succeeded, gap);
    }
}

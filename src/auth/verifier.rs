//! Verifies tokens (JWT, RFC 7519, as JWS in compact form, RFC 7515 3.1).
//!
//! Shards verify while keys are being exchanged: a set of keys is replaced whole, and readers never
//! wait for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{Claims, Expected};
use super::error::AuthError;
use super::identity::{ChannelGrant, Identity};
use super::keys::Key;

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
    /// A token named a key that is not there: the set at the URL may have changed.
    wanted: AtomicBool,
    /// Who fetches, once there is somebody.
    fetcher: OnceLock<Thread>,
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
            wanted: AtomicBool::new(false),
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

    /// Replaces the keys that came from a URL. Readers go on with the old ones until then.
    pub fn replace_fetched(&self, keys: Vec<Key>) {
        self.fetched.store(Some(Arc::new(keys)));
    }

    /// Who a connection's token says it is.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Identity, AuthError> {
        let payload = self.payload(token)?;
        let claims = Claims::read(&payload)?;
        let expires_s = claims.check(&self.expected, now_s)?;
        if claims.channel()?.is_some() {
            let text = "with `channel` it is for that channel only, and opens no connection";
            return Err(AuthError::Claims(text));
        }
        claims.identity(expires_s)
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
        let payload = self.payload(token)?;
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
        Ok(ChannelGrant { rights: right.rights, expires_s })
    }

    /// The claims of a token whose signature is its key's.
    pub(super) fn payload(&self, token: &str) -> Result<Vec<u8>, AuthError> {
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
                Ok(true) => decode(payload),
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
        self.want_fetch();
        let never_arrived = self.fetches && fetched.is_none();
        Err(if never_arrived { AuthError::NoKeys } else { AuthError::UnknownKey })
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
    }
}

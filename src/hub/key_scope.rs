//! An idempotency key together with its owner.

use super::refusal::{Code, Refused};

/// The longest idempotency key (bytes).
const KEY_BYTES_MAX: usize = 128;

/// A key and its scope: a user, an API key, or a connection that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyScope {
    /// Prefixed with the kind of owner, so that a user and an API key of the same name differ.
    pub owner: Box<str>,
    pub key: Box<str>,
}

impl KeyScope {
    /// Validates a key that a client or backend has chosen.
    ///
    /// # Errors
    /// The key is empty or too long.
    pub fn new(owner: Box<str>, key: &str) -> Result<Self, Refused> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let message = format!("key must have 1 to {KEY_BYTES_MAX} bytes, not {}", key.len());
            return Err(Refused::new(Code::BadRequest, message));
        }
        Ok(Self { owner, key: key.into() })
    }
}

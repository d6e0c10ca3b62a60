//! The name of an idempotency key.

use super::refusal::{Code, Refused};

/// The longest idempotency key (bytes).
const KEY_BYTES_MAX: usize = 128;

/// A key with the scope that it counts in: a user, an API key, or an identity that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyScope {
    /// The kind of owner is part of it, so that no user has the name of an API key.
    pub owner: Box<str>,
    pub key: Box<str>,
}

impl KeyScope {
    /// A key that a client or backend has chosen.
    ///
    /// # Errors
    /// It is empty, or too long.
    pub fn new(owner: Box<str>, key: &str) -> Result<Self, Refused> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let message = format!("key must have 1 to {KEY_BYTES_MAX} bytes, not {}", key.len());
            return Err(Refused::new(Code::BadRequest, message));
        }
        Ok(Self { owner, key: key.into() })
    }
}

//! The name of an idempotency key.

/// A key with the scope that it counts in: a user, an API key, or an identity that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyScope {
    /// The kind of owner is part of it, so that no user has the name of an API key.
    pub owner: Box<str>,
    pub key: Box<str>,
}

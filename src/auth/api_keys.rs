//! Keys that backends send to the API.
//!
//! Only digests are kept, and compared in a time that does not tell how much of a key was right;
//! all are compared, so that it does not tell which one it was either.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};

/// The API's keys.
#[derive(Debug, Default)]
pub struct ApiKeys {
    keys: Vec<(String, Digest)>,
}

impl ApiKeys {
    /// Takes names and secrets.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, &'k str)>) -> Self {
        let keys = keys.into_iter();
        let digests =
            keys.map(|(name, secret)| (name.to_owned(), digest(&SHA256, secret.as_bytes())));
        Self { keys: digests.collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The name of the key that a request brought.
    pub fn check(&self, bearer: &str) -> Option<&str> {
        let given = digest(&SHA256, bearer.as_bytes());
        let mut found = None;
        for (name, digest) in &self.keys {
            if verify_slices_are_equal(digest.as_ref(), given.as_ref()).is_ok() {
                found = Some(name.as_str());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_whole_secret() {
        let keys = ApiKeys::new([("one", "0123456789abcdef0123"), ("two", "another-secret-of-us")]);
        assert_eq!(keys.check("0123456789abcdef0123"), Some("one"));
        assert_eq!(keys.check("another-secret-of-us"), Some("two"));
        for wrong in ["", "0123456789abcdef012", "0123456789abcdef01234", "one", "Another"] {
            assert_eq!(keys.check(wrong), None, "{wrong}");
        }
        assert!(ApiKeys::default().is_empty() && ApiKeys::default().check("").is_none());
        assert!(!format!("{keys:?}").contains("another-secret"));
    }
}

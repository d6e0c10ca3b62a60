//! API keys of backends.
//!
//! Only digests are stored. Comparisons take constant time, so that timing does not reveal how much
//! of a key is right; and all keys are compared, so that it does not reveal which one matched.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};

/// The configured API keys.
#[derive(Debug, Default)]
pub struct ApiKeys {
    keys: Vec<(String, Digest)>,
}

impl ApiKeys {
    /// Creates the set from names and secrets.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, &'k str)>) -> Self {
        let keys = keys.into_iter();
        let digests =
            keys.map(|(name, secret)| (name.to_owned(), digest(&SHA256, secret.as_bytes())));
        Self { keys: digests.collect() }
    }

    /// Returns whether no key is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Finds the key that a request carries, and returns its name.
    pub fn find(&self, bearer: &str) -> Option<&str> {
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
    fn a_key_matches_by_its_whole_secret() {
        let keys = ApiKeys::new([("one", "0123456789abcdef0123"), ("two", "another-secret-of-us")]);
        assert_eq!(keys.find("0123456789abcdef0123"), Some("one"));
        assert_eq!(keys.find("another-secret-of-us"), Some("two"));
        for wrong in ["", "0123456789abcdef012", "0123456789abcdef01234", "one", "Another"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert!(ApiKeys::default().is_empty() && ApiKeys::default().find("").is_none());
        assert!(!format!("{keys:?}").contains("another-secret"));
    }
}

//! Tracks unknown key ids of tokens, to decide whether a fetch may still bring the key.
//!
//! An issuer may sign with a new key as soon as its set contains the key, so the first tokens of a
//! key arrive before the server has fetched the set again. Such a token is rejected temporarily. It
//! is rejected permanently once a fetch that began after the id was first seen has not brought the
//! key, until another fetch is possible.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ids remembered between fetches. Clients can send any ids: beyond the limit one is not
/// remembered, and its tokens are rejected temporarily.
const IDS_MAX: usize = 1024;

/// The unknown ids; see the module.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// Seen since the last fetch began.
    named: HashSet<u64>,
    /// Seen before the current fetch began; its result decides about them.
    fetching: HashSet<u64>,
    /// Seen before the last fetch, which did not bring them.
    missing: HashSet<u64>,
    /// When the next fetch is possible: `missing` no longer applies from then on.
    missing_until: Option<Instant>,
}

impl Wanted {
    /// Records an id that a token names; returns whether a fetch may still bring its key.
    pub(super) fn record(&self, id: &str) -> bool {
        let id = self.hashes.hash_one(id);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Keyed hashes, because clients choose the ids, and these may be long.
        if state.named.len() < IDS_MAX {
            state.named.insert(id);
        }
        let holds = state.missing_until.is_some_and(|until| Instant::now() < until);
        !(holds && state.missing.contains(&id))
    }

    /// Notes the beginning of a fetch.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids seen from now on may be newer than the response, so it does not decide about them.
        state.fetching = std::mem::take(&mut state.named);
    }

    /// Notes the end of a fetch. After a success, the next one is possible after `gap`; a failure
    /// proves nothing about any key.
    pub(super) fn end(&self, succeeded: bool, gap: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fetching = std::mem::take(&mut state.fetching);
        if succeeded {
            state.missing = fetching;
            state.missing_until = Instant::now().checked_add(gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[test]
    fn an_id_is_missing_once_a_fetch_that_began_later_has_not_brought_it() {
        let wanted = Wanted::default();
        assert!(wanted.record("a"), "no fetch was made");
        wanted.begin();
        assert!(wanted.record("b"), "the running fetch may have begun too early");
        wanted.end(true, LONG);
        assert!(!wanted.record("a"));
        assert!(wanted.record("b"));
        assert!(wanted.record("c"));
        wanted.begin();
        wanted.end(false, LONG);
        assert!(wanted.record("b"), "a failure proves nothing");
        wanted.begin();
        wanted.end(true, Duration::ZERO);
        assert!(wanted.record("b"), "the next fetch is possible at once");
    }

    #[test]
    fn ids_are_bounded() {
        let wanted = Wanted::default();
        for n in 0..10 * IDS_MAX {
            assert!(wanted.record(&n.to_string()));
        }
        assert_eq!(wanted.state.lock().unwrap().named.len(), IDS_MAX);
        wanted.begin();
        wanted.end(true, LONG);
        assert!(!wanted.record("0"));
        assert!(wanted.record(&(5 * IDS_MAX).to_string()));
    }
}

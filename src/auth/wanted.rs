//! Key ids that tokens named and no key has: whether a fetch may still bring the key.
//!
//! An issuer signs with a new key as soon as its set holds it, so the first tokens of a key arrive
//! before the server has fetched the set again. Such a token fails for now only. It fails for good
//! once a fetch that began after the id was first seen has not brought the key, and until another
//! fetch is possible.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ids that are remembered from one fetch to the next. Anybody can name ids: one past the bound is
/// not remembered, and its tokens fail for now only.
const IDS_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    state: Mutex<State>,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// Named since the last fetch began.
    named: HashSet<u64>,
    /// Named before the fetch on its way began.
    fetching: HashSet<u64>,
    /// Not brought by the last fetch, though named before it.
    missing: HashSet<u64>,
    /// When the next fetch is possible: then `missing` proves nothing any more.
    missing_until: Option<Instant>,
}

impl Wanted {
    /// Notes that a token named this id; returns whether a fetch may still bring its key.
    pub(super) fn note(&self, id: &str) -> bool {
        let id = self.hashes.hash_one(id);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.named.len() < IDS_MAX {
            state.named.insert(id);
        }
        let holds = state.missing_until.is_some_and(|until| Instant::now() < until);
        !(holds && state.missing.contains(&id))
    }

    /// A fetch begins.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fetching = std::mem::take(&mut state.named);
    }

    /// The fetch has ended. After one that succeeded, the next is possible after `gap`; one that
    /// failed says nothing about any key.
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
        assert!(wanted.note("a"), "no fetch was made yet");
        wanted.begin();
        assert!(wanted.note("b"), "the fetch on its way may be too early for it");
        wanted.end(true, LONG);
        assert!(!wanted.note("a"));
        assert!(wanted.note("b"));
        assert!(wanted.note("c"));
        wanted.begin();
        wanted.end(false, LONG);
        assert!(wanted.note("b"), "a failure proves nothing");
        wanted.begin();
        wanted.end(true, Duration::ZERO);
        assert!(wanted.note("b"), "the next fetch is possible at once");
    }

    #[test]
    fn ids_are_bounded() {
        let wanted = Wanted::default();
        for n in 0..10 * IDS_MAX {
            assert!(wanted.note(&n.to_string()));
        }
        assert_eq!(wanted.state.lock().unwrap().named.len(), IDS_MAX);
        wanted.begin();
        wanted.end(true, LONG);
        assert!(!wanted.note("0"));
        assert!(wanted.note(&(5 * IDS_MAX).to_string()));
    }
}

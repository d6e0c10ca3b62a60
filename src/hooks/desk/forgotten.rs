//! Which users' answers were to be forgotten, and when: an answer to a question that was sent
//! before is not cached, and no other question joins it.
//!
//! Time is a count of forgetting.

use std::collections::HashMap;
use std::sync::Arc;

/// Beyond this number of users, everything asked before is treated as forgotten.
const USERS_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    count: u64,
    /// When all users were forgotten.
    all_at: u64,
    users: HashMap<Arc<str>, u64>,
}

impl Forgotten {
    /// Returns the present time.
    pub(super) fn now(&self) -> u64 {
        self.count
    }

    pub(super) fn add_user(&mut self, user: &str) {
        self.count += 1;
        if self.users.len() >= USERS_MAX && !self.users.contains_key(user) {
            self.add_all();
        } else {
            self.users.insert(user.into(), self.count);
        }
    }

    pub(super) fn add_all(&mut self) {
        self.count += 1;
        self.all_at = self.count;
        self.users.clear();
    }

    /// Releases the memory, when no question is under way.
    pub(super) fn clear(&mut self) {
        self.users = HashMap::new();
    }

    /// Returns whether a user's answers have been forgotten since a time.
    pub(super) fn has_since(&self, seen: u64, user: Option<&str>) -> bool {
        let at = user.and_then(|user| self.users.get(user)).copied().unwrap_or_default();
        self.all_at.max(at) > seen
    }
}

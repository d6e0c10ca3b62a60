//! Answers that may be used again.
//!
//! Entries are found by the hash of what was asked, by the time at which they expire, and by their
//! user. Their number and their memory are bounded: beyond that, the entry that would expire first
//! is dropped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use slab::Slab;

use super::answer::{
    CallAnswer, ConnectAnswer, HookAnswer, HookError, PublishAnswer, SubscribeAnswer,
};
use crate::auth::{Identity, Right};
use crate::hub::DueQueue;

const ENTRIES_MAX: usize = 100_000;
const BYTES_MAX: usize = 64 << 20;
/// Memory of an entry beside its answer and its user: in the slab, the three indexes (bytes).
const ENTRY_BYTES: usize = 512;
/// Memory that an allocation takes beside its bytes, with the counts of a shared one (bytes).
const ALLOCATION: usize = 32;
/// Expired entries that one call removes, so that it does not take long.
const SWEEP_MAX: usize = 1000;

/// Identifies what was asked: equal for questions that may share an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AnswerKey([u8; 32]);

impl AnswerKey {
    /// Hashes the parts of a question.
    pub(super) fn new(parts: &[&str]) -> Self {
        let mut text = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
        for part in parts {
            // With their lengths, so that no two lists of parts are equal by their bytes.
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &text).as_ref());
        Self(key)
    }
}

#[derive(Debug)]
struct CachedAnswer {
    key: AnswerKey,
    answer: HookAnswer,
    user: Option<Arc<str>>,
    expires_ms: u64,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AnswerCache {
    entries: Slab<CachedAnswer>,
    by_key: HashMap<AnswerKey, u32>,
    by_user: HashMap<Arc<str>, HashSet<u32>>,
    due: DueQueue,
    bytes: usize,
}

impl AnswerCache {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the memory of all entries (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns an answer that has not expired.
    pub(super) fn get(&self, now_ms: u64, key: &AnswerKey) -> Option<&HookAnswer> {
        let entry = &self.entries[*self.by_key.get(key)? as usize];
        (now_ms < entry.expires_ms).then_some(&entry.answer)
    }

    /// Keeps an answer until a time, in place of an earlier one. [`Self::forget_user`] finds it by
    /// this user.
    pub(super) fn insert(
        &mut self,
        key: AnswerKey,
        answer: HookAnswer,
        user: Option<Arc<str>>,
        expires_ms: u64,
    ) {
        if let Some(&at) = self.by_key.get(&key) {
            self.remove(at);
        }
        let user_bytes = user.as_ref().map_or(0, |user| user.len());
        let bytes = ENTRY_BYTES + user_bytes + answer_bytes(&answer);
        if bytes > BYTES_MAX {
            return;
        }
        while self.entries.len() >= ENTRIES_MAX || self.bytes + bytes > BYTES_MAX {
            let Some(first) = self.due.first() else { break };
            self.remove(first);
        }
        let entry = CachedAnswer { key, answer, user: user.clone(), expires_ms, bytes };
        let at = self.entries.insert(entry) as u32;
        self.by_key.insert(key, at);
        if let Some(user) = user {
            self.by_user.entry(user).or_default().insert(at);
        }
        self.due.set(at, expires_ms);
        self.bytes += bytes;
    }

    fn remove(&mut self, at: u32) {
        let Some(entry) = self.entries.try_remove(at as usize) else { return };
        self.by_key.remove(&entry.key);
        self.due.remove(at);
        self.bytes -= entry.bytes;
        if let Some(user) = entry.user
            && let Some(of_user) = self.by_user.get_mut(&user)
        {
            of_user.remove(&at);
            if of_user.is_empty() {
                self.by_user.remove(&user);
            }
        }
    }

    /// Removes entries that have expired: a bounded number of them.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_MAX {
            let Some(at) = self.due.pop_due(now_ms) else { break };
            self.remove(at);
        }
    }

    /// Returns when to call [`Self::expire`] (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.next_ms()
    }

    /// Removes all entries of a user.
    pub(super) fn forget_user(&mut self, user: &str) {
        for at in self.by_user.remove(user).unwrap_or_default() {
            self.remove(at);
        }
    }

    /// Removes all entries, and releases their memory.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }
}

/// Returns the memory of an answer beside its own value (bytes).
fn answer_bytes(answer: &HookAnswer) -> usize {
    let of_error = |error: &HookError| 2 * ALLOCATION + error.code.len() + error.message.len();
    match answer {
        HookAnswer::Connect(ConnectAnswer::Accept { identity, subscribe }) => {
            let texts = [&identity.user, &identity.info].into_iter().flatten();
            let rights = identity
                .rights
                .iter()
                .map(|right| size_of::<Right>() + ALLOCATION + right.pattern.as_str().len());
            let channels = subscribe.iter().map(|name| 2 * ALLOCATION + name.as_str().len());
            size_of::<Identity>()
                + texts.map(|text| ALLOCATION + text.len()).sum::<usize>()
                + rights.sum::<usize>()
                + channels.sum::<usize>()
        }
        HookAnswer::Connect(ConnectAnswer::Refuse { message, .. }) => ALLOCATION + message.len(),
        HookAnswer::Subscribe(SubscribeAnswer::Grant(_))
        | HookAnswer::Publish(PublishAnswer::Accept) => 0,
        HookAnswer::Subscribe(SubscribeAnswer::Error(error))
        | HookAnswer::Publish(PublishAnswer::Error(error))
        | HookAnswer::Call(CallAnswer::Error(error)) => of_error(error),
        HookAnswer::Publish(PublishAnswer::Replace(content))
        | HookAnswer::Call(CallAnswer::Content(content)) => ALLOCATION + content.len(),
    }
}

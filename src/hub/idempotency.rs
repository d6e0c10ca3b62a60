//! Idempotency keys: a publish that is repeated under the same key gets the reply of the first one.
//!
//! The memory log of the channel's home stores keys for some minutes and up to a limit. Beyond it,
//! the owner with the most keys in the table loses its oldest one: an owner that floods the table
//! evicts only its own keys. Keys of different owners are independent: a key is hashed together
//! with channel and owner, with a secret of the process.
//!
//! Each operation takes constant time, whatever the number of keys and owners.

mod shares;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use slab::Slab;

use super::key_scope::KeyScope;
use super::log::KeyUsage;
use super::position::Position;
use shares::Shares;

/// Keys examined for expiry, and evicted, in each lookup.
const EXPIRED_AT_ONCE: usize = 4;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct KeyEntry {
    name: u128,
    content: u64,
    expires_ms: u64,
    /// The position of the first publish.
    position: Position,
    /// Neighbours in the order of insertion, which is also the order of expiry.
    older: u32,
    newer: u32,
    /// The index of its owner in [`Shares`].
    owner: u32,
    /// The owner's next newer key.
    next_of_owner: u32,
}

/// The result of looking up a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The key is new.
    First,
    /// The key was used for the same content; the first publish has this position.
    Repeated(Position),
    /// The key was used for other content.
    Conflict,
}

/// The keys of one log.
#[derive(Debug)]
pub(super) struct Keys {
    names: HashMap<u128, u32>,
    kept: Slab<KeyEntry>,
    oldest: u32,
    newest: u32,
    shares: Shares,
    keys_max: usize,
    ttl_ms: u64,
    secrets: [RandomState; 2],
    evicted: u64,
}

impl Keys {
    pub(super) fn new(keys_max: usize, ttl_ms: u64) -> Self {
        Self {
            names: HashMap::new(),
            kept: Slab::new(),
            oldest: NONE,
            newest: NONE,
            shares: Shares::default(),
            keys_max,
            ttl_ms,
            secrets: [RandomState::new(), RandomState::new()],
            evicted: 0,
        }
    }

    /// Sets the limits. Keys that are stored already keep their expiry.
    pub(super) fn set_bounds(&mut self, keys_max: usize, ttl_ms: u64) {
        (self.keys_max, self.ttl_ms) = (keys_max, ttl_ms);
    }

    fn name(&self, channel: &str, scope: &KeyScope) -> u128 {
        let [high, low] = [0, 1].map(|at| self.secrets[at].hash_one((channel, scope)));
        u128::from(high) << 64 | u128::from(low)
    }

    /// Looks up the key of a publish. A new key is stored with the position `next`, which the
    /// publish must then get.
    pub(super) fn look_up(
        &mut self,
        channel: &str,
        scope: &KeyScope,
        content: &str,
        now_ms: u64,
        next: Position,
    ) -> Seen {
        self.expire_keys(now_ms, EXPIRED_AT_ONCE);
        let name = self.name(channel, scope);
        // Hashes of the content suffice to detect a conflict, and bound the memory.
        let content = self.secrets[0].hash_one(content);
        let Some(index) = self.names.get(&name) else {
            let owner = self.shares.grow(self.secrets[1].hash_one(&scope.owner));
            let expires_ms = now_ms.saturating_add(self.ttl_ms);
            self.insert(name, content, expires_ms, next, owner);
            // Several at once, so that the table shrinks after the limit was lowered.
            self.evict(owner, EXPIRED_AT_ONCE);
            return Seen::First;
        };
        let kept = &self.kept[*index as usize];
        if kept.content == content { Seen::Repeated(kept.position) } else { Seen::Conflict }
    }

    /// Stores a key as the newest one of the table and of its owner.
    fn insert(
        &mut self,
        name: u128,
        content: u64,
        expires_ms: u64,
        position: Position,
        owner: u32,
    ) {
        let (older, newer) = (self.newest, NONE);
        let kept = KeyEntry {
            name,
            content,
            expires_ms,
            position,
            older,
            newer,
            owner,
            next_of_owner: NONE,
        };
        let index = self.kept.insert(kept) as u32;
        self.names.insert(name, index);
        match older {
            NONE => self.oldest = index,
            older => self.kept[older as usize].newer = index,
        }
        self.newest = index;
        let keys = self.shares.keys(owner);
        match std::mem::replace(&mut keys.newest, index) {
            NONE => keys.oldest = index,
            before => self.kept[before as usize].next_of_owner = index,
        }
    }

    /// Removes a key, which must be the oldest one of its owner.
    fn remove(&mut self, index: u32) {
        let KeyEntry { name, older, newer, owner, next_of_owner, .. } =
            self.kept.remove(index as usize);
        self.names.remove(&name);
        match older {
            NONE => self.oldest = newer,
            older => self.kept[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.kept[newer as usize].older = older,
        }
        let keys = self.shares.keys(owner);
        debug_assert_eq!(keys.oldest, index, "owners lose their oldest first");
        keys.oldest = next_of_owner;
        if next_of_owner == NONE {
            keys.newest = NONE;
        }
        self.shares.remove_key(owner);
    }

    /// Evicts keys while the limit is exceeded, `keys_max` at most, from the owner with the most.
    fn evict(&mut self, owner: u32, keys_max: usize) {
        for _ in 0..keys_max {
            if self.kept.len() <= self.keys_max.max(1) {
                return;
            }
            let Some(largest) = self.shares.largest(owner) else { return };
            let oldest = self.shares.keys(largest).oldest;
            self.remove(oldest);
            self.evicted += 1;
        }
    }

    /// Removes expired keys and those beyond the limit, `keys_max` of each at most.
    pub(super) fn expire_keys(&mut self, now_ms: u64, keys_max: usize) {
        self.evict(NONE, keys_max);
        for _ in 0..keys_max {
            let Some(oldest) = self.kept.get(self.oldest as usize) else { break };
            if oldest.expires_ms > now_ms {
                break;
            }
            self.remove(self.oldest);
        }
        // An empty table releases the memory that a burst of keys needed.
        if self.kept.is_empty() && self.kept.capacity() > 0 {
            (self.names, self.kept) = (HashMap::new(), Slab::new());
            self.shares = Shares::default();
        }
    }

    /// Returns when the next key expires (Unix time, ms).
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        Some(self.kept.get(self.oldest as usize)?.expires_ms)
    }

    /// Returns the memory of the table (bytes).
    fn bytes(&self) -> usize {
        self.names.capacity() * (size_of::<(u128, u32)>() + 1)
            + self.kept.capacity() * size_of::<KeyEntry>()
            + self.shares.bytes()
    }

    /// Returns the number of keys, their memory, and the number evicted before they expired.
    pub(super) fn usage(&self) -> KeyUsage {
        KeyUsage {
            count: self.kept.len() as u64,
            bytes: self.bytes() as u64,
            evicted: self.evicted,
        }
    }
}

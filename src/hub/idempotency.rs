//! Publishes that are repeated under the same key, and answered as the first was.
//!
//! Keys live where their channel's home is, for some minutes and up to a bound. Past it, the owner
//! with the most keys there loses its oldest one: an owner that floods the table evicts its own
//! keys and no others. A key means what its owner means by it: it is hashed together with
//! channel and owner, under a secret of the process.
//!
//! Each operation takes the same time, whatever the number of keys and owners.

mod shares;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use slab::Slab;

use super::answer::Origin;
use super::key_scope::KeyScope;
use super::publication::Position;
use shares::Shares;

/// Keys looked at for their age, and evicted, when one is looked up.
const EXPIRED_AT_ONCE: usize = 4;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum State {
    /// The first publish is under way; these wait for its position.
    Pending(Vec<Origin>),
    Done(Position),
}

#[derive(Debug)]
struct Kept {
    name: u128,
    content: u64,
    expires_ms: u64,
    state: State,
    /// Neighbours in the order of their coming, and so of their expiry.
    older: u32,
    newer: u32,
    /// In [`Shares`].
    owner: u32,
    /// The owner's neighbours in that order.
    before_of_owner: u32,
    next_of_owner: u32,
}

/// What a key says about a publish.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is the first: append it, and tell [`Keys::done`] of its name.
    First(u128, Origin),
    /// The first was this one.
    Repeated(Position, Origin),
    /// The first is under way: the origin waits with it.
    Waits,
    /// The key stood for something else.
    Conflict(Origin),
}

/// The keys of one home.
#[derive(Debug)]
pub(super) struct Keys {
    names: HashMap<u128, u32>,
    kept: Slab<Kept>,
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

    /// Keys that are kept already stay as long as they were to.
    pub(super) fn set_bounds(&mut self, keys_max: usize, ttl_ms: u64) {
        (self.keys_max, self.ttl_ms) = (keys_max, ttl_ms);
    }

    fn name(&self, channel: &str, scope: &KeyScope) -> u128 {
        let [high, low] = [0, 1].map(|at| self.secrets[at].hash_one((channel, scope)));
        u128::from(high) << 64 | u128::from(low)
    }

    /// Looks a publish up.
    pub(super) fn look(
        &mut self,
        channel: &str,
        scope: &KeyScope,
        content: &str,
        now_ms: u64,
        from: Origin,
    ) -> Seen {
        self.expire(now_ms, EXPIRED_AT_ONCE);
        let name = self.name(channel, scope);
        let content = self.secrets[0].hash_one(content);
        let Some(index) = self.names.get(&name) else {
            let owner = self.shares.grow(self.secrets[1].hash_one(&scope.owner));
            self.insert(name, content, now_ms.saturating_add(self.ttl_ms), owner);
            // More than one, so that a lowered bound is reached.
            self.evict(owner, EXPIRED_AT_ONCE);
            return Seen::First(name, from);
        };
        let kept = &mut self.kept[*index as usize];
        if kept.content != content {
            return Seen::Conflict(from);
        }
        match &mut kept.state {
            State::Done(position) => Seen::Repeated(*position, from),
            State::Pending(waiting) => {
                waiting.push(from);
                Seen::Waits
            }
        }
    }

    /// Keeps a key as the newest of all, and of its owner.
    fn insert(&mut self, name: u128, content: u64, expires_ms: u64, owner: u32) {
        let state = State::Pending(Vec::new());
        let (older, newer) = (self.newest, NONE);
        let before_of_owner = self.shares.keys(owner).newest;
        let index = self.kept.insert(Kept {
            name,
            content,
            expires_ms,
            state,
            older,
            newer,
            owner,
            before_of_owner,
            next_of_owner: NONE,
        }) as u32;
        self.names.insert(name, index);
        match older {
            NONE => self.oldest = index,
            older => self.kept[older as usize].newer = index,
        }
        self.newest = index;
        let keys = self.shares.keys(owner);
        keys.newest = index;
        match before_of_owner {
            NONE => keys.oldest = index,
            before => self.kept[before as usize].next_of_owner = index,
        }
    }

    /// Forgets a key; returns what it was.
    fn remove(&mut self, index: u32) -> State {
        let Kept { name, state, older, newer, owner, before_of_owner, next_of_owner, .. } =
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
        match before_of_owner {
            NONE => self.shares.keys(owner).oldest = next_of_owner,
            before => self.kept[before as usize].next_of_owner = next_of_owner,
        }
        match next_of_owner {
            NONE => self.shares.keys(owner).newest = before_of_owner,
            next => self.kept[next as usize].before_of_owner = before_of_owner,
        }
        self.shares.shrink(owner);
        state
    }

    /// Forgets keys beyond the bound, of the owner with the most: so many at most.
    fn evict(&mut self, owner: u32, keys_max: usize) {
        for _ in 0..keys_max {
            if self.kept.len() <= self.keys_max.max(1) {
                return;
            }
            let Some(largest) = self.shares.largest(owner) else { return };
            let oldest = self.shares.keys(largest).oldest;
            // Somebody may wait for a pending one: it is kept, and bounded by what is under way.
            if matches!(self.kept[oldest as usize].state, State::Pending(_)) {
                return;
            }
            self.remove(oldest);
            self.evicted += 1;
        }
    }

    /// The first publish under a name has its place; returns who waits for it.
    pub(super) fn done(&mut self, name: u128, position: Position) -> Vec<Origin> {
        let Some(index) = self.names.get(&name) else { return Vec::new() };
        let kept = &mut self.kept[*index as usize];
        let waiting = match std::mem::replace(&mut kept.state, State::Done(position)) {
            State::Pending(waiting) => waiting,
            State::Done(_) => Vec::new(),
        };
        // Of those that could not be forgotten while they were under way.
        self.evict(NONE, EXPIRED_AT_ONCE);
        waiting
    }

    /// The first publish under a name has failed: the next one is the first. Returns who waits for
    /// it.
    pub(super) fn failed(&mut self, name: u128) -> Vec<Origin> {
        let Some(index) = self.names.get(&name) else { return Vec::new() };
        match self.remove(*index) {
            State::Pending(waiting) => waiting,
            State::Done(_) => Vec::new(),
        }
    }

    /// Forgets what is past its time or beyond the bound: so many of each at most.
    pub(super) fn expire(&mut self, now_ms: u64, keys_max: usize) {
        self.evict(NONE, keys_max);
        for _ in 0..keys_max {
            let Some(oldest) = self.kept.get(self.oldest as usize) else { break };
            if oldest.expires_ms > now_ms || matches!(oldest.state, State::Pending(_)) {
                break;
            }
            self.remove(self.oldest);
        }
        if self.kept.is_empty() && self.kept.capacity() > 0 {
            (self.names, self.kept) = (HashMap::new(), Slab::new());
            self.shares = Shares::default();
        }
    }

    /// When the next key is past its time. `None` while the oldest is under way.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        let oldest = self.kept.get(self.oldest as usize)?;
        matches!(oldest.state, State::Done(_)).then_some(oldest.expires_ms)
    }

    /// Memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.names.capacity() * (size_of::<(u128, u32)>() + 1)
            + self.kept.capacity() * size_of::<Kept>()
            + self.shares.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many keys were forgotten before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

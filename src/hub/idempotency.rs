//! Publishes that are repeated under the same key, and answered as the first was.
//!
//! Keys live where their channel's home is, for some minutes and up to a bound, past which the
//! oldest go first. A key means what its owner means by it: it is hashed together with channel and
//! owner, under a secret of the process.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::answer::Origin;
use super::publication::Position;

/// A key with the scope that it counts in: a user, an API key, or an identity that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyScope {
    /// The kind of owner is part of it, so that no user has the name of an API key.
    pub owner: Box<str>,
    pub key: Box<str>,
}

/// Keys looked at for their age when one is looked up.
const EXPIRED_AT_ONCE: usize = 4;

#[derive(Debug)]
enum State {
    /// The first publish is under way; these wait for its position.
    Pending(Vec<Origin>),
    Done(Position),
}

#[derive(Debug)]
struct Kept {
    content: u64,
    expires_ms: u64,
    state: State,
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
    kept: HashMap<u128, Kept>,
    /// In the order of their coming, and so of their expiry.
    order: VecDeque<u128>,
    keys_max: usize,
    ttl_ms: u64,
    secrets: [RandomState; 2],
}

impl Keys {
    pub(super) fn new(keys_max: usize, ttl_ms: u64) -> Self {
        Self {
            kept: HashMap::new(),
            order: VecDeque::new(),
            keys_max,
            ttl_ms,
            secrets: [RandomState::new(), RandomState::new()],
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
        // More than one, so that a lowered bound is reached.
        self.expire(now_ms, EXPIRED_AT_ONCE);
        let name = self.name(channel, scope);
        let content = self.secrets[0].hash_one(content);
        match self.kept.get_mut(&name) {
            Some(kept) if kept.content != content => Seen::Conflict(from),
            Some(kept) => match &mut kept.state {
                State::Done(position) => Seen::Repeated(*position, from),
                State::Pending(waiting) => {
                    waiting.push(from);
                    Seen::Waits
                }
            },
            None => {
                let expires_ms = now_ms + self.ttl_ms;
                let state = State::Pending(Vec::new());
                self.kept.insert(name, Kept { content, expires_ms, state });
                self.order.push_back(name);
                Seen::First(name, from)
            }
        }
    }

    /// The first publish under a name has its place; returns who waits for it.
    pub(super) fn done(&mut self, name: u128, position: Position) -> Vec<Origin> {
        let Some(kept) = self.kept.get_mut(&name) else { return Vec::new() };
        match std::mem::replace(&mut kept.state, State::Done(position)) {
            State::Pending(waiting) => waiting,
            State::Done(_) => Vec::new(),
        }
    }

    /// Forgets what is past its time or beyond the bound: so many at most.
    pub(super) fn expire(&mut self, now_ms: u64, keys_max: usize) {
        for _ in 0..keys_max {
            let Some(oldest) = self.order.front() else { break };
            let over = self.order.len() >= self.keys_max.max(1);
            let kept = self.kept.get(oldest);
            let aged = kept.is_none_or(|kept| kept.expires_ms <= now_ms);
            // Somebody may wait for a pending one: it is kept, and bounded by what is under way.
            if !(over || aged) || kept.is_some_and(|kept| matches!(kept.state, State::Pending(_))) {
                break;
            }
            self.kept.remove(oldest);
            self.order.pop_front();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            (self.kept, self.order) = (HashMap::new(), VecDeque::new());
        }
    }

    /// When the next key is past its time. `None` while the oldest is under way.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        let oldest = self.kept.get(self.order.front()?)?;
        matches!(oldest.state, State::Done(_)).then_some(oldest.expires_ms)
    }

    /// Memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.kept.capacity() * (size_of::<(u128, Kept)>() + 1)
            + self.order.capacity() * size_of::<u128>()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }
}

//! Expanded keys of the connections that have lately talked.
//!
//! An expanded key takes 600 bytes and 140 ns to make. An idle connection has none: each shard
//! keeps those of some connections in a table in which a connection has one place for each of its
//! directions. A connection takes a place over with the second record between two trims: with the
//! first one too, heartbeats filled the table, and 10,000 idle connections took 270 bytes more
//! each. Keys of a connection that ends are dropped with it, and those of one that falls idle soon
//! after.

use aws_lc_rs::aead::LessSafeKey;

use super::secrets::DirectionSecrets;
use super::suite::Cipher;

/// Connections whose keys fit at once. A power of two.
const CONNECTIONS: usize = 1024;

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receive = 0,
    Send = 1,
}

/// Names a connection for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionId(u64);

struct Entry {
    session: SessionId,
    generation: u32,
    /// Since the last trim.
    was_used: bool,
    key: LessSafeKey,
}

/// See the module.
#[derive(Default)]
pub struct KeyCache {
    /// Empty until it is used for the first time.
    entries: Vec<Option<Entry>>,
    /// What last asked for a place since the last trim.
    asked: Vec<Option<SessionId>>,
    /// The key of a record whose connection has no place.
    single: Option<LessSafeKey>,
    sessions: u64,
    misses: u64,
}

impl KeyCache {
    /// A name for another connection.
    pub(super) fn next_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    /// The expanded key of a direction.
    pub(super) fn key(
        &mut self,
        session: SessionId,
        direction: Direction,
        secrets: &DirectionSecrets,
        cipher: Cipher,
    ) -> &LessSafeKey {
        if self.entries.is_empty() {
            self.entries.resize_with(2 * CONNECTIONS, || None);
            self.asked.resize(2 * CONNECTIONS, None);
        }
        let index = Self::place(session, direction);
        let place = &mut self.entries[index];
        let generation = secrets.generation();
        let is_its = |entry: &Entry| entry.session == session && entry.generation == generation;
        if !place.as_ref().is_some_and(is_its) {
            self.misses += 1;
            let key = secrets.expand_key(cipher);
            if self.asked[index].replace(session) != Some(session) {
                return self.single.insert(key);
            }
            *place = Some(Entry { session, generation, was_used: true, key });
        }
        let entry = place.as_mut().expect("it holds the key by now");
        entry.was_used = true;
        &entry.key
    }

    /// Drops the keys that were not used since the last call; returns whether these were the last.
    pub fn trim(&mut self) -> bool {
        let (mut kept, mut dropped) = (0, 0);
        for place in &mut self.entries {
            match place {
                Some(entry) if entry.was_used => {
                    entry.was_used = false;
                    kept += 1;
                }
                Some(_) => {
                    *place = None;
                    dropped += 1;
                }
                None => {}
            }
        }
        self.asked.fill(None);
        self.single = None;
        kept == 0 && dropped > 0
    }

    fn place(session: SessionId, direction: Direction) -> usize {
        2 * (session.0 as usize % CONNECTIONS) + direction as usize
    }

    /// Drops the keys of a connection that has ended.
    pub(super) fn forget(&mut self, session: SessionId) {
        // It may be this one's.
        self.single = None;
        for direction in [Direction::Receive, Direction::Send] {
            if let Some(place) = self.entries.get_mut(Self::place(session, direction))
                && place.as_ref().is_some_and(|entry| entry.session == session)
            {
                *place = None;
            }
        }
    }

    /// Keys that had to be expanded, since the start.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}

impl std::fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyCache").field("misses", &self.misses).finish_non_exhaustive()
    }
}

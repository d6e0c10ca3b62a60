//! The hub's sessions on this shard: by key, and by the slot of their connection.
//!
//! Members, users' lists and connection ids refer to a session by its key; but the id of a client
//! behind a link has its slot, because most of these have no session here. Calls about a connection
//! use its slot, which the table translates.

use super::backlog::Backlog;
use crate::backend::queue::EventUser;
use crate::hub::{ConnectionId, EngineNotice, ProtocolId};
use crate::session::hub::HubSession;
use crate::shard::connections::LINKED;

/// No session.
const NO_KEY: u32 = u32::MAX;

/// A session of the hub with its backlog, its connection's slot, and its place in counts.
pub(super) struct SessionEntry {
    pub(super) session: HubSession,
    pub(super) backlog: Option<Box<Backlog>>,
    /// The slot of its connection.
    pub(super) slot: u32,
    /// The client's protocol.
    pub(super) protocol: ProtocolId,
    /// Its index among its user's sessions.
    pub(super) user_index: u32,
    /// Whether it is counted towards its user's limit in admission.
    pub(super) counted: bool,
    /// Whether it got its user after it was opened.
    pub(super) named_late: bool,
    /// The state of the cluster's engine that was last sent to it.
    pub(super) engine: EngineNotice,
    /// Round trip of the last ping (µs); 0: none was answered yet.
    pub(super) rtt_us: u32,
}

// A server may have very many idle sessions; the allocator's next size is 112 bytes.
const _: () = assert!(size_of::<SessionEntry>() <= 96);

impl SessionEntry {
    /// Returns whether it belongs to the client of an application behind a link.
    pub(super) fn is_linked(&self) -> bool {
        self.protocol == ProtocolId::CONTENT
    }

    /// Returns the user for events.
    pub(super) fn event_user(&self) -> Option<EventUser> {
        let name = self.session.user()?.clone();
        Some(EventUser { name, since_open: !self.named_late })
    }

    /// Returns whether further messages must be queued in its backlog, behind earlier ones.
    pub(super) fn is_behind(&self) -> bool {
        self.backlog.is_some() || self.session.is_resuming()
    }
}

/// The sessions of a shard. See the module.
///
/// Invariants, checked by [`Self::check_invariants`]: each session has one slot, whose key is the
/// session's; a key is either in use or free.
pub(super) struct SessionTable {
    /// By key.
    sessions: Vec<Option<Box<SessionEntry>>>,
    free_keys: Vec<u32>,
    /// The key by slot; [`NO_KEY`] where there is none.
    keys: Vec<u32>,
}

impl SessionTable {
    /// Makes an empty table. In debug builds keys differ from slots, so that tests fail if one is
    /// used for the other.
    pub(super) fn new() -> Self {
        let unlike_slots = if cfg!(debug_assertions) { 5 } else { 0 };
        let sessions = (0..unlike_slots).map(|_| None).collect();
        Self { sessions, free_keys: (0..unlike_slots).collect(), keys: Vec::new() }
    }

    /// Adds the session of a connection that has none. `make` receives the session's key.
    ///
    /// # Panics
    /// When the connection has a session.
    pub(super) fn insert(
        &mut self,
        slot: u32,
        protocol: ProtocolId,
        make: impl FnOnce(u32) -> HubSession,
    ) {
        assert!(self.key_at(slot).is_none(), "the session of an earlier connection has ended");
        let key = self.free_keys.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() as u32 - 1
        });
        if self.keys.len() <= slot as usize {
            self.keys.resize(slot as usize + 1, NO_KEY);
        }
        self.keys[slot as usize] = key;
        let session = make(key);
        let entry = SessionEntry {
            session,
            backlog: None,
            slot,
            protocol,
            user_index: 0,
            counted: false,
            named_late: false,
            engine: EngineNotice::Back,
            rtt_us: 0,
        };
        self.sessions[key as usize] = Some(Box::new(entry));
    }

    /// Removes the session of a connection.
    pub(super) fn remove_at(&mut self, slot: u32) -> Option<Box<SessionEntry>> {
        let key = self.key_at(slot)?;
        let entry = self.sessions[key as usize].take()?;
        self.keys[slot as usize] = NO_KEY;
        self.free_keys.push(key);
        Some(entry)
    }

    /// The key of a connection's session.
    pub(super) fn key_at(&self, slot: u32) -> Option<u32> {
        self.keys.get(slot as usize).copied().filter(|key| *key != NO_KEY)
    }

    /// The session of a connection.
    pub(super) fn at(&self, slot: u32) -> Option<&SessionEntry> {
        self.get(self.key_at(slot)?)
    }

    /// The session of a connection.
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut SessionEntry> {
        self.get_mut(self.key_at(slot)?)
    }

    /// A session by its key.
    pub(super) fn get(&self, key: u32) -> Option<&SessionEntry> {
        self.sessions.get(key as usize)?.as_deref()
    }

    /// A session by its key.
    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut SessionEntry> {
        self.sessions.get_mut(key as usize)?.as_deref_mut()
    }

    /// The session with this id, if it lives.
    pub(super) fn find(&self, id: ConnectionId) -> Option<&SessionEntry> {
        self.get(self.key_of(id)?)
    }

    /// The key of the session with this id, if it lives.
    pub(super) fn key_of(&self, id: ConnectionId) -> Option<u32> {
        let key = match id.session & LINKED {
            0 => id.session,
            _ => self.key_at(id.session & !LINKED)?,
        };
        self.get(key).filter(|entry| entry.session.id == id).map(|_| key)
    }

    /// The slot of the connection that carries a session.
    pub(super) fn slot_of(&self, key: u32) -> Option<u32> {
        self.get(key).map(|entry| entry.slot)
    }

    /// All keys are below this.
    pub(super) fn keys_end(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions.
    pub(super) fn len(&self) -> usize {
        self.sessions.len() - self.free_keys.len()
    }

    /// Sessions with their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &SessionEntry)> {
        let keyed = self.sessions.iter().enumerate();
        keyed.filter_map(|(key, entry)| Some((key as u32, entry.as_deref()?)))
    }

    /// Memory of the table and its sessions, without what these refer to (bytes).
    pub(super) fn bytes(&self) -> usize {
        let keys = (self.free_keys.capacity() + self.keys.capacity()) * size_of::<u32>();
        let places = self.sessions.capacity() * size_of::<Option<Box<SessionEntry>>>();
        keys + places + self.len() * size_of::<SessionEntry>()
    }

    /// Checks the table's invariants.
    ///
    /// # Panics
    /// When an invariant is violated, which is a bug.
    pub(super) fn check_invariants(&self) {
        let mut count = 0;
        for (key, entry) in self.iter() {
            assert_eq!(self.key_at(entry.slot), Some(key), "a session's slot names it");
            assert_eq!(self.key_of(entry.session.id), Some(key), "an id names the session");
            count += 1;
        }
        assert_eq!(self.len(), count, "a key is either in use or free");
        assert_eq!(self.keys.iter().filter(|key| **key != NO_KEY).count(), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::hub::fuzz::open_realm;

    fn session(key: u32) -> HubSession {
        let id = ConnectionId { node: 1, shard: 0, session: key, serial: 7 };
        HubSession::new(id, None, &open_realm(), 0)
    }

    #[test]
    fn sessions_are_found_by_key_and_by_slot() {
        let mut table = SessionTable::new();
        for slot in [3, 0, 9] {
            table.insert(slot, ProtocolId::STORED, session);
        }
        table.check_invariants();
        assert_eq!(table.len(), 3);
        for slot in [3, 0, 9] {
            let key = table.key_at(slot).unwrap();
            assert_eq!((table.at(slot).unwrap().slot, table.slot_of(key)), (slot, Some(slot)));
            let id = table.get(key).unwrap().session.id;
            assert_eq!(table.find(id).map(|one| one.slot), Some(slot));
            assert!(table.find(ConnectionId { serial: 8, ..id }).is_none(), "of an earlier one");
        }
        let key = table.key_at(0);
        assert!(table.remove_at(0).is_some() && table.remove_at(0).is_none());
        assert!(table.at(0).is_none() && table.at(1000).is_none());
        table.insert(4, ProtocolId::STORED, session);
        assert_eq!(table.key_at(4), key, "a key is used again");
        table.check_invariants();
        assert_eq!(table.iter().count(), 3);
    }
}

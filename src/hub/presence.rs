//! Members of a channel, by user: several connections of one user are one member, shown as the
//! latest of them that lives.
//!
//! A member costs a reference here: what is shown of it is kept once for all channels of its
//! connection.
//!
//! A client without a user is a member of its own. If it resumes while its old connection lives,
//! both are one member, known by the connection that joined; a second connection that resumes with
//! the same ticket is another member.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::connection_id::ConnectionId;

/// Members of a channel that are kept in a plain list; more are kept in a tree.
const FEW: usize = 16;

/// Memory of an entry for a connection that is not shown, or is listed as another (bytes).
const OTHER_BYTES: usize = size_of::<((MemberKey, ConnectionId), Arc<MemberInfo>)>();
const JOINED_AS_BYTES: usize = 2 * size_of::<ConnectionId>();

/// Memory of a member that is listed (bytes).
fn listed_bytes(member: &MemberInfo) -> usize {
    let info = member.info.as_ref().map_or(0, |info| info.len());
    size_of::<Arc<MemberInfo>>() + size_of::<MemberInfo>() + info
}

/// What a member takes as JSON besides its user and its info, at most (bytes).
const MEMBER_BYTES: usize = 100;

/// What a byte of a text takes in a JSON string (RFC 8259, section 7), at most.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// What identifies a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKey {
    User(Arc<str>),
    /// Of a client without a user: the connection that joined.
    Connection(ConnectionId),
}

impl MemberKey {
    /// Parses a cursor, as [`Self::cursor`] writes it, or a user's plain name.
    fn parse(cursor: &str) -> Self {
        if let Some(id) = cursor.strip_prefix("connection:").and_then(ConnectionId::parse) {
            return Self::Connection(id);
        }
        Self::User(cursor.strip_prefix("user:").unwrap_or(cursor).into())
    }

    fn cursor(&self) -> String {
        match self {
            Self::User(user) => format!("user:{user}"),
            Self::Connection(id) => format!("connection:{id}"),
        }
    }
}

/// How a connection is listed.
#[derive(Debug, PartialEq, Eq)]
pub struct MemberInfo {
    pub key: MemberKey,
    pub connection: ConnectionId,
    /// JSON on one line.
    pub info: Option<Arc<str>>,
}

impl MemberInfo {
    /// At least what it takes as JSON (bytes): pages and queues are bounded by it.
    pub fn encoded_bytes_max(&self) -> usize {
        let user = match &self.key {
            MemberKey::User(user) => user.bytes().map(escaped_bytes).sum(),
            MemberKey::Connection(_) => 0,
        };
        user + self.info.as_ref().map_or(0, |info| info.len()) + MEMBER_BYTES
    }
}

/// Some of a channel's members, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// All there are, not just these.
    pub count: u64,
    pub members: Vec<Arc<MemberInfo>>,
    /// The cursor of the next page, if there are more.
    pub next: Option<String>,
}

/// A member in the order of its key.
#[derive(Clone, Debug)]
struct Listed(Arc<MemberInfo>);

impl Borrow<MemberKey> for Listed {
    fn borrow(&self) -> &MemberKey {
        &self.0.key
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// The members of one channel, and all connections of each.
#[derive(Debug, Default)]
pub(super) struct Presence {
    listed: List,
    /// Of members with several connections: those that are not shown.
    others: BTreeMap<(MemberKey, ConnectionId), Arc<MemberInfo>>,
    /// Of connections without a user that continue others: under which connection they are listed.
    joined_as: BTreeMap<ConnectionId, ConnectionId>,
    bytes: usize,
}

/// In order.
#[derive(Debug)]
enum List {
    /// A tree takes memory for eleven at once, and most channels have fewer.
    Few(Vec<Listed>),
    Many(BTreeSet<Listed>),
}

impl Default for List {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl List {
    fn get(&self, key: &MemberKey) -> Option<&Arc<MemberInfo>> {
        match self {
            Self::Few(few) => {
                let at = few.binary_search_by(|one| one.0.key.cmp(key)).ok()?;
                Some(&few[at].0)
            }
            Self::Many(many) => many.get(key).map(|listed| &listed.0),
        }
    }

    fn insert(&mut self, listed: Listed) {
        match self {
            Self::Few(few) if few.len() < FEW => {
                let at = few.partition_point(|one| *one < listed);
                few.reserve_exact(1);
                few.insert(at, listed);
            }
            Self::Few(few) => {
                let mut many: BTreeSet<_> = few.drain(..).collect();
                many.insert(listed);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(listed);
            }
        }
    }

    fn remove(&mut self, key: &MemberKey) -> Option<Listed> {
        match self {
            Self::Few(few) => {
                let at = few.binary_search_by(|one| one.0.key.cmp(key)).ok()?;
                Some(few.remove(at))
            }
            Self::Many(many) => many.take(key),
        }
    }
}

impl Presence {
    /// Adds a connection, which may continue another; returns its member if that is new.
    pub(super) fn add_member(
        &mut self,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    ) -> Option<Arc<MemberInfo>> {
        let connection = member.connection;
        let listed = match (&member.key, replaces.and_then(|old| self.listed_as(old))) {
            (MemberKey::Connection(_), Some(first)) => {
                self.joined_as.insert(connection, first);
                self.bytes += JOINED_AS_BYTES;
                let (key, info) = (MemberKey::Connection(first), member.info.clone());
                Arc::new(MemberInfo { key, connection, info })
            }
            _ => member.clone(),
        };
        self.bytes += listed_bytes(&listed);
        let shown = self.listed.remove(&listed.key);
        self.listed.insert(Listed(listed.clone()));
        let Some(Listed(before)) = shown else { return Some(listed) };
        self.bytes += OTHER_BYTES;
        self.others.insert((before.key.clone(), before.connection), before);
        None
    }

    /// Under which connection one without a user is listed, if it is shown there: one that was
    /// continued already is not.
    fn listed_as(&self, connection: ConnectionId) -> Option<ConnectionId> {
        let first = self.joined_as.get(&connection).copied().unwrap_or(connection);
        let shown = self.listed.get(&MemberKey::Connection(first))?;
        (shown.connection == connection).then_some(first)
    }

    /// Removes a connection; returns its member if that was the last of it.
    pub(super) fn remove_member(&mut self, member: &MemberInfo) -> Option<Arc<MemberInfo>> {
        let connection = member.connection;
        let key = match &member.key {
            MemberKey::Connection(_) => {
                let first = self.joined_as.remove(&connection);
                self.bytes -= first.map_or(0, |_| JOINED_AS_BYTES);
                MemberKey::Connection(first.unwrap_or(connection))
            }
            MemberKey::User(_) => member.key.clone(),
        };
        if self.listed.get(&key)?.connection != connection {
            let other = self.others.remove(&(key, connection))?;
            self.bytes -= OTHER_BYTES + listed_bytes(&other);
            return None;
        }
        let Listed(shown) = self.listed.remove(&key)?;
        self.bytes -= listed_bytes(&shown);
        let own = (key.clone(), ConnectionId::FIRST)..=(key, ConnectionId::LAST);
        let Some(next) = self.others.range(own).next_back().map(|(key, _)| key.clone()) else {
            return Some(shown);
        };
        let next = self.others.remove(&next)?;
        self.bytes -= OTHER_BYTES;
        self.listed.insert(Listed(next));
        None
    }

    /// Memory of what is listed (bytes), shared with connections that are on this process.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn count(&self) -> u64 {
        match &self.listed {
            List::Few(few) => few.len() as u64,
            List::Many(many) => many.len() as u64,
        }
    }

    /// So many members behind a place, and so many bytes of them, but one at least.
    pub(super) fn read_page(
        &self,
        after: Option<&str>,
        limit: u32,
        bytes_max: u64,
    ) -> PresencePage {
        let after = after.map(MemberKey::parse);
        let bounds = (limit as usize, bytes_max);
        match &self.listed {
            List::Few(few) => {
                let passed = |after| few.partition_point(|one| one.0.key <= after);
                self.list_members(few[after.map_or(0, passed)..].iter(), bounds)
            }
            List::Many(many) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                self.list_members(many.range::<MemberKey, _>((from, Bound::Unbounded)), bounds)
            }
        }
    }

    fn list_members<'p>(
        &self,
        rest: impl Iterator<Item = &'p Listed>,
        (members_max, bytes_max): (usize, u64),
    ) -> PresencePage {
        let mut page = PresencePage { count: self.count(), members: Vec::new(), next: None };
        let mut bytes = 0;
        for Listed(one) in rest {
            bytes += one.encoded_bytes_max() as u64;
            let is_full = page.members.len() >= members_max || bytes > bytes_max;
            if let Some(last) = page.members.last().filter(|_| is_full) {
                page.next = Some(last.key.cursor());
                break;
            }
            page.members.push(one.clone());
        }
        page
    }
}

#[cfg(test)]
mod tests;

//! Members of a channel, by user: several connections of one user are one member, shown as the
//! latest open connection.
//!
//! A member costs only a reference here: its data is stored once for all channels of its
//! connection.
//!
//! A client without a user is its own member. If it resumes while its old connection is open, both
//! are one member, identified by the connection that joined; a second connection that resumes with
//! the same ticket is another member.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::connection_id::ConnectionId;

/// Up to this many members are stored in a sorted list; more are stored in a tree.
const FEW: usize = 16;

/// Memory of an entry for a connection that is not shown, or is listed as another (bytes).
const OTHER_BYTES: usize = size_of::<((MemberKey, ConnectionId), Arc<MemberInfo>)>();
const JOINED_AS_BYTES: usize = 2 * size_of::<ConnectionId>();

/// Memory of a member that is listed (bytes).
fn listed_bytes(member: &MemberInfo) -> usize {
    let info = member.info.as_ref().map_or(0, |info| info.len());
    size_of::<Arc<MemberInfo>>() + size_of::<MemberInfo>() + info
}

/// Maximum size of a member as JSON, without its user and its info (bytes).
const MEMBER_BYTES: usize = 100;

/// Returns the maximum size of a byte of text in a JSON string (RFC 8259, section 7).
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// The identity of a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKey {
    User(Arc<str>),
    /// For a client without a user: the connection that joined.
    Connection(ConnectionId),
}

impl MemberKey {
    /// Parses a cursor that [`Self::cursor`] wrote, or the plain name of a user.
    pub fn parse(cursor: &str) -> Self {
        if let Some(id) = cursor.strip_prefix("connection:").and_then(ConnectionId::parse) {
            return Self::Connection(id);
        }
        Self::User(cursor.strip_prefix("user:").unwrap_or(cursor).into())
    }

    /// Returns the key as text: the cursor of the members that follow it in lists.
    pub fn cursor(&self) -> String {
        match self {
            Self::User(user) => format!("user:{user}"),
            Self::Connection(id) => format!("connection:{id}"),
        }
    }
}

/// A connection, as it is listed.
#[derive(Debug, PartialEq, Eq)]
pub struct MemberInfo {
    pub key: MemberKey,
    pub connection: ConnectionId,
    /// JSON on one line.
    pub info: Option<Arc<str>>,
}

impl MemberInfo {
    /// Returns an upper bound of its size as JSON (bytes), by which pages and queues are limited.
    pub fn encoded_bytes_max(&self) -> usize {
        let user = match &self.key {
            MemberKey::User(user) => user.bytes().map(escaped_bytes).sum(),
            MemberKey::Connection(_) => 0,
        };
        user + self.info.as_ref().map_or(0, |info| info.len()) + MEMBER_BYTES
    }
}

/// A page of a channel's members, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// All members of the channel, not only those of this page.
    pub count: u64,
    pub members: Vec<Arc<MemberInfo>>,
    /// The cursor of the next page, if there are more.
    pub next: Option<String>,
}

impl PresencePage {
    /// Applies a join or leave that is later than the page. The members of the page must be in the
    /// order of their cursors. `after`: the cursor that the page follows.
    pub(super) fn apply_news(
        &mut self,
        after: Option<&str>,
        has_joined: bool,
        member: &Arc<MemberInfo>,
    ) {
        self.count = if has_joined { self.count + 1 } else { self.count.saturating_sub(1) };
        let cursor = member.key.cursor();
        if after.is_some_and(|after| cursor <= MemberKey::parse(after).cursor()) {
            return;
        }
        match self.members.binary_search_by(|one| one.key.cursor().cmp(&cursor)) {
            Ok(at) if has_joined => self.members[at] = member.clone(),
            Ok(at) => drop(self.members.remove(at)),
            // What follows the page's last member is on the next page.
            Err(at) if has_joined && (self.next.is_none() || at < self.members.len()) => {
                self.members.insert(at, member.clone());
            }
            Err(_) => {}
        }
    }

    /// Shows a member that is listed already under this key, if it is on the page, by another
    /// connection.
    pub(super) fn show_member(&mut self, key: &MemberKey, member: &MemberInfo) {
        if let Some(shown) = self.members.iter_mut().find(|one| one.key == *key) {
            let MemberInfo { connection, info, .. } = member;
            let (key, connection, info) = (key.clone(), *connection, info.clone());
            *shown = Arc::new(MemberInfo { key, connection, info });
        }
    }
}

/// The effect of the end of a connection on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// It was the member's last connection.
    Left(Arc<MemberInfo>),
    /// The member is shown by another connection from now on.
    ShownAs(Arc<MemberInfo>),
    /// The connection was not shown.
    Hidden,
}

/// A member, ordered and compared by its key.
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
    /// Connections that are not shown, of members with several connections.
    others: BTreeMap<(MemberKey, ConnectionId), Arc<MemberInfo>>,
    /// Connections without a user that resumed others, with the connection that they are listed as.
    joined_as: BTreeMap<ConnectionId, ConnectionId>,
    bytes: usize,
}

/// The members, ordered by key.
#[derive(Debug)]
enum List {
    /// A tree allocates room for eleven at once, and most channels have fewer members.
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
    /// Adds a connection, which may resume another. Returns the member as it is listed now, and
    /// whether it is new.
    pub(super) fn add_member(
        &mut self,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    ) -> (Arc<MemberInfo>, bool) {
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
        // The member was listed already: the newer connection is shown, and the earlier one is kept
        // for when the newer one leaves.
        let is_new = shown.is_none();
        if let Some(Listed(before)) = shown {
            self.bytes += OTHER_BYTES;
            self.others.insert((before.key.clone(), before.connection), before);
        }
        (listed, is_new)
    }

    /// Returns the key under which a connection without a user is listed, if it is shown.
    pub(super) fn find_replaced(&self, connection: ConnectionId) -> Option<MemberKey> {
        self.listed_as(connection).map(MemberKey::Connection)
    }

    /// Returns the connection as which one without a user is listed. `None`: it is not shown, as
    /// one that was resumed already.
    fn listed_as(&self, connection: ConnectionId) -> Option<ConnectionId> {
        let first = self.joined_as.get(&connection).copied().unwrap_or(connection);
        let shown = self.listed.get(&MemberKey::Connection(first))?;
        (shown.connection == connection).then_some(first)
    }

    /// Removes a connection.
    pub(super) fn remove_member(&mut self, member: &MemberInfo) -> Unlisted {
        let connection = member.connection;
        let key = match &member.key {
            MemberKey::Connection(_) => {
                let first = self.joined_as.remove(&connection);
                self.bytes -= first.map_or(0, |_| JOINED_AS_BYTES);
                MemberKey::Connection(first.unwrap_or(connection))
            }
            MemberKey::User(_) => member.key.clone(),
        };
        let is_shown = self.listed.get(&key).is_some_and(|shown| shown.connection == connection);
        if !is_shown {
            if let Some(other) = self.others.remove(&(key, connection)) {
                self.bytes -= OTHER_BYTES + listed_bytes(&other);
            }
            return Unlisted::Hidden;
        }
        let Listed(shown) = self.listed.remove(&key).expect("it is shown");
        self.bytes -= listed_bytes(&shown);
        // The member stays as long as it has another connection: that one is shown from now on.
        let own = (key.clone(), ConnectionId::FIRST)..=(key, ConnectionId::LAST);
        let next = self.others.range(own).next_back().map(|(key, _)| key.clone());
        let Some(next) = next.and_then(|next| self.others.remove(&next)) else {
            return Unlisted::Left(shown);
        };
        self.bytes -= OTHER_BYTES;
        self.listed.insert(Listed(next.clone()));
        Unlisted::ShownAs(next)
    }

    /// Returns the memory of the list (bytes), shared with the connections in this process.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn count(&self) -> u64 {
        match &self.listed {
            List::Few(few) => few.len() as u64,
            List::Many(many) => many.len() as u64,
        }
    }

    /// Returns the members after a cursor, limited by number and by bytes, but at least one.
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

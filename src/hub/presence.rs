//! Who is on a channel, by user: several connections of one user count once.
//!
//! A member costs a reference and a counter here: how it is shown is kept once for all channels of
//! its connection, and written when it is asked for.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use super::publication::ConnectionId;

/// Members of a channel that stand in a plain list; more stand in a tree.
const FEW: usize = 16;

/// What makes somebody one member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKey {
    User(Arc<str>),
    /// Of somebody unnamed: the first of the connections that continue each other.
    Connection(ConnectionId),
}

impl MemberKey {
    /// Where a list goes on: reads what [`Self::cursor`] writes, and a user's plain name.
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
    /// `{"user":…,"connection":…,"info":…}`, as members are shown.
    pub fn text(&self) -> String {
        let mut text = String::from("{");
        if let MemberKey::User(user) = &self.key {
            let _ = write!(text, r#""user":{},"#, serde_json::Value::from(&**user));
        }
        let _ = write!(text, r#""connection":"{}""#, self.connection);
        if let Some(info) = &self.info {
            let _ = write!(text, r#","info":{info}"#);
        }
        text.push('}');
        text
    }
}

/// Some of a channel's members, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// All there are, not just these.
    pub count: u64,
    pub members: Vec<Arc<MemberInfo>>,
    /// Where to go on after these, if there are more.
    pub next: Option<String>,
}

impl PresencePage {
    /// The members as a JSON array.
    pub fn text(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|one| one.text()).collect();
        format!("[{}]", members.join(","))
    }
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

/// The members of one channel, and how many connections stand for each.
#[derive(Debug, Default)]
pub(super) struct Presence {
    listed: List,
    /// Of those with several connections: how many more than one.
    more: BTreeMap<MemberKey, u32>,
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
    fn has(&self, key: &MemberKey) -> bool {
        match self {
            Self::Few(few) => few.binary_search_by(|one| one.0.key.cmp(key)).is_ok(),
            Self::Many(many) => many.contains(key),
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
    /// One more connection; returns whether somebody has come.
    pub(super) fn join(&mut self, member: &Arc<MemberInfo>) -> bool {
        let comes = !self.listed.has(&member.key);
        if comes {
            self.listed.insert(Listed(member.clone()));
        } else {
            *self.more.entry(member.key.clone()).or_default() += 1;
        }
        comes
    }

    /// One connection less; returns who has gone, if somebody has.
    pub(super) fn leave(&mut self, key: &MemberKey) -> Option<Arc<MemberInfo>> {
        if let Some(connections) = self.more.get_mut(key) {
            *connections -= 1;
            if *connections == 0 {
                self.more.remove(key);
            }
            return None;
        }
        self.listed.remove(key).map(|listed| listed.0)
    }

    pub(super) fn count(&self) -> u64 {
        match &self.listed {
            List::Few(few) => few.len() as u64,
            List::Many(many) => many.len() as u64,
        }
    }

    pub(super) fn page(&self, after: Option<&str>, limit: u32) -> PresencePage {
        let after = after.map(MemberKey::parse);
        match &self.listed {
            List::Few(few) => {
                let passed = |after| few.partition_point(|one| one.0.key <= after);
                self.list(few[after.map_or(0, passed)..].iter(), limit)
            }
            List::Many(many) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                self.list(many.range::<MemberKey, _>((from, Bound::Unbounded)), limit)
            }
        }
    }

    fn list<'p>(&self, mut rest: impl Iterator<Item = &'p Listed>, limit: u32) -> PresencePage {
        let listed = rest.by_ref().take(limit as usize);
        let members: Vec<_> = listed.map(|one| one.0.clone()).collect();
        let last = members.last().filter(|_| rest.next().is_some());
        let next = last.map(|last| last.key.cursor());
        PresencePage { count: self.count(), members, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user: &str) -> Arc<MemberInfo> {
        let connection = ConnectionId { node: 1, shard: 0, slot: 0, serial: 7 };
        Arc::new(MemberInfo { key: MemberKey::User(user.into()), connection, info: None })
    }

    fn unnamed(serial: u32) -> Arc<MemberInfo> {
        let connection = ConnectionId { node: 1, shard: 0, slot: 0, serial };
        Arc::new(MemberInfo { key: MemberKey::Connection(connection), connection, info: None })
    }

    #[test]
    fn connections_of_one_user_count_once() {
        let mut presence = Presence::default();
        let (ann, bob) = (member("ann"), member("bob"));
        assert!(presence.join(&ann));
        assert!(!presence.join(&member("ann")));
        assert!(presence.join(&bob));
        assert_eq!(presence.count(), 2);
        assert_eq!(presence.leave(&ann.key), None);
        assert_eq!(presence.leave(&ann.key), Some(ann.clone()));
        assert_eq!(presence.leave(&ann.key), None, "nobody leaves twice");
        assert_eq!(presence.count(), 1);
    }

    #[test]
    fn pages_cover_everybody_once_in_lists_and_in_trees() {
        for count in [FEW as u32, 40] {
            let mut presence = Presence::default();
            for n in 0..count / 2 {
                assert!(presence.join(&unnamed(n)));
                assert!(presence.join(&member(&format!("u{n:02}"))));
            }
            assert_eq!(matches!(presence.listed, List::Many(_)), count > FEW as u32);
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = presence.page(after.as_deref(), 7);
                assert_eq!(page.count, u64::from(count));
                seen.extend(page.members);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen.len(), count as usize);
            assert!(seen.is_sorted_by_key(|one| &one.key));
            assert_eq!(presence.page(None, count).next, None);
            for one in &seen {
                assert_eq!(presence.leave(&one.key).as_ref(), Some(one));
            }
            assert_eq!(presence.count(), 0);
        }
    }

    #[test]
    fn members_are_shown_as_json() {
        let mut ann = Arc::into_inner(member("a\"nn")).unwrap();
        ann.info = Some("{\"age\":7}".into());
        let shown: serde_json::Value = serde_json::from_str(&ann.text()).unwrap();
        assert_eq!((&shown["user"], &shown["info"]["age"]), (&"a\"nn".into(), &7.into()));
        assert_eq!(shown["connection"], ann.connection.to_string());
        assert!(!unnamed(1).text().contains("user"));
    }
}

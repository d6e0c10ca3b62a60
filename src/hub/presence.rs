//! Who is on a channel, by user: several connections of one user count once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

/// How a connection is listed.
#[derive(Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// What makes it one: the user, or the connection of somebody unnamed.
    pub key: Arc<str>,
    /// `{"user":…,"connection":…,"info":…}`, as members are shown.
    pub text: Arc<str>,
}

/// Some of a channel's members, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresencePage {
    /// All there are, not just these.
    pub count: u64,
    /// Each a JSON object.
    pub members: Vec<Arc<str>>,
    /// The key to go on after, if there are more.
    pub next: Option<Arc<str>>,
}

/// The members of one channel.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// By key: how it is shown, and how many connections stand for it.
    members: BTreeMap<Arc<str>, (Arc<str>, u32)>,
}

impl Presence {
    /// One more connection; returns whether somebody has come.
    pub(super) fn join(&mut self, member: &MemberInfo) -> bool {
        match self.members.entry(member.key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert((member.text.clone(), 1));
                true
            }
            Entry::Occupied(mut there) => {
                there.get_mut().1 += 1;
                false
            }
        }
    }

    /// One connection less; returns how somebody was shown who has gone.
    pub(super) fn leave(&mut self, key: &str) -> Option<Arc<str>> {
        let (_, connections) = self.members.get_mut(key)?;
        *connections -= 1;
        if *connections > 0 {
            return None;
        }
        self.members.remove(key).map(|(text, _)| text)
    }

    pub(super) fn count(&self) -> u64 {
        self.members.len() as u64
    }

    pub(super) fn page(&self, after: Option<&str>, limit: u32) -> PresencePage {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.members.range::<str, _>((from, Bound::Unbounded));
        let mut page = PresencePage { count: self.count(), ..PresencePage::default() };
        let mut last = None;
        for (key, (text, _)) in rest.by_ref().take(limit as usize) {
            page.members.push(text.clone());
            last = Some(key);
        }
        page.next = last.filter(|_| rest.next().is_some()).cloned();
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(key: &str) -> MemberInfo {
        MemberInfo { key: key.into(), text: format!("{{\"user\":\"{key}\"}}").into() }
    }

    #[test]
    fn connections_of_one_user_count_once() {
        let mut presence = Presence::default();
        assert!(presence.join(&member("ann")));
        assert!(!presence.join(&member("ann")));
        assert!(presence.join(&member("bob")));
        assert_eq!(presence.count(), 2);
        assert_eq!(presence.leave("ann"), None);
        assert_eq!(presence.leave("ann").as_deref(), Some("{\"user\":\"ann\"}"));
        assert_eq!(presence.leave("ann"), None, "nobody leaves twice");
        assert_eq!(presence.count(), 1);
    }

    #[test]
    fn pages_cover_everybody_once() {
        let mut presence = Presence::default();
        for n in 0..25 {
            presence.join(&member(&format!("u{n:02}")));
        }
        let mut seen = Vec::new();
        let mut after: Option<Arc<str>> = None;
        loop {
            let page = presence.page(after.as_deref(), 10);
            assert_eq!(page.count, 25);
            seen.extend(page.members);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 25);
        assert!(seen.is_sorted());
        assert_eq!(presence.page(None, 25).next, None);
    }
}

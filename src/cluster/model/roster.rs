//! The lists of members in the model: what the scripts do with keys, in plain maps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::command::RosterChange;
use crate::cluster::layout::Incarnation;
use crate::hub::{
    ConnectionId, MemberInfo, MemberKey, PresencePage, RosterNews, RosterPage, RosterRange,
    SoughtMember,
};

/// A node's entry of a member.
#[derive(Clone, Debug)]
struct Line {
    incarnation: Incarnation,
    /// The member's key on that node, for a client without a user.
    tag: Option<MemberKey>,
    connection: ConnectionId,
    info: Option<Arc<str>>,
}

/// The members of a channel on all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct RosterState {
    /// By the cursor of the key: the key, and the entries, the latest last.
    members: BTreeMap<String, (MemberKey, Vec<Line>)>,
    /// Members that are listed under the key that they joined with.
    moved: HashMap<MemberKey, MemberKey>,
    seats: HashMap<ConnectionId, Incarnation>,
    revision: u64,
}

fn tag_of(key: &MemberKey) -> Option<MemberKey> {
    matches!(key, MemberKey::Connection(_)).then(|| key.clone())
}

impl RosterState {
    fn find(&self, key: &MemberKey) -> MemberKey {
        self.moved.get(key).unwrap_or(key).clone()
    }

    /// Returns the key that a connection is listed under, if it is shown.
    fn find_replaced(&self, old: ConnectionId) -> Option<MemberKey> {
        let key = self.find(&MemberKey::Connection(old));
        let (_, lines) = self.members.get(&key.cursor())?;
        lines.iter().any(|line| line.connection == old).then_some(key)
    }

    fn report(
        &mut self,
        has_joined: bool,
        key: &MemberKey,
        line: &Line,
        out: &mut Vec<RosterNews>,
    ) {
        self.revision += 1;
        let (connection, info) = (line.connection, line.info.clone());
        let member = Arc::new(MemberInfo { key: key.clone(), connection, info });
        out.push(RosterNews { revision: self.revision, has_joined, member });
    }

    /// Takes a node's entry of a member out of its list.
    fn take_line(&mut self, incarnation: Incarnation, key: &MemberKey) -> Option<Line> {
        let tag = tag_of(key);
        let (_, lines) = self.members.get_mut(&self.moved.get(key).unwrap_or(key).cursor())?;
        let own = |line: &Line| line.incarnation == incarnation && line.tag == tag;
        let at = lines.iter().position(own)?;
        Some(lines.remove(at))
    }

    fn list(
        &mut self,
        incarnation: Incarnation,
        member: &MemberInfo,
        (replaces, is_renamed): (Option<ConnectionId>, bool),
        out: &mut Vec<RosterNews>,
    ) {
        let is_listed = self.members.contains_key(&self.find(&member.key).cursor());
        if let Some(other) = replaces.filter(|_| !is_listed).and_then(|old| self.find_replaced(old))
        {
            self.moved.insert(member.key.clone(), other);
        }
        let before = self.take_line(incarnation, &member.key);
        let key = self.find(&member.key);
        let line = Line {
            incarnation,
            tag: tag_of(&member.key),
            connection: member.connection,
            info: member.info.clone(),
        };
        let (_, lines) = self.members.entry(key.cursor()).or_insert_with(|| (key.clone(), vec![]));
        lines.push(line.clone());
        let is_only = lines.len() == 1;
        match before {
            None if is_only => self.report(true, &key, &line, out),
            Some(before)
                if is_only
                    && is_renamed
                    && (before.connection, &before.info) != (line.connection, &line.info) =>
            {
                self.report(false, &key, &before, out);
                self.report(true, &key, &line, out);
            }
            _ => {}
        }
    }

    fn unlist(&mut self, incarnation: Incarnation, key: &MemberKey, out: &mut Vec<RosterNews>) {
        let own = self.take_line(incarnation, key);
        let listed = self.find(key);
        let lines = self.members.get(&listed.cursor()).map(|(_, lines)| lines);
        // An earlier incarnation may list it as well.
        let has_another = |line: &Line| line.tag.as_ref() == Some(key);
        if !lines.is_some_and(|lines| lines.iter().any(has_another)) {
            self.moved.remove(key);
        }
        let Some(own) = own else { return };
        if self.members.get(&listed.cursor()).is_some_and(|(_, lines)| lines.is_empty()) {
            self.members.remove(&listed.cursor());
            self.report(false, &listed, &own, out);
        }
    }

    /// Applies a change of a node.
    pub(super) fn apply(
        &mut self,
        incarnation: Incarnation,
        change: &RosterChange,
        out: &mut Vec<RosterNews>,
    ) {
        match change {
            RosterChange::List { member, replaces } => {
                self.list(incarnation, member, (*replaces, false), out);
            }
            RosterChange::Relist { member } => self.list(incarnation, member, (None, true), out),
            RosterChange::Unlist { key } => self.unlist(incarnation, key, out),
            RosterChange::Seat { id } => {
                self.seats.insert(*id, incarnation);
            }
            RosterChange::Unseat { id } => {
                if self.seats.get(id) == Some(&incarnation) {
                    self.seats.remove(id);
                }
            }
        }
    }

    /// Takes a seat, or that of another connection.
    pub(super) fn take_seat(
        &mut self,
        incarnation: Incarnation,
        id: ConnectionId,
        replaces: Option<ConnectionId>,
        seats_max: u32,
    ) -> bool {
        if self.seats.get(&id) == Some(&incarnation) {
            return true;
        }
        let is_passed_on = replaces.is_some_and(|old| self.seats.remove(&old).is_some());
        let has_seat = is_passed_on || self.seats.len() < seats_max as usize;
        if has_seat {
            self.seats.insert(id, incarnation);
        }
        has_seat
    }

    /// Reads a page.
    pub(super) fn read(&self, range: &RosterRange) -> RosterPage {
        let RosterRange { after, members_max, bytes_max, sought } = range;
        let count = self.members.len() as u64;
        let mut page = PresencePage { count, members: Vec::new(), next: None };
        let after = after.as_deref().map(|after| MemberKey::parse(after).cursor());
        let (mut bytes, mut has_more) = (0, false);
        for (cursor, (key, lines)) in &self.members {
            if *members_max == 0 || after.as_ref().is_some_and(|after| cursor <= after) {
                continue;
            }
            let Line { connection, info, .. } = lines.last().expect("what is listed has an entry");
            bytes += cursor.len() + info.as_ref().map_or(0, |info| info.len()) + 100;
            let is_full = bytes as u64 > *bytes_max && !page.members.is_empty();
            if page.members.len() == *members_max as usize || is_full {
                has_more = true;
                break;
            }
            let (key, connection, info) = (key.clone(), *connection, info.clone());
            page.members.push(Arc::new(MemberInfo { key, connection, info }));
        }
        page.next = page.members.last().filter(|_| has_more).map(|last| last.key.cursor());
        let find = |sought: &SoughtMember| {
            let key = self.find(&sought.key);
            if self.members.contains_key(&key.cursor()) {
                return Some(key);
            }
            sought.replaces.and_then(|old| self.find_replaced(old))
        };
        RosterPage { page, revision: self.revision, listed_as: sought.as_ref().and_then(find) }
    }

    /// Ends what dead incarnations list.
    pub(super) fn sweep(
        &mut self,
        is_dead: impl Fn(Incarnation) -> bool,
        out: &mut Vec<RosterNews>,
    ) {
        let lines = self
            .members
            .values()
            .flat_map(|(key, lines)| lines.iter().map(move |line| (key, line)));
        let dead = lines.filter(|(_, line)| is_dead(line.incarnation));
        let dead: Vec<_> = dead
            .map(|(key, line)| (line.incarnation, line.tag.clone().unwrap_or_else(|| key.clone())))
            .collect();
        dead.iter().for_each(|(incarnation, key)| self.unlist(*incarnation, key, out));
        self.seats.retain(|_, incarnation| !is_dead(*incarnation));
    }
}

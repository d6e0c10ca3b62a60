//! What a home needs of the roster, where several nodes share its channels: seats and lists of
//! members for subscriptions, and joins and leaves for watchers.
//!
//! A new member gets a list that contains every join and leave up to its subscription, and hears of
//! every later one: news that arrive while its list is being read are kept, and those that are
//! later than the list are applied to it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Home, Joining, Waiting};
use crate::hub::answer::{Answer, Origin, Subscribe};
use crate::hub::presence::{MemberInfo, MemberKey, PresencePage, Unlisted};
use crate::hub::publication::Publication;
use crate::hub::refusal::{Code, Refused};
use crate::hub::roster::{RosterNews, RosterPage, RosterRange, SoughtMember};

/// Joins and leaves that are kept while lists are read. Beyond that, watchers read the list again.
const NEWS_MAX: usize = 1024;

/// Returns the error for a member that finds no seat.
pub(super) fn refuse_seat(members_max: u32) -> Refused {
    let message =
        format!("the channel has reached its limit of {members_max} members; retry later");
    Refused::new(Code::Limit, message)
}

impl Joining {
    fn needs_seat(&self) -> bool {
        let is_new = self.subscribe.restart.is_none();
        is_new && self.subscribe.members_max > 0 && !self.has_seat
    }

    fn needs_listing(&self) -> bool {
        self.subscribe.watch && self.subscribe.member.is_some() && self.listing.is_none()
    }
}

impl Home {
    /// Returns whether a subscription has to wait for the roster.
    pub(super) fn needs_roster(&mut self, joining: &Joining) -> bool {
        (joining.needs_seat() || joining.needs_listing()) && self.log.roster().is_some()
    }

    /// Takes the next step of a subscription that is not complete: a seat, the list of members, the
    /// messages that it has missed, or its admission.
    pub(super) fn continue_join(&mut self, key: u32, from: Origin, mut joining: Box<Joining>) {
        if self.needs_roster(&joining) {
            if joining.needs_seat() {
                return self.request_seat(key, from, joining);
            }
            let Subscribe { member, replaces, .. } = &joining.subscribe;
            let (member, replaces) = (member.clone(), *replaces);
            let presence = self.channels[key as usize].presence.as_ref();
            let known = presence.zip(replaces).and_then(|(all, old)| all.find_replaced(old));
            let sought = member.map(|member| match (&member.key, known) {
                (MemberKey::Connection(_), Some(key)) => SoughtMember { key, replaces: None },
                (key, _) => SoughtMember { key: key.clone(), replaces },
            });
            joining.news_gaps = self.channels[key as usize].news_gaps;
            let range = RosterRange {
                after: None,
                members_max: self.options.presence_page_max,
                bytes_max: self.options.recover_bytes_max,
                sought,
            };
            return self.read_members(Waiting::Join { channel: key, from, joining }, range);
        }
        match self.find_position(key, joining.subscribe.since) {
            Some((position, recovered)) => {
                self.admit_member(key, from, *joining, position, recovered, Vec::new());
                self.end_joining(key);
            }
            None => self.read_for_join(key, from, joining),
        }
    }

    /// A subscription has been answered: what was kept for it may go.
    pub(super) fn end_joining(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        assert!(channel.joining > 0, "a subscription that waits is counted");
        channel.joining -= 1;
        if channel.joining == 0 {
            channel.delivered_meanwhile = VecDeque::new();
        }
        self.end_listing(key);
    }

    /// A request for members has been answered.
    pub(super) fn end_listing(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        assert!(channel.listing > 0, "a request that waits is counted");
        channel.listing -= 1;
        if channel.listing == 0 {
            channel.news_meanwhile = Vec::new();
        }
    }

    /// A request for members begins: joins and leaves are kept from now on.
    pub(super) fn begin_listing(&mut self, key: u32) {
        self.channels[key as usize].listing += 1;
    }

    fn request_seat(&mut self, key: u32, from: Origin, joining: Box<Joining>) {
        let Origin::Session { id, .. } = from else { return };
        let (replaces, seats_max) = (joining.subscribe.replaces, joining.subscribe.members_max);
        let waiting = Waiting::Join { channel: key, from, joining };
        let (ticket, log) = self.register_waiting(waiting);
        if let Some(roster) = self.log.roster() {
            roster.take_seat(ticket, log, id, replaces, seats_max);
        }
    }

    /// Gives up a seat that was taken for a subscription that has failed.
    pub(super) fn give_up_seat(&mut self, key: u32, from: &Origin) {
        let (Origin::Session { id, .. }, log) = (from, self.channels[key as usize].log) else {
            return;
        };
        if let Some(roster) = self.log.roster() {
            roster.leave_seat(log, *id);
        }
    }

    /// Reads a page of the members on all nodes.
    pub(super) fn read_members(&mut self, waiting: Waiting, range: RosterRange) {
        let (ticket, log) = self.register_waiting(waiting);
        if let Some(roster) = self.log.roster() {
            roster.read_members(ticket, log, range);
        }
    }

    /// Processes the answer to a request for a seat.
    pub(super) fn complete_seat(&mut self, waiting: Waiting, has_seat: bool) {
        let Waiting::Join { channel, from, mut joining } = waiting else { return };
        joining.has_seat = has_seat;
        if has_seat {
            self.continue_join(channel, from, joining);
        } else {
            let refused = refuse_seat(joining.subscribe.members_max);
            self.end_joining(channel);
            self.send_answer(channel, from, Answer::Refused(refused));
        }
        self.note_use(channel);
    }

    /// Processes a page of the members on all nodes.
    pub(super) fn complete_listing(&mut self, waiting: Waiting, mut page: RosterPage) {
        let channel = waiting.channel();
        match waiting {
            Waiting::Join { from, mut joining, .. } => {
                joining.listing = Some(page);
                self.continue_join(channel, from, joining);
            }
            Waiting::Presence { from, after, .. } => {
                self.apply_news(channel, &mut page, after.as_deref(), None);
                self.end_listing(channel);
                self.send_answer(channel, from, Answer::Presence(Box::new(page.page)));
            }
            Waiting::Count { from, position, .. } => {
                self.answer_described(channel, from, position, page.page.count);
            }
            _ => {}
        }
        self.note_use(channel);
    }

    /// Applies the joins and leaves to a page that came since it was read.
    fn apply_news(
        &self,
        key: u32,
        listing: &mut RosterPage,
        after: Option<&str>,
        sought: Option<&MemberKey>,
    ) {
        let news = self.channels[key as usize].news_meanwhile.iter();
        for RosterNews { has_joined, member, .. } in
            news.filter(|one| one.revision > listing.revision)
        {
            listing.page.apply_news(after, *has_joined, member);
            if !has_joined {
                listing.listed_as.take_if(|key| *key == member.key);
            } else if sought == Some(&member.key) {
                listing.listed_as = sought.cloned();
            }
        }
    }

    /// Completes the list of members for a new one, which it contains.
    pub(super) fn complete_list(
        &self,
        key: u32,
        mut listing: RosterPage,
        (member, is_replacing): (&Arc<MemberInfo>, bool),
    ) -> PresencePage {
        self.apply_news(key, &mut listing, None, Some(&member.key));
        let RosterPage { mut page, listed_as, .. } = listing;
        // It may have been listed since it was sought.
        let is_shown = page.members.iter().any(|one| one.key == member.key);
        match listed_as.or_else(|| is_shown.then(|| member.key.clone())) {
            Some(key) => page.show_member(&key, member),
            None if !is_replacing => page.apply_news(None, true, member),
            // It may be listed as the connection that it resumes after all, if that one's listing
            // is on its way. It hears of that.
            None => {}
        }
        page
    }

    /// Sends a join or leave on any node to the watchers on this one.
    pub(super) fn take_news(&mut self, key: u32, news: RosterNews) {
        let channel = &mut self.channels[key as usize];
        let (has_joined, member) = (news.has_joined, news.member.clone());
        if channel.listing > 0 {
            channel.news_meanwhile.push(news);
        }
        if channel.news_meanwhile.len() > NEWS_MAX {
            self.note_missed_news(key);
        }
        // A member hears of itself, too: its user may have left before, by another connection.
        let make = if has_joined { Publication::new_join } else { Publication::new_leave };
        self.send_news(key, |channel| make(channel, member));
    }

    /// Joins or leaves were missed: watchers have to read the list again.
    pub(super) fn note_missed_news(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        channel.news_gaps = channel.news_gaps.wrapping_add(1);
        channel.news_meanwhile = Vec::new();
        self.send_news(key, Publication::new_presence_gap);
    }

    /// Replies with a page of the channel's members, on all nodes.
    pub(super) fn list_presence(
        &mut self,
        key: u32,
        from: Origin,
        after: Option<Box<str>>,
        limit: u32,
    ) {
        let members_max = limit.clamp(1, self.options.presence_page_max);
        let bytes_max = self.options.recover_bytes_max;
        if self.log.roster().is_some() {
            self.begin_listing(key);
            let waiting = Waiting::Presence { channel: key, from, after: after.clone() };
            let range = RosterRange { after, members_max, bytes_max, sought: None };
            return self.read_members(waiting, range);
        }
        let presence = self.channels[key as usize].presence.as_ref();
        let page = presence.map(|all| all.read_page(after.as_deref(), members_max, bytes_max));
        self.send_answer(key, from, Answer::Presence(Box::new(page.unwrap_or_default())));
    }

    /// Changes how a member is listed.
    pub(super) fn rename_presence(&mut self, key: u32, old: &MemberInfo, new: &Arc<MemberInfo>) {
        let log = self.channels[key as usize].log;
        if self.log.roster().is_none() || old.key != new.key {
            self.remove_presence(key, old);
            self.add_presence(key, new, None);
            return;
        }
        let (removed, listed) = self.change_presence(key, |presence| {
            let removed = presence.remove_member(old);
            let (listed, _) = presence.add_member(new, None);
            (removed, listed)
        });
        let Some(roster) = self.log.roster() else { return };
        match removed {
            // One without a user may have been listed as the connection that it resumed.
            Unlisted::Left(left) if left.key != listed.key => {
                roster.unlist_member(log, &left.key);
                roster.list_member(log, &listed, None);
            }
            Unlisted::ShownAs(next) if next.key != listed.key => {
                roster.list_member(log, &next, None);
                roster.list_member(log, &listed, None);
            }
            _ => roster.relist_member(log, &listed),
        }
    }
}

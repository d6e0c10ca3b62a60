//! Members join and leave: the home counts them by shard, and sends joins and leaves to watchers.

use std::sync::Arc;

use super::roster::refuse_seat;
use super::{Home, HomeEvent, HomeOptions, Joining, ShardCounts};
use crate::events::EventKind;
use crate::hub::ChannelName;
use crate::hub::answer::{Answer, Origin, Out, Subscribe, Subscribed};
use crate::hub::connection_id::ConnectionId;
use crate::hub::log::HistoryPage;
use crate::hub::position::Position;
use crate::hub::presence::{MemberInfo, MemberKey, Presence, PresencePage, Unlisted};
use crate::hub::publication::Publication;
use crate::hub::roster::RosterPage;

impl Home {
    /// Completes a subscription with the page that it read. The log may be ahead of the deliveries,
    /// or behind them: the result is exactly what was delivered up to now.
    pub(super) fn complete_subscribe(
        &mut self,
        key: u32,
        from: Origin,
        joining: Box<Joining>,
        page: HistoryPage,
    ) {
        let since = joining.subscribe.since;
        let options = self.options;
        let channel = &mut self.channels[key as usize];
        let delivered = *channel.position.get_or_insert_with(|| {
            channel.known_from = page.position.offset;
            page.position
        });
        let is_behind = page.position.offset < channel.known_from;
        if is_behind && page.position.epoch == delivered.epoch && since.is_some() {
            // A later page came first, and `delivered_meanwhile` lacks the messages between the
            // two. The next page will not be behind.
            return self.read_for_join(key, from, joining);
        }
        let HistoryPage { position, complete, mut messages } = page;
        let mut recovered = complete && since.is_some();
        if position.epoch == delivered.epoch {
            // Messages of the page that are not delivered yet will be delivered to the new member;
            // those delivered since the page was read are missing from it.
            messages.retain(|one| one.offset() <= delivered.offset);
            let later =
                channel.delivered_meanwhile.iter().filter(|one| one.offset() > position.offset);
            messages.extend(later.cloned());
        } else {
            // The epoch changed while the page was in flight.
            recovered = false;
        }
        let bytes: u64 = messages.iter().map(|one| one.cost_bytes()).sum();
        // A page within the bounds may have grown past them with the messages delivered since.
        let named = since.and_then(|since| since.epoch);
        recovered &= named == Some(delivered.epoch)
            && messages.len() <= options.recover_messages_max as usize
            && bytes <= options.recover_bytes_max;
        if !recovered {
            messages.clear();
        }
        self.admit_member(key, from, *joining, delivered, recovered, messages);
        self.end_joining(key);
    }

    /// Admits a member, if it has a seat, and answers with its position. A subscription that
    /// restarts is a member already: only what it watches may change.
    pub(super) fn admit_member(
        &mut self,
        key: u32,
        from: Origin,
        joining: Joining,
        position: Position,
        recovered: bool,
        missed: Vec<Arc<Publication>>,
    ) {
        let Origin::Session { id, .. } = from else { return };
        let shard = id.shard;
        let Joining { subscribe, has_seat, listing, news_gaps } = joining;
        if subscribe.restart.is_none() && !has_seat && !self.take_seat(key, id, &subscribe) {
            let refused = refuse_seat(subscribe.members_max);
            return self.send_answer(key, from, Answer::Refused(refused));
        }
        let channel = &mut self.channels[key as usize];
        if subscribe.since.is_some() {
            self.stats.recovered += u64::from(recovered && !missed.is_empty());
            self.stats.not_recovered += u64::from(!recovered);
        }
        let counts = match channel.shards.iter().position(|one| one.shard == shard) {
            Some(at) => &mut channel.shards[at],
            None => {
                // Members of most channels are on few shards: a doubling list would waste memory.
                channel.shards.reserve_exact(1);
                channel.shards.push(ShardCounts { shard, members: 0, watchers: 0 });
                self.shard_count_bytes += size_of::<ShardCounts>();
                channel.shards.last_mut().expect("it was just pushed")
            }
        };
        counts.watchers += u32::from(subscribe.watch);
        let mut shown = subscribe.member.clone();
        match subscribe.restart {
            Some(watched) => {
                assert!(counts.members > 0, "only a member's subscription restarts");
                counts.watchers -= u32::from(watched);
            }
            None => {
                counts.members += 1;
                channel.members += 1;
                self.members += 1;
                if channel.members == 1 {
                    let event = || (channel.name.clone(), HomeEvent::Occupied);
                    self.events.note(EventKind::ChannelOccupied, event);
                }
                if let Some(member) = &subscribe.member {
                    shown = Some(self.add_presence(key, member, subscribe.replaces));
                }
            }
        }
        let Subscribe { watch, member, .. } = subscribe;
        let is_replacing = subscribe.replaces.is_some()
            && member.as_ref().is_some_and(|one| matches!(one.key, MemberKey::Connection(_)));
        let has_listing = listing.is_some();
        let shown = shown.as_ref().filter(|_| watch).map(|shown| (shown, is_replacing));
        let presence = self.first_page(key, listing, shown);
        let is_outdated = has_listing && news_gaps != self.channels[key as usize].news_gaps;
        let joined = Subscribed { position, recovered, missed, presence, watch, member };
        self.send_answer(key, from, Answer::Subscribed(Box::new(joined)));
        if is_outdated {
            self.send_news(key, Publication::new_presence_gap);
        }
    }

    /// Returns the members for a new member that watches them.
    fn first_page(
        &self,
        key: u32,
        listing: Option<RosterPage>,
        member: Option<(&Arc<MemberInfo>, bool)>,
    ) -> Option<PresencePage> {
        let member = member?;
        if let Some(listing) = listing {
            return Some(self.complete_list(key, listing, member));
        }
        let HomeOptions { presence_page_max, recover_bytes_max, .. } = self.options;
        let presence = self.channels[key as usize].presence.as_ref();
        presence.map(|all| all.read_page(None, presence_page_max, recover_bytes_max))
    }

    /// Removes a member, also from its seat and from presence. Without effect on a channel that has
    /// no member on the shard of the request.
    pub(super) fn remove_member(
        &mut self,
        key: u32,
        from: &Origin,
        watch: bool,
        member: Option<&MemberInfo>,
    ) {
        let Origin::Session { id, .. } = from else { return };
        let channel = &mut self.channels[key as usize];
        let Some(at) = channel.shards.iter().position(|one| one.shard == id.shard) else { return };
        let counts = &mut channel.shards[at];
        let is_counted = counts.members > 0 && counts.watchers >= u32::from(watch);
        assert!(is_counted, "a shard reports the end of members that it has reported before");
        counts.members -= 1;
        counts.watchers -= u32::from(watch);
        if counts.members == 0 {
            channel.shards.swap_remove(at);
            self.shard_count_bytes -= size_of::<ShardCounts>();
            if channel.shards.is_empty() {
                channel.shards = Vec::new();
            }
        }
        // Channels come and go in large numbers, so that the sums are kept, not computed.
        channel.members -= 1;
        self.members -= 1;
        if let Some(seats) = &mut channel.seats {
            self.seat_bytes -= seats.bytes();
            seats.leave_seat(*id);
            self.seat_bytes += seats.bytes();
            channel.seats.take_if(|seats| seats.is_empty());
        }
        self.give_up_seat(key, from);
        if let Some(member) = member {
            self.remove_presence(key, member);
        }
        let channel = &self.channels[key as usize];
        if channel.members == 0 {
            let event = || (channel.name.clone(), HomeEvent::Vacated);
            self.events.note(EventKind::ChannelVacated, event);
        }
    }

    /// A member stops watching joins and leaves.
    pub(super) fn remove_watcher(&mut self, key: u32, from: &Origin) {
        let Origin::Session { id, .. } = from else { return };
        let mut shards = self.channels[key as usize].shards.iter_mut();
        if let Some(counts) = shards.find(|one| one.shard == id.shard) {
            assert!(counts.watchers > 0, "a shard ends only what it has reported before");
            counts.watchers -= 1;
        }
    }

    /// Whether a new member has a seat, where their number is limited.
    fn take_seat(&mut self, key: u32, id: ConnectionId, subscribe: &Subscribe) -> bool {
        if subscribe.members_max == 0 {
            return true;
        }
        let channel = &mut self.channels[key as usize];
        let seats = channel.seats.get_or_insert_default();
        // The gauge follows the difference: what the seats took before, and what they take after.
        self.seat_bytes -= seats.bytes();
        let members = channel.members;
        let has_one = seats.take_seat(id, subscribe.replaces, members, subscribe.members_max);
        self.seat_bytes += seats.bytes();
        channel.seats.take_if(|seats| seats.is_empty());
        has_one
    }

    /// Lists a member as present, and sends a join to watchers if its user is new to the channel.
    /// Returns it as it is listed.
    pub(super) fn add_presence(
        &mut self,
        key: u32,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    ) -> Arc<MemberInfo> {
        let (listed, is_new) =
            self.change_presence(key, |presence| presence.add_member(member, replaces));
        let log = self.channels[key as usize].log;
        match self.log.roster() {
            Some(roster) => roster.list_member(log, &listed, replaces),
            None if is_new => {
                let name = &self.channels[key as usize].name;
                let event = || (name.clone(), HomeEvent::MemberAdded(listed.clone()));
                self.events.note(EventKind::MemberAdded, event);
                self.send_news(key, |name| Publication::new_join(name, listed.clone()));
            }
            None => {}
        }
        listed
    }

    /// Ends a member's presence, and sends a leave to watchers if it was its user's last one.
    pub(super) fn remove_presence(&mut self, key: u32, member: &MemberInfo) {
        if self.channels[key as usize].presence.is_none() {
            return;
        }
        let removed = self.change_presence(key, |presence| presence.remove_member(member));
        let log = self.channels[key as usize].log;
        match (removed, self.log.roster()) {
            (Unlisted::Left(left), Some(roster)) => roster.unlist_member(log, &left.key),
            (Unlisted::ShownAs(next), Some(roster)) => roster.list_member(log, &next, None),
            (Unlisted::Left(left), None) => {
                let name = &self.channels[key as usize].name;
                let event = || (name.clone(), HomeEvent::MemberRemoved(left.clone()));
                self.events.note(EventKind::MemberRemoved, event);
                self.send_news(key, |name| Publication::new_leave(name, left));
            }
            (Unlisted::ShownAs(_), None) | (Unlisted::Hidden, _) => {}
        }
    }

    /// Changes the members listed on this node, and accounts for their memory.
    pub(super) fn change_presence<T>(
        &mut self,
        key: u32,
        change: impl FnOnce(&mut Presence) -> T,
    ) -> T {
        let channel = &mut self.channels[key as usize];
        let presence = channel.presence.get_or_insert_default();
        self.presence_bytes -= presence.bytes();
        let result = change(presence);
        self.presence_bytes += presence.bytes();
        if presence.count() == 0 {
            channel.presence = None;
        }
        result
    }

    /// Sends a join or leave to the shards that have watchers of the channel.
    pub(super) fn send_news(
        &mut self,
        key: u32,
        make: impl FnOnce(&ChannelName) -> Arc<Publication>,
    ) {
        let channel = &self.channels[key as usize];
        if channel.shards.iter().all(|counts| counts.watchers == 0) {
            return;
        }
        let news = make(&channel.name);
        let watched = channel.shards.iter().filter(|counts| counts.watchers > 0);
        self.out.extend(watched.map(|counts| (counts.shard, Out::News(news.clone()))));
    }
}

//! Members join and leave: the home counts them by shard, and sends joins and leaves to watchers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Home, HomeOptions, ShardCounts};
use crate::hub::ChannelName;
use crate::hub::answer::{Answer, Origin, Out, Subscribe, Subscribed};
use crate::hub::connection_id::ConnectionId;
use crate::hub::log::HistoryPage;
use crate::hub::position::Position;
use crate::hub::presence::MemberInfo;
use crate::hub::publication::Publication;
use crate::hub::refusal::Code;

impl Home {
    /// Completes a subscription with the page that it read. The log may be ahead of the deliveries,
    /// or behind them: the result is exactly what was delivered up to now.
    pub(super) fn complete_subscribe(
        &mut self,
        key: u32,
        from: Origin,
        subscribe: Box<Subscribe>,
        page: HistoryPage,
    ) {
        let options = self.options;
        let channel = &mut self.channels[key as usize];
        let delivered = *channel.position.get_or_insert_with(|| {
            channel.known_from = page.position.offset;
            page.position
        });
        let is_behind = page.position.offset < channel.known_from;
        if is_behind && page.position.epoch == delivered.epoch && subscribe.since.is_some() {
            // A later page came first, and `delivered_meanwhile` lacks the messages between the
            // two. The next page will not be behind.
            return self.read_for_join(key, from, subscribe);
        }
        assert!(channel.joining > 0, "a page completes a subscription that was counted");
        channel.joining -= 1;
        let HistoryPage { position, complete, mut messages } = page;
        let mut recovered = complete && subscribe.since.is_some();
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
        if channel.joining == 0 {
            channel.delivered_meanwhile = VecDeque::new();
        }
        let bytes: u64 = messages.iter().map(|one| one.cost_bytes()).sum();
        // A page within the bounds may have grown past them with the messages delivered since.
        let named = subscribe.since.and_then(|since| since.epoch);
        recovered &= named == Some(delivered.epoch)
            && messages.len() <= options.recover_messages_max as usize
            && bytes <= options.recover_bytes_max;
        if !recovered {
            messages.clear();
        }
        self.admit_member(key, from, &subscribe, delivered, recovered, messages);
    }

    /// Admits a member, if it has a seat, and answers with its position. A subscription that
    /// restarts is a member already: only what it watches may change.
    pub(super) fn admit_member(
        &mut self,
        key: u32,
        from: Origin,
        subscribe: &Subscribe,
        position: Position,
        recovered: bool,
        missed: Vec<Arc<Publication>>,
    ) {
        let Origin::Session { id, .. } = from else { return };
        let shard = id.shard;
        if subscribe.restart.is_none() && !self.take_seat(key, id, subscribe) {
            let message = format!(
                "the channel has reached its limit of {} members; retry later",
                subscribe.members_max
            );
            return self.reject(key, from, Code::Limit, message);
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
        match subscribe.restart {
            Some(watched) => {
                assert!(counts.members > 0, "only a member's subscription restarts");
                counts.watchers -= u32::from(watched);
            }
            None => {
                counts.members += 1;
                channel.members += 1;
                self.members += 1;
                if let (Some(occupancy), 1) = (&mut self.occupancy, channel.members) {
                    occupancy.push((channel.name.clone(), true));
                }
                if let Some(member) = &subscribe.member {
                    self.add_presence(key, member, subscribe.replaces);
                }
            }
        }
        let listed = subscribe.watch && subscribe.member.is_some();
        let presence = self.channels[key as usize].presence.as_ref().filter(|_| listed);
        let HomeOptions { presence_page_max, recover_bytes_max, .. } = self.options;
        let presence =
            presence.map(|all| all.read_page(None, presence_page_max, recover_bytes_max));
        let (watch, member) = (subscribe.watch, subscribe.member.clone());
        let joined = Subscribed { position, recovered, missed, presence, watch, member };
        self.send_answer(key, from, Answer::Subscribed(Box::new(joined)));
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
        if let (Some(occupancy), 0) = (&mut self.occupancy, channel.members) {
            occupancy.push((channel.name.clone(), false));
        }
        if let Some(seats) = &mut channel.seats {
            self.seat_bytes -= seats.bytes();
            seats.leave_seat(*id);
            self.seat_bytes += seats.bytes();
            channel.seats.take_if(|seats| seats.is_empty());
        }
        if let Some(member) = member {
            self.remove_presence(key, member);
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
    pub(super) fn add_presence(
        &mut self,
        key: u32,
        member: &Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    ) {
        let presence = self.channels[key as usize].presence.get_or_insert_default();
        self.presence_bytes -= presence.bytes();
        let joined = presence.add_member(member, replaces);
        self.presence_bytes += presence.bytes();
        if let Some(member) = joined {
            self.send_news(key, Publication::new_join, member);
        }
    }

    /// Ends a member's presence, and sends a leave to watchers if it was its user's last one.
    pub(super) fn remove_presence(&mut self, key: u32, member: &MemberInfo) {
        let channel = &mut self.channels[key as usize];
        let Some(presence) = &mut channel.presence else { return };
        self.presence_bytes -= presence.bytes();
        let left = presence.remove_member(member);
        self.presence_bytes += presence.bytes();
        if presence.count() == 0 {
            channel.presence = None;
        }
        if let Some(left) = left {
            self.send_news(key, Publication::new_leave, left);
        }
    }

    /// Sends a join or leave to the shards that have watchers of the channel.
    fn send_news(
        &mut self,
        key: u32,
        make: fn(&ChannelName, Arc<MemberInfo>) -> Arc<Publication>,
        member: Arc<MemberInfo>,
    ) {
        let channel = &self.channels[key as usize];
        if channel.shards.iter().all(|counts| counts.watchers == 0) {
            return;
        }
        let news = make(&channel.name, member);
        let watched = channel.shards.iter().filter(|counts| counts.watchers > 0);
        self.out.extend(watched.map(|counts| (counts.shard, Out::News(news.clone()))));
    }
}

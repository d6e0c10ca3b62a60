//! Handles the output of homes for this shard: publications, replies to sessions, new members.

use std::sync::Arc;

use super::Hub;
use super::backlog::{Item, count_change};
use crate::hub::{
    Answer, ChannelName, ChannelOp, ConnectionId, Member, Origin, Out, Publication, Request,
    Retention, Subscribed, Verb,
};
use crate::session::hub::{JoinAnswer, MemberIndexes, NONE};
use crate::shard::connections::Connections;

/// A home's reply that a session has become a member.
pub(super) struct Join {
    pub(super) id: ConnectionId,
    pub(super) request: u32,
    pub(super) joined: Subscribed,
}

impl Hub {
    /// Handles an output of a channel's home.
    pub(super) fn take_out(&mut self, connections: &mut Connections, out: Out) {
        match out {
            Out::Publish(publication) => self.members.push_publication(publication, false),
            Out::News(publication) => self.members.push_publication(publication, true),
            Out::EpochChanged { channel, position } => {
                self.members.push(&channel, ChannelOp::EpochChanged(position));
            }
            Out::Gap { channel, position } => {
                self.members.push(&channel, ChannelOp::Lagging(position));
            }
            Out::Answer { id, request, channel, answer: Answer::Subscribed(joined) } => {
                self.members.push(&channel, ChannelOp::Join { id, request, joined });
            }
            Out::Answer { id, request, channel, answer } => {
                let Some(index) = self.slot_of(id) else { return };
                self.mark_touched(index);
                self.with_session(connections, index, |session, call| {
                    session.handle_reply(call, request, &channel, &answer);
                });
            }
        }
    }

    /// Adds a member; if its connection has closed, sends `Leave` to the home.
    pub(super) fn complete_join(
        &mut self,
        connections: &mut Connections,
        local: u32,
        channel: &ChannelName,
        join: Join,
    ) {
        let Join { id, request, joined } = join;
        let Subscribed { position, mut recovered, mut missed, presence, watch, member } = joined;
        if !self.may_queue(connections, id, &missed) {
            (recovered, missed) = (false, Vec::new());
            connections.counters_mut().recoveries_deferred += 1;
        }
        let key = self.sessions.key_of(id);
        let entry = key.and_then(|key| self.sessions.get(key));
        let expected = entry.and_then(|entry| {
            let number = entry.session.find_pending_subscription(request, channel.as_str())?;
            Some((entry.slot, number))
        });
        let (Some(session), Some((index, number))) = (key, expected) else {
            let from = Origin::Session { id, request };
            let retention = Retention { messages_max: 0, ttl_ms: 0 };
            let verb = Verb::Leave { watch, member };
            let leave = Request { from, channel: channel.clone(), retention, verb };
            return self.send_request(connections, None, leave);
        };
        let member = Member { session, subscription: number as u32 };
        let (member_index, watcher_index) = self.members.add_member(local, member, watch);
        let watcher_index = watcher_index.unwrap_or(NONE);
        let member_indexes = MemberIndexes { local, member_index, watcher_index };
        let presence = presence.as_ref();
        let by = JoinAnswer { channel, member_indexes, position, recovered, presence };
        let now_ns = connections.now_ns();
        self.call_session(index, now_ns, super::BUDGET, |session, call| {
            session.complete_subscribe(call, request, &by);
        });
        if !missed.is_empty()
            && let Some(entry) = self.entry_mut(index)
        {
            let backlog = entry.backlog.get_or_insert_default();
            count_change(connections, backlog, |backlog| {
                missed.into_iter().for_each(|one| backlog.push(Item::Missed(one)));
            });
        }
        self.report_subscribed(connections, id, channel);
        self.touched.push(index);
        self.apply_effects(connections, index);
        self.reschedule(connections, index);
    }

    /// Returns whether recovered messages may be queued. All recovered messages in the shard must
    /// stay within the limit of its outboxes: otherwise slow consumers could keep any amount of
    /// history in memory after it was trimmed. Above half of the limit, each connection may have
    /// at most the messages of one recovery.
    fn may_queue(
        &self,
        connections: &Connections,
        id: ConnectionId,
        missed: &[Arc<Publication>],
    ) -> bool {
        let bytes: u64 = missed.iter().map(|one| one.bytes() as u64).sum();
        if bytes == 0 {
            return true;
        }
        let config = connections.config();
        let most = config.limits.outbox_shard_bytes_max as u64;
        let all = connections.backlogs().missed_bytes as u64 + bytes;
        let entry = self.sessions.find(id);
        let waiting = entry.and_then(|one| one.backlog.as_ref());
        let own = bytes + waiting.map_or(0, |backlog| backlog.size().missed_bytes as u64);
        all <= most && (all <= most / 2 || own <= config.hub.recover_bytes_max)
    }
}

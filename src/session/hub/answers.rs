//! Translates replies of homes into replies to the client.

use std::sync::Arc;

use super::Call;
use super::app::note_cache_miss;
use super::by_server::{Reason, taken_back};
use super::pending::{Asked, AskedKind};
use super::state::{Fate, HubSession};
use crate::hub::{
    Answer, ChannelName, MemberInfo, Origin, Position, PresencePage, Publication, Refused,
};
use crate::hub::{Request, Retention, Verb};
use crate::session::protocol::Reply;

/// The indexes of a subscription among the members of its channel on this shard.
#[derive(Clone, Copy, Debug)]
pub struct MemberIndexes {
    pub local: u32,
    pub member_index: u32,
    pub watcher_index: u32,
}

/// A reply that makes the session a member of a channel.
#[derive(Debug)]
pub struct JoinAnswer<'a> {
    pub channel: &'a ChannelName,
    pub member_indexes: MemberIndexes,
    pub position: Position,
    pub recovered: bool,
    pub presence: Option<&'a PresencePage>,
}

impl HubSession {
    /// Returns the subscription that a request is for, if it is still pending.
    pub fn find_pending_subscription(&self, request: u32, channel: &str) -> Option<usize> {
        self.pending.as_ref()?.asked.iter().find(|asked| asked.request == request)?;
        self.find(channel).filter(|at| !self.subscriptions[*at].is_live())
    }

    pub(super) fn take_asked(&mut self, request: u32) -> Option<Asked> {
        let pending = self.pending.as_mut()?;
        // Homes mostly reply in order; replies of different homes may overtake each other.
        if let Some(first) = pending.asked.pop_front_if(|asked| asked.request == request) {
            return Some(first);
        }
        let at = pending.asked.iter().position(|asked| asked.request == request)?;
        pending.asked.remove(at)
    }

    /// Completes a subscription after the home has replied and the shard has added the member.
    pub fn complete_subscribe(&mut self, call: &mut Call<'_>, request: u32, by: &JoinAnswer<'_>) {
        let Some(asked) = self.take_asked(request) else { return };
        let Some(at) = self.find(by.channel.as_str()) else { return };
        let subscription = &mut self.subscriptions[at];
        // The shard's copy of the name is shared by all its members, which saves memory.
        subscription.channel = by.channel.clone();
        let MemberIndexes { local, member_index, watcher_index } = by.member_indexes;
        (subscription.local, subscription.member_index, subscription.watcher_index) =
            (local, member_index, watcher_index);
        // Rights may have changed while the home was replying: apply that now.
        let fate = std::mem::take(&mut subscription.fate);
        let name = by.channel.as_str();
        let ends = match fate {
            Fate::Stays => None,
            Fate::Review => {
                let lost = self.drop_void_grant(call, name);
                (!self.may_stay(call, name, lost)).then(|| lost.unwrap_or(Reason::Rights))
            }
            Fate::Ends => Some(Reason::Server),
        };
        let refusal = ends.map(|_| taken_back());
        // A backend ended it after another call of a backend had subscribed: that call succeeded.
        let refused = refusal.as_ref().filter(|_| ends != Some(Reason::Server));
        self.note_outcome(call, name, refused.map_or(Ok(()), Err));
        if asked.kind == AskedKind::Resume {
            let mut outcome = Ok((by.position, by.recovered));
            if let Some(refusal) = &refusal {
                self.end_subscription(call, at);
                outcome = Err(refusal);
            }
            self.took_up(call, name, outcome);
            return self.lift_bar(call);
        }
        // The right to see the members may have been lost since the home listed them.
        let shows_members = fate == Fate::Stays || self.may_watch(call, name);
        let grant = self.sealed_grant(call, name);
        call.queue_reply(&Reply::Subscribed {
            id: asked.id.as_deref(),
            channel: name,
            position: by.position,
            recovered: by.recovered,
            presence: by.presence.filter(|_| shows_members),
            grant: grant.as_deref(),
        });
        if ends.is_none() {
            self.ask_for_cached(call, by.channel, by.position);
        }
        // The client has its reply, so that it can match the end of the subscription that follows.
        if let Some(reason) = ends {
            self.end_unasked(call, at, reason);
        } else if fate == Fate::Review {
            self.review_subscription(call, at);
        }
        self.lift_bar(call);
    }

    /// Processes any other reply of a home.
    pub fn handle_reply(
        &mut self,
        call: &mut Call<'_>,
        request: u32,
        channel: &ChannelName,
        answer: &Answer,
    ) {
        let Some(asked) = self.take_asked(request) else { return };
        let id = asked.id.as_deref();
        let (name, channel) = (channel, channel.as_str());
        match answer {
            Answer::Published { position, duplicate } => {
                self.note_published(name);
                let (position, duplicate) = (*position, *duplicate);
                call.queue_reply(&Reply::Published { id, channel, position, duplicate });
            }
            Answer::Presence(page) => call.queue_reply(&Reply::Presence { id, channel, page }),
            Answer::History { position, messages } => {
                let encoder = call.realm.protocols.encoder(call.protocol);
                let position = *position;
                if let AskedKind::Cached { joined_at } = asked.kind
                    && (self.find(channel).is_none() || is_later(messages, position, joined_at))
                {
                    return self.lift_bar(call);
                }
                if messages.is_empty() && matches!(asked.kind, AskedKind::Cached { .. }) {
                    note_cache_miss(call, name);
                }
                call.queue_reply(&Reply::History { id, channel, position, messages, encoder });
            }
            Answer::Refused(refusal) => self.was_refused(call, &asked, channel, refusal),
            Answer::Subscribed(_) | Answer::Trimmed { .. } | Answer::Described { .. } => {}
        }
        self.lift_bar(call);
    }

    fn was_refused(
        &mut self,
        call: &mut Call<'_>,
        asked: &Asked,
        channel: &str,
        refusal: &Refused,
    ) {
        // Undo a new subscription that was rejected. A restarted one is not live either by now.
        if asked.kind.is_subscription()
            && let Some(at) = self.find(channel)
            && !self.subscriptions[at].is_live()
        {
            let subscription = self.take_subscription(at);
            self.take_member(&subscription.channel);
            self.drop_grant(channel);
            call.effects.renumbered = true;
        }
        if asked.kind.is_subscription() {
            self.note_outcome(call, channel, Err(refusal));
        }
        if asked.kind == AskedKind::Resume {
            return self.took_up(call, channel, Err(refusal));
        }
        if asked.kind == AskedKind::ByServer {
            return;
        }
        call.effects.errors += 1;
        let id = asked.id.as_deref();
        if asked.kind.is_subscription() {
            let refused = refusal;
            return call.queue_reply(&Reply::SubscriptionRefused { id, channel, refused });
        }
        call.say_error(id, refusal);
    }

    /// Sends the change of a member's name to the channel's home.
    pub(super) fn send_rename(
        &self,
        call: &mut Call<'_>,
        channel: ChannelName,
        old: Arc<MemberInfo>,
        new: Arc<MemberInfo>,
    ) {
        if old == new {
            return;
        }
        call.effects.asks.push(Request {
            from: Origin::Session { id: self.id, request: 0 },
            channel,
            retention: Retention { messages_max: 0, ttl_ms: 0 },
            verb: Verb::Rename { old, new },
        });
    }
}

/// Returns whether the last message of a channel, whose position was read with it, is delivered to
/// a member that has joined before.
fn is_later(messages: &[Arc<Publication>], position: Position, joined_at: Position) -> bool {
    let is_of_new_epoch = position.epoch != joined_at.epoch;
    messages.iter().any(|one| is_of_new_epoch || one.offset() > joined_at.offset)
}

//! What backends and operators ask of connections and homes.

use std::collections::BinaryHeap;

use tokio::sync::oneshot;

use super::Broadcast;
use super::mail::{
    Act, Channels, ConnectionInfo, CountReply, Filter, HubMail, Listed, Reached, Target,
};
use crate::auth::Subject;
use crate::hub::ChannelName;
use crate::session::hub::HubSession;
use crate::shard::core::Core;
use crate::shard::slot::Stage;
use crate::shard::timers;

/// Connections looked at for one list: a page is filled over several requests if need be.
const LISTED_SLOTS: usize = 16_384;
/// Channels looked at for a list in one turn: there may be a million.
const LISTED_CHANNELS: usize = 4096;

/// The channels whose names come first after another, as far as they have been looked at.
pub(super) struct ChannelList {
    pub(super) prefix: Box<str>,
    pub(super) after: Option<Box<str>>,
    pub(super) limit: u32,
    pub(super) reply: oneshot::Sender<Channels>,
    /// The largest of those kept stands on top, to be replaced by a smaller one.
    pub(super) first: BinaryHeap<(ChannelName, u32)>,
    pub(super) cursor: usize,
}

impl ChannelList {
    fn see(&mut self, name: &ChannelName, members: u32) {
        let wanted = name.as_str().starts_with(&*self.prefix)
            && self.after.as_deref().is_none_or(|after| name.as_str() > after);
        let full = self.first.len() >= self.limit as usize;
        if !wanted || full && self.first.peek().is_some_and(|(top, _)| top <= name) {
            return;
        }
        if full {
            self.first.pop();
        }
        self.first.push((name.clone(), members));
    }
}

impl Core {
    /// Does something with connections; `reply` hears of how many it reached.
    pub(super) fn act(&mut self, target: Target, act: Act, reply: Option<CountReply>) {
        let Some(hub) = &mut self.hub else { return };
        let slots = match target {
            Target::All => {
                return hub.broadcasts.push_back(Broadcast {
                    act,
                    next_slot: 0,
                    reached: 0,
                    reply,
                });
            }
            Target::User(user) => {
                // What was handed out since it was decided is revoked as well.
                let realm = &hub.shared.realm;
                match &act {
                    Act::Disconnect { .. } => {
                        realm.revoke(&Subject::User(user.to_string()), hub.unix_ms);
                    }
                    Act::Unsubscribe(channel) => {
                        let subject = Subject::User(user.to_string());
                        realm.revoke_channel(&subject, channel.as_str(), hub.unix_ms);
                    }
                    Act::Send(_) | Act::Subscribe(_) | Act::RenewTicket => {}
                }
                hub.users.get(&user).cloned().unwrap_or_default()
            }
            Target::Connection(id) => {
                let slot = self.slot_of(id);
                if let Some(index) = slot {
                    self.revoke(index, &act);
                }
                slot.into_iter().collect()
            }
        };
        if let Act::Subscribe(channel) = &act {
            return self.subscribe_all(&slots, channel, reply);
        }
        let reached = slots.iter().filter(|index| self.act_on(**index, &act)).count();
        if let Some(reply) = reply {
            // Nobody waits any more if this fails.
            let _ = reply.send(Reached { count: reached as u64, refused: None });
        }
    }

    /// Subscribes connections; the reply follows when the channel's home has answered for all.
    fn subscribe_all(&mut self, slots: &[u32], channel: &ChannelName, reply: Option<CountReply>) {
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return };
        let number = hub.calls.begin(reply);
        for &index in slots {
            let Some(hub) = &mut self.hub else { return };
            let Some((session, mut call)) = hub.call(index, now_ns) else { continue };
            session.subscribe_by_server(&mut call, channel.as_str(), number);
            hub.calls.ask(number);
            hub.touched.push(index);
            self.hub_apply(index);
        }
        if let Some(hub) = &mut self.hub {
            hub.calls.asked(number);
        }
    }

    /// Revokes what an act on one connection takes from it.
    fn revoke(&mut self, index: u32, act: &Act) {
        let Some(hub) = &mut self.hub else { return };
        let Some(seated) = hub.seated(index) else { return };
        let (realm, session) = (&hub.shared.realm, &seated.session);
        match act {
            Act::Disconnect { .. } => {
                session.revoke(realm, hub.unix_ms);
                // The user's other connections keep their place, and need tickets for it.
                let Some(user) = session.user().cloned() else { return };
                for shard in 0..hub.shards as u16 {
                    let target = Target::User(user.clone());
                    let mail = HubMail::Act { target, act: Act::RenewTicket, reply: None };
                    if shard == self.id {
                        hub.post_here(mail);
                    } else {
                        hub.posts.push((shard, mail));
                    }
                }
            }
            Act::Unsubscribe(channel) => {
                session.revoke_channel(realm, channel.as_str(), hub.unix_ms);
            }
            Act::Send(_) | Act::Subscribe(_) | Act::RenewTicket => {}
        }
    }

    /// Returns whether there was something to act on.
    pub(super) fn act_on(&mut self, index: u32, act: &Act) -> bool {
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return false };
        if hub.seated(index).is_none() || !self.slots.contains(index as usize) {
            return false;
        }
        hub.touched.push(index);
        match act {
            Act::Send(publication) => {
                // A connection that has not authenticated is no client yet.
                let is_known =
                    hub.seated(index).is_some_and(|one| one.session.identity().is_some());
                if is_known {
                    self.send_direct(index, publication);
                }
                is_known
            }
            Act::RenewTicket => {
                let Some((session, mut call)) = hub.call(index, now_ns) else { return false };
                session.renew_ticket(&mut call);
                self.hub_apply(index);
                true
            }
            Act::Disconnect { code, reason } => {
                self.close(index, *code, reason, 0);
                true
            }
            // Answered later than the others, see `subscribe_all`.
            Act::Subscribe(_) => false,
            Act::Unsubscribe(channel) => {
                let Some((session, mut call)) = hub.call(index, now_ns) else { return false };
                let ended = session.unsubscribe_by_server(&mut call, channel.as_str());
                self.hub_apply(index);
                ended
            }
        }
    }

    /// Lists connections by slot.
    pub(super) fn list(&self, filter: &Filter, reply: oneshot::Sender<Listed>) {
        let mut listed = Listed::default();
        let end = self.slots_high.min(filter.from_slot.saturating_add(LISTED_SLOTS as u32));
        for index in filter.from_slot..end {
            if listed.connections.len() >= filter.limit as usize {
                listed.next_slot = Some(index);
                break;
            }
            if self.is_wanted(index, filter) {
                listed.connections.extend(self.describe(index));
            }
        }
        if listed.next_slot.is_none() && end < self.slots_high {
            listed.next_slot = Some(end);
        }
        // Nobody waits any more if this fails.
        let _ = reply.send(listed);
    }

    /// Whether a list wants a connection: asked of very many, of which few are described.
    fn is_wanted(&self, index: u32, filter: &Filter) -> bool {
        let address = || self.slots.get(index as usize)?.peer.get().map(|peer| peer.ip());
        let user = || self.hub.as_ref()?.user(index);
        filter.user.as_ref().is_none_or(|wanted| user() == Some(wanted))
            && filter.address.is_none_or(|wanted| address() == Some(wanted))
    }

    pub(super) fn describe(&self, index: u32) -> Option<ConnectionInfo> {
        let slot = self.slots.get(index as usize)?;
        if !matches!(slot.stage, Stage::Open(_)) {
            return None;
        }
        let hub = self.hub.as_ref()?;
        let seated = hub.seated(index)?;
        let session: &HubSession = &seated.session;
        let age_ticks = u64::from(self.tick.saturating_sub(slot.opened_tick));
        let outbox = slot.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
        let backlog = seated.backlog.as_ref().map(|backlog| backlog.size()).unwrap_or_default();
        let backlog = backlog.bytes + backlog.missed_bytes;
        let route = &self.config.routes.as_slice()[usize::from(slot.route)];
        Some(ConnectionInfo {
            connection: session.id.to_string(),
            user: session.user().map(ToString::to_string),
            address: slot.peer.get().map(|peer| peer.to_string()),
            path: route.path.clone(),
            shard: self.id,
            since: hub.unix_ms.saturating_sub(age_ticks * timers::TICK_MS),
            bytes_received: slot.bytes_received,
            bytes_sent: slot.bytes_sent,
            messages_received: slot.messages_received,
            messages_sent: slot.messages_sent,
            queue_bytes: (outbox + backlog) as u64,
            dropped: session.dropped,
            rtt_us: (seated.rtt_us > 0).then_some(seated.rtt_us),
            subscriptions: session
                .subscriptions
                .iter()
                .filter(|one| one.is_live())
                .map(|one| one.channel.to_string())
                .collect(),
            tcp: None,
            tcp_error: None,
        })
    }

    /// Goes on with the list of channels that was asked for first, by a turn's share.
    pub(super) fn list_channels_on(&mut self) {
        let Some(hub) = &mut self.hub else { return };
        let Some(mut list) = hub.lists.pop_front() else { return };
        let next = hub.home.scan(list.cursor, LISTED_CHANNELS, |name, members| {
            list.see(name, members);
        });
        match next {
            Some(cursor) => hub.lists.push_front(ChannelList { cursor, ..list }),
            None => {
                // Nobody waits any more if this fails.
                let _ = list.reply.send(Channels { names: list.first.into_sorted_vec() });
            }
        }
    }

    /// Text of the server's own to a connection: an answer or a notice.
    pub(super) fn say(&mut self, index: u32, text: String) {
        self.tell(index, text.into_bytes());
    }
}

//! Commands of backends and operators: actions on connections, and lists.

use std::collections::BinaryHeap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Hub;
use super::broadcast::Broadcast;
use super::session_table::SessionEntry;
use crate::auth::Subject;
use crate::backend::hook_line::HookOrder;
use crate::hub::ChannelName;
use crate::session::hub::HubSession;
use crate::shard::connections::{Connections, Goodbye};
use crate::shard::mail::{
    Act, Channels, ConnectionInfo, ConnectionTarget, CountReply, HubMail, Reached,
};

/// Channels scanned for a list in one turn: there may be a million.
const LISTED_CHANNELS: usize = 4096;

/// A list of channels in progress: the first ones after a name, of those scanned so far.
pub(super) struct ChannelList {
    pub(super) prefix: Box<str>,
    pub(super) after: Option<Box<str>>,
    pub(super) limit: u32,
    pub(super) reply: oneshot::Sender<Channels>,
    /// A max-heap: the largest name is on top, to be replaced by a smaller one.
    pub(super) first: BinaryHeap<(ChannelName, u32)>,
    pub(super) cursor: usize,
}

impl ChannelList {
    /// Adds a channel if it passes the filter and is among the first ones by name.
    fn add_if_wanted(&mut self, name: &ChannelName, members: u32) {
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

impl Hub {
    /// Starts an action on connections; `reply` receives the number that it reached.
    pub(super) fn start_action(
        &mut self,
        connections: &mut Connections,
        target: ConnectionTarget,
        act: Act,
        reply: Option<CountReply>,
    ) {
        if let Act::NotifyEngine(notice) = act {
            self.engine = notice;
        }
        let slots = match target {
            ConnectionTarget::All => {
                let broadcast = Broadcast { act, next_key: 0, reached: 0, reply };
                return self.broadcasts.push_back(broadcast);
            }
            ConnectionTarget::User(user) => {
                self.revoke_of_user(connections, &user, &act);
                let keys = self.users.get(&user).into_iter().flatten();
                keys.filter_map(|key| self.sessions.slot_of(*key)).collect()
            }
            ConnectionTarget::Connection(id) => {
                let slot = self.slot_of(id);
                if let Some(index) = slot {
                    self.revoke_of_connection(connections, index, &act);
                }
                slot.into_iter().collect::<Vec<_>>()
            }
        };
        if let Act::Subscribe(channel) = &act {
            return self.subscribe_all(connections, &slots, (channel, u64::MAX), reply);
        }
        let reached = slots.iter().filter(|index| self.act_on(connections, **index, &act)).count();
        if let Some(reply) = reply {
            // The requester may be gone: ignore the error.
            let _ = reply.send(Reached { count: reached as u64, refused: None });
        }
    }

    /// Subscribes connections, until this time (Unix, s); the reply is sent when the channel's home
    /// has answered for all.
    pub(super) fn subscribe_all(
        &mut self,
        connections: &mut Connections,
        slots: &[u32],
        (channel, expires_s): (&ChannelName, u64),
        reply: Option<CountReply>,
    ) {
        let number = self.calls.begin_call(reply);
        for &index in slots {
            // An application behind a link has records for this.
            if self.entry(index).is_none_or(SessionEntry::is_linked) {
                continue;
            }
            self.calls.add_asked(number);
            self.with_session(connections, index, |session, call| {
                session.subscribe_by_server(call, channel.as_str(), expires_s, number);
            });
            self.touched.push(index);
        }
        self.calls.finish_asking(number);
    }

    /// Revokes the tickets or grants that an action removes from a user, including those issued
    /// since the backend made the call.
    fn revoke_of_user(&self, connections: &Connections, user: &Arc<str>, act: &Act) {
        let (realm, subject) = (&self.shared.realm, Subject::User(user.to_string()));
        if matches!(act, Act::Disconnect { .. } | Act::Unsubscribe(_)) {
            forget_answers(connections, user);
        }
        match act {
            Act::Disconnect { .. } => {
                realm.revoke(&subject, self.unix_ms);
            }
            Act::Unsubscribe(channel) => {
                realm.revoke_channel(&subject, channel.as_str(), self.unix_ms);
            }
            Act::Send(_) | Act::Subscribe(_) | Act::RenewTicket | Act::NotifyEngine(_) => {}
        }
    }

    /// Revokes the tickets or grants that an action removes from a connection.
    fn revoke_of_connection(&mut self, connections: &Connections, index: u32, act: &Act) {
        let Some(entry) = self.entry(index) else { return };
        let (realm, session) = (&self.shared.realm, &entry.session);
        if let (Act::Disconnect { .. } | Act::Unsubscribe(_), Some(user)) = (act, session.user()) {
            forget_answers(connections, user);
        }
        match act {
            Act::Disconnect { .. } => {
                session.revoke_tickets(realm, self.unix_ms);
                // That also revokes the tickets of the user's other connections, which stay open
                // and need new ones.
                let Some(user) = session.user().cloned() else { return };
                for shard in 0..self.shards as u16 {
                    let target = ConnectionTarget::User(user.clone());
                    self.post_mail(
                        shard,
                        HubMail::Act { target, act: Act::RenewTicket, reply: None },
                    );
                }
            }
            Act::Unsubscribe(channel) => {
                session.revoke_channel(realm, channel.as_str(), self.unix_ms);
            }
            Act::Send(_) | Act::Subscribe(_) | Act::RenewTicket | Act::NotifyEngine(_) => {}
        }
    }

    /// Applies an action to one connection; returns whether it had an effect.
    pub(super) fn act_on(&mut self, connections: &mut Connections, index: u32, act: &Act) -> bool {
        let Some(entry) = self.entry(index) else { return false };
        if entry.is_linked() && !matches!(act, Act::Unsubscribe(_)) {
            // The gateway closes it, and its application sends to it.
            return false;
        }
        // A connection that has not authenticated receives nothing.
        let is_known = entry.session.identity().is_some();
        self.touched.push(index);
        match act {
            Act::Send(publication) => {
                if is_known {
                    self.send_direct(connections, index, publication);
                }
                is_known
            }
            Act::RenewTicket => {
                let renew = HubSession::renew_ticket;
                self.with_session(connections, index, renew).is_some()
            }
            Act::Disconnect { code, reason } => {
                connections.close(self, index, Goodbye { code: *code, reason, retry_after_ms: 0 });
                true
            }
            // The state may have changed again since the action started.
            Act::NotifyEngine(_) => self.send_engine_notice(connections, index),
            // Handled by `subscribe_all`, because its outcome comes later.
            Act::Subscribe(_) => false,
            Act::Unsubscribe(channel) => {
                let ended = self.with_session(connections, index, |session, call| {
                    session.unsubscribe_by_server(call, channel.as_str())
                });
                ended.unwrap_or(false)
            }
        }
    }

    /// Describes a hub connection for an operator.
    pub(in crate::shard) fn describe_connection(
        &self,
        connections: &Connections,
        index: u32,
    ) -> Option<ConnectionInfo> {
        let entry = self.entry(index)?;
        let session = &entry.session;
        let backlog = entry.backlog.as_ref().map(|backlog| backlog.size()).unwrap_or_default();
        let backlog_bytes = (backlog.bytes + backlog.missed_bytes) as u64;
        let live = session.subscriptions.iter().filter(|one| one.is_live());
        let mut info = connections.describe_connection(index, self.unix_ms)?;
        info.connection = session.id.to_string();
        info.user = session.user().map(ToString::to_string);
        info.queue_bytes += backlog_bytes;
        info.dropped = session.dropped;
        info.rtt_us = (entry.rtt_us > 0).then_some(entry.rtt_us);
        info.subscriptions = live.map(|one| one.channel.to_string()).collect();
        Some(info)
    }

    /// Continues with the oldest list of channels, by a turn's share.
    pub(super) fn continue_channel_list(&mut self) {
        let Some(mut list) = self.lists.pop_front() else { return };
        let next = self.home.scan_channels(list.cursor, LISTED_CHANNELS, |name, members| {
            list.add_if_wanted(name, members);
        });
        match next {
            Some(cursor) => self.lists.push_front(ChannelList { cursor, ..list }),
            None => {
                // The requester may be gone: ignore the error.
                let _ = list.reply.send(Channels { names: list.first.into_sorted_vec() });
            }
        }
    }
}

/// Has applications asked about a user the next time, although they allowed their answers to be
/// cached.
fn forget_answers(connections: &Connections, user: &Arc<str>) {
    if let Some(hooks) = connections.hooks() {
        // Fails only when the process is ending.
        let _ = hooks.send(HookOrder::ForgetUser { user: user.clone() });
    }
}

//! Calls the sessions of connections, applies the effects of these calls, and counts users.

use std::sync::Arc;

use super::backlog::count_change;
use super::questions::cancel_questions;
use super::session_table::{SessionEntry, SessionTable};
use super::{BUDGET, Hub};
use crate::admission::tables::Entered;
use crate::auth::Identity;
use crate::hub::{ConnectionId, Member, ProtocolId, Request, Verb};
use crate::proto::ws::DataKind;
use crate::session::hub::{Budget, Call, Effects, HubSession, Left, NONE, Subscription};
use crate::shard::connections::{
    Connections, Goodbye, QueuedSize, REPLY_BYTES, REQUEST_EFFORT, Sessions, UNSET, ticks,
};
use crate::shard::mail::HubMail;

impl Hub {
    /// Adds the session of a connection that was just opened, and reports it.
    pub(super) fn insert_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        protocol: ProtocolId,
    ) {
        self.serial = self.serial.wrapping_add(1);
        let realm = &self.shared.realm;
        let (node, shard, serial) = (realm.node, self.id, self.serial);
        self.sessions.insert(index, protocol, |session| {
            let id = ConnectionId { node, shard, session, serial };
            HubSession::new(id, identity, realm, self.unix_ms)
        });
        if let Some((id, user)) = self.client(index) {
            connections.report_open(index, id, user);
        }
    }

    /// Calls the session at a slot, and applies the effects; `None` if there is no session.
    pub(super) fn with_session<R>(
        &mut self,
        connections: &mut Connections,
        index: u32,
        call: impl FnOnce(&mut HubSession, &mut Call<'_>) -> R,
    ) -> Option<R> {
        let result = self.call_session(index, connections.now_ns(), BUDGET, call)?;
        self.apply_effects(connections, index);
        Some(result)
    }

    /// Calls the session at a slot; [`Self::apply_effects`] must follow.
    pub(super) fn call_session<R>(
        &mut self,
        index: u32,
        now_ns: u64,
        budget: Budget,
        call: impl FnOnce(&mut HubSession, &mut Call<'_>) -> R,
    ) -> Option<R> {
        let entry = self.sessions.at_mut(index)?;
        let (realm, now_ms) = (&self.shared.realm, self.unix_ms);
        let effects = &mut **self.effects.get_or_insert_default();
        let protocol = entry.protocol;
        debug_assert!(effects.is_empty(), "effects are applied before the next call");
        let index_bytes = entry.session.index_bytes();
        let mut world = Call { realm, protocol, now_ms, now_ns, budget, effects };
        let result = call(&mut entry.session, &mut world);
        self.index_bytes = self.index_bytes + entry.session.index_bytes() - index_bytes;
        Some(result)
    }

    /// Lists a session under its user.
    pub(super) fn list_user(&mut self, index: u32) {
        let Self { users, sessions, .. } = self;
        let Some(key) = sessions.key_at(index) else { return };
        let Some(entry) = sessions.get_mut(key) else { return };
        let Some(user) = entry.session.user() else { return };
        let keys = users.entry(user.clone()).or_default();
        entry.user_index = keys.len() as u32;
        keys.push(key);
    }

    /// Counts a connection towards its user's limit.
    ///
    /// # Errors
    /// When the user is at the limit.
    pub(super) fn count_user(&mut self, index: u32, connections_max: u32) -> Result<(), ()> {
        let Self { sessions, shared, .. } = self;
        let Some(entry) = sessions.at_mut(index) else { return Ok(()) };
        let Some(user) = entry.session.user() else { return Ok(()) };
        let entered = shared.realm.admission.enter_user(user, connections_max);
        entry.counted = entered == Entered::Counted;
        if entered == Entered::Full { Err(()) } else { Ok(()) }
    }

    /// Removes a session from its user's list. The last session takes its index, because a search
    /// would be slow for a user with very many sessions.
    pub(super) fn unlist_user(&mut self, user: &Arc<str>, user_index: u32) {
        let Some(keys) = self.users.get_mut(user) else { return };
        keys.swap_remove(user_index as usize);
        let Some(&moved) = keys.get(user_index as usize) else {
            if keys.is_empty() {
                self.users.remove(user);
            }
            return;
        };
        if let Some(entry) = self.sessions.get_mut(moved) {
            entry.user_index = user_index;
        }
    }

    /// Removes members from their channels in this shard.
    fn remove_members(&mut self, left: &[Left]) {
        let Self { members, sessions, .. } = self;
        for one in left {
            for (index, is_news) in [(one.watcher_index, true), (one.member_index, false)] {
                if index == NONE {
                    continue;
                }
                members.remove(one.local, index, is_news, |moved| {
                    let found = subscription(sessions, moved.member);
                    let Some(found) = found else { return };
                    *(if is_news { &mut found.watcher_index } else { &mut found.member_index }) =
                        moved.index;
                });
            }
        }
    }

    /// Updates the subscription indexes in a connection's members, after subscriptions have moved.
    fn renumber_members(&mut self, index: u32) {
        let Self { members, sessions, .. } = self;
        let Some(entry) = sessions.at(index) else { return };
        for (number, one) in entry.session.subscriptions.iter().enumerate() {
            if one.is_live() {
                let watcher_index = (one.watcher_index != NONE).then_some(one.watcher_index);
                members.renumber(one.local, one.member_index, watcher_index, number as u32);
            }
        }
    }
}

fn subscription(sessions: &mut SessionTable, member: Member) -> Option<&mut Subscription> {
    let entry = sessions.get_mut(member.session)?;
    entry.session.subscriptions.get_mut(member.subscription as usize)
}

impl Hub {
    /// Applies the effects of the last call of the session at a slot.
    pub(super) fn apply_effects(&mut self, connections: &mut Connections, index: u32) {
        let Some(mut effects) = self.effects.take() else { return };
        let work = connections.work_mut();
        work.spend(u64::from(effects.requests) * REQUEST_EFFORT);
        work.spend(effects.reply_bytes as u64 / REPLY_BYTES);
        let has_changes = effects.has_changes();
        let is_one_too_many = has_changes && self.apply_changes(connections, index, &mut effects);
        if !effects.says.is_empty() {
            for text in effects.says.drain(..) {
                connections.send_message(index, DataKind::Text, text);
            }
        }
        if !effects.asks.is_empty() {
            for request in effects.asks.drain(..) {
                self.send_request(connections, Some(index), request);
            }
        }
        self.report_session(connections, index);
        if is_one_too_many {
            self.close_one_too_many(connections, index);
        } else if let Some((code, reason)) = effects.close.take() {
            let retry_after_ms = effects.retry_after_ms;
            connections.close(self, index, Goodbye { code, reason: &reason, retry_after_ms });
        } else {
            if effects.rescheduled {
                self.reschedule(connections, index);
            }
            connections.note_unfinished(index);
        }
        if has_changes {
            effects.clear();
        } else {
            effects.clear_words();
        }
        // Keep the allocation for the next call.
        self.effects = Some(effects);
    }

    /// Applies the effects that come before the session's replies and requests. Returns whether
    /// the connection exceeds its user's limit.
    fn apply_changes(
        &mut self,
        connections: &mut Connections,
        index: u32,
        effects: &mut Effects,
    ) -> bool {
        if let Some(entry) = self.entry_mut(index) {
            entry.named_late |= effects.named;
        }
        self.apply_to_members(connections, index, effects);
        let mut is_one_too_many = false;
        if effects.named {
            self.list_user(index);
            let most = connections.config().limits.admission.connections_per_user_max;
            // A connection that resumes another is counted when that one's shard has answered.
            if effects.continues.is_none() && self.count_user(index, most).is_err() {
                is_one_too_many = true;
            }
        }
        self.report_app_events(connections, effects);
        self.ask_questions(connections, index, effects);
        for (kind, waited_ns) in effects.decided.drain(..) {
            connections.record_hook(kind, waited_ns);
        }
        cancel_questions(connections, index, effects);
        let counters = connections.counters_mut();
        counters.request_errors += u64::from(effects.errors);
        counters.resumed += u64::from(effects.resumed);
        effects.over_rate.drain(..).for_each(|kind| counters.count_over_rate(kind));
        if let Some(old) = effects.replaces {
            self.request_replacement(old, index);
        }
        for kind in effects.auth_failures.drain(..) {
            connections.counters_mut().count_auth_failure(kind);
            connections.log_auth_failure(index, kind);
        }
        is_one_too_many
    }

    /// Removes members that the session has left, and their items in the backlog.
    fn apply_to_members(
        &mut self,
        connections: &mut Connections,
        index: u32,
        effects: &mut Effects,
    ) {
        if let Some(entry) = self.entry(index) {
            self.report_unsubscribed(connections, entry, &effects.left);
        }
        self.remove_members(&effects.left);
        if effects.renumbered {
            self.renumber_members(index);
        }
        if let Some(backlog) = self.entry_mut(index).and_then(|entry| entry.backlog.as_mut()) {
            count_change(connections, backlog, |backlog| {
                effects.purge.iter().for_each(|channel| backlog.purge(channel));
                effects.purge_news.iter().for_each(|channel| backlog.purge_news(channel));
            });
        }
        for (call, outcome) in effects.outcomes.drain(..) {
            self.calls.record_outcome(call, outcome);
        }
        self.linked.memberships.extend(effects.memberships.drain(..).map(|one| (index, one)));
    }

    /// Sends a request to its channel's home. `from`: the connection whose reading pauses if the
    /// channel or the home's mailbox is congested.
    pub(super) fn send_request(
        &mut self,
        connections: &Connections,
        from: Option<u32>,
        request: Request,
    ) {
        let bytes_max = connections.config().engine.mailbox_bytes_max as usize;
        let directory = connections.directory();
        let home = self.shared.home_of(request.channel.as_str(), self.shards);
        if matches!(request.verb, Verb::Publish { .. })
            && (directory.mail_bytes(home) > bytes_max || directory.is_congested(&request.channel))
            && let Some(index) = from.filter(|index| connections.contains(*index))
        {
            self.congested.insert(connections.token(index), request.channel.clone());
        }
        self.post_mail(home, HubMail::Ask(request));
    }

    /// Returns the slot of a connection, if it is still open.
    pub(super) fn slot_of(&self, id: ConnectionId) -> Option<u32> {
        self.sessions.find(id).map(|entry| entry.slot)
    }

    /// Returns the tick of the session's next deadline; [`UNSET`] if it has none.
    pub(super) fn due_tick(&self, connections: &Connections, index: u32) -> u32 {
        let realm = &self.shared.realm;
        let due_ms = self.entry(index).and_then(|entry| entry.session.deadline_ms(realm));
        let Some(due_ms) = due_ms else { return UNSET };
        let wait_ms = due_ms.saturating_sub(self.unix_ms).min(u64::from(u32::MAX / 2));
        connections.tick().saturating_add(ticks(wait_ms as u32) + 1)
    }

    /// Updates the session's deadline, and sets the connection's timer.
    pub(super) fn reschedule(&mut self, connections: &mut Connections, index: u32) {
        if self.entry(index).is_some_and(SessionEntry::is_linked) {
            // The gateway sets its deadlines.
            return;
        }
        self.reschedule_due(connections, index);
        if connections.contains(index) {
            connections.set_deadline(index);
        }
    }

    /// Removes the session at a slot and all references to it, and applies the effects of its end.
    pub(super) fn remove_session(&mut self, connections: &mut Connections, index: u32) {
        let Some(mut entry) = self.sessions.remove_at(index) else { return };
        if !self.congested.is_empty() {
            self.congested.remove(&connections.token(index));
        }
        self.index_bytes -= entry.session.index_bytes();
        let is_linked = entry.is_linked();
        // A separate structure: the session may end while the effects of its last call are applied.
        let mut effects = Effects::default();
        let mut call = Call {
            realm: &self.shared.realm,
            protocol: entry.protocol,
            now_ms: self.unix_ms,
            now_ns: connections.now_ns(),
            budget: BUDGET,
            effects: &mut effects,
        };
        entry.session.end_all(&mut call);
        self.report_unsubscribed(connections, &entry, &effects.left);
        self.remove_members(&effects.left);
        for (call, outcome) in effects.outcomes.drain(..) {
            self.calls.record_outcome(call, outcome);
        }
        cancel_questions(connections, index, &mut effects);
        if let Some(app) = entry.session.app() {
            app.leave();
        }
        if let Some(user) = entry.session.user() {
            if entry.counted {
                self.admission().leave_user(user);
            }
            self.unlist_user(user, entry.user_index);
        }
        if let Some(backlog) = entry.backlog {
            connections.count_backlog(backlog.size(), QueuedSize::default());
        }
        for request in effects.asks.drain(..) {
            self.send_request(connections, None, request);
        }
        if !is_linked {
            connections.set_session_due(index, UNSET);
            self.report_session(connections, index);
        }
    }
}

//! Hub connections: opened, heard, answered, ended. What a session wants done is done here.

use std::sync::Arc;

use super::backlog::{BacklogSize, Item, account};
use super::mail::HubMail;
use super::{BUDGET, HubState, Seated};
use crate::admission::Denied;
use crate::admission::tables::Entered;
use crate::auth::Identity;
use crate::config::HandlerName;
use crate::hub::{Answer, ChannelName, ConnectionId, Member, Op, Origin, Out, Publication};
use crate::hub::{Request, Verb};
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::reply;
use crate::session::hub::{Admission, Budget, Call, HubSession, Left, NONE, Seat, Subscription};
use crate::shard::core::Core;
use crate::shard::meter::TooMuch;
use crate::shard::slot::Stage;
use crate::shard::timers;
use crate::shard::work::{REPLY_BYTES, REQUEST_EFFORT};

/// A user has one connection more than it may have.
pub(super) fn too_many() -> (CloseCode, String) {
    (
        CloseCode::RATE_LIMITED,
        "this user has all the connections it may have: close one first".into(),
    )
}

impl HubState {
    /// The connection's session, with a call for it. `None`: it is none of the hub's.
    pub(super) fn call(&mut self, index: u32, now_ns: u64) -> Option<(&mut HubSession, Call<'_>)> {
        let seated = self.sessions.get_mut(index as usize)?.as_deref_mut()?;
        let realm = &self.shared.realm;
        let effects = &mut self.effects;
        let (now_ms, budget) = (self.unix_ms, self.budget);
        let call = Call { realm, now_ms, now_ns, budget, effects };
        Some((&mut seated.session, call))
    }

    /// Lists a connection under its user.
    fn list_user(&mut self, index: u32) {
        let Self { users, sessions, .. } = self;
        let Some(seated) = sessions[index as usize].as_deref_mut() else { return };
        let Some(user) = seated.session.user() else { return };
        let slots = users.entry(user.clone()).or_default();
        seated.place = slots.len() as u32;
        slots.push(index);
    }

    /// Counts a connection of a user.
    ///
    /// # Errors
    /// The user has as many as it may have.
    pub(super) fn count_user(&mut self, index: u32, connections_max: u32) -> Result<(), ()> {
        let Self { sessions, shared, .. } = self;
        let Some(seated) = sessions[index as usize].as_deref_mut() else { return Ok(()) };
        let Some(user) = seated.session.user() else { return Ok(()) };
        let entered = shared.realm.admission.enter_user(user, connections_max);
        seated.counted = entered == Entered::Counted;
        if entered == Entered::Full { Err(()) } else { Ok(()) }
    }

    /// A user may have very many connections: the last of them takes the place of the one that
    /// ends, so that nobody searches.
    fn unlist_user(&mut self, user: &Arc<str>, place: u32) {
        let Some(slots) = self.users.get_mut(user) else { return };
        slots.swap_remove(place as usize);
        let Some(&moved) = slots.get(place as usize) else {
            if slots.is_empty() {
                self.users.remove(user);
            }
            return;
        };
        if let Some(seated) = self.seated_mut(moved) {
            seated.place = place;
        }
    }

    /// Takes members from their channels here.
    fn remove_members(&mut self, left: &[Left]) {
        let Self { members, sessions, .. } = self;
        for one in left {
            for (place, news) in [(one.watching, true), (one.place, false)] {
                if place == NONE {
                    continue;
                }
                members.remove(one.local, place, news, |moved| {
                    let found = subscription(sessions, moved.member);
                    let Some(found) = found else { return };
                    *(if news { &mut found.watching } else { &mut found.place }) = moved.place;
                });
            }
        }
    }

    /// Tells the members which of the connection's subscriptions they are.
    fn renumber(&mut self, index: u32) {
        let Self { members, sessions, .. } = self;
        let Some(Some(seated)) = sessions.get(index as usize) else { return };
        for (number, one) in seated.session.subscriptions.iter().enumerate() {
            if one.is_live() {
                let watching = (one.watching != NONE).then_some(one.watching);
                members.renumber(one.local, one.place, watching, number as u32);
            }
        }
    }
}

fn subscription(sessions: &mut [Option<Box<Seated>>], member: Member) -> Option<&mut Subscription> {
    let seated = sessions.get_mut(member.slot as usize)?.as_mut()?;
    seated.session.subscriptions.get_mut(member.subscription as usize)
}

impl Core {
    /// Makes a hub session of a connection that was just opened.
    pub(in crate::shard) fn hub_open(&mut self, index: u32, identity: Option<Arc<Identity>>) {
        if self.route(index).handler != HandlerName::Hub {
            return;
        }
        let heartbeat_s = self.route(index).ping_interval_ms / 1000;
        let (id, now_ns) = (self.id, self.now_ns);
        let Some(hub) = &mut self.hub else { return };
        hub.serial = hub.serial.wrapping_add(1);
        let realm = &hub.shared.realm;
        let id = ConnectionId { node: realm.node, shard: id, slot: index, serial: hub.serial };
        let session = HubSession::new(id, identity, realm, hub.unix_ms);
        if hub.sessions.len() <= index as usize {
            hub.sessions.resize_with(index as usize + 1, || None);
        }
        hub.sessions[index as usize] =
            Some(Box::new(Seated { session, backlog: None, place: 0, counted: false, rtt_us: 0 }));
        hub.seated += 1;
        let most = self.config.limits.admission.connections_per_user_max;
        hub.list_user(index);
        let counted = hub.count_user(index, most);
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            session.greet(&mut call, heartbeat_s);
        }
        self.hub_apply(index);
        self.set_deadline(index);
        if counted.is_err() {
            self.close_one_too_many(index);
        }
    }

    /// Hands a message to its hub session. `too_much`: it is above a rate.
    pub(in crate::shard) fn hub_receive(
        hub: &mut Option<Box<HubState>>,
        (index, now_ns, budget): (u32, u64, Budget),
        (kind, payload): (DataKind, Payload<'_>),
        too_much: Option<TooMuch>,
    ) {
        let Some(hub) = hub else { return };
        hub.budget = budget;
        let Some((session, mut call)) = hub.call(index, now_ns) else { return };
        match (kind, too_much) {
            (DataKind::Text, Some(much)) => {
                session.refuse_frame(&mut call, payload, much.kind, much.wait_ms);
            }
            (DataKind::Text, None) => session.receive(&mut call, payload),
            (DataKind::Binary, _) => {
                let reason = "only text messages are spoken here: send JSON as text";
                call.effects.close = Some((CloseCode::UNSUPPORTED_DATA, reason.into()));
            }
        }
    }

    /// Continues with requests that had to wait.
    pub(in crate::shard) fn hub_continue(&mut self, index: u32) {
        let outbox = self.slots[index as usize].outbox.as_deref();
        let budget = self.work.requests(self.config.limits.outbox_high_bytes, outbox);
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return };
        hub.budget = budget;
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            session.take_turn(&mut call);
        }
        self.hub_apply(index);
    }

    /// Does what the session at this slot wants.
    pub(in crate::shard) fn hub_apply(&mut self, index: u32) {
        let Some(hub) = &mut self.hub else { return };
        let mut effects = std::mem::take(&mut hub.effects);
        hub.budget = BUDGET;
        self.work.spend(u64::from(effects.requests) * REQUEST_EFFORT);
        self.work.spend(effects.reply_bytes as u64 / REPLY_BYTES);
        hub.remove_members(&effects.left);
        if effects.renumbered {
            hub.renumber(index);
        }
        if let Some(backlog) = hub.seated_mut(index).and_then(|seated| seated.backlog.as_mut()) {
            let before = backlog.size();
            effects.purge.iter().for_each(|channel| backlog.purge(channel));
            effects.purge_news.iter().for_each(|channel| backlog.purge_news(channel));
            account(&mut self.gauges, before, backlog.size());
        }
        if effects.named {
            hub.list_user(index);
            let most = self.config.limits.admission.connections_per_user_max;
            // One that continues another is counted once that has answered.
            if effects.continues.is_none() && hub.count_user(index, most).is_err() {
                effects.close = Some(too_many());
                self.counters.deny(Denied::UserFull);
            }
        }
        for (call, outcome) in effects.outcomes.drain(..) {
            hub.calls.settle(call, outcome);
        }
        self.counters.request_errors += u64::from(effects.errors);
        self.counters.resumed += u64::from(effects.resumed);
        effects.over_rate.drain(..).for_each(|kind| self.counters.over_rate(kind));
        if let Some(old) = effects.replaces {
            hub.replace(self.id, old, index);
        }
        for kind in effects.auth_failures.drain(..) {
            self.counters.auth_failure(kind);
            self.log_auth_failure(index, kind);
        }
        for text in effects.says.drain(..) {
            self.say(index, text);
        }
        for request in effects.asks.drain(..) {
            self.ask(index, request);
        }
        if let Some((code, reason)) = effects.close.take() {
            self.close(index, code, &reason, effects.retry_after_ms);
        } else {
            if effects.rescheduled {
                self.set_deadline(index);
            }
            self.note_unfinished(index);
        }
        effects.clear();
        if let Some(hub) = &mut self.hub {
            hub.effects = effects;
        }
    }

    /// Takes a request to its channel's home.
    fn ask(&mut self, index: u32, request: Request) {
        let bytes_max = self.config.engine.mailbox_bytes_max as usize;
        let token = self.slots.contains(index as usize).then(|| self.token(index));
        let Some(hub) = &mut self.hub else { return };
        let home = hub.shared.home_of(request.channel.as_str(), hub.shards);
        let directory = &self.directory;
        if matches!(request.verb, Verb::Publish { .. })
            && (directory.mail_bytes(home) > bytes_max || directory.is_crowded(&request.channel))
        {
            hub.crowded.extend(token.map(|token| (token, request.channel.clone())));
        }
        let mail = HubMail::Ask(request);
        if home == self.id {
            hub.post_here(mail);
        } else {
            hub.posts.push((home, mail));
        }
    }

    /// Whether the hub has to hear from a home, or a mailbox to drain, before anything more is done
    /// for a connection.
    pub(in crate::shard) fn hub_waits(&self, index: u32) -> bool {
        let Some(hub) = &self.hub else { return false };
        let Some(seated) = hub.seated(index) else { return false };
        seated.session.is_waiting()
            || (!hub.crowded.is_empty() && hub.crowded.contains_key(&self.token(index)))
    }

    /// Whether requests of a connection wait for their turn, or for what [`Self::hub_waits`] for.
    pub(in crate::shard) fn hub_has_requests(&self, index: u32) -> bool {
        let seated = self.hub.as_ref().and_then(|hub| hub.seated(index));
        seated.is_some_and(|seated| seated.session.has_requests())
    }

    /// Something from a channel's home.
    pub(super) fn hub_out(&mut self, out: Out) {
        let Some(hub) = &mut self.hub else { return };
        match out {
            Out::Publish(publication) => {
                if let Some(channel) = publication.channel.clone() {
                    hub.members.push(&channel, Op::Publish(publication));
                }
            }
            Out::News(publication) => {
                if let Some(channel) = publication.channel.clone() {
                    hub.members.push(&channel, Op::News(publication));
                }
            }
            Out::EpochChanged { channel, position } => {
                hub.members.push(&channel, Op::EpochChanged(position));
            }
            Out::Answer { id, request, channel, answer: answer @ Answer::Subscribed { .. } } => {
                hub.members.push(&channel, Op::Join { id, request, answer });
            }
            Out::Answer { id, request, channel, answer } => {
                self.hear(id, request, &channel, &answer);
            }
        }
    }

    /// The slot of a connection that lives.
    pub(super) fn slot_of(&self, id: ConnectionId) -> Option<u32> {
        let hub = self.hub.as_ref()?;
        let seated = hub.seated(id.slot)?;
        (seated.session.id == id).then_some(id.slot)
    }

    fn hear(&mut self, id: ConnectionId, request: u32, channel: &ChannelName, answer: &Answer) {
        let Some(index) = self.slot_of(id) else { return };
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return };
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            session.hear(&mut call, request, channel, answer);
        }
        hub.touched.push(index);
        self.hub_apply(index);
    }

    /// Somebody becomes a member, or is gone by now, which the home must hear.
    pub(super) fn join(
        &mut self,
        local: u32,
        (id, request): (ConnectionId, u32),
        channel: &ChannelName,
        answer: Answer,
    ) {
        let Answer::Subscribed { position, mut recovered, mut missed, presence, watch, member } =
            answer
        else {
            return;
        };
        if !self.may_queue(id, &missed) {
            (recovered, missed) = (false, Vec::new());
            self.counters.recoveries_deferred += 1;
        }
        let index = self.slot_of(id);
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return };
        let seated = index.and_then(|index| hub.seated(index));
        let expected = seated.and_then(|seated| seated.session.expects(request, channel.as_str()));
        let (Some(index), Some(number)) = (index, expected) else {
            let from = Origin::Session { id, request };
            let retention = crate::hub::Retention { messages_max: 0, ttl_ms: 0 };
            let verb = Verb::Leave { watch, member };
            return self.ask(u32::MAX, Request { from, channel: channel.clone(), retention, verb });
        };
        let seat = Member { slot: index, subscription: number as u32 };
        let (place, watching) = hub.members.add(local, seat, watch);
        let seat = Seat { local, place, watching: watching.unwrap_or(NONE) };
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            let presence = presence.as_ref();
            let by = Admission { channel, seat, position, recovered, presence };
            session.admit(&mut call, request, &by);
        }
        if !missed.is_empty()
            && let Some(seated) = hub.seated_mut(index)
        {
            let backlog = seated.backlog.get_or_insert_default();
            let before = backlog.size();
            missed.into_iter().for_each(|one| backlog.push(Item::Missed(one)));
            account(&mut self.gauges, before, backlog.size());
        }
        hub.touched.push(index);
        self.hub_apply(index);
        self.set_deadline(index);
    }

    /// Whether recovered messages may be queued. Those of all connections together stay within the
    /// bound of a shard's outboxes, or slow readers could keep any amount of trimmed history; and
    /// where half of that is in use, no connection adds to more than one recovery's worth.
    fn may_queue(&self, id: ConnectionId, missed: &[Arc<Publication>]) -> bool {
        let bytes: u64 = missed.iter().map(|one| one.message().plain().len() as u64).sum();
        if bytes == 0 {
            return true;
        }
        let most = self.config.limits.outbox_shard_bytes_max as u64;
        let all = self.gauges.recovering_bytes + bytes;
        let hub = self.hub.as_ref();
        let seated = hub.and_then(|hub| hub.seated(id.slot)).filter(|one| one.session.id == id);
        let waiting = seated.and_then(|one| one.backlog.as_ref());
        let own = bytes + waiting.map_or(0, |backlog| backlog.size().missed_bytes as u64);
        all <= most && (all <= most / 2 || own <= self.config.hub.recover_bytes_max)
    }

    /// Tells a hub client that it will be closed, and when to come back.
    pub(in crate::shard) fn say_goodbye(
        &mut self,
        index: u32,
        code: CloseCode,
        reason: &str,
        retry_after_ms: u32,
    ) {
        if self.hub.is_some() && matches!(self.slots[index as usize].stage, Stage::Open(_)) {
            self.feed(index, usize::MAX);
            self.announce_close(index, code, reason, retry_after_ms);
        }
    }

    /// Queues the `goodbye` of a hub client, behind its replies and before what waits in a backlog.
    pub(in crate::shard) fn announce_close(
        &mut self,
        index: u32,
        code: CloseCode,
        reason: &str,
        retry_after_ms: u32,
    ) {
        let is_ours = self.hub.as_ref().is_some_and(|hub| hub.seated(index).is_some());
        if is_ours && matches!(self.slots[index as usize].stage, Stage::Open(_)) {
            self.say(index, reply::goodbye(code, reason, retry_after_ms));
        }
    }

    /// Drops the channel messages that wait for a connection.
    pub(in crate::shard) fn hub_drop_backlog(&mut self, index: u32) {
        let seated = self.hub.as_mut().and_then(|hub| hub.seated_mut(index));
        if let Some(backlog) = seated.and_then(|seated| seated.backlog.take()) {
            account(&mut self.gauges, backlog.size(), BacklogSize::default());
        }
    }

    /// The connection is no WebSocket any more: its homes are told at once.
    pub(in crate::shard) fn hub_end(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let token = self.token(index);
        let Some(hub) = &mut self.hub else { return };
        if hub.seated(index).is_none() {
            return;
        }
        hub.crowded.remove(&token);
        // May be called while effects of this very session are being applied.
        let outer = std::mem::take(&mut hub.effects);
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            session.end_all(&mut call);
        }
        let mut effects = std::mem::replace(&mut hub.effects, outer);
        hub.remove_members(&effects.left);
        for (call, outcome) in effects.outcomes.drain(..) {
            hub.calls.settle(call, outcome);
        }
        if let Some(seated) = hub.sessions[index as usize].take() {
            hub.seated -= 1;
            if let Some(user) = seated.session.user() {
                if seated.counted {
                    hub.admission().leave_user(user);
                }
                hub.unlist_user(user, seated.place);
            }
            if let Some(backlog) = seated.backlog {
                account(&mut self.gauges, backlog.size(), BacklogSize::default());
            }
        }
        for request in effects.asks.drain(..) {
            self.ask(index, request);
        }
    }

    /// When the hub has something to do about a connection (tick).
    pub(in crate::shard) fn hub_tick(&self, index: u32) -> u32 {
        let Some(hub) = &self.hub else { return timers::UNSET };
        let realm = &hub.shared.realm;
        let due_ms = hub.seated(index).and_then(|seated| seated.session.deadline_ms(realm));
        let Some(due_ms) = due_ms else {
            return timers::UNSET;
        };
        let wait_ms = due_ms.saturating_sub(hub.unix_ms).min(u64::from(u32::MAX / 2));
        self.tick.saturating_add(timers::ticks(wait_ms as u32) + 1)
    }

    /// The slot's timer has fired.
    pub(in crate::shard) fn hub_fire(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let Some(hub) = &mut self.hub else { return };
        let realm = &hub.shared.realm;
        let due = hub.seated(index).and_then(|seated| seated.session.deadline_ms(realm));
        if due.is_none_or(|due| due > hub.unix_ms) {
            return;
        }
        if let Some((session, mut call)) = hub.call(index, now_ns) {
            session.expire(&mut call);
        }
        self.hub_apply(index);
    }

    /// Whether channel messages wait for a connection.
    pub(in crate::shard) fn has_backlog(&self, index: u32) -> bool {
        let seated = self.hub.as_ref().and_then(|hub| hub.seated(index));
        seated.is_some_and(|seated| {
            !seated.session.is_resuming()
                && seated.backlog.as_ref().is_some_and(|backlog| !backlog.is_empty())
        })
    }
}

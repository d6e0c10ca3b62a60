//! A shard's part of the hub: the home of some channels, the members connected here, and their
//! sessions.
//!
//! In a turn, requests of connections are sent to their channels' homes, through the hub's own
//! queue or by mail; the home processes requests and completions of its log; its output for this
//! shard is handed out; and channels with pending publications are walked member by member. The
//! number of deliveries in a turn is bounded, so a huge fan-out delays others by one turn at most.
//!
//! Everything that is queued for a shard is counted in bytes: mail, and publications that it has
//! read and not yet delivered to members. Above the limit of a mailbox, reading pauses from
//! connections that publish to that shard; reading also pauses from connections that publish to a
//! channel whose members lag far behind. Both resume once every mailbox is at most half full and
//! the channel is no longer congested. Above twice the limit, publications for the shard are
//! dropped, and its members receive a gap before anything that follows it. So no shard ever waits
//! for another.

mod accounts;
mod apps;
mod backlog;
mod broadcast;
mod calls;
mod commands;
mod fanout;
mod happenings;
mod joins;
mod layer;
mod linked;
mod look;
mod portable;
mod questions;
mod replace;
mod review;
mod session_table;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::connections::{Connections, MAIL_EFFORT, SessionReadiness, ticks};
use super::mail::{HubMail, HubShared};
use crate::admission::Admission;
use crate::driver::{Bell, Token};
use crate::hub::{
    ChannelName, ChannelOp, EngineNotice, Home, Local, Member, Members, Out, Position, Publication,
};
use crate::session::hub::{Budget, Effects};
use broadcast::Broadcast;
use calls::Calls;
use commands::ChannelList;
use linked::LinkedChanges;
pub(super) use look::{Look, Looks};
pub use portable::HubState;
use review::Review;
use session_table::{SessionEntry, SessionTable};

/// The maximum number of log completions, and of mails, that are processed in one turn.
const STEPS_MAX: usize = 1024;
/// Bytes of mail that cost one unit of effort.
const MAIL_BYTES: u64 = 4;
/// The budget of a session for continuing with requests after a home's reply.
const BUDGET: Budget = Budget { requests_max: 16, reply_bytes_max: 64 * 1024 };
/// The wall clock has been set if it differs by more than this from its expected time (ms).
const CLOCK_STEP_MS: u64 = 500;
/// The interval at which an idle shard with sessions checks the wall clock (ms).
const CLOCK_CHECK_MS: u32 = 100;
/// Channels and keys that are checked for expiry in one turn, in addition to as many as were opened
/// since.
const AGED_AT_ONCE: usize = 256;

/// Memory of a subscription in the shard of its connection (bytes): its record, and its entry in
/// the channel's list of members.
pub const SUBSCRIPTION_BYTES: u64 =
    (size_of::<crate::session::hub::Subscription>() + size_of::<Member>()) as u64;

/// Mail for other shards: a list for each recipient.
#[derive(Default)]
struct Posts(Vec<(u16, Vec<HubMail>)>);

impl Posts {
    fn push(&mut self, to: u16, mail: HubMail) {
        match self.0.iter_mut().find(|(shard, _)| *shard == to) {
            Some((_, mails)) => mails.push(mail),
            None => self.0.push((to, vec![mail])),
        }
    }
}

/// A shard's part of the hub. See the module.
///
/// Contract: after each change of a session's readiness, call `report_session`, and then
/// [`Connections::reconsider`] or `note_unfinished`. The caller reconciles connections that change
/// in a call through [`Sessions`](super::connections::Sessions); connections that the hub changes
/// by itself in [`Hub::run_turn`] are pushed to `touched`.
///
/// Invariants, checked by `check_invariants`: each session belongs to an open connection, which has
/// the session's current [`SessionReadiness`]; members refer to existing sessions; and a user's
/// list contains exactly the user's sessions.
pub(super) struct Hub {
    id: u16,
    shared: Arc<HubShared>,
    shards: usize,
    home: Home,
    members: Members,
    sessions: SessionTable,
    /// Memory of the indexes of sessions with many subscriptions.
    index_bytes: usize,
    /// The sessions of each user, by key.
    users: HashMap<Arc<str>, Vec<u32>>,
    /// The number of sessions opened, which is part of connection ids.
    serial: u32,
    /// Mail for this shard.
    mail_here: VecDeque<HubMail>,
    mail_here_bytes: usize,
    /// Mail for other shards.
    posts: Posts,
    /// Connections to be reconciled.
    touched: Vec<u32>,
    /// The home's output while it is handed out; empty otherwise.
    from_home: Vec<(u16, Out)>,
    /// Slow consumers to be closed.
    slow: Vec<u32>,
    /// What has changed for members behind links.
    linked: LinkedChanges,
    /// Connections whose reading is paused until mailboxes, and the channel that they publish to,
    /// have drained.
    congested: HashMap<Token, ChannelName>,
    /// Publications dropped on the way to a shard: the last position of each channel.
    lagging: HashMap<u16, HashMap<ChannelName, Position>>,
    broadcasts: VecDeque<Broadcast>,
    /// The state of the cluster's engine; an action sends it to connections.
    engine: EngineNotice,
    /// Rights have changed, and connections are reviewed, some in each turn.
    review: Option<Review>,
    lists: VecDeque<ChannelList>,
    /// Pending calls of backends that subscribe connections.
    calls: Calls,
    /// Described connections whose TCP state is to be requested.
    looks: Vec<Look>,
    /// The effects of the last call of a session, to be applied by [`Hub::apply_effects`].
    effects: Option<Box<Effects>>,
    /// The home has more completions to process.
    unfinished: bool,
    unix_ms: u64,
    /// The wall clock minus the shard's clock (ms), when session deadlines were last set.
    wall_ahead_ms: u64,
    /// The tick of the last expiry.
    aged_tick: u32,
    /// The backlog bytes last published in the directory.
    reported_backlog_bytes: usize,
    /// More has expired than one turn removes.
    is_expiring: bool,
}

impl Hub {
    pub(super) fn new(
        id: u16,
        shards: usize,
        shared: Arc<HubShared>,
        bell: Arc<dyn Bell>,
    ) -> Box<Self> {
        let home = Home::new(shared.home, (shared.make_log)(id, bell));
        Box::new(Self {
            id,
            shared,
            shards,
            home,
            members: Members::default(),
            sessions: SessionTable::new(),
            index_bytes: 0,
            users: HashMap::new(),
            serial: 0,
            mail_here: VecDeque::new(),
            mail_here_bytes: 0,
            posts: Posts::default(),
            touched: Vec::new(),
            from_home: Vec::new(),
            slow: Vec::new(),
            linked: LinkedChanges::default(),
            congested: HashMap::new(),
            lagging: HashMap::new(),
            broadcasts: VecDeque::new(),
            engine: EngineNotice::Back,
            review: None,
            lists: VecDeque::new(),
            calls: Calls::default(),
            looks: Vec::new(),
            effects: None,
            unfinished: false,
            unix_ms: 0,
            wall_ahead_ms: 0,
            aged_tick: 0,
            reported_backlog_bytes: 0,
            is_expiring: false,
        })
    }

    /// Switches to another configuration, and begins a review of connections.
    pub(super) fn apply_config(&mut self, shared: Arc<HubShared>) {
        self.home.set_options(shared.home);
        self.shared = shared;
        self.review = Some(Review::default());
    }

    fn admission(&self) -> &Admission {
        &self.shared.realm.admission
    }

    /// Queues mail for this shard.
    pub(super) fn post_here(&mut self, mail: HubMail) {
        self.mail_here_bytes += mail.bytes();
        self.mail_here.push_back(mail);
    }

    /// Removes and returns the next mail for this shard.
    fn next_here(&mut self) -> Option<HubMail> {
        let mail = self.mail_here.pop_front()?;
        self.mail_here_bytes -= mail.bytes();
        Some(mail)
    }

    /// Queues mail for any shard; mail for an index out of range is dropped.
    fn post_mail(&mut self, shard: u16, mail: HubMail) {
        if shard == self.id {
            self.post_here(mail);
        } else if usize::from(shard) < self.shards {
            self.posts.push(shard, mail);
        }
    }

    /// Queues mail for all other shards.
    fn post_to_others(&mut self, mail: impl Fn() -> HubMail) {
        let others = (0..self.shards as u16).filter(|shard| *shard != self.id);
        others.for_each(|shard| self.posts.push(shard, mail()));
    }

    /// Removes expired channels, messages and keys: once a tick, or in each turn while there are
    /// many.
    fn forget_aged(&mut self, tick: u32) {
        if tick == self.aged_tick && !self.is_expiring {
            return;
        }
        self.aged_tick = tick;
        self.is_expiring = self.home.expire_channels(self.unix_ms, AGED_AT_ONCE);
        if self.home.wants_room() {
            // An idle shard does not notice by itself that it holds more than its share: wake it.
            self.post_to_others(|| HubMail::Room);
        }
    }

    /// Returns the session of the connection at a slot.
    fn entry(&self, index: u32) -> Option<&SessionEntry> {
        self.sessions.at(index)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut SessionEntry> {
        self.sessions.at_mut(index)
    }

    /// Returns whether the hub has nothing to do in this turn: this check saves 500 instructions in
    /// each turn whose messages are for others.
    pub(super) fn is_idle(&self, tick: u32) -> bool {
        tick == self.aged_tick
            && self.home.is_at_rest()
            && !self.has_work()
            && self.posts.0.is_empty()
            && self.touched.is_empty()
            && self.looks.is_empty()
            && self.slow.is_empty()
            && self.from_home.is_empty()
            && self.congested.is_empty()
            && self.lagging.is_empty()
            && !self.members.has_congestion_changes()
            && self.reported_backlog_bytes == 0
    }

    /// Returns whether work remains for the next turn. Pending completions of the log do not count:
    /// the log rings the shard's bell.
    fn has_work(&self) -> bool {
        self.unfinished
            || self.is_expiring
            || !self.mail_here.is_empty()
            || self.members.has_work()
            || !self.broadcasts.is_empty()
            || self.review.is_some()
            || !self.lists.is_empty()
    }
}

/// The hub's output of a turn: mail for other shards, and connections to be reconciled.
pub(super) struct HubOutput<'h> {
    pub(super) posts: &'h mut Vec<(u16, Vec<HubMail>)>,
    pub(super) touched: &'h mut Vec<u32>,
    pub(super) looks: &'h mut Vec<Look>,
}

impl Hub {
    /// Sets the time of this turn. Call it before anything else in a turn. If the wall clock has
    /// been set, all deadlines are computed again: tokens expire by the wall clock, but timers run
    /// by the shard's own clock.
    pub(super) fn set_clock(&mut self, connections: &mut Connections, unix_ms: u64) {
        self.unix_ms = unix_ms;
        connections.events_mut().set_time(unix_ms);
        let ahead_ms = unix_ms.saturating_sub(connections.now_ns() / 1_000_000);
        if ahead_ms.abs_diff(self.wall_ahead_ms) > CLOCK_STEP_MS {
            self.wall_ahead_ms = ahead_ms;
            connections.refresh_all_deadlines();
        }
    }

    /// Does one turn's work for channels, if the hub is not idle; returns whether more remains.
    pub(super) fn run_turn(&mut self, connections: &mut Connections) -> bool {
        // Mail gets at most half of a turn's effort; the rest is for input of connections.
        let (began, most) = (connections.work().spent_effort(), connections.work().turn_max() / 2);
        self.report_home_events(connections);
        let mut is_home_due = true;
        for _ in 0..STEPS_MAX {
            let Some(mail) = self.next_here() else {
                // Process the home only after the last mail, so that the publications of a burst
                // are delivered together, in one send to each member. Its answers may cause more.
                if std::mem::take(&mut is_home_due) {
                    self.work_home(connections);
                    continue;
                }
                break;
            };
            is_home_due = true;
            let effort = MAIL_EFFORT + mail.bytes() as u64 / MAIL_BYTES;
            connections.work_mut().spend(effort);
            self.handle_mail(connections, mail);
            if connections.work().spent_effort() - began > most {
                break;
            }
        }
        if is_home_due {
            self.work_home(connections);
        }
        self.fan_out(connections);
        self.continue_broadcast(connections);
        self.continue_review(connections);
        self.continue_channel_list();
        self.close_slow(connections);
        self.forget_aged(connections.tick());
        self.report_lagging(connections);
        for (channel, is_congested) in self.members.take_congestion_changes() {
            connections.directory().set_congested(channel, is_congested);
            if !is_congested {
                self.post_to_others(|| HubMail::Room);
            }
        }
        let backlog_bytes = self.mail_here_bytes + self.members.queued_bytes();
        connections.directory().set_backlog(self.id, backlog_bytes);
        self.reported_backlog_bytes = backlog_bytes;
        self.resume_congested(connections);
        self.has_work()
    }

    fn handle_mail(&mut self, connections: &mut Connections, mail: HubMail) {
        match mail {
            HubMail::Ask(request) => self.home.handle_request(request, self.unix_ms),
            HubMail::Out(out) => self.take_out(connections, out),
            HubMail::Lagging { channel, position } => {
                self.members.push(&channel, ChannelOp::Lagging(position));
            }
            HubMail::Room => {}
            HubMail::Replaced { old, by, user } => self.close_replaced(connections, old, by, user),
            HubMail::Place { id, user, is_passed_on } => {
                self.take_user_place(connections, id, &user, is_passed_on);
            }
            HubMail::Decided { token, request, outcome } => {
                self.take_outcome(connections, token, request, outcome);
            }
            HubMail::Review => self.review = Some(Review::default()),
            HubMail::Act { target, act, reply } => {
                self.start_action(connections, target, act, reply);
            }
            HubMail::List { .. } => unreachable!("lists are of all layers"),
            HubMail::Look { id, reply } => self.inspect_connection(connections, id, reply),
            HubMail::Channels { prefix, after, limit, reply } => {
                let first = std::collections::BinaryHeap::new();
                let list = ChannelList { prefix, after, limit, reply, first, cursor: 0 };
                self.lists.push_back(list);
            }
        }
    }

    /// Processes the home's completions, and hands out its output.
    fn work_home(&mut self, connections: &mut Connections) {
        // The rest is processed in the next turn at the latest.
        self.unfinished = self.home.process_completions(STEPS_MAX);
        self.report_home_events(connections);
        if self.home.has_nothing_to_send() {
            return;
        }
        let mut from_home = std::mem::take(&mut self.from_home);
        self.home.exchange_out(&mut from_home);
        for (shard, out) in from_home.drain(..) {
            self.send_out(connections, shard, out);
        }
        self.from_home = from_home;
    }

    /// Sends an output of this home to a shard. A publication is dropped instead, and its position
    /// noted, if too much is queued for the shard. Outputs never make a home work, so shards do not
    /// wait for each other in a circle.
    fn send_out(&mut self, connections: &mut Connections, shard: u16, out: Out) {
        let most = 2 * connections.config().engine.mailbox_bytes_max as usize;
        let here = if shard == self.id { self.members.queued_bytes() } else { 0 };
        let waiting = here.max(connections.directory().mail_bytes(shard));
        if waiting > most
            && let Out::Publish(publication) = &out
            && let Some((channel, position)) = position_of(publication)
        {
            connections.counters_mut().dropped_lagging += 1;
            self.lagging.entry(shard).or_default().insert(channel, position);
            return;
        }
        // The gap must precede later outputs of the channel.
        if let Some(lagging) = self.lagging.get_mut(&shard)
            && let Some(channel) = out.channel()
            && let Some((channel, position)) = lagging.remove_entry(channel)
        {
            self.send_lagging(shard, channel, position);
        }
        if shard == self.id {
            self.take_out(connections, out);
        } else {
            self.posts.push(shard, HubMail::Out(out));
        }
    }

    /// Notifies a shard that a channel's publications up to this position were dropped.
    fn send_lagging(&mut self, shard: u16, channel: ChannelName, position: Position) {
        if shard == self.id {
            self.members.push(&channel, ChannelOp::Lagging(position));
        } else {
            self.posts.push(shard, HubMail::Lagging { channel, position });
        }
    }

    /// Marks a connection to be reconciled at the end of the hub's turn.
    fn mark_touched(&mut self, index: u32) {
        // A connection often gets several replies in succession.
        if self.touched.last() != Some(&index) {
            self.touched.push(index);
        }
    }

    /// Notifies shards that have caught up of the publications dropped on the way to them.
    fn report_lagging(&mut self, connections: &mut Connections) {
        if self.lagging.is_empty() {
            return;
        }
        let bytes_max = connections.config().engine.mailbox_bytes_max as usize;
        let directory = connections.directory();
        let caught_up = |shard: &u16| directory.mail_bytes(*shard) <= bytes_max;
        let reported: Vec<_> = self.lagging.extract_if(|shard, _| caught_up(shard)).collect();
        for (shard, channels) in reported {
            for (channel, position) in channels {
                self.send_lagging(shard, channel, position);
            }
        }
    }

    /// Returns the tick at which an otherwise idle shard must run a turn: to check mailboxes, which
    /// ring no bell when they have drained; to check the wall clock, by which sessions expire; or,
    /// if it has no sessions, when something expires.
    pub(super) fn next_tick(&self, tick: u32) -> Option<u32> {
        if !self.congested.is_empty() || !self.lagging.is_empty() {
            return Some(tick + 1);
        }
        if self.sessions.len() > 0 {
            // Often enough for what expires, too, whose deadlines are rounded to more.
            return Some(tick + ticks(CLOCK_CHECK_MS));
        }
        let due_ms = self.home.next_due_ms()?;
        let wait_ms = due_ms.saturating_sub(self.unix_ms).min(u64::from(u32::MAX / 2));
        Some(tick.saturating_add(ticks(wait_ms as u32).max(1)))
    }

    /// Returns the output of this turn, to be removed by the caller.
    pub(super) fn output(&mut self) -> HubOutput<'_> {
        let Self { posts, touched, looks, .. } = self;
        HubOutput { posts: &mut posts.0, touched, looks }
    }

    /// Resumes reading from connections that were paused by congestion, if it has ended.
    fn resume_congested(&mut self, connections: &mut Connections) {
        if self.congested.is_empty() {
            return;
        }
        let directory = connections.directory();
        let bytes_max = connections.config().engine.mailbox_bytes_max as usize;
        let is_full =
            (0..directory.len() as u16).any(|shard| directory.mail_bytes(shard) > bytes_max / 2);
        if is_full {
            return;
        }
        let is_free = |channel: &mut ChannelName| !directory.is_congested(channel);
        let free: Vec<_> = self.congested.extract_if(|_, channel| is_free(channel)).collect();
        for (token, _) in free {
            if let Some(index) = connections.find(token) {
                self.touched.push(index);
                self.report_session(connections, index);
                connections.reconsider(index);
            }
        }
    }

    /// Reports a session's readiness to its connection. Must follow each change of it.
    fn report_session(&self, connections: &mut Connections, index: u32) {
        if connections.contains(index) {
            let token = connections.token(index);
            let state = self.session_state(token, || connections.readiness(index));
            connections.set_readiness(index, state);
        }
    }

    /// Returns the readiness of a connection's session. Of a client behind a link, only whether it
    /// has a backlog is known here; the rest stays as it is `reported`.
    fn session_state(
        &self,
        token: Token,
        reported: impl FnOnce() -> SessionReadiness,
    ) -> SessionReadiness {
        let Some(entry) = self.entry(token.slot) else { return SessionReadiness::default() };
        if entry.is_linked() {
            return reported().with_publications(entry.backlog.is_some());
        }
        let is_congested = !self.congested.is_empty() && self.congested.contains_key(&token);
        let backlog = entry.backlog.as_ref().filter(|_| !entry.session.is_resuming());
        SessionReadiness::new(
            entry.session.is_waiting() || is_congested,
            entry.session.has_requests(),
            backlog.is_some_and(|backlog| !backlog.is_empty()),
        )
    }

    /// Checks the hub's invariants between turns.
    ///
    /// # Panics
    /// When an invariant is violated, which is a bug.
    pub(super) fn check_invariants(&self, connections: &Connections) {
        self.sessions.check_invariants();
        let mut user_count = 0;
        let mut backlogs = super::connections::QueuedSize::default();
        for (key, entry) in self.sessions.iter() {
            let index = entry.slot;
            assert!(connections.is_open(index), "a session belongs to an open connection");
            let token = connections.token(index);
            let reported = connections.readiness(index);
            let current = self.session_state(token, || reported);
            assert_eq!(reported, current, "the reported readiness is current");
            if let Some(backlog) = &entry.backlog {
                backlogs.bytes += backlog.size().bytes;
                backlogs.missed_bytes += backlog.size().missed_bytes;
            }
            self.check_session(connections, key, entry);
            if let Some(user) = entry.session.user() {
                user_count += 1;
                let listed =
                    self.users.get(user).and_then(|all| all.get(entry.user_index as usize));
                assert_eq!(listed, Some(&key), "a user's list contains its sessions");
            }
        }
        let index_bytes = self.sessions.iter().map(|(_, entry)| entry.session.index_bytes());
        assert_eq!(index_bytes.sum::<usize>(), self.index_bytes, "the sum over all indexes");
        assert_eq!(self.users.values().map(Vec::len).sum::<usize>(), user_count);
        assert_eq!(connections.backlogs(), backlogs, "the sum over all backlogs");
        assert!(self.from_home.is_empty(), "the home's output was handed out");
        assert!(self.linked.is_empty(), "the gateway has taken the changes for its clients");
    }

    /// Checks that a session has a timer in time for its deadline, and that its subscriptions are
    /// members of their channels.
    fn check_session(&self, connections: &Connections, key: u32, entry: &SessionEntry) {
        let index = entry.slot;
        // A step of the clock is noticed once it exceeds this.
        let step = ticks(CLOCK_STEP_MS as u32) + 1;
        let due = self.due_tick(connections, index).saturating_add(step);
        let is_planned = entry.is_linked() || connections.session_due(index) <= due;
        assert!(is_planned || connections.is_refreshing(), "a timer precedes the deadline");
        for (number, one) in entry.session.subscriptions.iter().enumerate() {
            if one.is_live() {
                let member = Member { session: key, subscription: number as u32 };
                let listed = self.members.get(one.local).map(Local::members);
                let listed = listed.and_then(|members| members.get(one.member_index as usize));
                assert_eq!(listed, Some(&member), "a subscription has the index of its member");
            }
        }
    }
}

/// Returns the channel and position of a publication that has a position.
fn position_of(publication: &Publication) -> Option<(ChannelName, Position)> {
    Some((publication.channel.clone()?, publication.position?))
}

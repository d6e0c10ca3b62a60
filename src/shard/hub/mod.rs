//! Where shards and channels meet: this shard's home, its members, and its hub connections.
//!
//! In a turn, requests of connections go to their channels' homes, on this shard at once and to
//! others by mail; homes work; what they send here is handed out; and channels with work have it
//! walked, within the turn's bound of deliveries, so that a huge fan-out delays the others by a
//! turn and not by all of itself.
//!
//! What waits for a shard is counted in bytes: mail, and what it has read and not handed to members
//! yet. Past the bound of a mailbox, connections that publish to that shard are not read from until
//! it has drained, nor are those that publish to a channel whose members lag far behind; past twice
//! the bound, publications for it are dropped, and its members told of
//! the gap before anything that follows it, so that no shard ever waits for another.

mod accounts;
mod backlog;
mod calls;
mod commands;
mod fanout;
mod look;
pub mod mail;
mod portable;
mod replace;
mod review;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::core::Core;
use super::timers;
use super::work::MAIL_EFFORT;
use crate::admission::Admission;
use crate::hub::log::Log;
use crate::hub::{ChannelName, Home, HomeOptions, Members, Out, Position, Publication};
use crate::session::hub::{Budget, Effects, HubSession, Realm};
use backlog::Backlog;
use calls::Calls;
use commands::ChannelList;
use look::Look;
pub(super) use look::Looks;
use mail::{Act, CountReply, HubMail};
pub use portable::ItemState;
use review::Review;

/// Log completions, and mails within a shard, that a home works through at once.
const STEPS_MAX: usize = 1024;
/// Bytes of mail that cost as much as one of effort.
const MAIL_BYTES: u64 = 4;
/// What a session may do when a home has answered it: with more it queues like the others.
const BUDGET: Budget = Budget { requests_max: 16, reply_bytes_max: 64 * 1024 };
/// A wall clock that is so much off its course was set (ms).
const CLOCK_STEP_MS: u64 = 500;
/// Channels and keys that are looked at for their age in one turn, besides as many as were opened
/// since.
const AGED_AT_ONCE: usize = 256;

/// What a subscription costs the shard of its connection (bytes): its record there, and its place
/// among the channel's members.
pub const SUBSCRIPTION_BYTES: u64 =
    (size_of::<crate::session::hub::Subscription>() + size_of::<crate::hub::Member>()) as u64;

/// Makes the log of a shard's home.
pub type MakeLog = Arc<dyn Fn(u16) -> Box<dyn Log> + Send + Sync>;

/// What the shards of a process share about channels.
pub struct HubShared {
    pub realm: Realm,
    pub home: HomeOptions,
    pub make_log: MakeLog,
    /// Decides homes; a secret, so that nobody can aim at one.
    spread: RandomState,
}

impl HubShared {
    /// Puts it together.
    pub fn new(realm: Realm, home: HomeOptions, make_log: MakeLog) -> Arc<Self> {
        Arc::new(Self { realm, home, make_log, spread: RandomState::new() })
    }

    /// The same channels by another configuration.
    pub fn renewed(&self, realm: Realm, home: HomeOptions) -> Arc<Self> {
        let realm = self.realm.renewed(realm);
        let (make_log, spread) = (self.make_log.clone(), self.spread.clone());
        Arc::new(Self { realm, home, make_log, spread })
    }

    /// The home of a channel among so many shards.
    pub fn home_of(&self, channel: &str, shards: usize) -> u16 {
        (self.spread.hash_one(channel) % shards as u64) as u16
    }
}

/// A hub connection, with what waits for it.
struct Seated {
    session: HubSession,
    backlog: Option<Box<Backlog>>,
    /// Where it stands among its user's connections.
    place: u32,
    /// Whether it counts among those of its user on all shards.
    counted: bool,
    /// Of the last ping (µs); 0: none was answered yet.
    rtt_us: u32,
}

/// Something that is sent to, or done with, all connections of the shard, some in each turn.
struct Broadcast {
    act: Act,
    next_slot: usize,
    reached: u64,
    reply: Option<CountReply>,
}

/// See the module.
pub(super) struct HubState {
    shared: Arc<HubShared>,
    shards: usize,
    home: Home,
    members: Members,
    /// By slot.
    sessions: Vec<Option<Box<Seated>>>,
    users: HashMap<Arc<str>, Vec<u32>>,
    serial: u32,
    /// For this shard.
    local: VecDeque<HubMail>,
    local_bytes: usize,
    /// For others.
    posts: Vec<(u16, HubMail)>,
    /// Connections whose slots must be settled.
    touched: Vec<u32>,
    /// What the next call of a session may do.
    budget: Budget,
    /// Connections that are to be closed because they do not read.
    condemned: Vec<u32>,
    /// Connections that are not read from until a mailbox, or the channel that they publish to, has
    /// drained.
    crowded: HashMap<crate::driver::Token, ChannelName>,
    /// Publications dropped on the way to other shards: the last of each channel.
    lagging: HashMap<u16, HashMap<ChannelName, Position>>,
    broadcasts: VecDeque<Broadcast>,
    /// Rights have changed, and connections are looked at, some in each turn.
    review: Option<Review>,
    lists: VecDeque<ChannelList>,
    /// Subscriptions that backends have asked for.
    calls: Calls,
    /// Connections that TCP is to be asked about.
    looks: Vec<Look>,
    effects: Effects,
    /// The home has more to work through.
    unfinished: bool,
    unix_ms: u64,
    /// How far the wall clock is ahead of the shard's own (ms), when deadlines were last set by it.
    wall_ahead_ms: u64,
    aged_tick: u32,
    /// More is past its age than one turn forgets.
    is_expiring: bool,
    /// Connections that have a session.
    seated: u64,
}

impl HubState {
    pub(super) fn new(id: u16, shards: usize, shared: Arc<HubShared>) -> Box<Self> {
        let home = Home::new(shared.home, (shared.make_log)(id));
        Box::new(Self {
            shared,
            shards,
            home,
            members: Members::default(),
            sessions: Vec::new(),
            users: HashMap::new(),
            serial: 0,
            local: VecDeque::new(),
            local_bytes: 0,
            posts: Vec::new(),
            touched: Vec::new(),
            budget: BUDGET,
            condemned: Vec::new(),
            crowded: HashMap::new(),
            lagging: HashMap::new(),
            broadcasts: VecDeque::new(),
            review: None,
            lists: VecDeque::new(),
            calls: Calls::default(),
            looks: Vec::new(),
            effects: Effects::default(),
            unfinished: false,
            unix_ms: 0,
            wall_ahead_ms: 0,
            aged_tick: 0,
            is_expiring: false,
            seated: 0,
        })
    }

    /// Goes on by another configuration.
    pub(super) fn renew(&mut self, shared: Arc<HubShared>) {
        self.home.set_options(shared.home);
        self.shared = shared;
        self.review = Some(Review::default());
    }

    pub(super) fn realm(&self) -> &Realm {
        &self.shared.realm
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.shared.realm.admission
    }

    pub(super) fn unix_s(&self) -> u64 {
        self.unix_ms / 1000
    }

    /// Keeps how long the last ping took.
    pub(super) fn note_rtt(&mut self, index: u32, took_ns: u64) {
        if let Some(seated) = self.seated_mut(index) {
            seated.rtt_us = (took_ns / 1000).clamp(1, u64::from(u32::MAX)) as u32;
        }
    }

    /// The user of a connection.
    pub(super) fn user(&self, index: u32) -> Option<&str> {
        self.seated(index)?.session.user().map(|user| &**user)
    }

    /// Queues mail for this shard.
    fn post_here(&mut self, mail: HubMail) {
        self.local_bytes += mail.bytes();
        self.local.push_back(mail);
    }

    fn next_here(&mut self) -> Option<HubMail> {
        let mail = self.local.pop_front()?;
        self.local_bytes -= mail.bytes();
        Some(mail)
    }

    /// Forgets what is past its age: once a tick, or in each turn while there is much of it.
    fn expire(&mut self, shard: u16, tick: u32) {
        if tick == self.aged_tick && !self.is_expiring {
            return;
        }
        self.aged_tick = tick;
        self.is_expiring = self.home.expire(self.unix_ms, AGED_AT_ONCE);
        if self.home.wants_room() {
            // A shard that is idle does not notice that it holds more than its share.
            let others = (0..self.shards as u16).filter(|other| *other != shard);
            self.posts.extend(others.map(|other| (other, HubMail::Room)));
        }
    }

    fn seated(&self, index: u32) -> Option<&Seated> {
        self.sessions.get(index as usize)?.as_deref()
    }

    fn seated_mut(&mut self, index: u32) -> Option<&mut Seated> {
        self.sessions.get_mut(index as usize)?.as_deref_mut()
    }

    /// Whether anything is left to be done in the next turn.
    fn has_work(&self) -> bool {
        self.unfinished
            || self.is_expiring
            || !self.local.is_empty()
            || self.members.has_work()
            || !self.broadcasts.is_empty()
            || self.review.is_some()
            || !self.lists.is_empty()
    }
}

/// Mail for other shards, and slots to be settled.
#[derive(Default)]
pub(super) struct Aftermath {
    pub(super) posts: Vec<(u16, HubMail)>,
    pub(super) touched: Vec<u32>,
    pub(super) looks: Vec<Look>,
}

impl Core {
    /// Takes mail about channels and connections.
    pub(super) fn hub_mail(&mut self, mail: HubMail) {
        if let Some(hub) = &mut self.hub {
            hub.post_here(mail);
        }
    }

    /// The time of this turn, before anything happens in it. Where the wall clock was set, all
    /// deadlines are set anew: tokens end by it, and timers run by the shard's own clock.
    pub(super) fn hub_set_clock(&mut self, unix_ms: impl FnOnce() -> u64) {
        let Some(hub) = &mut self.hub else { return };
        hub.unix_ms = unix_ms();
        let ahead_ms = hub.unix_ms.saturating_sub(self.now_ns / 1_000_000);
        if ahead_ms.abs_diff(hub.wall_ahead_ms) > CLOCK_STEP_MS {
            hub.wall_ahead_ms = ahead_ms;
            self.refresh_from = Some(0);
        }
    }

    /// One turn's work for channels; returns whether more is left.
    pub(super) fn hub_turn(&mut self) -> bool {
        // Half a turn's effort: as much is for what connections send.
        let (began, most) = (self.work.spent(), self.work.turn_max() / 2);
        for _ in 0..STEPS_MAX {
            let Some(hub) = &mut self.hub else { return false };
            let Some(mail) = hub.next_here() else { break };
            self.work.spend(MAIL_EFFORT + mail.bytes() as u64 / MAIL_BYTES);
            self.hub_read(mail);
            if self.work.spent() - began > most {
                break;
            }
        }
        self.hub_work();
        self.fan_out();
        self.broadcast_on();
        self.review_on();
        self.list_channels_on();
        self.close_condemned();
        let Some(hub) = &mut self.hub else { return false };
        hub.expire(self.id, self.tick);
        for (channel, is_crowded) in hub.members.take_turned() {
            self.directory.set_crowded(channel, is_crowded);
            if !is_crowded {
                let others = (0..hub.shards as u16).filter(|shard| *shard != self.id);
                hub.posts.extend(others.map(|shard| (shard, HubMail::Room)));
            }
        }
        let backlog_bytes = hub.local_bytes + hub.members.queued_bytes();
        self.directory.set_backlog(self.id, backlog_bytes);
        hub.has_work()
    }

    fn hub_read(&mut self, mail: HubMail) {
        let Some(hub) = &mut self.hub else { return };
        match mail {
            HubMail::Ask(request) => {
                hub.home.request(request, hub.unix_ms);
                // Publications are put together: those of a burst leave each member in one send.
                if hub.local.is_empty() {
                    self.hub_work();
                }
            }
            HubMail::Out(out) => self.hub_out(out),
            HubMail::Lagging { channel, position } => {
                hub.members.push(&channel, crate::hub::Op::Lagging(position));
            }
            HubMail::Room => {}
            HubMail::Replaced { old, by, user } => self.replaced(old, by, user),
            HubMail::Place { id, user, is_passed_on } => self.placed(id, &user, is_passed_on),
            HubMail::Review => hub.review = Some(Review::default()),
            HubMail::Act { target, act, reply } => self.act(target, act, reply),
            HubMail::List { filter, reply } => self.list(&filter, reply),
            HubMail::Look { id, reply } => self.look(id, reply),
            HubMail::Channels { prefix, after, limit, reply } => {
                let first = std::collections::BinaryHeap::new();
                let list = ChannelList { prefix, after, limit, reply, first, cursor: 0 };
                hub.lists.push_back(list);
            }
        }
    }

    /// Lets the home work, and hands out what it sends.
    fn hub_work(&mut self) {
        let Some(hub) = &mut self.hub else { return };
        // What is left is looked at in the next turn at the latest.
        let more = hub.home.work(STEPS_MAX);
        let out: Vec<_> = hub.home.take_out().collect();
        for (shard, out) in out {
            self.hub_send(shard, out);
        }
        if let Some(hub) = &mut self.hub {
            hub.unfinished = more;
        }
    }

    /// Sends something of this home to a shard, unless that has too much to do for it.
    fn hub_send(&mut self, shard: u16, out: Out) {
        let most = 2 * self.config.engine.mailbox_bytes_max as usize;
        let Some(hub) = &mut self.hub else { return };
        let here = if shard == self.id { hub.members.queued_bytes() } else { 0 };
        let waiting = here.max(self.directory.mail_bytes(shard));
        if waiting > most
            && let Out::Publish(publication) = &out
            && let Some((channel, position)) = lost(publication)
        {
            self.counters.dropped_lagging += 1;
            hub.lagging.entry(shard).or_default().insert(channel, position);
            return;
        }
        // The gap comes before what follows it.
        if let Some(lagging) = hub.lagging.get_mut(&shard)
            && let Some(channel) = out.channel()
            && let Some((channel, position)) = lagging.remove_entry(channel)
        {
            self.hub_post(shard, HubMail::Lagging { channel, position });
        }
        self.hub_post(shard, HubMail::Out(out));
    }

    /// Hands mail of this home to a shard: to this one at once.
    fn hub_post(&mut self, shard: u16, mail: HubMail) {
        if shard == self.id {
            self.hub_read(mail);
        } else if let Some(hub) = &mut self.hub {
            hub.posts.push((shard, mail));
        }
    }

    /// Tells shards that have caught up of what was dropped on the way to them.
    fn tell_lagging(&mut self) {
        let bytes_max = self.config.engine.mailbox_bytes_max as usize;
        let Some(hub) = &mut self.hub else { return };
        let directory = &self.directory;
        let caught_up = |shard: &u16| directory.mail_bytes(*shard) <= bytes_max;
        let told: Vec<_> = hub.lagging.extract_if(|shard, _| caught_up(shard)).collect();
        for (shard, channels) in told {
            for (channel, position) in channels {
                self.hub_post(shard, HubMail::Lagging { channel, position });
            }
        }
    }

    /// Whether anybody waits for another shard's mailbox, which tells nobody when it has drained.
    pub(super) fn hub_awaits_room(&self) -> bool {
        let hub = self.hub.as_ref();
        hub.is_some_and(|hub| !hub.crowded.is_empty() || !hub.lagging.is_empty())
    }

    /// The tick at which something is past its age, for a shard that has nothing else to do.
    pub(super) fn hub_due_tick(&self) -> Option<u32> {
        let hub = self.hub.as_ref()?;
        let wait_ms = hub.home.next_due_ms()?.saturating_sub(hub.unix_ms);
        let wait_ms = wait_ms.min(u64::from(u32::MAX / 2)) as u32;
        Some(self.tick.saturating_add(timers::ticks(wait_ms).max(1)))
    }

    /// What is to be posted and settled after this turn.
    pub(super) fn hub_aftermath(&mut self) -> Aftermath {
        self.tell_lagging();
        self.uncrowd();
        let Some(hub) = &mut self.hub else { return Aftermath::default() };
        Aftermath {
            posts: std::mem::take(&mut hub.posts),
            touched: std::mem::take(&mut hub.touched),
            looks: std::mem::take(&mut hub.looks),
        }
    }

    /// Goes on reading from those who waited for a mailbox.
    fn uncrowd(&mut self) {
        let bytes_max = self.config.engine.mailbox_bytes_max as usize;
        let full = (0..self.directory.len() as u16)
            .any(|shard| self.directory.mail_bytes(shard) > bytes_max / 2);
        let Some(hub) = &mut self.hub else { return };
        if full || hub.crowded.is_empty() {
            return;
        }
        let directory = &self.directory;
        let free = |channel: &mut ChannelName| !directory.is_crowded(channel);
        let free: Vec<_> = hub.crowded.extract_if(|_, channel| free(channel)).collect();
        for (token, _) in free {
            if let Some(index) = self.find(token)
                && let Some(hub) = &mut self.hub
            {
                hub.touched.push(index);
                self.reconsider(index);
            }
        }
    }
}

fn lost(publication: &Publication) -> Option<(ChannelName, Position)> {
    Some((publication.channel.clone()?, publication.position?))
}

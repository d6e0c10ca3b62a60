//! The log of a shard's home over an engine that several nodes use.
//!
//! It keeps no messages: commands go to the engine, and its events complete them. A read of a
//! watched channel waits until the subscription is in effect, because what is published after the
//! read has to arrive by the subscription; such a read fails after a limited time.

mod epochs;
mod members;
mod reads;
mod tails;
mod watching;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use slab::Slab;

use super::channel::{FollowAction, Follower};
use super::command::RawMessage;
use super::command::{Action, AppendKey, EngineCommand, EngineEvent, EnginePort};
use super::envelope::Envelope;
use super::layout::{Layout, Place};
use super::roster::{self, ClusterRoster};
use super::tail::Tail;
use crate::hub::{
    ChannelName, Done, Draft, DueQueue, Epoch, KeyScope, Log, LogStats, Opening, Position,
    Publication, Range, Refused, Retention, Roster, RosterRange, Storing,
};
use epochs::EpochPace;
use tails::TailUsage;

/// The delay that a rejected command suggests (ms).
const RETRY_AFTER_MS: u32 = 1000;
/// The delay after which a read of the log's own is repeated (ms).
const RETRY_MS: u64 = 500;

/// Limits of a [`ClusterLog`].
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// How long a read waits for the subscription of its channel (ms).
    pub subscribe_timeout_ms: u64,
    /// The interval at which the positions of open channels are renewed in the engine (ms).
    pub renewal_ms: u64,
    /// Messages in the tail of a channel, and bytes of all tails of the shard.
    pub tail_messages_max: u32,
    pub tail_bytes_max: u64,
    /// How long a channel stays subscribed after it is not watched any more (ms).
    pub linger_ms: u64,
    /// Channels that do so at a time; above it, the subscriptions of the earliest end.
    pub lingering_max: usize,
    /// Channels to whose members a new epoch is reported, a second.
    pub epoch_gaps_per_s: u32,
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    /// The home's number for it.
    key: u32,
    place: Place,
    retention: Retention,
    follower: Follower,
    /// It is not watched any more, but still subscribed: nothing of it is reported.
    is_lingering: bool,
    /// The next new epoch may be reported: see [`EpochPace`].
    has_epoch_turn: bool,
    /// Identifies its present subscription.
    serial: u64,
    /// Changes with each loss of the subscription as well: what was read in an earlier era may
    /// precede the present subscription.
    era: u64,
    /// Reads that wait for the subscription.
    deferred: Vec<u64>,
    /// The revision of the list of members up to which joins and leaves were reported. `None`: none
    /// was read or reported yet.
    revision: Option<u64>,
    tail: Tail,
    /// Its key among the channels with a tail, if it has one.
    tail_serial: u64,
}

/// The purpose of a command in flight, or of a read that waits.
#[derive(Debug)]
enum Purpose {
    Append {
        ticket: u64,
    },
    Read {
        ticket: u64,
        channel: u32,
        range: Range,
        era: u64,
        /// Set while it waits for the subscription.
        deferral: u64,
    },
    /// Reads a page of members, as [`Self::Read`] reads messages.
    Members {
        ticket: u64,
        channel: u32,
        range: RosterRange,
        era: u64,
        deferral: u64,
    },
    /// Compares the revision of the list of members after the subscription was lost.
    CompareMembers {
        channel: u32,
        era: u64,
        /// The revision when it was asked for.
        known: u64,
    },
    Trim {
        ticket: u64,
    },
    /// Catches up with a watched channel.
    CatchUp {
        channel: u32,
        era: u64,
    },
    /// Renews the lifetime of a position, and compares it.
    Renew {
        channel: u32,
        era: u64,
    },
}

/// See the module.
pub struct ClusterLog {
    port: Box<dyn EnginePort>,
    layout: Arc<Layout>,
    limits: LogLimits,
    storing: Storing,
    /// The number of this process in envelopes.
    origin: u64,
    channels: Slab<Channel>,
    names: HashMap<ChannelName, u32>,
    purposes: Slab<Purpose>,
    done: VecDeque<Done>,
    /// When deferred reads fail, in order: time, token, number of the deferral.
    timeouts: VecDeque<(u64, u64, u64)>,
    /// When reads of the log's own are repeated, in order: time, channel, era.
    retries: VecDeque<(u64, u32, u64)>,
    /// When the positions of watched channels are renewed.
    renewals: DueQueue,
    /// When the subscriptions of lingering channels end.
    lingering: DueQueue,
    epoch_pace: EpochPace,
    actions: Vec<FollowAction>,
    roster: ClusterRoster,
    tail_usage: TailUsage,
    /// The channels with a tail, by the serial with which it began.
    tailed: BTreeMap<u64, u32>,
    stats: LogStats,
    key_ttl_ms: u64,
    now_ms: u64,
    serial: u64,
    epochs: RandomState,
}

impl ClusterLog {
    /// Creates a log. `origin`: a random number of the process; `storing`: how messages of other
    /// nodes are stored.
    pub fn new(
        port: Box<dyn EnginePort>,
        layout: Arc<Layout>,
        limits: LogLimits,
        storing: Storing,
        origin: u64,
    ) -> Self {
        Self {
            port,
            layout,
            limits,
            storing,
            origin,
            channels: Slab::new(),
            names: HashMap::new(),
            purposes: Slab::new(),
            done: VecDeque::new(),
            timeouts: VecDeque::new(),
            retries: VecDeque::new(),
            renewals: DueQueue::default(),
            lingering: DueQueue::default(),
            epoch_pace: EpochPace::new(limits.epoch_gaps_per_s),
            actions: Vec::new(),
            roster: ClusterRoster::default(),
            tail_usage: TailUsage::default(),
            tailed: BTreeMap::new(),
            stats: LogStats::default(),
            key_ttl_ms: 0,
            now_ms: 0,
            serial: 0,
            epochs: RandomState::new(),
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// An epoch for a channel that the engine does not know.
    fn make_epoch(&mut self) -> Epoch {
        let serial = self.next_serial();
        Epoch(self.epochs.hash_one((self.origin, serial)))
    }

    /// Submits a command; if too much is in flight, it fails.
    fn submit(&mut self, channel: u32, token: u64, action: Action) {
        let own = &self.channels[channel as usize];
        let command = EngineCommand { token, channel: own.name.clone(), place: own.place, action };
        if !self.port.submit(command) {
            self.fail(token, Some(RETRY_AFTER_MS));
        }
    }

    /// Ends a command that was not carried out, or of which that is not known.
    fn fail(&mut self, token: u64, retry_after_ms: Option<u32>) {
        let failed = |ticket| Done::Failed { ticket, retry_after_ms };
        match self.purposes.try_remove(token as usize) {
            Some(
                Purpose::Append { ticket }
                | Purpose::Read { ticket, .. }
                | Purpose::Members { ticket, .. }
                | Purpose::Trim { ticket },
            ) => self.done.push_back(failed(ticket)),
            Some(Purpose::CatchUp { channel, era }) => {
                self.retries.push_back((self.now_ms + RETRY_MS, channel, era));
            }
            Some(Purpose::CompareMembers { channel, era, .. }) => {
                // Joins and leaves may have been missed, which cannot be ruled out.
                self.report_missed_news(channel, era);
            }
            Some(Purpose::Renew { .. }) | None => {}
        }
    }

    /// Runs a step of a channel's follower, unless it belongs to an earlier era.
    fn follow(
        &mut self,
        channel: u32,
        era: u64,
        step: impl FnOnce(&mut Follower, &mut Vec<FollowAction>),
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        match self.channels.get_mut(channel as usize) {
            Some(own) if own.era == era => step(&mut own.follower, &mut actions),
            _ => {}
        }
        for action in actions.drain(..) {
            self.apply(channel, era, action);
        }
        self.actions = actions;
    }

    fn apply(&mut self, channel: u32, era: u64, action: FollowAction) {
        let Channel { key, is_lingering, .. } = self.channels[channel as usize];
        match action {
            FollowAction::Deliver(epoch, message) => {
                let position = Position { epoch, offset: message.offset };
                let publication = self.make_publication(channel, epoch, &message);
                if let Some(publication) = &publication {
                    self.keep_in_tail(channel, publication);
                }
                if is_lingering {
                    return;
                }
                self.done.push_back(match publication {
                    Some(publication) => Done::Delivered { key, publication },
                    None => Done::Gap { key, position },
                });
            }
            FollowAction::EpochChanged(_) | FollowAction::Gap(_) if is_lingering => {}
            FollowAction::EpochChanged(position) => {
                // The engine may have lost the revision together with the messages.
                self.report_missed_news(channel, era);
                self.stats.epochs_reported += 1;
                self.done.push_back(Done::EpochChanged { key, position });
            }
            FollowAction::Gap(position) => {
                self.stats.holes_reported += 1;
                self.done.push_back(Done::Gap { key, position });
            }
            FollowAction::Read(range) => {
                let token = self.purposes.insert(Purpose::CatchUp { channel, era }) as u64;
                self.submit_read(channel, token, range);
            }
        }
    }

    /// `None`: the message is of a version that this node does not know.
    fn make_publication(
        &self,
        channel: u32,
        epoch: Epoch,
        message: &RawMessage,
    ) -> Option<Arc<Publication>> {
        let envelope = Envelope::decode(&message.envelope)?;
        // The clocks of other processes mean nothing here; 0: the delivery is not timed.
        let accepted_ns = if envelope.origin == self.origin { envelope.accepted_ns } else { 0 };
        let draft = envelope.into_draft(message.time_ms, accepted_ns, self.storing);
        let position = Position { epoch, offset: message.offset };
        let name = &self.channels[channel as usize].name;
        Some(Publication::new(name, position, None, draft))
    }

    /// Processes an event of the engine.
    fn handle_event(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Changed { token }
            | EngineEvent::Seated { token, .. }
            | EngineEvent::Failed { token, .. }
                if token & roster::TOKEN != 0 =>
            {
                let done = self.roster.complete(&event);
                self.done.extend(done);
            }
            EngineEvent::TailEnded { channel } => {
                if let Some(&channel) = self.names.get(&channel) {
                    self.drop_tail(channel);
                }
            }
            EngineEvent::Members { token, page } => self.complete_members(token, page),
            EngineEvent::News { channel, news } => self.take_news(&channel, news),
            EngineEvent::Unlisted => self.roster.list_again(None),
            EngineEvent::Changed { .. } | EngineEvent::Seated { .. } => {}
            EngineEvent::Appended { token, position, duplicate } => {
                if let Some(Purpose::Append { ticket }) = self.take_purpose(token) {
                    self.done.push_back(Done::Appended { ticket, position, duplicate });
                }
            }
            EngineEvent::Conflict { token } => {
                if let Some(Purpose::Append { ticket }) = self.take_purpose(token) {
                    let refused = Refused::reused_key();
                    self.done.push_back(Done::Refused { ticket, refused });
                }
            }
            EngineEvent::Trimmed { token, position } => {
                if let Some(Purpose::Trim { ticket }) = self.take_purpose(token) {
                    self.done.push_back(Done::Trimmed { ticket, position });
                }
            }
            EngineEvent::Page { token, page } => match self.take_purpose(token) {
                Some(Purpose::Read { ticket, channel, range, era, .. }) => {
                    let own = &mut self.channels[channel as usize];
                    if own.follower.is_off() || own.era == era {
                        own.follower.note_member(page.position);
                        self.complete_read(ticket, channel, range, page);
                    } else {
                        self.begin_read(ticket, channel, range);
                    }
                }
                Some(Purpose::CatchUp { channel, era }) => {
                    self.catch_up(channel, era, page);
                }
                Some(Purpose::Renew { channel, era }) => {
                    self.follow(channel, era, |own, out| own.compare(page.position, out));
                }
                _ => {}
            },
            EngineEvent::Failed { token, retry_after_ms } => self.fail(token, retry_after_ms),
            EngineEvent::Watching { token } => self.note_subscription(token),
            EngineEvent::Pushed { channel, epoch, message } => {
                self.take_message(&channel, epoch, message);
            }
            EngineEvent::Dropped => self.look_again(),
            EngineEvent::Lost { instance } => self.note_loss(instance),
        }
    }

    fn take_purpose(&mut self, token: u64) -> Option<Purpose> {
        self.purposes.try_remove(token as usize)
    }

    /// The clock was set back: deadlines move with it, so that nothing waits longer.
    fn follow_clock_back(&mut self, step_ms: u64, now_ms: u64) {
        let timeouts = self.timeouts.iter_mut().map(|(due_ms, ..)| due_ms);
        let retries = self.retries.iter_mut().map(|(due_ms, ..)| due_ms);
        timeouts.chain(retries).for_each(|due_ms| *due_ms = due_ms.saturating_sub(step_ms));
        for (channel, own) in self.channels.iter().filter(|(_, own)| !own.follower.is_off()) {
            self.renewals.set(channel as u32, now_ms + self.limits.renewal_ms);
            if own.is_lingering {
                self.lingering.set(channel as u32, now_ms + self.limits.linger_ms);
            }
        }
    }
}

/// Hashes an idempotency key with its channel and owner, and the content.
fn hash_key(channel: &ChannelName, scope: &KeyScope, content: &str, ttl_ms: u64) -> AppendKey {
    let short = |bytes: &[u8]| {
        let hash = digest(&SHA256, bytes);
        *hash.as_ref().first_chunk::<16>().expect("SHA-256 has 32 bytes")
    };
    // Names contain no zero byte, owners and keys may: their lengths keep them apart.
    let name = format!("{channel}\0{}\0{}{}", scope.owner.len(), scope.owner, scope.key);
    AppendKey { digest: short(name.as_bytes()), content: short(content.as_bytes()), ttl_ms }
}

impl Log for ClusterLog {
    fn open(
        &mut self,
        name: &ChannelName,
        key: u32,
        retention: Retention,
        _first: Epoch,
    ) -> Opening {
        let (place, serial) = (self.layout.place_of(name.as_str()), self.next_serial());
        let channel = self.channels.insert(Channel {
            name: name.clone(),
            key,
            place,
            retention,
            follower: Follower::default(),
            is_lingering: false,
            has_epoch_turn: false,
            serial,
            era: serial,
            deferred: Vec::new(),
            revision: None,
            tail: Tail::default(),
            tail_serial: 0,
        }) as u32;
        let before = self.names.insert(name.clone(), channel);
        assert!(before.is_none(), "a channel is opened once");
        Opening { channel, is_open: true }
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.channels[channel as usize].retention = retention;
    }

    fn close(&mut self, channel: u32) {
        if !self.channels[channel as usize].follower.is_off() {
            self.end_watch(channel);
        }
        let own = self.channels.remove(channel as usize);
        assert!(own.deferred.is_empty(), "a channel with commands in flight is not closed");
        self.names.remove(&own.name);
        self.drop_deliveries(own.key);
    }

    fn set_watched(&mut self, channel: u32, is_watched: bool) {
        if is_watched { self.begin_watch(channel) } else { self.leave_watch(channel) }
    }

    fn set_time(&mut self, now_ms: u64) {
        if let Some(step_ms) = self.now_ms.checked_sub(now_ms).filter(|step_ms| *step_ms > 0) {
            self.follow_clock_back(step_ms, now_ms);
            self.epoch_pace.set_back(now_ms);
        }
        self.roster.set_time(now_ms);
        self.now_ms = now_ms;
    }

    fn set_key_bounds(&mut self, _keys_max: usize, ttl_ms: u64) {
        self.key_ttl_ms = ttl_ms;
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>) {
        let fresh = self.make_epoch();
        let Channel { name, retention, .. } = &self.channels[channel as usize];
        let hash = |scope: KeyScope| hash_key(name, &scope, &draft.content, self.key_ttl_ms);
        let (key, retention) = (key.map(hash), *retention);
        let envelope = Envelope::encode_draft(&draft, self.origin);
        let token = self.purposes.insert(Purpose::Append { ticket }) as u64;
        self.submit(channel, token, Action::Append { envelope, retention, fresh, key });
    }

    fn recover(&mut self, ticket: u64, channel: u32, range: Range) {
        match self.read_tail(channel, &range) {
            Some(page) => {
                self.stats.tail_reads += u64::from(range.since.is_some());
                self.done.push_back(Done::Page { ticket, page });
            }
            None => {
                self.stats.engine_reads += u64::from(range.since.is_some());
                self.begin_read(ticket, channel, range);
            }
        }
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        self.begin_read(ticket, channel, range);
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        let fresh = self.make_epoch();
        let token = self.purposes.insert(Purpose::Trim { ticket }) as u64;
        self.submit(channel, token, Action::Trim { fresh });
    }

    fn expire_messages(&mut self, now_ms: u64, channels_max: usize) {
        self.set_time(now_ms);
        self.expire_deferred();
        self.repeat_reads();
        self.roster.repeat();
        self.roster.continue_listing(channels_max);
        self.roster.flush(&mut *self.port);
        self.renew_positions(channels_max);
        self.end_lingering(channels_max);
        self.take_epoch_turns();
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        let first = |queue: &VecDeque<(u64, u32, u64)>| queue.front().map(|(due_ms, ..)| *due_ms);
        let timeout = self.timeouts.front().map(|(due_ms, ..)| *due_ms);
        let listing = self.roster.is_listing_again().then_some(self.now_ms);
        let roster = [self.roster.next_retry_ms(), listing];
        let tables = [self.renewals.next_ms(), self.lingering.next_ms(), self.epoch_pace.next_ms()];
        let own = [timeout, first(&self.retries)];
        own.into_iter().chain(tables).chain(roster).flatten().min()
    }

    fn roster(&mut self) -> Option<&mut dyn Roster> {
        Some(self)
    }

    fn stats(&self) -> LogStats {
        LogStats { roster_changes: self.roster.unconfirmed() as u64, ..self.stats }
    }

    fn kept_messages(&self) -> (u64, u64) {
        (self.tail_usage.messages, self.tail_usage.bytes)
    }

    fn table_bytes(&self) -> u64 {
        let entries = self.channels.capacity() * size_of::<Channel>()
            + self.names.capacity() * size_of::<(ChannelName, u32)>()
            + self.purposes.capacity() * size_of::<Purpose>()
            + self.done.capacity() * size_of::<Done>()
            + (self.timeouts.capacity() + self.retries.capacity()) * size_of::<(u64, u64, u64)>()
            + self.renewals.bytes()
            + self.lingering.bytes()
            + self.epoch_pace.bytes()
            + self.roster.bytes();
        entries as u64
    }

    fn next(&mut self) -> Option<Done> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Some(done);
            }
            // Changes of a turn are sent together.
            self.roster.flush(&mut *self.port);
            let event = self.port.next_event()?;
            self.handle_event(event);
        }
    }
}

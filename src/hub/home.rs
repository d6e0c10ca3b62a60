//! The home of channels: their order, their presence, and how many members each shard has.
//!
//! Requests and completions of the log go in, answers and publications come out in the order in
//! which each shard must see them. See the module above for why nothing is lost or doubled.

mod completions;
mod events;
mod joining;
mod keeping;
mod roster;
mod starts;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::ChannelName;
use super::answer::{Answer, Origin, Out, Request, Subscribe, Verb};
use super::due::DueQueue;
use super::log::{Log, LogStats, Range, Retention};
use super::names::Names;
use super::position::{Epoch, Position, Since};
use super::presence::Presence;
use super::publication::Publication;
use super::refusal::{Code, Refused};
use super::roster::{RosterNews, RosterPage, RosterRange};
use super::seats::Seats;
pub use events::HomeEvent;
use events::{HomeEvents, PublishedCopy};
use keeping::{name_bytes, since_of};
use starts::Starts;

/// How a home behaves.
#[derive(Clone, Copy, Debug)]
pub struct HomeOptions {
    /// A channel with neither members nor messages is forgotten after this, or after the time that
    /// its messages are kept, whichever is longer.
    pub channel_ttl_ms: u64,
    /// Channels; past it, the unused one that is nearest to being forgotten makes room.
    pub channels_max: usize,
    /// The longest gap that is recovered.
    pub recover_messages_max: u32,
    pub recover_bytes_max: u64,
    /// Members listed in one answer; they have `recover_bytes_max` at most, too.
    pub presence_page_max: u32,
    /// Messages in the answer to a read of history.
    pub history_page_max: u32,
    /// Idempotency keys remembered, and for how long.
    pub keys_max: usize,
    pub key_ttl_ms: u64,
}

/// How many of a channel's members one shard has.
#[derive(Clone, Copy, Debug)]
struct ShardCounts {
    shard: u16,
    members: u32,
    watchers: u32,
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    /// The log's name for it.
    log: u32,
    retention: Retention,
    /// The epoch that it was opened with, unless the log knew another.
    first: Epoch,
    /// It has members, or is about to: the log delivers its messages.
    is_watched: bool,
    /// The position of the last message delivered. `None` until the log has said so, and while the
    /// channel is not watched: others may publish to it.
    position: Option<Position>,
    /// The offset at which a page showed the position first: what came later is in
    /// `delivered_meanwhile`.
    known_from: u64,
    members: u32,
    shards: Vec<ShardCounts>,
    presence: Option<Box<Presence>>,
    /// Of its members, where their number is limited.
    seats: Option<Box<Seats>>,
    /// Requests that wait for the log to open it; `None`: it is open.
    opening: Option<Box<AwaitingOpen>>,
    /// Commands that the log has not completed.
    pending: u32,
    /// Subscriptions that wait for a page.
    joining: u32,
    /// What was delivered since the first of them began.
    delivered_meanwhile: VecDeque<Arc<Publication>>,
    /// Requests that wait for members on all nodes, or may yet ask for them.
    listing: u32,
    /// How often joins and leaves were missed.
    news_gaps: u32,
    /// The joins and leaves on all nodes since the first of them began.
    news_meanwhile: Vec<RosterNews>,
    used_ms: u64,
}

/// Requests for a channel that the log is opening, in their order.
#[derive(Debug, Default)]
struct AwaitingOpen(VecDeque<(Origin, Verb)>);

/// A subscription that cannot be answered yet, and what was read for it.
#[derive(Debug)]
struct Joining {
    subscribe: Subscribe,
    /// It has a seat in the roster.
    has_seat: bool,
    /// The members on all nodes, if the client asked for them.
    listing: Option<RosterPage>,
    /// The channel's [`Channel::news_gaps`] when they were asked for.
    news_gaps: u32,
}

#[derive(Debug)]
enum Waiting {
    Join {
        channel: u32,
        from: Origin,
        joining: Box<Joining>,
    },
    Presence {
        channel: u32,
        from: Origin,
        after: Option<Box<str>>,
    },
    /// The number of members on all nodes.
    Count {
        channel: u32,
        from: Origin,
        position: Position,
    },
    Publish {
        channel: u32,
        from: Origin,
        /// For its event, if that is wanted.
        copy: Option<Box<PublishedCopy>>,
    },
    History {
        channel: u32,
        from: Origin,
    },
    Describe {
        channel: u32,
        from: Origin,
    },
    Trim {
        channel: u32,
        from: Origin,
    },
}

impl Waiting {
    fn channel(&self) -> u32 {
        match self {
            Self::Join { channel, .. }
            | Self::Presence { channel, .. }
            | Self::Count { channel, .. }
            | Self::Publish { channel, .. }
            | Self::History { channel, .. }
            | Self::Describe { channel, .. }
            | Self::Trim { channel, .. } => *channel,
        }
    }
}

/// The present size of a home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomeGauges {
    pub channels: u64,
    pub members: u64,
    pub history_messages: u64,
    pub history_bytes: u64,
    pub keys: u64,
    /// Memory of the table of channels, of presence, and of idempotency keys (bytes).
    pub channel_bytes: u64,
    pub presence_bytes: u64,
    pub key_bytes: u64,
}

/// Counters of a home, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HomeStats {
    pub publishes: u64,
    pub duplicates: u64,
    pub recovered: u64,
    pub not_recovered: u64,
    pub channels_opened: u64,
    pub channels_forgotten: u64,
    /// Idempotency keys evicted before they expired.
    pub keys_evicted: u64,
    pub log: LogStats,
}

/// See the module.
pub struct Home {
    options: HomeOptions,
    log: Box<dyn Log>,
    channels: Slab<Channel>,
    names: Names,
    /// The channel of the last request: the next one often is for the same.
    recent: u32,
    waiting: Slab<Waiting>,
    starts: Starts,
    members: u64,
    stats: HomeStats,
    out: Vec<(u16, Out)>,
    /// Channels without members or requests, by the time at which they are closed.
    unused: DueQueue,
    /// Memory of names, and of the lists of shards and seats (bytes).
    name_bytes: usize,
    shard_count_bytes: usize,
    seat_bytes: usize,
    presence_bytes: usize,
    /// Channels opened since the last [`Home::expire_channels`].
    opened: usize,
    events: HomeEvents,
    now_ms: u64,
}

impl Home {
    /// A home without channels.
    pub fn new(options: HomeOptions, mut log: Box<dyn Log>) -> Self {
        log.set_key_bounds(options.keys_max, options.key_ttl_ms);
        Self {
            options,
            log,
            channels: Slab::new(),
            names: Names::default(),
            recent: 0,
            waiting: Slab::new(),
            starts: Starts::new(),
            members: 0,
            stats: HomeStats::default(),
            out: Vec::new(),
            unused: DueQueue::default(),
            name_bytes: 0,
            shard_count_bytes: 0,
            seat_bytes: 0,
            presence_bytes: 0,
            opened: 0,
            events: HomeEvents::default(),
            now_ms: 0,
        }
    }

    /// Returns whether there is nothing to process, to report or to send.
    pub fn is_at_rest(&self) -> bool {
        // Without channels, nothing can have been asked of the log.
        let has_completions = !self.channels.is_empty() && self.log.may_have_completions();
        !has_completions && self.has_nothing_to_send() && self.events.is_empty()
    }

    /// Handles a request. `now_ms` is Unix time.
    pub fn handle_request(&mut self, request: Request, now_ms: u64) {
        self.set_time(now_ms);
        let Request { from, channel, retention, mut verb } = request;
        // Decide this first: opening a channel may evict another one, which invalidates all starts.
        let from_start = self.is_from_start(&channel, retention, &mut verb);
        let key = match (&verb, self.find(&channel)) {
            (Verb::Leave { .. } | Verb::Rename { .. } | Verb::Unwatch, Some(key)) => key,
            // A closed channel has no members: there is nothing to leave.
            (Verb::Leave { .. } | Verb::Rename { .. } | Verb::Unwatch, None) => return,
            (Verb::Presence { .. }, None) if self.log.roster().is_none() => {
                return self.answer_to(channel, from, Answer::Presence(Box::default()));
            }
            (Verb::Describe, None) => {
                let message = "this channel has no members and keeps no messages";
                let refused = Refused::new(Code::NotFound, message);
                return self.answer_to(channel, from, Answer::Refused(refused));
            }
            (Verb::History { .. } | Verb::Trim, None) if self.log.is_empty_while_closed() => {
                let answer = self.unused(&channel, retention, &verb);
                return self.answer_to(channel, from, answer);
            }
            (_, Some(key)) => {
                self.retain(key, retention);
                key
            }
            (_, None) => match self.open(&channel, retention) {
                Some(key) => key,
                None => return self.refuse_channel(channel, from),
            },
        };
        self.channels[key as usize].used_ms = now_ms;
        if let Some(since) = since_of(&mut verb).filter(|_| from_start) {
            since.epoch = Some(self.channels[key as usize].first);
        }
        // Requests wait in order until the log has opened the channel.
        match &mut self.channels[key as usize].opening {
            Some(waiting) => waiting.0.push_back((from, verb)),
            None => self.carry_out(key, from, verb),
        }
        self.note_use(key);
    }

    /// Returns the key of a channel, if it is open or being opened.
    fn find(&mut self, name: &ChannelName) -> Option<u32> {
        let recent = self.channels.get(self.recent as usize);
        if recent.is_none_or(|own| !own.name.is_shared_with(name)) {
            self.recent = self.names.get(name.as_str())?;
        }
        Some(self.recent)
    }

    /// Carries out a request to an open channel.
    fn carry_out(&mut self, key: u32, from: Origin, verb: Verb) {
        match verb {
            Verb::Subscribe(subscribe) => self.subscribe(key, from, *subscribe),
            Verb::Leave { watch, member } => {
                self.remove_member(key, &from, watch, member.as_deref());
            }
            Verb::Unwatch => self.remove_watcher(key, &from),
            Verb::Rename { old, new } => self.rename_presence(key, &old, &new),
            Verb::Publish { draft, key: scope } => {
                let copy = self.copy_published(&draft);
                let waiting = Waiting::Publish { channel: key, from, copy };
                let (ticket, log) = self.register_waiting(waiting);
                self.log.append(ticket, log, *draft, scope.map(|scope| *scope));
            }
            Verb::Presence { after, limit } => self.list_presence(key, from, after, limit),
            Verb::History { since, limit, reverse } => {
                let messages_max = limit.clamp(1, self.options.history_page_max);
                let bytes_max = self.options.recover_bytes_max;
                let range = Range { since, messages_max, bytes_max, reverse };
                self.read(Waiting::History { channel: key, from }, range);
            }
            Verb::Describe => self.describe(key, from),
            Verb::Trim => {
                let (ticket, log) = self.register_waiting(Waiting::Trim { channel: key, from });
                self.log.trim(ticket, log);
            }
        }
    }

    /// Applies the retention of the request's configuration to an open channel: a reload may have
    /// changed it.
    fn retain(&mut self, key: u32, retention: Retention) {
        let own = &mut self.channels[key as usize];
        if own.retention != retention {
            own.retention = retention;
            self.log.retain(own.log, retention);
        }
    }

    /// Opens a channel. `None`: the limit is reached, and every channel is in use.
    fn open(&mut self, name: &ChannelName, retention: Retention) -> Option<u32> {
        if self.channels.len() >= self.options.channels_max && !self.make_room() {
            return None;
        }
        self.stats.channels_opened += 1;
        self.opened += 1;
        self.name_bytes += name_bytes(name);
        let key = self.channels.vacant_key() as u32;
        let first = self.starts.current_epoch(name, self.hold_ms(retention));
        let opening = self.log.open(name, key, retention, first);
        self.channels.insert(Channel {
            name: name.clone(),
            log: opening.channel,
            retention,
            first,
            is_watched: false,
            position: None,
            known_from: 0,
            members: 0,
            shards: Vec::new(),
            presence: None,
            seats: None,
            opening: (!opening.is_open).then(Box::default),
            pending: 0,
            joining: 0,
            delivered_meanwhile: VecDeque::new(),
            listing: 0,
            news_gaps: 0,
            news_meanwhile: Vec::new(),
            used_ms: self.now_ms,
        });
        self.names.insert(name.clone(), key);
        Some(key)
    }

    /// Stores the purpose of a command to the log. Returns its ticket, and the log's channel.
    fn register_waiting(&mut self, waiting: Waiting) -> (u64, u32) {
        let channel = &mut self.channels[waiting.channel() as usize];
        channel.pending += 1;
        (self.waiting.insert(waiting) as u64, channel.log)
    }

    fn read(&mut self, waiting: Waiting, range: Range) {
        let (ticket, log) = self.register_waiting(waiting);
        self.log.read(ticket, log, range);
    }

    /// Admits a member at once if it has missed nothing and needs nothing of the roster; if not,
    /// that is read first.
    fn subscribe(&mut self, key: u32, from: Origin, subscribe: Subscribe) {
        let channel = &mut self.channels[key as usize];
        if !channel.is_watched {
            channel.is_watched = true;
            self.log.set_watched(channel.log, true);
        }
        let joining = Joining { subscribe, has_seat: false, listing: None, news_gaps: 0 };
        if !self.needs_roster(&joining)
            && let Some((position, recovered)) = self.find_position(key, joining.subscribe.since)
        {
            return self.admit_member(key, from, joining, position, recovered, Vec::new());
        }
        // From now on deliveries are collected, to complete a page that was read before them.
        self.channels[key as usize].joining += 1;
        self.begin_listing(key);
        self.continue_join(key, from, Box::new(joining));
    }

    /// Returns the position at which a subscription can begin without a read, and whether it has
    /// recovered by that. `None`: it may have missed messages, or the position is not known.
    fn find_position(&self, key: u32, since: Option<Since>) -> Option<(Position, bool)> {
        let channel = &self.channels[key as usize];
        let position = channel.position?;
        let there = Since { epoch: Some(position.epoch), offset: position.offset };
        let nothing_kept = channel.retention.messages_max == 0;
        let is_exact = since.is_none_or(|since| since == there) || nothing_kept;
        is_exact.then_some((position, since == Some(there)))
    }

    /// Reads the messages that a subscription has missed.
    fn read_for_join(&mut self, key: u32, from: Origin, joining: Box<Joining>) {
        let range = match joining.subscribe.since {
            Some(since) => Range {
                since: Some(since),
                messages_max: self.options.recover_messages_max,
                bytes_max: self.options.recover_bytes_max,
                reverse: false,
            },
            None => Self::empty_range(),
        };
        let (ticket, log) = self.register_waiting(Waiting::Join { channel: key, from, joining });
        self.log.recover(ticket, log, range);
    }

    /// A read of the channel's position only.
    fn empty_range() -> Range {
        Range { since: None, messages_max: 0, bytes_max: 0, reverse: false }
    }

    fn describe(&mut self, key: u32, from: Origin) {
        match self.channels[key as usize].position {
            Some(position) => self.describe_at(key, from, position),
            None => self.read(Waiting::Describe { channel: key, from }, Self::empty_range()),
        }
    }

    fn describe_at(&mut self, key: u32, from: Origin, position: Position) {
        if self.log.roster().is_some() {
            let waiting = Waiting::Count { channel: key, from, position };
            return self.read_members(waiting, RosterRange::default());
        }
        let presence = self.channels[key as usize].presence.as_ref();
        let users = presence.map_or(0, |presence| presence.count());
        self.answer_described(key, from, position, users);
    }

    fn answer_described(&mut self, key: u32, from: Origin, position: Position, users: u64) {
        let members = self.channels[key as usize].members.into();
        self.send_answer(key, from, Answer::Described { position, members, users });
    }

    fn send_answer(&mut self, key: u32, from: Origin, answer: Answer) {
        self.answer_to(self.channels[key as usize].name.clone(), from, answer);
    }

    fn answer_to(&mut self, channel: ChannelName, from: Origin, answer: Answer) {
        match from {
            Origin::Session { id, request } => {
                self.out.push((id.shard, Out::Answer { id, request, channel, answer }));
            }
            Origin::Api(reply) => (reply.0)(answer),
            Origin::Batch(reply) => reply.send_answer(answer),
        }
    }

    /// Returns whether nothing is to be sent to shards.
    pub fn has_nothing_to_send(&self) -> bool {
        self.out.is_empty()
    }

    /// Exchanges the list of what to send to shards, in order, for an empty one, whose memory is
    /// reused.
    pub fn exchange_out(&mut self, empty: &mut Vec<(u16, Out)>) {
        debug_assert!(empty.is_empty(), "what was taken has been sent");
        std::mem::swap(&mut self.out, empty);
    }

    /// Takes what to send to shards, in order.
    pub fn take_out(&mut self) -> std::vec::Drain<'_, (u16, Out)> {
        self.out.drain(..)
    }
}

//! A model of the engine and of the nodes' connections to it, for tests: in memory, driven by a
//! seed, and as unreliable as the real ones.
//!
//! It carries out commands as the scripts of [`super::redis`] do; a test runs both with the same
//! commands. Commands, replies and publications of each port travel in queues of their own, and a
//! step moves one of them. Faults lose publications, cut connections with commands in flight, and
//! restart the engine without its latest writes.

mod roster;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::command::{Action, AppendKey, EngineCommand, EngineEvent, EnginePort};
use super::command::{RawMessage, RawPage};
use super::layout::Incarnation;
use crate::driver::Bell;
use crate::hub::{ChannelName, Epoch, Position, Range, Retention, RosterNews, Since};
use roster::RosterState;

/// A channel in the engine.
#[derive(Clone, Debug)]
struct State {
    lineage: u64,
    epoch: Epoch,
    offset: u64,
    /// Consecutive offsets up to the position.
    messages: VecDeque<RawMessage>,
}

/// What the engine keeps.
#[derive(Clone, Debug, Default)]
struct Store {
    channels: HashMap<ChannelName, State>,
    /// By digest: the content, the position of the first publish, and the expiry (ms).
    keys: HashMap<[u8; 16], ([u8; 16], Position, u64)>,
    rosters: HashMap<ChannelName, RosterState>,
}

/// What a command publishes.
#[derive(Clone, Debug)]
enum Published {
    Message(Epoch, RawMessage),
    News(RosterNews),
    Trim,
}

/// What is the same for all commands of a link at a time.
#[derive(Clone, Copy, Debug)]
struct Circumstances {
    lineage: u64,
    now_ms: u64,
    incarnation: Incarnation,
    is_swept: bool,
}

/// The faults of the model, each with a chance of one in this many steps; 0 = never.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelFaults {
    /// A connection breaks.
    pub cut: u64,
    /// A publication is lost on the way to a node.
    pub lose_push: u64,
    /// The engine restarts, possibly without its latest writes.
    pub fail_over: u64,
    /// A node is swept, because it was paused.
    pub pause: u64,
}

#[derive(Default)]
struct Link {
    incarnation: u64,
    bell: Option<Arc<dyn Bell>>,
    /// Commands on their way to the engine.
    commands: VecDeque<EngineCommand>,
    replies: VecDeque<EngineEvent>,
    pushes: VecDeque<EngineEvent>,
    /// What the node has received.
    inbox: VecDeque<EngineEvent>,
    /// The subscriptions that the node wants, with their tokens.
    wanted: HashMap<ChannelName, u64>,
    /// Those in effect at the engine.
    subscribed: HashSet<ChannelName>,
}

struct World {
    store: Store,
    /// Earlier states, to which a failover may return.
    snapshots: VecDeque<Store>,
    lineage: u64,
    now_ms: u64,
    /// The last incarnation of any link.
    incarnations: u64,
    /// Incarnations that nothing may be listed under any more.
    swept: HashSet<Incarnation>,
    links: Vec<Link>,
    faults: ModelFaults,
    random: u64,
}

/// The engine. Clones share it.
#[derive(Clone)]
pub struct ModelEngine(Arc<Mutex<World>>);

/// States that a failover may return to.
const SNAPSHOTS_MAX: usize = 8;

impl Store {
    /// Carries out a command. Returns its event, and what it publishes.
    fn execute(
        &mut self,
        command: EngineCommand,
        circumstances: Circumstances,
    ) -> (EngineEvent, Vec<Published>) {
        let Circumstances { lineage, now_ms, incarnation, is_swept } = circumstances;
        let EngineCommand { token, channel, action, .. } = command;
        match action {
            Action::Change { .. } | Action::Seat { .. } if is_swept => {
                (EngineEvent::Failed { token, retry_after_ms: None }, Vec::new())
            }
            Action::Change { changes } => {
                let roster = self.rosters.entry(channel).or_default();
                let mut news = Vec::new();
                changes.iter().for_each(|change| roster.apply(incarnation, change, &mut news));
                let news = news.into_iter().map(Published::News);
                (EngineEvent::Changed { token }, news.collect())
            }
            Action::Members { range } => {
                let page = self.rosters.entry(channel).or_default().read(&range);
                (EngineEvent::Members { token, page }, Vec::new())
            }
            Action::Seat { id, replaces, seats_max } => {
                let roster = self.rosters.entry(channel).or_default();
                let has_seat = roster.take_seat(incarnation, id, replaces, seats_max);
                (EngineEvent::Seated { token, has_seat }, Vec::new())
            }
            Action::Append { envelope, retention, fresh, key } => {
                let epoch = self.channels.get(&channel).filter(|own| own.lineage == lineage);
                let epoch = epoch.map(|own| own.epoch);
                if let Some(event) = self.find_key(token, key.as_ref(), epoch, now_ms) {
                    return (event, Vec::new());
                }
                let state = self.state_of(&channel, fresh, lineage);
                state.offset += 1;
                let position = Position { epoch: state.epoch, offset: state.offset };
                let envelope = envelope.into_vec();
                let message = RawMessage { offset: state.offset, time_ms: now_ms, envelope };
                state.keep(message.clone(), retention, now_ms);
                if let Some(AppendKey { digest, content, ttl_ms }) = key {
                    self.keys.insert(digest, (content, position, now_ms + ttl_ms));
                }
                let event = EngineEvent::Appended { token, position, duplicate: false };
                (event, vec![Published::Message(position.epoch, message)])
            }
            Action::Read { range, retention, fresh, .. } => {
                let state = self.state_of(&channel, fresh, lineage);
                let page = state.read(range, retention, now_ms);
                (EngineEvent::Page { token, page }, Vec::new())
            }
            Action::Trim { fresh } => {
                let state = self.state_of(&channel, fresh, lineage);
                state.messages.clear();
                let position = Position { epoch: state.epoch, offset: state.offset };
                (EngineEvent::Trimmed { token, position }, vec![Published::Trim])
            }
            Action::Watch | Action::Unwatch => unreachable!("subscriptions are handled before"),
        }
    }

    fn state_of(&mut self, channel: &ChannelName, fresh: Epoch, lineage: u64) -> &mut State {
        let start = || State { lineage, epoch: fresh, offset: 0, messages: VecDeque::new() };
        let state = self.channels.entry(channel.clone()).or_insert_with(start);
        if state.lineage != lineage {
            *state = start();
        }
        state
    }

    fn find_key(
        &self,
        token: u64,
        key: Option<&AppendKey>,
        epoch: Option<Epoch>,
        now_ms: u64,
    ) -> Option<EngineEvent> {
        let key = key?;
        let is_valid = |(_, position, expires_ms): &&([u8; 16], Position, u64)| {
            *expires_ms > now_ms && Some(position.epoch) == epoch
        };
        let (content, position, _) = self.keys.get(&key.digest).filter(is_valid)?;
        if *content != key.content {
            return Some(EngineEvent::Conflict { token });
        }
        Some(EngineEvent::Appended { token, position: *position, duplicate: true })
    }
}

impl State {
    fn keep(&mut self, message: RawMessage, retention: Retention, now_ms: u64) {
        if retention.messages_max == 0 {
            return self.messages.clear();
        }
        self.messages.push_back(message);
        let over = self.messages.len().saturating_sub(retention.messages_max as usize);
        self.messages.drain(..over);
        let is_expired = |one: &mut RawMessage| one.time_ms + retention.ttl_ms < now_ms;
        while self.messages.pop_front_if(is_expired).is_some() {}
    }

    fn read(&self, range: Range, retention: Retention, now_ms: u64) -> RawPage {
        let position = Position { epoch: self.epoch, offset: self.offset };
        let Range { since, messages_max, bytes_max, reverse } = range;
        let mut page = RawPage { position, complete: true, messages: Vec::new() };
        if messages_max == 0 && since.is_none() {
            return page;
        }
        let is_valid = |one: &&RawMessage| one.time_ms + retention.ttl_ms >= now_ms;
        let valid: Vec<_> = self.messages.iter().filter(is_valid).collect();
        let first = valid.first().map_or(self.offset + 1, |one| one.offset);
        let mut from = first;
        if let Some(Since { epoch, offset }) = since {
            if epoch != Some(self.epoch) {
                return RawPage { complete: false, ..page };
            }
            page.complete = offset <= self.offset && first <= offset + 1;
            from = first.max(offset + 1);
        }
        let mut wanted: Vec<_> = valid.into_iter().filter(|one| one.offset >= from).collect();
        if reverse {
            wanted.reverse();
        }
        let mut bytes = 0;
        for one in wanted {
            // The engine counts offset and time, too.
            bytes += format!("{} {} ", one.offset, one.time_ms).len() + one.envelope.len();
            let is_over = bytes as u64 > bytes_max && !page.messages.is_empty();
            if page.messages.len() >= messages_max as usize || is_over {
                page.complete = false;
                break;
            }
            page.messages.push(one.clone());
        }
        page
    }
}

impl Link {
    fn announce(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Breaks the connection, and opens another one.
    fn cut(&mut self) {
        self.inbox.push_back(EngineEvent::Lost { instance: 0 });
        let failed = |token| EngineEvent::Failed { token, retry_after_ms: None };
        for event in self.replies.drain(..) {
            // Some were carried out, which the node does not learn.
            self.inbox.extend(token_of(&event).map(failed));
        }
        for EngineCommand { token, action, .. } in self.commands.drain(..) {
            if !matches!(action, Action::Watch | Action::Unwatch) {
                self.inbox.push_back(failed(token));
            }
        }
        self.pushes.clear();
        self.subscribed = self.wanted.keys().cloned().collect();
        let again = self.wanted.values().map(|token| EngineEvent::Watching { token: *token });
        self.pushes.extend(again);
        self.announce();
    }
}

fn token_of(event: &EngineEvent) -> Option<u64> {
    match event {
        EngineEvent::Appended { token, .. }
        | EngineEvent::Conflict { token }
        | EngineEvent::Page { token, .. }
        | EngineEvent::Trimmed { token, .. }
        | EngineEvent::Changed { token }
        | EngineEvent::Members { token, .. }
        | EngineEvent::Seated { token, .. }
        | EngineEvent::Failed { token, .. } => Some(*token),
        _ => None,
    }
}

impl World {
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % bound.max(1)
    }

    fn happens(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.random_below(one_in) == 0
    }

    /// Carries out the next command of a link.
    fn execute_next(&mut self, at: usize) {
        let Some(command) = self.links[at].commands.pop_front() else { return };
        let channel = command.channel.clone();
        match command.action {
            Action::Watch => {
                let link = &mut self.links[at];
                link.subscribed.insert(channel);
                link.pushes.push_back(EngineEvent::Watching { token: command.token });
            }
            Action::Unwatch => {
                self.links[at].subscribed.remove(&channel);
            }
            _ => {
                self.snapshots.push_back(self.store.clone());
                if self.snapshots.len() > SNAPSHOTS_MAX {
                    self.snapshots.pop_front();
                }
                let (event, published) = self.store.execute(command, self.circumstances(at));
                self.links[at].replies.push_back(event);
                published.iter().for_each(|one| self.publish(&channel, one));
            }
        }
    }

    fn circumstances(&self, at: usize) -> Circumstances {
        let incarnation = self.links.get(at).map_or(0, |link| link.incarnation);
        let incarnation = Incarnation(incarnation);
        let is_swept = self.swept.contains(&incarnation);
        Circumstances { lineage: self.lineage, now_ms: self.now_ms, incarnation, is_swept }
    }

    /// Gives a link another incarnation; it lists its members again.
    fn renew_incarnation(&mut self, at: usize) {
        self.incarnations += 1;
        self.links[at].incarnation = self.incarnations;
        self.links[at].inbox.push_back(EngineEvent::Unlisted);
        self.links[at].announce();
    }

    /// Ends what incarnations list that no link has.
    fn sweep(&mut self, at: Option<usize>) {
        if let Some(at) = at {
            self.swept.insert(Incarnation(self.links[at].incarnation));
        }
        let living: HashSet<_> = self.links.iter().map(|link| link.incarnation).collect();
        let mut published = Vec::new();
        for (channel, roster) in &mut self.store.rosters {
            let swept = &self.swept;
            let is_dead = |one: Incarnation| !living.contains(&one.0) || swept.contains(&one);
            let mut news = Vec::new();
            roster.sweep(is_dead, &mut news);
            published.extend(news.into_iter().map(|one| (channel.clone(), Published::News(one))));
        }
        published.iter().for_each(|(channel, one)| self.publish(channel, one));
        if let Some(at) = at {
            self.renew_incarnation(at);
        }
    }

    fn publish(&mut self, channel: &ChannelName, published: &Published) {
        for at in 0..self.links.len() {
            if self.links[at].subscribed.contains(channel) && !self.happens(self.faults.lose_push) {
                let channel = channel.clone();
                let push = match published.clone() {
                    Published::Message(epoch, message) => {
                        EngineEvent::Pushed { channel, epoch, message }
                    }
                    Published::News(news) => EngineEvent::News { channel, news },
                    Published::Trim => EngineEvent::TailEnded { channel },
                };
                self.links[at].pushes.push_back(push);
            }
        }
    }

    /// Restarts the engine without its latest writes.
    fn fail_over(&mut self, lost: usize) {
        if let Some(before) = self.snapshots.iter().rev().nth(lost.wrapping_sub(1)) {
            self.store = before.clone();
        }
        self.snapshots.clear();
        self.lineage += 1;
        self.links.iter_mut().for_each(Link::cut);
        (0..self.links.len()).for_each(|at| self.renew_incarnation(at));
    }

    fn step(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let at = self.random_below(self.links.len() as u64) as usize;
        if self.happens(self.faults.cut) {
            return self.links[at].cut();
        }
        if self.happens(self.faults.fail_over) {
            let lost = self.random_below(self.snapshots.len() as u64 + 1) as usize;
            return self.fail_over(lost);
        }
        if self.happens(self.faults.pause) {
            return self.sweep(Some(at));
        }
        match self.random_below(3) {
            0 => self.execute_next(at),
            1 => self.deliver(at, |link| &mut link.replies),
            _ => self.deliver(at, |link| &mut link.pushes),
        }
    }

    fn deliver(&mut self, at: usize, queue: fn(&mut Link) -> &mut VecDeque<EngineEvent>) {
        let link = &mut self.links[at];
        if let Some(event) = queue(link).pop_front() {
            link.inbox.push_back(event);
            link.announce();
        }
    }
}

impl ModelEngine {
    /// Creates an engine without channels.
    pub fn new(seed: u64, faults: ModelFaults) -> Self {
        Self(Arc::new(Mutex::new(World {
            store: Store::default(),
            snapshots: VecDeque::new(),
            lineage: 1,
            now_ms: 0,
            incarnations: 0,
            swept: HashSet::new(),
            links: Vec::new(),
            faults,
            random: seed | 1,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a log. `bell` wakes its shard.
    pub fn port(&self, bell: Option<Arc<dyn Bell>>) -> Box<dyn EnginePort> {
        let mut world = self.lock();
        world.incarnations += 1;
        let incarnation = world.incarnations;
        world.links.push(Link { incarnation, bell, ..Link::default() });
        Box::new(ModelPort { engine: self.clone(), link: world.links.len() - 1 })
    }

    /// Moves a command, a reply or a publication, or makes a fault.
    pub fn step(&self) {
        self.lock().step();
    }

    /// Sets the engine's time (Unix, ms).
    pub fn set_time(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: ModelFaults) {
        self.lock().faults = faults;
    }

    /// Returns whether nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.lock().links.iter().all(|link| {
            let Link { commands, replies, pushes, inbox, .. } = link;
            commands.is_empty() && replies.is_empty() && pushes.is_empty() && inbox.is_empty()
        })
    }

    /// Restarts the engine, with all of its writes.
    pub fn fail_over(&self) {
        self.lock().fail_over(0);
    }

    /// Breaks the connection of a node.
    pub fn cut(&self, at: usize) {
        self.lock().links[at].cut();
    }

    /// Returns how many channels a node is subscribed to.
    pub fn subscriptions(&self, at: usize) -> usize {
        self.lock().links[at].subscribed.len()
    }

    /// Carries out a command at once, as the scripts would.
    pub fn execute(&self, command: EngineCommand) -> EngineEvent {
        let mut world = self.lock();
        let circumstances = world.circumstances(0);
        world.store.execute(command, circumstances).0
    }

    /// Ends what was listed under incarnations that have ended.
    pub fn sweep(&self) {
        self.lock().sweep(None);
    }

    /// Ends a node: nothing of it is on its way any more, and what it listed is swept.
    pub fn end_node(&self, at: usize) {
        let mut world = self.lock();
        world.links[at] = Link::default();
        world.sweep(None);
    }
}

struct ModelPort {
    engine: ModelEngine,
    link: usize,
}

impl EnginePort for ModelPort {
    fn submit(&mut self, command: EngineCommand) -> bool {
        let mut world = self.engine.lock();
        let link = &mut world.links[self.link];
        match command.action {
            Action::Watch => {
                link.wanted.insert(command.channel.clone(), command.token);
            }
            Action::Unwatch => {
                link.wanted.remove(&command.channel);
            }
            _ => {}
        }
        link.commands.push_back(command);
        true
    }

    fn next_event(&mut self) -> Option<EngineEvent> {
        self.engine.lock().links[self.link].inbox.pop_front()
    }
}

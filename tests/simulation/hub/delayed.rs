//! A log that is as late, and as much out of order, as the contract allows: what was asked of it is
//! done by another thread, so to speak, which rings the shard's bell.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use seawall::driver::Bell;
use seawall::hub::{
    ChannelName, Done, Draft, Epoch, KeyScope, KeyUsage, Log, Loss, MemoryLog, Opening, Range,
    Retention,
};

/// Where the logs of all shards are late; each step of the world lets it complete something.
#[derive(Clone, Default)]
pub(crate) struct Broker {
    logs: Arc<Mutex<Vec<Arc<Mutex<Late>>>>>,
    /// Percentage of commands that fail.
    failures: usize,
}

impl Broker {
    /// One that fails now and then.
    pub(crate) fn failing() -> Self {
        Self { failures: 10, ..Self::default() }
    }

    /// The log of a shard.
    pub(crate) fn log(&self, inner: MemoryLog, seed: u64, bell: Arc<dyn Bell>) -> Box<dyn Log> {
        let (held, ready) = (Vec::new(), VecDeque::new());
        let (failures, random) = (self.failures, seed | 1);
        let late = Arc::new(Mutex::new(Late { held, ready, bell, failures, random }));
        self.logs.lock().unwrap().push(late.clone());
        Box::new(DelayedLog { inner, late, channels: HashMap::new() })
    }

    /// Completes some of what was asked.
    pub(crate) fn step(&self) {
        self.logs.lock().unwrap().iter().for_each(|late| late.lock().unwrap().step());
    }
}

struct Late {
    /// Done, and not yet reported.
    held: Vec<Done>,
    ready: VecDeque<Done>,
    bell: Arc<dyn Bell>,
    failures: usize,
    random: u64,
}

/// The channel that a completion without a ticket is about.
fn channel_of(done: &Done) -> Option<u32> {
    match done {
        Done::Opened { key: channel }
        | Done::OpenFailed { key: channel, .. }
        | Done::Delivered { key: channel, .. } => Some(*channel),
        _ => None,
    }
}

impl Late {
    fn random(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % bound
    }

    fn hint(&mut self) -> Option<u32> {
        let hint = self.random(1000) as u32;
        hint.is_multiple_of(2).then_some(hint)
    }

    fn step(&mut self) {
        let mut is_ready = false;
        while !self.held.is_empty() && self.random(3) > 0 {
            let done = self.choose();
            self.ready.push_back(done);
            is_ready = true;
        }
        if is_ready {
            self.bell.ring();
        }
    }

    /// Any completion, but deliveries in the order of offsets, channel by channel.
    fn choose(&mut self) -> Done {
        let mut at = self.random(self.held.len());
        if let Done::Delivered { key: channel, .. } = self.held[at] {
            let first = self.held.iter().position(
                |one| matches!(one, Done::Delivered { key: other, .. } if *other == channel),
            );
            at = first.unwrap_or(at);
        }
        self.held.remove(at)
    }
}

struct DelayedLog {
    inner: MemoryLog,
    late: Arc<Mutex<Late>>,
    /// The home's names of the channels, by the log's, and whether they are open.
    channels: HashMap<u32, (u32, bool)>,
}

impl DelayedLog {
    /// Whether a command fails; the failure is reported as late as a success.
    fn fails(&mut self, ticket: u64, channel: u32) -> bool {
        assert!(self.channels[&channel].1, "commands follow once the channel is open");
        let mut late = self.late.lock().unwrap();
        let fails = late.random(100) < late.failures;
        if fails {
            let retry_after_ms = late.hint();
            late.held.push(Done::Failed { ticket, retry_after_ms });
        }
        fails
    }

    fn hold(&mut self) {
        let mut late = self.late.lock().unwrap();
        late.held.extend(std::iter::from_fn(|| self.inner.next()));
    }
}

impl Log for DelayedLog {
    fn open(
        &mut self,
        name: &ChannelName,
        key: u32,
        retention: Retention,
        first: Epoch,
    ) -> Opening {
        let Opening { channel, .. } = self.inner.open(name, key, retention, first);
        let mut late = self.late.lock().unwrap();
        let is_open = late.random(3) == 0;
        self.channels.insert(channel, (key, is_open));
        if !is_open {
            let fails = late.random(100) < late.failures;
            let retry_after_ms = late.hint();
            late.held.push(if fails {
                Done::OpenFailed { key, retry_after_ms }
            } else {
                Done::Opened { key }
            });
        }
        Opening { channel, is_open }
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.inner.retain(channel, retention);
    }

    fn close(&mut self, channel: u32) {
        self.inner.close(channel);
        let (key, is_open) = self.channels.remove(&channel).unwrap();
        assert!(is_open, "a channel that is being opened is in use");
        let mut late = self.late.lock().unwrap();
        late.held.retain(|done| channel_of(done) != Some(key));
        late.ready.retain(|done| channel_of(done) != Some(key));
    }

    fn set_watched(&mut self, channel: u32, is_watched: bool) {
        let (key, is_open) = self.channels[&channel];
        assert!(is_open, "commands follow once the channel is open");
        self.inner.set_watched(channel, is_watched);
        let mut late = self.late.lock().unwrap();
        let is_wanted = |done: &Done| {
            is_watched || !matches!(done, Done::Delivered { key: channel, .. } if *channel == key)
        };
        late.held.retain(is_wanted);
        late.ready.retain(is_wanted);
    }

    fn loss_on_close(&self, channel: u32) -> Loss {
        self.inner.loss_on_close(channel)
    }

    fn set_time(&mut self, now_ms: u64) {
        self.inner.set_time(now_ms);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.next_expiry_ms()
    }

    fn set_key_bounds(&mut self, keys_max: usize, ttl_ms: u64) {
        self.inner.set_key_bounds(keys_max, ttl_ms);
    }

    fn keys(&self) -> KeyUsage {
        self.inner.keys()
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>) {
        let fails = self.fails(ticket, channel);
        // Of some it is only unknown that they were carried out.
        if fails && self.late.lock().unwrap().random(2) == 0 {
            return;
        }
        self.inner.append(ticket, channel, draft, key);
        let mut late = self.late.lock().unwrap();
        let done = std::iter::from_fn(|| self.inner.next());
        let is_told =
            |done: &Done| !fails || !matches!(done, Done::Appended { .. } | Done::Refused { .. });
        late.held.extend(done.filter(is_told));
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        if !self.fails(ticket, channel) {
            self.inner.read(ticket, channel, range);
            self.hold();
        }
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        if !self.fails(ticket, channel) {
            self.inner.trim(ticket, channel);
            self.hold();
        }
    }

    fn expire_messages(&mut self, now_ms: u64, channels_max: usize) {
        self.inner.expire_messages(now_ms, channels_max);
    }

    fn next(&mut self) -> Option<Done> {
        let done = self.late.lock().unwrap().ready.pop_front()?;
        if let Done::Opened { key: channel } | Done::OpenFailed { key: channel, .. } = &done {
            let mut channels = self.channels.iter_mut();
            let (own, (_, is_open)) = channels.find(|(_, (key, _))| key == channel).unwrap();
            *is_open = true;
            if matches!(done, Done::OpenFailed { .. }) {
                let own = *own;
                self.channels.remove(&own);
                self.inner.close(own);
            }
        }
        Some(done)
    }

    fn kept_messages(&self) -> (u64, u64) {
        self.inner.kept_messages()
    }
}

//! The log in memory: local to a process, and lost when it ends.
//!
//! Messages are limited by number and age for each channel, and by one budget of bytes for all.
//! When the budget is exceeded, logs with more than an equal share of it drop messages of their
//! least recently used channels. So no shard loses its history to an idle shard that holds more
//! than its share; until that shard wakes up, which [`Log::wants_room`] requests, the total may
//! exceed the budget by the shares of the others. Offsets are consecutive.
//!
//! Channels with messages are queued by the expiry of their oldest one. So expired messages are
//! found without a search, and an idle shard knows when to wake up for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slab::Slab;

use super::due::DueQueue;
use super::idempotency::{Keys, Seen};
use super::log::{Done, HistoryPage, KeyUsage, Log, Loss, Opening, Range, Retention};
use super::position::{Epoch, Position};
use super::publication::{Draft, Publication};
use super::refusal::Refused;
use super::{ChannelName, KeyScope};

const NONE: u32 = u32::MAX;

/// The memory for history, shared by all shards of a process.
#[derive(Debug)]
pub struct HistoryBudget {
    bytes: AtomicU64,
    bytes_max: u64,
    /// The number of logs that share it.
    logs: AtomicU64,
}

impl HistoryBudget {
    /// Creates a budget of this many bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bytes_max, logs: AtomicU64::new(0) })
    }

    fn is_exceeded(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    /// Returns whether a log with this many bytes has to drop messages.
    fn is_exceeded_by(&self, bytes: u64) -> bool {
        self.is_exceeded() && bytes > self.bytes_max / self.logs.load(Ordering::Relaxed).max(1)
    }
}

#[derive(Debug)]
struct Channel {
    name: ChannelName,
    key: u32,
    is_watched: bool,
    epoch: Epoch,
    offset: u64,
    retention: Retention,
    messages: VecDeque<Arc<Publication>>,
    /// Neighbours among the channels with messages, from the least to the most recently used.
    older: u32,
    newer: u32,
}

/// See the module.
#[derive(Debug)]
pub struct MemoryLog {
    channels: Slab<Channel>,
    oldest: u32,
    newest: u32,
    done: VecDeque<Done>,
    budget: Arc<HistoryBudget>,
    messages: u64,
    bytes: u64,
    /// Channels with messages, by the expiry of their oldest one.
    due: DueQueue,
    keys: Keys,
    now_ms: u64,
}

impl MemoryLog {
    /// Creates an empty log. Its home sets the limits for keys.
    pub fn new(budget: Arc<HistoryBudget>) -> Self {
        budget.logs.fetch_add(1, Ordering::Relaxed);
        Self {
            channels: Slab::new(),
            oldest: NONE,
            newest: NONE,
            done: VecDeque::new(),
            budget,
            messages: 0,
            bytes: 0,
            due: DueQueue::default(),
            keys: Keys::new(0, 0),
            now_ms: 0,
        }
    }

    fn unlink_channel(&mut self, index: u32) {
        let Channel { older, newer, .. } = self.channels[index as usize];
        // Without neighbours, and not the only one: the channel is not in the list.
        if older == NONE && newer == NONE && self.oldest != index {
            return;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.channels[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.channels[newer as usize].older = older,
        }
        let channel = &mut self.channels[index as usize];
        (channel.older, channel.newer) = (NONE, NONE);
    }

    /// Makes the channel, which must hold messages, the most recently used.
    fn mark_used(&mut self, index: u32) {
        if self.newest == index {
            return;
        }
        self.unlink_channel(index);
        self.channels[index as usize].older = self.newest;
        match self.newest {
            NONE => self.oldest = index,
            newest => self.channels[newest as usize].newer = index,
        }
        self.newest = index;
    }

    /// Removes the oldest messages of a channel.
    fn drop_oldest(&mut self, index: u32, count: usize) {
        if count == 0 {
            return;
        }
        let channel = &mut self.channels[index as usize];
        let mut dropped = 0;
        for _ in 0..count {
            dropped += channel.messages.pop_front().map_or(0, |one| one.cost_bytes());
        }
        self.messages -= count as u64;
        self.bytes -= dropped;
        self.budget.bytes.fetch_sub(dropped, Ordering::Relaxed);
        if channel.messages.is_empty() {
            channel.messages = VecDeque::new();
            self.unlink_channel(index);
            self.due.remove(index);
        }
    }

    /// Removes the expired messages of a channel, and schedules the next expiry.
    fn drop_aged(&mut self, index: u32) {
        let channel = &self.channels[index as usize];
        let (ttl_ms, now_ms) = (channel.retention.ttl_ms, self.now_ms);
        let is_aged = |one: &&Arc<Publication>| one.time_ms.saturating_add(ttl_ms) < now_ms;
        let aged = channel.messages.iter().take_while(is_aged).count();
        if aged > 0 {
            self.drop_oldest(index, aged);
        }
        self.set_due(index);
    }

    fn set_due(&mut self, index: u32) {
        let channel = &self.channels[index as usize];
        if let Some(oldest) = channel.messages.front() {
            let age_ms = channel.retention.ttl_ms.saturating_add(1);
            self.due.set(index, oldest.time_ms.saturating_add(age_ms));
        }
    }

    fn keep_publication(&mut self, index: u32, publication: Arc<Publication>) {
        let channel = &mut self.channels[index as usize];
        let most = channel.retention.messages_max as usize;
        if most == 0 {
            return;
        }
        let cost = publication.cost_bytes();
        let is_first = channel.messages.is_empty();
        channel.messages.push_back(publication);
        let over = channel.messages.len().saturating_sub(most);
        self.messages += 1;
        self.bytes += cost;
        self.budget.bytes.fetch_add(cost, Ordering::Relaxed);
        self.drop_oldest(index, over);
        if is_first {
            self.set_due(index);
        }
        self.mark_used(index);
        self.keep_to_budget();
    }

    /// Drops the queued deliveries of a channel.
    fn drop_deliveries(&mut self, key: u32) {
        let is_delivery =
            |done: &Done| matches!(done, Done::Delivered { key: channel, .. } if *channel == key);
        self.done.retain(|done| !is_delivery(done));
    }

    fn keep_to_budget(&mut self) {
        while self.budget.is_exceeded_by(self.bytes) && self.oldest != NONE {
            let oldest = self.oldest;
            // Half of the messages at a time: few steps, and a small excess does not take all of
            // them.
            let half = self.channels[oldest as usize].messages.len().div_ceil(2);
            self.drop_oldest(oldest, half);
        }
    }

    fn read_page(&self, index: u32, range: Range) -> HistoryPage {
        let channel = &self.channels[index as usize];
        let position = Position { epoch: channel.epoch, offset: channel.offset };
        let held = &channel.messages;
        let from = match range.since {
            None => 0,
            Some(since) if since.epoch == Some(channel.epoch) => {
                held.partition_point(|one| one.offset() <= since.offset)
            }
            Some(_) => held.len(),
        };
        // Complete if the next retained message directly follows the requested position: nothing in
        // between was trimmed or expired.
        let mut complete = range.since.is_none_or(|since| {
            let next = held.get(from).map_or(channel.offset + 1, |one| one.offset());
            since.epoch == Some(channel.epoch)
                && since.offset <= channel.offset
                && next == since.offset + 1
        });
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut take = |one: &Arc<Publication>| {
            bytes += one.cost_bytes();
            let fits = messages.len() < range.messages_max as usize && bytes <= range.bytes_max;
            if fits {
                messages.push(one.clone());
            }
            fits
        };
        complete &= if range.reverse {
            held.range(from..).rev().all(&mut take)
        } else {
            held.range(from..).all(&mut take)
        };
        HistoryPage { position, complete, messages }
    }
}

impl Log for MemoryLog {
    fn open(
        &mut self,
        name: &ChannelName,
        key: u32,
        retention: Retention,
        epoch: Epoch,
    ) -> Opening {
        let index = self.channels.insert(Channel {
            name: name.clone(),
            key,
            is_watched: false,
            epoch,
            offset: 0,
            retention,
            messages: VecDeque::new(),
            older: NONE,
            newer: NONE,
        });
        Opening { channel: index as u32, is_open: true }
    }

    fn is_empty_while_closed(&self) -> bool {
        true
    }

    fn retain(&mut self, index: u32, retention: Retention) {
        let channel = &mut self.channels[index as usize];
        channel.retention = retention;
        let over = channel.messages.len().saturating_sub(retention.messages_max as usize);
        self.drop_oldest(index, over);
        self.set_due(index);
    }

    fn close(&mut self, channel: u32) {
        let held = self.channels[channel as usize].messages.len();
        self.drop_oldest(channel, held);
        let own = self.channels.remove(channel as usize);
        self.drop_deliveries(own.key);
    }

    fn set_watched(&mut self, channel: u32, is_watched: bool) {
        let own = &mut self.channels[channel as usize];
        own.is_watched = is_watched;
        if !is_watched {
            let key = own.key;
            self.drop_deliveries(key);
        }
    }

    fn loss_on_close(&self, channel: u32) -> Loss {
        match &self.channels[channel as usize] {
            own if !own.messages.is_empty() => Loss::Messages,
            own if own.offset > 0 => Loss::Position,
            _ => Loss::Nothing,
        }
    }

    fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    fn set_key_bounds(&mut self, keys_max: usize, ttl_ms: u64) {
        self.keys.set_bounds(keys_max, ttl_ms);
    }

    fn append(&mut self, ticket: u64, index: u32, draft: Draft, key: Option<KeyScope>) {
        let channel = &mut self.channels[index as usize];
        let position = Position { epoch: channel.epoch, offset: channel.offset + 1 };
        if let Some(scope) = &key {
            let (name, content) = (channel.name.as_str(), &draft.content);
            let known = match self.keys.look_up(name, scope, content, self.now_ms, position) {
                Seen::First => None,
                Seen::Repeated(position) => {
                    Some(Done::Appended { ticket, position, duplicate: true })
                }
                Seen::Conflict => Some(Done::Refused { ticket, refused: Refused::reused_key() }),
            };
            if known.is_some() {
                return self.done.extend(known);
            }
        }
        // The offset counts also where no history is retained.
        channel.offset = position.offset;
        let publication = Publication::new(&channel.name, position, None, draft);
        let (key, is_watched) = (channel.key, channel.is_watched);
        self.keep_publication(index, publication.clone());
        self.done.push_back(Done::Appended { ticket, position, duplicate: false });
        if is_watched {
            self.done.push_back(Done::Delivered { key, publication });
        }
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        self.drop_aged(channel);
        let page = self.read_page(channel, range);
        if !self.channels[channel as usize].messages.is_empty() {
            self.mark_used(channel);
        }
        self.done.push_back(Done::Page { ticket, page });
    }

    fn trim(&mut self, ticket: u64, index: u32) {
        let channel = &self.channels[index as usize];
        let position = Position { epoch: channel.epoch, offset: channel.offset };
        let held = channel.messages.len();
        self.drop_oldest(index, held);
        self.done.push_back(Done::Trimmed { ticket, position });
    }

    fn expire_messages(&mut self, now_ms: u64, channels_max: usize) {
        self.now_ms = now_ms;
        self.keep_to_budget();
        self.keys.expire_keys(now_ms, channels_max);
        for _ in 0..channels_max {
            let Some(channel) = self.due.pop_due(now_ms) else { return };
            self.drop_aged(channel);
        }
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        [self.due.next_ms(), self.keys.next_expiry_ms()].into_iter().flatten().min()
    }

    fn keys(&self) -> KeyUsage {
        self.keys.usage()
    }

    fn wants_room(&self) -> bool {
        self.budget.is_exceeded()
    }

    fn table_bytes(&self) -> u64 {
        let done = self.done.capacity() * size_of::<Done>();
        (self.channels.capacity() * size_of::<Channel>() + self.due.bytes() + done) as u64
    }

    fn may_have_completions(&self) -> bool {
        !self.done.is_empty()
    }

    fn next(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn kept_messages(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.logs.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::Plain;
    use crate::hub::{Since, Storing};

    fn make_draft(text: &str, time_ms: u64) -> Draft {
        let content = format!("\"{text}\"").into_boxed_str();
        Draft {
            content,
            from: None,
            exclude: None,
            time_ms,
            accepted_ns: 0,
            storing: Storing::with_only(&Plain),
        }
    }

    fn log(bytes_max: u64) -> MemoryLog {
        MemoryLog::new(HistoryBudget::new(bytes_max))
    }

    fn read(log: &mut MemoryLog, channel: u32, since: Option<Since>) -> HistoryPage {
        let range = Range { since, messages_max: 1000, bytes_max: u64::MAX, reverse: false };
        while log.next().is_some() {}
        log.read(7, channel, range);
        match log.next() {
            Some(Done::Page { ticket: 7, page }) => page,
            other => panic!("a page was asked for: {other:?}"),
        }
    }

    fn offsets_of(page: &HistoryPage) -> Vec<u64> {
        page.messages.iter().map(|one| one.offset()).collect()
    }

    #[test]
    fn a_gap_that_was_trimmed_is_not_complete() {
        let mut log = log(1 << 20);
        let retention = Retention { messages_max: 3, ttl_ms: 1000 };
        let a = log.open(&ChannelName::new("a"), 0, retention, Epoch(1)).channel;
        for n in 0..5 {
            log.append(n, a, make_draft("x", 0), None);
        }
        let all = read(&mut log, a, None);
        assert_eq!(offsets_of(&all), [3, 4, 5]);
        let since = |offset| Some(Since { epoch: Some(all.position.epoch), offset });
        for (offset, complete, held) in [
            (2, true, vec![3, 4, 5]),
            (1, false, vec![3, 4, 5]),
            (5, true, vec![]),
            (6, false, vec![]),
        ] {
            let page = read(&mut log, a, since(offset));
            assert_eq!((page.complete, offsets_of(&page)), (complete, held), "since {offset}");
        }
        let foreign = Some(Since { epoch: None, offset: 5 });
        assert!(!read(&mut log, a, foreign).complete);
        log.trim(9, a);
        let page = read(&mut log, a, since(5));
        assert!(page.complete && page.messages.is_empty());
        assert!(!read(&mut log, a, since(4)).complete);
        assert_eq!(log.kept_messages(), (0, 0));
    }

    #[test]
    fn the_budget_takes_from_the_least_recently_used() {
        let mut log = log(0);
        let cost = {
            let retention = Retention { messages_max: 10, ttl_ms: 1000 };
            let a = log.open(&ChannelName::new("a"), 0, retention, Epoch(1)).channel;
            log.append(0, a, make_draft("x", 0), None);
            assert_eq!(log.kept_messages(), (0, 0), "a budget of nothing keeps nothing");
            Publication::new_direct(make_draft("x", 0)).cost_bytes()
        };
        let mut log = self::log(cost * 6);
        let retention = Retention { messages_max: 10, ttl_ms: 1000 };
        let [a, b, c] = ["a", "b", "c"]
            .map(|name| log.open(&ChannelName::new(name), 0, retention, Epoch(1)).channel);
        for channel in [a, b] {
            for n in 0..3 {
                log.append(n, channel, make_draft("x", 0), None);
            }
        }
        read(&mut log, a, None);
        for n in 0..2 {
            log.append(n, c, make_draft("x", 0), None);
        }
        assert_eq!(offsets_of(&read(&mut log, a, None)), [1, 2, 3], "read most recently");
        assert!(read(&mut log, b, None).messages.len() < 3, "used least recently");
        assert!(log.budget.bytes.load(Ordering::Relaxed) <= cost * 6);
        let budget = log.budget.clone();
        drop(log);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_log_loses_its_share_to_another() {
        let cost = Publication::new_direct(make_draft("x", 0)).cost_bytes();
        let budget = HistoryBudget::new(cost * 20);
        let retention = Retention { messages_max: 100, ttl_ms: 1000 };
        let mut logs = [1, 2].map(|_| MemoryLog::new(budget.clone()));
        for log in &mut logs {
            let channel = log.open(&ChannelName::new("a"), 0, retention, Epoch(1)).channel;
            (0..5).for_each(|n| log.append(n, channel, make_draft("x", 0), None));
        }
        let [greedy, modest] = &mut logs;
        (0..50).for_each(|n| greedy.append(n, 0, make_draft("x", 0), None));
        assert!(greedy.kept_messages().0 > 5, "it may use what is free");
        (0..4).for_each(|n| modest.append(n, 0, make_draft("x", 0), None));
        assert_eq!(modest.kept_messages().0, 9, "within its share it keeps all");
        assert!(modest.wants_room(), "what the other holds is more than its share");
        greedy.expire_messages(0, 1);
        assert!(!modest.wants_room());
        assert!(budget.bytes.load(Ordering::Relaxed) <= cost * 20, "the other makes room");
        assert_eq!(modest.kept_messages().0, 9);
    }

    #[test]
    fn old_messages_go_and_the_offset_stays() {
        let mut log = log(1 << 20);
        let retention = Retention { messages_max: 10, ttl_ms: 1000 };
        let a = log.open(&ChannelName::new("a"), 0, retention, Epoch(1)).channel;
        for time in [0, 500, 2000] {
            log.append(0, a, make_draft("x", time), None);
        }
        log.expire_messages(1600, 100);
        assert_eq!(offsets_of(&read(&mut log, a, None)), [3]);
        log.expire_messages(9000, 100);
        assert_ne!(log.loss_on_close(a), Loss::Messages);
        assert_eq!(read(&mut log, a, None).position.offset, 3);
    }
}

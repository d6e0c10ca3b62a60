//! Channel messages queued for one slow connection, and the policy that drops some of them.
//!
//! They are queued here by reference, not in the outbox: a drop can then never corrupt a
//! compressor's window, and a recovered message costs eight bytes until its reader has room for it.
//!
//! Every operation is amortized O(1) in the length of the queue. A dropped message leaves a
//! tombstone in the queue, and tombstones are compacted once they outnumber the items. The index by
//! channel is built by the first drop or purge and kept until the queue is empty, so that a reader
//! that keeps up never pays for it. Scanning the queue for each drop was measured at 29 to 73 µs a
//! message and reader.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::hub::{ChannelName, Position, Publication};
use crate::shard::connections::{Connections, QueuedSize};

/// Fewer tombstones than this are not worth a compaction.
const TOMBSTONES_MIN: usize = 64;

/// An item of a backlog.
#[derive(Debug)]
pub(super) enum Item {
    /// A live message.
    Message(Arc<Publication>),
    /// A recovered message. It is never dropped, because the reply to the subscribe has promised
    /// all of them.
    Missed(Arc<Publication>),
    /// The channel's messages up to this position were dropped.
    Gap(ChannelName, Position),
    /// A notice about a channel, in order with the channel's messages. Never dropped.
    Notice(ChannelName, Notice),
}

/// An event of a channel that is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Its messages up to this position were lost on the way to this shard.
    Lagging(Position),
    /// Its history was lost, and its offsets count from this position.
    Epoch(Position),
}

/// Bytes counted for a gap or a notice, in addition to the name of its channel.
const NOTICE_BYTES: usize = 128;

impl Item {
    /// Bytes that count towards the limit of the connection's queue.
    fn bytes(&self) -> usize {
        match self {
            Item::Message(publication) => publication.bytes(),
            Item::Missed(_) => 0,
            Item::Gap(channel, _) | Item::Notice(channel, _) => {
                NOTICE_BYTES + channel.as_str().len()
            }
        }
    }

    /// Bytes of a recovered message, which is held in memory on behalf of this reader.
    fn missed_bytes(&self) -> usize {
        match self {
            Item::Missed(publication) => publication.bytes(),
            _ => 0,
        }
    }

    fn channel(&self) -> Option<&ChannelName> {
        match self {
            Item::Message(one) | Item::Missed(one) => one.channel.as_ref(),
            Item::Gap(channel, _) | Item::Notice(channel, _) => Some(channel),
        }
    }

    /// The position of a live channel message; only these may be dropped.
    fn live_position(&self) -> Option<Position> {
        match self {
            Item::Message(one) => one.position,
            _ => None,
        }
    }
}

/// Changes a backlog, and updates the sum over all backlogs of the shard.
pub(super) fn count_change<R>(
    connections: &mut Connections,
    backlog: &mut Backlog,
    change: impl FnOnce(&mut Backlog) -> R,
) -> R {
    let before = backlog.size();
    let result = change(backlog);
    connections.count_backlog(before, backlog.size());
    result
}

/// The sequence numbers of one channel's items.
#[derive(Debug, Default)]
struct Places {
    /// Live messages, oldest first.
    live: VecDeque<u64>,
    /// All other items, oldest first.
    others: VecDeque<u64>,
    /// The last gap, which further drops extend if no barrier follows it.
    gap: Option<u64>,
    /// Items across which no gap may be extended, oldest first: recovered messages and notices.
    barriers: VecDeque<u64>,
}

impl Places {
    /// Returns the gap that dropping this message extends.
    fn gap_before(&self, sequence: u64) -> Option<u64> {
        let gap = self.gap?;
        let at = self.barriers.partition_point(|barrier| *barrier < gap);
        self.barriers.get(at).is_none_or(|barrier| *barrier > sequence).then_some(gap)
    }
}

/// The items of each channel.
#[derive(Debug, Default)]
struct Index {
    channels: HashMap<ChannelName, Places>,
    /// No droppable message has a lower sequence number.
    cursor: u64,
}

impl Index {
    fn add_item(&mut self, item: &Item, sequence: u64) {
        let Some(channel) = item.channel() else { return };
        let places = match self.channels.get_mut(channel) {
            Some(places) => places,
            None => self.channels.entry(channel.clone()).or_default(),
        };
        if item.live_position().is_some() {
            places.live.push_back(sequence);
            return;
        }
        places.others.push_back(sequence);
        match item {
            // A restored gap behind live messages does not precede the message dropped next.
            Item::Gap(..) if places.live.is_empty() => places.gap = Some(sequence),
            Item::Missed(_) | Item::Notice(..) => places.barriers.push_back(sequence),
            Item::Gap(..) | Item::Message(_) => {}
        }
    }

    /// Removes the first item of the queue.
    fn remove_first(&mut self, item: &Item, sequence: u64) {
        let Some(channel) = item.channel() else { return };
        let Some(places) = self.channels.get_mut(channel) else { return };
        let list =
            if item.live_position().is_some() { &mut places.live } else { &mut places.others };
        debug_assert_eq!(list.front(), Some(&sequence), "the queue and its index agree");
        list.pop_front();
        places.gap.take_if(|gap| *gap == sequence);
        places.barriers.pop_front_if(|barrier| *barrier == sequence);
        if places.live.is_empty() && places.others.is_empty() {
            self.channels.remove(channel);
        }
    }
}

/// The queue of one connection. See the module.
///
/// Invariants: `size` is the sum over the items, `tombstones` counts the `None` entries, and an
/// existing index contains each item exactly once.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    items: VecDeque<Option<Item>>,
    /// Sequence number of the first entry.
    first: u64,
    tombstones: usize,
    size: QueuedSize,
    index: Option<Box<Index>>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.items.len() == self.tombstones
    }

    /// Iterates over the items, in order.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().flatten()
    }

    /// Bytes that count towards the limit.
    pub(super) fn bytes(&self) -> usize {
        self.size.bytes
    }

    pub(super) fn size(&self) -> QueuedSize {
        self.size
    }

    pub(super) fn push(&mut self, item: Item) {
        self.size.bytes += item.bytes();
        self.size.missed_bytes += item.missed_bytes();
        if let Some(index) = &mut self.index {
            index.add_item(&item, self.first + self.items.len() as u64);
        }
        self.items.push_back(Some(item));
    }

    /// Removes and returns the next item to be sent.
    pub(super) fn pop(&mut self) -> Option<Item> {
        while let Some(entry) = self.items.pop_front() {
            let sequence = self.first;
            self.first += 1;
            let Some(item) = entry else {
                self.tombstones -= 1;
                continue;
            };
            self.size.bytes -= item.bytes();
            self.size.missed_bytes -= item.missed_bytes();
            if let Some(index) = &mut self.index {
                index.remove_first(&item, sequence);
            }
            return Some(item);
        }
        self.index = None;
        None
    }

    /// Removes everything of a channel.
    pub(super) fn purge(&mut self, channel: &ChannelName) {
        if self.items.is_empty() {
            return;
        }
        self.build_index();
        let places = self.index.as_mut().and_then(|index| index.channels.remove(channel));
        for sequence in places.iter().flat_map(|places| places.live.iter().chain(&places.others)) {
            self.make_tombstone(*sequence);
        }
        self.compact();
    }

    /// Removes the joins and leaves of a channel.
    pub(super) fn purge_news(&mut self, channel: &ChannelName) {
        if self.items.is_empty() {
            return;
        }
        self.build_index();
        let index = self.index.as_mut();
        let Some(places) = index.and_then(|index| index.channels.get_mut(channel)) else { return };
        let (items, first) = (&self.items, self.first);
        let mut news = Vec::new();
        places.others.retain(|sequence| {
            let item = items[(*sequence - first) as usize].as_ref();
            let stays = !matches!(item, Some(Item::Message(_)));
            news.extend((!stays).then_some(*sequence));
            stays
        });
        if places.live.is_empty()
            && places.others.is_empty()
            && let Some(index) = &mut self.index
        {
            index.channels.remove(channel);
        }
        news.into_iter().for_each(|sequence| self.make_tombstone(sequence));
        self.compact();
    }

    /// Drops the oldest live message of any channel that allows it, and leaves a gap in its place.
    /// Returns whether there was one.
    pub(super) fn drop_oldest(&mut self, may_drop: impl Fn(&ChannelName) -> bool) -> bool {
        self.build_index();
        let Some(index) = &mut self.index else { return false };
        let mut cursor = index.cursor.max(self.first);
        let end = self.first + self.items.len() as u64;
        let found = loop {
            if cursor == end {
                break None;
            }
            let item = self.items[(cursor - self.first) as usize].as_ref();
            let channel = item.filter(|item| item.live_position().is_some());
            if let Some(channel) = channel.and_then(Item::channel)
                && may_drop(channel)
            {
                break Some(channel.clone());
            }
            cursor += 1;
        };
        index.cursor = cursor;
        let Some(channel) = found else { return false };
        self.drop_live(&channel, cursor);
        self.compact();
        true
    }

    /// Keeps only the newest live message of a channel. Returns how many were dropped.
    pub(super) fn keep_newest(&mut self, channel: &ChannelName) -> u32 {
        self.build_index();
        let mut dropped = 0;
        while let Some(places) = self.index.as_ref().and_then(|index| index.channels.get(channel))
            && places.live.len() > 1
        {
            let oldest = places.live[0];
            self.drop_live(channel, oldest);
            dropped += 1;
        }
        self.compact();
        dropped
    }

    /// Replaces a live message by a gap, or extends the gap before it.
    fn drop_live(&mut self, channel: &ChannelName, sequence: u64) {
        let at = (sequence - self.first) as usize;
        let Some(position) = self.items[at].as_ref().and_then(Item::live_position) else { return };
        let Some(places) = self.index.as_mut().and_then(|index| index.channels.get_mut(channel))
        else {
            return;
        };
        if places.live.front() == Some(&sequence) {
            places.live.pop_front();
        } else {
            // A reload made older messages of the channel undroppable.
            places.live.retain(|one| *one != sequence);
            places.gap = None;
        }
        if let Some(gap) = places.gap_before(sequence)
            && let Some(Item::Gap(_, until)) = &mut self.items[(gap - self.first) as usize]
        {
            *until = position;
            self.make_tombstone(sequence);
            return;
        }
        let after = places.others.partition_point(|one| *one < sequence);
        places.gap = Some(sequence);
        places.others.insert(after, sequence);
        let item = Item::Gap(channel.clone(), position);
        self.size.bytes += item.bytes();
        if let Some(message) = self.items[at].replace(item) {
            self.size.bytes -= message.bytes();
        }
    }

    /// Turns an entry into a tombstone.
    fn make_tombstone(&mut self, sequence: u64) {
        if let Some(item) = self.items[(sequence - self.first) as usize].take() {
            self.size.bytes -= item.bytes();
            self.size.missed_bytes -= item.missed_bytes();
            self.tombstones += 1;
        }
    }

    /// Removes tombstones once they outnumber the items; the index is rebuilt by the next drop.
    fn compact(&mut self) {
        if self.tombstones > TOMBSTONES_MIN && self.tombstones > self.items.len() / 2 {
            self.items.retain(Option::is_some);
            self.tombstones = 0;
            self.index = None;
        }
    }

    fn build_index(&mut self) {
        if self.index.is_some() {
            return;
        }
        let mut index = Index::default();
        for (at, item) in self.items.iter().enumerate() {
            if let Some(item) = item {
                index.add_item(item, self.first + at as u64);
            }
        }
        self.index = Some(Box::new(index));
    }
}

#[cfg(test)]
mod tests;

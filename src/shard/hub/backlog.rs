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

/// Something queued.
#[derive(Debug)]
pub(super) enum Item {
    /// A live message.
    Message(Arc<Publication>),
    /// A recovered message. It is never dropped, because its reader was promised all of them.
    Missed(Arc<Publication>),
    /// The channel's messages up to this position were dropped.
    Gap(ChannelName, Position),
    /// A notice about a channel, in its place between the channel's messages. Never dropped.
    Notice(ChannelName, Box<str>),
}

impl Item {
    /// Bytes that count towards the limit of the connection's queue.
    fn bytes(&self) -> usize {
        match self {
            Item::Message(publication) => publication.message().plain().len(),
            Item::Missed(_) => 0,
            Item::Gap(..) => 128,
            Item::Notice(_, text) => text.len(),
        }
    }

    /// Bytes of a recovered message, which is held in memory on behalf of this reader.
    fn missed_bytes(&self) -> usize {
        match self {
            Item::Missed(publication) => publication.message().plain().len(),
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

/// Changes a backlog, and counts the change among all that waits for the shard's connections.
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

/// Where the items of one channel are, as sequence numbers.
#[derive(Debug, Default)]
struct Places {
    /// Live messages, oldest first.
    live: VecDeque<u64>,
    /// All other items, oldest first.
    others: VecDeque<u64>,
    /// The last gap, which further drops extend if no barrier follows it.
    gap: Option<u64>,
    /// Items that no gap may reach past, oldest first: recovered messages and notices.
    barriers: VecDeque<u64>,
}

impl Places {
    /// The gap that a drop of this message extends.
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
    fn add(&mut self, item: &Item, sequence: u64) {
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
            // A gap restored behind live messages does not precede those that are dropped next.
            Item::Gap(..) if places.live.is_empty() => places.gap = Some(sequence),
            Item::Missed(_) | Item::Notice(..) => places.barriers.push_back(sequence),
            Item::Gap(..) | Item::Message(_) => {}
        }
    }

    /// Forgets the first item of the queue.
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

/// See the module.
///
/// Always: `size` is the sum over the items, `tombstones` counts the `None` entries, and an
/// existing index names each item exactly once.
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

    /// Everything queued, in order.
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
            index.add(&item, self.first + self.items.len() as u64);
        }
        self.items.push_back(Some(item));
    }

    /// Takes the next item to be sent.
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
            self.bury(*sequence);
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
        news.into_iter().for_each(|sequence| self.bury(sequence));
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
            // Its elders became undroppable by a reload.
            places.live.retain(|one| *one != sequence);
            places.gap = None;
        }
        if let Some(gap) = places.gap_before(sequence)
            && let Some(Item::Gap(_, until)) = &mut self.items[(gap - self.first) as usize]
        {
            *until = position;
            self.bury(sequence);
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
    fn bury(&mut self, sequence: u64) {
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
                index.add(item, self.first + at as u64);
            }
        }
        self.index = Some(Box::new(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Draft, Epoch};
    use proptest::prelude::*;

    fn message(channel: &ChannelName, offset: u64) -> Arc<Publication> {
        let draft =
            Draft { content: "1".into(), from: None, exclude: None, time_ms: 0, accepted_ns: 0 };
        Publication::new(channel, Position { epoch: Epoch(1), offset }, None, &draft)
    }

    fn describe(item: &Item) -> String {
        match item {
            Item::Message(one) => format!("{}{}", one.channel.as_ref().unwrap(), one.offset()),
            Item::Missed(one) => format!("missed {}", one.offset()),
            Item::Gap(channel, position) => format!("gap {channel}{}", position.offset),
            Item::Notice(_, text) => text.to_string(),
        }
    }

    fn drain(backlog: &mut Backlog) -> Vec<String> {
        std::iter::from_fn(|| backlog.pop()).map(|item| describe(&item)).collect()
    }

    fn names() -> [ChannelName; 3] {
        ["a", "b", "c"].map(ChannelName::new)
    }

    #[test]
    fn gap_stands_where_the_messages_stood() {
        let [a, b, _] = names();
        let mut backlog = Backlog::default();
        backlog.push(Item::Missed(message(&a, 1)));
        for offset in 2..5 {
            backlog.push(Item::Message(message(&a, offset)));
            backlog.push(Item::Message(message(&b, offset)));
        }
        assert!(backlog.drop_oldest(|one| *one == a) && backlog.drop_oldest(|one| *one == a));
        assert_eq!(backlog.keep_newest(&b), 2);
        assert_eq!(drain(&mut backlog), ["missed 1", "gap a3", "gap b3", "a4", "b4"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn newest_message_stays_behind_one_gap_in_any_company() {
        let [a, b, _] = names();
        let mut backlog = Backlog::default();
        for offset in 1..5 {
            backlog.push(Item::Message(message(&a, offset)));
            backlog.push(Item::Message(message(&b, offset)));
        }
        assert!(backlog.drop_oldest(|one| *one == a));
        assert_eq!((backlog.keep_newest(&a), backlog.keep_newest(&a)), (2, 0));
        assert_eq!(drain(&mut backlog), ["gap a3", "b1", "b2", "b3", "a4", "b4"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn notice_separates_the_gaps_on_its_sides() {
        let [a, ..] = names();
        let mut backlog = Backlog::default();
        backlog.push(Item::Message(message(&a, 1)));
        backlog.push(Item::Notice(a.clone(), "epoch".into()));
        backlog.push(Item::Message(message(&a, 2)));
        assert!(backlog.drop_oldest(|_| true) && backlog.drop_oldest(|_| true));
        assert_eq!(drain(&mut backlog), ["gap a1", "epoch", "gap a2"]);
    }

    #[test]
    fn dropping_for_ever_keeps_the_queue_short() {
        let [a, ..] = names();
        let mut backlog = Backlog::default();
        for offset in 1..100_000 {
            backlog.push(Item::Message(message(&a, offset)));
            if offset > 100 {
                assert!(backlog.drop_oldest(|_| true));
            }
        }
        assert!(backlog.items.len() < 400, "{} entries", backlog.items.len());
        assert_eq!(backlog.pop().map(|item| describe(&item)), Some("gap a99899".into()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Message(usize),
        News(usize),
        Missed(usize),
        Notice(usize),
        Pop,
        DropOldest,
        KeepNewest(usize),
        Purge(usize),
        PurgeNews(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3usize).prop_map(Step::Message),
            1 => (0..3usize).prop_map(Step::News),
            1 => (0..3usize).prop_map(Step::Missed),
            1 => (0..3usize).prop_map(Step::Notice),
            3 => Just(Step::Pop),
            4 => Just(Step::DropOldest),
            1 => (0..3usize).prop_map(Step::KeepNewest),
            1 => (0..3usize).prop_map(Step::Purge),
            1 => (0..3usize).prop_map(Step::PurgeNews),
        ]
    }

    /// The same policy by scanning a plain list.
    #[derive(Default)]
    struct Naive(Vec<Item>);

    impl Naive {
        fn drop_at(&mut self, at: usize) {
            let channel = self.0[at].channel().unwrap().clone();
            let position = self.0[at].live_position().unwrap();
            let earlier = self.0[..at]
                .iter_mut()
                .rev()
                .find(|item| item.channel() == Some(&channel) && !is_news(item));
            if let Some(Item::Gap(_, until)) = earlier {
                *until = position;
                self.0.remove(at);
            } else {
                self.0[at] = Item::Gap(channel, position);
            }
        }

        fn drop_oldest(&mut self, may_drop: impl Fn(&ChannelName) -> bool) -> bool {
            let found = self.0.iter().position(|item| {
                item.live_position().is_some() && item.channel().is_some_and(&may_drop)
            });
            found.is_some_and(|at| {
                self.drop_at(at);
                true
            })
        }

        fn keep_newest(&mut self, channel: &ChannelName) -> u32 {
            let live =
                |item: &Item| item.live_position().is_some() && item.channel() == Some(channel);
            let mut dropped = 0;
            while self.0.iter().filter(|item| live(item)).count() > 1 {
                let at = self.0.iter().position(live).unwrap();
                self.drop_at(at);
                dropped += 1;
            }
            dropped
        }
    }

    fn is_news(item: &Item) -> bool {
        matches!(item, Item::Message(one) if one.position.is_none())
    }

    fn item(step: &Step, names: &[ChannelName], offset: u64) -> Option<Item> {
        Some(match step {
            Step::Message(one) => Item::Message(message(&names[*one], offset)),
            Step::News(one) => Item::Message(Publication::news(&names[*one], "joined", 0)),
            Step::Missed(one) => Item::Missed(message(&names[*one], offset)),
            Step::Notice(one) => Item::Notice(names[*one].clone(), format!("n{offset}").into()),
            _ => return None,
        })
    }

    proptest! {
        #[test]
        fn index_and_scan_agree(steps in prop::collection::vec(step(), 1..120)) {
            let names = names();
            let (mut backlog, mut naive) = (Backlog::default(), Naive::default());
            for (offset, step) in steps.iter().enumerate() {
                let offset = offset as u64 + 1;
                if let (Some(one), Some(two)) =
                    (item(step, &names, offset), item(step, &names, offset))
                {
                    backlog.push(one);
                    naive.0.push(two);
                }
                match step {
                    Step::Pop => {
                        let popped = backlog.pop().map(|item| describe(&item));
                        let expected =
                            (!naive.0.is_empty()).then(|| describe(&naive.0.remove(0)));
                        prop_assert_eq!(popped, expected);
                    }
                    Step::DropOldest => {
                        // A channel either may be dropped from or not, for the whole run.
                        let may_drop = |one: &ChannelName| *one != names[2];
                        prop_assert_eq!(
                            backlog.drop_oldest(may_drop),
                            naive.drop_oldest(may_drop)
                        );
                    }
                    Step::KeepNewest(one) => prop_assert_eq!(
                        backlog.keep_newest(&names[*one]),
                        naive.keep_newest(&names[*one])
                    ),
                    Step::Purge(one) => {
                        backlog.purge(&names[*one]);
                        naive.0.retain(|item| item.channel() != Some(&names[*one]));
                    }
                    Step::PurgeNews(one) => {
                        backlog.purge_news(&names[*one]);
                        let is_own = |item: &Item| item.channel() == Some(&names[*one]);
                        naive.0.retain(|item| !(is_own(item) && is_news(item)));
                    }
                    _ => {}
                }
                let queued: Vec<_> = backlog.items().map(describe).collect();
                prop_assert_eq!(queued, naive.0.iter().map(describe).collect::<Vec<_>>());
                prop_assert_eq!(backlog.bytes(), naive.0.iter().map(Item::bytes).sum::<usize>());
                prop_assert_eq!(
                    backlog.size().missed_bytes,
                    naive.0.iter().map(Item::missed_bytes).sum::<usize>()
                );
            }
        }
    }
}

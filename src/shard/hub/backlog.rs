//! Channel messages that wait for one connection, and what is dropped when they are too many.
//!
//! They wait here by reference, not in the outbox: so a drop can never leave a hole in a
//! compressor's memory, and what is missed before a subscription costs eight bytes a message until
//! the reader has room for it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::{ChannelName, Position, Publication};

/// Something that waits.
#[derive(Debug)]
pub(super) enum Item {
    /// A live message.
    Message(Arc<Publication>),
    /// A message that was missed: never dropped, for the reader was told that it comes.
    Missed(Arc<Publication>),
    /// Messages of the channel up to here were dropped.
    Gap(ChannelName, Position),
    /// Text of the server's own, in its place between messages.
    Text(Box<str>),
}

impl Item {
    /// Bytes that count against the limit.
    fn bytes(&self) -> usize {
        match self {
            Item::Message(publication) => publication.message().plain().len(),
            Item::Missed(_) => 0,
            Item::Gap(..) => 128,
            Item::Text(text) => text.len(),
        }
    }

    fn is_of(&self, channel: &ChannelName) -> bool {
        match self {
            Item::Message(one) | Item::Missed(one) => one.channel.as_ref() == Some(channel),
            Item::Gap(own, _) => own == channel,
            Item::Text(_) => false,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All that waits, in order.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// Bytes that count against the limit.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    /// The next one to be sent.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes();
        Some(item)
    }

    /// Drops all that waits of a channel.
    pub(super) fn purge(&mut self, channel: &ChannelName) {
        self.items.retain(|item| !item.is_of(channel));
        self.recount();
    }

    fn recount(&mut self) {
        self.bytes = self.items.iter().map(Item::bytes).sum();
    }

    /// Drops the oldest live message of a channel, leaving a gap in its place. Returns whether
    /// there was one.
    pub(super) fn drop_oldest(&mut self, channel: &ChannelName) -> bool {
        let live = |item: &Item| matches!(item, Item::Message(one) if one.position.is_some());
        let Some(at) = self.items.iter().position(|item| live(item) && item.is_of(channel)) else {
            return false;
        };
        self.replace_by_gap(at, channel);
        true
    }

    /// Puts a gap in the place of a message, joined with the gap before it.
    fn replace_by_gap(&mut self, at: usize, channel: &ChannelName) {
        let Item::Message(dropped) = &self.items[at] else { return };
        let Some(position) = dropped.position else { return };
        self.bytes -= self.items[at].bytes();
        let earlier = self.items.iter_mut().take(at).rev().find(|item| item.is_of(channel));
        if let Some(Item::Gap(_, until)) = earlier {
            *until = position;
            self.items.remove(at);
            return;
        }
        self.items[at] = Item::Gap(channel.clone(), position);
        self.bytes += self.items[at].bytes();
    }

    /// Keeps only the newest message of a channel. Returns how many were dropped. All in one pass:
    /// those of other channels may be very many.
    pub(super) fn keep_newest(&mut self, channel: &ChannelName) -> u32 {
        let place = |item: &Item| match item {
            Item::Message(one) if item.is_of(channel) => one.position,
            _ => None,
        };
        let mut left = self.items.iter().filter(|item| place(item).is_some()).count();
        let dropped = left.saturating_sub(1);
        if dropped == 0 {
            return 0;
        }
        let items = std::mem::take(&mut self.items);
        // Where the channel's last item stands among those that stay.
        let mut last = None;
        for item in items {
            let place = place(&item);
            left -= usize::from(place.is_some());
            let item = match place {
                Some(position) if left > 0 => {
                    if let Some(Item::Gap(_, until)) = last.map(|at: usize| &mut self.items[at]) {
                        *until = position;
                        continue;
                    }
                    Item::Gap(channel.clone(), position)
                }
                _ => item,
            };
            if item.is_of(channel) {
                last = Some(self.items.len());
            }
            self.items.push_back(item);
        }
        self.recount();
        dropped as u32
    }

    /// Drops everything; returns how many bytes counted.
    pub(super) fn clear(&mut self) -> usize {
        self.items = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Draft, Epoch};

    fn message(channel: &ChannelName, offset: u64) -> Arc<Publication> {
        let draft =
            Draft { content: "1".into(), from: None, exclude: None, time_ms: 0, accepted_ns: 0 };
        Publication::new(channel, Position { epoch: Epoch(1), offset }, None, &draft)
    }

    fn told(backlog: &mut Backlog) -> Vec<String> {
        std::iter::from_fn(|| backlog.pop())
            .map(|item| match item {
                Item::Message(one) => format!("{}{}", one.channel.as_ref().unwrap(), one.offset()),
                Item::Missed(one) => format!("missed {}", one.offset()),
                Item::Gap(channel, position) => format!("gap {channel}{}", position.offset),
                Item::Text(text) => text.into(),
            })
            .collect()
    }

    #[test]
    fn a_gap_stands_where_the_messages_stood() {
        let (a, b) = (ChannelName::new("a"), ChannelName::new("b"));
        let mut backlog = Backlog::default();
        backlog.push(Item::Missed(message(&a, 1)));
        for offset in 2..5 {
            backlog.push(Item::Message(message(&a, offset)));
            backlog.push(Item::Message(message(&b, offset)));
        }
        assert!(backlog.drop_oldest(&a) && backlog.drop_oldest(&a));
        assert_eq!(backlog.keep_newest(&b), 2);
        assert_eq!(told(&mut backlog), ["missed 1", "gap a3", "gap b3", "a4", "b4"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn the_newest_stays_behind_one_gap_in_any_company() {
        let (a, b) = (ChannelName::new("a"), ChannelName::new("b"));
        let mut backlog = Backlog::default();
        for offset in 1..5 {
            backlog.push(Item::Message(message(&a, offset)));
            backlog.push(Item::Message(message(&b, offset)));
        }
        backlog.push(Item::Missed(message(&a, 9)));
        assert!(backlog.drop_oldest(&a));
        assert_eq!((backlog.keep_newest(&a), backlog.keep_newest(&a)), (2, 0));
        let told = told(&mut backlog);
        assert_eq!(told, ["gap a3", "b1", "b2", "b3", "a4", "b4", "missed 9"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn what_is_left_of_a_channel_can_be_taken_out() {
        let (a, b) = (ChannelName::new("a"), ChannelName::new("b"));
        let mut backlog = Backlog::default();
        for offset in 1..4 {
            backlog.push(Item::Message(message(&a, offset)));
            backlog.push(Item::Message(message(&b, offset)));
        }
        backlog.drop_oldest(&a);
        backlog.purge(&a);
        assert!(!backlog.drop_oldest(&a));
        assert_eq!(told(&mut backlog), ["b1", "b2", "b3"]);
        assert_eq!(backlog.bytes(), 0);
    }
}

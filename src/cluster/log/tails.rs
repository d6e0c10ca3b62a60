//! The tails of all channels, within the memory that they may take together.

use std::sync::Arc;

use super::ClusterLog;
use crate::cluster::tail::Tail;
use crate::hub::{HistoryPage, Publication, Range};

/// What the tails of all channels take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TailUsage {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl ClusterLog {
    /// Changes the tail of a channel, and accounts for it.
    fn change_tail<T>(&mut self, channel: u32, change: impl FnOnce(&mut Tail) -> T) -> Option<T> {
        let serial = self.next_serial();
        let own = self.channels.get_mut(channel as usize)?;
        let (usage, before) = (&mut self.tail_usage, own.tail.len());
        (usage.messages, usage.bytes) = (usage.messages - before, usage.bytes - own.tail.bytes());
        let result = change(&mut own.tail);
        let now = own.tail.len();
        (usage.messages, usage.bytes) = (usage.messages + now, usage.bytes + own.tail.bytes());
        match (before, now) {
            (0, 1..) => {
                own.tail_serial = serial;
                self.tailed.insert(serial, channel);
            }
            (1.., 0) => drop(self.tailed.remove(&own.tail_serial)),
            _ => {}
        }
        Some(result)
    }

    /// Keeps a message that is delivered in the tail of its channel. Beyond the limit of all tails,
    /// the one that began first is dropped: recoveries there ask the engine.
    pub(super) fn keep_in_tail(&mut self, channel: u32, publication: &Arc<Publication>) {
        let kept = self.channels[channel as usize].retention.messages_max;
        let messages_max = kept.min(self.limits.tail_messages_max);
        if messages_max == 0 {
            return self.drop_tail(channel);
        }
        self.change_tail(channel, |tail| tail.push(publication, messages_max));
        while self.tail_usage.bytes > self.limits.tail_bytes_max
            && let Some((_, first)) = self.tailed.first_key_value()
        {
            self.drop_tail(*first);
        }
    }

    /// Drops the tail of a channel, if there is one.
    pub(super) fn drop_tail(&mut self, channel: u32) {
        self.change_tail(channel, Tail::clear);
    }

    /// Drops the tails of the channels of an instance, or of all.
    pub(super) fn drop_tails(&mut self, instance: Option<u8>) {
        let is_of_it = |at: u8| instance.is_none_or(|instance| instance == at);
        let channels = self.channels.iter().filter(|(_, own)| is_of_it(own.place.instance));
        let channels: Vec<_> = channels.map(|(channel, _)| channel as u32).collect();
        channels.into_iter().for_each(|channel| self.drop_tail(channel));
    }

    /// Reads what a member has missed from the tail. `None`: the engine has to be asked.
    pub(super) fn read_tail(&mut self, channel: u32, range: &Range) -> Option<HistoryPage> {
        let own = &self.channels[channel as usize];
        let (position, retention) = (own.follower.live_position()?, own.retention);
        if range.since.is_none() && range.messages_max == 0 {
            return Some(HistoryPage { position, complete: true, messages: Vec::new() });
        }
        let now_ms = self.now_ms;
        self.change_tail(channel, |tail| tail.read(range, position, retention, now_ms)).flatten()
    }
}

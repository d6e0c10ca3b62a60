//! What holds for all channels of a home: options, what is forgotten, what there is.

use super::{Gauges, Home, HomeOptions, Kept};
use crate::hub::ChannelName;

impl Home {
    /// Goes on with other options.
    pub fn set_options(&mut self, options: HomeOptions) {
        self.options = options;
        self.keys.set_bounds(options.keys_max, options.key_ttl_ms);
    }

    /// Drops aged messages and forgets unused channels; looks at so many at most.
    pub fn expire(&mut self, now_ms: u64, channels_max: usize) {
        self.log.expire(now_ms, channels_max);
        for _ in 0..channels_max.min(self.channels.capacity()) {
            let index = self.cursor;
            self.cursor = if index + 1 >= self.channels.capacity() { 0 } else { index + 1 };
            let Some(channel) = self.channels.get(index) else { continue };
            let ttl_ms = channel.retention.ttl_ms.max(self.options.channel_ttl_ms);
            if channel.used_ms.saturating_add(ttl_ms) < now_ms {
                self.forget_unused(index);
            }
        }
    }

    /// Forgets a channel that was opened only to be read, once that is done: who asks for names at
    /// random leaves nothing behind.
    pub(super) fn forget_glimpsed(&mut self, key: u32) {
        if self.channels[key as usize].glimpsed {
            self.forget_unused(key as usize);
        }
    }

    fn forget_unused(&mut self, index: usize) {
        let channel = &self.channels[index];
        let used = channel.members > 0 || channel.pending > 0;
        if !used && !self.log.has_messages(channel.log) {
            let channel = self.channels.remove(index);
            self.names.remove(&channel.name);
            self.log.close(channel.log);
            self.kept.channels_forgotten += 1;
        }
    }

    /// Shows so many channels, from `cursor` on (0 at first), with their members; returns where to
    /// go on, if there are more.
    pub fn scan(
        &self,
        cursor: usize,
        channels_max: usize,
        mut show: impl FnMut(&ChannelName, u32),
    ) -> Option<usize> {
        let end = (cursor + channels_max).min(self.channels.capacity());
        for index in cursor..end {
            if let Some(channel) = self.channels.get(index) {
                show(&channel.name, channel.members);
            }
        }
        (end < self.channels.capacity()).then_some(end)
    }

    /// How many channels are open.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// What there is.
    pub fn gauges(&self) -> Gauges {
        let (history_messages, history_bytes) = self.log.kept();
        Gauges {
            channels: self.channels.len() as u64,
            members: self.members,
            history_messages,
            history_bytes,
            keys: self.keys.len() as u64,
        }
    }

    /// What was done.
    pub fn kept(&self) -> Kept {
        self.kept
    }
}

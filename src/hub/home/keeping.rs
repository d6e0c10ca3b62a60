//! Housekeeping for all channels of a home: options, expiry, gauges and counters.

use super::starts::Starts;
use super::{Channel, Home, HomeGauges, HomeOptions, HomeStats};
use crate::hub::ChannelName;
use crate::hub::answer::{Answer, Origin, Verb};
use crate::hub::log::{Loss, Retention};
use crate::hub::position::{Position, Since};
use crate::hub::refusal::{Code, Refused};

/// Minimum delay before a channel with messages is examined again (ms).
const AGAIN_MS: u64 = 1000;
/// A table with at most this many entries and much more room is shrunk at once.
const SHRINK_MAX: usize = 4096;

/// Returns the memory of a channel's name (bytes): the text, its header, and references to it.
pub(super) fn name_bytes(name: &ChannelName) -> usize {
    name.as_str().len() + 2 * size_of::<usize>()
}

/// Returns the position that a request names.
pub(super) fn since_of(verb: &mut Verb) -> Option<&mut Since> {
    match verb {
        Verb::Subscribe(subscribe) => subscribe.since.as_mut(),
        Verb::History { since, .. } => since.as_mut(),
        _ => None,
    }
}

impl Home {
    /// Applies other options.
    pub fn set_options(&mut self, options: HomeOptions) {
        self.options = options;
        // The lifetime of channels may get shorter now and longer later, which breaks the rule that
        // makes positions of unopened channels exact; see `starts`.
        self.starts.renew_series();
        self.log.set_key_bounds(options.keys_max, options.key_ttl_ms);
    }

    /// Removes expired messages and keys, and closes unused channels: at most `least` of each, plus
    /// as many as were opened since the last call, so that it keeps up with any rate of new
    /// channels. Returns whether more is due now.
    pub fn expire_channels(&mut self, now_ms: u64, least: usize) -> bool {
        self.set_time(now_ms);
        let most = least + std::mem::take(&mut self.opened);
        self.log.expire_messages(now_ms, most);
        for _ in 0..most {
            let Some(key) = self.unused.pop_due(now_ms) else { break };
            let channel = &self.channels[key as usize];
            // Options may have changed since the deadline was set.
            let due_ms = channel.used_ms.saturating_add(self.kept_ms(channel));
            if due_ms >= now_ms {
                self.unused.set(key, due_ms.saturating_add(1));
            } else if self.log.loss_on_close(channel.log) == Loss::Messages {
                // The channel still has messages: look again after a part of its lifetime.
                let wait_ms = AGAIN_MS.max(self.kept_ms(channel) / 16);
                self.unused.set(key, now_ms.saturating_add(wait_ms));
            } else {
                self.forget_channel(key);
            }
        }
        if self.channels.len() <= SHRINK_MAX && self.channels.capacity() > 4 * SHRINK_MAX {
            self.names.trim();
            self.channels.shrink_to_fit();
        }
        self.next_due_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }

    /// Returns when [`Self::expire_channels`] is due next (Unix time, ms).
    pub fn next_due_ms(&self) -> Option<u64> {
        let due = [self.log.next_expiry_ms(), self.unused.next_ms()];
        due.into_iter().flatten().min()
    }

    /// Returns whether the memory for history is exceeded, possibly by the homes of other shards.
    pub fn wants_room(&self) -> bool {
        self.log.wants_room()
    }

    /// Sets the time (Unix, ms).
    pub(super) fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.starts.set_time(now_ms);
        self.log.set_time(now_ms);
    }

    /// Returns the minimum time for which a position of an unopened channel stays valid (ms).
    pub(super) fn hold_ms(&self, retention: Retention) -> u64 {
        retention.ttl_ms.max(self.options.channel_ttl_ms)
    }

    /// Returns how long a channel stays open after its last use (ms).
    fn kept_ms(&self, channel: &Channel) -> u64 {
        Starts::kept_ms(self.hold_ms(channel.retention))
    }

    /// Replies to a read of a channel that is not open, without opening it.
    pub(super) fn unused(&self, name: &ChannelName, retention: Retention, verb: &Verb) -> Answer {
        let epoch = self.starts.current_epoch(name, self.hold_ms(retention));
        let position = Position { epoch, offset: 0 };
        match verb {
            Verb::Trim => Answer::Trimmed { position },
            _ => Answer::History { position, messages: Vec::new() },
        }
    }

    /// Returns whether a request names the start of a channel, as read before it was opened.
    pub(super) fn is_from_start(
        &self,
        name: &ChannelName,
        retention: Retention,
        verb: &mut Verb,
    ) -> bool {
        since_of(verb).is_some_and(|since| match since {
            Since { epoch: Some(epoch), offset: 0 } => {
                self.starts.is_recent(name, self.hold_ms(retention), *epoch)
            }
            _ => false,
        })
    }

    /// Updates whether a channel is in use and watched; called after each operation on it.
    pub(super) fn note_use(&mut self, key: u32) {
        let channel = &mut self.channels[key as usize];
        if channel.is_watched && channel.members == 0 && channel.joining == 0 {
            (channel.is_watched, channel.position) = (false, None);
            self.log.set_watched(channel.log, false);
        }
        let channel = &self.channels[key as usize];
        if channel.members > 0 || channel.pending > 0 || channel.opening.is_some() {
            self.unused.remove(key);
        } else {
            let due_ms = channel.used_ms.saturating_add(self.kept_ms(channel)).saturating_add(1);
            self.unused.set(key, due_ms);
        }
    }

    /// Closes the unused channel that would expire first, including its history. Returns whether
    /// there is room now.
    pub(super) fn make_room(&mut self) -> bool {
        // Completions may turn more channels unused.
        while let Some(done) = self.log.next() {
            self.process_completion(done);
        }
        if self.channels.len() < self.options.channels_max {
            return true;
        }
        let Some(key) = self.unused.first() else { return false };
        // A position of this channel may be lost, so no earlier start may be taken for its current
        // one.
        if self.log.loss_on_close(self.channels[key as usize].log) != Loss::Nothing {
            self.starts.renew_series();
        }
        self.forget_channel(key);
        true
    }

    /// Rejects a request that would open a channel beyond the limit.
    pub(super) fn refuse_channel(&mut self, channel: ChannelName, from: Origin) {
        let message = "the server is at its channel limit, and all channels are in use; retry \
                       later, or raise hub.channels_max";
        let refused = Refused::new(Code::Limit, message);
        self.answer_to(channel, from, Answer::Refused(refused));
    }

    fn forget_channel(&mut self, key: u32) {
        let channel = self.remove(key);
        self.log.close(channel.log);
    }

    /// Removes a channel that the log has closed, or that the caller closes next.
    pub(super) fn remove(&mut self, key: u32) -> Channel {
        let channel = self.channels.remove(key as usize);
        self.names.remove(channel.name.as_str());
        self.name_bytes -= name_bytes(&channel.name);
        self.unused.remove(key);
        self.stats.channels_forgotten += 1;
        channel
    }

    /// Shows channels with their number of members, at most `channels_max` slots from `cursor` on
    /// (0 at first). Returns the next cursor, if there are more.
    pub fn scan_channels(
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

    /// Returns the number of open channels.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Returns whether no channel is open.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Returns the present sizes.
    pub fn gauges(&self) -> HomeGauges {
        let (history_messages, history_bytes) = self.log.kept_messages();
        let keys = self.log.keys();
        let entries = self.channels.capacity() * size_of::<Channel>() + self.names.memory_bytes();
        let bytes = entries
            + self.unused.bytes()
            + self.name_bytes
            + self.shard_count_bytes
            + self.seat_bytes;
        HomeGauges {
            channels: self.channels.len() as u64,
            members: self.members,
            history_messages,
            history_bytes,
            keys: keys.count,
            channel_bytes: bytes as u64 + self.log.table_bytes(),
            presence_bytes: self.presence_bytes as u64,
            key_bytes: keys.bytes,
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> HomeStats {
        HomeStats { keys_evicted: self.log.keys().evicted, log: self.log.stats(), ..self.stats }
    }
}

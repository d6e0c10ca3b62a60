//! A log that is as late, and as much out of order, as the contract allows.

use std::cell::Cell;

use seawall::hub::{ChannelName, Done, Draft, Epoch, Log, MemoryLog, Range, Retention};

pub(crate) struct DelayedLog {
    inner: MemoryLog,
    held: Vec<Done>,
    random: Cell<u64>,
}

impl DelayedLog {
    pub(crate) fn new(inner: MemoryLog, seed: u64) -> Self {
        Self { inner, held: Vec::new(), random: Cell::new(seed | 1) }
    }

    fn random(&self, bound: usize) -> usize {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 33) as usize % bound
    }
}

impl Log for DelayedLog {
    fn open(&mut self, name: &ChannelName, key: u32, retention: Retention, first: Epoch) -> u32 {
        self.inner.open(name, key, retention, first)
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.inner.retain(channel, retention);
    }

    fn close(&mut self, channel: u32) {
        self.inner.close(channel);
    }

    fn has_messages(&self, channel: u32) -> bool {
        self.inner.has_messages(channel) || !self.held.is_empty()
    }

    fn set_time(&mut self, now_ms: u64) {
        self.inner.set_time(now_ms);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.next_expiry_ms()
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft) {
        self.inner.append(ticket, channel, draft);
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        self.inner.read(ticket, channel, range);
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        self.inner.trim(ticket, channel);
    }

    fn expire(&mut self, now_ms: u64, channels_max: usize) {
        self.inner.expire(now_ms, channels_max);
    }

    fn next(&mut self) -> Option<Done> {
        while let Some(done) = self.inner.next() {
            self.held.push(done);
        }
        if self.held.is_empty() || self.random(3) == 0 {
            return None;
        }
        let mut at = self.random(self.held.len());
        if let Done::Delivered { channel, .. } = self.held[at] {
            // In the order of offsets, channel by channel.
            let first = self.held.iter().position(
                |one| matches!(one, Done::Delivered { channel: other, .. } if *other == channel),
            );
            at = first.unwrap_or(at);
        }
        Some(self.held.remove(at))
    }

    fn kept(&self) -> (u64, u64) {
        self.inner.kept()
    }
}

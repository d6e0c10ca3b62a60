//! Paces reports of new epochs: after a failover of the engine every channel has one, and each
//! report makes the members of a channel load its state from elsewhere.
//!
//! The members of a channel whose turn has not come keep the position that they have, and what
//! arrives is dropped: it is read at the channel's turn.

use std::collections::VecDeque;

use super::{ClusterLog, Follower};
use crate::cluster::command::{RawMessage, RawPage};
use crate::hub::{ChannelName, Epoch, Position};

const SECOND_US: u64 = 1_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EpochPace {
    /// The time between two reports (µs).
    interval_us: u64,
    /// When the next one may follow (Unix time, µs).
    next_us: u64,
    /// Channels whose turn has not come, with their eras, in order.
    waiting: VecDeque<(u32, u64)>,
}

impl EpochPace {
    pub(super) fn new(reports_per_s: u32) -> Self {
        let interval_us = SECOND_US / u64::from(reports_per_s.max(1));
        Self { interval_us, ..Self::default() }
    }

    /// Takes a turn, if there is one now.
    fn take_turn(&mut self, now_ms: u64) -> bool {
        let now_us = now_ms * 1000;
        if self.next_us > now_us {
            return false;
        }
        // Turns that were not taken are lost, except those since the last look at the clock.
        let base_us = if self.waiting.is_empty() { now_us } else { self.next_us };
        self.next_us = base_us.max(now_us.saturating_sub(SECOND_US / 10)) + self.interval_us;
        true
    }

    /// The clock was set back: nothing waits longer for that.
    pub(super) fn set_back(&mut self, now_ms: u64) {
        self.next_us = self.next_us.min(now_ms * 1000 + self.interval_us);
    }

    /// Returns when the next channel has its turn (Unix time, ms).
    pub(super) fn next_ms(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then(|| self.next_us.div_ceil(1000))
    }

    /// Drops channels that do not wait any more.
    pub(super) fn retain(&mut self, is_waiting: impl Fn(u32, u64) -> bool) {
        self.waiting.retain(|(channel, era)| is_waiting(*channel, *era));
    }

    pub(super) fn bytes(&self) -> usize {
        self.waiting.capacity() * size_of::<(u32, u64)>()
    }
}

impl ClusterLog {
    /// Continues a channel with a page that was read for it, unless that begins an epoch before the
    /// channel's turn.
    pub(super) fn catch_up(&mut self, channel: u32, era: u64, page: RawPage) {
        if !self.must_wait(channel, era, page.position) {
            let own = self.channels.get(channel as usize).filter(|own| own.era == era);
            let fills = own.is_some_and(|own| !own.is_lingering);
            let has_all = page.complete && !page.messages.is_empty();
            self.stats.holes_filled += u64::from(fills && has_all);
            self.follow(channel, era, |own, out| own.catch_up(page, out));
        }
    }

    /// Processes a message that was published.
    pub(super) fn take_message(&mut self, name: &ChannelName, epoch: Epoch, message: RawMessage) {
        let Some(&channel) = self.names.get(name) else { return };
        let own = &self.channels[channel as usize];
        let (era, is_live) = (own.era, own.follower.live_position().is_some());
        let position = Position { epoch, offset: message.offset };
        if !is_live || !self.must_wait(channel, era, position) {
            self.follow(channel, era, |own, out| own.receive(epoch, message, out));
        }
    }

    /// Returns whether a channel would begin another epoch with this position, and its turn has not
    /// come; then it is in the queue.
    fn must_wait(&mut self, channel: u32, era: u64, position: Position) -> bool {
        let Some(own) = self.channels.get_mut(channel as usize) else { return false };
        let pace = &mut self.epoch_pace;
        let has_turn = std::mem::take(&mut own.has_epoch_turn);
        if own.era != era || own.is_lingering || !own.follower.changes_epoch(position) {
            return false;
        }
        if has_turn || pace.waiting.is_empty() && pace.take_turn(self.now_ms) {
            return false;
        }
        own.follower.postpone();
        pace.waiting.push_back((channel, era));
        true
    }

    /// Lets the channels continue whose turn has come.
    pub(super) fn take_epoch_turns(&mut self) {
        while let Some(&(channel, era)) = self.epoch_pace.waiting.front() {
            let own = self.channels.get_mut(channel as usize).filter(|own| own.era == era);
            if let Some(own) = own {
                if !self.epoch_pace.take_turn(self.now_ms) {
                    return;
                }
                own.has_epoch_turn = true;
                self.follow(channel, era, Follower::resume);
            }
            self.epoch_pace.waiting.pop_front();
        }
    }
}

//! Reads of messages: of requests, which wait for the subscription of a watched channel, and of the
//! log's own.

use super::{ClusterLog, Purpose, RETRY_AFTER_MS};
use crate::cluster::channel::Follower;
use crate::cluster::command::{Action, POSITION, RawPage};
use crate::hub::{Done, HistoryPage, Range};

impl ClusterLog {
    pub(super) fn submit_read(&mut self, channel: u32, token: u64, range: Range) {
        let fresh = self.make_epoch();
        let own = &self.channels[channel as usize];
        let (retention, is_watched) = (own.retention, !own.follower.is_off());
        self.submit(channel, token, Action::Read { range, retention, fresh, is_watched });
    }

    /// Submits the reads that waited for the subscription.
    pub(super) fn submit_deferred(&mut self, channel: u32) {
        let own = &mut self.channels[channel as usize];
        let current = own.era;
        for token in std::mem::take(&mut own.deferred) {
            match self.purposes.get_mut(token as usize) {
                Some(Purpose::Read { range, era, deferral, .. }) => {
                    (*era, *deferral) = (current, 0);
                    let range = *range;
                    self.submit_read(channel, token, range);
                }
                Some(Purpose::Members { range, era, deferral, .. }) => {
                    (*era, *deferral) = (current, 0);
                    let range = range.clone();
                    self.submit(channel, token, Action::Members { range });
                }
                _ => {}
            }
        }
    }

    /// Has a read wait for the subscription, if the channel is watched and has none. Returns
    /// whether it waits.
    pub(super) fn defer(&mut self, channel: u32, token: u64, deferral: u64) -> bool {
        let own = &mut self.channels[channel as usize];
        if !own.follower.is_unsubscribed() {
            return false;
        }
        own.deferred.push(token);
        let due_ms = self.now_ms + self.limits.subscribe_timeout_ms;
        self.timeouts.push_back((due_ms, token, deferral));
        true
    }

    /// Submits a read, or has it wait for the subscription of a watched channel.
    pub(super) fn begin_read(&mut self, ticket: u64, channel: u32, range: Range) {
        let deferral = self.next_serial();
        let own = &self.channels[channel as usize];
        let purpose = Purpose::Read { ticket, channel, range, era: own.era, deferral };
        let token = self.purposes.insert(purpose) as u64;
        if !self.defer(channel, token, deferral) {
            self.submit_read(channel, token, range);
        }
    }

    pub(super) fn complete_read(&mut self, ticket: u64, channel: u32, range: Range, page: RawPage) {
        let RawPage { position, mut complete, messages } = page;
        let (mut kept, mut bytes) = (Vec::with_capacity(messages.len()), 0);
        for message in messages {
            let Some(one) = self.make_publication(channel, position.epoch, &message) else {
                complete = false;
                continue;
            };
            bytes += one.cost_bytes();
            if bytes > range.bytes_max {
                complete = false;
                break;
            }
            kept.push(one);
        }
        let page = HistoryPage { position, complete, messages: kept };
        self.done.push_back(Done::Page { ticket, page });
    }

    /// Fails the reads that have waited too long for a subscription.
    pub(super) fn expire_deferred(&mut self) {
        while let Some((_, token, number)) =
            self.timeouts.pop_front_if(|(due_ms, ..)| *due_ms <= self.now_ms)
        {
            let purpose = self.purposes.get(token as usize);
            let Some(
                Purpose::Read { channel, deferral, .. }
                | Purpose::Members { channel, deferral, .. },
            ) = purpose
            else {
                continue;
            };
            if *deferral == number {
                let deferred = &mut self.channels[*channel as usize].deferred;
                deferred.retain(|one| *one != token);
                self.fail(token, Some(RETRY_AFTER_MS));
            }
        }
    }

    /// Repeats the reads of the log's own that have failed.
    pub(super) fn repeat_reads(&mut self) {
        while let Some((_, channel, era)) =
            self.retries.pop_front_if(|(due_ms, ..)| *due_ms <= self.now_ms)
        {
            self.follow(channel, era, Follower::retry_read);
        }
    }

    /// Renews the lifetime of the positions of watched channels.
    pub(super) fn renew_positions(&mut self, channels_max: usize) {
        for _ in 0..channels_max {
            let Some(channel) = self.renewals.pop_due(self.now_ms) else { return };
            let era = self.channels[channel as usize].era;
            let token = self.purposes.insert(Purpose::Renew { channel, era }) as u64;
            self.submit_read(channel, token, POSITION);
            self.compare_members(channel);
            self.renewals.set(channel, self.now_ms + self.limits.renewal_ms);
        }
    }
}

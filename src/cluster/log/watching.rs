//! Subscriptions of channels: begun with the first member, and ended some time after the last one,
//! so that a member that returns soon, as after the reload of a page, costs the engine nothing.
//!
//! A lingering channel is one that is not watched any more, but still subscribed. Its messages are
//! kept in its tail, and nothing of it is reported. It lingers only while the subscription is in
//! effect: a loss ends it, so that a reconnection subscribes to no more than what is needed.

use super::{Action, ClusterLog, Done, Follower};

impl ClusterLog {
    /// Begins to watch a channel, or continues to.
    pub(super) fn begin_watch(&mut self, channel: u32) {
        let own = &mut self.channels[channel as usize];
        if std::mem::take(&mut own.is_lingering) {
            self.lingering.remove(channel);
            return self.forget_members(channel);
        }
        if own.follower.is_off() {
            own.follower.begin();
            let token = watch_token(channel, own.serial);
            self.submit(channel, token, Action::Watch);
        }
    }

    /// Reports nothing more of a channel, and ends its subscription, now or later.
    pub(super) fn leave_watch(&mut self, channel: u32) {
        let own = &mut self.channels[channel as usize];
        if own.follower.is_off() || own.is_lingering {
            return;
        }
        let key = own.key;
        if self.limits.linger_ms == 0 || own.follower.is_unsubscribed() {
            self.end_watch(channel);
        } else {
            own.is_lingering = true;
            self.forget_members(channel);
            self.lingering.set(channel, self.now_ms + self.limits.linger_ms);
            while self.lingering.len() > self.limits.lingering_max
                && let Some(first) = self.lingering.first()
            {
                self.end_watch(first);
            }
        }
        self.drop_deliveries(key);
    }

    /// A subscribed channel has no members: what was read for earlier ones does not matter.
    fn forget_members(&mut self, channel: u32) {
        let era = self.next_serial();
        let own = &mut self.channels[channel as usize];
        (own.era, own.revision) = (era, None);
        self.follow(channel, era, Follower::forget_members);
    }

    /// Ends the subscription of a channel.
    pub(super) fn end_watch(&mut self, channel: u32) {
        self.drop_tail(channel);
        self.renewals.remove(channel);
        self.lingering.remove(channel);
        let own = &mut self.channels[channel as usize];
        own.follower.end();
        own.is_lingering = false;
        let token = watch_token(channel, own.serial);
        self.submit(channel, token, Action::Unwatch);
        let serial = self.next_serial();
        let own = &mut self.channels[channel as usize];
        (own.serial, own.era, own.revision) = (serial, serial, None);
        self.submit_deferred(channel);
    }

    /// Ends the subscriptions of channels that have lingered long enough.
    pub(super) fn end_lingering(&mut self, channels_max: usize) {
        for _ in 0..channels_max {
            let Some(channel) = self.lingering.pop_due(self.now_ms) else { return };
            self.end_watch(channel);
        }
    }

    /// Ends the subscriptions of lingering channels of an instance, or of all.
    fn end_all_lingering(&mut self, instance: Option<u8>) {
        let is_of_it = |at: u8| instance.is_none_or(|instance| instance == at);
        let channels = self.channels.iter();
        let ended = channels.filter(|(_, own)| own.is_lingering && is_of_it(own.place.instance));
        let ended: Vec<_> = ended.map(|(channel, _)| channel as u32).collect();
        ended.into_iter().for_each(|channel| self.end_watch(channel));
    }

    /// A subscription is in effect. Its token is the channel and the serial.
    pub(super) fn note_subscription(&mut self, token: u64) {
        let (channel, low) = ((token >> 32) as u32, token as u32);
        let Some(own) = self.channels.get(channel as usize) else { return };
        let (serial, era) = (own.serial, own.era);
        if serial as u32 != low || own.follower.is_off() {
            return;
        }
        self.follow(channel, era, Follower::note_subscription);
        self.compare_members(channel);
        self.submit_deferred(channel);
        self.renewals.set(channel, self.now_ms + self.limits.renewal_ms);
    }

    /// The subscriptions at an instance are lost.
    pub(super) fn note_loss(&mut self, instance: u8) {
        self.end_all_lingering(Some(instance));
        let era = self.next_serial();
        self.drop_tails(Some(instance));
        for (_, own) in self.channels.iter_mut().filter(|(_, own)| own.place.instance == instance) {
            own.era = era;
            own.has_epoch_turn = false;
            own.follower.note_loss();
        }
        let channels = &self.channels;
        let is_waiting =
            |channel: u32, era| channels.get(channel as usize).is_some_and(|own| own.era == era);
        self.epoch_pace.retain(is_waiting);
        self.roster.list_again(Some(instance));
    }

    /// Publications were dropped: reads again what follows the positions of all channels.
    pub(super) fn look_again(&mut self) {
        // The shard is overloaded.
        self.end_all_lingering(None);
        // The removal of a history may be among what was dropped.
        self.drop_tails(None);
        let watched = self.channels.iter().filter(|(_, own)| !own.follower.is_off());
        let watched: Vec<_> = watched.map(|(channel, own)| (channel as u32, own.era)).collect();
        for (channel, era) in watched {
            self.follow(channel, era, Follower::look_again);
            self.compare_members(channel);
        }
    }

    /// Drops the queued deliveries and gaps of a channel.
    pub(super) fn drop_deliveries(&mut self, of: u32) {
        self.done.retain(|done| match done {
            Done::Delivered { key, .. }
            | Done::Gap { key, .. }
            | Done::News { key, .. }
            | Done::NewsMissed { key }
            | Done::EpochChanged { key, .. } => *key != of,
            _ => true,
        });
    }
}

fn watch_token(channel: u32, serial: u64) -> u64 {
    u64::from(channel) << 32 | serial & u64::from(u32::MAX)
}

//! The start of a channel: its epoch before any state of it exists.
//!
//! The epoch of a channel that is not open is derived from its name, a secret and the time, so that
//! a channel that was only read costs no memory, and the position in the reply stays valid. Time is
//! divided into periods; a channel that is opened starts with the epoch of the current period. A
//! client that read the position in an earlier period knows the start of the channel by another
//! epoch, which [`Starts::is_recent`] recognizes.
//!
//! Such a position is exact, because a channel with publishes stays open for [`Starts::kept_ms`]
//! after its last use, which is longer than a start counts as recent. If a channel has to be
//! dropped sooner, or time steps back, [`Starts::renew_series`] invalidates all starts that were
//! sent, and clients with such a position do not recover from it.

use std::hash::{BuildHasher, RandomState};

use crate::hub::ChannelName;
use crate::hub::position::Epoch;

/// The number of periods for which a start counts as recent.
const PERIODS: u64 = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Starts {
    secret: RandomState,
    series: u64,
    now_ms: u64,
}

impl Starts {
    pub(super) fn new() -> Self {
        Self { secret: RandomState::new(), series: 0, now_ms: 0 }
    }

    /// Sets the time (Unix, ms).
    pub(super) fn set_time(&mut self, now_ms: u64) {
        // Periods repeat: an earlier epoch could be valid again although the channel has had
        // messages since.
        if now_ms < self.now_ms {
            self.renew_series();
        }
        self.now_ms = now_ms;
    }

    /// Invalidates all starts that were sent.
    pub(super) fn renew_series(&mut self) {
        self.series += 1;
    }

    fn period_ms(hold_ms: u64) -> u64 {
        hold_ms.div_ceil(PERIODS).max(1)
    }

    fn epoch_at(&self, name: &ChannelName, period_ms: u64, period: u64) -> Epoch {
        Epoch(self.secret.hash_one((self.series, period_ms, period, name)))
    }

    /// Returns the epoch of a channel that is not open. It stays valid for at least `hold_ms`.
    pub(super) fn current_epoch(&self, name: &ChannelName, hold_ms: u64) -> Epoch {
        let period_ms = Self::period_ms(hold_ms);
        self.epoch_at(name, period_ms, self.now_ms / period_ms)
    }

    /// Returns whether [`Self::current_epoch`] returned this epoch recently.
    pub(super) fn is_recent(&self, name: &ChannelName, hold_ms: u64, epoch: Epoch) -> bool {
        let period_ms = Self::period_ms(hold_ms);
        let period = self.now_ms / period_ms;
        let recent = period.saturating_sub(PERIODS)..=period;
        recent.into_iter().any(|period| self.epoch_at(name, period_ms, period) == epoch)
    }

    /// Returns how long a channel stays open after its last use (ms).
    pub(super) fn kept_ms(hold_ms: u64) -> u64 {
        Self::period_ms(hold_ms).saturating_mul(PERIODS + 1)
    }
}

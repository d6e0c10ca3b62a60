//! Congested channels: more is published to them than can be delivered to their members.
//!
//! Every publish on every shard checks its channel. So the table, which has a lock, is read only if
//! a small filter without a lock shows a congested channel with the same hash.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::hub::{ChannelName, NameHash};

/// Counters of the filter, a power of two.
const PLACES: usize = 1024;

/// The table and its filter. See the module.
pub(super) struct Congested {
    /// The number of shards on which each channel is congested.
    channels: Mutex<HashMap<ChannelName, u32>>,
    count: AtomicUsize,
    /// The number of congested channels with this hash.
    filter: Box<[AtomicU32]>,
    hashes: NameHash,
}

impl Default for Congested {
    fn default() -> Self {
        Self {
            channels: Mutex::default(),
            count: AtomicUsize::new(0),
            filter: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            hashes: NameHash::default(),
        }
    }
}

impl Congested {
    fn filter_counter(&self, channel: &ChannelName) -> &AtomicU32 {
        &self.filter[self.hashes.hash(channel.as_str()) as usize % PLACES]
    }

    /// Records that a channel is congested on one more shard, or on one less.
    pub(super) fn set_congested(&self, channel: ChannelName, is_congested: bool) {
        let place = self.filter_counter(&channel);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if is_congested {
            let shards = channels.entry(channel).or_default();
            if *shards == 0 {
                place.fetch_add(1, Ordering::Relaxed);
            }
            *shards += 1;
        } else if let Some(shards) = channels.get_mut(&channel) {
            *shards -= 1;
            if *shards == 0 {
                channels.remove(&channel);
                place.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.count.store(channels.len(), Ordering::Relaxed);
    }

    /// Returns whether a channel is congested on any shard.
    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self.filter_counter(channel).load(Ordering::Relaxed) > 0
            && self.channels.lock().unwrap_or_else(PoisonError::into_inner).contains_key(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_congested_while_any_shard_reports_it() {
        let congested = Congested::default();
        let name = |n: u32| ChannelName::new(&format!("channel:{n}"));
        for n in 0..2000 {
            congested.set_congested(name(n), true);
        }
        congested.set_congested(name(7), true);
        congested.set_congested(name(7), false);
        assert!((0..2000).all(|n| congested.contains(&name(n))));
        assert!(!congested.contains(&name(2000)));
        for n in 0..2000 {
            congested.set_congested(name(n), false);
            assert!(!congested.contains(&name(n)));
        }
        congested.set_congested(name(3), false);
        assert!(congested.filter.iter().all(|place| place.load(Ordering::Relaxed) == 0));
    }
}

//! Channels that more is published to than their members can be handed.
//!
//! Every publish asks for its channel, on every shard. So the table behind the lock is looked at
//! only if a channel with the same place in a small filter is congested.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::hub::{ChannelName, NameHash};

/// Places of the filter, a power of two.
const PLACES: usize = 1024;

/// See the module.
pub(super) struct Congested {
    /// Each with the number of shards where that is so.
    channels: Mutex<HashMap<ChannelName, u32>>,
    count: AtomicUsize,
    /// How many of them have this place.
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
    fn place(&self, channel: &ChannelName) -> &AtomicU32 {
        &self.filter[self.hashes.hash(channel.as_str()) as usize % PLACES]
    }

    /// On one more shard, or one less, a channel is congested.
    pub(super) fn set(&self, channel: ChannelName, is_congested: bool) {
        let place = self.place(&channel);
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

    /// Whether a channel is congested on any shard.
    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self.place(channel).load(Ordering::Relaxed) > 0
            && self.channels.lock().unwrap_or_else(PoisonError::into_inner).contains_key(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_congested_until_no_shard_says_so() {
        let congested = Congested::default();
        let name = |n: u32| ChannelName::new(&format!("channel:{n}"));
        for n in 0..2000 {
            congested.set(name(n), true);
        }
        congested.set(name(7), true);
        congested.set(name(7), false);
        assert!((0..2000).all(|n| congested.contains(&name(n))));
        assert!(!congested.contains(&name(2000)));
        for n in 0..2000 {
            congested.set(name(n), false);
            assert!(!congested.contains(&name(n)));
        }
        congested.set(name(3), false);
        assert!(congested.filter.iter().all(|place| place.load(Ordering::Relaxed) == 0));
    }
}

//! Lookup of a session's subscriptions by channel.
//!
//! A few are searched linearly, which takes no memory. Above that a session has an index: gateways
//! subscribe to thousands of channels, and each subscription is looked up several times until its
//! home has replied.

use super::state::{HubSession, Subscription};
use super::subscription_index::SubscriptionIndex;

/// The number of subscriptions up to which there is no index.
const FEW: usize = 32;

impl HubSession {
    /// Returns the index of the subscription to a channel.
    pub(super) fn find(&self, channel: &str) -> Option<usize> {
        match self.index() {
            Some(index) => index.find(channel, |place| self.subscriptions[place].channel.as_str()),
            None => self.subscriptions.iter().position(|one| one.channel.as_str() == channel),
        }
    }

    fn index(&self) -> Option<&SubscriptionIndex> {
        self.extras.as_ref()?.index.as_deref()
    }

    /// Returns the memory of the index (bytes).
    pub fn index_bytes(&self) -> usize {
        self.index().map_or(0, SubscriptionIndex::bytes)
    }

    /// Adds a subscription. The channel must not have one.
    pub(super) fn add(&mut self, subscription: Subscription) {
        // Most sessions have few subscriptions, so memory grows without slack at first.
        if self.subscriptions.len() == self.subscriptions.capacity() {
            self.subscriptions.reserve_exact(1 + self.subscriptions.len() / 4);
        }
        self.subscriptions.push(subscription);
        let count = self.subscriptions.len();
        if count <= FEW {
            return;
        }
        // The index is taken out while it is extended, because `name_at` borrows the list. When it
        // is created, this loop adds all earlier subscriptions too.
        let mut index = self.extras_mut().index.take().unwrap_or_default();
        for place in index.len()..count {
            index.insert(place, |place| self.subscriptions[place].channel.as_str());
        }
        self.extras_mut().index = Some(index);
    }

    /// Removes a subscription; the last one moves to its index.
    pub(super) fn take_subscription(&mut self, place: usize) -> Subscription {
        let Self { subscriptions, extras, .. } = self;
        let taken = subscriptions.swap_remove(place);
        let last = subscriptions.len();
        let Some(extras) = extras else { return taken };
        if last <= FEW {
            extras.index = None;
        } else if let Some(index) = &mut extras.index {
            index.remove(taken.channel.as_str(), place);
            if let Some(moved) = subscriptions.get(place) {
                index.replace_index(moved.channel.as_str(), last, place);
            }
            index.trim(|place| subscriptions[place].channel.as_str());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::{ChannelName, ConnectionId};
    use crate::session::hub::fuzz::open_realm;
    use crate::session::hub::state::{Fate, NONE};

    fn session() -> HubSession {
        let id = ConnectionId { node: 1, shard: 0, session: 0, serial: 1 };
        HubSession::new(id, None, &open_realm(), 0)
    }

    fn subscription(n: u16) -> Subscription {
        Subscription {
            channel: ChannelName::new(&format!("channel:{n}")),
            local: NONE,
            member_index: NONE,
            watcher_index: NONE,
            listed: false,
            fate: Fate::default(),
        }
    }

    proptest! {
        /// Each subscription is found at its index, and no other is found, with and without an
        /// index.
        #[test]
        fn subscriptions_are_found_where_they_are(
            steps in prop::collection::vec((0..3u8, any::<u16>()), 1..300),
        ) {
            let mut session = session();
            let mut next = 0;
            for (what, which) in steps {
                let count = session.subscriptions.len();
                if what == 0 && count > 0 {
                    let place = usize::from(which) % count;
                    let taken = session.take_subscription(place);
                    prop_assert_eq!(session.find(taken.channel.as_str()), None);
                } else {
                    session.add(subscription(next));
                    next += 1;
                }
                for (place, one) in session.subscriptions.iter().enumerate() {
                    prop_assert_eq!(session.find(one.channel.as_str()), Some(place));
                }
                prop_assert_eq!(session.index_bytes() > 0, session.subscriptions.len() > FEW);
                prop_assert_eq!(session.find("other"), None);
            }
        }
    }

    #[test]
    fn an_index_is_small_beside_what_it_finds() {
        let mut session = session();
        (0..3000).for_each(|n| session.add(subscription(n)));
        assert!(session.index_bytes() < 3000 * 12, "{}", session.index_bytes());
        (10..3000).rev().for_each(|place| drop(session.take_subscription(place)));
        assert_eq!(session.index_bytes(), 0);
    }
}

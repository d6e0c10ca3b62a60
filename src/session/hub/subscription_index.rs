//! A hash index of subscriptions by channel, for sessions with many of them.

use hashbrown::HashTable;

use crate::hub::NameHash;

/// Indexes into a list of subscriptions, by channel name. The names are not stored again: `name_at`
/// returns the name of the subscription at an index.
#[derive(Debug, Default)]
pub(super) struct SubscriptionIndex {
    places: HashTable<u32>,
    hashes: NameHash,
}

impl SubscriptionIndex {
    /// Returns the number of subscriptions in the index.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn insert<'n>(&mut self, place: usize, name_at: impl Fn(usize) -> &'n str) {
        let hashes = self.hashes;
        let hash_at = |place: &u32| hashes.hash(name_at(*place as usize));
        let place = place as u32;
        self.places.insert_unique(hash_at(&place), place, hash_at);
    }

    pub(super) fn find<'n>(
        &self,
        channel: &str,
        name_at: impl Fn(usize) -> &'n str,
    ) -> Option<usize> {
        let is_it = |place: &u32| name_at(*place as usize) == channel;
        self.places.find(self.hashes.hash(channel), is_it).map(|place| *place as usize)
    }

    /// Updates the index of a subscription that has moved.
    pub(super) fn replace_index(&mut self, channel: &str, from: usize, to: usize) {
        let hash = self.hashes.hash(channel);
        if let Some(place) = self.places.find_mut(hash, |one| *one as usize == from) {
            *place = to as u32;
        }
    }

    pub(super) fn remove(&mut self, channel: &str, place: usize) {
        let hash = self.hashes.hash(channel);
        if let Ok(entry) = self.places.find_entry(hash, |one| *one as usize == place) {
            entry.remove();
        }
    }

    /// Shrinks the table when it has room for more than four times its entries.
    pub(super) fn trim<'n>(&mut self, name_at: impl Fn(usize) -> &'n str) {
        let (hashes, count) = (self.hashes, self.places.len());
        if self.places.capacity() > 4 * count {
            self.places.shrink_to(2 * count, |place| hashes.hash(name_at(*place as usize)));
        }
    }

    /// Returns its memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.places.allocation_size()
    }
}

//! An index of a home's or a shard's channels by name.
//!
//! A single table of a million names rehashes them all when it grows, which blocks a turn for many
//! milliseconds. So the names are split by hash into tables that grow independently.
//!
//! Measured with one client that opened 25,000 channels per second: with a single table, the
//! longest turn took 9.6 ms.

use hashbrown::HashTable;

use super::ChannelName;
use super::name_hash::NameHash;

/// The number of tables; a power of two, so that choosing one is a mask.
const PARTS: usize = 64;

type Entry = (ChannelName, u32);

/// An index of channels by name.
#[derive(Debug)]
pub(super) struct Names {
    /// Empty before the first name, so that an empty index, which replaces one that is being
    /// iterated, costs nothing.
    parts: Vec<HashTable<Entry>>,
    /// The secret of this index, chosen with the first name.
    hashes: NameHash,
}

impl Default for Names {
    fn default() -> Self {
        Self { parts: Vec::new(), hashes: NameHash::UNSET }
    }
}

impl Names {
    fn find_place(&self, name: &str) -> (usize, u64) {
        let hash = self.hashes.hash(name);
        // The tables use the lowest bits and the highest seven, so the choice of one uses others.
        ((hash >> 32) as usize % PARTS, hash)
    }

    pub(super) fn get(&self, name: &str) -> Option<u32> {
        if self.parts.is_empty() {
            return None;
        }
        let (part, hash) = self.find_place(name);
        self.parts[part].find(hash, |entry| entry.0.as_str() == name).map(|entry| entry.1)
    }

    /// Adds a name that the index does not contain.
    pub(super) fn insert(&mut self, name: ChannelName, key: u32) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, HashTable::new);
            self.hashes = NameHash::default();
        }
        let (part, hash) = self.find_place(name.as_str());
        let table = &mut self.parts[part];
        debug_assert!(table.find(hash, |entry| entry.0 == name).is_none(), "a name is there once");
        let hashes = &self.hashes;
        table.insert_unique(hash, (name, key), |entry| hashes.hash(entry.0.as_str()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.parts.is_empty() {
            return;
        }
        let (part, hash) = self.find_place(name);
        if let Ok(entry) = self.parts[part].find_entry(hash, |entry| entry.0.as_str() == name) {
            entry.remove();
        }
    }

    /// Returns the memory of the tables (bytes), without the names.
    pub(super) fn memory_bytes(&self) -> usize {
        let capacity: usize = self.parts.iter().map(HashTable::capacity).sum();
        self.parts.capacity() * size_of::<HashTable<Entry>>() + capacity * (size_of::<Entry>() + 1)
    }

    /// Releases memory after a burst of names: shrinks tables with room for more than four times
    /// their names.
    pub(super) fn trim(&mut self) {
        const LEAST: usize = 32;
        for table in &mut self.parts {
            if table.capacity() > 4 * table.len().max(LEAST) {
                let hashes = &self.hashes;
                table.shrink_to(LEAST, |entry| hashes.hash(entry.0.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> ChannelName {
        ChannelName::new(&format!("channel:{n}"))
    }

    #[test]
    fn names_are_found_until_they_are_removed() {
        let mut names = Names::default();
        (0..10_000).for_each(|n| names.insert(name(n), n));
        assert!((0..10_000).all(|n| names.get(name(n).as_str()) == Some(n)));
        (0..10_000).filter(|n| n % 3 == 0).for_each(|n| names.remove(name(n).as_str()));
        assert!((0..10_000).all(|n| names.get(name(n).as_str()) == (n % 3 != 0).then_some(n)));
    }

    #[test]
    fn no_part_holds_much_more_than_its_share() {
        let mut names = Names::default();
        (0..64_000).for_each(|n| names.insert(name(n), n));
        let most = names.parts.iter().map(HashTable::len).max().unwrap();
        assert!(most < 2000, "{most} of 64,000 in one of 64 parts");
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let mut names = Names::default();
        let before = names.memory_bytes();
        (0..100_000).for_each(|n| names.insert(name(n), n));
        assert!(names.memory_bytes() > before + 100_000 * size_of::<Entry>());
        (100..100_000).for_each(|n| names.remove(name(n).as_str()));
        names.trim();
        assert!(names.memory_bytes() < before + 10_000 * size_of::<Entry>());
        assert!((0..100).all(|n| names.get(name(n).as_str()) == Some(n)));
    }
}

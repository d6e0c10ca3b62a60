//! Counts the keys of each owner, and finds the owner with the most.
//!
//! Owners with the same count form a list. An owner that gains or loses a key moves to the adjacent
//! list, so no operation depends on the number of owners.

use std::collections::HashMap;

use slab::Slab;

use super::NONE;

/// The keys of an owner: the ends of its list, as indexes into the table of keys.
#[derive(Debug)]
pub(super) struct OwnKeys {
    pub(super) oldest: u32,
    pub(super) newest: u32,
}

#[derive(Debug)]
struct Owner {
    hash: u64,
    keys: OwnKeys,
    count: usize,
    /// Neighbours in the list of owners with the same count, in the order in which they joined it.
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE };

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    owners: Slab<Owner>,
    hashes: HashMap<u64, u32>,
    /// Lists by count. The last one is never empty, so it contains the owners with the most keys.
    lists: Vec<Ends>,
}

impl Shares {
    /// Counts one more key of an owner, identified by the hash of its name. Returns its index.
    pub(super) fn grow(&mut self, hash: u64) -> u32 {
        let Some(&owner) = self.hashes.get(&hash) else {
            let keys = OwnKeys { oldest: NONE, newest: NONE };
            let owner = Owner { hash, keys, count: 1, before: NONE, after: NONE };
            let owner = self.owners.insert(owner) as u32;
            self.hashes.insert(hash, owner);
            self.link_owner(owner);
            return owner;
        };
        self.unlink_owner(owner);
        self.owners[owner as usize].count += 1;
        self.link_owner(owner);
        owner
    }

    /// Counts one key less. An owner without keys is removed.
    pub(super) fn remove_key(&mut self, owner: u32) {
        self.unlink_owner(owner);
        let own = &mut self.owners[owner as usize];
        own.count -= 1;
        if own.count > 0 {
            self.link_owner(owner);
        } else {
            let own = self.owners.remove(owner as usize);
            self.hashes.remove(&own.hash);
        }
        while self.lists.pop_if(|ends| ends.first == NONE).is_some() {}
    }

    fn link_owner(&mut self, owner: u32) {
        let count = self.owners[owner as usize].count;
        if self.lists.len() <= count {
            self.lists.resize(count + 1, EMPTY);
        }
        let before = std::mem::replace(&mut self.lists[count].last, owner);
        match before {
            NONE => self.lists[count].first = owner,
            before => self.owners[before as usize].after = owner,
        }
        let own = &mut self.owners[owner as usize];
        (own.before, own.after) = (before, NONE);
    }

    fn unlink_owner(&mut self, owner: u32) {
        let Owner { count, before, after, .. } = self.owners[owner as usize];
        match before {
            NONE => self.lists[count].first = after,
            before => self.owners[before as usize].after = after,
        }
        match after {
            NONE => self.lists[count].last = before,
            after => self.owners[after as usize].before = before,
        }
    }

    /// Returns the owner with the most keys: `preferred` if no other has more, unless it has only
    /// one, which would be the key just added.
    pub(super) fn largest(&self, preferred: u32) -> Option<u32> {
        let most = self.lists.len().checked_sub(1)?;
        let is_largest = |own: &Owner| own.count == most && most > 1;
        if self.owners.get(preferred as usize).is_some_and(is_largest) {
            return Some(preferred);
        }
        Some(self.lists[most].first)
    }

    pub(super) fn keys(&mut self, owner: u32) -> &mut OwnKeys {
        &mut self.owners[owner as usize].keys
    }

    /// Returns the memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.owners.capacity() * size_of::<Owner>()
            + self.hashes.capacity() * (size_of::<(u64, u32)>() + 1)
            + self.lists.capacity() * size_of::<Ends>()
    }
}

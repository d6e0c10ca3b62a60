//! A queue of deadlines for the entries of a table, so that expiry only costs time for entries that
//! have expired.
//!
//! Deadlines are rounded up to a quarter of a second. All entries with the same deadline form a
//! linked list within the table of links: setting, moving or removing an entry costs a lookup among
//! the distinct deadlines, whatever the number of entries.

use std::collections::BTreeMap;

const NONE: u32 = u32::MAX;
/// Deadlines are rounded up to a multiple of this (ms).
const STEP_MS: u64 = 250;

#[derive(Clone, Copy, Debug)]
struct Link {
    /// The deadline in steps; [`UNSET`] if the entry has none.
    step: u64,
    before: u32,
    after: u32,
}

const UNSET: u64 = u64::MAX;
const LOOSE: Link = Link { step: UNSET, before: NONE, after: NONE };

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// See the module. Keys are small numbers, such as the indexes of a slab.
#[derive(Debug, Default)]
pub struct DueQueue {
    links: Vec<Link>,
    lists: BTreeMap<u64, Ends>,
    len: usize,
}

impl DueQueue {
    /// Sets or moves the deadline of an entry (Unix time, ms).
    pub fn set(&mut self, key: u32, due_ms: u64) {
        let step = due_ms.div_ceil(STEP_MS);
        if self.links.get(key as usize).is_some_and(|link| link.step == step) {
            return;
        }
        self.remove(key);
        if self.links.len() <= key as usize {
            self.links.resize(key as usize + 1, LOOSE);
        }
        let ends = self.lists.entry(step).or_insert(Ends { first: key, last: NONE });
        let before = std::mem::replace(&mut ends.last, key);
        if before != NONE {
            self.links[before as usize].after = key;
        }
        self.links[key as usize] = Link { step, before, after: NONE };
        self.len += 1;
    }

    /// Removes an entry's deadline, if it has one.
    pub fn remove(&mut self, key: u32) {
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Link { step, before, after } = std::mem::replace(link, LOOSE);
        if step == UNSET {
            return;
        }
        self.len -= 1;
        if before == NONE && after == NONE {
            self.lists.remove(&step);
            if self.len == 0 {
                // Memory that a burst of entries needed is released.
                self.links = Vec::new();
            }
            return;
        }
        let ends = self.lists.get_mut(&step).expect("a list with another entry is kept");
        match before {
            NONE => ends.first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NONE => ends.last = before,
            after => self.links[after as usize].before = before,
        }
    }

    /// Returns the entry with the earliest deadline.
    pub fn first(&self) -> Option<u32> {
        self.lists.first_key_value().map(|(_, ends)| ends.first)
    }

    /// Returns the earliest deadline (Unix time, ms).
    pub fn next_ms(&self) -> Option<u64> {
        self.lists.first_key_value().map(|(step, _)| step.saturating_mul(STEP_MS))
    }

    /// Removes and returns an entry whose deadline has passed.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<u32> {
        let due = self.next_ms().is_some_and(|due_ms| due_ms <= now_ms);
        let key = self.first().filter(|_| due)?;
        self.remove(key);
        Some(key)
    }

    /// Returns the number of entries with a deadline.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no entry has a deadline.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory of the links (bytes).
    pub fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_entry_comes_out_once_in_the_order_of_deadlines(
            steps in proptest::collection::vec((0..3u8, 0..12u32, 0..4000u64), 0..200),
        ) {
            let mut queue = DueQueue::default();
            let mut model = BTreeMap::new();
            for (step, key, time) in steps {
                match step {
                    0 => {
                        queue.set(key, time);
                        model.insert(key, time.div_ceil(STEP_MS) * STEP_MS);
                    }
                    1 => {
                        queue.remove(key);
                        model.remove(&key);
                    }
                    _ => {
                        let expected = model.values().min().copied();
                        prop_assert_eq!(queue.next_ms(), expected);
                        let popped = queue.pop_due(time);
                        let due = expected.is_some_and(|due| due <= time);
                        prop_assert_eq!(popped.is_some(), due);
                        if let Some(popped) = popped {
                            prop_assert_eq!(model.remove(&popped), expected);
                        }
                    }
                }
                prop_assert_eq!(queue.len, model.len());
            }
            while let Some(key) = queue.pop_due(u64::MAX) {
                prop_assert!(model.remove(&key).is_some());
            }
            prop_assert!(model.is_empty() && queue.bytes() == 0);
        }
    }
}

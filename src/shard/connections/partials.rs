//! Memory of unfinished requests and messages, counted by connection.
//!
//! Few connections have any at a time, so that the counts lie outside the slots.

use std::collections::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Partials {
    by_slot: HashMap<u32, usize>,
    bytes: u64,
}

impl Partials {
    /// Bytes of all connections.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes how much a connection holds now; returns whether that is more than before.
    #[inline]
    pub(super) fn set(&mut self, index: u32, bytes: usize) -> bool {
        if bytes == 0 && self.by_slot.is_empty() {
            return false;
        }
        self.replace(index, bytes)
    }

    fn replace(&mut self, index: u32, bytes: usize) -> bool {
        let before = match bytes {
            0 => self.by_slot.remove(&index),
            _ => self.by_slot.insert(index, bytes),
        };
        let before = before.unwrap_or(0);
        self.bytes = self.bytes + bytes as u64 - before as u64;
        bytes > before
    }

    /// Bytes noted for a connection.
    pub(super) fn of(&self, index: u32) -> usize {
        self.by_slot.get(&index).copied().unwrap_or(0)
    }

    /// Gives back what only a burst needed.
    pub(super) fn trim(&mut self) {
        self.by_slot.shrink_to(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_is_that_of_the_connections() {
        let mut partials = Partials::default();
        assert!(!partials.set(1, 0) && partials.set(1, 10) && partials.set(2, 5));
        assert!(!partials.set(1, 7), "less than before");
        assert_eq!((partials.bytes(), partials.of(1), partials.of(2)), (12, 7, 5));
        assert!(!partials.set(1, 0) && !partials.set(2, 0));
        assert_eq!((partials.bytes(), partials.of(1)), (0, 0));
    }
}

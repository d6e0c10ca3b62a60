//! Memory of unfinished requests and messages, by connection.
//!
//! Few connections have any at a time, so the counts are stored outside the slots.

use std::collections::HashMap;

/// The counts. See the module.
#[derive(Debug, Default)]
pub(super) struct Partials {
    by_slot: HashMap<u32, usize>,
    bytes: u64,
}

impl Partials {
    /// Returns the bytes of all connections.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets the bytes of a connection.
    pub(super) fn set_bytes(&mut self, index: u32, bytes: usize) {
        let before = match bytes {
            0 => self.by_slot.remove(&index),
            _ => self.by_slot.insert(index, bytes),
        };
        self.bytes = self.bytes + bytes as u64 - before.unwrap_or(0) as u64;
    }

    /// Returns the bytes of a connection.
    pub(super) fn bytes_of(&self, index: u32) -> usize {
        self.by_slot.get(&index).copied().unwrap_or(0)
    }

    /// Returns memory that only a burst needed.
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
        for (index, bytes) in [(1, 0), (1, 10), (2, 5), (1, 7)] {
            partials.set_bytes(index, bytes);
        }
        assert_eq!((partials.bytes(), partials.bytes_of(1), partials.bytes_of(2)), (12, 7, 5));
        partials.set_bytes(1, 0);
        partials.set_bytes(2, 0);
        assert_eq!((partials.bytes(), partials.bytes_of(1)), (0, 0));
    }
}

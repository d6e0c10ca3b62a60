//! Held input: received, and not processed yet.
//!
//! Few connections have any, and not for long: those that have used their share of a turn, and
//! those that must read replies before they get more. It is stored outside the slots, whose size
//! idle connections pay for.

use std::collections::HashMap;

/// The input of one connection.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    /// The number of bytes that are already processed.
    start: usize,
}

/// Held input by slot.
#[derive(Debug, Default)]
pub(super) struct HeldInputs {
    by_slot: HashMap<u32, Input>,
    bytes: usize,
}

impl HeldInputs {
    /// Returns the bytes held for all connections.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes held for a connection.
    pub(super) fn len(&self, index: u32) -> usize {
        self.by_slot.get(&index).map_or(0, |input| input.bytes.len() - input.start)
    }

    /// Appends input to what is held already.
    pub(super) fn push(&mut self, index: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        let input = self.by_slot.entry(index).or_default();
        if input.start > input.bytes.len() / 2 {
            input.bytes.drain(..input.start);
            input.start = 0;
        }
        input.bytes.extend_from_slice(bytes);
    }

    /// Removes and returns all held bytes, and the index of the first unprocessed one.
    pub(super) fn take(&mut self, index: u32) -> (Vec<u8>, usize) {
        let Input { bytes, start } = self.by_slot.remove(&index).unwrap_or_default();
        self.bytes -= bytes.len() - start;
        (bytes, start)
    }

    /// Puts back what was taken, of which only the last `rest` bytes are unprocessed.
    pub(super) fn put_back(&mut self, index: u32, bytes: Vec<u8>, rest: usize) {
        debug_assert!(!self.by_slot.contains_key(&index), "no input was held in between");
        debug_assert!(rest <= bytes.len(), "processing takes bytes from the front");
        if rest > 0 {
            self.bytes += rest;
            let start = bytes.len() - rest;
            self.by_slot.insert(index, Input { bytes, start });
        }
    }

    /// Drops all held input of a connection.
    pub(super) fn clear(&mut self, index: u32) {
        self.take(index);
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
    fn bytes_come_out_in_order_however_they_are_looked_at() {
        let mut held = HeldInputs::default();
        held.push(1, b"abc");
        held.push(2, b"x");
        let (bytes, start) = held.take(1);
        assert_eq!(&bytes[start..], b"abc");
        held.put_back(1, bytes, 2);
        held.push(1, b"de");
        assert_eq!((held.len(1), held.bytes()), (4, 5));
        let (bytes, start) = held.take(1);
        assert_eq!(&bytes[start..], b"bcde");
        held.put_back(1, bytes, 0);
        held.clear(2);
        assert_eq!((held.len(1), held.len(2), held.bytes()), (0, 0, 0));
    }
}

//! Positions of messages in a channel: an epoch, and an offset in it.

use std::fmt;

/// The epoch of a channel's offsets: a new one starts when the channel's history is lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Epoch {
    /// Appends what [`fmt::Display`] writes, without a formatter: each acknowledgement contains
    /// one.
    pub fn push_to(self, text: &mut Vec<u8>) {
        let mut digits = [0; 16];
        for (digit, shift) in digits.iter_mut().rev().zip((0..64).step_by(4)) {
            *digit = b"0123456789abcdef"[(self.0 >> shift) as usize & 0xf];
        }
        text.extend_from_slice(&digits);
    }

    /// Parses what [`fmt::Display`] writes. `None`: the text is not an epoch.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

/// A position in a channel: that of the last message received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: u64,
}

/// A position that a client has named: its epoch may be unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    pub epoch: Option<Epoch>,
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_pushed_as_they_are_shown() {
        for epoch in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX].map(Epoch) {
            let mut text = Vec::new();
            epoch.push_to(&mut text);
            assert_eq!(text, epoch.to_string().as_bytes());
            assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        }
    }
}

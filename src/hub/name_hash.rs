//! The hash of channel names: SipHash-1-3 with a secret, like the standard library's.
//!
//! Each publish hashes its channel name several times. The standard hasher takes bytes piece by
//! piece, which costs 210 instructions for a name of ten bytes; hashing a whole name at once costs
//! 90.

use std::hash::{BuildHasher, RandomState};

/// The secret of a hash, so that clients cannot choose names that collide.
#[derive(Clone, Copy, Debug)]
pub struct NameHash([u64; 2]);

impl Default for NameHash {
    /// Chooses a new secret.
    fn default() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1)])
    }
}

impl NameHash {
    /// A constant secret: for a table that stays empty.
    pub const UNSET: Self = Self([0, 0]);

    /// Hashes a name.
    #[inline]
    pub fn hash(&self, name: &str) -> u64 {
        let [low, high] = self.0;
        let mut state = [
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ];
        let (words, rest) = name.as_bytes().as_chunks::<8>();
        for word in words {
            absorb_word(&mut state, u64::from_le_bytes(*word));
        }
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        absorb_word(&mut state, tail | (name.len() as u64) << 56);
        state[2] ^= 0xff;
        (0..3).for_each(|_| mix_state(&mut state));
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

#[inline]
fn absorb_word(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    mix_state(state);
    state[0] ^= word;
}

/// Performs one round of `SipHash`.
#[inline]
fn mix_state([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard_library() {
        let name = "chat:room-1/ä, and more than two words";
        for end in (0..=name.len()).filter(|end| name.is_char_boundary(*end)) {
            // It has zeros as its secret.
            let mut standard = DefaultHasher::new();
            standard.write(&name.as_bytes()[..end]);
            assert_eq!(NameHash([0, 0]).hash(&name[..end]), standard.finish(), "{end}");
        }
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(NameHash::default().hash("a"), NameHash::default().hash("a"));
    }
}

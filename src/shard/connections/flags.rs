//! Up to eight flags in one byte: an idle connection pays for each byte of its slot.

/// Eight flags, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct Flags(u8);

impl Flags {
    #[inline]
    pub(in crate::shard) fn has(self, number: u8) -> bool {
        self.0 & (1 << number) != 0
    }

    /// Returns whether any flag of a bit mask is set.
    #[inline]
    pub(in crate::shard) fn has_any(self, mask: u8) -> bool {
        self.0 & mask != 0
    }

    #[inline]
    pub(in crate::shard) fn set(&mut self, number: u8, value: bool) {
        self.0 = self.0 & !(1 << number) | u8::from(value) << number;
    }

    /// Sets a flag; returns its old value.
    #[inline]
    pub(in crate::shard) fn replace(&mut self, number: u8, value: bool) -> bool {
        let before = self.has(number);
        self.set(number, value);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_do_not_touch_each_other() {
        let mut flags = Flags::default();
        for number in 0..8 {
            assert!(!flags.replace(number, true) && flags.replace(number, true));
        }
        flags.set(3, false);
        assert!((0..8).all(|number| flags.has(number) == (number != 3)));
        assert!(flags.has_any(0b1100) && !flags.has_any(0b1000));
    }
}

//! Tables of fixed size that all shards write at once, without a lock: each entry is one word.
//!
//! A key's hash chooses a set of sixteen neighbours, and leaves a tag to be told apart by in it.
//! Two keys with the same set and tag share an entry: among 40 bits of tag that is one chance in
//! 60 billion for each pair, among 24 (rates) one in a million, and it only makes two clients share
//! what one may have. The hash's key is secret, so nobody can aim at another's entry. Where all
//! sixteen are in use, a newcomer is not counted: whoever has that many addresses is not held by a
//! limit per address, and refusing would let them shut out everybody else.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

const SETS: usize = 8192;
const WAYS: usize = 16;

fn empty() -> Box<[AtomicU64]> {
    <[AtomicU64]>::new_box_zeroed_with_elems(SETS * WAYS).expect("a megabyte can be had")
}

fn set(table: &[AtomicU64], hash: u64) -> &[AtomicU64] {
    let start = (hash >> 48) as usize % SETS * WAYS;
    &table[start..start + WAYS]
}

/// What became of an attempt to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    Counted,
    /// As many are counted as may be.
    Full,
    /// The table has no entry left for it.
    NoRoom,
}

const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// How many there are of each key.
#[derive(Debug)]
pub struct Counts(Box<[AtomicU64]>);

impl Counts {
    pub(super) fn new() -> Self {
        Self(empty())
    }

    fn tag(hash: u64) -> u64 {
        (hash << COUNT_BITS).max(1 << COUNT_BITS)
    }

    /// How many there are.
    pub fn count(&self, hash: u64) -> u32 {
        let own = set(&self.0, hash).iter().map(|entry| entry.load(Ordering::Relaxed));
        // Two shards that meet a new key at once may give it an entry each.
        own.filter(|word| word & !COUNT == Self::tag(hash)).map(|word| (word & COUNT) as u32).sum()
    }

    /// One more, unless there are `most` (0 = no limit).
    pub fn enter(&self, hash: u64, most: u32) -> Entered {
        let entered = self.add(hash);
        if entered == Entered::Counted && most > 0 && self.count(hash) > most {
            self.leave(hash);
            return Entered::Full;
        }
        entered
    }

    fn add(&self, hash: u64) -> Entered {
        let (set, tag) = (set(&self.0, hash), Self::tag(hash));
        loop {
            let words = || set.iter().map(|entry| entry.load(Ordering::Relaxed)).enumerate();
            let own = words().find(|(_, word)| word & !COUNT == tag && word & COUNT < COUNT);
            let free = || words().find(|(_, word)| word & COUNT == 0);
            let Some((at, word)) = own.or_else(free) else { return Entered::NoRoom };
            let next = tag | ((word & COUNT) + 1);
            let swapped =
                set[at].compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                return Entered::Counted;
            }
        }
    }

    /// One less.
    pub fn leave(&self, hash: u64) {
        let tag = Self::tag(hash);
        for entry in set(&self.0, hash) {
            let less = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word & !COUNT == tag && word & COUNT > 0).then(|| word - 1)
            });
            if less.is_ok() {
                return;
            }
        }
        debug_assert!(false, "only who was counted leaves");
    }
}

/// Nanoseconds are kept in units of 16,384, of which 40 bits last half a year.
const UNIT_BITS: u32 = 14;
const TIME_BITS: u32 = 40;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times a second; not 0.
    pub a_second: u64,
    /// Times at once, after a rest.
    pub burst: u64,
}

impl Rate {
    /// A second's worth at once.
    pub fn a_second(times: u32) -> Self {
        Self { a_second: times.into(), burst: times.into() }
    }

    fn units(self, times: u64) -> u64 {
        (times.saturating_mul(1_000_000_000 >> UNIT_BITS) / self.a_second).min(TIME / 4)
    }
}

/// Takes `times` from a word that keeps when all that was taken will have been earned, above it
/// `tag`. Returns after how many nanoseconds to try again if there is not so much, and changes
/// nothing then.
pub(super) fn take(
    entry: &AtomicU64,
    tag: u64,
    rate: Rate,
    times: u32,
    now_ns: u64,
) -> Result<(), u64> {
    let now = now_ns >> UNIT_BITS & TIME;
    let most = rate.units(rate.burst);
    let mut after = 0;
    let taken = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
        let ahead = if word >> TIME_BITS == tag { ahead(word, now) } else { 0 };
        let next = ahead + rate.units(times.into());
        after = next.saturating_sub(most);
        (after == 0).then(|| tag << TIME_BITS | (now + next) & TIME)
    });
    taken.map(|_| ()).map_err(|_| after << UNIT_BITS)
}

/// How far a word's time is ahead of now.
fn ahead(word: u64, now: u64) -> u64 {
    let ahead = word.wrapping_sub(now) & TIME;
    if ahead > TIME / 2 { 0 } else { ahead }
}

/// A rate for each key.
#[derive(Debug)]
pub struct Rates(Box<[AtomicU64]>);

impl Rates {
    pub(super) fn new() -> Self {
        Self(empty())
    }

    /// Takes so many times out of what a key may do.
    ///
    /// # Errors
    /// After how many nanoseconds to try again.
    pub fn take(&self, hash: u64, rate: Rate, times: u32, now_ns: u64) -> Result<(), u64> {
        let tag = (hash & (u64::MAX >> TIME_BITS)).max(1);
        let now = now_ns >> UNIT_BITS & TIME;
        let set = set(&self.0, hash);
        let word = |entry: &AtomicU64| entry.load(Ordering::Relaxed);
        let own = set.iter().find(|entry| word(entry) >> TIME_BITS == tag);
        let free = || set.iter().find(|entry| ahead(word(entry), now) == 0);
        match own.or_else(free) {
            Some(entry) => take(entry, tag, rate, times, now_ns),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const MS: u64 = 1_000_000;

    /// As many keys as give each set about half of what it holds.
    fn keys() -> impl Iterator<Item = u64> {
        (1..=(SETS * WAYS / 2) as u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[test]
    fn counts_are_exact_and_entries_come_back() {
        let counts = Counts::new();
        for round in 0..3 {
            let mut entered = HashMap::new();
            for key in keys() {
                let got: Vec<_> = (0..3).map(|_| counts.enter(key, 2)).collect();
                if got[0] == Entered::NoRoom {
                    continue;
                }
                assert_eq!(got, [Entered::Counted, Entered::Counted, Entered::Full]);
                assert_eq!(counts.count(key), 2);
                entered.insert(key, 2);
            }
            assert!(entered.len() * 100 > keys().count() * 99, "nearly all have an entry");
            for key in entered.keys() {
                counts.leave(*key);
                counts.leave(*key);
                assert_eq!(counts.count(*key), 0, "round {round}");
            }
        }
    }

    #[test]
    fn a_limit_holds_whoever_asks_at_once() {
        let counts = Counts::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if counts.enter(7 << 48, 3) == Entered::Counted {
                            assert!(counts.count(7 << 48) <= 3 + 4, "the late ones step back");
                            counts.leave(7 << 48);
                        }
                    }
                });
            }
        });
        assert_eq!(counts.count(7 << 48), 0);
    }

    #[test]
    fn a_rate_gives_its_burst_then_its_pace() {
        let rates = Rates::new();
        let rate = Rate { a_second: 100, burst: 20 };
        let start = 17 * 1_000_000 * MS;
        let at_once = (0..100).filter(|_| rates.take(5, rate, 1, start).is_ok()).count();
        assert_eq!(at_once, 20);
        let wait_ns = rates.take(5, rate, 1, start).unwrap_err();
        assert!((9 * MS..=11 * MS).contains(&wait_ns), "{wait_ns}");
        let later = (0..1000).filter(|ms| rates.take(5, rate, 1, start + ms * MS).is_ok()).count();
        assert!((98..=101).contains(&later), "{later}");
        assert!(rates.take(6, rate, 20, start).is_ok(), "another's is untouched");
        assert!(rates.take(6, rate, 21, start + 60_000 * MS).is_err(), "never more than a burst");
    }

    #[test]
    fn entries_of_those_at_rest_are_given_to_others() {
        let rates = Rates::new();
        let rate = Rate::a_second(1);
        for key in 1..=200u64 {
            let now_ns = key * 2000 * MS;
            assert!(rates.take(key, rate, 1, now_ns).is_ok());
            assert!(rates.take(key, rate, 1, now_ns).is_err(), "it had an entry");
        }
    }
}

//! Lock-free tables of fixed size, written by all shards: each entry is one atomic word.
//!
//! A key's hash selects a set of sixteen entries and a tag that identifies it in the set. Two keys
//! with the same set and tag share an entry: with a tag of 40 bits (counts) the probability is 1 in
//! 60 billion for each pair, with 31 bits (rates) 1 in 2 billion, and then two clients share one
//! limit. The hash's key is secret, so no client can aim at another's entry. If all sixteen are in
//! use, a new key is not counted: a client with that many addresses cannot be limited by address,
//! and rejecting it would let it lock out all others.
//!
//! A key without an entry claims a free one. Only one shard at a time claims in a set, so that a
//! key gets one entry even if two shards see it first at once; updates of existing entries need no
//! claim.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portable_atomic::AtomicU128;
use zerocopy::FromZeros;

use super::rate::{self, EARNED_BITS, Earned, Rate};

const SETS: usize = 8192;
const WAYS: usize = 16;
/// Retries while another shard claims an entry of the same set. A claim takes some tens of
/// instructions; it lasts longer only if its thread was suspended.
const CLAIM_TRIES: u32 = 128;
/// From this retry on, yield the processor to the suspended thread.
const CLAIM_YIELD: u32 = 64;

fn set_index(hash: u64) -> usize {
    (hash >> 48) as usize % SETS
}

fn ways_of<T>(table: &[T], hash: u64) -> &[T] {
    let start = set_index(hash) * WAYS;
    &table[start..start + WAYS]
}

/// Waits for the end of another shard's claim.
fn await_claim(tries: u32) {
    if tries < CLAIM_YIELD {
        hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// The locks for claims, one per set.
#[derive(Debug)]
struct Claims(Box<[AtomicBool]>);

/// A held lock; its drop releases it.
struct Claim<'c>(&'c AtomicBool);

impl Claims {
    fn new() -> Self {
        Self((0..SETS).map(|_| AtomicBool::new(false)).collect())
    }

    fn try_claim(&self, hash: u64) -> Option<Claim<'_>> {
        let taken = &self.0[set_index(hash)];
        let free = taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        free.is_ok().then(|| Claim(taken))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The outcome of an attempt to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    Counted,
    /// The limit is reached.
    Full,
    /// The table has no free entry for the key.
    NoRoom,
}

const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Connection counts by key.
#[derive(Debug)]
pub struct Counts {
    entries: Box<[AtomicU64]>,
    claims: Claims,
}

impl Counts {
    pub(super) fn new() -> Self {
        let entries = <[AtomicU64]>::new_box_zeroed_with_elems(SETS * WAYS);
        Self { entries: entries.expect("a megabyte can be allocated"), claims: Claims::new() }
    }

    fn tag(hash: u64) -> u64 {
        (hash << COUNT_BITS).max(1 << COUNT_BITS)
    }

    /// The key's count.
    pub fn count(&self, hash: u64) -> u32 {
        self.find(hash).map_or(0, |(_, word)| (word & COUNT) as u32)
    }

    /// The key's entry, and its word. A new client's key has none, and all are compared: one
    /// comparison for each, because the words with its tag and a count above 0 are consecutive.
    fn find(&self, hash: u64) -> Option<(&AtomicU64, u64)> {
        let least = Self::tag(hash) + 1;
        ways_of(&self.entries, hash).iter().find_map(|entry| {
            let word = entry.load(Ordering::Acquire);
            (word.wrapping_sub(least) < COUNT).then_some((entry, word))
        })
    }

    /// Adds one, unless the count is `most` (0 = no limit).
    ///
    /// Exact: a key has one entry, and one atomic instruction compares with the limit and
    /// increments. If two threads enter at `most - 1` at once, one is counted.
    pub fn increment(&self, hash: u64, most: u32) -> Entered {
        let unlimited = most == 0;
        let most = if unlimited { COUNT } else { u64::from(most).min(COUNT) };
        for tries in 0..CLAIM_TRIES {
            if let Some(entered) = self.enter_own(hash, most) {
                return entered;
            }
            // Touch the entry now: a page fault, which may take 100 us, must not happen during the
            // claim.
            ways_of(&self.entries, hash)[0].fetch_or(0, Ordering::Relaxed);
            let Some(_claim) = self.claims.try_claim(hash) else {
                await_claim(tries);
                continue;
            };
            // Another shard may have claimed an entry for this key meanwhile.
            if let Some(entered) = self.enter_own(hash, most) {
                return entered;
            }
            let free = ways_of(&self.entries, hash).iter().find(|entry| {
                let word = entry.load(Ordering::Acquire);
                let next = Self::tag(hash) | 1;
                word & COUNT == 0
                    && entry
                        .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
            });
            return if free.is_some() { Entered::Counted } else { Entered::NoRoom };
        }
        // The thread that holds this set's claim is suspended.
        if unlimited { Entered::NoRoom } else { Entered::Full }
    }

    /// Increments the key's entry; `None` if it has none.
    fn enter_own(&self, hash: u64, most: u64) -> Option<Entered> {
        loop {
            let (entry, word) = self.find(hash)?;
            if word & COUNT >= most {
                return Some(Entered::Full);
            }
            let swapped =
                entry.compare_exchange(word, word + 1, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                return Some(Entered::Counted);
            }
        }
    }

    /// Subtracts one.
    pub fn decrement(&self, hash: u64) {
        let tag = Self::tag(hash);
        for entry in ways_of(&self.entries, hash) {
            let less = entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & !COUNT == tag && word & COUNT > 0).then(|| word - 1)
            });
            if less.is_ok() {
                return;
            }
        }
        debug_assert!(false, "only a counted key leaves");
    }
}

/// One rate, without keys.
#[derive(Debug, Default)]
pub(super) struct SharedRate(AtomicU128);

impl SharedRate {
    /// See [`Rates::take_tokens`].
    pub(super) fn take_tokens(&self, rate: Rate, times: u32, now_ns: u64) -> Result<(), u64> {
        let mut after_ns = 0;
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |earned| {
            rate.take_tokens(earned, times, now_ns).map_err(|ns| after_ns = ns).ok()
        });
        taken.map(|_| ()).map_err(|_| after_ns)
    }
}

/// Rates by key: an [`Earned`] below a tag of 31 bits.
#[derive(Debug)]
pub struct Rates {
    entries: Box<[AtomicU128]>,
    claims: Claims,
}

const EARNED: Earned = (1 << EARNED_BITS) - 1;

impl Rates {
    pub(super) fn new() -> Self {
        let entries = (0..SETS * WAYS).map(|_| AtomicU128::new(0)).collect();
        Self { entries, claims: Claims::new() }
    }

    /// Takes `times` from the key's rate.
    ///
    /// # Errors
    /// Time until a retry can succeed (ns).
    pub fn take_tokens(&self, hash: u64, rate: Rate, times: u32, now_ns: u64) -> Result<(), u64> {
        let tag = (u128::from(hash) << EARNED_BITS).max(1 << EARNED_BITS);
        for tries in 0..CLAIM_TRIES {
            if let Some(taken) = self.take_own(hash, tag, rate, times, now_ns) {
                return taken;
            }
            // Touch the entry now: a page fault, which may take 100 us, must not happen during the
            // claim.
            ways_of(&self.entries, hash)[0].fetch_or(0, Ordering::Relaxed);
            let Some(_claim) = self.claims.try_claim(hash) else {
                await_claim(tries);
                continue;
            };
            // Another shard may have claimed an entry for this key meanwhile.
            if let Some(taken) = self.take_own(hash, tag, rate, times, now_ns) {
                return taken;
            }
            let earned = rate.take_tokens(0, times, now_ns)?;
            // An entry at rest is as good as none. Its key may use it meanwhile: then the exchange
            // fails, and the next one is tried. With none free, the key is not limited.
            let _ = ways_of(&self.entries, hash).iter().find(|entry| {
                let word = entry.load(Ordering::Acquire);
                let (before, after) = (Ordering::AcqRel, Ordering::Relaxed);
                rate::is_at_rest(word & EARNED, now_ns)
                    && entry.compare_exchange(word, tag | earned, before, after).is_ok()
            });
            return Ok(());
        }
        // The thread that holds this set's claim is suspended. Passing uncounted would break the
        // limit, so wait.
        Err(1)
    }

    /// Takes from the key's entry; `None` if it has none.
    fn take_own(
        &self,
        hash: u64,
        tag: u128,
        rate: Rate,
        times: u32,
        now_ns: u64,
    ) -> Option<Result<(), u64>> {
        loop {
            let mut words = ways_of(&self.entries, hash)
                .iter()
                .map(|entry| (entry, entry.load(Ordering::Acquire)));
            let (entry, word) = words.find(|(_, word)| word & !EARNED == tag)?;
            let earned = match rate.take_tokens(word & EARNED, times, now_ns) {
                Ok(earned) => earned,
                Err(after_ns) => return Some(Err(after_ns)),
            };
            let (before, after) = (Ordering::AcqRel, Ordering::Relaxed);
            if entry.compare_exchange(word, tag | earned, before, after).is_ok() {
                return Some(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::rate::model;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const MS: u64 = 1_000_000;

    /// As many keys as fill each set to about half.
    fn many_keys() -> impl Iterator<Item = u64> {
        (1..=(SETS * WAYS / 2) as u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[test]
    fn counts_are_exact_and_entries_come_back() {
        let counts = Counts::new();
        for round in 0..3 {
            let mut entered = HashMap::new();
            for key in many_keys() {
                let got: Vec<_> = (0..3).map(|_| counts.increment(key, 2)).collect();
                if got[0] == Entered::NoRoom {
                    continue;
                }
                assert_eq!(got, [Entered::Counted, Entered::Counted, Entered::Full]);
                assert_eq!(counts.count(key), 2);
                entered.insert(key, 2);
            }
            assert!(entered.len() * 100 > many_keys().count() * 99, "nearly all have an entry");
            for key in entered.keys() {
                counts.decrement(*key);
                counts.decrement(*key);
                assert_eq!(counts.count(*key), 0, "round {round}");
            }
        }
    }

    #[test]
    fn a_limit_is_exact_for_many_threads() {
        use std::sync::atomic::AtomicU32;
        let (counts, inside) = (Counts::new(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if counts.increment(7 << 48, 3) == Entered::Counted {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "above the limit");
                            inside.fetch_sub(1, Ordering::SeqCst);
                            counts.decrement(7 << 48);
                        }
                    }
                });
            }
        });
        assert_eq!(counts.count(7 << 48), 0);
    }

    /// Two threads enter at once where one place is free, also as the first of their key: one is
    /// counted, in every round.
    #[test]
    fn of_two_that_enter_at_once_one_is_counted() {
        use std::sync::Barrier;
        let (counts, barrier) = (Counts::new(), Barrier::new(2));
        for most in 1..=2_u32 {
            let race = |_: u32| {
                (0..3_000_u64).map(|round| {
                    let key = round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    barrier.wait();
                    if barrier.wait().is_leader() && most == 2 {
                        assert_eq!(counts.increment(key, most), Entered::Counted);
                    }
                    barrier.wait();
                    let entered = counts.increment(key, most);
                    barrier.wait();
                    entered
                })
            };
            let (one, other) = std::thread::scope(|scope| {
                let one = scope.spawn(|| race(0).collect::<Vec<_>>());
                let other = scope.spawn(|| race(1).collect::<Vec<_>>());
                (one.join().unwrap(), other.join().unwrap())
            });
            for (round, pair) in one.into_iter().zip(other).enumerate() {
                let counted = [pair.0, pair.1].map(|one| u32::from(one == Entered::Counted));
                assert_eq!(counted.iter().sum::<u32>(), 1, "round {round}: {pair:?}");
                let key = (round as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                (0..most).for_each(|_| counts.decrement(key));
            }
        }
    }

    #[test]
    fn a_rate_passes_its_burst_then_its_pace() {
        let rates = Rates::new();
        let rate = Rate { per_second: 100, burst: 20 };
        let start = 17 * 1_000_000 * MS;
        let at_once = (0..100).filter(|_| rates.take_tokens(5, rate, 1, start).is_ok()).count();
        assert_eq!(at_once, 20);
        assert_eq!(rates.take_tokens(5, rate, 1, start), Err(10 * MS));
        let later =
            (0..=1000).filter(|ms| rates.take_tokens(5, rate, 1, start + ms * MS).is_ok()).count();
        assert_eq!(later, 100);
        assert!(rates.take_tokens(6, rate, 20, start).is_ok(), "another key is unaffected");
        assert!(rates.take_tokens(7, rate, 20, start).is_ok());
        assert!(rates.take_tokens(7, rate, 1, start).is_err(), "never more than a burst");
    }

    #[test]
    fn entries_at_rest_are_reused() {
        let rates = Rates::new();
        let rate = Rate::with_burst_of_a_second(1);
        for key in 1..=200u64 {
            let now_ns = key * 2000 * MS;
            assert!(rates.take_tokens(key, rate, 1, now_ns).is_ok());
            assert!(rates.take_tokens(key, rate, 1, now_ns).is_err(), "it had an entry");
        }
    }

    /// Threads use new keys at once, while entries come to rest and are claimed again.
    #[test]
    fn a_key_has_one_burst_for_all_threads() {
        use std::sync::atomic::AtomicU32;
        const KEYS: u64 = 40;
        let rates = Rates::new();
        let rate = Rate { per_second: 1, burst: 5 };
        for round in 1..=300_u64 {
            let passed: Vec<_> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (rates, passed) = (&rates, &passed);
                    scope.spawn(move || {
                        // Eight keys share each set, less than an entry each.
                        for key in (0..KEYS).cycle().skip(thread * 7).take(KEYS as usize * 8) {
                            let hash = ((key % 5) << 48) | (key + round * KEYS + 1);
                            if rates.take_tokens(hash, rate, 1, round * 3_600_000 * MS).is_ok() {
                                passed[key as usize].fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            for (key, passed) in passed.iter().enumerate() {
                assert!(passed.load(Ordering::Relaxed) <= 5, "key {key} in round {round}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Few keys in one set, a random one at a time: each is limited as if it were alone, also
        /// after months.
        #[test]
        fn each_key_is_limited_by_the_law(
            per_second in model::rates(),
            burst in 1..5_000_u64,
            start in model::starts(),
            steps in prop::collection::vec((model::pauses(), 0..4_u64, 1..2_000_u32), 1..120),
        ) {
            let (rates, rate) = (Rates::new(), Rate { per_second, burst });
            let mut passed: HashMap<u64, model::Passed> = HashMap::new();
            let mut now_ns = start;
            for (pause_ns, key, times) in steps {
                now_ns = now_ns.saturating_add(pause_ns);
                let times = times.min(burst as u32);
                let taken = rates.take_tokens(9 << 48 | (key + 1), rate, times, now_ns);
                let own = passed.entry(key).or_default();
                prop_assert_eq!(taken.is_ok(), own.allows((per_second, burst), times, now_ns));
                if taken.is_ok() {
                    own.note(times, now_ns);
                }
            }
        }

        #[test]
        fn the_shared_rate_is_limited_by_the_law(
            per_second in model::rates(),
            start in model::starts(),
            steps in prop::collection::vec(model::pauses(), 1..80),
        ) {
            let rate = Rate::with_burst_of_a_second(per_second);
            let (word, mut passed, mut now_ns) =
                (SharedRate::default(), model::Passed::default(), start);
            for pause_ns in steps {
                now_ns = now_ns.saturating_add(pause_ns);
                let allowed = passed.allows((per_second, per_second.into()), 1, now_ns);
                prop_assert_eq!(word.take_tokens(rate, 1, now_ns).is_ok(), allowed);
                if allowed {
                    passed.note(1, now_ns);
                }
            }
        }
    }
}

//! The calculation behind every rate limiter.
//!
//! **Law.** In any interval of `T` seconds, the sum of what passes a limiter is at most `per_second
//! × T + burst`; a request larger than the burst passes only after a full rest, and counts as one
//! burst. The law holds for any sizes, because nothing is rounded, and for any clock values,
//! because nothing wraps. Conversely, everything that the law permits passes.
//!
//! A limiter stores one number, [`Earned`]: the time at which everything taken so far is earned at
//! the configured rate. A limiter at rest has a time in the past, however distant, so zero is a new
//! limiter.

const NS_PER_SECOND: u128 = 1_000_000_000;
/// The longest possible burst (ns): 292 years.
const BURST_NS_MAX: u128 = 1 << 63;

/// A limiter's state, see the module: nanoseconds, and in the low 32 bits a fraction in units of
/// 1/`per_second` ns.
pub type Earned = u128;

const FRACTION_BITS: u32 = 32;
const FRACTION: u128 = (1 << FRACTION_BITS) - 1;
/// Bits of an [`Earned`]: 2^64 for the present, 2^63 for a burst, 2^62 for the cost of `u32::MAX`
/// at one per second, and the fraction.
pub const EARNED_BITS: u32 = 65 + FRACTION_BITS;

/// A rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Never 0.
    pub per_second: u32,
    /// Burst after a rest.
    pub burst: u64,
}

impl Rate {
    /// A burst of one second.
    pub fn with_burst_of_a_second(per_second: u32) -> Self {
        Self { per_second, burst: per_second.into() }
    }

    /// Takes `times` at once, and returns the limiter's new state.
    ///
    /// # Errors
    /// If it exceeds the rate now: the time until it would pass (ns), at least 1.
    #[inline]
    pub fn take_tokens(self, earned: Earned, times: u32, now_ns: u64) -> Result<Earned, u64> {
        // Count in units of 1/`per_second` ns: one time costs 10^9 of them.
        let parts = u128::from(self.per_second);
        let now = u128::from(now_ns) * parts;
        let next = self.earned_parts(earned).max(now) + u128::from(times) * NS_PER_SECOND;
        let burst = u128::from(self.burst.max(times.into())) * NS_PER_SECOND;
        let most = now + burst.min(BURST_NS_MAX * parts);
        if next > most {
            return Err(to_u64((next - most).div_ceil(parts)));
        }
        Ok(((next / parts) << FRACTION_BITS) | (next % parts))
    }

    fn earned_parts(self, earned: Earned) -> u128 {
        let (ns, fraction) = (earned >> FRACTION_BITS, earned & FRACTION);
        // After a reload from a higher rate the fraction may be too large; the error is below 1 ns.
        let fraction = fraction.min(self.per_second.into());
        ns * u128::from(self.per_second) + fraction
    }
}

/// Whether everything taken is earned, so that the state equals a new one.
pub fn is_at_rest(earned: Earned, now_ns: u64) -> bool {
    earned <= u128::from(now_ns) << FRACTION_BITS
}

/// Time until a limiter is at rest (ns), rounded up.
pub fn owed_ns(earned: Earned, now_ns: u64) -> u64 {
    let owed = earned.saturating_sub(u128::from(now_ns) << FRACTION_BITS);
    to_u64(owed.div_ceil(1 << FRACTION_BITS))
}

/// The state of a limiter that owes this much time.
pub fn from_owed(owed_ns: u64, now_ns: u64) -> Earned {
    (u128::from(now_ns) + u128::from(owed_ns)) << FRACTION_BITS
}

fn to_u64(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// A naive limiter to compare with, and times to test.
#[cfg(test)]
pub(super) mod model {
    use proptest::prelude::*;

    /// Everything that passed, and when.
    #[derive(Debug, Default)]
    pub(in crate::admission) struct Passed(Vec<(u64, u32)>);

    impl Passed {
        /// Whether the law would still hold if `times` passed now; checks every interval.
        pub(in crate::admission) fn allows(
            &self,
            (per_second, burst): (u32, u64),
            times: u32,
            now_ns: u64,
        ) -> bool {
            let (mut sum, mut largest) = (0, 0);
            let mut newest_first =
                [(now_ns, times)].into_iter().chain(self.0.iter().copied().rev());
            newest_first.all(|(at_ns, times)| {
                sum += u128::from(times);
                largest = largest.max(times);
                let earned = u128::from(now_ns - at_ns) * u128::from(per_second);
                let burst = u128::from(burst.max(largest.into())) * 1_000_000_000;
                sum * 1_000_000_000 <= earned + burst
            })
        }

        pub(in crate::admission) fn note(&mut self, times: u32, now_ns: u64) {
            self.0.push((now_ns, times));
        }
    }

    /// Times around those at which a stored time of any width and unit would wrap.
    pub(in crate::admission) fn starts() -> impl Strategy<Value = u64> {
        let near = |(bit, by): (u32, i64)| (1_u64 << bit).saturating_add_signed(by * 300_000_001);
        prop_oneof![
            1 => Just(0),
            6 => (20..64_u32, -3_i64..3).prop_map(near),
            1 => 0..u64::MAX,
            1 => Just(u64::MAX - (1 << 50)),
        ]
    }

    /// Pauses between attempts: short ones, and months.
    pub(in crate::admission) fn pauses() -> impl Strategy<Value = u64> {
        const DAY_NS: u64 = 24 * 3_600 * 1_000_000_000;
        prop_oneof![
            8 => 0..50_u64,
            8 => 0..2_000_000_u64,
            4 => 0..3_000_000_000_u64,
            1 => (90..400_u64).prop_map(|days| days * DAY_NS),
        ]
    }

    /// Rates from one per second to the highest.
    pub(in crate::admission) fn rates() -> impl Strategy<Value = u32> {
        prop_oneof![1..200_u32, 1_000..2_000_000_u32, u32::MAX - 3..=u32::MAX]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Exactly what the law permits passes, and waits are as short as possible.
        #[test]
        fn the_law_decides_for_any_sizes_and_times(
            per_second in model::rates(),
            burst in prop_oneof![1..100_u64, 1..u64::from(u32::MAX) * 4_294_967],
            start in model::starts(),
            largest in prop_oneof![Just(2_u32), Just(3_000), Just(u32::MAX)],
            steps in prop::collection::vec((model::pauses(), any::<u32>()), 1..80),
        ) {
            // The longest burst that can be configured is `u32::MAX` milliseconds.
            let burst = burst.min(u64::from(per_second) * 4_294_967);
            let rate = Rate { per_second, burst };
            let (mut earned, mut now_ns, mut passed) = (0, start, model::Passed::default());
            for (pause_ns, times) in steps {
                now_ns = now_ns.saturating_add(pause_ns);
                let times = (times % largest).min(burst.min(u32::MAX.into()) as u32);
                let taken = rate.take_tokens(earned, times, now_ns);
                prop_assert_eq!(taken.is_ok(), passed.allows((per_second, burst), times, now_ns));
                match taken {
                    Ok(next) => {
                        prop_assert!(next < 1 << EARNED_BITS);
                        earned = next;
                        passed.note(times, now_ns);
                    }
                    Err(after_ns) => {
                        let later_ns = |ns| now_ns.saturating_add(ns);
                        let then = |ns| rate.take_tokens(earned, times, later_ns(ns)).is_ok();
                        prop_assert!(!then(after_ns - 1));
                        prop_assert!(then(after_ns) || now_ns.checked_add(after_ns).is_none());
                    }
                }
            }
        }

        /// A request larger than the burst passes only after a rest, and is paid for.
        #[test]
        fn a_request_larger_than_the_burst_is_paid_for(
            per_second in model::rates(),
            start in model::starts(),
            times in 2_u32..,
        ) {
            let rate = Rate { per_second, burst: 1 };
            let spent = rate.take_tokens(0, times, start).expect("after a rest");
            let wait_ns = rate.take_tokens(spent, 1, start).unwrap_err();
            let pace_ns = u128::from(times) * 1_000_000_000 / u128::from(per_second);
            prop_assert!(u128::from(wait_ns).abs_diff(pace_ns) <= 1);
        }
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let slowest = Rate { per_second: 1, burst: u64::MAX };
        let mut earned = 0;
        while let Ok(next) = slowest.take_tokens(earned, u32::MAX, u64::MAX) {
            assert!(next < 1 << EARNED_BITS);
            earned = next;
        }
        let strict = Rate { per_second: 1, burst: 1 };
        let earned = strict.take_tokens(0, u32::MAX, u64::MAX).unwrap();
        assert!(
            strict.take_tokens(earned, 1, u64::MAX).is_err(),
            "the end of time passes nothing for free"
        );
        assert_eq!(owed_ns(from_owed(5, 7), 7), 5);
    }

    #[test]
    fn another_rate_keeps_what_is_owed() {
        let (fast, slow) = (Rate { per_second: 4_000_000_007, burst: 4_000_000_007 }, 3);
        let earned = fast.take_tokens(0, 4_000_000_001, 1_000).unwrap();
        let slow = Rate { per_second: slow, burst: 1 };
        let wait_ns = slow.take_tokens(earned, 1, 1_000).unwrap_err();
        assert!((999_999_990..=1_000_000_000).contains(&wait_ns), "{wait_ns}");
    }
}

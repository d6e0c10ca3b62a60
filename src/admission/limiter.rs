//! Rate limits of one connection, and of its user on all connections together.

use super::Admission;
use super::rate::{self, Earned, Rate};

/// The kinds of limited work, in the order of the users' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateKind {
    Messages,
    /// Message count.
    Bytes,
    Subscribes,
    Publishes,
    /// Reads of histories and member lists.
    Reads,
}

impl RateKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 5] =
        [Self::Messages, Self::Bytes, Self::Subscribes, Self::Publishes, Self::Reads];

    /// Name in text, as in "too many …".
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Subscribes => "subscribes",
            Self::Publishes => "publishes",
            Self::Reads => "reads",
        }
    }
}

/// What happens to messages above a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Excess {
    /// They are dropped silently.
    Drop,
    /// They are answered with an error.
    #[default]
    Error,
    /// The connection is closed with 4429.
    Close,
}

/// Limits of one kind, per second; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateBound {
    pub connection: u32,
    pub user: u32,
}

/// Rate limits by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateBounds {
    pub kinds: [RateBound; RateKind::ALL.len()],
    /// Burst after a rest, as the time in which the rate would allow it (ms).
    pub burst_ms: u32,
    pub excess: Excess,
}

impl RateBounds {
    /// Whether any of these kinds is limited.
    pub fn has_bounds(&self, kinds: &[RateKind]) -> bool {
        kinds.iter().any(|kind| self.kinds[*kind as usize] != RateBound::default())
    }

    /// The rate of this many per second, with the configured burst.
    fn make_rate(&self, per_second: u32) -> Rate {
        let burst = u64::from(per_second) * u64::from(self.burst_ms) / 1000;
        Rate { per_second, burst: burst.max(1) }
    }
}

/// The budgets of a connection as plain data: the time owed by each (ns).
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct LimiterState([u64; RateKind::ALL.len()]);

impl LimiterState {
    /// Restores the budgets.
    pub fn restore(&self, now_ns: u64) -> Limiter {
        Limiter { budgets: self.0.map(|owed_ns| rate::from_owed(owed_ns, now_ns)) }
    }
}

/// The budgets of a connection, one per kind.
#[derive(Debug, Default)]
pub struct Limiter {
    budgets: [Earned; RateKind::ALL.len()],
}

impl Limiter {
    /// Serializes the budgets.
    pub fn serialize(&self, now_ns: u64) -> LimiterState {
        LimiterState(self.budgets.map(|earned| rate::owed_ns(earned, now_ns)))
    }

    /// Takes `times` of a kind from the budgets of the connection and its user.
    ///
    /// # Errors
    /// Milliseconds until a retry can succeed, at least 1, if a rate is exceeded. Then nothing was
    /// taken.
    pub fn take_tokens(
        &mut self,
        bounds: &RateBounds,
        kind: RateKind,
        times: u32,
        user: Option<(&str, &Admission)>,
        now_ns: u64,
    ) -> Result<(), u64> {
        let bound = bounds.kinds[kind as usize];
        let budget = &mut self.budgets[kind as usize];
        let ms = |ns: u64| ns.div_ceil(1_000_000).max(1);
        let mut earned = *budget;
        if bound.connection > 0 {
            earned = bounds
                .make_rate(bound.connection)
                .take_tokens(earned, times, now_ns)
                .map_err(ms)?;
        }
        if let (Some((user, admission)), 1..) = (user, bound.user) {
            let rate = bounds.make_rate(bound.user);
            admission.take_from_user(kind, user, rate, times, now_ns).map_err(ms)?;
        }
        *budget = earned;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::rate::model;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn rate_bounds(connection: u32, user: u32) -> RateBounds {
        let bound = RateBound { connection, user };
        RateBounds { kinds: [bound; RateKind::ALL.len()], burst_ms: 1000, excess: Excess::Error }
    }

    fn count_passed(
        limiter: &mut Limiter,
        bounds: &RateBounds,
        admission: &Admission,
        ms: u64,
    ) -> usize {
        (0..1000)
            .filter(|_| {
                let taken = limiter.take_tokens(
                    bounds,
                    RateKind::Messages,
                    1,
                    Some(("u", admission)),
                    ms * MS,
                );
                taken.is_ok()
            })
            .count()
    }

    #[test]
    fn a_connection_has_its_burst_then_its_rate() {
        let (admission, bounds) = (Admission::default(), rate_bounds(50, 0));
        let mut limiter = Limiter::default();
        assert_eq!(count_passed(&mut limiter, &bounds, &admission, 5), 50);
        assert_eq!(count_passed(&mut limiter, &bounds, &admission, 5), 0);
        assert_eq!(count_passed(&mut limiter, &bounds, &admission, 105), 5);
        assert_eq!(count_passed(&mut limiter, &bounds, &admission, 60_000), 50);
    }

    #[test]
    fn a_user_has_one_budget_on_all_connections() {
        let (admission, bounds) = (Admission::default(), rate_bounds(0, 160));
        let mut limiters: Vec<_> = (0..4).map(|_| Limiter::default()).collect();
        let mut passed = 0;
        for _ in 0..200 {
            for limiter in &mut limiters {
                let taken =
                    limiter.take_tokens(&bounds, RateKind::Messages, 1, Some(("u", &admission)), 0);
                passed += u32::from(taken.is_ok());
            }
        }
        assert_eq!(passed, 160, "exactly the burst");
        let other =
            limiters[0].take_tokens(&bounds, RateKind::Publishes, 1, Some(("u", &admission)), 0);
        assert!(other.is_ok(), "each kind has a budget of its own");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Connections of one user open, rest and close: together they pass what the law allows.
        #[test]
        fn all_connections_of_a_user_are_limited_together(
            (rate, own) in (model::rates(), prop_oneof![Just(0), model::rates()]),
            burst_ms in prop_oneof![Just(0_u32), 1..5_000_u32, Just(u32::MAX)],
            start in model::starts(),
            steps in prop::collection::vec((model::pauses(), 0..8_usize, 1..3_000_u32), 1..100),
        ) {
            let admission = Admission::default();
            let bound = RateBound { connection: own, user: rate };
            let kinds = [bound; RateKind::ALL.len()];
            let bounds = RateBounds { kinds, burst_ms, excess: Excess::Drop };
            let burst = |rate: u32| (u64::from(rate) * u64::from(burst_ms) / 1000).max(1);
            let mut limiters: Vec<_> = (0..8).map(|_| Limiter::default()).collect();
            let mut passed: Vec<_> = (0..8).map(|_| model::Passed::default()).collect();
            let (mut of_user, mut now_ns) = (model::Passed::default(), start);
            for (pause_ns, which, times) in steps {
                now_ns = now_ns.saturating_add(pause_ns);
                let least = if own > 0 { burst(own).min(burst(rate)) } else { burst(rate) };
                let times = u64::from(times).min(least) as u32;
                if pause_ns % 16 == 3 {
                    (limiters[which], passed[which]) = Default::default();
                }
                let user = Some(("u", &admission));
                let limiter = &mut limiters[which];
                let taken =
                    limiter.take_tokens(&bounds, RateKind::Bytes, times, user, now_ns).is_ok();
                let allowed = of_user.allows((rate, burst(rate)), times, now_ns)
                    && (own == 0 || passed[which].allows((own, burst(own)), times, now_ns));
                prop_assert_eq!(taken, allowed);
                if taken {
                    of_user.note(times, now_ns);
                    passed[which].note(times, now_ns);
                }
            }
        }
    }

    #[test]
    fn one_message_above_the_burst_may_come_after_a_rest() {
        let (admission, bounds) = (Admission::default(), rate_bounds(1000, 1000));
        let mut limiter = Limiter::default();
        let mut take = |ms: u64| {
            limiter.take_tokens(&bounds, RateKind::Bytes, 5000, Some(("u", &admission)), ms * MS)
        };
        assert_eq!(take(0), Ok(()));
        let wait_ms = take(1).unwrap_err();
        assert!((4_900..=5_000).contains(&wait_ms), "{wait_ms}");
        assert!(take(5_100).is_ok());
    }
}

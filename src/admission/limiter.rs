//! What one connection may do in a second, and its user on all connections together.

use super::Admission;
use super::tables::Rate;

/// What is limited, in the order of the tables of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Messages,
    /// Of messages.
    Bytes,
    Subscribes,
    Publishes,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Messages, Self::Bytes, Self::Subscribes, Self::Publishes];

    /// In words, as in "too many …".
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Subscribes => "subscribes",
            Self::Publishes => "publishes",
        }
    }
}

/// What happens to what is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Excess {
    /// It is dropped without a word.
    Drop,
    /// It is answered with an error.
    #[default]
    Error,
    /// The connection is closed with 4429.
    Close,
}

/// Of one kind, in times a second; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub connection: u32,
    pub user: u32,
}

/// What may be done, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateBounds {
    pub kinds: [Bound; Kind::ALL.len()],
    /// So many seconds' worth may come at once after a rest (ms).
    pub burst_ms: u32,
    pub excess: Excess,
}

impl RateBounds {
    /// Whether any of these kinds is bounded.
    pub fn bounds(&self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.kinds[*kind as usize] != Bound::default())
    }

    fn rate(&self, a_second: u32, least: u32) -> Rate {
        let a_second = u64::from(a_second);
        let burst = a_second * u64::from(self.burst_ms) / 1000;
        Rate { a_second, burst: burst.max(least.into()).max(1) }
    }
}

/// Of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    /// When all that was taken will have been earned (ns).
    earned_ns: u64,
    /// Drawn from the user's and not used yet.
    drawn: u32,
}

/// Budgets as plain data: what is owed (ns), and what was drawn from the user's, of each kind.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct LimiterState([(u64, u32); Kind::ALL.len()]);

impl LimiterState {
    /// Budgets that go on from there.
    pub fn limiter(&self, now_ns: u64) -> Limiter {
        let budgets = self.0.map(|(owed_ns, drawn)| Budget { earned_ns: now_ns + owed_ns, drawn });
        Limiter { budgets }
    }
}

/// A connection's budgets.
#[derive(Debug, Default)]
pub struct Limiter {
    budgets: [Budget; Kind::ALL.len()],
}

impl Limiter {
    /// What is left, as plain data.
    pub fn tell(&self, now_ns: u64) -> LimiterState {
        let owed = |budget: Budget| (budget.earned_ns.saturating_sub(now_ns), budget.drawn);
        LimiterState(self.budgets.map(owed))
    }

    /// Takes so many of a kind.
    ///
    /// # Errors
    /// After how many milliseconds to try again, at least 1: it is too much now, and nothing was
    /// taken from the connection's own budget.
    pub fn take(
        &mut self,
        bounds: &RateBounds,
        kind: Kind,
        times: u32,
        user: Option<(&str, &Admission)>,
        now_ns: u64,
    ) -> Result<(), u64> {
        let bound = bounds.kinds[kind as usize];
        let budget = &mut self.budgets[kind as usize];
        let ms = |ns: u64| ns.div_ceil(1_000_000).max(1);
        let mut earned_ns = budget.earned_ns;
        if bound.connection > 0 {
            // What is larger than a burst, such as one large message, may come after a rest.
            let rate = bounds.rate(bound.connection, times);
            let cost_ns = |times: u64| times * 1_000_000_000 / rate.a_second;
            earned_ns = earned_ns.max(now_ns) + cost_ns(times.into());
            let over_ns = (earned_ns - now_ns).saturating_sub(cost_ns(rate.burst));
            if over_ns > 0 {
                return Err(ms(over_ns));
            }
        }
        if let (Some((user, admission)), 1..) = (user, bound.user)
            && budget.drawn < times
        {
            let rate = bounds.rate(bound.user, times);
            let portion = (rate.burst / 16).max(1).min(u64::from(u32::MAX)) as u32;
            let draw = |portion| admission.draw(kind as usize, user, rate, portion, now_ns);
            let missing = times - budget.drawn;
            if portion > missing && draw(portion).is_ok() {
                budget.drawn += portion;
            } else {
                draw(missing).map_err(ms)?;
                budget.drawn += missing;
            }
        }
        budget.drawn = budget.drawn.saturating_sub(times);
        budget.earned_ns = earned_ns;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn bounds(connection: u32, user: u32) -> RateBounds {
        let bound = Bound { connection, user };
        RateBounds { kinds: [bound; Kind::ALL.len()], burst_ms: 1000, excess: Excess::Error }
    }

    fn passed(limiter: &mut Limiter, bounds: &RateBounds, admission: &Admission, ms: u64) -> usize {
        (0..1000)
            .filter(|_| {
                let taken =
                    limiter.take(bounds, Kind::Messages, 1, Some(("u", admission)), ms * MS);
                taken.is_ok()
            })
            .count()
    }

    #[test]
    fn a_connection_has_its_burst_then_its_pace() {
        let (admission, bounds) = (Admission::default(), bounds(50, 0));
        let mut limiter = Limiter::default();
        assert_eq!(passed(&mut limiter, &bounds, &admission, 5), 50);
        assert_eq!(passed(&mut limiter, &bounds, &admission, 5), 0);
        assert_eq!(passed(&mut limiter, &bounds, &admission, 105), 5);
        assert_eq!(passed(&mut limiter, &bounds, &admission, 60_000), 50);
    }

    #[test]
    fn a_user_has_one_budget_on_all_connections() {
        let (admission, bounds) = (Admission::default(), bounds(0, 160));
        let mut limiters: Vec<_> = (0..4).map(|_| Limiter::default()).collect();
        let mut passed = 0;
        for _ in 0..200 {
            for limiter in &mut limiters {
                let taken = limiter.take(&bounds, Kind::Messages, 1, Some(("u", &admission)), 0);
                passed += u32::from(taken.is_ok());
            }
        }
        assert_eq!(passed, 160, "every portion drawn is used");
        let other = limiters[0].take(&bounds, Kind::Publishes, 1, Some(("u", &admission)), 0);
        assert!(other.is_ok(), "each kind has its own");
    }

    #[test]
    fn one_message_above_the_burst_may_come_after_a_rest() {
        let (admission, bounds) = (Admission::default(), bounds(1000, 1000));
        let mut limiter = Limiter::default();
        let mut take =
            |ms: u64| limiter.take(&bounds, Kind::Bytes, 5000, Some(("u", &admission)), ms * MS);
        assert_eq!(take(0), Ok(()));
        let wait_ms = take(1).unwrap_err();
        assert!((4_900..=5_000).contains(&wait_ms), "{wait_ms}");
        assert!(take(5_100).is_ok());
    }
}

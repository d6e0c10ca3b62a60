//! When a client that lost its connection reconnects.
//!
//! What it sends then, for instance a ticket, is not part of this: see `returning`.

use crate::sheet::Noise;

/// How clients of a run reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// Always after the same delay.
    Fixed { delay_ns: u64 },
    /// Full jitter: a random time up to `base * 2^attempt`, at most up to `cap`.
    Backoff { base_ns: u64, cap_ns: u64 },
}

impl Reconnect {
    /// Delay before attempt `attempt` (0 = the first after the loss). A server's `Retry-After` is a
    /// lower bound; random policies spread attempts beyond it.
    pub fn delay_ns(self, attempt: u32, retry_after_s: Option<u32>, noise: &mut Noise) -> u64 {
        let asked_ns = u64::from(retry_after_s.unwrap_or(0)) * 1_000_000_000;
        match self {
            Self::Fixed { delay_ns } => delay_ns.max(asked_ns),
            Self::Backoff { base_ns, cap_ns } => {
                let bound_ns = base_ns.saturating_mul(1 << attempt.min(40)).min(cap_ns);
                asked_ns + (noise.share() * bound_ns as f64) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn fixed_is_fixed_and_waits_as_long_as_it_is_told() {
        let policy = Reconnect::Fixed { delay_ns: SECOND };
        let mut noise = Noise::new(1);
        assert_eq!(policy.delay_ns(0, None, &mut noise), SECOND);
        assert_eq!(policy.delay_ns(9, None, &mut noise), SECOND);
        assert_eq!(policy.delay_ns(0, Some(5), &mut noise), 5 * SECOND);
    }

    #[test]
    fn backoff_doubles_its_bound_up_to_the_cap_and_spreads_evenly() {
        let policy = Reconnect::Backoff { base_ns: SECOND, cap_ns: 8 * SECOND };
        let mut noise = Noise::new(7);
        for (attempt, bound_s) in [(0, 1), (1, 2), (2, 4), (3, 8), (10, 8), (1_000, 8)] {
            let bound = bound_s * SECOND;
            let all: Vec<u64> =
                (0..2_000).map(|_| policy.delay_ns(attempt, None, &mut noise)).collect();
            assert!(all.iter().all(|delay| *delay < bound), "attempt {attempt}");
            let mean = all.iter().sum::<u64>() as f64 / 2_000.0;
            assert!((mean / bound as f64 - 0.5).abs() < 0.05, "attempt {attempt}: {mean}");
        }
        let asked = policy.delay_ns(0, Some(3), &mut noise);
        assert!((3 * SECOND..4 * SECOND).contains(&asked));
    }
}

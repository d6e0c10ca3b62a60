//! The pace of moves: so many a second, over all shards.

use crate::shard::connections::TICK_MS;

/// Credit for the time since the last use adds up for at most so long (ticks).
const TICKS_MAX: u32 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Thousandths of a move that are allowed now.
    credit: u64,
    tick: u32,
}

impl Pace {
    /// Returns whether another move is allowed, and counts it. `per_second` is the number for all
    /// shards together.
    pub(super) fn take(&mut self, tick: u32, per_second: u32, shards: usize) -> bool {
        let per_tick = u64::from(per_second) * TICK_MS / shards.max(1) as u64;
        let passed = tick.wrapping_sub(self.tick).min(TICKS_MAX);
        if passed > 0 {
            self.tick = tick;
            // One move must fit in, however slow the pace.
            let most = (per_tick * u64::from(TICKS_MAX)).max(1000);
            self.credit = (self.credit + per_tick * u64::from(passed)).min(most);
        }
        let is_allowed = self.credit >= 1000;
        if is_allowed {
            self.credit -= 1000;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(per_second: u32, shards: usize, ticks: u32) -> u32 {
        let mut pace = Pace::default();
        let each = |tick| std::iter::repeat_n(tick, 10_000);
        let all = (1..=ticks).flat_map(each);
        all.filter(|tick| pace.take(*tick, per_second, shards)).count() as u32
    }

    #[test]
    fn the_pace_holds_for_few_and_for_many() {
        for (per_second, shards) in [(1, 1), (1, 4), (10, 4), (1_000, 2), (20_000, 1), (0, 1)] {
            let seconds = 20;
            let ticks = seconds * 1000 / TICK_MS as u32;
            let wanted = per_second * seconds / shards;
            let made = moves(per_second, shards as usize, ticks);
            let slack = (per_second / 5).max(1);
            assert!(made.abs_diff(wanted) <= slack, "{made} of {wanted} at {per_second}/{shards}");
        }
    }
}

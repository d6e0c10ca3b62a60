//! Decides how many receive buffers are published.
//!
//! With too few, receives starve; with too many, they no longer fit the caches, and other
//! connections wait behind their bytes. So the target doubles while receives starve, halves in
//! quiet periods, and stays within [`PUBLISHED_BYTES`] of expected input.
//!
//! Measured without that limit: a few connections that sent 40 KB at a time had all buffers
//! published, and others waited until 256 MB were handled.

/// Buffers published before any demand is known.
const TARGET_MIN: u32 = 32;
/// Receives per window that may find no buffer before more are published: rare ones cost less than
/// the cache misses of more buffers.
const STARVED_MAX: u32 = 8;
/// Length of a window (filled buffers).
const WINDOW: u32 = 512;
/// Expected input of the published buffers at most (bytes): the size of a core's cache.
const PUBLISHED_BYTES: u64 = 2 << 20;

/// The current target, and the counts of the current window.
#[derive(Debug)]
pub(super) struct Demand {
    target: u32,
    /// Total buffers.
    total: u32,
    /// Counts of the window: receives that found no buffer, receives that did, and their bytes.
    starved: u32,
    filled: u32,
    filled_bytes: u64,
}

impl Demand {
    pub(super) fn new(total: u32) -> Self {
        let target = target_min(total);
        Self { target, total, starved: 0, filled: 0, filled_bytes: 0 }
    }

    /// Buffers to publish.
    pub(super) fn target(&self) -> u32 {
        self.target
    }

    /// Records that a receive filled a buffer with `bytes` bytes.
    pub(super) fn record_filled(&mut self, bytes: u32) {
        self.filled += 1;
        self.filled_bytes += u64::from(bytes);
        if self.filled >= WINDOW {
            self.begin_window();
        }
    }

    /// Records that a receive found no buffer.
    pub(super) fn record_starved(&mut self) {
        self.starved += 1;
        if self.starved > STARVED_MAX {
            self.target = (self.target * 2).min(self.total);
            self.begin_window();
        }
    }

    /// Ends a period in which at least `published_least` buffers were always published.
    pub(super) fn end_period(&mut self, published_least: u32) {
        if published_least > self.target / 2 {
            self.target = (self.target / 2).max(target_min(self.total));
        }
        (self.starved, self.filled, self.filled_bytes) = (0, 0, 0);
    }

    fn begin_window(&mut self) {
        if self.filled > 0 {
            let likely_bytes = (self.filled_bytes / u64::from(self.filled)).max(1);
            let most = u32::try_from(PUBLISHED_BYTES / likely_bytes).unwrap_or(u32::MAX);
            self.target = self.target.min(most.max(target_min(self.total)));
        }
        (self.starved, self.filled, self.filled_bytes) = (0, 0, 0);
    }
}

/// Buffers published without demand. Where there are few, because very many shards divide the
/// memory, only a part of them: each that circulates keeps its first page.
fn target_min(total: u32) -> u32 {
    TARGET_MIN.min((total / 4).max(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates receives of this size, of which one in eight starves at first.
    fn starve(demand: &mut Demand, bytes: u32) {
        for _ in 0..10_000 {
            (0..7).for_each(|_| demand.record_filled(bytes));
            demand.record_starved();
        }
    }

    #[test]
    fn small_messages_may_use_all_buffers() {
        let mut demand = Demand::new(4096);
        assert_eq!(demand.target(), TARGET_MIN);
        starve(&mut demand, 100);
        assert_eq!(demand.target(), 4096);
    }

    #[test]
    fn expected_input_of_published_buffers_is_bounded() {
        for bytes in [1000, 10_000, 40_000, 65_536] {
            let mut demand = Demand::new(4096);
            starve(&mut demand, bytes);
            let brought = u64::from(demand.target()) * u64::from(bytes);
            let most = PUBLISHED_BYTES.max(u64::from(TARGET_MIN * bytes));
            assert!(brought <= most, "{} of {bytes} bytes", demand.target());
            assert!(brought > most / 2, "{} of {bytes} bytes", demand.target());
        }
    }

    #[test]
    fn streams_after_small_messages_lower_the_target_without_a_starved_receive() {
        let mut demand = Demand::new(4096);
        starve(&mut demand, 100);
        (0..2 * WINDOW).for_each(|_| demand.record_filled(65_536));
        assert_eq!(demand.target(), TARGET_MIN);
    }

    #[test]
    fn rare_starvation_publishes_no_more_and_quiet_periods_fewer() {
        let mut demand = Demand::new(4096);
        for _ in 0..1000 {
            (0..WINDOW / STARVED_MAX).for_each(|_| demand.record_filled(100));
            demand.record_starved();
        }
        assert_eq!(demand.target(), TARGET_MIN);
        starve(&mut demand, 100);
        demand.end_period(0);
        assert_eq!(demand.target(), 4096, "all buffers were in use");
        (0..20).for_each(|_| demand.end_period(demand.target()));
        assert_eq!(demand.target(), TARGET_MIN);
        assert_eq!(Demand::new(16).target(), 8);
    }
}

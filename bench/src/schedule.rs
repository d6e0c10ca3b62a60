//! The intended send times of an open loop.
//!
//! Message `k` of the run is due at `start + k / rate`, whatever the server does; threads take
//! turns. The times are computed from the count instead of by adding intervals, so that rounding
//! errors do not accumulate. A ramp spreads the first messages: the rate rises linearly from 0, so
//! message `k` is due where the area under the rate is `k`.

const NANOSECONDS: u128 = 1_000_000_000;

/// One thread's share of the times.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start_ns: u64,
    /// Events per second over all threads.
    rate: u64,
    thread: u64,
    threads: u64,
    taken: u64,
    /// Duration of the rise.
    ramp_ns: u64,
}

impl Schedule {
    /// The share of thread `thread` of `threads`.
    ///
    /// # Panics
    /// If `rate` or `threads` is 0, or `thread` is out of range.
    pub fn new(start_ns: u64, rate: u64, thread: usize, threads: usize) -> Self {
        assert!(rate > 0 && thread < threads, "rate {rate}, thread {thread} of {threads}");
        Self {
            start_ns,
            rate,
            thread: thread as u64,
            threads: threads as u64,
            taken: 0,
            ramp_ns: 0,
        }
    }

    /// The same with a rate that rises from 0 in the first `ramp_ns`.
    #[must_use]
    pub fn rising(self, ramp_ns: u64) -> Self {
        Self { ramp_ns, ..self }
    }

    /// When the next event is due.
    pub fn next_ns(&self) -> u64 {
        let index = u128::from(self.thread) + u128::from(self.taken) * u128::from(self.threads);
        let even_ns = (index * NANOSECONDS / u128::from(self.rate)) as u64;
        if self.ramp_ns == 0 {
            return self.start_ns + even_ns;
        }
        // The ramp has half the area of the full rate.
        let lost_ns = self.ramp_ns / 2;
        if even_ns >= lost_ns {
            return self.start_ns + even_ns + lost_ns;
        }
        let rising_ns = (2.0 * self.ramp_ns as f64 * even_ns as f64).sqrt();
        self.start_ns + rising_ns as u64
    }

    /// Takes the next event if it is due; returns its intended time.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns();
        (due <= now_ns).then(|| {
            self.taken += 1;
            due
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_even_and_do_not_drift() {
        let mut schedule = Schedule::new(1_000, 3, 0, 1);
        let times: Vec<u64> = (0..4).map(|_| schedule.take(u64::MAX).unwrap()).collect();
        assert_eq!(times, [1_000, 333_334_333, 666_667_666, 1_000_001_000]);
        let mut schedule = Schedule::new(0, 7, 0, 1);
        let last = (0..=70_000).map(|_| schedule.take(u64::MAX).unwrap()).last();
        assert_eq!(last, Some(10_000 * 1_000_000_000));
    }

    #[test]
    fn threads_interleave_without_overlap() {
        let shares: Vec<Vec<u64>> = (0..3)
            .map(|thread| {
                let mut share = Schedule::new(0, 1_000, thread, 3);
                (0..100).map(|_| share.take(u64::MAX).unwrap()).collect()
            })
            .collect();
        let mut all: Vec<u64> = shares.concat();
        all.sort_unstable();
        let expected: Vec<u64> = (0..300).map(|index| index * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn nothing_is_due_early_and_all_is_due_after_a_stall() {
        let mut schedule = Schedule::new(500, 1_000_000, 0, 1);
        assert_eq!(schedule.take(499), None);
        assert_eq!(schedule.take(500), Some(500));
        assert_eq!(schedule.take(1_499), None);
        // A stall of 10 us: ten messages were due meanwhile, each at its own time.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(10_500)).collect();
        assert_eq!(late, (1..=10).map(|k| 500 + k * 1_000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_ramp_rises_to_the_rate_and_loses_half_of_its_events() {
        let mut schedule = Schedule::new(0, 1_000, 0, 1).rising(2_000_000_000);
        let mut times = Vec::new();
        while let Some(at_ns) = schedule.take(3_000_000_000) {
            times.push(at_ns);
        }
        let until = |ns: u64| times.iter().filter(|at| **at < ns).count();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        // The area under a line from 0 to 1,000/s over 2 s is 1,000 events, a quarter of them in
        // the first half; then 1,000 come in a second.
        assert!(until(1_000_000_000).abs_diff(250) <= 1, "{}", until(1_000_000_000));
        assert!(until(2_000_000_000).abs_diff(1_000) <= 1, "{}", until(2_000_000_000));
        assert!(times.len().abs_diff(2_000) <= 1, "{}", times.len());
    }
}

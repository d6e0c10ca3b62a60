//! Records a worker's latencies: a histogram per second, whose sum is the run's.
//!
//! Seconds are counted from the run's start, the same for all workers, and one of them begins
//! exactly with the measured time: so the interval log contains exactly what the report summarizes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;

const SECOND_NS: u64 = 1_000_000_000;

/// A histogram of nanoseconds up to ten minutes, to three digits.
pub fn nanoseconds() -> Histogram<u64> {
    // The bounds are constants the type accepts.
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("valid constant bounds")
}

/// One second of one worker.
#[derive(Debug)]
pub struct Interval {
    pub begin_ns: u64,
    pub end_ns: u64,
    /// Whether it is part of the measured time instead of the warm-up.
    pub measured: bool,
    /// `None` if there are no latencies.
    pub latency: Option<Histogram<u64>>,
}

/// The queue of intervals from workers to the monitor.
#[derive(Debug, Default)]
pub struct Feed {
    wanted: AtomicBool,
    intervals: Mutex<Vec<Interval>>,
}

impl Feed {
    /// Starts collecting: the monitor takes intervals from now on.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    fn push(&self, interval: Interval) {
        if let Ok(mut intervals) = self.intervals.lock() {
            intervals.push(interval);
        }
    }

    /// Takes all intervals since the last call.
    pub fn take(&self) -> Vec<Interval> {
        self.intervals.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default()
    }
}

/// The latencies of one worker.
#[derive(Debug)]
pub struct Recorder {
    interval: Histogram<u64>,
    total: Histogram<u64>,
    begin_ns: u64,
    end_ns: u64,
    /// Start of the measured time; latencies before it are shown, then dropped.
    from_ns: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            interval: nanoseconds(),
            total: nanoseconds(),
            begin_ns: u64::MAX,
            end_ns: u64::MAX,
            from_ns: u64::MAX,
        }
    }
}

impl Recorder {
    /// Starts the first second; the measured time starts at `from_ns`.
    pub fn begin(&mut self, start_ns: u64, from_ns: u64) {
        self.from_ns = from_ns;
        self.begin_second(start_ns);
    }

    fn begin_second(&mut self, at_ns: u64) {
        self.begin_ns = at_ns;
        self.end_ns = at_ns + SECOND_NS;
        if at_ns < self.from_ns {
            self.end_ns = self.end_ns.min(self.from_ns);
        }
    }

    /// Records a latency that ended at `now_ns`.
    pub fn record(&mut self, latency_ns: u64, now_ns: u64, feed: &Feed) {
        self.tick(now_ns, feed);
        self.interval.saturating_record(latency_ns);
    }

    /// Ends the seconds that are over.
    pub fn tick(&mut self, now_ns: u64, feed: &Feed) {
        while now_ns >= self.end_ns {
            let end_ns = self.end_ns;
            self.end_second(end_ns, feed);
            self.begin_second(end_ns);
        }
    }

    fn end_second(&mut self, end_ns: u64, feed: &Feed) {
        let measured = self.begin_ns >= self.from_ns;
        let mut latency = None;
        if !self.interval.is_empty() {
            if measured {
                // The histograms have the same bounds, so adding cannot fail.
                self.total.add(&self.interval).expect("same bounds");
            }
            if feed.wanted.load(Ordering::Acquire) {
                latency = Some(std::mem::replace(&mut self.interval, nanoseconds()));
            } else {
                self.interval.reset();
            }
        }
        if feed.wanted.load(Ordering::Acquire) {
            feed.push(Interval { begin_ns: self.begin_ns, end_ns, measured, latency });
        }
    }

    /// Ends the last second; returns the sum of the measured ones.
    pub fn finish(mut self, now_ns: u64, feed: &Feed) -> Histogram<u64> {
        self.tick(now_ns, feed);
        if self.begin_ns < now_ns {
            self.end_second(now_ns, feed);
        }
        self.total
    }
}

/// The sum of histograms of the same bounds.
pub fn sum<'a>(all: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = nanoseconds();
    for histogram in all {
        // All come from `nanoseconds`.
        sum.add(histogram).expect("same bounds");
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_seconds_add_up_and_the_warm_up_is_left_out() {
        let feed = Feed::default();
        feed.want();
        let mut recorder = Recorder::default();
        recorder.begin(500, 500 + SECOND_NS * 3 / 2);
        for at in 0..40 {
            recorder.record(1_000 + at, 500 + at * SECOND_NS / 10, &feed);
        }
        let total = recorder.finish(500 + SECOND_NS * 4, &feed);
        let intervals = feed.take();
        let spans: Vec<(u64, u64, bool)> = intervals
            .iter()
            .map(|i| ((i.begin_ns - 500) / 1_000_000, (i.end_ns - 500) / 1_000_000, i.measured))
            .collect();
        let expected = [
            (0, 1_000, false),
            (1_000, 1_500, false),
            (1_500, 2_500, true),
            (2_500, 3_500, true),
            (3_500, 4_000, true),
        ];
        assert_eq!(spans, expected);
        let logged =
            sum(intervals.iter().filter(|i| i.measured).filter_map(|i| i.latency.as_ref()));
        assert_eq!((logged.len(), total.len()), (25, 25));
        assert_eq!(logged, total);
    }

    #[test]
    fn silent_seconds_are_there_and_empty() {
        let feed = Feed::default();
        feed.want();
        let mut recorder = Recorder::default();
        recorder.begin(0, 0);
        recorder.tick(SECOND_NS * 3, &feed);
        let intervals = feed.take();
        assert_eq!(intervals.len(), 3);
        assert!(intervals.iter().all(|interval| interval.latency.is_none()));
    }
}

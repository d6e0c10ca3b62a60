//! Collects the metrics of all shards since the start.
//!
//! A reading swaps each shard's recordings for an empty snapshot (see [`crate::metrics`]) and adds
//! them to the totals here. So a reading costs a shard no copy, an interval's recordings are exact,
//! and the counts of a shard that has ended are kept.
//!
//! Readings never overlap. A caller that asks during one waits for it, and shares the next one with
//! all other waiting callers; no caller gets counts from before its call.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Mutex, oneshot};

use crate::backend::links::LinkFlow;
use crate::cluster::redis::Outer;
use crate::metrics::{Gauges, Histograms, Snapshot};
use crate::shard::mail::{Directory, Mail};

/// Reads all shards, and keeps their totals.
pub struct Collector {
    directory: Arc<Directory>,
    /// Whether shards record histograms.
    histograms: bool,
    /// Records durations beside the shards.
    outer: OnceLock<Arc<Outer>>,
    links: OnceLock<Arc<LinkFlow>>,
    state: Mutex<State>,
}

struct State {
    /// Totals since the start, by shard.
    totals: Vec<Snapshot>,
    /// When the last reading began.
    read_at: Option<Instant>,
    /// Recordings since [`Collector::take_interval`]; `None` until intervals are requested.
    interval: Option<Histograms>,
}

impl State {
    /// Adds a shard's recordings to its totals.
    fn add(&mut self, shard: usize, numbers: &Snapshot) {
        self.add_histograms(shard, &numbers.histograms);
        let total = &mut self.totals[shard];
        total.counters.clone_from(&numbers.counters);
        total.gauges = numbers.gauges;
        total.drivers.clone_from(&numbers.drivers);
    }

    fn add_histograms(&mut self, shard: usize, histograms: &Histograms) {
        self.totals[shard].histograms.add(histograms);
        if let Some(interval) = &mut self.interval {
            interval.add(histograms);
        }
    }
}

impl Collector {
    /// Makes a collector for all shards of `directory`, which record histograms or not.
    pub fn new(directory: Arc<Directory>, histograms: bool) -> Arc<Self> {
        let shards = directory.len();
        let state = State {
            totals: (0..shards).map(|_| Snapshot::new(histograms)).collect(),
            read_at: None,
            interval: None,
        };
        let (outer, links) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { directory, histograms, outer, links, state: Mutex::new(state) })
    }

    /// Also reads the durations of an outer thread; they count as those of the first shard.
    /// `epoch`: the start of the shards' clock. Call it once.
    pub fn add_outer(&self, outer: Arc<Outer>, epoch: Instant) {
        if self.histograms {
            outer.keep_times(epoch);
            assert!(self.outer.set(outer).is_ok(), "there is one outer thread");
        }
    }

    /// Also reads the times from pings to pongs on links; they count as those of the first shard.
    /// Call it once.
    pub fn add_links(&self, links: Arc<LinkFlow>) {
        if self.histograms {
            links.keep_times();
            assert!(self.links.set(links).is_ok(), "all links are in one flow");
        }
    }

    /// Whether shards record histograms.
    pub fn has_histograms(&self) -> bool {
        self.histograms
    }

    /// Reads the sum of all shards.
    pub async fn read(self: &Arc<Self>) -> Snapshot {
        self.refresh().await;
        let state = self.state.lock().await;
        let mut totals = state.totals.iter();
        let mut whole = totals.next().expect("there is at least one shard").clone();
        totals.for_each(|total| whole.merge(total));
        whole
    }

    /// Reads one shard; `None` if the index is out of range.
    pub async fn read_shard(self: &Arc<Self>, shard: usize) -> Option<Snapshot> {
        if shard >= self.directory.len() {
            return None;
        }
        self.refresh().await;
        Some(self.state.lock().await.totals[shard].clone())
    }

    /// From now on, also sums recordings for [`Self::take_interval`].
    pub async fn keep_intervals(&self) {
        self.state.lock().await.interval = Some(Histograms::new(self.histograms));
    }

    /// Takes the recordings since the last call; all of these together are the totals.
    pub async fn take_interval(self: &Arc<Self>) -> Histograms {
        self.refresh().await;
        let empty = Histograms::new(self.histograms);
        self.state.lock().await.interval.replace(empty).expect("intervals are kept")
    }

    /// Returns an unused interval, to be merged into the next one.
    pub async fn return_interval(&self, unused: &Histograms) {
        if let Some(interval) = &mut self.state.lock().await.interval {
            interval.add(unused);
        }
    }

    /// Adds the last recordings of a shard that has ended; `None` after a panic.
    pub async fn finish(&self, shard: u16, last: Option<Box<Snapshot>>) {
        let shard = usize::from(shard);
        let mut state = self.state.lock().await;
        if let Some(last) = last {
            state.add(shard, &last);
        }
        // Counters stay; gauges of an ended shard are zero.
        let total = &mut state.totals[shard];
        let gauges =
            Gauges { outbox_bytes_peak: total.gauges.outbox_bytes_peak, ..Gauges::default() };
        total.gauges = gauges;
        for (_, own, _) in &mut total.drivers {
            *own = gauges;
        }
    }

    /// Reads all shards, unless another caller does so after this call began.
    async fn refresh(self: &Arc<Self>) {
        let asked = Instant::now();
        let this = self.clone();
        // In a task of its own: a caller may be dropped during the reading, and the recordings
        // already taken from shards must not be lost.
        let reading = tokio::spawn(async move {
            let mut state = this.state.lock().await;
            if state.read_at.is_none_or(|at| at < asked) {
                state.read_at = Some(Instant::now());
                this.exchange(&mut state).await;
            }
        });
        if let Err(error) = reading.await {
            tracing::error!(%error, "cannot read the shards' metrics");
        }
    }

    async fn exchange(&self, state: &mut State) {
        let ask = |shard| {
            let empty = Box::new(Snapshot::new(self.histograms));
            let (reply, answer) = oneshot::channel();
            self.directory.post(shard, Mail::Snapshot(empty, reply));
            answer
        };
        let answers: Vec<_> = (0..self.directory.len() as u16).map(ask).collect();
        for (shard, answer) in answers.into_iter().enumerate() {
            // A shard that has ended does not answer; its last recordings come with its end.
            if let Ok(numbers) = answer.await {
                state.add(shard, &numbers);
            }
        }
        if let Some(times) = self.outer.get().and_then(|outer| outer.take_times()) {
            state.add_histograms(0, &times);
        }
        if let Some(times) = self.links.get().and_then(|links| links.take_times()) {
            let none = Histograms::new(self.histograms);
            state.add_histograms(0, &Histograms { link_round_trip: times, ..none });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Recorder;

    /// Answers one reading in place of a shard.
    async fn answer(directory: &Directory, shard: u16, accepted: u64, turns: &[u64]) {
        for _ in 0..100_000 {
            if let Some(Mail::Snapshot(mut numbers, reply)) = directory.next_mail(shard) {
                assert_eq!(
                    numbers.histograms.turn.histogram().len(),
                    0,
                    "the offered snapshot is empty"
                );
                numbers.counters.accepted = accepted;
                turns.iter().for_each(|turn| numbers.histograms.turn.record(*turn));
                assert!(reply.send(numbers).is_ok(), "the reading waits");
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("shard {shard} is not read");
    }

    fn recorded(values: &[u64]) -> hdrhistogram::Histogram<u64> {
        let mut recorder = Recorder::default();
        values.iter().for_each(|value| recorder.record(*value));
        recorder.histogram()
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn totals_grow_and_intervals_add_up_to_them_past_a_shards_end() {
        run(async {
            let directory = Directory::new(2);
            let collector = Collector::new(directory.clone(), true);
            collector.keep_intervals().await;
            let both = async |first: &[u64], second: &[u64]| {
                answer(&directory, 0, 5, first).await;
                answer(&directory, 1, 7, second).await;
            };
            let (whole, ()) = tokio::join!(collector.read(), both(&[10, 20], &[30]));
            assert_eq!(whole.counters.accepted, 12);
            let (one, ()) = tokio::join!(collector.take_interval(), both(&[40], &[]));
            assert_eq!(one.turn.histogram(), recorded(&[10, 20, 30, 40]));

            directory.close_mailbox(1);
            let mut last = Box::new(Snapshot::new(true));
            last.histograms.turn.record(50);
            last.counters.accepted = 8;
            last.gauges.open = 3;
            collector.finish(1, Some(last)).await;
            let (two, ()) =
                tokio::join!(collector.take_interval(), answer(&directory, 0, 6, &[60]));
            assert_eq!(two.turn.histogram(), recorded(&[50, 60]));
            let (whole, ()) = tokio::join!(collector.read(), answer(&directory, 0, 6, &[]));
            assert_eq!(whole.histograms.turn.histogram(), recorded(&[10, 20, 30, 40, 50, 60]));
            assert_eq!((whole.counters.accepted, whole.gauges.open), (14, 0));
            let (ended, ()) = tokio::join!(collector.read_shard(1), answer(&directory, 0, 6, &[]));
            assert_eq!(ended.unwrap().histograms.turn.histogram(), recorded(&[30, 50]));
            assert!(collector.read_shard(2).await.is_none());
        });
    }

    #[test]
    fn an_interval_given_back_is_part_of_the_next() {
        run(async {
            let directory = Directory::new(1);
            let collector = Collector::new(directory.clone(), true);
            collector.keep_intervals().await;
            let (one, ()) =
                tokio::join!(collector.take_interval(), answer(&directory, 0, 0, &[10]));
            collector.return_interval(&one).await;
            let (two, ()) =
                tokio::join!(collector.take_interval(), answer(&directory, 0, 0, &[20]));
            assert_eq!(two.turn.histogram(), recorded(&[10, 20]));
        });
    }

    #[test]
    fn callers_during_a_reading_share_the_next() {
        run(async {
            let directory = Directory::new(1);
            let collector = Collector::new(directory.clone(), true);
            let ask = || {
                tokio::spawn({
                    let collector = collector.clone();
                    async move { collector.read().await.counters.accepted }
                })
            };
            let (first, second) = (ask(), ask());
            while !directory.begin_reading(0) {
                tokio::task::yield_now().await;
            }
            // These call after that reading began, so they need a newer one.
            let (third, fourth) = (ask(), ask());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            answer(&directory, 0, 1, &[1]).await;
            answer(&directory, 0, 2, &[2]).await;
            // The first may see the totals only after the second reading.
            assert!(first.await.unwrap() >= 1 && second.await.unwrap() >= 1);
            assert_eq!((third.await.unwrap(), fourth.await.unwrap()), (2, 2));
            assert!(directory.next_mail(0).is_none(), "there was no third reading");
        });
    }

    #[test]
    fn a_reader_that_gives_up_loses_nothing() {
        run(async {
            let directory = Directory::new(1);
            let collector = Collector::new(directory.clone(), true);
            let gone = tokio::spawn({
                let collector = collector.clone();
                async move { collector.read().await }
            });
            while !directory.begin_reading(0) {
                tokio::task::yield_now().await;
            }
            gone.abort();
            assert!(gone.await.is_err_and(|error| error.is_cancelled()));
            answer(&directory, 0, 1, &[10]).await;
            let (whole, ()) = tokio::join!(collector.read(), answer(&directory, 0, 1, &[20]));
            assert_eq!(whole.histograms.turn.histogram(), recorded(&[10, 20]));
        });
    }
}

//! Durations and sizes as HDR histograms with two significant digits.
//!
//! Two digits keep the error at one percent. A [`Recorder`] allocates only up to its highest value:
//! 18 KB for times of some milliseconds. The full range would take 36 KB for each of sixteen
//! histograms in every shard.

use hdrhistogram::Histogram;

/// The unit of a histogram's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Nanoseconds,
    Count,
    Bytes,
}

macro_rules! histograms {
    ($($(#[$doc:meta])* $name:ident: $unit:ident, $text:literal;)*) => {
        /// The histograms of one shard.
        #[derive(Clone, Debug)]
        pub struct Histograms {
            $($(#[$doc])* pub $name: Recorder,)*
        }

        /// Name, unit and help text of every histogram.
        pub const HISTOGRAMS: &[(&str, Unit, &str)] =
            &[$((stringify!($name), Unit::$unit, $text),)*];

        impl Histograms {
            /// Creates empty histograms; with `on` false they record nothing.
            pub fn new(on: bool) -> Self {
                Self { $($name: Recorder::new(on),)* }
            }

            /// Adds another shard's histograms.
            pub fn add(&mut self, other: &Self) {
                $(self.$name.add(&other.$name);)*
            }

            /// Iterates over all histograms, in the order of [`HISTOGRAMS`].
            pub fn all(&self) -> impl Iterator<Item = Histogram<u64>> {
                [$(&self.$name),*].into_iter().map(Recorder::histogram)
            }
        }
    };
}

impl Default for Histograms {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Histograms {
    /// Returns whether values are recorded.
    pub fn is_on(&self) -> bool {
        self.turnaround.on
    }
}

histograms! {
    /// From accept to the 101 written.
    accept_to_open: Nanoseconds, "From accept to the opened WebSocket";
    /// From the turn that received a message to the completion of its reply's send; or to its
    /// submission, for single replies that are sent without a completion on success.
    turnaround: Nanoseconds, "From received bytes to the completed send of their reply";
    /// Work of one turn.
    turn: Nanoseconds, "Work of one turn of the loop";
    /// Sleep between turns, submission included.
    wait: Nanoseconds, "Submission and wait between two turns";
    /// Completions of one turn.
    batch: Count, "Completions handled in one turn";
    /// Ping to pong.
    rtt: Nanoseconds, "From a heartbeat ping to its pong";
    /// From a publish accepted to each receiver's completed send.
    publish_to_delivery: Nanoseconds, "From an accepted publish to a receiver's completed send";
    /// From a publish accepted to the completed send to the last receiver of a shard.
    fanout: Nanoseconds, "From an accepted publish to the completed send to its last receiver";
    /// From a command of a shard to the reply of a cluster's engine.
    engine_round_trip: Nanoseconds, "From a command to a cluster's engine to its reply";
    /// From a publish accepted by this process to its arrival from a cluster's engine.
    publish_to_arrival: Nanoseconds, "From an accepted publish to its arrival from the engine";
    /// From the question whether a client may connect to its outcome.
    connect_hook: Nanoseconds, "From asking an application about an upgrade to the outcome";
    /// From the question about a subscription to its outcome.
    subscribe_hook: Nanoseconds, "From asking an application about a subscription to the outcome";
    /// From the question about a publish to its outcome.
    publish_hook: Nanoseconds, "From asking an application about a publish to the outcome";
    /// From a call to its result.
    call_hook: Nanoseconds, "From passing a call to an application to its result";
    /// From a ping on a link to its pong.
    link_round_trip: Nanoseconds, "From a ping on a link to an application to its pong";
    /// From a client's first TLS byte to the end of the handshake.
    tls_handshake: Nanoseconds, "From the first byte of a TLS handshake to its end";
    /// Bytes in an outbox when its send begins.
    send_queue_bytes: Bytes, "Bytes waiting for a connection when a send to it begins";
}

/// The highest value that is distinguished: one hour, in nanoseconds.
const VALUE_MAX: u64 = 3_600_000_000_000;

/// Values below this have a bucket each; above it, buckets double in width with each power of two.
/// Two significant digits require this.
const EXACT_VALUES: u64 = 256;
/// The number of buckets of one width, except for the first width.
const BUCKETS_PER_WIDTH: usize = EXACT_VALUES as usize / 2;

/// A histogram that a shard records into. Its range is 1 ns to one hour; values outside are counted
/// at the nearest bound.
///
/// It has the same buckets as an `HdrHistogram` of two significant digits, and is converted to one
/// for reading. Recording into an `HdrHistogram` took 60 of a turn's 400 instructions for four
/// values; finding a bucket and incrementing it takes 12.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// Counts by bucket, up to the highest bucket with a value.
    counts: Vec<u64>,
    on: bool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Recorder {
    /// Creates an empty recorder; with `on` false it records nothing.
    pub fn new(on: bool) -> Self {
        Self { counts: Vec::new(), on }
    }

    /// Records a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value `count` times.
    #[inline]
    pub fn record_n(&mut self, value: u64, count: u64) {
        if !self.on {
            return;
        }
        let bucket = find_bucket(value.clamp(1, VALUE_MAX));
        match self.counts.get_mut(bucket) {
            Some(counted) => *counted += count,
            None => self.grow(bucket, count),
        }
    }

    #[cold]
    fn grow(&mut self, bucket: usize, count: u64) {
        if count > 0 {
            self.counts.resize(bucket + 1, 0);
            self.counts[bucket] = count;
        }
    }

    /// Returns everything recorded so far. The bounds are the same for all histograms, because
    /// other readers only add up histograms with equal bounds.
    pub fn histogram(&self) -> Histogram<u64> {
        let bounds = Histogram::new_with_bounds(1, VALUE_MAX, 2);
        let mut histogram = bounds.expect("the bounds are valid");
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let recorded = histogram.record_n(lowest_value(bucket), *count);
            recorded.expect("all values are within the bounds");
        }
        histogram
    }

    fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }
}

/// Returns the bucket of a value: determined by its eight highest bits, and the number of bits
/// below them.
#[inline]
fn find_bucket(value: u64) -> usize {
    let shift = (EXACT_VALUES - 1).leading_zeros() - (value | (EXACT_VALUES - 1)).leading_zeros();
    shift as usize * BUCKETS_PER_WIDTH + (value >> shift) as usize
}

/// Returns the lowest value of a bucket.
fn lowest_value(bucket: usize) -> u64 {
    let shift = (bucket / BUCKETS_PER_WIDTH).saturating_sub(1);
    ((bucket - shift * BUCKETS_PER_WIDTH) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::hdr;
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use proptest::prelude::*;

    /// Mostly short times, so that values repeat, and some beyond the highest value.
    fn any_times() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..40, 0u64..1 << 46]
    }

    proptest! {
        #[test]
        fn merging_shards_equals_recording_in_one(
            values in prop::collection::vec((0usize..3, any_times()), 0..300),
        ) {
            let mut shards = [Histograms::default(), Histograms::default(), Histograms::default()];
            let mut whole = Histograms::default();
            for (shard, value) in values {
                shards[shard].turnaround.record(value / 7);
                whole.turnaround.record(value / 7);
            }
            let mut merged = Histograms::default();
            shards.iter().for_each(|shard| merged.add(shard));
            let whole = whole.turnaround.histogram();
            prop_assert_eq!(&merged.turnaround.histogram(), &whole);

            // The same after serialization: shards' payloads that are merged elsewhere.
            let mut elsewhere = Recorder::default().histogram();
            for shard in &shards {
                let payload = hdr::encode_payload(&shard.turnaround.histogram());
                let bytes = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
                let part: Histogram<u64> =
                    Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                elsewhere.add(part).unwrap();
            }
            prop_assert_eq!(elsewhere, whole);
        }
    }

    proptest! {
        /// Compares with the library's own histogram.
        #[test]
        fn a_recorder_counts_as_an_hdr_histogram_does(
            values in prop::collection::vec((0u32..64, any::<u64>(), 1u64..5), 0..200),
        ) {
            let mut recorder = Recorder::default();
            let mut twin = Histogram::<u64>::new_with_bounds(1, VALUE_MAX, 2).unwrap();
            for (shift, value, count) in values {
                let value = value >> shift;
                recorder.record_n(value, count);
                twin.record_n(value.clamp(1, VALUE_MAX), count).unwrap();
            }
            prop_assert_eq!(recorder.histogram(), twin);
        }
    }

    #[test]
    fn extremes_are_those_of_the_values() {
        let mut recorder = Recorder::default();
        assert!(recorder.histogram().is_empty());
        [5_000, 5_000, 90_000].into_iter().for_each(|value| recorder.record(value));
        let histogram = recorder.histogram();
        assert!(histogram.equivalent(histogram.min(), 5_000), "{}", histogram.min());
        assert!(histogram.equivalent(histogram.max(), 90_000), "{}", histogram.max());
    }

    #[test]
    fn values_beyond_the_bound_count_as_the_bound() {
        let mut recorder = Recorder::default();
        recorder.record(50);
        recorder.record(1);
        assert!(recorder.counts.len() <= 51);
        recorder.record(u64::MAX);
        recorder.record(0);
        let histogram = recorder.histogram();
        assert!(histogram.equivalent(histogram.max(), VALUE_MAX), "{}", histogram.max());
        assert_eq!((histogram.min(), histogram.len()), (1, 4));
    }

    #[test]
    fn a_recorder_that_is_off_records_nothing() {
        let mut histograms = Histograms::new(false);
        histograms.turn.record(5);
        histograms.turn.record_n(7, 3);
        assert!(!histograms.is_on() && histograms.all().all(|histogram| histogram.is_empty()));
    }
}

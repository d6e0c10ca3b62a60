//! How long things take: HDR histograms with two significant digits.
//!
//! Two digits keep a histogram at some tens of kilobytes a shard, of which only the touched part
//! is resident, with an error of at most one percent.

use hdrhistogram::Histogram;

/// What a histogram's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            $($(#[$doc])* pub $name: Histogram<u64>,)*
        }

        /// Name, unit and meaning of every histogram.
        pub const HISTOGRAMS: &[(&str, Unit, &str)] =
            &[$((stringify!($name), Unit::$unit, $text),)*];

        impl Default for Histograms {
            fn default() -> Self {
                Self { $($name: empty(),)* }
            }
        }

        impl Histograms {
            /// Adds another shard's records.
            pub fn add(&mut self, other: &Self) {
                $(self.$name.add(&other.$name).expect("both are of the same bounds");)*
            }

            /// Every histogram, in the order of [`HISTOGRAMS`].
            pub fn all(&self) -> impl Iterator<Item = &Histogram<u64>> {
                [$(&self.$name),*].into_iter()
            }
        }
    };
}

histograms! {
    /// From accept to the 101 written.
    accept_to_open: Nanoseconds, "From accept to the opened WebSocket";
    /// From the turn that brought a message to the completion of its reply's send.
    turnaround: Nanoseconds, "From received bytes to the completed send of their reply";
    /// Work of one turn.
    turn: Nanoseconds, "Work of one turn of the loop";
    /// Sleep between turns, submission included.
    wait: Nanoseconds, "Submission and wait between two turns";
    /// Completions of one turn.
    batch: Count, "Completions handled in one turn";
    /// Ping to pong.
    rtt: Nanoseconds, "From a heartbeat ping to its pong";
    /// Bytes in an outbox when its send begins.
    send_queue_bytes: Bytes, "Bytes waiting for a connection when a send to it begins";
}

/// An empty histogram that holds 1 to one hour in nanoseconds; larger values count as that.
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 2).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merging_shards_equals_recording_in_one(
            values in prop::collection::vec((0usize..3, 0u64..4_000_000_000_000), 0..300),
        ) {
            let mut shards = [Histograms::default(), Histograms::default(), Histograms::default()];
            let mut whole = Histograms::default();
            for (shard, value) in values {
                shards[shard].turnaround.saturating_record(value);
                whole.turnaround.saturating_record(value);
            }
            let mut merged = Histograms::default();
            shards.iter().for_each(|shard| merged.add(shard));
            prop_assert_eq!(merged.turnaround, whole.turnaround);
        }
    }
}

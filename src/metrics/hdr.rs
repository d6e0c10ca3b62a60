//! Formats histograms for people and for programs: key figures, percentiles, and complete
//! histograms in the formats of the `HdrHistogram` tools.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
use serde::Serialize;

use super::Unit;

/// Steps of percentiles per halving of the distance to 100 %, as in the `HdrHistogram` tools.
const TICKS: u32 = 5;

/// The key figures of a histogram, in its unit.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub name: &'static str,
    pub unit: Unit,
    pub help: &'static str,
    pub count: u64,
    pub min: u64,
    pub mean: f64,
    pub max: u64,
    pub stddev: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    #[serde(rename = "p99.99")]
    pub p99_99: u64,
}

/// A complete histogram.
#[derive(Debug, Serialize)]
pub struct Detail {
    #[serde(flatten)]
    pub summary: Summary,
    pub percentiles: Vec<Percentile>,
    /// The complete histogram, encoded by [`encode_payload`].
    pub hdr: String,
}

/// One point of a distribution.
#[derive(Debug, Serialize)]
pub struct Percentile {
    /// Share of all values (%).
    pub percentile: f64,
    /// The value that this share does not exceed, in the histogram's unit.
    pub value: u64,
    /// The number of these values.
    pub count: u64,
}

impl Summary {
    /// Summarizes a histogram of this name, unit and help text.
    pub fn new(described: &(&'static str, Unit, &'static str), histogram: &Histogram<u64>) -> Self {
        let (name, unit, help) = *described;
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            name,
            unit,
            help,
            count: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            max: histogram.max(),
            stddev: histogram.stdev(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
        }
    }
}

impl Detail {
    /// Describes a histogram of this name, unit and help text completely.
    pub fn new(described: &(&'static str, Unit, &'static str), histogram: &Histogram<u64>) -> Self {
        Self {
            summary: Summary::new(described, histogram),
            percentiles: list_percentiles(histogram),
            hdr: encode_payload(histogram),
        }
    }
}

fn list_percentiles(histogram: &Histogram<u64>) -> Vec<Percentile> {
    let mut count = 0;
    let step = |step: hdrhistogram::iterators::IterationValue<u64>| {
        count += step.count_since_last_iteration();
        Percentile {
            percentile: step.quantile_iterated_to() * 100.0,
            value: step.value_iterated_to().min(histogram.max()),
            count,
        }
    };
    histogram.iter_quantiles(TICKS).map(step).collect()
}

/// Encodes the complete histogram as base64 of its V2 deflate format, which every `HdrHistogram`
/// library can decode and add up.
pub fn encode_payload(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    written.expect("writing to memory cannot fail");
    STANDARD.encode(bytes)
}

/// Formats the percentile distribution (`.hgrm`) that other tools plot: durations in microseconds,
/// everything else in its unit.
pub fn format_hgrm(unit: Unit, histogram: &Histogram<u64>) -> String {
    let scale = if unit == Unit::Nanoseconds { 1_000.0 } else { 1.0 };
    let head = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", head[0], head[1], head[2], head[3]);
    // Writing to a string cannot fail.
    for Percentile { percentile, value, count } in list_percentiles(histogram) {
        let (value, quantile) = (value as f64 / scale, percentile / 100.0);
        let _ = write!(out, "{value:12.3} {quantile:2.12} {count:10}");
        let _ = if quantile < 1.0 {
            writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(out)
        };
    }
    let (mean, deviation) = (histogram.mean() / scale, histogram.stdev() / scale);
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let (max, total) = (histogram.max() as f64 / scale, histogram.len());
    let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {total:12}]");
    let sub_buckets = (2 * 10_u64.pow(histogram.sigfig().into())).next_power_of_two();
    let buckets = histogram.buckets();
    let _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Recorder;

    const DESCRIBED: (&str, Unit, &str) = ("waits", Unit::Nanoseconds, "Waits");

    fn thousand() -> Histogram<u64> {
        let mut recorder = Recorder::default();
        (1..=1000).for_each(|n| recorder.record(n * 1_000));
        recorder.histogram()
    }

    #[test]
    fn key_figures_are_those_of_the_values() {
        let json = serde_json::to_value(Summary::new(&DESCRIBED, &thousand())).unwrap();
        assert_eq!(json["unit"], "nanoseconds");
        assert_eq!(json["count"], 1000);
        for (key, exact) in [
            ("min", 1_000.0),
            ("mean", 500_500.0),
            ("max", 1_000_000.0),
            ("stddev", 288_675.0),
            ("p50", 500_000.0),
            ("p90", 900_000.0),
            ("p99", 990_000.0),
            ("p99.9", 999_000.0),
            ("p99.99", 1_000_000.0),
        ] {
            let found = json[key].as_f64().unwrap();
            assert!((found / exact - 1.0).abs() < 0.01, "{key}: {found}");
        }
    }

    #[test]
    fn nothing_recorded_is_zero_everywhere() {
        let empty = Recorder::default().histogram();
        let json = serde_json::to_value(Detail::new(&DESCRIBED, &empty)).unwrap();
        for key in ["count", "min", "max", "p50", "p99.99"] {
            assert_eq!(json[key], 0, "{key}");
        }
        assert_eq!(json["mean"], 0.0);
        assert_eq!(json["stddev"], 0.0);
        assert!(format_hgrm(Unit::Count, &empty).contains("Total count    =            0"));
    }

    #[test]
    fn percentiles_rise_to_all_values() {
        let histogram = thousand();
        let detail = Detail::new(&DESCRIBED, &histogram);
        assert!(detail.percentiles.is_sorted_by_key(|one| one.count));
        let last = detail.percentiles.last().unwrap();
        assert_eq!((last.count, last.value), (1000, histogram.max()));
        assert!((last.percentile - 100.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_distribution_has_durations_in_microseconds() {
        let text = format_hgrm(Unit::Nanoseconds, &thousand());
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "1000"], "{text}");
        assert!(fields[0].starts_with("100"), "{text}");
        assert!(text.contains("Total count    =         1000]"), "{text}");
        assert!(text.contains("SubBuckets     =          256]"), "{text}");
        let raw = format_hgrm(Unit::Bytes, &thousand());
        let last = raw.lines().rfind(|line| !line.starts_with('#')).unwrap();
        assert!(last.trim_start().starts_with("100"), "{raw}");
        assert_eq!(last.split('.').next().unwrap().trim().len(), 7, "{raw}");
    }
}

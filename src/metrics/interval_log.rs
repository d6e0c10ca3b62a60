//! Histograms over time: the interval log of `HdrHistogram`, which its tools filter, sum and plot.
//!
//! A log is text. It starts with comments (version, start and base time) and a legend; each further
//! line is the histogram of one interval, named by `Tag=`. An interval without values has no line.
//! The third field, the highest value, is for human readers: durations in milliseconds, everything
//! else in its unit. Programs read the payload, in the histogram's unit.

use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::{HISTOGRAMS, Histograms, Unit};

/// Divisor of a duration's highest value; the default of Java's writer.
const NS_PER_MS: f64 = 1e6;

/// Returns the header of a log. A file may have several, each valid for the lines after it.
pub fn format_header(started: SystemTime) -> String {
    let mut out = Vec::new();
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(concat!("[Logged by seawall ", env!("CARGO_PKG_VERSION"), "]"))
        .with_start_time(started)
        .with_base_time(started)
        .begin_log_with(&mut out, &mut V2DeflateSerializer::new())
        .expect("writing to memory cannot fail");
    let mut text = String::from_utf8(out).expect("comments are text");
    text.push_str(
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
         \"Interval_Compressed_Histogram\"\n",
    );
    text
}

/// Returns the lines of one interval, which started `start` after the time in the header.
pub fn format_interval(histograms: &Histograms, start: Duration, length: Duration) -> String {
    let mut text = String::new();
    let mut serializer = V2DeflateSerializer::new();
    for ((name, unit, _), histogram) in HISTOGRAMS.iter().zip(histograms.all()) {
        if histogram.is_empty() {
            continue;
        }
        let divisor = if *unit == Unit::Nanoseconds { NS_PER_MS } else { 1.0 };
        let mut out = Vec::new();
        IntervalLogWriterBuilder::new()
            .with_max_value_divisor(divisor)
            .begin_log_with(&mut out, &mut serializer)
            .expect("writing to memory cannot fail")
            .write_histogram(&histogram, start, length, Tag::new(name))
            .expect("writing to memory cannot fail");
        let lines = String::from_utf8(out).expect("a log is text");
        // The writer puts a comment about the divisor before each line; drop it.
        text.push_str(&lines[lines.find("Tag=").unwrap_or_default()..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_reads_back_as_it_was() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let mut histograms = Histograms::default();
        histograms.turnaround.record_n(2_000_000, 3);
        histograms.batch.record(7);
        let (start, length) = (Duration::from_millis(20_500), Duration::from_millis(10_001));
        let text = format_header(started) + &format_interval(&histograms, start, length);
        assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
        let entries: Vec<_> =
            IntervalLogIterator::new(text.as_bytes()).collect::<Result<_, _>>().unwrap();
        let begun = Duration::from_millis(1_700_000_000_250);
        assert_eq!(entries[..2], [LogEntry::StartTime(begun), LogEntry::BaseTime(begun)]);
        let mut found = Vec::new();
        for entry in &entries[2..] {
            let LogEntry::Interval(interval) = entry else {
                panic!("{entry:?} is not an interval")
            };
            assert_eq!((interval.start_timestamp(), interval.duration()), (start, length));
            let payload = interval.encoded_histogram();
            let bytes = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            found.push((interval.tag().unwrap().as_str(), interval.max(), histogram));
        }
        let (turnaround, batch) = (histograms.turnaround.histogram(), histograms.batch.histogram());
        assert_eq!(found.len(), 2, "empty histograms have no line");
        assert_eq!(found[0].0, "turnaround");
        assert!((found[0].1 - 2.0).abs() < 0.02, "{} ms", found[0].1);
        assert_eq!(found[0].2, turnaround);
        assert_eq!((found[1].0, &found[1].2), ("batch", &batch));
        assert!((found[1].1 - 7.0).abs() < 0.1);
        assert_eq!(text.matches("MaxValueDivisor").count(), 0);
    }

    #[test]
    fn an_empty_interval_has_no_line() {
        let empty = Histograms::default();
        assert_eq!(format_interval(&empty, Duration::ZERO, Duration::from_secs(1)), "");
    }
}

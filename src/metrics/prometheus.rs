//! Converts OpenMetrics text to Prometheus text 0.0.4.
//!
//! The formats differ only slightly: before OpenMetrics a counter's family was named like its
//! samples, with `_total`; there were no units and no end marker; and help texts did not escape
//! quotes. So all families are formatted once, and both texts have the same samples.

use std::fmt::Write as _;

/// Content type of the result of [`from_openmetrics`].
pub const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Converts OpenMetrics text as made by [`super::text::format_openmetrics`].
pub fn from_openmetrics(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len() + 1024);
    // The help line comes first, but its name depends on the type in the next line.
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = match kind {
                "unknown" => "untyped",
                "info" | "stateset" => "gauge",
                known => known,
            };
            // Writing to a string cannot fail.
            if let Some((_, text)) = help.take() {
                let text = text.replace("\\\"", "\"");
                let _ = writeln!(out, "# HELP {name}{suffix} {text}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverCounters;
    use crate::metrics::{Gauges, Process, Snapshot, text};
    use crate::proto::ws::CloseCode;

    #[test]
    fn families_are_named_as_before_openmetrics() {
        let openmetrics = "# HELP a Things \\\"seen\\\".\n# TYPE a counter\na_total 7\n\
            # HELP t_seconds Times.\n# TYPE t_seconds histogram\n# UNIT t_seconds seconds\n\
            t_seconds_bucket{le=\"+Inf\"} 1\n# HELP u What.\n# TYPE u unknown\nu 1\n# EOF\n";
        let expected = "# HELP a_total Things \"seen\".\n# TYPE a_total counter\na_total 7\n\
            # HELP t_seconds Times.\n# TYPE t_seconds histogram\n\
            t_seconds_bucket{le=\"+Inf\"} 1\n# HELP u What.\n# TYPE u untyped\nu 1\n";
        assert_eq!(from_openmetrics(openmetrics), expected);
    }

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn both_texts_have_the_same_samples() {
        let mut snapshot = Snapshot::default();
        snapshot.histograms.turnaround.record(5_000);
        snapshot.counters.count_close(CloseCode::NORMAL);
        snapshot.drivers = vec![(0, Gauges::default(), DriverCounters::default())];
        let openmetrics = text::format_openmetrics(snapshot, &Process::default());
        let plain = from_openmetrics(&openmetrics);
        assert_eq!(samples(&plain), samples(&openmetrics));
        assert!(!plain.contains("# UNIT") && !plain.contains("# EOF"), "{plain}");
        for line in plain.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        }
    }
}

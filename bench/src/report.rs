//! The result of a run: a table for people and a flat JSON object for scripts, from the same rows.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::cli::CommonArgs;
use crate::cpu::CpuUse;
use crate::crew::Failure;
use crate::expect::Expectation;
use crate::origin;

/// Rows in the order they were added.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    /// Short names for `--expect`, with their keys.
    names: Vec<(String, String)>,
    /// Members for scripts only.
    extras: Vec<(String, Value)>,
    warnings: Vec<String>,
    /// Whether the generator never sleeps, so that its CPU use is meaningless.
    spinning: bool,
}

#[derive(Debug)]
struct Row {
    label: String,
    shown: String,
    key: String,
    value: Value,
}

impl Report {
    /// Adds a row; `key` names it in the JSON and carries the unit.
    pub fn row(
        &mut self,
        label: &str,
        shown: impl Into<String>,
        key: &str,
        value: impl Into<Value>,
    ) {
        assert!(self.rows.iter().all(|row| row.key != key), "row {key} twice");
        self.rows.push(Row {
            label: label.to_owned(),
            shown: shown.into(),
            key: key.to_owned(),
            value: value.into(),
        });
    }

    /// Lets `--expect` call the row `key` by a short name; the first meaning of a name stays.
    pub fn name(&mut self, name: &str, key: &str) {
        if self.names.iter().all(|(known, _)| known != name) {
            self.names.push((name.to_owned(), key.to_owned()));
        }
    }

    /// Adds a member to the JSON that the table does not show.
    pub fn extra(&mut self, key: &str, value: impl Into<Value>) {
        self.extras.push((key.to_owned(), value.into()));
    }

    /// Adds a reason to doubt the figures.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Adds the percentiles of a histogram of nanoseconds. The first histogram of a report defines
    /// `p50` to `max` for `--expect`.
    pub fn latencies(&mut self, what: &str, key: &str, histogram: &Histogram<u64>) {
        let max = histogram.max();
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
        let found = quantiles.map(|(name, quantile)| (name, histogram.value_at_quantile(quantile)));
        for (name, ns) in found.into_iter().chain([("max", max)]) {
            let key = format!("{key}_{}_ns", name.replace('.', "_"));
            self.row(&format!("{what} {name}"), duration(ns), &key, ns);
            self.name(name, &key);
        }
        let key = format!("{key}_count");
        self.extra(&key, histogram.len());
    }

    /// Sets whether the generator never sleeps.
    pub fn spinning(&mut self, spinning: bool) {
        self.spinning = spinning;
    }

    /// Adds the generator's CPU use, with a warning if it was the bottleneck.
    pub fn generator(&mut self, used: &CpuUse) {
        let share = used.busiest_share;
        let shown = format!("{:.2} cores, busiest thread {:.0} %", used.cores(), share * 100.0);
        self.row("generator CPU", shown, "generator_busiest_share", share);
        self.contended("generator", used);
        if share > 0.9 && !self.spinning {
            self.warn(format!(
                "the generator's busiest thread was {:.0} % busy: latencies include its own \
                 queueing, and the throughput may be its limit and not the server's; give it \
                 more --threads or cores",
                share * 100.0
            ));
        }
    }

    /// Adds the server's CPU use over `count` units of work of `bytes` each.
    pub fn server(&mut self, used: &CpuUse, count: u64, unit: &str, bytes: Option<f64>) {
        let share = used.busiest_share;
        let saturated = used.saturated();
        let verdict = if saturated { "saturated" } else { "not saturated" };
        let shown =
            format!("{:.2} cores, busiest thread {:.0} %: {verdict}", used.cores(), share * 100.0);
        self.row("server CPU", shown, "server_busiest_share", share);
        self.row("server saturated", verdict, "server_saturated", saturated);
        self.contended("server", used);
        if count == 0 || used.cpu_ns == 0 {
            self.warn("no server CPU per unit of work: nothing was measured in the window");
            return;
        }
        let each_ns = used.cpu_ns as f64 / count as f64;
        let label = format!("server CPU per {unit}");
        self.row(&label, format!("{each_ns:.0} ns"), "server_cpu_ns_each", each_ns);
        let per_second = 1e9 / each_ns;
        let label = format!("{unit}s per server CPU second");
        self.row(&label, format!("{per_second:.0}"), "each_per_server_cpu_s", per_second);
        if let Some(bytes) = bytes {
            let rate = per_second * bytes;
            let shown = format!("{:.1} MiB", rate / f64::from(1 << 20));
            self.row("bytes per server CPU second", shown, "bytes_per_server_cpu_s", rate);
        }
    }

    fn contended(&mut self, who: &str, used: &CpuUse) {
        if used.contended() {
            self.warn(format!(
                "the {who} waited {:.0} % of the time for a processor that others used: run on \
                 an idle host, or pin both to cores of their own",
                used.queued_share * 100.0
            ));
        }
    }

    /// Formats the table.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for Row { label, shown, .. } in &self.rows {
            let _ = writeln!(out, "{label:<width$}  {shown}");
        }
        for warning in &self.warnings {
            let _ = writeln!(out, "WARNING: {warning}");
        }
        out
    }

    /// The JSON object: one member for each row, and `warnings`.
    pub fn json(&self) -> Value {
        let mut object: Map<String, Value> =
            self.rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect();
        object.extend(self.extras.iter().cloned());
        object.insert("warnings".to_owned(), self.warnings.clone().into());
        Value::Object(object)
    }

    /// Lists the conditions that are not met, each with the found value.
    fn unmet(&self, expectations: &[Expectation]) -> Vec<String> {
        let json = self.json();
        let failure = |expectation: &Expectation| {
            let name = &expectation.name;
            let known = self.names.iter().find(|(known, _)| known == name);
            let key = known.map_or(name, |(_, key)| key);
            match json.get(key) {
                Some(value) => expectation.failure(key, value),
                None => {
                    let short = self.names.iter().map(|(name, _)| name.as_str());
                    let keys = self.rows.iter().map(|row| row.key.as_str());
                    let all: Vec<&str> = short.chain(keys).collect();
                    Some(format!("{name}: this run has no such value, but {}", all.join(", ")))
                }
            }
        };
        expectations.iter().filter_map(failure).collect()
    }

    /// Prints the table, and writes the requested files. The outcome is the run's own `verdict`,
    /// unless conditions failed: those take precedence.
    pub fn publish(
        &self,
        common: &CommonArgs,
        latency: &Histogram<u64>,
        verdict: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let output = &common.output;
        print!("{}", self.text());
        if let Some(path) = &output.hgrm {
            write_hgrm(path, latency)?;
        }
        if let Some(path) = &output.json {
            let mut object = origin::members(&common.url);
            if let Value::Object(found) = self.json() {
                object.extend(found);
            }
            write(path, &format!("{:#}\n", Value::Object(object)))?;
        }
        let unmet = self.unmet(&output.expect);
        if unmet.is_empty() {
            return verdict;
        }
        let mut lines: Vec<String> = unmet.iter().map(|line| format!("not met: {line}")).collect();
        lines.extend(verdict.err().map(|failure| failure.text().to_owned()));
        Err(Failure::Unmet(lines.join("\nseawall-bench: ")))
    }
}

/// Writes a histogram of nanoseconds as the percentile distribution other tools plot (`.hgrm`), in
/// microseconds.
pub fn write_hgrm(path: &Path, histogram: &Histogram<u64>) -> io::Result<()> {
    write(path, &hgrm(histogram))
}

fn hgrm(histogram: &Histogram<u64>) -> String {
    const UNIT: f64 = 1_000.0;
    let head = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    let mut out = format!("{:>12} {:>14} {:>10} {:>14}\n\n", head[0], head[1], head[2], head[3]);
    let mut seen = 0;
    for step in histogram.iter_quantiles(5) {
        seen += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to().min(histogram.max()) as f64 / UNIT;
        let _ = write!(out, "{value:12.3} {quantile:2.12} {seen:10}");
        let _ = if quantile < 1.0 {
            writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(out)
        };
    }
    let (mean, deviation) = (histogram.mean() / UNIT, histogram.stdev() / UNIT);
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let (max, total) = (histogram.max() as f64 / UNIT, histogram.len());
    let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {total:12}]");
    out
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    std::fs::write(path, text).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}

/// Formats nanoseconds in a readable unit.
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.3} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn durations_choose_their_unit() {
        let shown = [999, 1_500, 2_340_000, 1_234_000_000].map(duration);
        assert_eq!(shown, ["999 ns", "1.5 us", "2.34 ms", "1.234 s"]);
    }

    #[test]
    fn table_and_json_have_the_same_rows() {
        let mut report = Report::default();
        report.latencies("latency", "latency", &histogram(1..=1_000));
        let used =
            CpuUse { cpu_ns: 2_000, wall_ns: 2_050, busiest_share: 0.97, queued_share: 0.06 };
        report.server(&used, 4, "message", Some(100.0));
        report.generator(&used);
        let json = report.json();
        assert_eq!(json["latency_p99_ns"], 990);
        assert_eq!(json["server_cpu_ns_each"], 500.0);
        assert_eq!(json["each_per_server_cpu_s"], 2e6);
        assert_eq!(json["bytes_per_server_cpu_s"], 2e8);
        assert_eq!(json["server_saturated"], true);
        assert_eq!(json["warnings"].as_array().unwrap().len(), 3);
        let text = report.text();
        assert!(text.contains("server CPU per message") && text.contains("500 ns"), "{text}");
        assert!(text.contains("WARNING: the generator's busiest thread was 97 % busy"), "{text}");
        assert!(text.contains("WARNING: the server waited 6 % of the time"), "{text}");
    }

    #[test]
    fn conditions_are_met_by_name_or_key_and_all_failures_are_told() {
        let mut report = Report::default();
        report.latencies("latency", "latency", &histogram(1..=1_000));
        report.latencies("lag", "lag", &histogram([9_000_000]));
        report.row("rate", "5", "per_second", 5.0);
        report.name("rate", "per_second");
        let unmet = |conditions: &[&str]| {
            let parse = |text: &&str| Expectation::parse(text).unwrap();
            report.unmet(&conditions.iter().map(parse).collect::<Vec<_>>())
        };
        let met = ["p99<1ms", "lag_p99_ns>1ms", "rate==5", "p99.9<=999ns", "latency_count==1000"];
        assert!(unmet(&met).is_empty(), "{:?}", unmet(&met));
        let failed = unmet(&["p50<100ns", "rate>5", "nonesuch<1", "max<=1us"]);
        assert_eq!(failed.len(), 3, "{failed:?}");
        assert!(failed[0].contains("latency_p50_ns is 500 ns"), "{failed:?}");
        assert!(failed[2].contains("no such value, but p50, p90"), "{failed:?}");
    }

    #[test]
    fn no_work_is_a_warning_and_no_division() {
        let mut report = Report::default();
        let nothing = CpuUse { cpu_ns: 0, wall_ns: 0, busiest_share: 0.0, queued_share: 0.0 };
        report.server(&nothing, 0, "message", None);
        assert!(report.json().get("server_cpu_ns_each").is_none());
        assert_eq!(report.json()["warnings"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_distribution_ends_at_one_with_all_counts() {
        let text = hgrm(&histogram((1..=100).map(|n| n * 1_000)));
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "100"], "{text}");
        assert!(fields[0].starts_with("100."), "{text}");
        assert!(text.contains("Total count    =          100"), "{text}");
    }
}

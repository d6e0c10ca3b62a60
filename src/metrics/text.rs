//! Metrics as OpenMetrics text, with cumulative histogram buckets.
//!
//! The control thread formats a snapshot, so that a scrape costs shards only the exchange.

use std::fmt;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit as TextUnit};

use super::{
    ClusterNumbers, Counters, EngineLoss, Gauges, HISTOGRAMS, Process, Snapshot, Unit, backends,
    process,
};
use crate::driver::DriverCounters;

/// Content type of the result of [`format_openmetrics`].
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Formats a snapshot. Histograms that are off are omitted: zeros would look like measurements.
pub fn format_openmetrics(snapshot: Snapshot, process: &Process) -> String {
    let mut registry = Registry::with_prefix("seawall");
    registry.register_collector(Box::new(Family(snapshot, process.clone())));
    let mut out = String::with_capacity(32 * 1024);
    // Process metrics have the same names in all programs, and no prefix.
    let mut common = Registry::default();
    common.register_collector(Box::new(process::Common(process.clone())));
    text::encode_registry(&mut out, &common).expect("writing to a string cannot fail");
    text::encode(&mut out, &registry).expect("writing to a string cannot fail");
    out
}

type PerShard = (u16, Gauges, DriverCounters);

#[derive(Debug)]
struct Family(Snapshot, Process);

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { counters, histograms, drivers, .. } = &self.0;
        encode_process(&mut encoder, &self.1)?;
        process::encode_limits(&mut encoder, &self.1.limits)?;
        encode_counters(&mut encoder, counters)?;
        self.encode_gauges(&mut encoder)?;
        if histograms.is_on() {
            for ((name, unit, help), histogram) in HISTOGRAMS.iter().zip(histograms.all()) {
                encode_histogram(&mut encoder, name, *unit, help, &histogram)?;
            }
        }
        if histograms.is_on() {
            self.encode_shard_times(&mut encoder)?;
        }
        let enters = format!("Calls of {}", self.1.wait_call);
        let driver_counters: [(&str, &str, fn(&DriverCounters) -> u64); 5] = [
            ("enters", &enters, |d| d.enters),
            ("submissions", "Operations submitted to the kernel", |d| d.submissions),
            ("completions", "Completions taken from the kernel", |d| d.completions),
            ("overflows", "Completions that did not fit the queue", |d| d.overflows),
            ("doorbells_failed", "Failed doorbells between shards", |d| d.doorbells_failed),
        ];
        for (name, help, read) in driver_counters {
            let name = format!("ring_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (shard, _, driver) in drivers {
                let labels = [("shard", shard.to_string())];
                ConstCounter::new(read(driver)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Name, help text, whether the unit is bytes, and value.
type NodeGauge = (&'static str, &'static str, bool, u64);

fn node_gauges(gauges: &Gauges) -> Vec<NodeGauge> {
    vec![
        ("connections_open", "Open WebSockets", false, gauges.open),
        ("handshakes", "Connections with an incomplete handshake", false, gauges.handshakes),
        (
            "connections_parked",
            "Parked connections: new or quiet, at lower memory cost",
            false,
            gauges.parked,
        ),
        ("connections_tls", "Connections with TLS", false, gauges.tls),
        (
            "upkeep_waiting",
            "Deferred connection work (close, wake, park)",
            false,
            gauges.deferred_work,
        ),
        ("outbox", "Bytes queued to be sent", true, gauges.outbox_bytes),
        (
            "recovering",
            "Bytes of recovered messages queued for returning subscribers",
            true,
            gauges.recovering_bytes,
        ),
        (
            "outbox_peak",
            "Largest queue of one connection since the start",
            true,
            gauges.outbox_bytes_peak,
        ),
        ("partial", "Bytes of incomplete requests and messages", true, gauges.partial_bytes),
        ("held_input", "Bytes received and not yet processed", true, gauges.held_bytes),
        ("compression_contexts", "Connections with compression contexts", false, gauges.contexts),
        ("compression_context", "Bytes of compression contexts", true, gauges.context_bytes),
        (
            "inflaters_leased",
            "Inflaters in use by incomplete messages",
            false,
            gauges.inflaters_leased,
        ),
        (
            "codec_pool",
            "Bytes of compressors and inflaters shared by connections",
            true,
            gauges.codec_pool_bytes,
        ),
        ("channels", "Open channels", false, gauges.channels),
        ("channel_members", "Subscriptions", false, gauges.channel_members),
        ("history_messages", "Messages in channel histories", false, gauges.history_messages),
        ("history", "Bytes of messages in channel histories", true, gauges.history_bytes),
        (
            "cluster_roster_changes",
            "Changes of member lists that the cluster's engine has yet to confirm",
            false,
            gauges.roster_changes,
        ),
        ("idempotency_keys", "Idempotency keys remembered", false, gauges.idempotency_keys),
        ("channel_table", "Memory of channel tables", true, gauges.channel_bytes),
        ("subscription", "Memory of subscriptions", true, gauges.subscription_bytes),
        ("presence", "Memory of member lists", true, gauges.presence_bytes),
        ("idempotency", "Memory of idempotency keys", true, gauges.idempotency_bytes),
        ("session", "Memory of sessions", true, gauges.session_bytes),
        ("gateway_sessions", "Clients of gateways", false, gauges.gateway_sessions),
        ("mailbox", "Bytes of mail queued between shards", true, gauges.mailbox_bytes),
    ]
}

impl Family {
    /// Encodes the busy and the idle time of each shard; their ratio is its utilization.
    fn encode_shard_times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let times: [(&str, &str, fn(&Gauges) -> u64); 2] = [
            ("shard_busy", "Time in turns; a rate of 1 means a saturated shard", |gauges| {
                gauges.busy_ns
            }),
            ("shard_idle", "Time of submission and wait between turns", |gauges| gauges.idle_ns),
        ];
        for (name, help, read) in times {
            let unit = Some(&TextUnit::Seconds);
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            for (shard, gauges, _) in &self.0.drivers {
                let labels = [("shard", shard.to_string())];
                let seconds = read(gauges) as f64 * 1e-9;
                ConstCounter::new(seconds).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { gauges, drivers, .. } = &self.0;
        for (name, help, unit, value) in node_gauges(gauges) {
            let unit = unit.then_some(&TextUnit::Bytes);
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
        }
        let per_shard: [(&str, &str, fn(&PerShard) -> u64); 5] = [
            ("shard_connections", "Connections in any stage", |(_, gauges, _)| gauges.slots),
            ("buffers_lent", "Receive buffers in use by the shard", |(.., d)| {
                d.buffers_lent.into()
            }),
            ("buffers_published", "Receive buffers available to the kernel", |(.., d)| {
                d.buffers_published.into()
            }),
            ("buffers", "Receive buffers in total", |(.., d)| d.buffers_total.into()),
            ("buffer_size_bytes", "Bytes of one receive buffer", |(.., d)| d.buffer_bytes.into()),
        ];
        for (name, help, read) in per_shard {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for entry in drivers {
                let labels = [("shard", entry.0.to_string())];
                ConstGauge::new(read(entry) as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_process(
    encoder: &mut DescriptorEncoder<'_>,
    process: &Process,
) -> Result<(), fmt::Error> {
    let help = "Version of the running server";
    let mut family = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    let help = "Engine that moves all bytes: see engine.driver";
    let mut family = encoder.encode_descriptor("driver_info", help, None, MetricType::Gauge)?;
    ConstGauge::new(1_i64).encode(family.encode_family(&[("name", process.driver)])?)?;
    let (help, unit) = ("Time since the start", Some(&TextUnit::Seconds));
    let family = encoder.encode_descriptor("uptime", help, unit, MetricType::Gauge)?;
    ConstGauge::new(process.uptime.as_secs_f64()).encode(family)?;
    for (name, help, value) in [
        ("interval_log_errors", "Failed writes of the histogram log", process.histogram_log_errors),
        (
            "log_lines_dropped",
            "Log lines dropped because standard error was not read",
            process.log_lines_dropped,
        ),
        (
            "admin_evictions",
            "Connections to the admin address closed by a deadline or to make room",
            process.admin_evictions,
        ),
    ] {
        let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family)?;
    }
    if process.certificate_expires_s > 0 {
        let help = "Unix time at which the first certificate expires";
        let (name, unit) = ("certificate_expiry", Some(&TextUnit::Seconds));
        let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(process.certificate_expires_s).encode(family)?;
    }
    let bytes = Some(TextUnit::Bytes);
    for (name, help, unit, value) in [
        (
            "memory_used",
            "Memory of the process, including its sockets in the kernel",
            bytes.as_ref(),
            process.memory_used_bytes,
        ),
        (
            "memory_shortage",
            "Memory shortage: 1 = new compression contexts are rejected, 2 = connections too, \
             3 = publishes and subscriptions too",
            None,
            process.memory_shortage,
        ),
        (
            "admin_connections",
            "Open connections to the admin address",
            None,
            process.admin_connections,
        ),
        ("draining", "Whether the server is draining", None, process.draining.into()),
    ] {
        let gauge = ConstGauge::new(value as i64);
        gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
    }
    process.cluster.iter().try_for_each(|cluster| encode_cluster(encoder, cluster))?;
    backends::encode_events(encoder, &process.events)?;
    backends::encode_hooks(encoder, &process.hooks)?;
    backends::encode_links(encoder, &process.links)
}

fn encode_cluster(
    encoder: &mut DescriptorEncoder<'_>,
    cluster: &ClusterNumbers,
) -> Result<(), fmt::Error> {
    for (name, help, unit, value) in [
        ("cluster_instances", "Instances of the cluster's engine", None, cluster.instances),
        ("cluster_instances_connected", "Those that are connected", None, cluster.connected),
        ("cluster_nodes", "Nodes that take calls, this one included", None, cluster.nodes),
        (
            "cluster_in_flight",
            "Commands that the engine has not answered yet",
            Some(&TextUnit::Bytes),
            cluster.in_flight_bytes,
        ),
        (
            "cluster_queued",
            "Publications of the engine that shards have not taken yet",
            Some(&TextUnit::Bytes),
            cluster.queued_bytes,
        ),
    ] {
        let gauge = ConstGauge::new(value as i64);
        gauge.encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)?;
    }
    for (name, help, value) in [
        (
            "cluster_lineages",
            "Lineages of the engine's instances seen, the first included",
            cluster.lineages,
        ),
        ("cluster_sweeps", "Dead nodes whose members this node has removed", cluster.sweeps),
        ("cluster_unanswered", "Calls that a node has not answered in time", cluster.unanswered),
        ("cluster_dropped", "Publications dropped on the way to a shard", cluster.dropped),
    ] {
        let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family)?;
    }
    let help = "Connections to the engine that were lost, by cause";
    let mut family =
        encoder.encode_descriptor("cluster_losses", help, None, MetricType::Counter)?;
    for (cause, value) in EngineLoss::ALL.iter().zip(cluster.losses) {
        let labels = [("cause", cause.name())];
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_counters(
    encoder: &mut DescriptorEncoder<'_>,
    counters: &Counters,
) -> Result<(), fmt::Error> {
    for (name, help, value) in counters.list_plain() {
        // Times are counted in nanoseconds and reported in seconds.
        let (name, unit) = match name.strip_suffix("_ns") {
            Some(name) => (name, Some(TextUnit::Seconds)),
            None => (name, None),
        };
        let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        match unit {
            Some(_) => ConstCounter::new(value as f64 * 1e-9).encode(metric)?,
            None => ConstCounter::new(value).encode(metric)?,
        }
    }
    let labelled = |family: &mut MetricEncoder<'_>, label, text: String, value| {
        ConstCounter::new(value).encode(family.encode_family(&[(label, text)])?)
    };
    let help = "Requests rejected, by reason";
    let mut family = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
    for (reason, value) in counters.refused() {
        labelled(&mut family, "reason", reason.to_owned(), value)?;
    }
    let help = "WebSockets closed, by close code (1006 = without a Close frame)";
    let mut family = encoder.encode_descriptor("closed", help, None, MetricType::Counter)?;
    for (class, value) in counters.closed() {
        labelled(&mut family, "code", class.label(), value)?;
    }
    let help = "Violations of the WebSocket protocol, by kind";
    let mut family =
        encoder.encode_descriptor("protocol_errors", help, None, MetricType::Counter)?;
    for (kind, value) in counters.protocol_errors() {
        labelled(&mut family, "kind", kind.to_owned(), value)?;
    }
    let help =
        "Failed authentications: rejected tokens and tickets, timeouts and expiries, by kind";
    let mut family = encoder.encode_descriptor("auth_failures", help, None, MetricType::Counter)?;
    for (kind, value) in counters.auth_failures() {
        labelled(&mut family, "kind", kind.to_owned(), value)?;
    }
    let help = "Connections rejected at a limit, by reason";
    let mut family = encoder.encode_descriptor("denied", help, None, MetricType::Counter)?;
    for (reason, value) in counters.denied() {
        labelled(&mut family, "reason", reason.to_owned(), value)?;
    }
    let help = "Messages and requests above their rate limit, by kind";
    let mut family = encoder.encode_descriptor("over_rate", help, None, MetricType::Counter)?;
    for (kind, value) in counters.over_rates() {
        labelled(&mut family, "kind", kind.to_owned(), value)?;
    }
    encode_tls_counters(encoder, counters)
}

fn encode_tls_counters(
    encoder: &mut DescriptorEncoder<'_>,
    counters: &Counters,
) -> Result<(), fmt::Error> {
    type Labelled = (&'static str, &'static str, &'static str, Vec<(&'static str, u64)>);
    let families: [Labelled; 3] = [
        (
            "tls_handshake_failures",
            "TLS handshakes that failed, by cause",
            "cause",
            counters.tls_failures().collect(),
        ),
        (
            "tls_groups",
            "Completed TLS handshakes, by group of the key exchange; none: a resumption without",
            "group",
            counters.tls_groups().collect(),
        ),
        (
            "tls_ciphers",
            "Completed TLS handshakes, by cipher",
            "cipher",
            counters.tls_ciphers().collect(),
        ),
    ];
    for (name, help, label, values) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (text, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&[(label, text)])?)?;
        }
    }
    Ok(())
}

/// Upper bounds of duration buckets (s): 1, 2.5, 5 in each decade from 1 µs to 100 s.
fn duration_bounds() -> impl Iterator<Item = f64> {
    // Divide instead of multiplying by a fraction, so that each bound is the float nearest to its
    // decimal.
    (-1..=6).rev().flat_map(|decade| [1.0, 2.5, 5.0].map(|step| step / 10f64.powi(decade)))
}

/// Upper bounds of count buckets: powers of four.
fn count_bounds() -> impl Iterator<Item = f64> {
    (0..=12).map(|power| 4f64.powi(power))
}

/// Encodes a histogram. A value counts as the highest value that the histogram does not distinguish
/// from it, so values at most one percent below a bound may count above it. The sum uses the middle
/// value, as the mean of [`super::hdr`] does.
fn encode_histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Unit,
    help: &str,
    histogram: &Histogram<u64>,
) -> Result<(), fmt::Error> {
    let (scale, text_unit) = match unit {
        Unit::Nanoseconds => (1e-9, Some(TextUnit::Seconds)),
        Unit::Bytes => (1.0, Some(TextUnit::Bytes)),
        Unit::Count => (1.0, None),
    };
    // The family's name must not end in the unit twice.
    let name = name.trim_end_matches("_bytes");
    let bounds: Vec<f64> = match unit {
        Unit::Nanoseconds => duration_bounds().collect(),
        Unit::Bytes | Unit::Count => count_bounds().collect(),
    };
    let mut buckets: Vec<(f64, u64)> =
        bounds.into_iter().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
    let mut at = 0;
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to() as f64 * scale;
        // The recorded values ascend, so the bucket only moves upwards; the last bound is infinite.
        while value > buckets[at].0 {
            at += 1;
        }
        let count = step.count_at_value();
        buckets[at].1 += count;
        let middle = histogram.median_equivalent(step.value_iterated_to());
        sum += middle as f64 * scale * count as f64;
    }
    let mut metric =
        encoder.encode_descriptor(name, help, text_unit.as_ref(), MetricType::Histogram)?;
    metric.encode_histogram::<[(&str, &str); 0]>(sum, histogram.len(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histograms;
    use crate::proto::ws::CloseCode;

    #[test]
    fn a_snapshot_becomes_text_with_cumulative_buckets() {
        let mut histograms = Histograms::default();
        for (value, count) in [(900, 3), (2_000_000, 2)] {
            histograms.turnaround.record_n(value, count);
        }
        let mean_ns = histograms.turnaround.histogram().mean();
        let mut counters = Counters::default();
        counters.accepted = 7;
        counters.count_close(CloseCode::GOING_AWAY);
        let snapshot = Snapshot {
            counters,
            histograms,
            gauges: Gauges { open: 4, ..Gauges::default() },
            drivers: vec![(0, Gauges::default(), DriverCounters::default())],
        };
        let process = Process {
            uptime: Duration::from_millis(1500),
            driver: "epoll",
            wait_call: "epoll_pwait2",
            histogram_log_errors: 2,
            ..Process::default()
        };
        let text = format_openmetrics(snapshot, &process);
        for line in [
            concat!("seawall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "seawall_driver_info{name=\"epoll\"} 1",
            "seawall_uptime_seconds 1.5",
            "seawall_interval_log_errors_total 2",
            "seawall_accepted_total 7",
            "seawall_connections_open 4",
            "seawall_closed_total{code=\"1001\"} 1",
            "seawall_turnaround_seconds_bucket{le=\"0.000001\"} 3",
            "seawall_turnaround_seconds_bucket{le=\"0.001\"} 3",
            "seawall_turnaround_seconds_bucket{le=\"0.0025\"} 5",
            "seawall_turnaround_seconds_bucket{le=\"+Inf\"} 5",
            "seawall_turnaround_seconds_count 5",
            "# HELP seawall_ring_enters Calls of epoll_pwait2",
            "seawall_ring_enters_total{shard=\"0\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let sum =
            text.lines().find_map(|line| line.strip_prefix("seawall_turnaround_seconds_sum "));
        let sum: f64 = sum.expect("histograms have a sum").parse().unwrap();
        assert!((sum - mean_ns * 5.0 / 1e9).abs() < 1e-12, "{sum} s, mean {mean_ns} ns");
    }

    #[test]
    fn histograms_that_are_off_are_left_out() {
        let text = format_openmetrics(Snapshot::new(false), &Process::default());
        assert!(text.contains("seawall_accepted_total 0\n"), "{text}");
        assert!(!text.contains("turnaround") && !text.contains("_bucket"), "{text}");
    }
}

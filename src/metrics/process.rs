//! Process metrics under their common names (`process_…`, without the server's prefix), and the
//! configured limits as gauges, to compare the server's metrics with.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{NodeLimits, Process};

/// The families of <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
#[derive(Debug)]
pub(super) struct Common(pub(super) Process);

impl Collector for Common {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Process { host, limits, started_unix_s, .. } = &self.0;
        let (seconds, bytes) = (Some(Unit::Seconds), Some(Unit::Bytes));
        let help = "Processor time in user and kernel mode";
        let kind = MetricType::Counter;
        let family = encoder.encode_descriptor("process_cpu", help, seconds.as_ref(), kind)?;
        ConstCounter::new(host.cpu_s).encode(family)?;
        let help = "Start of the process, in Unix time";
        let kind = MetricType::Gauge;
        let name = "process_start_time";
        let family = encoder.encode_descriptor(name, help, seconds.as_ref(), kind)?;
        ConstGauge::new(*started_unix_s).encode(family)?;
        for (name, help, unit, value) in [
            ("process_resident_memory", "Resident memory", bytes.as_ref(), host.resident_bytes),
            (
                "process_virtual_memory",
                "Virtual memory, including 256 GiB reserved for large messages and mostly unused",
                bytes.as_ref(),
                host.virtual_bytes,
            ),
            ("process_max_fds", "Limit of open descriptors", None, limits.open_files),
        ] {
            let family = encoder.encode_descriptor(name, help, unit, kind)?;
            ConstGauge::new(value as i64).encode(family)?;
        }
        if let Some(open_files) = host.open_files {
            let help = "Open descriptors, without client sockets, which are in the rings' tables";
            let family = encoder.encode_descriptor("process_open_fds", help, None, kind)?;
            ConstGauge::new(open_files as i64).encode(family)?;
        }
        Ok(())
    }
}

/// Encodes the limits that are set.
pub(super) fn encode_limits(
    encoder: &mut DescriptorEncoder<'_>,
    limits: &NodeLimits,
) -> Result<(), fmt::Error> {
    let bytes = Some(Unit::Bytes);
    for (name, help, unit, value) in [
        (
            "connections_max",
            "Limit of connections per node, for seawall_connections_open",
            None,
            limits.connections_max,
        ),
        (
            "shard_connections_max",
            "Limit of connections per shard, for seawall_shard_connections",
            None,
            limits.shard_connections_max,
        ),
        (
            "memory_max",
            "limits.memory_bytes_max, for seawall_memory_used_bytes",
            bytes.as_ref(),
            limits.memory_bytes_max,
        ),
        (
            "shard_outbox_max",
            "limits.outbox_shard_bytes_max, for each shard's share of seawall_outbox_bytes",
            bytes.as_ref(),
            limits.shard_outbox_bytes_max,
        ),
        ("channels_max", "hub.channels_max, for seawall_channels", None, limits.channels_max),
        (
            "history_max",
            "hub.history_bytes_max, for seawall_history_bytes",
            bytes.as_ref(),
            limits.history_bytes_max,
        ),
    ] {
        if value > 0 {
            let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(family)?;
        }
    }
    Ok(())
}

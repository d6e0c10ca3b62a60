//! Metrics of the applications that take part.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::EventNumbers;
use crate::events::EventKind;

type Counts = fn(&EventNumbers) -> &Vec<(EventKind, u64)>;
type Gauge = fn(&EventNumbers) -> f64;

/// Encodes the metrics of events.
pub(super) fn encode_events(
    encoder: &mut DescriptorEncoder<'_>,
    backends: &[EventNumbers],
) -> Result<(), fmt::Error> {
    if backends.is_empty() {
        return Ok(());
    }
    let counted: [(&str, &str, Counts); 2] = [
        ("events_accepted", "Events that a backend has accepted, by kind", |one| &one.accepted),
        ("events_lost", "Events that were dropped and reported as lost, by kind", |one| &one.lost),
    ];
    for (name, help, counts) in counted {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for own in backends {
            for (kind, count) in counts(own) {
                let labels = [("backend", own.backend.as_str()), ("kind", kind.name())];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Attempts to send a batch of events again";
    let mut family =
        encoder.encode_descriptor("events_retries", help, None, MetricType::Counter)?;
    for own in backends {
        let labels = [("backend", own.backend.as_str())];
        ConstCounter::new(own.retries).encode(family.encode_family(&labels)?)?;
    }
    let gauges: [(&str, &str, Option<Unit>, Gauge); 3] = [
        ("events_waiting", "Events that wait to be sent", None, |one| one.waiting as f64),
        ("events_queued", "Memory of events on their way", Some(Unit::Bytes), |one| {
            one.bytes as f64
        }),
        ("events_lag", "How long the oldest event has waited", Some(Unit::Seconds), |one| {
            one.lag.as_secs_f64()
        }),
    ];
    for (name, help, unit, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for own in backends {
            let labels = [("backend", own.backend.as_str())];
            ConstGauge::new(value(own)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

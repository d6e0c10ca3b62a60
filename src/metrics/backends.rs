//! Metrics of the applications that take part.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{EventNumbers, HookGauges, LinkGauges};
use crate::events::EventKind;
use crate::hooks::{BreakerState, FailureCause, HookCounts, HookKind, HookNumbers};

type Counts = fn(&EventNumbers) -> &Vec<(EventKind, u64)>;
type Gauge = fn(&EventNumbers) -> f64;
type OfKind = fn(&HookCounts) -> u64;
type OfDesk = fn(&HookNumbers) -> u64;
type OfLinks = fn(&LinkGauges) -> u64;

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

/// Encodes the metrics of questions.
pub(super) fn encode_hooks(
    encoder: &mut DescriptorEncoder<'_>,
    backends: &[HookGauges],
) -> Result<(), fmt::Error> {
    if backends.is_empty() {
        return Ok(());
    }
    let help = "Questions to applications that have ended, by kind and outcome";
    let mut family = encoder.encode_descriptor("hooks", help, None, MetricType::Counter)?;
    for own in backends {
        for (kind, counts) in HookKind::ALL.into_iter().zip(&own.numbers.kinds) {
            for (outcome, count) in outcomes(counts) {
                let labels =
                    [("backend", &*own.backend), ("kind", kind.name()), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let by_kind: [(&str, &str, OfKind); 3] = [
        ("hook_cache_hits", "Questions that were answered from the cache", |one| one.cache_hits),
        ("hook_joined", "Questions that joined an equal one", |one| one.joined),
        ("hook_repeats", "Requests that were sent once more", |one| one.repeats),
    ];
    for (name, help, count) in by_kind {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for own in backends {
            for (kind, counts) in HookKind::ALL.into_iter().zip(&own.numbers.kinds) {
                let labels = [("backend", &*own.backend), ("kind", kind.name())];
                ConstCounter::new(count(counts)).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    encode_desks(encoder, backends)
}

/// Encodes the state of each application's desk.
fn encode_desks(
    encoder: &mut DescriptorEncoder<'_>,
    backends: &[HookGauges],
) -> Result<(), fmt::Error> {
    let totals: [(&str, &str, OfDesk); 2] = [
        ("hook_late_answers", "Answers that arrived after their deadline", |one| one.late_answers),
        ("hook_breaker_openings", "How often the breaker has opened", |one| one.breaker_openings),
    ];
    for (name, help, count) in totals {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for own in backends {
            let labels = [("backend", own.backend.as_str())];
            ConstCounter::new(count(&own.numbers)).encode(family.encode_family(&labels)?)?;
        }
    }
    let gauges: [(&str, &str, Option<Unit>, OfDesk); 5] = [
        ("hooks_in_flight", "Requests with questions under way", None, |one| one.in_flight as u64),
        ("hooks_waiting", "Questions that wait to be sent", None, |one| one.waiting as u64),
        ("hook_cache_entries", "Answers in the cache", None, |one| one.cache_entries as u64),
        ("hook_cache", "Memory of cached answers", Some(Unit::Bytes), |one| one.cache_bytes as u64),
        ("hook_breaker", "The breaker: 0 closed, 1 half open, 2 open", None, |one| {
            match one.breaker {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            }
        }),
    ];
    for (name, help, unit, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for own in backends {
            let labels = [("backend", own.backend.as_str())];
            ConstGauge::new(value(&own.numbers)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Encodes the metrics of links.
pub(super) fn encode_links(
    encoder: &mut DescriptorEncoder<'_>,
    backends: &[LinkGauges],
) -> Result<(), fmt::Error> {
    if backends.is_empty() {
        return Ok(());
    }
    let bytes = || Some(Unit::Bytes);
    let totals: [(&str, &str, Option<Unit>, OfLinks); 6] = [
        ("link_records_received", "Records from a backend", None, |one| one.records_in),
        ("link_records_sent", "Records to a backend", None, |one| one.records_out),
        ("link_received", "Bytes from a backend over links", bytes(), |one| one.bytes_in),
        ("link_sent", "Bytes to a backend over links", bytes(), |one| one.bytes_out),
        ("links_lost", "Links that ended without having drained", None, |one| one.lost),
        ("link_dial_failures", "Attempts to open a link that failed", None, |one| {
            one.dial_failures
        }),
    ];
    let gauges: [(&str, &str, Option<Unit>, OfLinks); 5] = [
        ("links_ready", "Open links that take new sessions", None, |one| one.ready),
        ("links_draining", "Open links that drain", None, |one| one.draining),
        ("link_sessions", "Sessions on links", None, |one| one.sessions),
        ("link_queued", "Records that wait to be sent", bytes(), |one| one.queue_bytes),
        ("link_unacknowledged", "Messages that a backend has not acknowledged", bytes(), |one| {
            one.unacked_bytes
        }),
    ];
    for (name, help, unit, value) in totals {
        let mut family =
            encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for own in backends {
            let labels = [("backend", own.backend.as_str())];
            ConstCounter::new(value(own)).encode(family.encode_family(&labels)?)?;
        }
    }
    for (name, help, unit, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for own in backends {
            let labels = [("backend", own.backend.as_str())];
            ConstGauge::new(value(own)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Returns the outcomes of a kind of question, with their counts.
fn outcomes(counts: &HookCounts) -> impl Iterator<Item = (&'static str, u64)> {
    let HookCounts { answered, refused, allowed, cancelled, failed, .. } = *counts;
    let failed =
        FailureCause::ALL.into_iter().zip(failed).map(|(cause, count)| (cause.name(), count));
    [("answered", answered), ("refused", refused), ("allowed", allowed), ("cancelled", cancelled)]
        .into_iter()
        .chain(failed)
}

//! What is counted of an application's links. Tasks of links add, and readers of metrics read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::table::{BackendLink, LinkTable};
use crate::metrics::{LinkGauges, Recorder};

/// Counts of one application, since the start.
#[derive(Debug, Default)]
pub(super) struct LinkCounters {
    pub(super) records_in: AtomicU64,
    pub(super) records_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// Links that ended without having drained.
    pub(super) lost: AtomicU64,
    /// Attempts to dial that failed.
    pub(super) dial_failures: AtomicU64,
}

impl LinkCounters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the counts, with the sums over the application's links.
    pub(super) fn gauges(&self, name: &str, backend: u8, table: &LinkTable) -> LinkGauges {
        let links = table.links();
        let own: Vec<&Arc<BackendLink>> =
            links.iter().filter(|link| link.facts().backend == backend).collect();
        let sum = |of: fn(&BackendLink) -> u64| own.iter().map(|link| of(link)).sum();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkGauges {
            backend: name.to_owned(),
            ready: sum(|link| u64::from(!link.is_draining())),
            draining: sum(|link| u64::from(link.is_draining())),
            sessions: sum(|link| link.sessions().into()),
            queue_bytes: sum(|link| link.queue_bytes() as u64),
            unacked_bytes: sum(|link| link.unacked_bytes() as u64),
            records_in: read(&self.records_in),
            records_out: read(&self.records_out),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            lost: read(&self.lost),
            dial_failures: read(&self.dial_failures),
        }
    }
}

/// Times from a ping to its pong, of all links; kept only once they are read.
#[derive(Debug, Default)]
pub(super) struct RoundTrips(Mutex<Option<Recorder>>);

impl RoundTrips {
    /// Keeps times from now on.
    pub(super) fn keep(&self) {
        if let Ok(mut kept) = self.0.lock() {
            kept.get_or_insert_default();
        }
    }

    pub(super) fn record(&self, time: Duration) {
        if let Ok(mut kept) = self.0.lock()
            && let Some(recorder) = &mut *kept
        {
            recorder.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Takes the times since the last call; `None`: they are not kept.
    pub(super) fn take(&self) -> Option<Recorder> {
        self.0.lock().ok()?.as_mut().map(std::mem::take)
    }
}

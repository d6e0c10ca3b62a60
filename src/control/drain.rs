//! Orders from the admin address to the control thread, and the progress log of a drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::reload::ReloadOutcome;
use crate::shard::mail::Directory;

const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Orders that may be queued for the control thread.
const ORDERS_MAX: usize = 16;

/// An order from the admin address to the control thread.
#[derive(Debug)]
pub(super) enum Order {
    Drain,
    /// Reload the configuration and send back the outcome.
    Reload(oneshot::Sender<ReloadOutcome>),
}

/// The sending half of the queue of orders.
#[derive(Clone, Debug)]
pub(super) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Creates an empty queue; the control loop reads from the receiver.
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        (Self(sender), receiver)
    }

    /// Starts the drain; a no-op if it has started.
    pub(super) async fn drain(&self) {
        // A send fails only after the control loop has ended, and with it the server.
        let _ = self.0.send(Order::Drain).await;
    }

    /// Reloads the configuration, from another thread, without waiting for the outcome.
    pub(super) fn reload_later(&self) {
        let (sender, _) = oneshot::channel();
        // A send fails only after the control loop has ended, and with it the server.
        let _ = self.0.blocking_send(Order::Reload(sender));
    }

    /// Reloads the configuration and waits for the outcome; `None` if the server ends first.
    pub(super) async fn reload(&self) -> Option<ReloadOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Order::Reload(sender)).await.ok()?;
        receiver.await.ok()
    }
}

/// Logs the number of open connections once a second, until all are closed.
pub(super) async fn report_progress(directory: Arc<Directory>) {
    let open = || -> u64 {
        (0..directory.len() as u16).map(|shard| u64::from(directory.open_count(shard))).sum()
    };
    let mut left = open();
    while left > 0 {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let now = open();
        tracing::info!(left = now, closed = left.saturating_sub(now), "draining");
        left = now;
    }
}

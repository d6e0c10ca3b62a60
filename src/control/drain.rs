//! What the admin address asks of the control thread, and the progress of a drain in the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::reload::ReloadOutcome;
use crate::shard::mail::Directory;

const EACH: Duration = Duration::from_secs(1);

/// Orders that may wait for the control thread.
const ORDERS_MAX: usize = 16;

/// What the admin address may ask of the control thread.
#[derive(Debug)]
pub(super) enum Order {
    Drain,
    /// Reload the configuration, and answer when that is done.
    Reload(oneshot::Sender<ReloadOutcome>),
}

/// The way of orders to the control thread.
#[derive(Clone, Debug)]
pub(super) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// With the end that the orders come out of.
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        (Self(sender), receiver)
    }

    /// Begins the drain, if it has not begun.
    pub(super) async fn drain(&self) {
        // The control thread is gone when the server has ended.
        let _ = self.0.send(Order::Drain).await;
    }

    /// Reloads the configuration; `None` when the server ends first.
    pub(super) async fn reload(&self) -> Option<ReloadOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Order::Reload(sender)).await.ok()?;
        receiver.await.ok()
    }
}

/// Says each second how many are left, until nobody is.
pub(super) async fn report(directory: Arc<Directory>) {
    let open = || -> u64 {
        (0..directory.len() as u16).map(|shard| u64::from(directory.open(shard))).sum()
    };
    let mut left = open();
    while left > 0 {
        tokio::time::sleep(EACH).await;
        let now = open();
        tracing::info!(left = now, closed = left.saturating_sub(now), "draining");
        left = now;
    }
}

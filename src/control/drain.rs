//! The graceful end as operators see it: begun by a signal or a call, told about each second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::shard::mailbox::Directory;

const EACH: Duration = Duration::from_secs(1);

/// What the admin address may ask of the control thread.
#[derive(Clone, Debug)]
pub(super) struct Orders(mpsc::Sender<()>);

impl Orders {
    /// With the end that the orders come out of.
    pub(super) fn new() -> (Self, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Begins the drain, if it has not begun.
    pub(super) fn drain(&self) {
        // One order is as good as many.
        let _ = self.0.try_send(());
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

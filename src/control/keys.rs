//! Watches keys fetched from a URL: after one is withdrawn, shards review their connections.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::shard::mail::HubMail;
use crate::shard::mail::{Directory, Mail};

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Posts a review to all shards after each change of the keys, until the process ends.
///
/// A reload starts a review by itself; a second one after it changes nothing.
pub(super) async fn watch_keys(directory: Arc<Directory>, config: Arc<ArcSwap<Config>>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let changes = config.load().auth.verifier.changes();
        if changes != before && directory.hub().is_some() {
            for shard in 0..directory.len() as u16 {
                directory.post(shard, Mail::Hub(Box::new(HubMail::Review)));
            }
        }
        before = changes;
    }
}

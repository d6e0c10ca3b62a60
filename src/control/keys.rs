//! Watches the keys that are fetched from a URL: when one is withdrawn, the shards look at their
//! connections again.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::shard::mail::HubMail;
use crate::shard::mail::{Directory, Mail};

const EACH: Duration = Duration::from_secs(1);

/// Watches until the process ends. A reload has all connections looked at by itself; one more time
/// after it does no harm.
pub(super) async fn watch(directory: Arc<Directory>, config: Arc<ArcSwap<Config>>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(EACH).await;
        let changes = config.load().auth.verifier.changes();
        if changes != before && directory.hub().is_some() {
            for shard in 0..directory.len() as u16 {
                directory.post(shard, Mail::Hub(Box::new(HubMail::Review)));
            }
        }
        before = changes;
    }
}

//! Watches the files of certificates, keys and authorities: after one has changed, the
//! configuration is reloaded.
//!
//! Files are looked at by their times, not by inotify: that works in the sandbox, on network file
//! systems, and for links that are swapped. A reload waits until the files have been the same for a
//! second, so that a chain and its key are both written. A set that is rejected is not tried again
//! before it changes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::drain::Orders;
use crate::config::{Config, FileStamps};

/// How long files must stay the same before they are read.
const SETTLING: Duration = Duration::from_secs(1);

/// What is known of the files that were seen since the last reload.
#[derive(Debug, Default)]
struct Changes {
    /// What differed from what is in force, as last seen.
    seen: Option<FileStamps>,
    /// What a reload was started for.
    tried: Option<FileStamps>,
}

/// What a look at the files leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is new.
    Wait,
    /// Something is new, and may still be being written.
    LookAgain,
    Reload,
}

impl Changes {
    fn step(&mut self, in_force: &FileStamps, now: FileStamps) -> Step {
        if now == *in_force || self.tried.as_ref() == Some(&now) {
            self.seen = None;
            return Step::Wait;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return Step::LookAgain;
        }
        self.tried = self.seen.take();
        Step::Reload
    }
}

/// Reloads the configuration after its certificates' files have changed, until the process ends.
pub(super) async fn watch_files(config: Arc<ArcSwap<Config>>, orders: Orders) {
    let mut changes = Changes::default();
    let mut pause = Duration::ZERO;
    loop {
        let interval_s = config.load().certificate_watch_interval_s;
        if pause.is_zero() {
            // The shortest interval is looked at while it is off, so that a reload turns it on.
            pause = Duration::from_secs(interval_s.max(1).into());
        }
        tokio::time::sleep(pause).await;
        pause = Duration::ZERO;
        let in_force = config.load().tls_files.clone();
        if interval_s == 0 || in_force.is_empty() {
            continue;
        }
        // A file system that does not answer must not hold up the control thread.
        let files = in_force.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || files.again()).await else { continue };
        match changes.step(&in_force, now) {
            Step::Wait => {}
            Step::LookAgain => pause = SETTLING,
            Step::Reload => {
                tracing::info!("files of certificates have changed; reloading the configuration");
                if orders.reload().await.is_none() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reloaded_once_it_has_settled_and_once_only() {
        let [in_force, half, whole] = ["a", "b", "c"].map(|name| FileStamps::unreadable(&[name]));
        let mut changes = Changes::default();
        assert_eq!(changes.step(&in_force, in_force.clone()), Step::Wait);
        assert_eq!(changes.step(&in_force, half.clone()), Step::LookAgain);
        assert_eq!(changes.step(&in_force, whole.clone()), Step::LookAgain);
        assert_eq!(changes.step(&in_force, whole.clone()), Step::Reload);
        // It was rejected: what is in force stays.
        assert_eq!(changes.step(&in_force, whole.clone()), Step::Wait);
        assert_eq!(changes.step(&in_force, half.clone()), Step::LookAgain);
        assert_eq!(changes.step(&in_force, half.clone()), Step::Reload);
        assert_eq!(changes.step(&half, half.clone()), Step::Wait);
        // Back to what was rejected before something else was in force.
        assert_eq!(changes.step(&half, whole.clone()), Step::LookAgain);
        assert_eq!(changes.step(&half, whole), Step::Reload);
    }
}

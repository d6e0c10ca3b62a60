//! Notices that the engine has gone away for long, and that it is back.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::hub::EngineNotice;

/// A shorter absence is not reported: requests wait for as long as it lasts.
pub(super) const AWAY_AFTER: Duration = Duration::from_secs(5);

/// Calls `report` when instances have been away for this long, and when all are back; ends with the
/// outer thread. `connected`: whether all instances are connected.
pub(super) async fn watch_engine(
    mut connected: watch::Receiver<bool>,
    away_after: Duration,
    report: impl Fn(EngineNotice),
) {
    while connected.wait_for(|connected| !connected).await.is_ok() {
        match timeout(away_after, connected.wait_for(|connected| *connected)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => report(EngineNotice::Away),
        }
        if connected.wait_for(|connected| *connected).await.is_err() {
            return;
        }
        report(EngineNotice::Back);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn each_long_absence_is_reported_once_and_a_short_one_is_not() {
        for (away_after, is_reported) in [(Duration::ZERO, true), (Duration::from_hours(1), false)]
        {
            let (sender, receiver) = watch::channel(true);
            let reports = RefCell::new(Vec::new());
            let steps = async {
                for _ in 0..2 {
                    for is_connected in [false, true] {
                        sender.send_replace(is_connected);
                        let before = reports.borrow().len();
                        tokio::task::yield_now().await;
                        while is_reported && reports.borrow().len() == before {
                            tokio::task::yield_now().await;
                        }
                    }
                }
                drop(sender);
            };
            let watching = watch_engine(receiver, away_after, |notice| {
                reports.borrow_mut().push(notice);
            });
            tokio::join!(watching, steps);
            let both = [EngineNotice::Away, EngineNotice::Back];
            assert_eq!(reports.into_inner(), if is_reported { both.repeat(2) } else { Vec::new() });
        }
    }
}

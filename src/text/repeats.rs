//! Limits log lines that clients can cause: one per reason and second, and a count of the rest.

use tracing::{Level, enabled};

/// Reasons since the last [`Self::take`], with their numbers of suppressed lines.
#[derive(Debug, Default)]
pub struct Repeats(Vec<(&'static str, u64)>);

impl Repeats {
    /// Whether to log one more line for this reason; counts it if not. At `debug`, all are logged.
    pub fn admits(&mut self, reason: &'static str) -> bool {
        if enabled!(Level::DEBUG) {
            return true;
        }
        if !enabled!(Level::INFO) {
            return false;
        }
        if let Some((_, left_out)) = self.0.iter_mut().find(|(one, _)| *one == reason) {
            *left_out += 1;
            return false;
        }
        self.0.push((reason, 0));
        true
    }

    /// Clears the counts; returns the reasons with suppressed lines, and how many.
    pub fn take(&mut self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.drain(..).filter(|(_, left_out)| *left_out > 0)
    }
}

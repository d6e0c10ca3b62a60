//! Limits log lines that clients can cause: one per reason and second; the others are counted.

use tracing::{Level, enabled};

/// Reasons since the last [`Self::take`], each with its number of suppressed lines.
#[derive(Debug, Default)]
pub struct Repeats(Vec<(&'static str, u64)>);

impl Repeats {
    /// Returns whether to log another line for this reason; if not, counts it. At `debug`, all are
    /// logged.
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

    /// Clears the counts; returns the reasons with suppressed lines, and their numbers.
    pub fn take(&mut self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.drain(..).filter(|(_, left_out)| *left_out > 0)
    }
}

//! Lines of a log that anybody outside can cause: one for each reason in a second, and a sum of the
//! others.

use tracing::{Level, enabled};

/// Reasons since the last [`Self::take`], with the number of lines that were left out.
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

    /// Begins anew; gives the reasons of which lines were left out, and how many.
    pub fn take(&mut self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.drain(..).filter(|(_, left_out)| *left_out > 0)
    }
}

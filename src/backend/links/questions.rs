//! The questions of a link that await their answers.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::oneshot;

/// As many questions are kept without looking for those that have ended.
const TRIMMED_MIN: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OpenQuestions(Mutex<Questions>);

#[derive(Debug, Default)]
struct Questions {
    last: u32,
    waiting: HashMap<u32, oneshot::Sender<Vec<u8>>>,
    /// The number of questions at which those that have ended are removed.
    trimmed_at: usize,
    /// The link has ended: nothing answers any more.
    is_closed: bool,
}

impl OpenQuestions {
    /// Adds a question; returns its number. `None`: the link has ended.
    pub(super) fn add(&self, answer: oneshot::Sender<Vec<u8>>) -> Option<u32> {
        let mut own = self.0.lock().ok().filter(|own| !own.is_closed)?;
        if own.waiting.len() >= own.trimmed_at {
            // Those that have timed out.
            own.waiting.retain(|_, waits| !waits.is_closed());
            own.trimmed_at = TRIMMED_MIN.max(2 * own.waiting.len());
        }
        own.last = own.last.wrapping_add(1);
        let number = own.last;
        own.waiting.insert(number, answer);
        Some(number)
    }

    /// Passes an answer on. One to a question that has ended is ignored.
    pub(super) fn answer(&self, number: u32, body: &[u8]) {
        let waits = self.0.lock().ok().and_then(|mut own| own.waiting.remove(&number));
        if let Some(waits) = waits {
            // Nothing waits any more: the question has timed out.
            let _ = waits.send(body.to_vec());
        }
    }

    /// Returns whether no question awaits an answer.
    pub(super) fn is_empty(&self) -> bool {
        let is_over = |own: &Questions| own.waiting.values().all(oneshot::Sender::is_closed);
        self.0.lock().is_ok_and(|own| is_over(&own))
    }

    /// Ends all questions without an answer.
    pub(super) fn close(&self) {
        if let Ok(mut own) = self.0.lock() {
            own.is_closed = true;
            own.waiting.clear();
        }
    }
}

//! The numbers of a desk, for metrics.

use crate::hooks::answer::{
    CallAnswer, ConnectAnswer, FailureCause, HookAnswer, HookOutcome, PublishAnswer,
    SubscribeAnswer,
};
use crate::hooks::breaker::BreakerState;
use crate::hooks::question::HookKind;

/// Totals of one kind of question. `asked` is the sum of `answered`, `refused`, `allowed`, `failed`
/// and `cancelled`, and of the questions that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    pub asked: u64,
    /// Answered with anything but a refusal or an error.
    pub answered: u64,
    /// Refused by the application, or answered with an error that it chose.
    pub refused: u64,
    /// Without an answer, but allowed.
    pub allowed: u64,
    /// Without an answer, in the order of [`FailureCause::ALL`].
    pub failed: [u64; FailureCause::ALL.len()],
    /// Clients that left.
    pub cancelled: u64,
    /// Answered from the cache.
    pub cache_hits: u64,
    /// Joined an equal question that was under way.
    pub joined: u64,
    /// Requests that were sent once more.
    pub repeats: u64,
}

/// The state of a desk, and its totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookNumbers {
    /// Requests in flight.
    pub in_flight: usize,
    /// Questions that wait to be sent. Equal ones count as one.
    pub waiting: usize,
    /// Tickets that have not ended.
    pub open: usize,
    pub cache_entries: usize,
    pub cache_bytes: usize,
    /// Memory of questions that wait or are under way, and of their tickets.
    pub held_bytes: usize,
    pub breaker: BreakerState,
    pub breaker_openings: u64,
    /// Responses that arrived after their deadline.
    pub late_answers: u64,
    /// In the order of [`HookKind::ALL`].
    pub kinds: [HookCounts; HookKind::ALL.len()],
}

/// The totals that a desk counts.
#[derive(Debug, Default)]
pub(super) struct DeskCounts {
    pub(super) kinds: [HookCounts; HookKind::ALL.len()],
    pub(super) late_answers: u64,
}

impl DeskCounts {
    pub(super) fn of(&mut self, kind: HookKind) -> &mut HookCounts {
        &mut self.kinds[kind as usize]
    }

    /// Counts the end of a question.
    pub(super) fn finish(&mut self, kind: HookKind, outcome: &HookOutcome) {
        let counts = self.of(kind);
        match outcome {
            HookOutcome::Answered(answer) if is_refusal(answer) => counts.refused += 1,
            HookOutcome::Answered(_) => counts.answered += 1,
            HookOutcome::Allowed => counts.allowed += 1,
            HookOutcome::Failed { cause, .. } => counts.failed[*cause as usize] += 1,
        }
    }
}

fn is_refusal(answer: &HookAnswer) -> bool {
    matches!(
        answer,
        HookAnswer::Connect(ConnectAnswer::Refuse { .. })
            | HookAnswer::Subscribe(SubscribeAnswer::Error(_))
            | HookAnswer::Publish(PublishAnswer::Error(_))
            | HookAnswer::Call(CallAnswer::Error(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_causes_have_their_places() {
        for (place, kind) in HookKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, cause) in FailureCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place);
        }
    }
}

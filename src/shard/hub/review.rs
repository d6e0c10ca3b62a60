//! Reviews connections after rights have changed, by a reload or by withdrawn keys. A turn reviews
//! a bounded number of connections and subscriptions.

use super::{BUDGET, Hub};
use crate::session::hub::REVIEW_ALL;
use crate::shard::connections::Connections;

/// The progress of a review.
#[derive(Debug)]
pub(super) struct Review {
    /// The key of the session under review.
    key: u32,
    /// Its subscriptions below this index are still to be reviewed.
    below: usize,
}

impl Default for Review {
    fn default() -> Self {
        Self { key: 0, below: REVIEW_ALL }
    }
}

impl Hub {
    /// Reviews the next connections, within the turn's bound.
    pub(super) fn continue_review(&mut self, connections: &mut Connections) {
        let mut budget = connections.config().engine.turn_fanout_max as usize;
        while budget > 0
            && let Some(mut review) = self.review.take()
        {
            if review.key as usize >= self.sessions.keys_end() {
                return;
            }
            budget -= 1;
            let slot = self.sessions.slot_of(review.key);
            let next = slot.and_then(|index| {
                self.review_session(connections, index, review.below, &mut budget)
            });
            match next {
                Some(below) => review.below = below,
                None => review = Review { key: review.key + 1, below: REVIEW_ALL },
            }
            self.review = Some(review);
        }
    }

    /// Reviews subscriptions of one session; returns where to continue, `None` if it is finished.
    fn review_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        below: usize,
        budget: &mut usize,
    ) -> Option<usize> {
        let most = *budget;
        let now_ns = connections.now_ns();
        let (next, before) = self.call_session(index, now_ns, BUDGET, |session, call| {
            let before = below.min(session.subscriptions.len());
            (session.review_subscriptions(call, below, most), before)
        })?;
        *budget = budget.saturating_sub(before - next.unwrap_or(0));
        if self.effects.as_ref().is_some_and(|effects| !effects.is_empty()) {
            self.touched.push(index);
        }
        self.apply_effects(connections, index);
        self.reschedule(connections, index);
        next
    }
}

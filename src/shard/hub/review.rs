//! Connections are looked at again when rights have changed: by a reload, or by keys that were
//! withdrawn. A turn looks at a bounded number of them, and of their subscriptions.

use crate::session::hub::REVIEW_ALL;
use crate::shard::core::Core;

/// How far a review has come.
#[derive(Debug)]
pub(super) struct Review {
    slot: usize,
    /// Subscriptions of that slot's connection below this are to be looked at.
    below: usize,
}

impl Default for Review {
    fn default() -> Self {
        Self { slot: 0, below: REVIEW_ALL }
    }
}

impl Core {
    /// Looks at the next connections, within the turn's bound.
    pub(super) fn review_on(&mut self) {
        let mut budget = self.config.engine.turn_fanout_max as usize;
        let now_ns = self.now_ns;
        while budget > 0 {
            let Some(hub) = &mut self.hub else { return };
            let Some(mut review) = hub.review.take() else { return };
            if review.slot >= hub.sessions.len() {
                return;
            }
            let index = review.slot as u32;
            budget -= 1;
            let mut next = None;
            if let Some((session, mut call)) = hub.call(index, now_ns) {
                let before = review.below.min(session.subscriptions.len());
                next = session.review(&mut call, review.below, budget);
                budget = budget.saturating_sub(before - next.unwrap_or(0));
                if !hub.effects.is_empty() || hub.effects.close.is_some() {
                    hub.touched.push(index);
                    self.hub_apply(index);
                }
                self.set_deadline(index);
            }
            match next {
                Some(below) => review.below = below,
                None => review = Review { slot: review.slot + 1, below: REVIEW_ALL },
            }
            if let Some(hub) = &mut self.hub {
                hub.review = Some(review);
            }
        }
    }
}

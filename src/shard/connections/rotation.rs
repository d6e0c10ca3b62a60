//! Queues connections that are served in turn, a part of their input each.
//!
//! Connections in the middle of a large message are served a few at a time, each to the end of its
//! message before the next begins, so that only these few messages need memory. All other
//! connections rotate beside them.
//!
//! Measured with `scripts/load-hostile.sh --kind large`, 20 messages of 15 MB at a time: a peak of
//! 816 MiB resident memory if all connections rotate, and 323 MiB with this.

use std::collections::VecDeque;

use crate::driver::Token;

/// A message is large once this much of it was received.
pub(super) const LARGE_BYTES: usize = 256 * 1024;

/// The queue. See the module.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    waiting: VecDeque<Token>,
    /// Connections in the middle of a large message.
    large: VecDeque<Token>,
    /// Connections of `large` that were served in the last turn: they continue before the others.
    served: Vec<Token>,
}

impl Rotation {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.large.is_empty()
    }

    /// Queues a connection; `is_large`: it is in the middle of a large message.
    pub(super) fn push(&mut self, token: Token, is_large: bool) {
        if !is_large {
            self.waiting.push_back(token);
        } else if self.served.contains(&token) {
            self.large.push_front(token);
        } else {
            self.large.push_back(token);
        }
    }

    /// Begins a turn: connections served in the last one come first.
    pub(super) fn begin_turn(&mut self) {
        self.served.clear();
    }

    /// Removes and returns the next connection of this turn, in which at most `large_max` large
    /// messages are continued.
    pub(super) fn pop(&mut self, large_max: usize) -> Option<Token> {
        if self.served.len() < large_max
            && let Some(token) = self.large.pop_front()
        {
            self.served.push(token);
            return Some(token);
        }
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(slot: u32) -> Token {
        Token { slot, generation: 1 }
    }

    #[test]
    fn large_messages_are_served_a_few_at_a_time_and_leave_room_for_others() {
        let mut rotation = Rotation::default();
        (0..4).for_each(|slot| rotation.push(token(slot), true));
        (4..8).for_each(|slot| rotation.push(token(slot), false));
        let mut turns = Vec::new();
        for _ in 0..3 {
            rotation.begin_turn();
            let turn: Vec<Token> = (0..4).map_while(|_| rotation.pop(2)).collect();
            turn.iter().rev().for_each(|token| rotation.push(*token, token.slot < 4));
            turns.push(turn.iter().map(|token| token.slot).collect::<Vec<_>>());
        }
        assert_eq!(turns, [[0, 1, 4, 5], [0, 1, 6, 7], [0, 1, 5, 4]]);
        rotation.begin_turn();
        assert_eq!(rotation.pop(2), Some(token(0)));
        // Its message has ended: the next in line begins.
        rotation.push(token(0), false);
        assert_eq!((rotation.pop(2), rotation.pop(2)), (Some(token(1)), Some(token(7))));
        rotation.begin_turn();
        assert_eq!(rotation.pop(1), Some(token(2)));
    }
}

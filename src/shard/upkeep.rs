//! What may wait while much happens at once: connections that the peer has ended, parked ones that
//! something has come for, and those to be parked.
//!
//! When very many break, wake or fall quiet at once, a turn finds hundreds of them in a row, each
//! of which costs as much as an echo or more. The news leaves the kernel's queue at once, but the
//! work waits here and is done some in each turn, so that connections in use are served between.
//! A turn does a share of what waits, so that the wait is bounded however much comes, and wakes of
//! connections that go on go before the rest.
//!
//! Measured on one core, p99 of others, without and with it: 100,000 connections of eight shards
//! reset and back, 753 and 34 ms (`scripts/load-storm.sh`); 10,000 members of 1,000 channels parked
//! while they get 720,000 messages/s, 365 and 7 ms (`scripts/load-fanout.sh`).

use std::collections::VecDeque;

use super::Shard;
use super::core::Core;
use super::slot::{Parked, Stage};
use crate::driver::{Driver, Input, Token};
use crate::proto::ws::CloseCode;

/// Done in one turn at least: about as much as its accepts and handshakes cost.
const SHARE_MIN: usize = 32;
/// Of what waits, one in so many is done in a turn.
const SHARE_ONE_IN: usize = 64;
/// Places of a queue that stay when it is empty.
const PLACES_KEPT: usize = 1024;

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chore {
    /// It has been quiet for long.
    Park,
    /// The peer sends no more, by its FIN; what was queued for it still leaves.
    Finish,
    /// The connection broke.
    Drop,
    /// It has ended, but what the peer said before is yet to be received.
    Hear,
}

/// Chores, and parked connections that have something to be received.
#[derive(Default)]
pub(super) struct Upkeep {
    chores: VecDeque<(Token, Chore)>,
    wakes: VecDeque<Token>,
}

impl Upkeep {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.chores.len() + self.wakes.len()
    }

    /// Gives back what only a burst needs.
    pub(super) fn trim(&mut self) {
        self.chores.shrink_to(PLACES_KEPT);
        self.wakes.shrink_to(PLACES_KEPT);
    }
}

fn share(waiting: usize) -> usize {
    SHARE_MIN.max(waiting / SHARE_ONE_IN)
}

impl Core {
    /// Something has come for a parked connection. Those that have ended do not stand before those
    /// that go on.
    pub(super) fn wake_later(&mut self, index: u32, ended: bool) {
        self.slots[index as usize].held = true;
        if ended {
            self.do_later(index, Chore::Hear);
        } else {
            self.upkeep.wakes.push_back(self.token(index));
        }
    }

    /// The next receive is for what has come.
    fn rouse(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.held = false;
        slot.input = Input::There;
    }

    pub(super) fn do_later(&mut self, index: u32, chore: Chore) {
        if matches!(chore, Chore::Park) {
            self.slots[index as usize].parked = Parked::Soon;
        }
        self.upkeep.chores.push_back((self.token(index), chore));
    }
}

impl<D: Driver> Shard<D> {
    /// The peer has ended the connection. Where little is left to be done, that is done at once.
    pub(super) fn ended(&mut self, index: u32, how: Chore) {
        let slot = &mut self.core.slots[index as usize];
        slot.input_ended = true;
        if slot.stage.is_open() || slot.stage.is_handshake() {
            self.core.do_later(index, how);
        } else if matches!(how, Chore::Drop) {
            self.lost(index);
        }
    }

    /// A turn's share.
    pub(super) fn do_chores(&mut self) {
        for _ in 0..share(self.core.upkeep.wakes.len()) {
            let Some(token) = self.core.upkeep.wakes.pop_front() else { break };
            let Some(index) = self.core.find(token) else { continue };
            self.core.rouse(index);
            self.settle(index);
        }
        for _ in 0..share(self.core.upkeep.chores.len()) {
            let Some((token, chore)) = self.core.upkeep.chores.pop_front() else { break };
            let Some(index) = self.core.find(token) else { continue };
            match chore {
                Chore::Park => self.core.park(index),
                Chore::Finish => self.input_ended(index),
                Chore::Drop => self.lost(index),
                Chore::Hear => self.core.rouse(index),
            }
            self.settle(index);
        }
        self.cut |= !self.core.upkeep.is_empty();
        self.cut |= self.core.refresh_deadlines();
    }

    fn input_ended(&mut self, index: u32) {
        if self.core.slots[index as usize].is_unfinished() {
            // What came before the end is looked at first.
            return;
        }
        let next = match &self.core.slots[index as usize].stage {
            Stage::Proxy { .. } | Stage::Http { .. } => Stage::Ending,
            Stage::Open(_) | Stage::Closing { .. } => Stage::Finishing,
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => return,
        };
        self.core.leave(index, next, CloseCode::ABNORMAL);
    }

    pub(super) fn lost(&mut self, index: u32) {
        if !matches!(self.core.slots[index as usize].stage, Stage::Ending) {
            self.core.counters.connection_errors += 1;
            self.core.abort(index, CloseCode::ABNORMAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_that_waits_is_done_in_a_bounded_number_of_turns() {
        for waiting in [1, 31, 32, 2048, 2049, 100_000, 1_000_000] {
            let (mut left, mut turns) = (waiting, 0);
            while left > 0 {
                left -= share(left).min(left);
                turns += 1;
            }
            // A 64th each: some 64 turns for each power of e, and as many for the last 2,048.
            assert!(turns <= 64 * 8, "{waiting} took {turns} turns");
        }
    }
}

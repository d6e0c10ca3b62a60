//! Deferred work: connections that the peer has ended, parked ones that something has come for, and
//! those to be parked.
//!
//! When very many break, wake or fall quiet at once, a turn finds hundreds of them in a row, each
//! of which costs as much as an echo or more. Each completion leaves the kernel's queue at once,
//! but the work waits here and is done some in each turn, so that connections in use are served
//! between. A turn does a share of what waits, so that the wait is bounded however much comes, and
//! wakes of live connections come before the rest.
//!
//! Measured on one core, p99 of others, without and with it: 100,000 connections of eight shards
//! reset and back, 753 and 34 ms (`scripts/load-storm.sh`); 10,000 members of 1,000 channels parked
//! while they get 720,000 messages/s, 365 and 7 ms (`scripts/load-fanout.sh`).

use std::collections::VecDeque;

use super::stage::Stage;
use super::{Connections, Sessions};
use crate::driver::{Driver, Token};
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

impl Connections {
    /// Something has come for a parked connection. Live connections are served before closed ones.
    pub(super) fn wake_later(&mut self, index: u32, has_ended: bool) {
        self.slot_mut(index).receiving_mut().await_turn();
        if has_ended {
            self.defer(index, Chore::Hear);
        } else {
            self.upkeep.wakes.push_back(self.token(index));
        }
    }

    /// Queues work of a connection for this turn's share, or a later one's.
    pub(super) fn defer(&mut self, index: u32, chore: Chore) {
        if matches!(chore, Chore::Park) {
            self.slot_mut(index).receiving_mut().park_soon();
        }
        self.upkeep.chores.push_back((self.token(index), chore));
    }

    /// Whether deferred work waits.
    pub(in crate::shard) fn has_deferred(&self) -> bool {
        !self.upkeep.is_empty()
    }

    /// The peer has ended the connection. Where little is left to be done, that is done at once.
    pub(super) fn note_end(&mut self, sessions: &mut impl Sessions, index: u32, how: Chore) {
        let slot = self.slot_mut(index);
        slot.receiving_mut().end();
        if slot.stage().is_websocket() || slot.stage().is_handshake() {
            self.defer(index, how);
        } else if matches!(how, Chore::Drop) {
            self.lose(sessions, index);
        }
    }

    /// Does a turn's share of the deferred work; returns whether more is left.
    pub(in crate::shard) fn do_deferred(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) -> bool {
        for _ in 0..share(self.upkeep.wakes.len()) {
            let Some(token) = self.upkeep.wakes.pop_front() else { break };
            let Some(index) = self.find(token) else { continue };
            self.slot_mut(index).receiving_mut().expect_input();
            self.reconcile(driver, index);
        }
        for _ in 0..share(self.upkeep.chores.len()) {
            let Some((token, chore)) = self.upkeep.chores.pop_front() else { break };
            let Some(index) = self.find(token) else { continue };
            match chore {
                Chore::Park => self.park(index),
                Chore::Finish => self.end_input(sessions, index),
                Chore::Drop => self.lose(sessions, index),
                Chore::Hear => self.slot_mut(index).receiving_mut().expect_input(),
            }
            self.reconcile(driver, index);
        }
        self.has_deferred()
    }

    fn end_input(&mut self, sessions: &mut impl Sessions, index: u32) {
        let slot = self.slot(index);
        if slot.receiving().is_unfinished() {
            // What came before the end is processed first.
            return;
        }
        let next = match slot.stage() {
            Stage::Proxy { .. } | Stage::Http { .. } | Stage::Asking(_) => Stage::Ending,
            Stage::Open(_) | Stage::Closing { .. } => Stage::Finishing,
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => return,
        };
        self.leave(sessions, index, next, CloseCode::ABNORMAL);
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

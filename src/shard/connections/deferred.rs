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

/// Tasks run in one turn at least: they cost about as much as its accepts and handshakes.
const SHARE_MIN: usize = 32;
/// Of all queued tasks, one in so many is run in a turn.
const SHARE_ONE_IN: usize = 64;
/// Places of a queue that stay when it is empty.
const PLACES_KEPT: usize = 1024;

/// Deferred work of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeferredTask {
    /// Park it: it has been quiet for long.
    Park,
    /// End its input: the peer has sent a FIN. What is queued for it still leaves.
    Finish,
    /// Drop it: the connection broke.
    Drop,
    /// Receive what the peer sent before it ended the connection.
    ReceiveRest,
}

/// Tasks, and parked connections that have input to be received (`wakes`), oldest first.
#[derive(Default)]
pub(super) struct DeferredWork {
    tasks: VecDeque<(Token, DeferredTask)>,
    wakes: VecDeque<Token>,
}

impl DeferredWork {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tasks and wakes that are queued.
    pub(super) fn len(&self) -> usize {
        self.tasks.len() + self.wakes.len()
    }

    /// Gives back what only a burst needs.
    pub(super) fn trim(&mut self) {
        self.tasks.shrink_to(PLACES_KEPT);
        self.wakes.shrink_to(PLACES_KEPT);
    }
}

/// How many of the queued tasks one turn runs. It grows with the queue, so that the wait of any
/// one is bounded however many come.
fn turn_share(waiting: usize) -> usize {
    SHARE_MIN.max(waiting / SHARE_ONE_IN)
}

impl Connections {
    /// Queues a parked connection whose poll has fired for its receive. Live connections are served
    /// before closed ones.
    pub(super) fn defer_wake(&mut self, index: u32, has_ended: bool) {
        self.slot_mut(index).receiving_mut().await_turn();
        if has_ended {
            self.defer(index, DeferredTask::ReceiveRest);
        } else {
            self.deferred.wakes.push_back(self.token(index));
        }
    }

    /// Queues work of a connection for this turn's share, or a later one's.
    pub(super) fn defer(&mut self, index: u32, task: DeferredTask) {
        if matches!(task, DeferredTask::Park) {
            self.slot_mut(index).receiving_mut().park_soon();
        }
        self.deferred.tasks.push_back((self.token(index), task));
    }

    /// Whether deferred work waits.
    pub(in crate::shard) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The peer has ended the connection. Where little is left to be done, that is done at once.
    pub(super) fn note_end(&mut self, sessions: &mut impl Sessions, index: u32, how: DeferredTask) {
        let slot = self.slot_mut(index);
        slot.receiving_mut().note_end();
        if slot.stage().is_websocket() || slot.stage().is_handshake() {
            self.note_stream_end(index);
            self.defer(index, how);
        } else if matches!(how, DeferredTask::Drop) {
            self.drop_broken(sessions, index);
        }
    }

    /// Runs a turn's share of the deferred work; returns whether there is more.
    pub(in crate::shard) fn run_deferred(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) -> bool {
        for _ in 0..turn_share(self.deferred.wakes.len()) {
            let Some(token) = self.deferred.wakes.pop_front() else { break };
            let Some(index) = self.find(token) else { continue };
            self.slot_mut(index).receiving_mut().expect_input();
            self.reconcile(driver, index);
        }
        for _ in 0..turn_share(self.deferred.tasks.len()) {
            let Some((token, task)) = self.deferred.tasks.pop_front() else { break };
            let Some(index) = self.find(token) else { continue };
            match task {
                DeferredTask::Park => self.park(index),
                DeferredTask::Finish => self.end_input(sessions, index),
                DeferredTask::Drop => self.drop_broken(sessions, index),
                DeferredTask::ReceiveRest => self.slot_mut(index).receiving_mut().expect_input(),
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
                left -= turn_share(left).min(left);
                turns += 1;
            }
            // A 64th each: some 64 turns for each power of e, and as many for the last 2,048.
            assert!(turns <= 64 * 8, "{waiting} took {turns} turns");
        }
    }
}

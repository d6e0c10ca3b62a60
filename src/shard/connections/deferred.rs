//! Deferred work: connections that the peer has ended, parked connections with input, and
//! connections to be parked.
//!
//! When very many connections break, wake or fall quiet at once, a turn reaps hundreds of such
//! completions in a row, each of which costs as much as an echo or more. Each completion is removed
//! from the kernel's queue at once, but its work is queued here and spread over turns, so that
//! connections in use are served in between. A turn does a fixed share of the queue, so the wait is
//! bounded however long the queue is; wakes of live connections are served before the rest.
//!
//! Measured on one core, p99 of other connections, without and with it: 100,000 connections of
//! eight shards reset and reconnected, 753 and 34 ms (`scripts/load-storm.sh`); 10,000 members of
//! 1,000 channels parked while they get 720,000 messages/s, 365 and 7 ms
//! (`scripts/load-fanout.sh`).

use std::collections::VecDeque;

use super::stage::Stage;
use super::{Connections, Sessions};
use crate::driver::{Driver, Token};
use crate::proto::ws::CloseCode;

/// The minimum number of tasks run in one turn: they cost about as much as its accepts and
/// handshakes.
const SHARE_MIN: usize = 32;
/// One in this many queued tasks is run in a turn.
const SHARE_ONE_IN: usize = 64;
/// The capacity of the queues that is kept when they are empty.
const PLACES_KEPT: usize = 1024;

/// Deferred work of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeferredTask {
    /// Park it: it has been quiet for long.
    Park,
    /// End its input: the peer has sent a FIN. Queued output is still sent.
    Finish,
    /// Drop it: the connection is broken.
    Drop,
    /// Receive the input that the peer sent before it closed the connection.
    ReceiveRest,
}

/// Queued tasks, and parked connections with input (`wakes`), oldest first.
#[derive(Default)]
pub(super) struct DeferredWork {
    tasks: VecDeque<(Token, DeferredTask)>,
    wakes: VecDeque<Token>,
}

impl DeferredWork {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of queued tasks and wakes.
    pub(super) fn len(&self) -> usize {
        self.tasks.len() + self.wakes.len()
    }

    /// Returns memory that only a burst needed.
    pub(super) fn trim(&mut self) {
        self.tasks.shrink_to(PLACES_KEPT);
        self.wakes.shrink_to(PLACES_KEPT);
    }
}

/// Returns the number of queued tasks that one turn runs. It grows with the queue, so that the wait
/// of a task is bounded.
fn turn_share(waiting: usize) -> usize {
    SHARE_MIN.max(waiting / SHARE_ONE_IN)
}

impl Connections {
    /// Queues the receive of a parked connection whose poll has fired. Live connections are served
    /// before closed ones.
    pub(super) fn defer_wake(&mut self, index: u32, has_ended: bool) {
        self.slot_mut(index).receiving_mut().await_turn();
        if has_ended {
            self.defer_task(index, DeferredTask::ReceiveRest);
        } else {
            self.deferred.wakes.push_back(self.token(index));
        }
    }

    /// Queues a task of a connection, for this turn or a later one.
    pub(super) fn defer_task(&mut self, index: u32, task: DeferredTask) {
        if matches!(task, DeferredTask::Park) {
            self.slot_mut(index).receiving_mut().park_soon();
        }
        self.deferred.tasks.push_back((self.token(index), task));
    }

    /// Returns whether deferred work is queued.
    pub(in crate::shard) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Records that the peer has ended the connection. The work that follows is deferred, unless
    /// the connection was ending already.
    pub(super) fn note_end(&mut self, sessions: &mut impl Sessions, index: u32, how: DeferredTask) {
        self.advance_waiting_handshake(sessions, index);
        let slot = self.slot_mut(index);
        slot.receiving_mut().note_end();
        if slot.stage().is_websocket() || slot.stage().is_handshake() {
            self.note_stream_end(index);
            self.defer_task(index, how);
        } else if matches!(how, DeferredTask::Drop) {
            self.drop_broken(sessions, index);
        }
    }

    /// Runs a turn's share of the deferred work; returns whether more remains.
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
                DeferredTask::Park => self.park_connection(index),
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
            // Input that arrived before the end is processed first.
            return;
        }
        let next = match slot.stage() {
            Stage::Forwarding(forwarding) if forwarding.is_sent => return,
            Stage::Proxy { .. } | Stage::Http { .. } | Stage::Asking(_) | Stage::Forwarding(_) => {
                Stage::Ending
            }
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

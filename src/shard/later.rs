//! What may wait while much happens at once: connections that the peer has ended, parked ones that
//! something has come for, and those to be parked.
//!
//! When very many break, wake or fall quiet at once, a turn finds hundreds of them in a row, each
//! of which costs as much as an echo or more. The news leaves the kernel's queue at once, but the
//! work waits here and is done some in each turn, so that connections in use are served between.
//! Measured on one core, p99 of others, without and with it: 100,000 connections of eight shards
//! reset and back, 753 and 34 ms (`scripts/load-storm.sh`); 10,000 members of 1,000 channels parked
//! while they get 720,000 messages/s, 365 and 7 ms (`scripts/load-fanout.sh`).

use super::Shard;
use super::core::Core;
use super::slot::{Parked, Stage};
use crate::driver::Driver;

/// Done in one turn: about as much as its accepts and handshakes.
const LATER_MAX: usize = 32;

/// Places of the queue that stay when it is empty.
pub(super) const LATER_KEPT: usize = 1024;

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Later {
    /// It has been quiet for long.
    Park,
    /// It was parked, and has something to be received.
    Receive,
    /// The peer sends no more, by its FIN; what was queued for it still leaves.
    Finish,
    /// The connection broke.
    Drop,
}

impl Core {
    pub(super) fn do_later(&mut self, index: u32, what: Later) {
        let slot = &mut self.slots[index as usize];
        match what {
            Later::Park => slot.parked = Parked::Soon,
            Later::Receive => slot.held = true,
            Later::Finish | Later::Drop => slot.input_ended = true,
        }
        self.later.push_back((self.token(index), what));
    }
}

impl<D: Driver> Shard<D> {
    /// A turn's share.
    pub(super) fn do_now(&mut self) {
        for _ in 0..LATER_MAX {
            let Some((token, what)) = self.core.later.pop_front() else { return };
            let Some(index) = self.core.find(token) else { continue };
            match what {
                Later::Park => self.core.park(index),
                Later::Receive => {
                    let slot = &mut self.core.slots[index as usize];
                    slot.held = false;
                    slot.readable = true;
                }
                Later::Finish => self.input_ended(index),
                Later::Drop => self.lost(index),
            }
            self.settle(index);
        }
        self.cut |= !self.core.later.is_empty();
    }

    fn input_ended(&mut self, index: u32) {
        let next = match &self.core.slots[index as usize].stage {
            Stage::Proxy { .. } | Stage::Http { .. } => Stage::Ending,
            Stage::Open(_) | Stage::Closing { .. } => Stage::Finishing,
            Stage::Finishing | Stage::Lingering { .. } | Stage::Ending => return,
        };
        self.core.leave(index, next, 1006);
    }

    pub(super) fn lost(&mut self, index: u32) {
        if !matches!(self.core.slots[index as usize].stage, Stage::Ending) {
            self.core.counters.connection_errors += 1;
            self.core.abort(index, 1006);
        }
    }
}

//! What may wait while much happens at once: connections that the peer has ended, and parked ones
//! that something has come for.
//!
//! When very many break or wake at once, a turn finds hundreds of them in a row, each of which
//! costs as much as an echo or more. The news leaves the kernel's queue at once, but the work waits
//! here and is done some in each turn, so that connections that are in use are served between.
//! Measured with 100,000 connections on eight shards of one core, for echoes of others: all reset
//! at once, at most 26 ms (before: 104 ms); all closed at once after a minute's rest, see the
//! figures of `scripts/load-storm.sh`.

use super::Shard;
use super::slot::Stage;
use crate::driver::Driver;

/// Done in one turn: about as much as its accepts and handshakes.
const LATER_MAX: usize = 32;

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Later {
    /// It was parked, and has something to be received.
    Receive,
    /// The peer sends no more, by its FIN; what was queued for it still leaves.
    Finish,
    /// The connection broke.
    Drop,
}

impl<D: Driver> Shard<D> {
    pub(super) fn do_later(&mut self, index: u32, what: Later) {
        let slot = &mut self.core.slots[index as usize];
        match what {
            Later::Receive => slot.held = true,
            Later::Finish | Later::Drop => slot.input_ended = true,
        }
        self.later.push_back((self.core.token(index), what));
    }

    /// A turn's share.
    pub(super) fn do_now(&mut self) {
        for _ in 0..LATER_MAX {
            let Some((token, what)) = self.later.pop_front() else { return };
            let Some(index) = self.core.find(token) else { continue };
            match what {
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
        self.cut |= !self.later.is_empty();
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

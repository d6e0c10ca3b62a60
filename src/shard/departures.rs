//! Connections that the peer has ended, taken down some in each turn.
//!
//! When very many break at once, a turn finds hundreds of ends in a row, each of which costs more
//! than an echo: the news of it leaves the kernel's queue at once, but the work waits here, so that
//! whoever stays, or comes, is served between. Measured with 100,000 resets at once on eight shards
//! of one core, without it: see `scripts/load-storm.sh`.

use super::Shard;
use super::slot::Stage;
use crate::driver::Driver;

/// Taken down in one turn: about as long as its handshakes take.
const DEPARTURES_MAX: usize = 32;

/// How the peer went.
#[derive(Clone, Copy, Debug)]
pub(super) enum Departure {
    /// It sends no more, by its FIN; what was queued for it still leaves.
    Finished,
    /// The connection broke.
    Broken,
}

impl<D: Driver> Shard<D> {
    /// Notes that there is no more input; the connection's end follows soon.
    pub(super) fn departs(&mut self, index: u32, how: Departure) {
        self.core.slots[index as usize].input_ended = true;
        self.departing.push_back((self.core.token(index), how));
    }

    /// A turn's share of those who have gone.
    pub(super) fn depart(&mut self) {
        for _ in 0..DEPARTURES_MAX {
            let Some((token, how)) = self.departing.pop_front() else { return };
            let Some(index) = self.core.find(token) else { continue };
            match how {
                Departure::Finished => self.input_ended(index),
                Departure::Broken => self.lost(index),
            }
            self.settle(index);
        }
        self.cut |= !self.departing.is_empty();
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

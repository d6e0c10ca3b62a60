//! What a load is, and how it drives its fleet.

use std::io;
use std::time::Instant;

use super::Fleet;
use crate::client::Fault;

/// Nanoseconds since the run began, the same for all threads.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// After a closing handshake, or because the load aborted it.
    Clean,
    Lost(Fault),
}

impl Ending {
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(self, Self::Lost(Fault::System(..) | Fault::Ended(_)))
    }
}

/// What the load needs after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Wait for completions, at most until this time.
    Until(u64),
    Done,
}

/// The behaviour of a run's connections. Methods are called between completions, never inside one.
pub trait Load {
    /// Runs once a turn, before the wait.
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn>;
    /// A connection is open.
    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()>;
    /// Whole messages arrived.
    fn messages(&mut self, fleet: &mut Fleet, slot: u32, count: u32, now_ns: u64)
    -> io::Result<()>;
    /// One of these messages, if the run's terms pass messages to the load; `messages` follows.
    fn heard(&mut self, _: &mut Fleet, _slot: u32, _text: &[u8], _now_ns: u64) -> io::Result<()> {
        Ok(())
    }
    /// Pongs arrived.
    fn ponged(&mut self, _slot: u32, _count: u32) {}
    /// Pings arrived; the pongs are being sent.
    fn pinged(&mut self, _slot: u32, _count: u32) {}
    /// A connection has ended, and its slot is free.
    fn ended(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        ending: Ending,
        now_ns: u64,
    ) -> io::Result<()>;
}

//! `hold`: idle connections kept open, pings answered, and every one asked at the end whether it is
//! still alive.
//!
//! The measuring thread moves a goal; the workers follow it and count.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::client::Stage;
use crate::crew::{Failure, Shared, share};
use crate::fleet::{Ending, Fleet, Load, Turn};

/// How often a worker looks for a new goal.
const POLL_NS: u64 = 5_000_000;
/// Pings or closes begun in one turn: all at once would overrun the server's queues and ours.
const BURST: u32 = 512;
/// Payload of the question at the end.
const QUESTION: &[u8] = b"alive?";

/// What the measuring thread wants.
#[derive(Debug, Default)]
pub struct Goal {
    /// Connections to be open, over all threads.
    pub connections: AtomicUsize,
    /// Ask each connection for a pong.
    pub asking: AtomicBool,
    /// Close them all.
    pub closing: AtomicBool,
    /// Pongs that came to the question.
    pub alive: AtomicUsize,
    /// Connections lost after they were open.
    pub lost: AtomicUsize,
}

/// The load of one thread.
pub struct HoldLoad {
    shared: Arc<Shared>,
    goal: Arc<Goal>,
    thread: usize,
    threads: usize,
    parallel: u32,
    slots: u32,
    asked: u32,
    opening: u32,
    next_question: u32,
    next_close: u32,
    failure: Option<Failure>,
}

impl HoldLoad {
    pub fn new(
        shared: Arc<Shared>,
        goal: Arc<Goal>,
        thread: usize,
        threads: usize,
        parallel: u32,
        slots: u32,
    ) -> Self {
        Self {
            shared,
            goal,
            thread,
            threads,
            parallel,
            slots,
            asked: 0,
            opening: 0,
            next_question: 0,
            next_close: 0,
            failure: None,
        }
    }

    pub fn finish(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        let total = self.goal.connections.load(Ordering::Acquire);
        let wanted = (share(total, self.thread, self.threads) as u32).min(self.slots);
        while self.asked < wanted && self.opening < self.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
        }
        Ok(())
    }

    fn ask(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let until = (self.next_question + BURST).min(self.slots);
        for slot in self.next_question..until {
            if fleet.stage(slot) == Stage::Open {
                fleet.ping(slot, QUESTION)?;
            }
        }
        self.next_question = until;
        Ok(())
    }

    fn close(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<bool> {
        let until = (self.next_close + BURST).min(self.slots);
        for slot in self.next_close..until {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        self.next_close = until;
        Ok(until == self.slots && (0..self.slots).all(|slot| fleet.stage(slot) == Stage::Free))
    }
}

impl Load for HoldLoad {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        if self.goal.closing.load(Ordering::Acquire) {
            let over = self.close(fleet, now_ns)?;
            return Ok(if over { Turn::Done } else { Turn::Until(now_ns + POLL_NS) });
        }
        self.open_more(fleet, now_ns)?;
        if self.goal.asking.load(Ordering::Acquire) && self.next_question < self.slots {
            self.ask(fleet)?;
            return Ok(Turn::Until(now_ns));
        }
        Ok(Turn::Until(now_ns + POLL_NS))
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn ponged(&mut self, _slot: u32, count: u32) {
        self.goal.alive.fetch_add(count as usize, Ordering::AcqRel);
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        let Ending::Lost(fault) = ending else { return Ok(()) };
        if self.goal.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        self.goal.lost.fetch_add(1, Ordering::AcqRel);
        if self.failure.is_none() {
            self.failure = Some(Failure::lost(&fault));
            self.shared.stop();
        }
        Ok(())
    }
}

//! `slow`: connections that send and do not read, or read little.
//!
//! How such a connection was closed is in the bytes it did not read. So at the end of the run it
//! reads everything: a Close has a code, a reset means that the server stopped waiting.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::bystanders::Times;
use crate::client::Stage;
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::schedule::Schedule;

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// How often slow connections read; a faster rate makes it more often.
const READ_NS: u64 = 100_000_000;

/// One worker's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct SlowPlan {
    pub slots: u32,
    pub parallel: u32,
    /// Bytes per second that each connection reads; 0 = none.
    pub read_rate: u32,
    /// Messages per second that each connection sends.
    pub send_rate: u64,
    /// Bytes of one read at most.
    pub buffer_size: u32,
}

/// The results of one worker.
#[derive(Debug, Default)]
pub struct SlowResult {
    pub sent: u64,
    pub echoed: u64,
    /// How the server ended connections, by code or reason.
    pub ended: BTreeMap<String, u64>,
    pub still_open: u64,
}

/// The load of one worker.
pub struct Slow {
    plan: SlowPlan,
    shared: Arc<Shared>,
    times: Arc<Times>,
    asked: u32,
    opening: u32,
    live: u32,
    schedule: Option<Schedule>,
    next_slot: u32,
    next_read_ns: u64,
    resumed: bool,
    closed: bool,
    result: SlowResult,
    failure: Option<Failure>,
}

impl Slow {
    pub fn new(plan: SlowPlan, shared: Arc<Shared>, times: Arc<Times>) -> Self {
        Self {
            plan,
            shared,
            times,
            asked: 0,
            opening: 0,
            live: 0,
            schedule: None,
            next_slot: 0,
            next_read_ns: 0,
            resumed: false,
            closed: false,
            result: SlowResult::default(),
            failure: None,
        }
    }

    pub fn finish(self) -> Result<SlowResult, Failure> {
        self.failure.map_or(Ok(self.result), Err)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.plan.slots && self.opening < self.plan.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    /// Sends due messages and reads what the rate allows; returns the time of the next event.
    fn make_trouble(&mut self, fleet: &mut Fleet, start_ns: u64, now_ns: u64) -> io::Result<u64> {
        let slots = self.plan.slots;
        let mut schedule = match self.schedule {
            Some(schedule) => schedule,
            None => {
                for slot in 0..slots {
                    fleet.meter(slot)?;
                }
                Schedule::new(start_ns, self.plan.send_rate * u64::from(slots), 0, 1)
            }
        };
        while schedule.take(now_ns).is_some() {
            let slot = self.next_slot;
            self.next_slot = (slot + 1) % slots;
            if fleet.stage(slot) == Stage::Open {
                self.result.sent += 1;
                fleet.send(slot, 1)?;
            }
        }
        self.schedule = Some(schedule);
        let mut next_ns = schedule.next_ns();
        if self.plan.read_rate > 0 {
            let most_ns = u64::from(self.plan.buffer_size) * 1_000_000_000;
            let read_ns = READ_NS.min(most_ns / u64::from(self.plan.read_rate)).max(1);
            if now_ns >= self.next_read_ns {
                self.next_read_ns = now_ns + read_ns;
                let bytes = u64::from(self.plan.read_rate) * read_ns / 1_000_000_000;
                for slot in 0..slots {
                    fleet.read_at_most(slot, bytes.max(1) as u32)?;
                }
            }
            next_ns = next_ns.min(self.next_read_ns);
        }
        Ok(next_ns)
    }

    fn close_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        self.closed = true;
        for slot in 0..self.plan.slots {
            if fleet.stage(slot) == Stage::Open {
                self.result.still_open += 1;
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(())
    }
}

impl Load for Slow {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        let poll_ns = now_ns + POLL_NS;
        if Times::passed(&self.times.close_ns, now_ns) {
            if !self.closed {
                self.close_all(fleet, now_ns)?;
            }
            return Ok(if self.live == 0 { Turn::Done } else { Turn::Until(poll_ns) });
        }
        if Times::passed(&self.times.calm_ns, now_ns) {
            if !std::mem::replace(&mut self.resumed, true) {
                for slot in 0..self.plan.slots {
                    fleet.resume(slot)?;
                }
            }
            return Ok(Turn::Until(poll_ns));
        }
        self.open_more(fleet, now_ns)?;
        match Times::known(&self.times.trouble_ns) {
            Some(start_ns) if start_ns <= now_ns => {
                let next_ns = self.make_trouble(fleet, start_ns, now_ns)?;
                Ok(Turn::Until(next_ns.min(poll_ns)))
            }
            _ => Ok(Turn::Until(poll_ns)),
        }
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.times.ready.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, count: u32, _: u64) -> io::Result<()> {
        self.result.echoed += u64::from(count);
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.live -= 1;
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        if self.closed {
            return Ok(());
        }
        let Ending::Lost(fault) = ending else { return Ok(()) };
        if self.schedule.is_none() {
            self.failure = Some(Failure::lost(&fault));
            self.shared.stop();
            return Ok(());
        }
        *self.result.ended.entry(fault.ending()).or_default() += 1;
        Ok(())
    }
}

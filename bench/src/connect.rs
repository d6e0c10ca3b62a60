//! `connect`: connections opened and cleanly closed again and again.
//!
//! Closed loop: a number of connections is always on its way. Open loop: connections are due at
//! fixed times, and the latency of a handshake counts from when it was due.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::crew::Shared;
use crate::echo::nanoseconds;
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::schedule::Schedule;

/// How long connections may take to end after the load has.
const DRAIN_NS: u64 = 2_000_000_000;
/// How often a thread that waits for the end looks.
const POLL_NS: u64 = 2_000_000;

/// One thread's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct ConnectPlan {
    /// Slots: connections on their way at a time.
    pub parallel: u32,
    pub rate: Option<u64>,
    /// Connections after which this thread is done.
    pub limit: u64,
    pub start_ns: u64,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    pub thread: usize,
    pub threads: usize,
}

/// What one thread measured.
#[derive(Debug)]
pub struct ConnectResult {
    /// From connect, or from when it was due, to a right answer.
    pub latency: Histogram<u64>,
    /// Connections lost, by reason.
    pub failures: BTreeMap<String, u64>,
}

/// The load of one thread.
pub struct ConnectLoad {
    plan: ConnectPlan,
    shared: Arc<Shared>,
    schedule: Option<Schedule>,
    free: Vec<u32>,
    begun_ns: Vec<u64>,
    begun: u64,
    done: u64,
    result: ConnectResult,
}

impl ConnectLoad {
    pub fn new(plan: ConnectPlan, shared: Arc<Shared>) -> Self {
        let schedule =
            plan.rate.map(|rate| Schedule::new(plan.start_ns, rate, plan.thread, plan.threads));
        Self {
            plan,
            shared,
            schedule,
            free: (0..plan.parallel).rev().collect(),
            begun_ns: vec![0; plan.parallel as usize],
            begun: 0,
            done: 0,
            result: ConnectResult { latency: nanoseconds(), failures: BTreeMap::new() },
        }
    }

    pub fn finish(self) -> ConnectResult {
        self.result
    }

    fn measured(&self) -> std::ops::Range<u64> {
        let from_ns = self.plan.start_ns + self.plan.warmup_ns;
        from_ns..from_ns + self.plan.duration_ns
    }

    /// Opens what is due while slots are free: a slot that is missing delays, and the delay counts.
    fn open_due(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.begun < self.plan.limit {
            let Some(slot) = self.free.last().copied() else { return Ok(()) };
            let due_ns = match &mut self.schedule {
                None => now_ns,
                Some(schedule) => match schedule.take(now_ns) {
                    Some(due_ns) => due_ns,
                    None => return Ok(()),
                },
            };
            self.free.pop();
            self.begun += 1;
            self.begun_ns[slot as usize] = due_ns;
            fleet.open(slot, now_ns)?;
        }
        Ok(())
    }

    fn all_free(&self) -> bool {
        self.free.len() == self.plan.parallel as usize
    }
}

impl Load for ConnectLoad {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        self.shared.done[self.plan.thread].set(self.done);
        if self.shared.stopped() {
            return Ok(Turn::Done);
        }
        if now_ns < self.plan.start_ns {
            return Ok(Turn::Until(self.plan.start_ns));
        }
        let end_ns = self.measured().end;
        let exhausted = self.begun >= self.plan.limit;
        if now_ns >= end_ns || exhausted {
            let over = self.all_free() || now_ns >= end_ns + DRAIN_NS;
            return Ok(if over { Turn::Done } else { Turn::Until(now_ns + POLL_NS) });
        }
        self.open_due(fleet, now_ns)?;
        let due_ns = self.schedule.as_ref().map_or(end_ns, Schedule::next_ns);
        // Without a free slot the next completion, and not the schedule, is what to wait for.
        let due_ns = if self.free.is_empty() { end_ns } else { due_ns };
        Ok(Turn::Until(due_ns.min(end_ns)))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        let begun_ns = self.begun_ns[slot as usize];
        if self.measured().contains(&begun_ns) {
            self.result.latency.saturating_record(now_ns - begun_ns);
        }
        fleet.close(slot, now_ns)
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        // A server may greet; nothing was asked, so nothing is counted.
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, slot: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.free.push(slot);
        match ending {
            Ending::Clean => self.done += 1,
            Ending::Lost(fault) => {
                *self.result.failures.entry(fault.to_string()).or_default() += 1;
            }
        }
        Ok(())
    }
}

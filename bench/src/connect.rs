//! `connect`: opens connections and closes them cleanly, again and again.
//!
//! Closed loop: a fixed number of connections is always being opened. Open loop: connections are
//! due at fixed times, and the latency of a handshake counts from then. Churn: a population of
//! connections, each closed at its age and reopened.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use crate::client::Stage;
use crate::crew::Shared;
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::recorder::{Recorder, nanoseconds};
use crate::schedule::Schedule;

/// Limit for connections to close after the load.
const DRAIN_NS: u64 = 2_000_000_000;
/// How often a thread that waits for the end checks.
const POLL_NS: u64 = 2_000_000;

/// When connections are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// As soon as a slot is free.
    Closed,
    /// This many per second over all workers, after a rise from 0.
    Open { rate: u64, ramp_ns: u64 },
    /// Each slot is opened, held for this time, closed, and opened again.
    Churn { hold_ns: u64 },
}

/// One worker's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct ConnectPlan {
    /// Slots: connections being opened at a time, or the population of a churn.
    pub slots: u32,
    pub arrivals: Arrivals,
    /// Connections after which this worker is done.
    pub limit: u64,
    pub start_ns: u64,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    pub worker: usize,
    pub workers: usize,
}

/// What one worker measured.
#[derive(Debug)]
pub struct ConnectResult {
    /// Time from connect, or from when it was due, to a valid answer.
    pub latency: Histogram<u64>,
    /// Connections lost, by reason.
    pub failures: BTreeMap<String, u64>,
}

/// The load of one worker.
pub struct ConnectLoad {
    plan: ConnectPlan,
    shared: Arc<Shared>,
    schedule: Option<Schedule>,
    free: Vec<u32>,
    /// Connections of a churn in the order of their end.
    closing: VecDeque<(u64, u32)>,
    begun_ns: Vec<u64>,
    open: Vec<bool>,
    begun: u64,
    done: u64,
    recorder: Recorder,
    result: ConnectResult,
}

impl ConnectLoad {
    pub fn new(plan: ConnectPlan, shared: Arc<Shared>) -> Self {
        let schedule = match plan.arrivals {
            Arrivals::Closed => None,
            Arrivals::Open { rate, ramp_ns } => {
                let even = Schedule::new(plan.start_ns, rate, plan.worker, plan.workers);
                Some(even.rising(ramp_ns))
            }
            // A population opened at once would always be closed at once.
            Arrivals::Churn { hold_ns } => {
                let rate = u64::from(plan.slots) * 1_000_000_000 / hold_ns.max(1);
                Some(Schedule::new(plan.start_ns, rate.max(1), 0, 1))
            }
        };
        let mut recorder = Recorder::default();
        recorder.begin(plan.start_ns, plan.start_ns + plan.warmup_ns);
        Self {
            plan,
            shared,
            schedule,
            free: (0..plan.slots).rev().collect(),
            closing: VecDeque::new(),
            begun_ns: vec![0; plan.slots as usize],
            open: vec![false; plan.slots as usize],
            begun: 0,
            done: 0,
            recorder,
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

    /// Opens due connections while slots are free; the delay of a missing slot counts as latency.
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
            self.begin(fleet, slot, due_ns, now_ns)?;
        }
        Ok(())
    }

    fn begin(&mut self, fleet: &mut Fleet, slot: u32, due_ns: u64, now_ns: u64) -> io::Result<()> {
        self.begun += 1;
        self.begun_ns[slot as usize] = due_ns;
        fleet.open(slot, now_ns)
    }

    /// Closes connections of a churn that have reached their age; returns the time of the next one.
    fn close_due(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        while let Some((due_ns, slot)) = self.closing.front().copied() {
            if due_ns > now_ns {
                return Ok(due_ns);
            }
            self.closing.pop_front();
            // It may have been lost meanwhile, and may be open again with a later end.
            if fleet.stage(slot) == Stage::Open && self.open[slot as usize] {
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(u64::MAX)
    }

    fn close_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        for slot in 0..self.plan.slots {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(())
    }

    fn all_free(&self) -> bool {
        self.free.len() == self.plan.slots as usize
    }

    fn leave(&mut self, now_ns: u64) -> Turn {
        let recorder = std::mem::take(&mut self.recorder);
        self.result.latency = recorder.finish(now_ns, &self.shared.feed);
        Turn::Done
    }
}

impl Load for ConnectLoad {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        self.shared.done[self.plan.worker].set(self.done);
        if self.shared.stopped() {
            return Ok(self.leave(now_ns));
        }
        if now_ns < self.plan.start_ns {
            return Ok(Turn::Until(self.plan.start_ns));
        }
        self.recorder.tick(now_ns, &self.shared.feed);
        let end_ns = self.measured().end;
        let exhausted = self.begun >= self.plan.limit;
        if now_ns >= end_ns || exhausted {
            self.close_all(fleet, now_ns)?;
            let over = self.all_free() || now_ns >= end_ns + DRAIN_NS;
            return Ok(if over { self.leave(now_ns) } else { Turn::Until(now_ns + POLL_NS) });
        }
        self.open_due(fleet, now_ns)?;
        let close_ns = self.close_due(fleet, now_ns)?;
        let due_ns = self.schedule.as_ref().map_or(end_ns, Schedule::next_ns);
        // Without a free slot, wait for the next completion instead of the schedule.
        let due_ns = if self.free.is_empty() { end_ns } else { due_ns };
        Ok(Turn::Until(due_ns.min(end_ns).min(close_ns)))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        let begun_ns = self.begun_ns[slot as usize];
        let measured = self.measured();
        if measured.contains(&begun_ns) || now_ns < measured.start {
            self.recorder.record(now_ns - begun_ns, now_ns, &self.shared.feed);
        }
        self.open[slot as usize] = true;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        let Arrivals::Churn { hold_ns } = self.plan.arrivals else {
            return fleet.close(slot, now_ns);
        };
        self.done += 1;
        self.closing.push_back((now_ns + hold_ns, slot));
        Ok(())
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        // The server may greet; no message was requested, so none is counted.
        Ok(())
    }

    fn ended(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        ending: Ending,
        now_ns: u64,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.open[slot as usize]) {
            self.shared.open.fetch_sub(1, Ordering::AcqRel);
        }
        let churn = matches!(self.plan.arrivals, Arrivals::Churn { .. });
        match ending {
            Ending::Clean if churn => {}
            Ending::Clean => self.done += 1,
            Ending::Lost(fault) => {
                self.shared.error();
                *self.result.failures.entry(fault.to_string()).or_default() += 1;
            }
        }
        if churn && now_ns < self.measured().end && !self.shared.stopped() {
            return self.begin(fleet, slot, now_ns, now_ns);
        }
        self.free.push(slot);
        Ok(())
    }
}

//! `echo`: sends messages and measures the latency of their echoes.
//!
//! Closed loop: each connection keeps `depth` messages in flight, so a stalled server receives
//! fewer: good for cost and throughput, blind to stalls. Open loop: messages are due at fixed times
//! whatever the server does, and latency counts from when a message was due, so every message that
//! would have met a stall measures it (no coordinated omission).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use crate::client::{Stage, Terms};
use crate::crew::{Failure, MORE_ECHOES, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::recorder::{Recorder, nanoseconds};
use crate::schedule::Schedule;

/// Limit for echoes after the load has ended.
const DRAIN_NS: u64 = 5_000_000_000;
/// Limit for closing handshakes, which no measurement needs.
const CLOSE_NS: u64 = 2_000_000_000;
/// How often a thread that waits for the others checks.
const POLL_NS: u64 = 2_000_000;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Closed { depth: u32 },
    Open { rate: u64 },
}

/// One thread's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct EchoPlan {
    pub connections: u32,
    pub parallel: u32,
    pub pace: Pace,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    pub thread: usize,
    pub threads: usize,
}

/// What one thread measured.
#[derive(Debug)]
pub struct EchoResult {
    pub latency: Histogram<u64>,
    /// Open loop: delay of the generator's own sends.
    pub lag: Histogram<u64>,
    /// Messages of the measured time without an echo.
    pub unanswered: u64,
}

enum Phase {
    Opening,
    Running { schedule: Option<Schedule> },
    Draining,
    Closing { until_ns: u64 },
}

/// The load of one thread.
pub struct EchoLoad {
    plan: EchoPlan,
    shared: Arc<Shared>,
    phase: Phase,
    /// Slots to open, and those of them not yet open.
    asked: u32,
    opening: u32,
    /// Per slot, the times since which messages wait for their echoes.
    waiting: Vec<VecDeque<u64>>,
    outstanding: u64,
    next_slot: u32,
    done: u64,
    /// Messages due in this time are measured.
    from_ns: u64,
    until_ns: u64,
    recorder: Recorder,
    result: EchoResult,
    failure: Option<Failure>,
}

impl EchoLoad {
    pub fn new(plan: EchoPlan, shared: Arc<Shared>) -> Self {
        Self {
            plan,
            shared,
            phase: Phase::Opening,
            asked: 0,
            opening: 0,
            waiting: vec![VecDeque::new(); plan.connections as usize],
            outstanding: 0,
            next_slot: 0,
            done: 0,
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            recorder: Recorder::default(),
            result: EchoResult { latency: nanoseconds(), lag: nanoseconds(), unanswered: 0 },
            failure: None,
        }
    }

    /// Returns the measurements.
    pub fn finish(self) -> Result<EchoResult, Failure> {
        self.failure.map_or(Ok(self.result), Err)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.plan.connections && self.opening < self.plan.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
        }
        Ok(())
    }

    fn begin(&mut self, fleet: &mut Fleet, start_ns: u64, now_ns: u64) -> io::Result<()> {
        self.from_ns = start_ns + self.plan.warmup_ns;
        self.until_ns = self.from_ns + self.plan.duration_ns;
        self.recorder.begin(start_ns, self.from_ns);
        let schedule = match self.plan.pace {
            Pace::Open { rate } => {
                Some(Schedule::new(start_ns, rate, self.plan.thread, self.plan.threads))
            }
            Pace::Closed { depth } => {
                for slot in 0..self.plan.connections {
                    self.send(fleet, slot, depth, now_ns)?;
                }
                None
            }
        };
        self.phase = Phase::Running { schedule };
        Ok(())
    }

    fn send(&mut self, fleet: &mut Fleet, slot: u32, count: u32, due_ns: u64) -> io::Result<()> {
        let waiting = &mut self.waiting[slot as usize];
        for _ in 0..count {
            waiting.push_back(due_ns);
        }
        self.outstanding += u64::from(count);
        fleet.send(slot, count)
    }

    /// Sends due messages; returns the time of the next one.
    fn send_due(
        &mut self,
        fleet: &mut Fleet,
        schedule: &mut Schedule,
        now_ns: u64,
    ) -> io::Result<u64> {
        let end_ns = self.until_ns;
        while schedule.next_ns() < end_ns {
            let Some(due_ns) = schedule.take(now_ns) else { break };
            if due_ns >= self.from_ns {
                self.result.lag.saturating_record(now_ns - due_ns);
            }
            let slot = self.next_slot;
            self.next_slot = (slot + 1) % self.plan.connections;
            self.send(fleet, slot, 1, due_ns)?;
        }
        Ok(schedule.next_ns().min(end_ns))
    }

    /// Counts unanswered messages with their age so far, then closes.
    fn give_up_waiting(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        for waiting in &self.waiting {
            for since_ns in waiting.iter().filter(|at| (self.from_ns..self.until_ns).contains(at)) {
                self.result.unanswered += 1;
                self.shared.error();
                self.recorder.record(now_ns - since_ns, now_ns, &self.shared.feed);
            }
        }
        let recorder = std::mem::take(&mut self.recorder);
        self.result.latency = recorder.finish(now_ns, &self.shared.feed);
        self.phase = Phase::Closing { until_ns: now_ns + CLOSE_NS };
        for slot in 0..self.plan.connections {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        Ok(())
    }

    fn all_free(&self, fleet: &Fleet) -> bool {
        (0..self.plan.connections).all(|slot| fleet.stage(slot) == Stage::Free)
    }
}

impl Load for EchoLoad {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        self.shared.done[self.plan.thread].set(self.done);
        self.recorder.tick(now_ns, &self.shared.feed);
        match &mut self.phase {
            Phase::Opening => {
                self.open_more(fleet, now_ns)?;
                match self.shared.start() {
                    Some(start_ns) if start_ns <= now_ns => {
                        self.begin(fleet, start_ns, now_ns)?;
                        Ok(Turn::Until(now_ns))
                    }
                    Some(start_ns) => Ok(Turn::Until(start_ns)),
                    None => Ok(Turn::Until(now_ns + POLL_NS)),
                }
            }
            Phase::Running { schedule } => {
                let schedule = schedule.take();
                let next_ns = match schedule {
                    Some(mut schedule) => {
                        let next_ns = self.send_due(fleet, &mut schedule, now_ns)?;
                        self.phase = Phase::Running { schedule: Some(schedule) };
                        next_ns
                    }
                    None => self.until_ns,
                };
                if now_ns >= self.until_ns {
                    self.phase = Phase::Draining;
                }
                Ok(Turn::Until(next_ns))
            }
            Phase::Draining => {
                let limit_ns = self.until_ns + DRAIN_NS;
                if self.outstanding == 0 || now_ns >= limit_ns {
                    self.give_up_waiting(fleet, now_ns)?;
                }
                Ok(Turn::Until(now_ns + POLL_NS))
            }
            Phase::Closing { until_ns } => {
                let until_ns = *until_ns;
                let over = now_ns >= until_ns || self.all_free(fleet);
                Ok(if over { Turn::Done } else { Turn::Until(now_ns + POLL_NS) })
            }
        }
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn messages(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        count: u32,
        now_ns: u64,
    ) -> io::Result<()> {
        let measured = self.from_ns..self.until_ns;
        let waiting = &mut self.waiting[slot as usize];
        for _ in 0..count {
            let Some(since_ns) = waiting.pop_front() else {
                self.failure = Some(Failure::Corrupt(MORE_ECHOES.to_owned()));
                return Ok(());
            };
            // The warm-up is shown but not measured.
            if measured.contains(&since_ns) || now_ns < measured.start {
                self.recorder.record(now_ns - since_ns, now_ns, &self.shared.feed);
            }
        }
        self.outstanding -= u64::from(count);
        self.done += u64::from(count);
        let closed = matches!(self.plan.pace, Pace::Closed { .. });
        if closed && now_ns < self.until_ns {
            return self.send(fleet, slot, count, now_ns);
        }
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, _: u32, ending: Ending, _: u64) -> io::Result<()> {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        match (&self.phase, ending) {
            // The figures are complete; how the server closes does not change them.
            (Phase::Closing { .. }, _) => {}
            (_, Ending::Lost(fault)) => self.failure = Some(Failure::lost(&fault)),
            (_, Ending::Clean) => {
                self.failure =
                    Some(Failure::Failed("a connection was closed by the server".to_owned()));
            }
        }
        Ok(())
    }
}

/// Buffers for messages of this shape: one buffer holds the bytes of one send, within bounds.
pub fn buffers(terms: &Terms) -> (u16, usize) {
    let wanted = terms.sheet.frame_len() * terms.sheet.batch() as usize;
    let size = wanted.next_power_of_two().clamp(1024, 64 * 1024);
    let count = ((1 << 20) / size).clamp(64, 512);
    (count as u16, size)
}

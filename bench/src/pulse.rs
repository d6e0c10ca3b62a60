//! An open loop of echoes over some of a ring's connections, as part of other loads: it measures
//! their effect on well-behaved clients.
//!
//! It keeps no state for a connection without a message in flight, so it can run over a million.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::client::Stage;
use crate::crew::Shared;
use crate::fleet::Fleet;
use crate::recorder::{Recorder, nanoseconds};
use crate::schedule::Schedule;

/// Parameters of a pulse.
#[derive(Debug, Clone)]
pub struct PulsePlan {
    /// The connections to use, in turn.
    pub slots: Range<u32>,
    /// Messages per second of all workers.
    pub rate: u64,
    /// Start and end of due times.
    pub start_ns: u64,
    pub until_ns: u64,
    /// This worker's share of the messages.
    pub worker: usize,
    pub workers: usize,
}

/// The measurements.
#[derive(Debug)]
pub struct PulseResult {
    pub latency: Histogram<u64>,
    /// Latencies by the phase in which a message was due.
    pub phases: Vec<Histogram<u64>>,
    /// Delay of the generator's own sends.
    pub lag: Histogram<u64>,
    pub sent: u64,
    pub unanswered: u64,
}

impl PulseResult {
    pub fn none() -> Self {
        let (latency, lag) = (nanoseconds(), nanoseconds());
        Self { latency, phases: Vec::new(), lag, sent: 0, unanswered: 0 }
    }

    /// Adds another worker's measurements.
    pub fn add(&mut self, other: &Self) {
        // All histograms come from `nanoseconds`.
        self.latency.add(&other.latency).expect("same bounds");
        self.lag.add(&other.lag).expect("same bounds");
        self.phases.resize_with(self.phases.len().max(other.phases.len()), nanoseconds);
        for (sum, phase) in self.phases.iter_mut().zip(&other.phases) {
            sum.add(phase).expect("same bounds");
        }
        self.sent += other.sent;
        self.unanswered += other.unanswered;
    }
}

/// The pulse itself.
pub struct Pulse {
    plan: PulsePlan,
    shared: Arc<Shared>,
    schedule: Schedule,
    next: u32,
    /// Per message in flight, the time since which it waits for its echo.
    waiting: HashMap<u32, VecDeque<u64>>,
    /// Start times of phases after the first.
    marks: Vec<u64>,
    recorder: Recorder,
    answered: u64,
    result: PulseResult,
}

impl Pulse {
    pub fn new(plan: PulsePlan, shared: Arc<Shared>) -> Self {
        let schedule = Schedule::new(plan.start_ns, plan.rate, plan.worker, plan.workers);
        let mut recorder = Recorder::default();
        recorder.begin(plan.start_ns, plan.start_ns);
        let mut result = PulseResult::none();
        result.phases.push(nanoseconds());
        Self {
            next: plan.slots.start,
            plan,
            shared,
            schedule,
            waiting: HashMap::new(),
            marks: Vec::new(),
            recorder,
            answered: 0,
            result,
        }
    }

    /// Messages due from now on belong to a new phase.
    pub fn mark(&mut self, at_ns: u64) {
        self.marks.push(at_ns);
        self.result.phases.push(nanoseconds());
    }

    /// How many phases there are.
    pub fn phases(&self) -> usize {
        self.result.phases.len()
    }

    /// Messages answered so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Ends the loop at this time.
    pub fn stop_at(&mut self, until_ns: u64) {
        self.plan.until_ns = self.plan.until_ns.min(until_ns);
    }

    /// Sends due messages; returns the time of the next one.
    pub fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        self.recorder.tick(now_ns, &self.shared.feed);
        while self.schedule.next_ns() < self.plan.until_ns {
            let Some(due_ns) = self.schedule.take(now_ns) else { break };
            self.result.sent += 1;
            self.result.lag.saturating_record(now_ns - due_ns);
            let Some(slot) = self.next_open(fleet) else {
                // No connection is open: the message counts as unanswered.
                self.give_up(due_ns, now_ns);
                continue;
            };
            self.waiting.entry(slot).or_default().push_back(due_ns);
            fleet.send(slot, 1)?;
        }
        Ok(self.schedule.next_ns().min(self.plan.until_ns))
    }

    fn next_open(&mut self, fleet: &Fleet) -> Option<u32> {
        for _ in 0..self.plan.slots.len() {
            let slot = self.next;
            self.next =
                if slot + 1 >= self.plan.slots.end { self.plan.slots.start } else { slot + 1 };
            if fleet.stage(slot) == Stage::Open {
                return Some(slot);
            }
        }
        None
    }

    /// Takes echoes of a connection; returns false if there are more than messages.
    pub fn echoed(&mut self, slot: u32, count: u32, now_ns: u64) -> bool {
        for _ in 0..count {
            let since_ns = self.waiting.get_mut(&slot).and_then(VecDeque::pop_front);
            let Some(since_ns) = since_ns else { return false };
            self.answered += 1;
            self.record(since_ns, now_ns);
        }
        if self.waiting.get(&slot).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&slot);
        }
        true
    }

    fn record(&mut self, since_ns: u64, now_ns: u64) {
        let latency_ns = now_ns - since_ns;
        self.recorder.record(latency_ns, now_ns, &self.shared.feed);
        let phase = self.marks.iter().filter(|mark| since_ns >= **mark).count();
        self.result.phases[phase].saturating_record(latency_ns);
    }

    fn give_up(&mut self, since_ns: u64, now_ns: u64) {
        self.result.unanswered += 1;
        self.shared.error();
        self.record(since_ns, now_ns);
    }

    /// A connection was lost; its messages will not be answered.
    pub fn lost(&mut self, slot: u32, now_ns: u64) {
        for since_ns in self.waiting.remove(&slot).unwrap_or_default() {
            self.give_up(since_ns, now_ns);
        }
    }

    /// Whether no message is due or in flight.
    pub fn is_quiet(&self, now_ns: u64) -> bool {
        let over = self.schedule.next_ns() >= self.plan.until_ns || now_ns >= self.plan.until_ns;
        over && self.waiting.is_empty()
    }

    /// Returns the measurements; unanswered messages count with their age so far.
    pub fn finish(mut self, now_ns: u64) -> PulseResult {
        let left: Vec<u64> = self.waiting.drain().flat_map(|(_, since)| since).collect();
        for since_ns in left {
            self.give_up(since_ns, now_ns);
        }
        self.result.latency = self.recorder.finish(now_ns, &self.shared.feed);
        self.result
    }
}

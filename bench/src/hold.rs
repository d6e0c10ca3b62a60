//! `hold`: keeps idle connections open, answers pings, and checks at the end whether each is alive.
//! Then some of them may send messages, and the server may be shut down.
//!
//! The measuring thread sets a goal; the workers follow it and count.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::client::Stage;
use crate::crew::{Failure, MORE_ECHOES, Shared, share};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::pulse::{Pulse, PulsePlan, PulseResult};

/// How often a worker with work, and one without, checks for a new goal.
const POLL_NS: u64 = 5_000_000;
const IDLE_POLL_NS: u64 = 50_000_000;
/// Closes started in one turn of a worker: all at once would overrun the queues of both sides.
const BURST: u32 = 512;
/// Pings per second of all workers at the end. Pinging a million connections at once would be a
/// load of its own, under which a server misses heartbeats.
const QUESTIONS_PER_SECOND: u64 = 40_000;
/// Payload of the pings at the end.
const QUESTION: &[u8] = b"alive?";
/// In place of a ping count: the connection was never open.
const NEVER_OPEN: u16 = u16::MAX;

/// The measuring thread's goal, and counts that it needs at once.
#[derive(Debug, Default)]
pub struct Goal {
    /// Connections to open, over all workers.
    pub connections: AtomicUsize,
    /// Ping each connection, and wait for its pong.
    pub asking: AtomicBool,
    /// Start of the messages; 0 = never.
    pub echo_start_ns: AtomicU64,
    /// The server was sent SIGTERM: its closes are expected.
    pub draining: AtomicBool,
    /// Close all connections.
    pub closing: AtomicBool,
    /// Connections that were opened, or failed to open.
    pub settled: AtomicUsize,
    pub failed: AtomicUsize,
    /// Pongs to the final pings.
    pub alive: AtomicUsize,
    /// Workers whose messages are all answered or timed out.
    pub echoed: AtomicUsize,
    /// When the last connection ended during the server's drain.
    pub drained_ns: AtomicU64,
}

/// One worker's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct HoldPlan {
    pub worker: usize,
    pub workers: usize,
    /// Connections being opened at a time.
    pub parallel: u32,
    pub slots: u32,
    /// A connection counts as open when the echo of its first message has arrived.
    pub greet: bool,
    /// Messages per second of all workers after the hold, and for how long.
    pub echo_rate: u64,
    pub echo_ns: u64,
}

/// Limit for echoes after the last message.
const ECHO_WAIT_NS: u64 = 5_000_000_000;

/// The results of one worker.
#[derive(Debug)]
pub struct HoldResult {
    /// Connections that could not be opened, and those lost later, by reason.
    pub failed: BTreeMap<String, u64>,
    pub lost: BTreeMap<String, u64>,
    /// How the server closed connections during its drain.
    pub drained: BTreeMap<String, u64>,
    /// Pings answered: the total, and the fewest and most of a connection open all the time.
    pub pings: u64,
    pub pings_min: u64,
    pub pings_max: u64,
    pub pulse: Option<PulseResult>,
}

enum Talk {
    NotYet,
    Now(Box<Pulse>),
    Over(Option<Box<PulseResult>>),
}

/// The load of one worker.
pub struct HoldLoad {
    plan: HoldPlan,
    shared: Arc<Shared>,
    goal: Arc<Goal>,
    asked: u32,
    opening: u32,
    /// Connections that are not free.
    live: u32,
    next_question: u32,
    next_ask_ns: u64,
    next_close: u32,
    /// Pings of each connection: its only state here.
    pings: Vec<u16>,
    talk: Talk,
    result: HoldResult,
    failure: Option<Failure>,
}

impl HoldLoad {
    pub fn new(plan: HoldPlan, shared: Arc<Shared>, goal: Arc<Goal>) -> Self {
        Self {
            plan,
            shared,
            goal,
            asked: 0,
            opening: 0,
            live: 0,
            next_question: 0,
            next_ask_ns: 0,
            next_close: 0,
            pings: vec![NEVER_OPEN; plan.slots as usize],
            talk: Talk::NotYet,
            result: HoldResult {
                failed: BTreeMap::new(),
                lost: BTreeMap::new(),
                drained: BTreeMap::new(),
                pings: 0,
                pings_min: 0,
                pings_max: 0,
                pulse: None,
            },
            failure: None,
        }
    }

    pub fn finish(self) -> Result<HoldResult, Failure> {
        let Self { mut result, pings, talk, failure, .. } = self;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let opened = || pings.iter().filter(|count| **count != NEVER_OPEN).map(|c| u64::from(*c));
        result.pings = opened().sum();
        result.pings_min = opened().min().unwrap_or(0);
        result.pings_max = opened().max().unwrap_or(0);
        if let Talk::Over(pulse) = talk {
            result.pulse = pulse.map(|pulse| *pulse);
        }
        Ok(result)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        let total = self.goal.connections.load(Ordering::Acquire);
        let wanted = share(total, self.plan.worker, self.plan.workers) as u32;
        let wanted = wanted.min(self.plan.slots);
        while self.asked < wanted && self.opening < self.plan.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    fn ask(&mut self, fleet: &mut Fleet) -> io::Result<()> {
        let each_poll = QUESTIONS_PER_SECOND * POLL_NS / 1_000_000_000;
        let burst = each_poll.div_ceil(self.plan.workers as u64) as u32;
        let until = (self.next_question + burst).min(self.plan.slots);
        for slot in self.next_question..until {
            if fleet.stage(slot) == Stage::Open {
                fleet.ping(slot, QUESTION)?;
            }
        }
        self.next_question = until;
        Ok(())
    }

    fn close(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<bool> {
        let until = (self.next_close + BURST).min(self.plan.slots);
        for slot in self.next_close..until {
            if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        self.next_close = until;
        Ok(until == self.plan.slots && self.live == 0)
    }

    /// Sends the messages after the hold; returns the time of the next one.
    fn talk(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let start_ns = self.goal.echo_start_ns.load(Ordering::Acquire);
        if start_ns == 0 {
            return Ok(u64::MAX);
        }
        let until_ns = start_ns + self.plan.echo_ns;
        if matches!(self.talk, Talk::NotYet) {
            let HoldPlan { worker, workers, slots, echo_rate: rate, .. } = self.plan;
            let plan = PulsePlan { slots: 0..slots, rate, start_ns, until_ns, worker, workers };
            self.talk = Talk::Now(Box::new(Pulse::new(plan, Arc::clone(&self.shared))));
        }
        let Talk::Now(pulse) = &mut self.talk else { return Ok(u64::MAX) };
        let next_ns = pulse.turn(fleet, now_ns)?;
        self.shared.done[self.plan.worker].set(pulse.answered());
        if now_ns >= until_ns && (pulse.is_quiet(now_ns) || now_ns >= until_ns + ECHO_WAIT_NS) {
            if let Talk::Now(pulse) = std::mem::replace(&mut self.talk, Talk::Over(None)) {
                self.talk = Talk::Over(Some(Box::new(pulse.finish(now_ns))));
            }
            self.goal.echoed.fetch_add(1, Ordering::AcqRel);
            return Ok(u64::MAX);
        }
        Ok(if now_ns >= until_ns { now_ns + POLL_NS } else { next_ns })
    }

    /// Counts a connection as open.
    fn settled(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.pings[slot as usize] = 0;
        self.goal.settled.fetch_add(1, Ordering::AcqRel);
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
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
        if self.goal.asking.load(Ordering::Acquire) && self.next_question < self.plan.slots {
            // Only a turn at its own time pings: completions cause turns as well.
            if now_ns >= self.next_ask_ns {
                self.next_ask_ns = now_ns + POLL_NS;
                self.ask(fleet)?;
            }
            return Ok(Turn::Until(self.next_ask_ns));
        }
        let next_ns = self.talk(fleet, now_ns)?;
        let idle = self.opening == 0 && self.asked == self.plan.slots;
        let poll_ns = if idle { IDLE_POLL_NS } else { POLL_NS };
        Ok(Turn::Until(next_ns.min(now_ns + poll_ns)))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        if self.plan.greet { fleet.send(slot, 1) } else { self.settled(fleet, slot, now_ns) }
    }

    fn messages(
        &mut self,
        fleet: &mut Fleet,
        slot: u32,
        count: u32,
        now_ns: u64,
    ) -> io::Result<()> {
        if self.plan.greet && self.pings[slot as usize] == NEVER_OPEN {
            return self.settled(fleet, slot, now_ns);
        }
        if let Talk::Now(pulse) = &mut self.talk
            && !pulse.echoed(slot, count, now_ns)
        {
            let text = MORE_ECHOES.to_owned();
            self.failure = Some(Failure::Corrupt(text));
        }
        Ok(())
    }

    fn ponged(&mut self, _slot: u32, count: u32) {
        self.goal.alive.fetch_add(count as usize, Ordering::AcqRel);
    }

    fn pinged(&mut self, slot: u32, count: u32) {
        let pings = &mut self.pings[slot as usize];
        if *pings != NEVER_OPEN {
            *pings = pings.saturating_add(count as u16).min(NEVER_OPEN - 1);
        }
    }

    fn ended(&mut self, _: &mut Fleet, slot: u32, ending: Ending, now_ns: u64) -> io::Result<()> {
        self.live -= 1;
        let was_open = self.pings[slot as usize] != NEVER_OPEN;
        if was_open {
            self.shared.open.fetch_sub(1, Ordering::AcqRel);
        } else {
            self.opening -= 1;
            self.goal.settled.fetch_add(1, Ordering::AcqRel);
            self.goal.failed.fetch_add(1, Ordering::AcqRel);
        }
        if let Talk::Now(pulse) = &mut self.talk {
            pulse.lost(slot, now_ns);
        }
        let fault = match ending {
            Ending::Lost(fault) => fault.to_string(),
            Ending::Clean => "it ended by itself".to_owned(),
        };
        // Connections closed from here on are not part of the drain.
        let place = if self.goal.closing.load(Ordering::Acquire) {
            return Ok(());
        } else if self.goal.draining.load(Ordering::Acquire) {
            self.goal.drained_ns.fetch_max(now_ns, Ordering::AcqRel);
            &mut self.result.drained
        } else if was_open {
            self.shared.error();
            &mut self.result.lost
        } else {
            self.shared.error();
            &mut self.result.failed
        };
        *place.entry(fault).or_default() += 1;
        Ok(())
    }
}

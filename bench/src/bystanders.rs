//! Well-behaved connections beside trouble: an open loop of echoes, whose latency shows what the
//! trouble costs other clients.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::client::Stage;
use crate::crew::{Failure, MORE_ECHOES, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::pulse::{Pulse, PulsePlan, PulseResult};

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Limit for echoes after the last message, and for the closes after them.
const WAIT_NS: u64 = 5_000_000_000;

/// Times of a run, set by the measuring thread as they become known; 0 = not yet.
#[derive(Debug, Default)]
pub struct Times {
    /// The load begins: all connections are open.
    pub start_ns: AtomicU64,
    /// The warm-up ends, in runs that separate it; 0 in others.
    pub warm_ns: AtomicU64,
    /// The trouble begins.
    pub trouble_ns: AtomicU64,
    /// The trouble is at its full extent; stays 0 in runs that do not measure that.
    pub full_ns: AtomicU64,
    /// The trouble is over.
    pub calm_ns: AtomicU64,
    /// The last message is due.
    pub stop_ns: AtomicU64,
    /// All connections are closed.
    pub close_ns: AtomicU64,
    /// Connections of all workers that have opened once.
    pub ready: AtomicUsize,
    /// Connections that make trouble and are open again.
    pub back: AtomicUsize,
}

impl Times {
    pub fn set(which: &AtomicU64, at_ns: u64) {
        which.store(at_ns, Ordering::Release);
    }

    /// The time, if it is known.
    pub fn known(which: &AtomicU64) -> Option<u64> {
        Some(which.load(Ordering::Acquire)).filter(|at_ns| *at_ns != 0)
    }

    /// Beginnings of the phases after the first, as far as known; they become known in this order.
    fn marks(&self) -> impl Iterator<Item = u64> {
        [&self.warm_ns, &self.trouble_ns, &self.full_ns, &self.calm_ns]
            .into_iter()
            .filter_map(Self::known)
    }

    /// Whether the time is known and has passed.
    pub fn passed(which: &AtomicU64, now_ns: u64) -> bool {
        Self::known(which).is_some_and(|at_ns| at_ns <= now_ns)
    }
}

/// The load of the worker that drives all bystanders.
pub struct Bystanders {
    shared: Arc<Shared>,
    times: Arc<Times>,
    slots: u32,
    rate: u64,
    parallel: u32,
    asked: u32,
    opening: u32,
    live: u32,
    pulse: Option<Pulse>,
    closed: bool,
    /// Bystanders that were lost.
    lost: Vec<String>,
    result: Option<PulseResult>,
    failure: Option<Failure>,
}

impl Bystanders {
    pub fn new(
        shared: Arc<Shared>,
        times: Arc<Times>,
        slots: u32,
        rate: u64,
        parallel: u32,
    ) -> Self {
        Self {
            shared,
            times,
            slots,
            rate,
            parallel,
            asked: 0,
            opening: 0,
            live: 0,
            pulse: None,
            closed: false,
            lost: Vec::new(),
            result: None,
            failure: None,
        }
    }

    /// Returns the measurements, and why bystanders were lost.
    pub fn finish(self) -> Result<(PulseResult, Vec<String>), Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.result.unwrap_or_else(PulseResult::none), self.lost)),
        }
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        while self.asked < self.slots && self.opening < self.parallel {
            fleet.open(self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
            self.live += 1;
        }
        Ok(())
    }

    /// Runs the pulse once the load has begun; adds phases as they become known.
    fn beat(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        let Some(start_ns) = Times::known(&self.times.start_ns) else { return Ok(u64::MAX) };
        if self.result.is_some() {
            return Ok(u64::MAX);
        }
        let pulse = self.pulse.get_or_insert_with(|| {
            let slots = 0..self.slots;
            let (rate, until_ns) = (self.rate, u64::MAX);
            let plan = PulsePlan { slots, rate, start_ns, until_ns, worker: 0, workers: 1 };
            Pulse::new(plan, Arc::clone(&self.shared))
        });
        let known = self.times.marks().skip(pulse.phases() - 1);
        known.for_each(|at_ns| pulse.mark(at_ns));
        let stop_ns = Times::known(&self.times.stop_ns);
        if let Some(at_ns) = stop_ns {
            pulse.stop_at(at_ns);
        }
        let next_ns = pulse.turn(fleet, now_ns)?;
        self.shared.done[0].set(pulse.answered());
        let over = stop_ns.is_some_and(|at_ns| {
            now_ns >= at_ns && (pulse.is_quiet(now_ns) || now_ns >= at_ns + WAIT_NS)
        });
        if over {
            self.result = self.pulse.take().map(|pulse| pulse.finish(now_ns));
        }
        Ok(next_ns)
    }
}

impl Load for Bystanders {
    fn turn(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<Turn> {
        if self.shared.stopped() || self.failure.is_some() {
            return Ok(Turn::Done);
        }
        self.open_more(fleet, now_ns)?;
        let next_ns = self.beat(fleet, now_ns)?;
        let poll_ns = now_ns + POLL_NS;
        if Times::passed(&self.times.close_ns, now_ns) && self.result.is_some() {
            if !self.closed {
                self.closed = true;
                for slot in 0..self.slots {
                    if fleet.stage(slot) == Stage::Open {
                        fleet.close(slot, now_ns)?;
                    }
                }
            }
            return Ok(if self.live == 0 { Turn::Done } else { Turn::Until(poll_ns) });
        }
        Ok(Turn::Until(next_ns.min(poll_ns)))
    }

    fn opened(&mut self, fleet: &mut Fleet, _slot: u32, now_ns: u64) -> io::Result<()> {
        self.opening -= 1;
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.times.ready.fetch_add(1, Ordering::AcqRel);
        self.open_more(fleet, now_ns)
    }

    fn messages(&mut self, _: &mut Fleet, slot: u32, count: u32, now_ns: u64) -> io::Result<()> {
        if let Some(pulse) = &mut self.pulse
            && !pulse.echoed(slot, count, now_ns)
        {
            let text = MORE_ECHOES.to_owned();
            self.failure = Some(Failure::Corrupt(text));
        }
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, slot: u32, ending: Ending, now_ns: u64) -> io::Result<()> {
        self.live -= 1;
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        if self.closed {
            return Ok(());
        }
        self.shared.error();
        let Some(pulse) = &mut self.pulse else {
            self.failure = Some(match ending {
                Ending::Lost(fault) => Failure::lost(&fault),
                Ending::Clean => {
                    Failure::Failed("a connection was closed by the server".to_owned())
                }
            });
            self.shared.stop();
            return Ok(());
        };
        pulse.lost(slot, now_ns);
        self.lost.push(match ending {
            Ending::Lost(fault) => fault.to_string(),
            Ending::Clean => "closed by the server".to_owned(),
        });
        Ok(())
    }
}

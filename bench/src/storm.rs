//! `storm`: holds connections, drops all of them at once, and reconnects them by a policy.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::bystanders::Times;
use crate::client::{Fault, Stage};
use crate::crew::{Failure, Shared};
use crate::fleet::{Ending, Fleet, Load, Turn};
use crate::policy::Reconnect;
use crate::returning::{Arrival, Returned, Returning};
use crate::sheet::Noise;
use crate::upgrade::UpgradeError;

/// How often a worker checks for events.
const POLL_NS: u64 = 2_000_000;
/// Attempts started per turn: answers are handled in between.
const BURST: usize = 256;

/// One worker's part of the run.
#[derive(Debug, Clone, Copy)]
pub struct CrowdPlan {
    pub worker: usize,
    pub slots: u32,
    /// Connections being opened at a time before the storm; during it there is no such limit.
    pub parallel: u32,
    /// Whether they are dropped by resets, instead of closing handshakes.
    pub reset: bool,
    pub policy: Reconnect,
}

/// The results of one worker.
#[derive(Debug, Default)]
pub struct CrowdResult {
    /// Nanoseconds from the drop until each connection was back for good, for those that were.
    pub back_ns: Vec<u64>,
    /// Reconnect attempts, and those refused by status or failed otherwise.
    pub attempts: u64,
    pub refused: BTreeMap<u16, u64>,
    pub failed: BTreeMap<String, u64>,
    /// What resumed clients found.
    pub returned: Option<Returned>,
}

/// The load of one worker with dropped connections.
pub struct Crowd {
    plan: CrowdPlan,
    shared: Arc<Shared>,
    times: Arc<Times>,
    /// Where clients resume.
    returning: Option<Returning>,
    noise: Noise,
    asked: u32,
    opening: u32,
    live: u32,
    /// When the connections were dropped.
    dropped_ns: Option<u64>,
    closed: bool,
    /// The next attempt of each slot, by time.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Attempts of each slot since the drop.
    attempt: Vec<u16>,
    /// When each slot was back; 0 = not yet.
    back_ns: Vec<u64>,
    result: CrowdResult,
    failure: Option<Failure>,
}

impl Crowd {
    pub fn new(
        plan: CrowdPlan,
        shared: Arc<Shared>,
        times: Arc<Times>,
        returning: Option<Returning>,
    ) -> Self {
        Self {
            plan,
            shared,
            times,
            returning,
            noise: Noise::new(plan.worker as u64 + 1),
            asked: 0,
            opening: 0,
            live: 0,
            dropped_ns: None,
            closed: false,
            due: BinaryHeap::new(),
            attempt: vec![0; plan.slots as usize],
            back_ns: vec![0; plan.slots as usize],
            result: CrowdResult::default(),
            failure: None,
        }
    }

    pub fn finish(mut self) -> Result<CrowdResult, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let dropped_ns = self.dropped_ns.unwrap_or(0);
        let back = self.back_ns.iter().filter(|at_ns| **at_ns != 0);
        self.result.back_ns = back.map(|at_ns| at_ns - dropped_ns).collect();
        self.result.returned = self.returning.map(Returning::finish);
        Ok(self.result)
    }

    fn open(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        self.live += 1;
        fleet.open(slot, now_ns)
    }

    fn herald(&self) -> Option<u32> {
        self.returning.as_ref().and_then(Returning::herald)
    }

    fn open_more(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        if let (0, Some(slot)) = (self.asked, self.herald()) {
            self.open(fleet, slot, now_ns)?;
        }
        while self.asked < self.plan.slots && self.opening < self.plan.parallel {
            self.open(fleet, self.asked, now_ns)?;
            self.asked += 1;
            self.opening += 1;
        }
        Ok(())
    }

    fn drop_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        self.dropped_ns = Some(now_ns);
        for slot in 0..self.plan.slots {
            if self.plan.reset {
                fleet.abort(slot)?;
            } else if fleet.stage(slot) == Stage::Open {
                fleet.close(slot, now_ns)?;
            }
        }
        self.returning.as_ref().map_or(Ok(()), |returning| returning.publish_missed(fleet))
    }

    /// Starts due attempts; returns the time of the next one.
    fn come_back(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<u64> {
        for _ in 0..BURST {
            match self.due.peek() {
                None => return Ok(u64::MAX),
                Some(Reverse((due_ns, _))) if *due_ns > now_ns => return Ok(*due_ns),
                Some(_) => {}
            }
            let Some(Reverse((_, slot))) = self.due.pop() else { break };
            self.result.attempts += 1;
            self.open(fleet, slot, now_ns)?;
        }
        Ok(now_ns)
    }

    fn close_all(&mut self, fleet: &mut Fleet, now_ns: u64) -> io::Result<()> {
        self.closed = true;
        for slot in (0..self.plan.slots).chain(self.herald()) {
            match fleet.stage(slot) {
                Stage::Open => fleet.close(slot, now_ns)?,
                Stage::Connecting | Stage::Upgrading => fleet.abort(slot)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, fault: &Fault) -> Option<u32> {
        self.shared.error();
        if let Fault::Refused(UpgradeError::Status { code, retry_after_s }) = fault {
            *self.result.refused.entry(*code).or_default() += 1;
            return *retry_after_s;
        }
        *self.result.failed.entry(fault.to_string()).or_default() += 1;
        None
    }

    fn arrived(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        if self.herald() == Some(slot) {
            self.times.ready.fetch_add(1, Ordering::AcqRel);
            return Ok(());
        }
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        if self.dropped_ns.is_none() {
            self.opening -= 1;
            self.times.ready.fetch_add(1, Ordering::AcqRel);
            self.back_ns[slot as usize] = now_ns;
            return self.open_more(fleet, now_ns);
        }
        self.back_ns[slot as usize] = now_ns;
        self.times.back.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl Load for Crowd {
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
        if self.dropped_ns.is_none() {
            self.open_more(fleet, now_ns)?;
            if Times::passed(&self.times.trouble_ns, now_ns) {
                self.drop_all(fleet, now_ns)?;
            }
            return Ok(Turn::Until(poll_ns));
        }
        let next_ns = self.come_back(fleet, now_ns)?;
        Ok(Turn::Until(next_ns.min(poll_ns)))
    }

    fn opened(&mut self, fleet: &mut Fleet, slot: u32, now_ns: u64) -> io::Result<()> {
        // A client that resumes is back when it has its subscription.
        if self.returning.is_some() { Ok(()) } else { self.arrived(fleet, slot, now_ns) }
    }

    fn heard(&mut self, fleet: &mut Fleet, slot: u32, text: &[u8], now_ns: u64) -> io::Result<()> {
        let Some(returning) = &mut self.returning else { return Ok(()) };
        let dropped = self.dropped_ns.is_some();
        match returning.heard(fleet, slot, text, dropped)? {
            Arrival::Here => self.arrived(fleet, slot, now_ns),
            Arrival::No => Ok(()),
        }
    }

    fn messages(&mut self, _: &mut Fleet, _: u32, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, _: &mut Fleet, slot: u32, ending: Ending, now_ns: u64) -> io::Result<()> {
        self.live -= 1;
        if self.herald() == Some(slot) {
            if !self.closed {
                let text = "the connection that publishes was lost".to_owned();
                self.failure = Some(Failure::Failed(text));
                self.shared.stop();
            }
            return Ok(());
        }
        let since_ns = std::mem::take(&mut self.back_ns[slot as usize]);
        if since_ns != 0 {
            self.shared.open.fetch_sub(1, Ordering::AcqRel);
        }
        if self.closed {
            // It was back until the end of the run, which counts.
            self.back_ns[slot as usize] = since_ns;
            return Ok(());
        }
        let Some(dropped_ns) = self.dropped_ns else {
            self.failure = Some(match ending {
                Ending::Lost(fault) => Failure::lost(&fault),
                Ending::Clean => {
                    Failure::Failed("a connection was closed by the server".to_owned())
                }
            });
            self.shared.stop();
            return Ok(());
        };
        if since_ns >= dropped_ns {
            // It was back, and is lost again.
            self.times.back.fetch_sub(1, Ordering::AcqRel);
        }
        let attempt = &mut self.attempt[slot as usize];
        let number = *attempt;
        *attempt = attempt.saturating_add(1);
        let retry_after_s = match ending {
            // The drop itself is not a failure, however the connection ended.
            Ending::Lost(fault) if number > 0 => self.count(&fault),
            _ => None,
        };
        let delay_ns = self.plan.policy.delay_ns(u32::from(number), retry_after_s, &mut self.noise);
        self.due.push(Reverse((now_ns + delay_ns, slot)));
        Ok(())
    }
}

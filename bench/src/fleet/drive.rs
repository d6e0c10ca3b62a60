//! Drives several fleets on one thread: each ring signals one eventfd, and only rings with work are
//! entered.

use std::io;
use std::time::Duration;

use super::{Clock, Fleet, Load, SCAN_NS, Turn};
use crate::sys::{Signal, remove_timer_slack};

/// Runs all loads to their ends.
///
/// # Errors
/// When a ring fails, or a load gives up.
pub fn drive<L: Load>(pairs: &mut [(Fleet, L)], clock: Clock) -> io::Result<()> {
    if let [(fleet, load)] = pairs {
        return fleet.run(load);
    }
    let signal = Signal::new()?;
    remove_timer_slack()?;
    for (fleet, _) in pairs.iter() {
        fleet.ring.watch(&signal)?;
    }
    let spin = pairs.iter().any(|(fleet, _)| fleet.plan.spin);
    // When each is due next; `None` once its load is over.
    let mut due: Vec<Option<u64>> = vec![Some(0); pairs.len()];
    loop {
        let mut next_ns = u64::MAX;
        for ((fleet, load), due) in pairs.iter_mut().zip(&mut due) {
            let Some(at_ns) = *due else { continue };
            *due = fleet.turn_without_waiting(load, at_ns)?;
            next_ns = next_ns.min(due.unwrap_or(u64::MAX));
        }
        if next_ns == u64::MAX {
            return Ok(());
        }
        let wait_ns = next_ns.saturating_sub(clock.now_ns());
        if wait_ns > 0 && !spin {
            signal.wait(Duration::from_nanos(wait_ns))?;
        }
    }
}

impl Fleet {
    /// Runs a turn of one ring among several; returns the time of its next one.
    fn turn_without_waiting(
        &mut self,
        load: &mut impl Load,
        due_ns: u64,
    ) -> io::Result<Option<u64>> {
        let (incoming, _) = self.ring.has_work();
        if incoming {
            // Only a wait runs deferred work; this one returns at once.
            self.ring.wait(Some(Duration::ZERO))?;
            self.take_completions(load)?;
        }
        let now_ns = self.clock.now_ns();
        let mut next_ns = due_ns;
        if incoming || now_ns >= due_ns {
            let Turn::Until(until_ns) = self.decide(load, now_ns)? else {
                self.ring.submit()?;
                return Ok(None);
            };
            // Only a fleet with something to scan needs this wake-up.
            next_ns =
                if self.waiting.is_empty() { until_ns } else { until_ns.min(now_ns + SCAN_NS) };
        }
        if let (_, true) = self.ring.has_work() {
            self.ring.submit()?;
        }
        Ok(Some(next_ns))
    }
}

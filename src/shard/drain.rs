//! The graceful end: connections are told to go, spread over a window, while the listeners go on
//! answering 503, because closing a listener resets whoever waits in its queue.
//!
//! Whoever is in the middle of a message may finish it, until half of what is left of the deadline
//! after the window: the rest is for the closes.

use super::Shard;
use super::core::Core;
use super::slot::Stage;
use super::timers;
use crate::driver::Driver;
use crate::proto::ws::CloseCode;

/// Clients of a shard that has few come back within this time.
const FEW_SPREAD_MS: u32 = 1000;
/// `Retry-After` of such a shard.
const FEW_RETRY_AFTER_S: u32 = 1;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    began_tick: u32,
    window_ticks: u32,
    deadline_tick: u32,
    /// Until then those amid a message are waited for.
    patience_tick: u32,
    /// Those, by index; their slots may be others' by now, who are as good as they.
    amid: Vec<u32>,
    /// Slots below this index have been told, or are amid a message.
    told: u32,
    /// Slots that existed when it began.
    slots: u32,
}

impl Core {
    fn is_amid_message(&self, index: u32) -> bool {
        let slot = self.slots.get(index as usize);
        slot.is_some_and(|slot| matches!(&slot.stage, Stage::Open(receiver) if !receiver.is_idle()))
    }

    /// When a client of a drain may come back. Few clients reconnect within a second; many are
    /// spread over the window, after the time that a restart takes.
    fn retry_after_drain_ms(&mut self) -> u32 {
        let drain = &self.config.drain;
        let (least_ms, spread_ms) = if self.drains_few {
            (0, FEW_SPREAD_MS)
        } else {
            (drain.retry_after_s.saturating_mul(1000), drain.window_ms.max(FEW_SPREAD_MS))
        };
        least_ms.saturating_add(self.random(spread_ms))
    }

    /// `Retry-After` of a 503 while draining, in seconds.
    pub(super) fn drain_retry_after_s(&self) -> u32 {
        if self.drains_few { FEW_RETRY_AFTER_S } else { self.config.drain.retry_after_s }
    }
}

impl<D: Driver> Shard<D> {
    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let core = &mut self.core;
        let options = &core.config.drain;
        let few = core.gauges.open <= u64::from(options.at_once_connections);
        let window_ms = if few { 0 } else { options.window_ms };
        self.drain = Some(Drain {
            began_tick: core.tick,
            window_ticks: timers::ticks(window_ms),
            deadline_tick: core.tick + timers::ticks(options.deadline_ms),
            patience_tick: core.tick + timers::ticks(window_ms.midpoint(options.deadline_ms)),
            amid: Vec::new(),
            told: 0,
            slots: core.slots_high,
        });
        core.draining = true;
        core.drains_few = few;
        self.drain_on();
    }

    /// The tick at which the drain goes on.
    pub(super) fn drain_tick(&self) -> Option<u32> {
        (self.drain.is_some() && !self.stopped).then_some(self.core.tick + 1)
    }

    /// Tells as many connections as the time passed since the beginning demands.
    pub(super) fn drain_on(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let tick = self.core.tick;
        if self.stopped {
            return;
        }
        if tick >= drain.deadline_tick {
            return self.stop();
        }
        let passed = tick - drain.began_tick;
        let due = if passed >= drain.window_ticks {
            drain.slots
        } else {
            (u64::from(drain.slots) * u64::from(passed) / u64::from(drain.window_ticks)) as u32
        };
        let from = drain.told;
        drain.told = due.max(from);
        let waited = std::mem::take(&mut drain.amid);
        let patient = tick < drain.patience_tick;
        for index in waited.into_iter().chain(from..due) {
            if patient && self.core.is_amid_message(index) {
                self.drain.as_mut().expect("it was just looked at").amid.push(index);
            } else if self.core.slots.contains(index as usize) {
                let retry_after_ms = self.core.retry_after_drain_ms();
                self.core.close(
                    index,
                    CloseCode::GOING_AWAY,
                    "server is going away",
                    retry_after_ms,
                );
                // A handshake has less time from now on.
                self.core.set_deadline(index);
                self.settle(index);
            }
        }
        // As long as another shard has connections, this one goes on answering 503: the kernel
        // would send its listener's share of clients nowhere.
        if self.core.slots.is_empty() && self.core.directory.is_quiet() {
            self.stop();
        }
    }

    /// Drops what is left, and closes the listeners.
    pub(super) fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            for listener in 0..self.owed.len() {
                self.driver.stop_listening(listener as u16);
            }
        }
        self.core.draining = true;
        let left: Vec<u32> = self.core.slots.iter().map(|(index, _)| index as u32).collect();
        for index in left {
            Core::abort(&mut self.core, index, CloseCode::GOING_AWAY);
            self.settle(index);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stopped
            && self.core.slots.is_empty()
            && self.passing.is_empty()
            && !self.driver.is_listening()
    }
}

//! Deadlines of connections: handshake, idle, age, close and send.
//!
//! A slot has one timer, set to its earliest deadline. Activity does not move the timer: when it
//! fires, the conditions are checked again, and it is set again.

use super::deferred::DeferredTask;
use super::slot::{Clocks, Slot};
use super::stage::Stage;
use super::timers;
use super::{Connections, Goodbye, Sessions};
use crate::config::{RouteOptions, Timeouts};
use crate::driver::Driver;
use crate::proto::http::{self, Refusal};
use crate::proto::ws::CloseCode;

/// Connections whose timers are set again in one turn after a reload: about 50 µs of work.
const REFRESHED_PER_TURN: u32 = 1024;
/// The handshake timeout while the server drains.
const DRAINING_HANDSHAKE_MS: u32 = 1000;

/// Returns the first tick at which a duration has certainly passed.
pub(super) fn tick_after(tick: u32, duration_ms: u32) -> u32 {
    tick.saturating_add(timers::ticks(duration_ms) + 1)
}

/// Does the same; 0 means never.
fn after_if(tick: u32, duration_ms: u32) -> u32 {
    if duration_ms == 0 { timers::UNSET } else { tick_after(tick, duration_ms) }
}

/// Returns the deadline of a connection that ends: a time after the beginning of the stage, or,
/// while output is queued, the send timeout after the last byte that the peer took, so that a slow
/// line loses nothing.
fn ending_until(slot: &Slot, timeout_ms: u32, timeouts: &Timeouts) -> u32 {
    let waited = tick_after(slot.clocks().stage_tick, timeout_ms);
    let sending =
        slot.outbox().map(|one| tick_after(one.progress_tick(), timeouts.send_timeout_ms));
    sending.map_or(waited, |until| until.max(waited))
}

/// Returns a part of a duration that differs by slot.
fn part_of(slot: &Slot, duration_ms: u32) -> u32 {
    let spread = u64::from(slot.generation().wrapping_mul(0x9E37_79B9) >> 16);
    ((u64::from(duration_ms) * spread) >> 16) as u32
}

impl Connections {
    /// Sets the slot's timer to its earliest deadline.
    pub(in crate::shard) fn set_deadline(&mut self, index: u32) {
        let tick = self.deadline(index);
        if tick == timers::UNSET {
            self.wheel.unset(&mut self.slots, index);
        } else {
            self.wheel.set(&mut self.slots, index, tick);
        }
    }

    fn deadline(&self, index: u32) -> u32 {
        let slot = self.slot(index);
        let clocks = slot.clocks();
        let timeouts = &self.config.timeouts;
        match slot.stage() {
            Stage::Proxy { .. } | Stage::Http { .. } | Stage::Asking(_) | Stage::Forwarding(_) => {
                tick_after(clocks.opened_tick, self.handshake_timeout_ms())
            }
            Stage::Open(_) => {
                let route = &self.config.route_options[slot.route()];
                let sending = slot.outbox().map_or(timers::UNSET, |outbox| {
                    after_if(outbox.progress_tick(), timeouts.send_timeout_ms)
                });
                let heartbeat = if route.ping_interval_ms == 0 {
                    timers::UNSET
                } else if slot.is_pinged() {
                    tick_after(clocks.stage_tick, route.pong_timeout_ms)
                } else {
                    clocks.stage_tick
                };
                let idle = self.idle_tick(slot, route);
                let waited = heartbeat.min(idle).min(self.age_tick(slot, route)).min(sending);
                waited.min(self.park_tick(index, slot)).min(self.session_due(index))
            }
            Stage::Closing { .. } => {
                ending_until(slot, self.route(index).close_timeout_ms, timeouts)
            }
            Stage::Finishing | Stage::Lingering { .. } => {
                ending_until(slot, timeouts.linger_timeout_ms, timeouts)
            }
            Stage::Ending => timers::UNSET,
        }
    }

    /// Returns the tick of the session's deadline.
    pub(in crate::shard) fn session_due(&self, index: u32) -> u32 {
        self.session_due.get(index as usize).copied().unwrap_or(timers::UNSET)
    }

    /// Sets the deadline of the session ([`Sessions::run_due`]). The caller must then set the
    /// timer.
    pub(in crate::shard) fn set_session_due(&mut self, index: u32, tick: u32) {
        let due = &mut self.session_due;
        if due.len() <= index as usize {
            if tick == timers::UNSET {
                return;
            }
            due.resize(index as usize + 1, timers::UNSET);
        }
        due[index as usize] = tick;
    }

    /// Returns the memory of the sessions' deadlines (bytes).
    pub(in crate::shard) fn session_due_bytes(&self) -> u64 {
        (self.session_due.len() * size_of::<u32>()) as u64
    }

    /// Returns whether timers are being set again after a change of the configuration or clock.
    pub(in crate::shard) fn is_refreshing(&self) -> bool {
        self.refresh_from.is_some()
    }

    /// Sets all timers again, a share of them in each turn, because the clock was set.
    pub(in crate::shard) fn refresh_all_deadlines(&mut self) {
        self.refresh_from = Some(0);
    }

    /// Sets the timers of a turn's share of connections for a new configuration; returns whether
    /// more remain.
    pub(in crate::shard) fn refresh_deadlines(&mut self, sessions: &mut impl Sessions) -> bool {
        let Some(from) = self.refresh_from else { return false };
        let until = from.saturating_add(REFRESHED_PER_TURN).min(self.slots_high);
        for index in from..until {
            if !self.contains(index) {
                continue;
            }
            let slot = self.slot(index);
            let interval = timers::ticks(self.route(index).ping_interval_ms);
            let planned = self.tick..=self.tick + interval;
            let is_planned = planned.contains(&slot.clocks().stage_tick);
            if self.is_open(index) && !slot.is_pinged() && !is_planned {
                // The interval may have changed: spread the pings again.
                self.schedule_first_ping(index);
            }
            sessions.reschedule_due(self, index);
            self.set_deadline(index);
        }
        self.refresh_from = (until < self.slots_high).then_some(until);
        self.refresh_from.is_some()
    }

    /// Returns the timeout of handshakes. It is short during a drain, because connections without a
    /// request, such as those that browsers open in advance, would delay its end.
    fn handshake_timeout_ms(&self) -> u32 {
        let configured_ms = self.config.timeouts.handshake_timeout_ms;
        if self.is_draining { configured_ms.min(DRAINING_HANDSHAKE_MS) } else { configured_ms }
    }

    /// Returns the tick at which a connection has been quiet for long enough to be parked.
    fn park_tick(&self, index: u32, slot: &Slot) -> u32 {
        let is_unparked = slot.receiving().is_unparked();
        if is_unparked { self.quiet_tick(index, slot) } else { timers::UNSET }
    }

    /// Returns the configured time after the last byte, plus up to half of it by slot: connections
    /// that were opened together must not all be parked at once.
    fn quiet_tick(&self, index: u32, slot: &Slot) -> u32 {
        let park_after_ms = self.park_after_ms();
        let spread = u64::from(index.wrapping_mul(0x9E37_79B9) >> 16);
        let more = (u64::from(park_after_ms / 2) * spread) >> 16;
        let heard_tick = slot.clocks().heard_tick;
        after_if(heard_tick, park_after_ms.saturating_add(more as u32))
    }

    /// Returns the time after which a quiet connection is parked; 0 = never, also if the driver
    /// gains nothing by it.
    fn park_after_ms(&self) -> u32 {
        if self.is_parking_useful { self.config.engine.park_after_ms } else { 0 }
    }

    /// Parks the connection if it is still quiet.
    pub(super) fn park_connection(&mut self, index: u32) {
        let slot = self.slot(index);
        let is_quiet = self.tick >= self.quiet_tick(index, slot);
        let is_open = slot.is_open();
        let receiving = self.slot_mut(index).receiving_mut();
        receiving.unpark();
        if is_quiet && is_open {
            receiving.park();
            // Watch a quiet connection again instead of receiving.
            receiving.end_turns();
            self.counters.parked += 1;
            self.gauges.parked += 1;
        }
        self.set_deadline(index);
    }

    /// Parks a connection as it is opened, until it sends something. So most connections that fall
    /// quiet together need no cancellation of a receive, and active ones get theirs with the first
    /// message.
    pub(super) fn open_parked(&mut self, index: u32) {
        if self.park_after_ms() > 0 {
            self.slot_mut(index).receiving_mut().park();
            self.counters.parked += 1;
            self.gauges.parked += 1;
        }
    }

    /// Handles input of a parked connection: gives it its receive back if it is no longer quiet.
    /// Returns whether it did; the caller must set its timer once the bytes are processed.
    pub(super) fn wake_parked(&mut self, index: u32) -> bool {
        let slot = self.slot(index);
        let wakes = slot.receiving().is_parked() && self.tick < self.quiet_tick(index, slot);
        if wakes {
            self.slot_mut(index).receiving_mut().unpark();
            self.counters.unparked += 1;
            self.gauges.parked -= 1;
        }
        wakes
    }

    /// Returns the tick at which the connection is too old: after the maximum age less up to a
    /// tenth of it, by slot.
    fn age_tick(&self, slot: &Slot, route: &RouteOptions) -> u32 {
        let age_max_ms = route.connection_age_max_ms;
        let less = part_of(slot, age_max_ms / 10);
        let due = after_if(slot.clocks().opened_tick, age_max_ms - less);
        self.not_overdue(slot, due, age_max_ms)
    }

    /// Returns the tick at which the connection has been idle for too long.
    fn idle_tick(&self, slot: &Slot, route: &RouteOptions) -> u32 {
        let due = after_if(slot.clocks().message_tick, route.idle_timeout_ms);
        self.not_overdue(slot, due, route.idle_timeout_ms)
    }

    /// Spreads deadlines over a tenth of their duration where a new configuration has lowered them,
    /// so that connections that are overdue at once do not all close together.
    fn not_overdue(&self, slot: &Slot, due: u32, stay_ms: u32) -> u32 {
        match self.lowered_tick {
            Some(lowered) if due <= lowered => {
                lowered.saturating_add(timers::ticks(part_of(slot, stay_ms / 10)) + 1)
            }
            _ => due,
        }
    }

    /// Fires timers that are due, within the turn's bound; returns whether more are due.
    pub(in crate::shard) fn fire_timers(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        fired: &mut Vec<u32>,
    ) -> bool {
        if !self.wheel.may_be_due(self.tick) {
            return false;
        }
        let most = self.config.engine.turn_timers_max as usize;
        let has_more = self.wheel.take_expired(&mut self.slots, self.tick, most, fired);
        for index in fired.drain(..) {
            self.run_timer(sessions, index);
            self.reconcile(driver, index);
        }
        has_more
    }

    /// Returns the next tick at which a timer may be due.
    pub(in crate::shard) fn next_timer_tick(&self) -> Option<u32> {
        self.wheel.next_tick()
    }

    /// Handles the fired timer of a slot.
    fn run_timer(&mut self, sessions: &mut impl Sessions, index: u32) {
        let timeouts = &self.config.timeouts;
        let slot = self.slot(index);
        let handshake = tick_after(slot.clocks().opened_tick, self.handshake_timeout_ms());
        let closing = ending_until(slot, self.route(index).close_timeout_ms, timeouts);
        let lingering = ending_until(slot, timeouts.linger_timeout_ms, timeouts);
        match slot.stage() {
            Stage::Proxy { .. } if self.tick >= handshake => {
                self.counters.handshake_timeouts += 1;
                self.abort(sessions, index, CloseCode::ABNORMAL);
            }
            Stage::Http { .. } if self.tick >= handshake && self.is_draining => {
                self.reject(sessions, index, Refusal::Unavailable, http::DRAINING);
            }
            Stage::Http { .. } if self.tick >= handshake => {
                self.counters.handshake_timeouts += 1;
                self.reject(
                    sessions,
                    index,
                    Refusal::Timeout,
                    "the request was not complete within the handshake deadline; send it at once \
                     after connecting",
                );
            }
            Stage::Asking(_) if self.tick >= handshake => self.give_up_asking(sessions, index),
            Stage::Forwarding(_) if self.tick >= handshake => {
                self.give_up_forwarding(sessions, index);
            }
            Stage::Open(_) => self.fire_open(sessions, index),
            Stage::Closing { .. } if self.tick >= closing => {
                self.counters.close_timeouts += 1;
                self.abort(sessions, index, CloseCode::ABNORMAL);
            }
            Stage::Finishing | Stage::Lingering { .. } if self.tick >= lingering => {
                self.abort(sessions, index, CloseCode::ABNORMAL);
            }
            _ => {}
        }
        self.set_deadline(index);
    }

    fn fire_open(&mut self, sessions: &mut impl Sessions, index: u32) {
        if self.tick >= self.session_due(index) {
            sessions.run_due(self, index);
        }
        if !self.is_open(index) {
            return;
        }
        let route = *self.route(index);
        let send_timeout_ms = self.config.timeouts.send_timeout_ms;
        if self.tick >= self.park_tick(index, self.slot(index)) {
            self.defer_task(index, DeferredTask::Park);
        }
        let slot = self.slot(index);
        if slot.readiness().is_waiting() && self.tick >= self.idle_tick(slot, &route) {
            // Its messages are not read: its silence begins when they are.
            let (tick, clocks) = (self.tick, slot.clocks());
            self.slot_mut(index).set_clocks(Clocks { message_tick: tick, ..clocks });
        }
        let slot = self.slot(index);
        let (age, idle) = (self.age_tick(slot, &route), self.idle_tick(slot, &route));
        let is_stalled = slot
            .outbox()
            .is_some_and(|outbox| self.tick >= after_if(outbox.progress_tick(), send_timeout_ms));
        let is_ping_due = route.ping_interval_ms > 0 && self.tick >= slot.clocks().stage_tick;
        let away = |reason| Goodbye { code: CloseCode::GOING_AWAY, reason, retry_after_ms: 0 };
        if is_stalled {
            self.close_slow_consumer(sessions, index);
        } else if self.tick >= age {
            self.counters.age_closes += 1;
            self.close(sessions, index, away("connection age limit reached"));
        } else if self.tick >= idle {
            self.counters.idle_timeouts += 1;
            self.close(sessions, index, away("no message within the idle timeout"));
        } else if is_ping_due {
            self.check_heartbeat(index, route.pong_timeout_ms);
        }
    }
}

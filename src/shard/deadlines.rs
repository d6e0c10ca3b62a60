//! What time does to a connection: handshake, heartbeat, idleness, age, close and send deadlines.
//!
//! A slot has one timer, set to the earliest of what its stage waits for. Activity does not move
//! it: when it fires, the conditions are looked at again, and it is set anew. Pings are spread at
//! random over an eighth of their interval, so that connections opened together drift apart.

use super::core::Core;
use super::slot::{Parked, Slot, Stage, Unfinished};
use super::timers;
use super::upkeep::Chore;
use crate::config::Timeouts;
use crate::driver::{Input, TcpInfo};
use crate::proto::http::{self, Refusal};
use crate::proto::ws::{self, CloseCode, Control, OpCode};

/// Connections whose timers are set anew in one turn after a reload: some 50 µs of work.
const REFRESHED_PER_TURN: u32 = 1024;
/// How long a handshake may take while the server drains.
const DRAINING_HANDSHAKE_MS: u32 = 1000;

/// The first tick at which the duration has surely passed.
fn after(tick: u32, duration_ms: u32) -> u32 {
    tick.saturating_add(timers::ticks(duration_ms) + 1)
}

/// After something that may be zero for never.
fn after_if(tick: u32, duration_ms: u32) -> u32 {
    if duration_ms == 0 { timers::UNSET } else { after(tick, duration_ms) }
}

/// Until when a connection that ends waits for its peer: the given time from the beginning of the
/// stage, and as long as something is queued, the send time from the last byte that the peer took,
/// so that a slow line loses nothing.
fn ending_until(slot: &Slot, timeout_ms: u32, timeouts: &Timeouts) -> u32 {
    let waited = after(slot.stage_tick, timeout_ms);
    slot.outbox
        .as_ref()
        .map_or(waited, |outbox| waited.max(after(outbox.progress_tick, timeouts.send_timeout_ms)))
}

impl Core {
    /// Sets the slot's timer to the earliest of its deadlines.
    pub(super) fn set_deadline(&mut self, index: u32) {
        let tick = self.deadline(index);
        if tick == timers::UNSET {
            self.wheel.unset(&mut self.slots, index);
        } else {
            self.wheel.set(&mut self.slots, index, tick);
        }
    }

    fn deadline(&self, index: u32) -> u32 {
        let slot = &self.slots[index as usize];
        let timeouts = &self.config.timeouts;
        let sending = slot.outbox.as_ref().map_or(timers::UNSET, |outbox| {
            after_if(outbox.progress_tick, timeouts.send_timeout_ms)
        });
        match &slot.stage {
            Stage::Proxy { .. } | Stage::Http { .. } => {
                after(slot.opened_tick, self.handshake_timeout_ms())
            }
            Stage::Open(_) => {
                let route = self.route(index);
                let heartbeat = if route.ping_interval_ms == 0 {
                    timers::UNSET
                } else if slot.pinged {
                    after(slot.stage_tick, route.pong_timeout_ms)
                } else {
                    slot.stage_tick
                };
                let idle = self.idle_tick(index);
                let waited = heartbeat.min(idle).min(self.age_tick(index)).min(sending);
                waited.min(self.park_tick(index)).min(self.hub_tick(index))
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

    /// Sets the timers of a turn's share of connections by a new configuration; returns whether
    /// more are to come.
    pub(super) fn refresh_deadlines(&mut self) -> bool {
        let Some(from) = self.refresh_from else { return false };
        let until = from.saturating_add(REFRESHED_PER_TURN).min(self.slots_high);
        for index in from..until {
            if !self.slots.contains(index as usize) {
                continue;
            }
            let slot = &self.slots[index as usize];
            let interval = timers::ticks(self.route(index).ping_interval_ms);
            let is_planned = (self.tick..=self.tick + interval).contains(&slot.stage_tick);
            if matches!(slot.stage, Stage::Open(_)) && !slot.pinged && !is_planned {
                // Another interval: spread, as at the beginning.
                self.schedule_first_ping(index);
            }
            self.set_deadline(index);
        }
        self.refresh_from = (until < self.slots_high).then_some(until);
        self.refresh_from.is_some()
    }

    /// A server that goes does not wait long for those who have asked for nothing yet, such as the
    /// sockets that browsers open ahead of their need.
    fn handshake_timeout_ms(&self) -> u32 {
        let configured_ms = self.config.timeouts.handshake_timeout_ms;
        if self.draining { configured_ms.min(DRAINING_HANDSHAKE_MS) } else { configured_ms }
    }

    /// When the connection has been quiet for long enough to be parked.
    fn park_tick(&self, index: u32) -> u32 {
        let slot = &self.slots[index as usize];
        if slot.parked == Parked::No { self.quiet_tick(index) } else { timers::UNSET }
    }

    /// The configured time after the last byte, and by slot up to half as much again: connections
    /// that came together are not all parked at once.
    fn quiet_tick(&self, index: u32) -> u32 {
        let park_after_ms = self.config.engine.park_after_ms;
        let spread = u64::from(index.wrapping_mul(0x9E37_79B9) >> 16);
        let more = (u64::from(park_after_ms / 2) * spread) >> 16;
        after_if(self.slots[index as usize].heard_tick, park_after_ms.saturating_add(more as u32))
    }

    /// Parks the connection if it is quiet still.
    pub(super) fn park(&mut self, index: u32) {
        let is_quiet = self.tick >= self.quiet_tick(index);
        let slot = &mut self.slots[index as usize];
        slot.parked = Parked::No;
        if is_quiet && matches!(slot.stage, Stage::Open(_)) {
            slot.parked = Parked::Yes;
            if slot.unfinished == Unfinished::Lately {
                // A connection that is quiet is watched again, not received from.
                slot.unfinished = Unfinished::No;
            }
            self.counters.parked += 1;
            self.gauges.parked += 1;
        }
        self.set_deadline(index);
    }

    /// An opened connection is parked until it says something: most that fall quiet at once then
    /// need no cancellation of a receive, and those that talk get theirs with the first message.
    pub(super) fn open_parked(&mut self, index: u32) {
        if self.config.engine.park_after_ms > 0 {
            self.slots[index as usize].parked = Parked::Yes;
            self.counters.parked += 1;
            self.gauges.parked += 1;
        }
    }

    /// Bytes have come: a parked connection that is not quiet any more gets its receive back.
    pub(super) fn wake(&mut self, index: u32) {
        let is_quiet = self.tick >= self.quiet_tick(index);
        let slot = &mut self.slots[index as usize];
        if slot.parked == Parked::Yes && !is_quiet {
            slot.parked = Parked::No;
            self.counters.unparked += 1;
            self.gauges.parked -= 1;
            self.set_deadline(index);
        }
    }

    /// When the connection is too old: the maximum less up to a tenth of it, by slot.
    fn age_tick(&self, index: u32) -> u32 {
        let slot = &self.slots[index as usize];
        let age_max_ms = self.route(index).connection_age_max_ms;
        let less = self.part_of(index, age_max_ms / 10);
        self.not_overdue(index, after_if(slot.opened_tick, age_max_ms - less), age_max_ms)
    }

    /// When the connection has been idle for too long.
    fn idle_tick(&self, index: u32) -> u32 {
        let idle_timeout_ms = self.route(index).idle_timeout_ms;
        let due = after_if(self.slots[index as usize].message_tick, idle_timeout_ms);
        self.not_overdue(index, due, idle_timeout_ms)
    }

    /// Where another configuration has lowered how long connections may stay, those that it makes
    /// overdue at once are spread over a tenth of that time.
    fn not_overdue(&self, index: u32, due: u32, stay_ms: u32) -> u32 {
        match self.lowered_tick {
            Some(lowered) if due <= lowered => {
                lowered.saturating_add(timers::ticks(self.part_of(index, stay_ms / 10)) + 1)
            }
            _ => due,
        }
    }

    /// A part of a duration that depends on the slot.
    fn part_of(&self, index: u32, duration_ms: u32) -> u32 {
        let slot = &self.slots[index as usize];
        let spread = u64::from(slot.generation.wrapping_mul(0x9E37_79B9) >> 16);
        ((u64::from(duration_ms) * spread) >> 16) as u32
    }

    /// Plans the next ping.
    pub(super) fn schedule_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random(interval / 8 + 1);
        if !self.suspects.is_empty() {
            self.suspects.remove(&self.token(index));
        }
        let slot = &mut self.slots[index as usize];
        slot.pinged = false;
        slot.stage_tick = self.tick + (interval - early).max(1);
    }

    /// Plans the first ping of a connection: anywhere in the second half of the interval.
    pub(super) fn schedule_first_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random(interval / 2 + 1);
        self.slots[index as usize].stage_tick = self.tick + (interval - early).max(1);
    }

    /// The slot's timer has fired: does what is due.
    pub(super) fn fire(&mut self, index: u32) {
        let timeouts = &self.config.timeouts;
        let slot = &self.slots[index as usize];
        let handshake = after(slot.opened_tick, self.handshake_timeout_ms());
        let closing = ending_until(slot, self.route(index).close_timeout_ms, timeouts);
        let lingering = ending_until(slot, timeouts.linger_timeout_ms, timeouts);
        match &slot.stage {
            Stage::Proxy { .. } if self.tick >= handshake => {
                self.counters.handshake_timeouts += 1;
                self.abort(index, CloseCode::ABNORMAL);
            }
            Stage::Http { .. } if self.tick >= handshake && self.draining => {
                self.refuse(index, Refusal::Unavailable, http::DRAINING);
            }
            Stage::Http { .. } if self.tick >= handshake => {
                self.counters.handshake_timeouts += 1;
                self.refuse(
                    index,
                    Refusal::Timeout,
                    "the request was not complete within the handshake deadline; send it at once \
                     after connecting",
                );
            }
            Stage::Open(_) => self.fire_open(index),
            Stage::Closing { .. } if self.tick >= closing => {
                self.counters.close_timeouts += 1;
                self.abort(index, CloseCode::ABNORMAL);
            }
            Stage::Finishing | Stage::Lingering { .. } if self.tick >= lingering => {
                self.abort(index, CloseCode::ABNORMAL);
            }
            _ => {}
        }
        self.set_deadline(index);
    }

    fn fire_open(&mut self, index: u32) {
        self.hub_fire(index);
        if !matches!(self.slots[index as usize].stage, Stage::Open(_)) {
            return;
        }
        let route = *self.route(index);
        let send_timeout_ms = self.config.timeouts.send_timeout_ms;
        let age = self.age_tick(index);
        if self.tick >= self.park_tick(index) {
            self.do_later(index, Chore::Park);
        }
        let slot = &self.slots[index as usize];
        let stalled = slot
            .outbox
            .as_ref()
            .is_some_and(|outbox| self.tick >= after_if(outbox.progress_tick, send_timeout_ms));
        if stalled {
            self.close_slow_reader(index);
        } else if self.tick >= age {
            self.counters.age_closes += 1;
            self.close(index, CloseCode::GOING_AWAY, "connection age limit reached", 0);
        } else if self.tick >= self.idle_tick(index) {
            self.counters.idle_timeouts += 1;
            self.close(index, CloseCode::GOING_AWAY, "no message within the idle timeout", 0);
        } else if route.ping_interval_ms > 0 && self.tick >= slot.stage_tick {
            self.heartbeat(index, route.pong_timeout_ms);
        }
    }

    /// A ping is due, or its pong is overdue.
    fn heartbeat(&mut self, index: u32, pong_timeout_ms: u32) {
        let slot = &self.slots[index as usize];
        if !slot.pinged {
            let payload = self.ping_payload(index);
            let mut frame = Vec::with_capacity(18);
            ws::append_frame(&mut frame, OpCode::Control(Control::Ping), &payload);
            self.queue(index, &frame);
            self.counters.pings_sent += 1;
            let slot = &mut self.slots[index as usize];
            slot.pinged = true;
            slot.stage_tick = self.tick;
        } else if self.tick >= after(slot.stage_tick, pong_timeout_ms) {
            self.judge_liveness(index);
        }
    }

    /// A pong is overdue. Anything heard since the ping shows life as well. While the ping may not
    /// have left, or its answer may lie in a socket that is not read, the time for the pong has not
    /// begun: the send deadline finds a peer that takes nothing. After that TCP is asked, for the
    /// ping may lie behind megabytes that the peer is still reading.
    fn judge_liveness(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.heard_tick > slot.stage_tick {
            return self.schedule_ping(index);
        }
        let is_sending = slot.outbox.is_some() || slot.lending;
        let is_unheard =
            slot.paused || slot.is_unfinished() || slot.held || slot.input != Input::Unknown;
        if (is_sending && self.config.timeouts.send_timeout_ms > 0) || is_unheard {
            slot.stage_tick = self.tick;
        } else {
            slot.stage_tick = self.tick;
            self.suspects.entry(self.token(index)).or_default();
            self.questioned.push(index);
        }
    }

    /// TCP has answered for a connection whose pong is overdue: it lives if the peer has taken
    /// bytes, or made room for more, since the last answer. Half the time for a pong lies between
    /// two; a peer that has acknowledged nothing since the ping is gone at once.
    pub(super) fn conclude_liveness(&mut self, index: u32, answer: Result<TcpInfo, i32>) {
        let token = self.token(index);
        let pong_timeout_ms = self.route(index).pong_timeout_ms;
        let Some(before) = self.suspects.remove(&token) else { return };
        let slot = &mut self.slots[index as usize];
        if !matches!(slot.stage, Stage::Open(_)) || !slot.pinged {
            return;
        }
        if slot.heard_tick >= slot.stage_tick {
            return self.set_deadline(index);
        }
        // Without an answer, such as of a Unix socket, nothing can be seen but the pong.
        let tcp = answer.unwrap_or_default();
        let is_silent = tcp.unacknowledged > 0 && tcp.last_acknowledged_ms >= pong_timeout_ms;
        let seen = (tcp.acknowledged_bytes, tcp.window_bytes);
        let has_moved = before.is_some_and(|before| seen.0 > before.0 || seen.1 > before.1);
        let half_ticks = timers::ticks(pong_timeout_ms) / 2;
        let slot = &mut self.slots[index as usize];
        if is_silent || (before.is_some() && !has_moved) {
            self.counters.pong_timeouts += 1;
            self.abort(index, CloseCode::ABNORMAL);
        } else {
            self.suspects.insert(token, Some(seen));
            slot.stage_tick = self.tick.saturating_sub(half_ticks);
            self.set_deadline(index);
        }
    }
}

//! Detects dead peers: pings, their pongs, and the state of TCP if a pong is overdue.
//!
//! Pings are spread at random over an eighth of their interval, so that connections that were
//! opened together do not stay synchronous.

use std::hash::BuildHasher;

use super::deadlines::tick_after;
use super::timers;
use super::{Connections, Sessions};
use crate::driver::{Driver, TcpInfo};
use crate::proto::ws::{self, CloseCode, Control, OpCode};

impl Connections {
    /// Returns a ping with its time of sending; a keyed hash keeps clients from forging times.
    fn ping_payload(&self, index: u32) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.now_ns.to_be_bytes());
        payload[8..].copy_from_slice(&self.ping_tag(index, self.now_ns).to_be_bytes());
        payload
    }

    fn ping_tag(&self, index: u32, at_ns: u64) -> u64 {
        let token = self.token(index);
        self.ping_key.hash_one((at_ns, token.slot, token.generation))
    }

    /// Handles a pong as long as our pings: records the round trip if it answers one.
    pub(super) fn take_pong(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        payload: [u8; 16],
    ) {
        let Some((at, tag)) = payload.split_first_chunk::<8>() else { return };
        let at_ns = u64::from_be_bytes(*at);
        let is_pinged = self.slot(index).is_pinged();
        if is_pinged && tag == self.ping_tag(index, at_ns).to_be_bytes() {
            self.counters.pongs_received += 1;
            let took_ns = self.now_ns.saturating_sub(at_ns);
            self.histograms.rtt.record(took_ns);
            sessions.note_round_trip(index, took_ns);
            self.schedule_ping(index);
        }
    }

    /// Requests the state of TCP for connections whose pong is overdue.
    pub(in crate::shard) fn question_suspects(&mut self, driver: &mut impl Driver) {
        for index in std::mem::take(&mut self.questioned) {
            if self.is_open(index) {
                self.request_tcp_info(driver, index);
            }
        }
    }

    /// Requests the state of TCP for a connection: acknowledged bytes, and the peer's window.
    pub(in crate::shard) fn request_tcp_info(&mut self, driver: &mut impl Driver, index: u32) {
        let token = self.token(index);
        let slot = self.slot_mut(index);
        slot.begin_operation();
        driver.measure(slot.socket(), token);
    }

    /// Schedules the next ping.
    pub(super) fn schedule_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random_below(interval / 8 + 1);
        if !self.suspects.is_empty() {
            self.suspects.remove(&self.token(index));
        }
        let tick = self.tick + (interval - early).max(1);
        let slot = self.slot_mut(index);
        slot.set_pinged(false);
        slot.set_stage_tick(tick);
    }

    /// Schedules the first ping of a connection: at random in the second half of the interval.
    pub(super) fn schedule_first_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random_below(interval / 2 + 1);
        let tick = self.tick + (interval - early).max(1);
        self.slot_mut(index).set_stage_tick(tick);
    }

    /// Sends a ping that is due, or requests the state of TCP if a pong is overdue.
    pub(super) fn check_heartbeat(&mut self, index: u32, pong_timeout_ms: u32) {
        let slot = self.slot(index);
        if !slot.is_pinged() {
            let payload = self.ping_payload(index);
            let mut frame = Vec::with_capacity(18);
            ws::append_frame(&mut frame, OpCode::Control(Control::Ping), &payload);
            self.queue_bytes(index, &frame);
            self.counters.pings_sent += 1;
            let tick = self.tick;
            let slot = self.slot_mut(index);
            slot.set_pinged(true);
            slot.set_stage_tick(tick);
        } else if self.tick >= tick_after(slot.clocks().stage_tick, pong_timeout_ms) {
            self.judge_liveness(index);
        }
    }

    /// Judges a peer whose pong is overdue. Any input since the ping proves that it is alive. While
    /// the ping may still be queued, or its pong may be in a socket that is not read, the timeout
    /// has not begun: the send deadline detects a peer that accepts no bytes. After that the state
    /// of TCP decides, because the ping may be behind megabytes that the peer is still reading.
    /// A peer that is not read from gets another ping: if it is gone, its host answers that with a
    /// reset.
    fn judge_liveness(&mut self, index: u32) {
        let slot = self.slot(index);
        let clocks = slot.clocks();
        if clocks.heard_tick > clocks.stage_tick {
            return self.schedule_ping(index);
        }
        let is_sending = slot.outbox().is_some() || slot.is_lending();
        let is_unheard = slot.receiving().may_leave_input_unread();
        if is_unheard && !is_sending {
            return self.schedule_ping(index);
        }
        let tick = self.tick;
        self.slot_mut(index).set_stage_tick(tick);
        if !((is_sending && self.config.timeouts.send_timeout_ms > 0) || is_unheard) {
            self.suspects.entry(self.token(index)).or_default();
            self.questioned.push(index);
        }
    }

    /// Decides about a peer with an overdue pong by the state of TCP: it is alive if it has
    /// acknowledged bytes, or enlarged its window, since the last request. Requests are half a pong
    /// timeout apart; a peer that has acknowledged nothing since the ping is dropped at once.
    pub(super) fn conclude_liveness(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        answer: Result<TcpInfo, i32>,
    ) {
        let token = self.token(index);
        let pong_timeout_ms = self.route(index).pong_timeout_ms;
        let Some(before) = self.suspects.remove(&token) else { return };
        let slot = self.slot(index);
        let clocks = slot.clocks();
        if !self.is_open(index) || !slot.is_pinged() {
            return;
        }
        if clocks.heard_tick >= clocks.stage_tick {
            return self.set_deadline(index);
        }
        // Without the state of TCP, as for a Unix socket, only the pong counts.
        let tcp = answer.unwrap_or_default();
        let is_silent = tcp.unacknowledged > 0 && tcp.last_acknowledged_ms >= pong_timeout_ms;
        let seen = (tcp.acknowledged_bytes, tcp.window_bytes);
        let has_moved = before.is_some_and(|before| seen.0 > before.0 || seen.1 > before.1);
        let half_ticks = timers::ticks(pong_timeout_ms) / 2;
        if is_silent || (before.is_some() && !has_moved) {
            self.counters.pong_timeouts += 1;
            self.abort(sessions, index, CloseCode::ABNORMAL);
        } else {
            self.suspects.insert(token, Some(seen));
            let tick = self.tick.saturating_sub(half_ticks);
            self.slot_mut(index).set_stage_tick(tick);
            self.set_deadline(index);
        }
    }
}

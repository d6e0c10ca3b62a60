//! Whether a peer is alive: pings, their pongs, and TCP's word where a pong is overdue.
//!
//! Pings are spread at random over an eighth of their interval, so that connections opened together
//! drift apart.

use std::hash::BuildHasher;

use super::deadlines::tick_after;
use super::timers;
use super::{Connections, Sessions};
use crate::driver::{Driver, TcpInfo};
use crate::proto::ws::{self, CloseCode, Control, OpCode};

impl Connections {
    /// A ping that says when it left; the tag keeps a client from inventing times.
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

    /// Takes a pong as long as a ping of ours: records the round trip if it answers one.
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

    /// Asks TCP about connections whose pong is overdue.
    pub(in crate::shard) fn question_suspects(&mut self, driver: &mut impl Driver) {
        for index in std::mem::take(&mut self.questioned) {
            if self.is_open(index) {
                self.request_tcp_info(driver, index);
            }
        }
    }

    /// Requests what TCP knows of a connection: which bytes were acknowledged, and its window.
    pub(in crate::shard) fn request_tcp_info(&mut self, driver: &mut impl Driver, index: u32) {
        let token = self.token(index);
        let slot = self.slot_mut(index);
        slot.begin_operation();
        driver.measure(slot.socket(), token);
    }

    /// Plans the next ping.
    pub(super) fn schedule_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random(interval / 8 + 1);
        if !self.suspects.is_empty() {
            self.suspects.remove(&self.token(index));
        }
        let tick = self.tick + (interval - early).max(1);
        let slot = self.slot_mut(index);
        slot.set_pinged(false);
        slot.set_stage_tick(tick);
    }

    /// Plans the first ping of a connection: anywhere in the second half of the interval.
    pub(super) fn schedule_first_ping(&mut self, index: u32) {
        let interval = timers::ticks(self.route(index).ping_interval_ms);
        let early = self.random(interval / 2 + 1);
        let tick = self.tick + (interval - early).max(1);
        self.slot_mut(index).set_stage_tick(tick);
    }

    /// Sends a ping that is due, or queues a question to TCP about a pong that is overdue.
    pub(super) fn check_heartbeat(&mut self, index: u32, pong_timeout_ms: u32) {
        let slot = self.slot(index);
        if !slot.is_pinged() {
            let payload = self.ping_payload(index);
            let mut frame = Vec::with_capacity(18);
            ws::append_frame(&mut frame, OpCode::Control(Control::Ping), &payload);
            self.queue(index, &frame);
            self.counters.pings_sent += 1;
            let tick = self.tick;
            let slot = self.slot_mut(index);
            slot.set_pinged(true);
            slot.set_stage_tick(tick);
        } else if self.tick >= tick_after(slot.clocks().stage_tick, pong_timeout_ms) {
            self.judge_liveness(index);
        }
    }

    /// A pong is overdue. Anything heard since the ping shows life as well. While the ping may not
    /// have left, or its answer may lie in a socket that is not read, the time for the pong has not
    /// begun: the send deadline finds a peer that takes nothing. After that TCP is asked, for the
    /// ping may lie behind megabytes that the peer is still reading.
    fn judge_liveness(&mut self, index: u32) {
        let slot = self.slot(index);
        let clocks = slot.clocks();
        if clocks.heard_tick > clocks.stage_tick {
            return self.schedule_ping(index);
        }
        let is_sending = slot.outbox().is_some() || slot.is_lending();
        let is_unheard = slot.receiving().may_leave_input_unread();
        let tick = self.tick;
        self.slot_mut(index).set_stage_tick(tick);
        if !((is_sending && self.config.timeouts.send_timeout_ms > 0) || is_unheard) {
            self.suspects.entry(self.token(index)).or_default();
            self.questioned.push(index);
        }
    }

    /// TCP has answered for a connection whose pong is overdue: it lives if the peer has taken
    /// bytes, or made room for more, since the last answer. Half the time for a pong lies between
    /// two; a peer that has acknowledged nothing since the ping is gone at once.
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
        // Without an answer, such as of a Unix socket, nothing can be seen but the pong.
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

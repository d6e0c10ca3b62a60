//! Connections that speak TLS: their handshake, and the records that come after it.
//!
//! The handshake belongs to the stage of the request, whose deadline and limits apply to it; what
//! it sends is output of the transport, and leaves with the flush. Afterwards each record is opened
//! where it was received, and its content goes the way of plain input. A record that is cut off by
//! the end of a buffer is kept until its rest has come.
//!
//! What only such connections need is not inlined into the paths that all take.

use std::mem;

use super::deferred::DeferredTask;
use super::journal::Particulars;
use super::stage::Stage;
use super::tls_table::{HandshakeState, Tls};
use super::transport::{TlsHandle, Transport};
use super::{Connections, Goodbye, Sessions};
use crate::driver::Driver;
use crate::proto::http::Refusal;
use crate::proto::ws::CloseCode;
use crate::tls::{Alert, HandshakeFacts, HandshakeFailure, Opened, Session, TlsHandshake, Version};

/// What a step of a handshake that answers something costs: one signature and one exchange of keys.
const ANSWER_EFFORT: u64 = 40_000;
/// Handshakes that are advanced in a turn: each may take as long as a hundred messages.
const HANDSHAKES_PER_TURN: u32 = 2;
/// What opening or sealing a record costs beside moving its bytes.
const RECORD_EFFORT: u64 = 40;

/// What a client that speaks HTTP without TLS is answered.
const NOT_TLS: &str = "this port requires TLS; use https:// or wss://";

impl Connections {
    /// Whether what comes from a connection is not yet, or not at all, plain.
    #[inline]
    pub(super) fn takes_tls(&self, index: u32) -> bool {
        let slot = self.slot(index);
        slot.transport() != Transport::Plain
            || (matches!(slot.stage(), Stage::Proxy { .. }) && self.listener_has_tls(index))
    }

    fn listener_has_tls(&self, index: u32) -> bool {
        self.config.listeners[usize::from(self.slot(index).listener())].tls.is_some()
    }

    /// Has a connection speak TLS from its next byte on, if its listener does.
    #[inline(never)]
    pub(super) fn begin_tls(&mut self, index: u32) {
        if self.listener_has_tls(index) {
            let handle = self.tls.insert();
            self.slot_mut(index).set_transport(Transport::Tls(handle));
        }
    }

    /// Ends the TLS side of a connection, whose slot is freed or speaks plainly from now on.
    #[inline(never)]
    pub(super) fn drop_tls(&mut self, index: u32) {
        let slot = self.slot_mut(index);
        if let Transport::Tls(handle) = slot.transport() {
            slot.set_transport(Transport::Plain);
            slot.set_owing(false);
            self.tls.remove(handle);
        }
    }

    /// Whether the handshake of TLS is not over, so that nothing can be said to the client.
    pub(super) fn is_in_tls_handshake(&self, index: u32) -> bool {
        match self.slot(index).transport() {
            Transport::Plain => false,
            Transport::Tls(handle) => !self.tls.get(handle).is_established(),
        }
    }

    /// Bytes that an unfinished record, request or message of a connection holds.
    pub(super) fn partial_bytes(&self, index: u32) -> usize {
        let slot = self.slot(index);
        let of_transport = match slot.transport() {
            Transport::Plain => 0,
            Transport::Tls(handle) => self.tls.get(handle).partial_bytes(),
        };
        slot.partial_bytes() + of_transport
    }

    /// Ends the stream of a connection behind what is queued. A handshake that is under way has
    /// failed: some clients that refuse a certificate end the stream without an alert.
    #[inline(never)]
    pub(super) fn finish_transport(&mut self, index: u32) {
        if let Transport::Tls(handle) = self.slot(index).transport() {
            if let Tls::Handshake(state) = self.tls.get(handle) {
                let failure = state.failure.unwrap_or(HandshakeFailure::Abandoned);
                self.counters.count_tls_failure(failure);
            }
            self.tls.get_mut(handle).finish();
            self.note_tls(index, handle);
        }
    }

    /// Notes why a handshake under way fails, before its connection is dropped.
    #[inline(never)]
    pub(in crate::shard) fn note_tls_failure(&mut self, index: u32, failure: HandshakeFailure) {
        if let Transport::Tls(handle) = self.slot(index).transport()
            && let Tls::Handshake(state) = self.tls.get_mut(handle)
        {
            state.failure = Some(failure);
        }
    }

    /// Notes what the TLS side of a connection has to send, and what it holds.
    fn note_tls(&mut self, index: u32, handle: TlsHandle) {
        let owes = self.tls.get(handle).has_output();
        self.slot_mut(index).set_owing(owes);
        let bytes = self.partial_bytes(index);
        if bytes > 0 || self.partials.bytes_of(index) > 0 {
            self.partials.set_bytes(index, bytes);
        }
    }

    /// The peer has ended the stream: counts whether it has done so as TLS asks for.
    #[inline(never)]
    pub(super) fn note_stream_end(&mut self, index: u32) {
        if let Transport::Tls(handle) = self.slot(index).transport()
            && let Tls::Established(session) = self.tls.get(handle)
        {
            self.counters.tls_truncations += u64::from(!session.has_peer_closed());
        }
    }

    /// Takes bytes from the wire of a connection for which [`Self::takes_tls`] holds.
    #[inline(never)]
    pub(super) fn receive_tls(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        wire: &mut [u8],
    ) {
        let mut wire = wire;
        if matches!(self.slot(index).stage(), Stage::Proxy { .. }) {
            self.work.begin_slice(index);
            let rest = self.process_within_share(sessions, index, wire, false).rest;
            self.work.end_slice(index);
            let len = wire.len();
            wire = &mut wire[len - rest..];
        }
        let Transport::Tls(handle) = self.slot(index).transport() else { return };
        if wire.is_empty() {
            return;
        }
        if !self.wants_input(index) {
            // It is discarded, and counted as such.
            return self.process_opened(sessions, index, wire);
        }
        if self.tls.get(handle).is_established() {
            self.open_records(sessions, index, handle, wire);
        } else {
            self.continue_handshake(sessions, index, handle, wire);
        }
        self.settle_tls(sessions, index, handle);
    }

    /// Notes what input has changed, and ends the connection if too much is unfinished.
    #[inline(never)]
    fn settle_tls(&mut self, sessions: &mut impl Sessions, index: u32, handle: TlsHandle) {
        if self.slot(index).transport() != Transport::Tls(handle) {
            return;
        }
        self.note_tls(index, handle);
        if self.has_too_much_unfinished() && self.tls.get(handle).partial_bytes() > 0 {
            self.abort_tls(sessions, index);
        }
    }

    /// Processes bytes that no reply may leave from.
    #[inline(never)]
    fn process_opened(&mut self, sessions: &mut impl Sessions, index: u32, bytes: &mut [u8]) {
        let lent = self.process_or_hold(sessions, index, bytes, false);
        debug_assert!(lent.is_none(), "nothing was lent");
    }

    /// Whether what a connection receives still has a meaning.
    fn wants_input(&self, index: u32) -> bool {
        let stage = self.slot(index).stage();
        stage.is_handshake() || stage.is_websocket()
    }

    fn abort_tls(&mut self, sessions: &mut impl Sessions, index: u32) {
        if self.slot(index).stage().is_websocket() {
            self.close_for_partial(sessions, index);
        } else {
            self.note_tls_failure(index, HandshakeFailure::Aborted);
            self.abort(sessions, index, CloseCode::ABNORMAL);
        }
    }

    /// Opens records and processes what they hold.
    fn open_records(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        handle: TlsHandle,
        mut wire: &mut [u8],
    ) {
        while self.wants_input(index) {
            let (Tls::Established(session), keys) = self.tls.with_keys(handle) else { return };
            let next = session.next_record(&mut wire);
            let mut record = match next {
                Ok(Some(record)) => record,
                Ok(None) => return,
                Err(alert) => return self.fail_tls(sessions, index, handle, alert),
            };
            let opened = session.open(keys, record.bytes_mut());
            self.work.spend(RECORD_EFFORT);
            match opened {
                Ok(Opened::Data([]) | Opened::Control) => {}
                Ok(Opened::Data(content)) => {
                    self.process_opened(sessions, index, content);
                    self.close_worn(sessions, index, handle);
                }
                Ok(Opened::Closed) => {
                    self.note_end(sessions, index, DeferredTask::Finish);
                    return;
                }
                Ok(Opened::Failed(alert)) => {
                    self.counters.tls_alerts_received += 1;
                    self.log_tls(index, "tls_alert", &alert_name(alert));
                    return self.drop_broken(sessions, index);
                }
                Err(alert) => return self.fail_tls(sessions, index, handle, alert),
            }
        }
    }

    /// Closes a connection whose key has sealed nearly as much as is safe, and cannot be changed.
    fn close_worn(&mut self, sessions: &mut impl Sessions, index: u32, handle: TlsHandle) {
        if let Tls::Established(session) = self.tls.get(handle)
            && session.is_worn_out()
        {
            let reason = "the encryption key is used up; connect again";
            let goodbye = Goodbye { code: CloseCode::SERVICE_RESTART, reason, retry_after_ms: 0 };
            self.close(sessions, index, goodbye);
        }
    }

    /// Ends an established connection with an alert.
    fn fail_tls(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        handle: TlsHandle,
        alert: Alert,
    ) {
        self.counters.tls_alerts_sent += 1;
        self.log_tls(index, "tls_record", &alert_name(alert));
        if let Tls::Established(session) = self.tls.get_mut(handle) {
            session.fail(alert);
        }
        self.leave(sessions, index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
    }

    fn log_tls(&mut self, index: u32, reason: &'static str, detail: &impl std::fmt::Display) {
        let detail = detail.to_string();
        self.log_rejection(index, reason, |_| Particulars { detail, ..Particulars::default() });
    }

    /// Passes input on to the handshake.
    fn continue_handshake(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        handle: TlsHandle,
        wire: &[u8],
    ) {
        if matches!(self.tls.get(handle), Tls::Awaited) {
            // A record of TLS begins with a number below 32, a request of HTTP with a letter.
            if wire[0].is_ascii_alphabetic() {
                self.counters.tls_plain_requests += 1;
                self.drop_tls(index);
                return self.reject(sessions, index, Refusal::BadRequest, NOT_TLS);
            }
            let listener = usize::from(self.slot(index).listener());
            let Some(settings) = &self.config.listeners[listener].tls else { return };
            match TlsHandshake::new(settings) {
                Ok(handshake) => {
                    self.tls.note_handshake();
                    let state = HandshakeState {
                        handshake,
                        output: Vec::new(),
                        is_waiting: false,
                        began_ns: self.now_ns,
                        failure: None,
                    };
                    *self.tls.get_mut(handle) = Tls::Handshake(Box::new(state));
                }
                Err(_) => return self.abort(sessions, index, CloseCode::ABNORMAL),
            }
        }
        let token = self.token(index);
        let Tls::Handshake(state) = self.tls.get_mut(handle) else { return };
        let is_urgent = state.handshake.push(wire);
        if is_urgent {
            self.advance_handshake(sessions, index, handle);
        } else if !mem::replace(&mut state.is_waiting, true) {
            self.tls.queue_handshake(token);
        }
    }

    /// Returns whether anything has come for a handshake.
    #[inline]
    pub(in crate::shard) fn has_waiting_handshakes(&self) -> bool {
        self.tls.has_waiting_handshakes()
    }

    /// Advances handshakes for which something has come: a few in each turn, after the connections
    /// that are open, which a flood of handshakes would hold up otherwise. Returns whether more
    /// wait.
    #[inline(never)]
    pub(in crate::shard) fn serve_handshakes(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) -> bool {
        let mut advanced = 0;
        while advanced < HANDSHAKES_PER_TURN {
            let Some(token) = self.tls.next_handshake() else { return false };
            let Some(index) = self.find(token) else { continue };
            if self.advance_waiting_handshake(sessions, index) {
                advanced += 1;
                self.reconcile(driver, index);
            }
        }
        self.tls.has_waiting_handshakes()
    }

    /// Drops the tokens of connections that have ended from the queue of handshakes.
    pub(super) fn trim_waiting_handshakes(&mut self) {
        let mut waiting = self.tls.take_waiting_handshakes();
        waiting.retain(|token| self.find(*token).is_some());
        waiting.shrink_to(64);
        self.tls.put_back_waiting_handshakes(waiting);
    }

    /// Processes what waits for a handshake; returns whether anything did.
    #[inline(never)]
    pub(super) fn advance_waiting_handshake(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
    ) -> bool {
        let Transport::Tls(handle) = self.slot(index).transport() else { return false };
        let Tls::Handshake(state) = self.tls.get_mut(handle) else { return false };
        if !mem::take(&mut state.is_waiting) || !self.wants_input(index) {
            return false;
        }
        self.advance_handshake(sessions, index, handle);
        self.settle_tls(sessions, index, handle);
        true
    }

    /// Processes what has come for a handshake.
    fn advance_handshake(&mut self, sessions: &mut impl Sessions, index: u32, handle: TlsHandle) {
        let Tls::Handshake(state) = self.tls.get_mut(handle) else { return };
        let HandshakeState { handshake, output, .. } = &mut **state;
        let before = output.len();
        let advanced = handshake.advance(output);
        if output.len() > before {
            self.work.spend(ANSWER_EFFORT);
        }
        match advanced {
            Ok(false) => {}
            Ok(true) => self.establish(sessions, index, handle),
            Err(error) => {
                self.log_tls(index, "tls_handshake", &error);
                self.note_tls_failure(index, error.failure());
                self.leave(sessions, index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
            }
        }
    }

    /// The handshake is over.
    fn establish(&mut self, sessions: &mut impl Sessions, index: u32, handle: TlsHandle) {
        let (tls, keys) = self.tls.with_keys(handle);
        let Tls::Handshake(state) = mem::replace(tls, Tls::Awaited) else { return };
        let HandshakeState { handshake, output, began_ns, .. } = *state;
        let finished: Result<(Session, HandshakeFacts, Vec<u8>), _> =
            handshake.finish(keys, output);
        match finished {
            Ok((session, facts, mut rest)) => {
                *tls = Tls::Established(session);
                self.count_handshake(&facts, began_ns);
                if !rest.is_empty() {
                    self.open_records(sessions, index, handle, &mut rest);
                }
            }
            Err(error) => {
                self.counters.count_tls_failure(error.failure());
                self.log_tls(index, "tls_handshake", &error);
                self.abort(sessions, index, CloseCode::ABNORMAL);
            }
        }
    }

    fn count_handshake(&mut self, facts: &HandshakeFacts, began_ns: u64) {
        self.histograms.tls_handshake.record(self.now_ns.saturating_sub(began_ns));
        let counters = &mut self.counters;
        match facts.version {
            Version::Tls13 => counters.tls13_handshakes += 1,
            Version::Tls12 => counters.tls12_handshakes += 1,
        }
        counters.tls_resumptions += u64::from(facts.is_resumed);
        counters.count_tls_terms(facts.group.unwrap_or("none"), facts.cipher);
    }
}

/// An alert as logs name it.
fn alert_name(alert: Alert) -> String {
    alert.as_str().map_or_else(|| format!("alert {}", u8::from(alert)), str::to_owned)
}

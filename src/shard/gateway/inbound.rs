//! Records of links: what applications do with sessions.
//!
//! A wrong record ends its link, never a client. A record for a session that is not on the link is
//! no error: the session may have closed or moved while the record was on its way.

use std::sync::Arc;

use super::entry::{DepartedEntry, Receipt, SessionPhase};
use super::{Gateway, Inbound};
use crate::auth::Identity;
use crate::backend::links::BackendLink;
use crate::config::RouteSlowReader;
use crate::driver::{Driver, Token};
use crate::link::{
    AcceptBody, BodyError, CLOSE_REASON_BYTES_MAX, LinkRecord, RecordFlags, RecordKind, Records,
    RejectBody, check_state, decode_accept, decode_reject, sessions_of_many,
};
use crate::proto::ws::{CloseCode, DataKind};
use crate::shard::connections::{Connections, Goodbye, OpeningStep, REQUEST_EFFORT, Sessions};
use crate::shard::layers::Layers;

/// A record that an application must not send, with the reason.
struct WrongRecord(&'static str);

impl From<BodyError> for WrongRecord {
    fn from(error: BodyError) -> Self {
        Self(error.0)
    }
}

impl Layers {
    /// Runs the gateway's turn: records of links, within the turn's effort, and moves. Returns
    /// whether more is to be done at once.
    pub(in crate::shard) fn turn_gateway(
        &mut self,
        driver: &mut impl Driver,
        connections: &mut Connections,
    ) -> bool {
        if self.gateway.is_none() {
            return false;
        }
        let is_cut = self.read_records(driver, connections);
        let Some(gateway) = &mut self.gateway else { return false };
        if std::mem::take(&mut gateway.has_lost_links) {
            connections.reopen_lost(driver, self);
        }
        let Self { hub, gateway: Some(gateway) } = self else { return false };
        let is_cut = gateway.run_moves(connections) || is_cut;
        gateway.continue_rebalance(connections);
        let realm = hub.as_deref().and_then(Sessions::realm);
        let is_cut = gateway.continue_review(connections, realm) || is_cut;
        let is_cut = gateway.continue_disconnecting(connections) || is_cut;
        for index in std::mem::take(&mut gateway.touched) {
            if connections.contains(index) {
                connections.reconsider(index);
                connections.reconcile(driver, index);
            }
        }
        is_cut
    }

    /// Processes records of links until the turn's effort is spent; returns whether more remain.
    fn read_records(&mut self, driver: &mut impl Driver, connections: &mut Connections) -> bool {
        // Records get their share of a turn, however much clients have sent.
        let least = connections.work().spent_effort() + connections.work().share_max();
        while let Some(mut inbound) = self.gateway.as_mut().and_then(|own| own.inbox.pop_front()) {
            let Inbound { link, records, start } = &mut inbound;
            let mut rest = Records::new(&records[*start..], usize::MAX);
            let before = *start;
            let mut has_stopped = false;
            for record in &mut rest {
                let Ok(record) = record else {
                    link.fail("a record is incomplete");
                    *start = records.len();
                    break;
                };
                *start += record.wire_bytes();
                if link.fault().is_none()
                    && let Err(WrongRecord(reason)) =
                        self.apply_record(driver, connections, link, &record)
                {
                    link.fail(reason);
                }
                connections.work_mut().spend(REQUEST_EFFORT);
                let work = connections.work();
                if work.is_turn_spent() && work.spent_effort() >= least {
                    has_stopped = true;
                    break;
                }
            }
            connections.directory().links().remove_inbound(*start - before);
            if has_stopped {
                let Some(gateway) = &mut self.gateway else { return false };
                if inbound.start < inbound.records.len() {
                    gateway.inbox.push_front(inbound);
                }
                return !gateway.inbox.is_empty();
            }
        }
        false
    }

    fn apply_record(
        &mut self,
        driver: &mut impl Driver,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let token = record.session.token;
        let Some(kind) = record.known_kind() else { return Ok(()) };
        match kind {
            RecordKind::Accept => {
                let step = connections.take_accept(driver, self, (link, token), record.body)?;
                let Some(gateway) = &mut self.gateway else { return Ok(()) };
                if step == OpeningStep::NotAwaited {
                    gateway.take_late_accept(connections, link, record)?;
                }
                Ok(())
            }
            RecordKind::Reject => {
                let step = connections.take_reject(driver, self, (link, token), record.body)?;
                let Some(gateway) = &mut self.gateway else { return Ok(()) };
                if step == OpeningStep::NotAwaited {
                    gateway.take_late_reject(connections, link, record)?;
                }
                Ok(())
            }
            _ => match &mut self.gateway {
                Some(gateway) => gateway.apply_to_session(connections, link, kind, record),
                None => Ok(()),
            },
        }
    }
}

impl Gateway {
    /// Returns the slot of an open session, if it is on this link. Otherwise the record was
    /// overtaken by the session's end or move, and is counted.
    fn find(
        &self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        token: Token,
    ) -> Option<u32> {
        let found = connections.find(token).filter(|index| {
            connections.is_open(*index) && self.entry(*index).is_some_and(|own| own.is_on(link))
        });
        if found.is_none() {
            connections.counters_mut().gateway_fenced += 1;
        }
        found
    }

    fn apply_to_session(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        kind: RecordKind,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let token = record.session.token;
        match kind {
            RecordKind::Many => return self.deliver_many(connections, link, record),
            RecordKind::Ack if self.departed.contains_key(&token) => {
                return self.acknowledge_departed(connections, link, token, record.number);
            }
            RecordKind::Close if record.flags.contains(RecordFlags::MOVED) => {
                let is_leaving = |one: &DepartedEntry| {
                    one.entry.is_on(link) && one.entry.phase == SessionPhase::Leaving
                };
                if self.departed.get(&token).is_some_and(is_leaving) {
                    self.move_departed_one(connections, token);
                    return Ok(());
                }
            }
            _ => {}
        }
        let text_error = WrongRecord("text: the payload must be UTF-8; send binary");
        if kind == RecordKind::Text && simdutf8::basic::from_utf8(record.body).is_err() {
            return Err(text_error);
        }
        let Some(index) = self.find(connections, link, token) else { return Ok(()) };
        match kind {
            RecordKind::Text => self.deliver(connections, index, DataKind::Text, record),
            RecordKind::Binary => self.deliver(connections, index, DataKind::Binary, record),
            RecordKind::Ack => return self.acknowledge(connections, index, record.number),
            RecordKind::State => {
                let state = check_state(record.body)?;
                if let Some(entry) = self.entry_mut(index) {
                    entry.extra_mut().state = Some(state);
                }
            }
            RecordKind::Close => return self.close_by_application(connections, index, record),
            _ => {}
        }
        Ok(())
    }

    /// Applies an `accept` after the upgrade: it may name the client, once it is known.
    fn take_late_accept(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let Some(index) = self.find(connections, link, record.session.token) else { return Ok(()) };
        let unix_s = self.unix_ms / 1000;
        let accept = decode_accept(record.body, unix_s, &link.facts().application)?;
        let AcceptBody { identity, state, .. } = accept;
        if let (Some(state), Some(entry)) = (state, self.entry_mut(index)) {
            entry.extra_mut().state = Some(state);
        }
        if let Some(identity) = identity {
            let identity: Arc<Identity> = identity;
            self.set_identity(connections, index, identity);
        }
        Ok(())
    }

    /// Applies a `reject` after the upgrade: the connection is closed.
    fn take_late_reject(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let Some(index) = self.find(connections, link, record.session.token) else { return Ok(()) };
        let RejectBody { status, message } = decode_reject(record.body)?;
        let code = match status {
            401 => CloseCode::UNAUTHORIZED,
            403 => CloseCode::DISCONNECTED,
            429 => CloseCode::RATE_LIMITED,
            _ => CloseCode::TRY_AGAIN_LATER,
        };
        let most = message.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        self.end_for_application(connections, index, code, &message[..most]);
        Ok(())
    }

    /// Queues a message for a client.
    fn deliver(
        &mut self,
        connections: &mut Connections,
        index: u32,
        kind: DataKind,
        record: &LinkRecord<'_>,
    ) {
        if !self.make_room(connections, index, record.body.len()) {
            return;
        }
        connections.send_copy(index, kind, record.body);
        if record.flags.contains(RecordFlags::RECEIPT) {
            let position = connections.position_when_sent(index);
            if let Some(entry) = self.entry_mut(index) {
                let receipt = Receipt { number: record.number, position };
                entry.extra_mut().receipts.push_back(receipt);
            }
        }
        self.note_queued(connections, index);
    }

    /// Returns whether a message may be queued for a client that reads slowly. If not, the message
    /// is dropped, or the connection closed, as its route says.
    fn make_room(&mut self, connections: &mut Connections, index: u32, bytes: usize) -> bool {
        let queued = connections.outbox_bytes(index);
        let most = connections.config().limits.outbox_bytes_max;
        let is_over = queued > 0 && queued + bytes > most || connections.exceeds_fair_share(queued);
        if !is_over {
            return true;
        }
        match connections.route(index).slow_reader {
            RouteSlowReader::Drop => connections.counters_mut().gateway_dropped += 1,
            RouteSlowReader::Close => {
                connections.close_slow_consumer(self, index);
                self.touched.push(index);
            }
        }
        false
    }

    /// Notifies the application if the client's queue is long, and has the output sent.
    fn note_queued(&mut self, connections: &mut Connections, index: u32) {
        let queued = connections.outbox_bytes(index);
        let high = connections.config().limits.outbox_high_bytes;
        let session = connections.session_id(index);
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        if let Some(entry) = entry.filter(|entry| queued > high && !entry.is_slow) {
            entry.is_slow = true;
            let bytes = u32::try_from(queued).unwrap_or(u32::MAX);
            let record = LinkRecord::new(RecordKind::Slow, session, bytes, b"");
            entry.link.iter().for_each(|link| outgoing.append(link, &record));
        }
        self.report_readiness(connections, index);
        self.touched.push(index);
    }

    /// Queues one message for many clients.
    fn deliver_many(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let is_binary = record.flags.contains(RecordFlags::BINARY);
        let kind = if is_binary { DataKind::Binary } else { DataKind::Text };
        let Some((sessions, payload)) = sessions_of_many(record.body, record.number) else {
            return Err(WrongRecord("many: the body is shorter than its sessions"));
        };
        if !is_binary && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(WrongRecord("many: the payload must be UTF-8; set the flag binary"));
        }
        let one = LinkRecord { body: payload, flags: RecordFlags::default(), ..*record };
        for session in sessions {
            connections.work_mut().spend(REQUEST_EFFORT / 4);
            if let Some(index) = self.find(connections, link, session.token) {
                self.deliver(connections, index, kind, &one);
            }
        }
        Ok(())
    }

    fn acknowledge(
        &mut self,
        connections: &mut Connections,
        index: u32,
        number: u32,
    ) -> Result<(), WrongRecord> {
        let Some((entry, spare)) = self.entry_and_spare(index) else { return Ok(()) };
        let Ok(bytes) = entry.up.acknowledge(number, spare) else { return Err(ACK_BEYOND_LAST) };
        entry.link.iter().for_each(|link| link.remove_unacked(bytes));
        if entry.must_leave && entry.up.is_acknowledged() {
            self.begin_leaving(connections, index);
        }
        self.report_readiness(connections, index);
        Ok(())
    }

    fn acknowledge_departed(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        token: Token,
        number: u32,
    ) -> Result<(), WrongRecord> {
        let Self { departed, spare, departed_bytes, .. } = self;
        let Some(one) = departed.get_mut(&token) else { return Ok(()) };
        if !one.entry.is_on(link) {
            connections.counters_mut().gateway_fenced += 1;
            return Ok(());
        }
        let acknowledged = one.entry.up.acknowledge(number, spare);
        let Ok(bytes) = acknowledged else { return Err(ACK_BEYOND_LAST) };
        link.remove_unacked(bytes);
        *departed_bytes -= bytes;
        if one.entry.up.is_acknowledged() && !one.is_between_links() {
            one.entry.leave_counts();
            *departed_bytes -= one.bytes();
            departed.remove(&token);
        }
        Ok(())
    }

    /// Closes a client's connection, or concludes that the application has finished with a session
    /// that moves.
    fn close_by_application(
        &mut self,
        connections: &mut Connections,
        index: u32,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let is_leaving =
            self.entry(index).is_some_and(|entry| entry.phase == SessionPhase::Leaving);
        if record.flags.contains(RecordFlags::MOVED) {
            if !is_leaving {
                return Err(WrongRecord("close: the flag moved answers a close with that flag"));
            }
            self.move_session(connections, index);
            return Ok(());
        }
        let code = u16::try_from(record.number)
            .ok()
            .filter(|code| *code == 1000 || (3000..=4999).contains(code));
        let Some(code) = code else {
            return Err(WrongRecord("close: the code must be 1000, or from 3000 to 4999"));
        };
        let reason = str::from_utf8(record.body).ok();
        let Some(reason) = reason.filter(|text| text.len() <= CLOSE_REASON_BYTES_MAX) else {
            return Err(WrongRecord("close: the reason must be UTF-8 of at most 123 bytes"));
        };
        self.end_for_application(connections, index, CloseCode::new(code), reason);
        Ok(())
    }

    /// Closes a connection whose application is done with the session: nothing more is sent to it.
    fn end_for_application(
        &mut self,
        connections: &mut Connections,
        index: u32,
        code: CloseCode,
        reason: &str,
    ) {
        if let Some((entry, spare)) = self.entry_and_spare(index) {
            entry.leave_counts();
            entry.link = None;
            entry.up.drop_unacknowledged(spare);
        }
        self.is_closed_by_application = true;
        connections.close(self, index, Goodbye { code, reason, retry_after_ms: 0 });
        self.touched.push(index);
    }
}

const ACK_BEYOND_LAST: WrongRecord =
    WrongRecord("ack: a message with this number was not sent on this session");

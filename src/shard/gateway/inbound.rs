//! Records of links: what applications do with sessions.
//!
//! A wrong record ends its link, never a client. A record for a session that is not on the link is
//! no error: the session may have closed or moved while the record was on its way.

use std::sync::Arc;

use super::departed::DepartedStep;
use super::entry::{Receipt, SessionPhase};
use super::{Gateway, Inbound};
use crate::backend::links::BackendLink;
use crate::config::RouteSlowReader;
use crate::driver::{Driver, Token};
use crate::link::{
    BodyError, CLOSE_REASON_BYTES_MAX, LinkRecord, RecordFlags, RecordKind, Records, RejectBody,
    check_state, decode_accept, decode_reject, sessions_of_many,
};
use crate::proto::ws::{self, CloseCode, DataKind};
use crate::session::gateway::AckBeyondLast;
use crate::shard::connections::{
    Connections, FrameRoom, NOT_RECORDED, OpeningStep, REQUEST_EFFORT, Sessions,
};
use crate::shard::hub::Hub;
use crate::shard::layers::Layers;

/// Sessions of a `many` that are served before the turn's effort is checked again.
const MANY_AT_ONCE: usize = 256;
/// The shortest message of a `many` of which the clients share one copy.
const SHARED_BYTES_MIN: usize = 512;

/// A record that an application must not send, with the reason.
pub(super) struct WrongRecord(&'static str);

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
        self.settle_members(connections);
        let is_cut = self.read_records(driver, connections);
        let Some(gateway) = &mut self.gateway else { return false };
        let may_move = !gateway.awaits_records();
        if may_move && std::mem::take(&mut gateway.has_lost_links) {
            connections.reopen_lost(driver, self);
        }
        let Self { hub, gateway: Some(gateway) } = self else { return false };
        let is_cut = (may_move && gateway.run_moves(connections)) || is_cut;
        gateway.continue_rebalance(connections);
        let realm = hub.as_deref().and_then(Sessions::realm);
        let is_cut = gateway.continue_review(connections, realm) || is_cut;
        let is_cut = gateway.continue_disconnecting() || is_cut;
        self.run_closings(connections);
        self.settle_members(connections);
        let Self { hub, gateway: Some(gateway) } = self else { return false };
        let is_cut = hub.as_deref().is_some_and(Hub::awaits_turn) || is_cut;
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
            let before = inbound.start;
            while self.read_record(driver, connections, &mut inbound)
                && (!connections.work().is_turn_spent()
                    || connections.work().spent_effort() < least)
            {}
            connections.directory().links().remove_inbound(inbound.start - before);
            let Some(gateway) = &mut self.gateway else { return false };
            if inbound.start < inbound.records.len() {
                gateway.inbox.push_front(inbound);
            }
            if connections.work().is_turn_spent() && connections.work().spent_effort() >= least {
                return !gateway.inbox.is_empty();
            }
        }
        false
    }

    /// Processes one record, or a part of one for many sessions; returns whether more remain.
    fn read_record(
        &mut self,
        driver: &mut impl Driver,
        connections: &mut Connections,
        inbound: &mut Inbound,
    ) -> bool {
        let Inbound { link, records, start, many_sessions } = inbound;
        let Some(Ok(record)) = Records::new(&records[*start..], usize::MAX).next() else {
            debug_assert_eq!(*start, records.len(), "the links' tasks pass whole records on");
            *start = records.len();
            return false;
        };
        connections.work_mut().spend(REQUEST_EFFORT);
        let is_many = record.known_kind() == Some(RecordKind::Many);
        let result = match &mut self.gateway {
            _ if link.fault().is_some() => Ok(()),
            Some(gateway) if is_many => {
                match gateway.deliver_many(connections, link, &record, *many_sessions) {
                    Ok(done) if done < record.number as usize => {
                        *many_sessions = done;
                        return true;
                    }
                    result => result.map(drop),
                }
            }
            _ => self.apply_record(driver, connections, link, &record),
        };
        if let Err(WrongRecord(reason)) = result {
            // The next link would get the same handshake, and perhaps the same wrong answer.
            connections.reject_opening(driver, self, record.session.token);
            link.fail(reason);
        }
        self.run_closings(connections);
        (*start, *many_sessions) = (*start + record.wire_bytes(), 0);
        *start < records.len()
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
            RecordKind::Join | RecordKind::Leave => {
                self.apply_membership(connections, link, kind, record)
            }
            RecordKind::Accept => {
                let step = connections.take_accept(driver, self, (link, token), record.body)?;
                let Some(gateway) = &mut self.gateway else { return Ok(()) };
                if step == OpeningStep::NotAwaited {
                    gateway.take_late_accept(connections, link, record)?;
                    self.rename_member(connections, token);
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
    pub(super) fn find(
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
        match self.apply_to_departed(connections, link, kind, record)? {
            DepartedStep::Taken => return Ok(()),
            DepartedStep::Fenced => {
                connections.counters_mut().gateway_fenced += 1;
                return Ok(());
            }
            DepartedStep::Unknown => {}
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
                self.set_state(index, state);
            }
            RecordKind::Close => return self.close_by_application(connections, index, record),
            _ => {}
        }
        Ok(())
    }

    /// Applies a record for a session whose connection has closed, if there is one.
    fn apply_to_departed(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        kind: RecordKind,
        record: &LinkRecord<'_>,
    ) -> Result<DepartedStep, WrongRecord> {
        let token = record.session.token;
        let Self { departed, spare, .. } = self;
        match kind {
            RecordKind::Ack => {
                let result = departed.acknowledge(token, link, record.number, spare);
                result.map_err(|AckBeyondLast| ACK_BEYOND_LAST)
            }
            RecordKind::Close if record.flags.contains(RecordFlags::MOVED) => {
                if !departed.is_leaving(token, link) {
                    return Ok(DepartedStep::Unknown);
                }
                self.move_departed_one(connections, token);
                Ok(DepartedStep::Taken)
            }
            // The application is done with it: nothing acknowledges its messages any more.
            RecordKind::Close => Ok(departed.end(token, link)),
            _ => Ok(DepartedStep::Unknown),
        }
    }

    /// Applies an `accept` after the upgrade: it may name the client, once it is known.
    fn take_late_accept(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let Some(index) = self.find(connections, link, record.session.token) else { return Ok(()) };
        let accept = decode_accept(record.body, self.unix_ms / 1000, &link.facts().application)?;
        let earlier = self.entry(index).and_then(|entry| entry.identity.as_ref());
        let identity = accept.identity_after(earlier);
        let state = accept.state;
        if let Some(state) = state {
            self.set_state(index, state);
        }
        if let Some(identity) = identity {
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
        let RejectBody { status, message } = decode_reject(record.body)?;
        let token = record.session.token;
        if self.departed.end(token, link) == DepartedStep::Taken {
            return Ok(());
        }
        let Some(index) = self.find(connections, link, token) else { return Ok(()) };
        let code = match status {
            401 => CloseCode::UNAUTHORIZED,
            403 => CloseCode::DISCONNECTED,
            429 => CloseCode::RATE_LIMITED,
            _ => CloseCode::TRY_AGAIN_LATER,
        };
        let most = message.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        self.end_for_application(index, code, &message[..most]);
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
        connections.work_mut().spend_moved(record.body.len());
        if record.flags.contains(RecordFlags::RECEIPT) {
            let position = connections.position_when_sent(index);
            self.push_receipt(index, Receipt { number: record.number, position });
        }
        self.note_queued(connections, index);
    }

    /// Returns whether a message may be queued for a client that reads slowly. If not, the message
    /// is dropped, or the connection closed, as its route says.
    fn make_room(&mut self, connections: &mut Connections, index: u32, bytes: usize) -> bool {
        let queued = connections.outbox_bytes(index);
        let most = connections.config().limits.outbox_high_bytes;
        // One message fits beyond the limit, unless very many connections are sent too much.
        let is_over = queued > most || connections.exceeds_fair_share(queued);
        if !is_over && !connections.is_far_over(queued + bytes) {
            return true;
        }
        match connections.route(index).slow_reader {
            RouteSlowReader::Drop => connections.counters_mut().gateway_dropped += 1,
            RouteSlowReader::Close => {
                self.close_slow(index);
            }
        }
        false
    }

    /// Notifies the application if the client's queue is long, and has the output sent.
    fn note_queued(&mut self, connections: &mut Connections, index: u32) {
        let queued = connections.outbox_bytes(index);
        let slow = connections.config().limits.outbox_low_bytes;
        let session = connections.session_id(index);
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        if let Some(entry) = entry.filter(|entry| queued > slow && !entry.is_slow()) {
            entry.replace_slow(true);
            let bytes = u32::try_from(queued).unwrap_or(u32::MAX);
            let record = LinkRecord::new(RecordKind::Slow, session, bytes, b"");
            entry.link.iter().for_each(|link| outgoing.append(link, &record));
        }
        self.report_readiness(connections, index);
        self.touched.push(index);
    }

    /// Queues one message for many clients: for some of them, from this one on. Returns the number
    /// of those that have it then.
    fn deliver_many(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        record: &LinkRecord<'_>,
        from: usize,
    ) -> Result<usize, WrongRecord> {
        let is_binary = record.flags.contains(RecordFlags::BINARY);
        let kind = if is_binary { DataKind::Binary } else { DataKind::Text };
        let Some((sessions, payload)) = sessions_of_many(record.body, record.number) else {
            return Err(WrongRecord("many: the body is shorter than its sessions"));
        };
        if from == 0 && !is_binary && simdutf8::basic::from_utf8(payload).is_err() {
            return Err(WrongRecord("many: the payload must be UTF-8; set the flag binary"));
        }
        let frame = (payload.len() >= SHARED_BYTES_MIN).then(|| {
            let (header, len) = ws::frame_header(kind.opcode(), payload.len());
            Arc::<[u8]>::from([&header[..len], payload].concat())
        });
        let mut done = from;
        for session in sessions.skip(from).take(MANY_AT_ONCE) {
            done += 1;
            connections.work_mut().spend(REQUEST_EFFORT / 4);
            let Some(index) = self.find(connections, link, session.token) else { continue };
            if !self.make_room(connections, index, payload.len()) {
                continue;
            }
            match &frame {
                Some(frame)
                    if matches!(connections.room_for_frame(index), FrameRoom::For(None)) =>
                {
                    connections.queue_shared(index, frame.clone(), NOT_RECORDED, false);
                }
                _ => {
                    connections.send_copy(index, kind, payload);
                    connections.work_mut().spend_moved(payload.len());
                }
            }
            self.note_queued(connections, index);
        }
        Ok(done)
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
        if entry.must_leave() && entry.up.is_acknowledged() {
            self.begin_leaving(connections, index);
        }
        self.report_readiness(connections, index);
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
            self.entry(index).is_some_and(|entry| entry.phase() == SessionPhase::Leaving);
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
        self.end_for_application(index, CloseCode::new(code), reason);
        Ok(())
    }

    /// Closes a connection whose application is done with the session: nothing more is sent to it.
    fn end_for_application(&mut self, index: u32, code: CloseCode, reason: &str) {
        if let Some((entry, spare)) = self.entry_and_spare(index) {
            entry.leave_counts();
            entry.link = None;
            entry.up.drop_unacknowledged(spare);
        }
        self.close_for_application(index, code, reason.to_owned());
    }
}

const ACK_BEYOND_LAST: WrongRecord =
    WrongRecord("ack: a message with this number was not sent on this session");

//! The hub as the layer of sessions above connections.

use std::sync::Arc;

use super::Hub;
use crate::admission::Admission;
use crate::auth::Identity;
use crate::backend::queue::EventUser;
use crate::config::HandlerName;
use crate::hub::{ChannelName, ConnectionId, ProtocolId};
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::{Budget, HubSession, Realm};
use crate::session::protocol::Reply;
use crate::shard::connections::{
    Connections, Goodbye, MessageContext, QueuedSize, Sessions, TooMuch,
};

impl Sessions for Hub {
    fn realm(&self) -> Option<&Realm> {
        Some(&self.shared.realm)
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn user(&self, index: u32) -> Option<(&str, &Admission)> {
        let user = self.entry(index)?.session.user()?;
        Some((user, self.admission()))
    }

    fn client(&self, index: u32) -> Option<(ConnectionId, Option<EventUser>)> {
        let entry = self.entry(index)?;
        Some((entry.session.id, entry.event_user()))
    }

    fn choose_protocol(&self, subprotocol: Option<&str>) -> ProtocolId {
        self.shared.realm.protocols.choose(subprotocol)
    }

    fn open_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        protocol: ProtocolId,
    ) {
        if connections.route(index).handler != HandlerName::Hub {
            return;
        }
        let heartbeat_s = connections.route(index).ping_interval_ms / 1000;
        self.insert_session(connections, index, identity, protocol);
        let most = connections.config().limits.admission.connections_per_user_max;
        self.list_user(index);
        let counted = self.count_user(index, most);
        self.with_session(connections, index, |session, call| {
            session.send_welcome(call, heartbeat_s);
        });
        self.send_engine_notice(connections, index);
        self.reschedule(connections, index);
        if counted.is_err() {
            self.close_one_too_many(connections, index);
        }
    }

    fn subscribe_opened(
        &mut self,
        connections: &mut Connections,
        index: u32,
        channels: &[ChannelName],
    ) {
        // Not longer than the application has said that it knows the client.
        let identity = self.entry(index).and_then(|entry| entry.session.identity());
        let expires_s = identity.and_then(|own| own.expires_s).unwrap_or(u64::MAX);
        for channel in channels {
            self.subscribe_all(connections, &[index], (channel, expires_s), None);
        }
    }

    fn receive_message(
        &mut self,
        context: MessageContext,
        kind: DataKind,
        payload: Payload<'_>,
        too_much: Option<TooMuch>,
    ) {
        let MessageContext { index, now_ns, budget } = context;
        self.call_session(index, now_ns, budget, |session, call| match (kind, too_much) {
            (DataKind::Text, Some(much)) => {
                session.refuse_frame(call, payload, much.kind, much.wait_ms);
            }
            (DataKind::Text, None) => session.receive_text(call, payload),
            (DataKind::Binary, _) => {
                let reason = "only text messages are accepted here; send the request as text";
                call.effects.close = Some((CloseCode::UNSUPPORTED_DATA, reason.into()));
            }
        });
    }

    fn finish_message(&mut self, connections: &mut Connections, index: u32) {
        self.apply_effects(connections, index);
    }

    fn resume_requests(&mut self, connections: &mut Connections, index: u32) {
        let budget: Budget = connections.request_budget(index);
        let now_ns = connections.now_ns();
        self.call_session(index, now_ns, budget, HubSession::resume_requests);
        self.apply_effects(connections, index);
    }

    fn refill_outbox(&mut self, connections: &mut Connections, index: u32, bytes_max: usize) {
        self.fill_outbox(connections, index, bytes_max);
    }

    fn run_due(&mut self, connections: &mut Connections, index: u32) {
        let realm = &self.shared.realm;
        let due = self.entry(index).and_then(|entry| entry.session.deadline_ms(realm));
        if due.is_some_and(|due| due <= self.unix_ms) {
            self.with_session(connections, index, HubSession::handle_deadline);
        }
        self.reschedule_due(connections, index);
    }

    fn reschedule_due(&mut self, connections: &mut Connections, index: u32) {
        let tick = self.due_tick(connections, index);
        connections.set_session_due(index, tick);
    }

    fn note_round_trip(&mut self, index: u32, took_ns: u64) {
        if let Some(entry) = self.entry_mut(index) {
            entry.rtt_us = (took_ns / 1000).clamp(1, u64::from(u32::MAX)) as u32;
        }
    }

    fn say_goodbye(
        &mut self,
        connections: &mut Connections,
        index: u32,
        goodbye: Goodbye<'_>,
        with_backlog: bool,
    ) -> CloseCode {
        if with_backlog {
            self.fill_outbox(connections, index, usize::MAX);
        }
        let Goodbye { code, reason, retry_after_ms } = goodbye;
        let protocol = self.entry(index).map(|entry| entry.protocol);
        let Some(protocol) = protocol else { return code };
        let protocol = self.shared.realm.protocols.get(protocol);
        let goodbye = Reply::Goodbye { code, reason, retry_after_ms };
        if let Some(text) = protocol.encode_reply(&goodbye) {
            connections.send_message(index, DataKind::Text, text);
        }
        protocol.wire_code(code)
    }

    fn drop_backlog(&mut self, connections: &mut Connections, index: u32) {
        let backlog = self.entry_mut(index).and_then(|entry| entry.backlog.take());
        if let Some(backlog) = backlog {
            connections.count_backlog(backlog.size(), QueuedSize::default());
            self.report_session(connections, index);
        }
    }

    fn end_session(&mut self, connections: &mut Connections, index: u32, _code: CloseCode) {
        self.remove_session(connections, index);
    }
}

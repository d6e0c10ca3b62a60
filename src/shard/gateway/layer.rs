//! The gateway as the layer of sessions above connections.

use std::sync::Arc;

use super::departed::{ACK_MS_MAX, DepartedEntry, give_up};
use super::entry::{GatewayEntry, SessionPhase};
use super::{Gateway, link_settings};
use crate::admission::tables::Entered;
use crate::admission::{Admission, Denied};
use crate::auth::Identity;
use crate::backend::queue::EventUser;
use crate::hub::{ChannelName, ConnectionId, ProtocolId};
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::Realm;
use crate::shard::connections::{
    Connections, Goodbye, LINKED, MessageContext, SessionReadiness, Sessions, TooMuch, UNSET, ticks,
};

impl Gateway {
    fn admission(&self) -> &Admission {
        self.directory.admission()
    }

    /// Returns the id of a session's connection.
    pub(super) fn connection_id(&self, index: u32) -> Option<ConnectionId> {
        let serial = self.entry(index)?.serial;
        Some(ConnectionId { node: self.node, shard: self.id, session: index | LINKED, serial })
    }

    /// Counts the session towards its user's limit; closes the connection if it is one too many.
    fn count_user(&mut self, connections: &mut Connections, index: u32) {
        let most = connections.config().limits.admission.connections_per_user_max;
        let user = self.entry(index).and_then(|entry| entry.user().cloned());
        let Some(user) = user else { return };
        match self.admission().enter_user(&user, most) {
            Entered::Counted => {
                if let Some(entry) = self.entry_mut(index) {
                    entry.replace_counted(true);
                }
            }
            Entered::Full => {
                connections.counters_mut().count_denial(Denied::UserFull);
                let reason = "user is at its connection limit; close one first";
                self.close_later(index, CloseCode::RATE_LIMITED, reason);
            }
            Entered::NoRoom => {}
        }
    }

    /// Gives a session another identity, which the application names after the upgrade.
    pub(super) fn set_identity(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Arc<Identity>,
    ) {
        let Some(entry) = self.entry_mut(index) else { return };
        let earlier = entry.identity.replace(identity);
        let was_counted = entry.replace_counted(false);
        let user = earlier.and_then(|own| own.user.clone());
        if let Some(user) = user.filter(|_| was_counted) {
            self.admission().leave_user(&user);
        }
        self.count_user(connections, index);
        self.reschedule_due(connections, index);
        if connections.contains(index) {
            connections.set_deadline(index);
        }
    }

    /// Keeps a session whose connection has closed until all its messages are acknowledged. One
    /// that is between links is kept as well, until the application learns of its end on the next.
    fn keep_departed(
        &mut self,
        connections: &mut Connections,
        index: u32,
        entry: Box<GatewayEntry>,
        code: CloseCode,
    ) {
        let (Some(backend), Some(settings)) =
            (connections.route(index).application, link_settings(connections, index))
        else {
            return give_up(connections, &entry);
        };
        let (tick, hold_ms) = (connections.tick(), settings.hold_ms);
        let is_leaving = entry.phase() == SessionPhase::Leaving;
        let patience_ms = if is_leaving { settings.drain_ms } else { ACK_MS_MAX };
        let connection = ConnectionId {
            node: self.node,
            shard: self.id,
            session: index | LINKED,
            serial: entry.serial,
        };
        let mut departed = DepartedEntry {
            entry,
            connection,
            code: code.get().into(),
            backend,
            path: connections.route_path(index).into(),
            address: connections.peer_ip(index),
            until: tick + ticks(patience_ms),
        };
        if departed.has_no_link() {
            departed.until = tick + ticks(hold_ms);
        }
        if let Err(one) = self.departed.insert(connections.token(index), departed) {
            give_up(connections, &one.entry);
        }
    }
}

impl Sessions for Gateway {
    fn realm(&self) -> Option<&Realm> {
        None
    }

    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn user(&self, index: u32) -> Option<(&str, &Admission)> {
        Some((self.entry(index)?.user()?, self.admission()))
    }

    fn client(&self, index: u32) -> Option<(ConnectionId, Option<EventUser>)> {
        let user = self.entry(index)?.user().cloned();
        let user = user.map(|name| EventUser { name, since_open: true });
        Some((self.connection_id(index)?, user))
    }

    fn choose_protocol(&self, _subprotocol: Option<&str>) -> ProtocolId {
        ProtocolId::STORED
    }

    fn open_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        _protocol: ProtocolId,
    ) {
        let opened = connections.take_opened().expect("a session was opened before the upgrade");
        let generation = connections.token(index).generation;
        self.insert(index, GatewayEntry::new(*opened, identity, generation));
        if let Some((id, user)) = self.client(index) {
            connections.report_open(index, id, user);
        }
        self.reschedule_due(connections, index);
        connections.set_deadline(index);
        self.count_user(connections, index);
        let has_lost = |entry: &GatewayEntry| {
            entry.link.as_ref().is_some_and(|link| link.is_closed() || link.is_draining())
        };
        if self.entry(index).is_some_and(has_lost) {
            self.sweep.request();
        }
        self.report_readiness(connections, index);
    }

    fn subscribe_opened(
        &mut self,
        _connections: &mut Connections,
        _index: u32,
        channels: &[ChannelName],
    ) {
        debug_assert!(channels.is_empty(), "an application subscribes nothing when it accepts");
    }

    fn receive_message(
        &mut self,
        context: MessageContext,
        kind: DataKind,
        payload: Payload<'_>,
        too_much: Option<TooMuch>,
    ) {
        debug_assert!(too_much.is_none(), "connections close at the rate limit");
        self.send_up(context.index, kind, payload.as_slice());
    }

    fn finish_message(&mut self, connections: &mut Connections, index: u32) {
        self.report_readiness(connections, index);
    }

    fn resume_requests(&mut self, _connections: &mut Connections, _index: u32) {}

    fn refill_outbox(&mut self, connections: &mut Connections, index: u32, _bytes_max: usize) {
        self.note_drained(connections, index);
    }

    fn run_due(&mut self, connections: &mut Connections, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        let expires_s = entry.identity.as_ref().and_then(|own| own.expires_s);
        if expires_s.is_some_and(|at| at.saturating_mul(1000) <= self.unix_ms) {
            let reason = "the identity of the client has expired; reconnect";
            return self.close_later(index, CloseCode::EXPIRED, reason);
        }
        self.run_phase_due(connections, index);
        if self.has_session(index) {
            self.reschedule_due(connections, index);
        }
    }

    fn reschedule_due(&mut self, connections: &mut Connections, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        let expires_s = entry.identity.as_ref().and_then(|own| own.expires_s);
        let expiry = expires_s.map_or(UNSET, |at| {
            let wait_ms = at.saturating_mul(1000).saturating_sub(self.unix_ms);
            connections
                .tick()
                .saturating_add(ticks(wait_ms.min(u64::from(u32::MAX / 2)) as u32) + 1)
        });
        connections.set_session_due(index, expiry.min(entry.phase_due));
    }

    fn note_round_trip(&mut self, _index: u32, _took_ns: u64) {}

    fn say_goodbye(
        &mut self,
        _connections: &mut Connections,
        _index: u32,
        goodbye: Goodbye<'_>,
        _with_backlog: bool,
    ) -> CloseCode {
        goodbye.code
    }

    fn drop_backlog(&mut self, _connections: &mut Connections, _index: u32) {}

    fn end_session(&mut self, connections: &mut Connections, index: u32, code: CloseCode) {
        let Some(mut entry) = self.remove(index) else { return };
        let was_counted = entry.replace_counted(false);
        if let Some(user) = entry.user().filter(|_| was_counted) {
            self.admission().leave_user(user);
        }
        connections.set_session_due(index, UNSET);
        connections.set_readiness(index, SessionReadiness::default());
        let link = entry.link.as_ref().filter(|link| entry.is_open() && !link.is_closed());
        if let Some(link) = link {
            let session = connections.session_id(index);
            self.outgoing.close(link, session, code.get().into());
        }
        let is_by_application = std::mem::take(&mut self.is_closed_by_application);
        if is_by_application || (link.is_some() && entry.up.is_acknowledged()) {
            entry.leave_counts();
        } else {
            self.keep_departed(connections, index, entry, code);
        }
    }
}

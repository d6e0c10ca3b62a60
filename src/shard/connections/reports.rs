//! Reports events of connections with a session to the consumer of [`crate::backend::queue`].

use super::journal::request_target;
use super::timers::TICK_MS;
use super::transport::Transport;
use super::{Connections, Sessions};
use crate::backend::queue::{EventClient, EventSender, EventUser, Happening};
use crate::config::HandlerName;
use crate::events::EventKind;
use crate::hub::ConnectionId;
use crate::proto::ws::CloseCode;

impl Connections {
    /// Returns the sender of events, for the layer of sessions.
    pub(in crate::shard) fn events_mut(&mut self) -> &mut EventSender {
        &mut self.events
    }

    /// Keeps the path of a connection that is being opened, if its event is wanted.
    pub(super) fn note_opening_path(&mut self, route: usize, path: impl FnOnce() -> String) {
        let target = self.config.route_options[route].events;
        let is_wanted = self.events.is_wanted(target, EventKind::Connected);
        self.opening_path = is_wanted.then(|| path().into());
    }

    /// Keeps the target of a request to a route whose sessions need it.
    pub(super) fn note_opened_target(&mut self, route: usize, head: &[u8]) {
        let handler = self.config.route_options[route].handler;
        self.opened_target = (handler == HandlerName::Pusher)
            .then(|| String::from_utf8_lossy(request_target(head)).into());
    }

    /// Returns the target of the request of a connection that is being opened.
    pub(in crate::shard) fn take_opened_target(&mut self) -> Option<Box<str>> {
        self.opened_target.take()
    }

    /// Returns whether a connection is encrypted by this server.
    pub(in crate::shard) fn is_encrypted(&self, index: u32) -> bool {
        self.slot(index).transport() != Transport::Plain
    }

    /// Reports that a WebSocket was opened. Its session has just been made, and no event of it was
    /// reported yet.
    pub(in crate::shard) fn report_open(
        &mut self,
        index: u32,
        connection: ConnectionId,
        user: Option<EventUser>,
    ) {
        let Some(path) = self.opening_path.take() else { return };
        let (token, slot) = (self.token(index), &self.slots[index as usize]);
        let address = slot.peer().get();
        let backend = self.config.route_options[slot.route()].events.backend;
        let client = EventClient { token, connection, address, user };
        self.events.send(backend, Happening::Connected { client, path });
    }

    /// Ends the session of a WebSocket that has ended, or that the server closes, and reports that
    /// after what ends with the session.
    pub(super) fn end_session(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        code: CloseCode,
    ) {
        let target = self.route(index).events;
        let is_wanted = self.events.is_wanted(target, EventKind::Disconnected);
        // Without a session, the end was reported already.
        let client = if is_wanted { sessions.client(index) } else { None };
        sessions.end_session(self, index, code);
        let Some((connection, user)) = client else { return };
        let (token, tick) = (self.token(index), self.tick);
        let slot = &self.slots[index as usize];
        let (traffic, address) = (slot.traffic(), slot.peer().get());
        let event = Happening::Disconnected {
            client: EventClient { token, connection, address, user },
            code,
            duration_ms: u64::from(tick.saturating_sub(slot.clocks().opened_tick)) * TICK_MS,
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
        };
        self.events.send(target.backend, event);
    }
}

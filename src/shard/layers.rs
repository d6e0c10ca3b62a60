//! The layers of sessions above connections: the hub, and the gateway. A connection has a session
//! of one of them, or none. While a client of the gateway is a member of channels, it also has a
//! session of the hub, which takes part in what its queue and its end need.

use std::sync::Arc;

use super::connections::{Connections, Goodbye, MessageContext, Sessions, TooMuch};
use super::gateway::Gateway;
use super::hub::Hub;
use crate::admission::Admission;
use crate::auth::Identity;
use crate::backend::queue::EventUser;
use crate::config::HandlerName;
use crate::hub::{ChannelName, ConnectionId, ProtocolId};
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::Realm;

/// See the module.
pub(super) struct Layers {
    /// Channels; `None` if no route uses the hub or the gateway.
    pub(super) hub: Option<Box<Hub>>,
    /// Sessions of applications behind links; `None` if no route uses the gateway.
    pub(super) gateway: Option<Box<Gateway>>,
}

impl Layers {
    /// Returns the gateway, if the connection has a session there.
    fn gateway_at(&mut self, index: u32) -> Option<&mut Gateway> {
        self.gateway.as_deref_mut().filter(|gateway| gateway.has_session(index))
    }

    /// Returns the hub, if the connection is a member of channels behind a link.
    fn hub_of_member(&mut self, index: u32) -> Option<&mut Hub> {
        self.hub.as_deref_mut().filter(|hub| hub.has_linked(index))
    }
}

/// Calls the layer that the connection has a session in; does nothing if there is none.
macro_rules! call_layer {
    ($layers:ident, $index:ident, $call:ident($($argument:expr),*)) => {
        if let Some(gateway) = $layers.gateway_at($index) {
            gateway.$call($($argument),*);
        } else if let Some(hub) = &mut $layers.hub {
            hub.$call($($argument),*);
        }
    };
}

/// Calls the hub as well, if the connection is a member of channels behind a link.
macro_rules! call_both {
    ($layers:ident, $index:ident, $call:ident($($argument:expr),*)) => {
        if $layers.gateway_at($index).is_none() {
            if let Some(hub) = &mut $layers.hub {
                hub.$call($($argument),*);
            }
        } else {
            if let Some(hub) = $layers.hub_of_member($index) {
                hub.$call($($argument),*);
            }
            if let Some(gateway) = &mut $layers.gateway {
                gateway.$call($($argument),*);
            }
        }
    };
}

impl Sessions for Layers {
    fn realm(&self) -> Option<&Realm> {
        self.hub.as_deref().and_then(Sessions::realm)
    }

    fn unix_ms(&self) -> u64 {
        self.hub.as_deref().map_or(0, Sessions::unix_ms)
    }

    fn user(&self, index: u32) -> Option<(&str, &Admission)> {
        let of_gateway = self.gateway.as_deref().and_then(|gateway| gateway.user(index));
        of_gateway.or_else(|| self.hub.as_deref()?.user(index))
    }

    fn client(&self, index: u32) -> Option<(ConnectionId, Option<EventUser>)> {
        let of_gateway = self.gateway.as_deref().and_then(|gateway| gateway.client(index));
        of_gateway.or_else(|| self.hub.as_deref()?.client(index))
    }

    fn choose_protocol(&self, subprotocol: Option<&str>) -> ProtocolId {
        self.hub.as_deref().map_or(ProtocolId::STORED, |hub| hub.choose_protocol(subprotocol))
    }

    fn open_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        protocol: ProtocolId,
    ) {
        match connections.route(index).handler {
            HandlerName::Echo => {}
            HandlerName::Hub => {
                if let Some(hub) = &mut self.hub {
                    hub.open_session(connections, index, identity, protocol);
                }
            }
            HandlerName::Pusher => {
                if let Some(hub) = &mut self.hub {
                    hub.open_app_session(connections, index);
                }
            }
            HandlerName::Gateway => {
                if let Some(gateway) = &mut self.gateway {
                    gateway.open_session(connections, index, identity, protocol);
                }
                self.run_closings(connections);
            }
        }
    }

    fn subscribe_opened(
        &mut self,
        connections: &mut Connections,
        index: u32,
        channels: &[ChannelName],
    ) {
        call_layer!(self, index, subscribe_opened(connections, index, channels));
    }

    fn receive_message(
        &mut self,
        context: MessageContext,
        kind: DataKind,
        payload: Payload<'_>,
        too_much: Option<TooMuch>,
    ) {
        let index = context.index;
        call_layer!(self, index, receive_message(context, kind, payload, too_much));
    }

    fn finish_message(&mut self, connections: &mut Connections, index: u32) {
        call_layer!(self, index, finish_message(connections, index));
    }

    fn resume_requests(&mut self, connections: &mut Connections, index: u32) {
        call_layer!(self, index, resume_requests(connections, index));
    }

    fn refill_outbox(&mut self, connections: &mut Connections, index: u32, bytes_max: usize) {
        // The gateway first: it sees what was sent before the hub queues more.
        if let Some(gateway) = self.gateway_at(index) {
            gateway.refill_outbox(connections, index, bytes_max);
            if let Some(hub) = self.hub_of_member(index) {
                hub.refill_outbox(connections, index, bytes_max);
            }
        } else if let Some(hub) = &mut self.hub {
            hub.refill_outbox(connections, index, bytes_max);
        }
    }

    fn run_due(&mut self, connections: &mut Connections, index: u32) {
        call_layer!(self, index, run_due(connections, index));
        self.run_closings(connections);
    }

    fn reschedule_due(&mut self, connections: &mut Connections, index: u32) {
        call_layer!(self, index, reschedule_due(connections, index));
    }

    fn note_round_trip(&mut self, index: u32, took_ns: u64) {
        call_layer!(self, index, note_round_trip(index, took_ns));
    }

    fn say_goodbye(
        &mut self,
        connections: &mut Connections,
        index: u32,
        goodbye: Goodbye<'_>,
        with_backlog: bool,
    ) -> CloseCode {
        // The gateway sends none; what the hub has queued for a member goes first.
        let hub = self.hub.as_deref_mut();
        hub.map_or(goodbye.code, |hub| hub.say_goodbye(connections, index, goodbye, with_backlog))
    }

    fn drop_backlog(&mut self, connections: &mut Connections, index: u32) {
        call_both!(self, index, drop_backlog(connections, index));
    }

    fn end_session(&mut self, connections: &mut Connections, index: u32, code: CloseCode) {
        call_both!(self, index, end_session(connections, index, code));
    }
}

//! Reports events of connections to the consumer of [`crate::shard::events`].

use super::Connections;
use super::timers::TICK_MS;
use crate::auth::Identity;
use crate::proto::ws::CloseCode;
use crate::shard::events::{EventSender, ShardEvent};

impl Connections {
    /// Returns the sender of events, for the layer of sessions.
    pub(in crate::shard) fn events_mut(&mut self) -> &mut EventSender {
        &mut self.events
    }

    /// Reports that a WebSocket was opened.
    pub(super) fn report_open(&mut self, index: u32, identity: Option<&Identity>) {
        let token = self.token(index);
        let slot = &self.slots[index as usize];
        self.events.send(|| ShardEvent::Connected {
            token,
            route: slot.route(),
            address: slot.peer().get(),
            user: identity.and_then(|identity| identity.user.clone()),
        });
    }

    /// Reports that an open WebSocket has ended.
    pub(super) fn report_close(&mut self, index: u32, code: CloseCode) {
        let (token, tick) = (self.token(index), self.tick);
        let slot = &self.slots[index as usize];
        let traffic = slot.traffic();
        self.events.send(|| ShardEvent::Disconnected {
            token,
            code,
            duration_ms: u64::from(tick.saturating_sub(slot.clocks().opened_tick)) * TICK_MS,
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
        });
    }
}

//! Describes a connection for operators.

use std::net::IpAddr;

use super::Connections;
use super::timers::TICK_MS;
use crate::shard::mail::ConnectionInfo;

impl Connections {
    /// Returns the address of a connection's peer.
    pub(in crate::shard) fn address(&self, index: u32) -> Option<IpAddr> {
        Some(self.slots.get(index as usize)?.peer().get()?.ip())
    }

    /// Returns whether the slot has a connection whose socket is not being closed.
    pub(in crate::shard) fn has_socket(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| !slot.is_closing_socket())
    }

    /// Describes an open connection, except for its session.
    pub(in crate::shard) fn describe_connection(
        &self,
        index: u32,
        unix_ms: u64,
    ) -> Option<ConnectionInfo> {
        let slot = self.slots.get(index as usize).filter(|_| self.is_open(index))?;
        let age_ticks = u64::from(self.tick.saturating_sub(slot.clocks().opened_tick));
        let (route, traffic) = (&self.config.routes.as_slice()[slot.route()], slot.traffic());
        Some(ConnectionInfo {
            address: slot.peer().get().map(|peer| peer.to_string()),
            path: route.path.clone(),
            shard: self.id,
            since: unix_ms.saturating_sub(age_ticks * TICK_MS),
            bytes_received: traffic.bytes_received,
            bytes_sent: traffic.bytes_sent,
            messages_received: traffic.messages_received,
            messages_sent: traffic.messages_sent,
            queue_bytes: slot.queued_bytes() as u64,
            ..ConnectionInfo::default()
        })
    }
}

//! Reports what happens to channels and their members to the consumer of
//! [`crate::backend::queue`], if an application wants it.

use super::Hub;
use super::session_table::SessionEntry;
use crate::backend::queue::Happening;
use crate::events::{EventKind, EventKinds};
use crate::hub::{ChannelName, ConnectionId, HomeEvent};
use crate::session::hub::{AppEvent, Effects, Left, NONE};
use crate::shard::connections::Connections;

impl Hub {
    /// Queues the events of the home's channels, and keeps it informed of the wanted kinds.
    pub(super) fn report_home_events(&mut self, connections: &mut Connections) {
        let mut wanted = connections.config().channel_events;
        if !wanted.is_empty() && !connections.events_mut().is_attached() {
            wanted = EventKinds::default();
        }
        if self.home.has_reported_events(wanted) {
            return;
        }
        for (channel, event) in self.home.take_events(wanted) {
            let target = self.shared.realm.namespaces.find_or_granted(channel.as_str()).events;
            let events = connections.events_mut();
            if events.is_wanted(target, event.kind()) {
                let event = match event {
                    HomeEvent::Occupied => Happening::ChannelOccupied { channel },
                    HomeEvent::Vacated => Happening::ChannelVacated { channel },
                    HomeEvent::MemberAdded(member) => Happening::MemberAdded { channel, member },
                    HomeEvent::MemberRemoved(member) => {
                        Happening::MemberRemoved { channel, member }
                    }
                    HomeEvent::Published { position, content, from } => {
                        Happening::Published { channel, position, content, from }
                    }
                };
                events.send(target.backend, event);
            }
        }
    }

    /// Reports what clients of apps have done, or missed.
    pub(super) fn report_app_events(&self, connections: &mut Connections, effects: &mut Effects) {
        for event in effects.app_events.drain(..) {
            let channel = event.channel().as_str();
            let target = self.shared.realm.namespaces.find_or_granted(channel).events;
            let event = match event {
                AppEvent::Sent { channel, content, from } => {
                    Happening::ClientEvent { channel, content, from }
                }
                AppEvent::CacheMiss { channel } => Happening::CacheMiss { channel },
            };
            let events = connections.events_mut();
            if events.is_wanted(target, event.kind()) {
                events.send(target.backend, event);
            }
        }
    }

    /// Reports that a connection has become a member of a channel.
    pub(super) fn report_subscribed(
        &self,
        connections: &mut Connections,
        id: ConnectionId,
        channel: &ChannelName,
    ) {
        let kind = EventKind::Subscribed;
        if !connections.config().channel_events.contains(kind) {
            return;
        }
        let user = self.sessions.find(id).and_then(SessionEntry::event_user);
        let target = self.shared.realm.namespaces.find_or_granted(channel.as_str()).events;
        let events = connections.events_mut();
        if events.is_wanted(target, kind) {
            let channel = channel.clone();
            events.send(target.backend, Happening::Subscribed { connection: id, user, channel });
        }
    }

    /// Reports the channels that a connection has left. Must precede the removal of the members.
    pub(super) fn report_unsubscribed(
        &self,
        connections: &mut Connections,
        entry: &SessionEntry,
        left: &[Left],
    ) {
        let kind = EventKind::Unsubscribed;
        if left.is_empty() || !connections.config().channel_events.contains(kind) {
            return;
        }
        // Without a place among the members, only joins and leaves are not watched any more.
        let left = left.iter().filter(|one| one.member_index != NONE);
        for channel in left.filter_map(|one| Some(&self.members.get(one.local)?.name)) {
            let target = self.shared.realm.namespaces.find_or_granted(channel.as_str()).events;
            let events = connections.events_mut();
            if events.is_wanted(target, kind) {
                let (connection, user, channel) =
                    (entry.session.id, entry.event_user(), channel.clone());
                let event = Happening::Unsubscribed { connection, user, channel };
                events.send(target.backend, event);
            }
        }
    }
}

//! Members behind links: clients of the gateway that their applications make members of channels.
//!
//! Such a client has a session here, beside that of the gateway, while it is a member of a channel
//! or about to become one. It has the protocol [`ProtocolId::CONTENT`]: publications are encoded
//! once for all of these clients, and everything else is as for other members, also over nodes.
//! Its connection, deadlines and limits are the gateway's.
//!
//! The two layers do not call each other: [`Layers`](crate::shard::layers::Layers) passes on what
//! changes ([`LinkedChanges`]).

use std::sync::Arc;

use super::Hub;
use super::session_table::SessionEntry;
use crate::auth::Identity;
use crate::hub::{ChannelName, ConnectionId, ProtocolId};
use crate::session::hub::{HubSession, MemberReport};
use crate::shard::connections::Connections;

/// What the gateway has to do for its clients. Empty between turns.
#[derive(Debug, Default)]
pub(super) struct LinkedChanges {
    /// What has become of memberships, by slot.
    pub(super) memberships: Vec<(u32, MemberReport)>,
    /// Slow consumers to be closed.
    pub(super) slow: Vec<u32>,
}

impl LinkedChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.memberships.is_empty() && self.slow.is_empty()
    }
}

impl Hub {
    /// Makes a client behind a link a member of a channel; [`Self::take_memberships`] has the
    /// outcome, with this number.
    pub(in crate::shard) fn join_linked(
        &mut self,
        connections: &mut Connections,
        (index, id): (u32, ConnectionId),
        identity: Option<&Arc<Identity>>,
        (channel, number): (&str, u32),
    ) {
        if self.entry(index).is_none() {
            let realm = &self.shared.realm;
            realm.protocols.note_link();
            let session = HubSession::behind_link(id, identity.cloned(), realm);
            self.sessions.insert(index, ProtocolId::CONTENT, |_| session);
            self.list_user(index);
        }
        self.with_session(connections, index, |session, call| {
            session.subscribe_by_server(call, channel, u64::MAX, number);
        });
    }

    /// Ends the membership of a client behind a link.
    pub(in crate::shard) fn leave_linked(
        &mut self,
        connections: &mut Connections,
        index: u32,
        channel: &str,
    ) {
        self.with_session(connections, index, |session, call| {
            session.unsubscribe_by_server(call, channel);
        });
    }

    /// Returns whether the client at a slot, which is behind a link, has a session here.
    pub(in crate::shard) fn has_linked(&self, index: u32) -> bool {
        self.entry(index).is_some_and(SessionEntry::is_linked)
    }

    /// Sets the identity of a client behind a link.
    pub(in crate::shard) fn rename_linked(&mut self, index: u32, identity: &Arc<Identity>) {
        let Some(entry) = self.entry(index) else { return };
        let (earlier, user_index) = (entry.session.user().cloned(), entry.user_index);
        if let Some(user) = earlier {
            self.unlist_user(&user, user_index);
        }
        if let Some(entry) = self.entry_mut(index) {
            entry.session.set_identity(identity.clone());
        }
        self.list_user(index);
    }

    /// Returns the channels of which a client behind a link is a member.
    pub(in crate::shard) fn channels_of_linked(
        &self,
        index: u32,
    ) -> impl Iterator<Item = &ChannelName> {
        let subscriptions = self.entry(index).map(|entry| &entry.session.subscriptions);
        let live = subscriptions.into_iter().flatten().filter(|one| one.is_live());
        live.map(|one| &one.channel)
    }

    /// Ends the session of a client behind a link, if that has no channels any more. Returns
    /// whether it has no session then.
    pub(in crate::shard) fn retire_linked(
        &mut self,
        connections: &mut Connections,
        index: u32,
    ) -> bool {
        let Some(entry) = self.entry(index) else { return true };
        let is_unused = entry.session.has_no_channels();
        if is_unused {
            self.remove_linked(connections, index);
        }
        is_unused
    }

    /// Ends the session of a client behind a link.
    pub(in crate::shard) fn remove_linked(&mut self, connections: &mut Connections, index: u32) {
        if self.has_linked(index) {
            self.remove_session(connections, index);
            if connections.contains(index) {
                let readiness = connections.readiness(index).with_publications(false);
                connections.set_readiness(index, readiness);
            }
        }
    }

    /// Returns what has become of memberships of clients behind links, with their slots, in order.
    pub(in crate::shard) fn take_memberships(&mut self) -> Vec<(u32, MemberReport)> {
        std::mem::take(&mut self.linked.memberships)
    }

    /// Returns the slots of clients behind links that read too slowly, to be closed.
    pub(in crate::shard) fn take_slow_linked(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.linked.slow)
    }

    /// Returns whether what was queued since the last turn waits for the next one.
    pub(in crate::shard) fn awaits_turn(&self) -> bool {
        self.has_work() || !self.posts.0.is_empty() || !self.touched.is_empty()
    }
}

//! Clients as members of channels: what applications ask for, and what becomes of it.
//!
//! The hub has the memberships ([`crate::shard::hub`]); the session here knows only whether it has
//! any. They belong to the client, not to the link: where a session moves, its application gets
//! `joined` for each. What happens while it is between links needs no report, because these follow.

use std::sync::Arc;

use super::Gateway;
use super::inbound::WrongRecord;
use crate::backend::links::BackendLink;
use crate::driver::Token;
use crate::link::{LinkRecord, RecordKind, decode_channel, encode_left};
use crate::session::hub::{MemberReport, MemberStanding};
use crate::shard::connections::Connections;
use crate::shard::layers::Layers;

/// The effort of reporting one membership.
const JOINED_EFFORT: u64 = 1;

impl Layers {
    /// Applies `join` or `leave`.
    pub(super) fn apply_membership(
        &mut self,
        connections: &mut Connections,
        link: &Arc<BackendLink>,
        kind: RecordKind,
        record: &LinkRecord<'_>,
    ) -> Result<(), WrongRecord> {
        let channel = decode_channel(record.body)?;
        let Self { hub: Some(hub), gateway: Some(gateway) } = self else { return Ok(()) };
        let Some(index) = gateway.find(connections, link, record.session.token) else {
            return Ok(());
        };
        if kind == RecordKind::Leave {
            hub.leave_linked(connections, index, channel);
        } else if let Some(id) = gateway.connection_id(index)
            && let Some(entry) = gateway.entry_mut(index)
        {
            entry.set_member(true);
            let (identity, wanted) = (entry.identity.as_ref(), (channel, record.number));
            hub.join_linked(connections, (index, id), identity, wanted);
        }
        Ok(())
    }

    /// Passes the identity of a member to the hub, after its application may have changed it.
    pub(super) fn rename_member(&mut self, connections: &Connections, token: Token) {
        let Self { hub: Some(hub), gateway: Some(gateway) } = self else { return };
        let Some(index) = connections.find(token) else { return };
        let member = gateway.entry(index).filter(|entry| entry.is_member());
        if let Some(identity) = member.and_then(|entry| entry.identity.as_ref()) {
            hub.rename_linked(index, identity);
        }
    }

    /// Applies what has changed for members since the last call.
    pub(super) fn settle_members(&mut self, connections: &mut Connections) {
        let Self { hub: Some(hub), gateway: Some(gateway) } = self else { return };
        for (index, membership) in hub.take_memberships() {
            gateway.report_membership(connections, index, &membership);
            if membership.standing != MemberStanding::Joined
                && hub.retire_linked(connections, index)
                && let Some(entry) = gateway.entry_mut(index)
            {
                entry.set_member(false);
            }
        }
        for index in std::mem::take(&mut gateway.moved_members) {
            for channel in hub.channels_of_linked(index) {
                connections.work_mut().spend(JOINED_EFFORT);
                let (channel, standing) = (channel.as_str().into(), MemberStanding::Joined);
                let membership = MemberReport { channel, number: 0, standing };
                gateway.report_membership(connections, index, &membership);
            }
        }
        for index in hub.take_slow_linked() {
            gateway.close_slow(index);
        }
        self.run_closings(connections);
    }
}

impl Gateway {
    /// Reports to the application what has become of a membership.
    fn report_membership(
        &mut self,
        connections: &Connections,
        index: u32,
        membership: &MemberReport,
    ) {
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get(index as usize).and_then(Option::as_deref);
        let Some(entry) = entry.filter(|entry| entry.is_open()) else { return };
        let Some(link) = &entry.link else { return };
        let MemberReport { channel, number, standing } = membership;
        let (kind, body) = match standing {
            MemberStanding::Joined => (RecordKind::Joined, channel.as_bytes().to_vec()),
            MemberStanding::Refused(refused) => {
                let body = encode_left(channel, refused.code.as_str(), &refused.message);
                (RecordKind::Left, body)
            }
            MemberStanding::Ended(reason) => {
                (RecordKind::Left, encode_left(channel, reason, "the membership was ended"))
            }
        };
        let session = connections.session_id(index);
        outgoing.append(link, &LinkRecord::new(kind, session, *number, &body));
    }
}

//! Commands of operators and backends: the end of connections, and their description.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Gateway;
use crate::auth::KeyStanding;
use crate::hub::ConnectionId;
use crate::proto::ws::CloseCode;
use crate::session::hub::Realm;
use crate::shard::connections::Connections;
use crate::shard::mail::{ConnectionInfo, CountReply, Reached};

/// Sessions that are compared with a user in a turn.
const COMPARED_PER_TURN: usize = 2_048;

/// The end of all connections of a user, in progress: a list of every user's sessions would cost
/// each of them memory.
pub(super) struct Disconnecting {
    user: Arc<str>,
    code: CloseCode,
    reason: Arc<str>,
    cursor: usize,
    count: u64,
    /// The number of the hub's connections that were closed.
    of_hub: oneshot::Receiver<Reached>,
    reply: Option<CountReply>,
}

impl Gateway {
    /// Returns the slot of a connection, if it has a session here.
    pub(in crate::shard) fn slot_of(
        &self,
        id: ConnectionId,
        connections: &Connections,
    ) -> Option<u32> {
        let index = id.session & !crate::shard::connections::LINKED;
        let is_same = self.connection_id(index) == Some(id) && connections.contains(index);
        is_same.then_some(index)
    }

    /// Starts to close all connections of a user; the reply is sent at the end.
    pub(in crate::shard) fn disconnect_user(
        &mut self,
        user: Arc<str>,
        (code, reason): (CloseCode, Arc<str>),
        (of_hub, reply): (oneshot::Receiver<Reached>, Option<CountReply>),
    ) {
        let (cursor, count) = (0, 0);
        let job = Disconnecting { user, code, reason, cursor, count, of_hub, reply };
        self.disconnecting.push_back(job);
    }

    /// Continues to close the connections of users, by a turn's share; returns whether more remain.
    pub(super) fn continue_disconnecting(&mut self) -> bool {
        let Some(mut job) = self.disconnecting.pop_front() else { return false };
        let until = self.sessions.len().min(job.cursor + COMPARED_PER_TURN);
        for index in job.cursor..until {
            let index = index as u32;
            let user = self.entry(index).and_then(|entry| entry.user());
            if user.is_some_and(|user| *user == job.user) {
                self.close_later(index, job.code, job.reason.to_string());
                job.count += 1;
            }
        }
        job.cursor = until;
        let is_scanned = until >= self.sessions.len();
        match (is_scanned, job.of_hub.try_recv()) {
            (true, Ok(Reached { count, refused })) => {
                let reached = Reached { count: count + job.count, refused };
                // The requester may be gone: ignore the error.
                let _ = job.reply.map(|reply| reply.send(reached));
            }
            (true, Err(oneshot::error::TryRecvError::Closed)) => {}
            _ => self.disconnecting.push_front(job),
        }
        !self.disconnecting.is_empty()
    }

    /// Starts to close the clients whose token's key was withdrawn.
    pub(in crate::shard) fn begin_review(&mut self) {
        self.review_cursor = Some(0);
    }

    /// Continues with that, by a turn's share; returns whether more remain.
    pub(super) fn continue_review(
        &mut self,
        connections: &mut Connections,
        realm: Option<&Realm>,
    ) -> bool {
        let (Some(cursor), Some(realm)) = (self.review_cursor, realm) else { return false };
        let until = self.sessions.len().min(cursor + COMPARED_PER_TURN);
        for index in cursor..until {
            let index = index as u32;
            let identity = self.entry(index).and_then(|entry| entry.identity.as_ref());
            let key = identity.and_then(|identity| identity.key);
            if key.is_some() && realm.key_standing(key) == KeyStanding::Withdrawn {
                connections.counters_mut().count_auth_failure("key_withdrawn");
                let reason = "the key of the token was withdrawn; get a new token";
                self.close_later(index, CloseCode::EXPIRED, reason);
            }
        }
        self.review_cursor = (until < self.sessions.len()).then_some(until);
        self.review_cursor.is_some()
    }

    /// Describes a connection for an operator.
    pub(in crate::shard) fn describe(
        &self,
        connections: &Connections,
        index: u32,
    ) -> Option<ConnectionInfo> {
        let entry = self.entry(index)?;
        let mut info = connections.describe_connection(index, self.unix_ms)?;
        info.connection = self.connection_id(index)?.to_string();
        info.user = entry.user().map(ToString::to_string);
        Some(info)
    }
}

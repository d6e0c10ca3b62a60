//! Replaces a connection by one that resumes it: the old one is closed, and its count towards the
//! user's limit passes to the new one, so that no client is rejected because of its own old
//! connection.
//!
//! The new connection is not counted until the old one's shard has answered. If the count passes
//! on, it never changes; otherwise the new connection is counted like any other.

use std::sync::Arc;

use super::Hub;
use crate::admission::Denied;
use crate::hub::ConnectionId;
use crate::proto::ws::CloseCode;
use crate::shard::connections::{Connections, Goodbye};
use crate::shard::mail::{HubMail, Replacement};

impl Hub {
    /// Requests that the connection that the one at this slot has resumed be closed.
    pub(super) fn request_replacement(&mut self, old: ConnectionId, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        let user = entry.session.user().filter(|_| !entry.counted).cloned();
        let by = entry.session.id;
        if old.node != self.shared.realm.node {
            self.shared.report_replacement(Replacement { old, by });
            if let Some(user) = user {
                // Users are counted on each node by itself: there is no count to take over.
                self.post_here(HubMail::Place { id: by, user, is_passed_on: false });
            }
            return;
        }
        let mail = HubMail::Replaced { old, by, user };
        self.post_mail(old.shard, mail);
    }

    /// Closes a connection that another one has resumed, and passes its count on.
    pub(super) fn close_replaced(
        &mut self,
        connections: &mut Connections,
        old: ConnectionId,
        by: ConnectionId,
        user: Option<Arc<str>>,
    ) {
        let slot = self.slot_of(old);
        if let Some(user) = user {
            let entry = slot.and_then(|index| self.entry_mut(index));
            let entry = entry.filter(|one| one.session.user() == Some(&user));
            let is_passed_on = entry.is_some_and(|one| std::mem::take(&mut one.counted));
            self.post_mail(by.shard, HubMail::Place { id: by, user, is_passed_on });
        }
        let Some(index) = slot else { return };
        self.touched.push(index);
        connections.counters_mut().replaced += 1;
        let reason = "continued by another connection";
        let goodbye = Goodbye { code: CloseCode::REPLACED, reason, retry_after_ms: 0 };
        connections.close(self, index, goodbye);
    }

    /// Takes over the count of the replaced connection; if there is none, counts the new one.
    pub(super) fn take_user_place(
        &mut self,
        connections: &mut Connections,
        id: ConnectionId,
        user: &str,
        is_passed_on: bool,
    ) {
        let Some(index) = self.slot_of(id) else {
            if is_passed_on {
                self.admission().leave_user(user);
            }
            return;
        };
        let most = connections.config().limits.admission.connections_per_user_max;
        if is_passed_on {
            if let Some(entry) = self.entry_mut(index) {
                entry.counted = true;
            }
        } else if self.count_user(index, most).is_err() {
            self.touched.push(index);
            self.close_one_too_many(connections, index);
        }
    }

    /// Closes a connection that exceeds its user's limit.
    pub(super) fn close_one_too_many(&mut self, connections: &mut Connections, index: u32) {
        connections.counters_mut().count_denial(Denied::UserFull);
        let reason = "user is at its connection limit; close one first";
        let goodbye = Goodbye { code: CloseCode::RATE_LIMITED, reason, retry_after_ms: 0 };
        connections.close(self, index, goodbye);
    }
}

//! A connection that continues another: the old one is closed, and its place among those of its
//! user passes on, so that no client is rejected because of its own old connection.
//!
//! The new connection is not counted until the old one's shard has answered. A place that passes on
//! stays counted throughout; without one, the new connection is counted like any other.

use std::sync::Arc;

use super::HubState;
use super::mail::HubMail;
use super::sessions::too_many;
use crate::admission::Denied;
use crate::hub::ConnectionId;
use crate::proto::ws::CloseCode;
use crate::shard::core::Core;

impl HubState {
    /// Has the connection closed that the one at this slot has continued.
    pub(super) fn replace(&mut self, shard: u16, old: ConnectionId, index: u32) {
        let Some(seated) = self.seated(index) else { return };
        let user = seated.session.user().filter(|_| !seated.counted).cloned();
        let mail = HubMail::Replaced { old, by: seated.session.id, user };
        self.post_to(shard, old.shard, mail);
    }

    /// Posts mail to a shard, which may be this one.
    fn post_to(&mut self, own: u16, shard: u16, mail: HubMail) {
        if shard == own {
            self.post_here(mail);
        } else if usize::from(shard) < self.shards {
            self.posts.push((shard, mail));
        }
    }
}

impl Core {
    /// A connection was continued by another one.
    pub(super) fn replaced(&mut self, old: ConnectionId, by: ConnectionId, user: Option<Arc<str>>) {
        let slot = self.slot_of(old);
        let own = self.id;
        let Some(hub) = &mut self.hub else { return };
        if let Some(user) = user {
            let seated = slot.and_then(|index| hub.seated_mut(index));
            let seated = seated.filter(|one| one.session.user() == Some(&user));
            let is_passed_on = seated.is_some_and(|one| std::mem::take(&mut one.counted));
            hub.post_to(own, by.shard, HubMail::Place { id: by, user, is_passed_on });
        }
        let Some(index) = slot else { return };
        hub.touched.push(index);
        self.counters.replaced += 1;
        self.close(index, CloseCode::REPLACED, "continued by another connection", 0);
    }

    /// A connection that continues another has that one's place, or none yet.
    pub(super) fn placed(&mut self, id: ConnectionId, user: &str, is_passed_on: bool) {
        let slot = self.slot_of(id);
        let most = self.config.limits.admission.connections_per_user_max;
        let Some(hub) = &mut self.hub else { return };
        let Some(index) = slot else {
            if is_passed_on {
                hub.admission().leave_user(user);
            }
            return;
        };
        if is_passed_on {
            if let Some(seated) = hub.seated_mut(index) {
                seated.counted = true;
            }
        } else if hub.count_user(index, most).is_err() {
            hub.touched.push(index);
            self.close_one_too_many(index);
        }
    }

    /// Closes a connection that its user may not have.
    pub(super) fn close_one_too_many(&mut self, index: u32) {
        self.counters.deny(Denied::UserFull);
        let (code, reason) = too_many();
        self.close(index, code, &reason, 0);
    }
}

//! Reviews a session after a change of rights: by a reload, by withdrawn keys, or by its own new
//! token.

use super::Call;
use super::by_server::Reason;
use super::realm::Realm;
use super::state::{Fate, HubSession, NONE, renewal_ms};
use crate::auth::{Fingerprint, KeyStanding, Permission};
use crate::hub::{Origin, Request, Retention};
use crate::proto::ws::CloseCode;

/// Starts a review of a session, including its identity.
pub const REVIEW_ALL: usize = usize::MAX;

impl Realm {
    /// Returns whether a key, on which a token or grant depends, still verifies tokens.
    pub fn key_standing(&self, key: Option<Fingerprint>) -> KeyStanding {
        match (key, &self.verifier) {
            (None, _) => KeyStanding::Good,
            (Some(_), None) => KeyStanding::Withdrawn,
            (Some(key), Some(verifier)) => verifier.standing(key),
        }
    }
}

impl HubSession {
    /// Withdraws what the realm does not allow any more: the identity, and at most `budget` of the
    /// subscriptions with an index below `below`. Returns the bound for the next call; `None`: the
    /// review is complete.
    pub fn review_subscriptions(
        &mut self,
        call: &mut Call<'_>,
        below: usize,
        budget: usize,
    ) -> Option<usize> {
        if call.is_behind_link() {
            // Its application is responsible for its rights.
            return None;
        }
        if below == REVIEW_ALL {
            self.review_identity(call);
            if call.effects.close.is_some() {
                return None;
            }
        }
        // In descending order: the last subscription, which moves into the place of a removed one,
        // has been reviewed already.
        let end = below.min(self.subscriptions.len());
        let start = end.saturating_sub(budget);
        (start..end).rev().for_each(|at| self.review_subscription(call, at));
        (start > 0).then_some(start)
    }

    fn review_identity(&mut self, call: &mut Call<'_>) {
        let realm = call.realm;
        if self.app().is_some() {
            return self.review_app(call);
        }
        match &self.identity {
            None if realm.is_open() => {
                self.identity = Some(realm.anybody.clone());
                self.due_ms = call.now_ms.saturating_add(renewal_ms(realm));
            }
            // Without an identity no subscription is allowed; the caller ends them next.
            Some(identity) if identity.is_anonymous() && !realm.is_open() => {
                self.identity = None;
                let wait_ms = u64::from(realm.limits.auth_timeout_ms);
                self.due_ms = call.now_ms.saturating_add(wait_ms);
            }
            Some(identity) if realm.key_standing(identity.key) == KeyStanding::Withdrawn => {
                call.effects.auth_failures.push("key_withdrawn");
                let reason = "the key of the token was withdrawn; get a new token";
                call.effects.close = Some((CloseCode::EXPIRED, reason.into()));
            }
            _ => {}
        }
    }

    /// Ends a subscription that is not allowed any more, or only stops its joins and leaves. A
    /// pending one is reviewed when its home replies.
    pub(super) fn review_subscription(&mut self, call: &mut Call<'_>, at: usize) {
        if !self.subscriptions[at].is_live() {
            let fate = &mut self.subscriptions[at].fate;
            *fate = (*fate).max(Fate::Review);
            return;
        }
        let channel = self.subscriptions[at].channel.clone();
        let lost = self.drop_void_grant(call, channel.as_str());
        if !self.may_stay(call, channel.as_str(), lost) {
            return self.end_unasked(call, at, lost.unwrap_or(Reason::Rights));
        }
        let watches = self.subscriptions[at].watcher_index != NONE;
        if watches && !self.may_watch(call, channel.as_str()) {
            self.stop_watching(call, at);
        }
    }

    /// Returns whether the session may see the channel's joins and leaves.
    pub(super) fn may_watch(&self, call: &Call<'_>, channel: &str) -> bool {
        if self.app().is_some() {
            return true;
        }
        let decided =
            self.decide_with(call, self.find_grant(channel), Permission::Presence, channel);
        decided.is_ok_and(|namespace| namespace.presence)
    }

    /// Returns whether a subscription may stay, by identity or by grant. `lost`: the grant that it
    /// had was dropped for this reason.
    pub(super) fn may_stay(&self, call: &Call<'_>, channel: &str, lost: Option<Reason>) -> bool {
        if call.is_behind_link() {
            return true;
        }
        if self.app().is_some() {
            // Signed rights last as long as the connection; others come from a backend's grant.
            return lost.is_none();
        }
        let grant = self.find_grant(channel);
        let trusted = grant.is_some_and(|grant| {
            let has_ended = call.realm.has_ended(grant.expires_s, call.now_ms);
            grant.rights.subscribe && !has_ended && self.identity.is_some()
        });
        trusted || self.decide_with(call, grant, Permission::Subscribe, channel).is_ok()
    }

    /// Drops a grant that has expired, or whose key was withdrawn. Returns which of these it was.
    pub(super) fn drop_void_grant(&mut self, call: &Call<'_>, channel: &str) -> Option<Reason> {
        let grant = self.find_grant(channel)?;
        let reason = if call.realm.has_ended(grant.expires_s, call.now_ms) {
            Reason::Expired
        } else if call.realm.key_standing(grant.key) == KeyStanding::Withdrawn {
            Reason::KeyWithdrawn
        } else {
            return None;
        };
        self.drop_grant(channel);
        Some(reason)
    }

    /// Ends a live subscription without a request of the client, and notifies the client.
    pub(super) fn end_unasked(&mut self, call: &mut Call<'_>, at: usize, reason: Reason) {
        let channel = self.subscriptions[at].channel.clone();
        self.end_subscription(call, at);
        call.report_end(channel.as_str(), reason);
    }

    /// Stops the joins and leaves of a subscription.
    fn stop_watching(&mut self, call: &mut Call<'_>, at: usize) {
        let one = &mut self.subscriptions[at];
        let watcher_index = std::mem::replace(&mut one.watcher_index, NONE);
        call.effects.purge_news.push(one.channel.clone());
        call.effects.left.push(super::Left { local: one.local, member_index: NONE, watcher_index });
        call.effects.asks.push(Request {
            from: Origin::Session { id: self.id, request: 0 },
            channel: one.channel.clone(),
            // This never creates the channel, so there is nothing to retain.
            retention: Retention { messages_max: 0, ttl_ms: 0 },
            verb: crate::hub::Verb::Unwatch,
        });
    }
}

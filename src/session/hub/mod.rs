//! A hub session: the state of one client connection, independent of its protocol. It uses no
//! sockets: frames and replies of homes come in, and the resulting actions come out as [`Effects`].
//!
//! Requests of a connection take effect in order within each channel, because all requests for a
//! channel go to its home through one queue. Where that does not suffice, requests wait: behind a
//! `resume`, and behind a pending subscription of the same channel.
//!
//! Files: `cutter` (splits frames into requests), `verbs` and `publishing` (execute requests),
//! `app` (commands whose rights are signed), `charges` (what requests cost), `pending` and
//! `undecided` (requests in flight), `by_server` (requests of backends), `asking` (questions to
//! applications), `answers` (replies of homes), `resume` (tickets and tokens), `review` (changed
//! rights), `revoked` (void tickets and grants), `state`, `subscriptions` (looked up through an
//! index if there are many), `realm` (shared by all sessions), `fuzz` (invariants).
//! `seawall/PROTOCOL.md` specifies `seawall.v1` for developers of clients and backends;
//! `tests/hub/document.rs` compares its tables with the server.

mod answers;
mod app;
mod asking;
mod by_server;
mod charges;
mod cutter;
pub mod fuzz;
mod pending;
mod portable;
mod publishing;
mod rates;
mod realm;
mod resume;
mod review;
mod revoked;
mod state;
mod subscription_index;
mod subscriptions;
mod undecided;
mod verbs;

use std::sync::Arc;

use pending::Pending;

pub use answers::{JoinAnswer, MemberIndexes};
pub use app::AppEvent;
pub use asking::SessionQuestion;
pub use by_server::{MemberReport, MemberStanding, Outcome};
pub use portable::SessionState;
pub use realm::{Realm, SessionLimits, retention_of};
pub use review::REVIEW_ALL;
pub use state::{HubSession, NONE, Subscription};
pub use verbs::NO_PRESENCE;

use crate::admission::limiter::RateKind;
use crate::auth::{Identity, Subject};
use crate::hooks::HookKind;
use crate::hub::{ChannelName, ConnectionId, ProtocolId, Refused, Request};
use crate::proto::ws::{CloseCode, Payload};
use crate::session::protocol::{ClientProtocol, Reply};

/// A member to be removed from its channel on this shard.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub local: u32,
    pub member_index: u32,
    pub watcher_index: u32,
}

/// The actions that follow from a call of a session; the shard carries them out.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames to send.
    pub says: Vec<Vec<u8>>,
    /// Requests to homes.
    pub asks: Vec<Request>,
    /// Questions to applications.
    pub questions: Vec<SessionQuestion>,
    /// Questions that have an outcome, and how long it took (ns).
    pub decided: Vec<(HookKind, u64)>,
    /// The numbers of questions that the session no longer waits for.
    pub cancelled: Vec<u32>,
    pub left: Vec<Left>,
    /// Channels whose queued messages must not be sent any more.
    pub purge: Vec<ChannelName>,
    /// Channels whose queued joins and leaves must not be sent any more.
    pub purge_news: Vec<ChannelName>,
    /// Subscriptions have moved to other indexes.
    pub renumbered: bool,
    /// The session has got a user and had none before.
    pub named: bool,
    /// [`HubSession::deadline_ms`] has changed.
    pub rescheduled: bool,
    /// The connection that this session has started to resume; it now counts for the same user.
    pub continues: Option<ConnectionId>,
    /// The connection that this session has replaced; the shard closes it.
    pub replaces: Option<ConnectionId>,
    /// Outcomes of subscriptions requested by backends, with the number of each request.
    pub outcomes: Vec<(u32, Outcome)>,
    /// The same, of the client of an application behind a link.
    pub memberships: Vec<MemberReport>,
    /// What has happened in channels of an app, if its webhook wants it.
    pub app_events: Vec<AppEvent>,
    /// Send a goodbye and close, with this code and reason.
    pub close: Option<(CloseCode, String)>,
    /// When the client may reconnect after that (ms).
    pub retry_after_ms: u32,
    pub auth_failures: Vec<&'static str>,
    /// Requests that exceeded a rate limit.
    pub over_rate: Vec<RateKind>,
    pub errors: u32,
    pub resumed: u32,
    /// Requests processed, each weighted by its cost.
    pub requests: u32,
    /// Bytes of `says`.
    pub reply_bytes: usize,
    /// Memory for the pending work of the next session that has any.
    spare_pending: Option<Box<Pending>>,
}

impl Effects {
    /// Returns whether there is nothing to do, to count or to send.
    pub fn is_empty(&self) -> bool {
        self.says.is_empty()
            && self.asks.is_empty()
            && self.requests == 0
            && self.reply_bytes == 0
            && !self.has_changes()
    }

    /// Returns whether there is more than frames to send and requests to homes. Most calls produce
    /// only these, so the shard can skip the rest.
    pub fn has_changes(&self) -> bool {
        let Self { left, purge, purge_news, outcomes, auth_failures, over_rate, .. } = self;
        let is_changed = self.renumbered || self.named || self.rescheduled;
        let is_moved = self.continues.is_some() || self.replaces.is_some();
        let is_counted = self.errors + self.resumed > 0;
        let Self { questions, decided, cancelled, memberships, .. } = self;
        let is_asking = !(questions.is_empty() && decided.is_empty() && cancelled.is_empty());
        let has_left = !(left.is_empty() && purge.is_empty() && purge_news.is_empty());
        let is_reported =
            !(outcomes.is_empty() && auth_failures.is_empty() && over_rate.is_empty());
        is_changed
            || is_moved
            || is_counted
            || is_asking
            || has_left
            || is_reported
            || !memberships.is_empty()
            || !self.app_events.is_empty()
            || self.close.is_some()
    }

    /// Clears the frames, the requests to homes and their costs.
    pub fn clear_words(&mut self) {
        self.says.clear();
        self.asks.clear();
        (self.requests, self.reply_bytes) = (0, 0);
    }

    /// Clears everything; vectors keep their capacity.
    pub fn clear(&mut self) {
        self.clear_words();
        self.left.clear();
        self.purge.clear();
        self.purge_news.clear();
        self.questions.clear();
        self.decided.clear();
        self.cancelled.clear();
        self.outcomes.clear();
        self.memberships.clear();
        self.app_events.clear();
        (self.renumbered, self.named, self.rescheduled) = (false, false, false);
        (self.continues, self.replaces, self.close) = (None, None, None);
        self.auth_failures.clear();
        self.over_rate.clear();
        (self.errors, self.resumed, self.retry_after_ms) = (0, 0, 0);
    }
}

/// The limits of one call. Work beyond them is deferred: see [`HubSession::has_requests`].
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Requests, each weighted by its cost.
    pub requests_max: u32,
    /// Bytes of replies; the last reply may exceed it.
    pub reply_bytes_max: usize,
}

/// The context of one call of a session: shared state, clocks, budget, and the effects so far.
#[derive(Debug)]
pub struct Call<'c> {
    pub realm: &'c Realm,
    /// The client's protocol.
    pub protocol: ProtocolId,
    /// Unix time (ms).
    pub now_ms: u64,
    /// The shards' clock (ns).
    pub now_ns: u64,
    pub budget: Budget,
    pub effects: &'c mut Effects,
}

impl Call<'_> {
    /// Queues a reply, if the client's protocol can encode it.
    fn queue_reply(&mut self, reply: &Reply<'_>) {
        if let Some(text) = self.client_protocol().encode_reply(reply) {
            debug_assert!(std::str::from_utf8(&text).is_ok(), "replies are text messages");
            self.effects.reply_bytes += text.len();
            self.effects.says.push(text);
        }
    }

    fn client_protocol(&self) -> &'static dyn ClientProtocol {
        self.realm.protocols.get(self.protocol)
    }

    fn say_error(&mut self, id: Option<&str>, refused: &Refused) {
        self.queue_reply(&Reply::Error { id, refused });
    }

    /// Returns whether the budget of the call is used up.
    fn is_spent(&self) -> bool {
        self.effects.requests >= self.budget.requests_max
            || self.effects.reply_bytes >= self.budget.reply_bytes_max
    }

    fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }
}

impl HubSession {
    /// Processes a text frame. Requests beyond the call's budget are kept for later calls.
    pub fn receive_text(&mut self, call: &mut Call<'_>, text: Payload<'_>) {
        self.receive_frame(call, text, None);
    }

    /// Returns this connection and, after a resumption, the first one of its lineage.
    fn connection_subjects(&self) -> impl Iterator<Item = Subject> {
        let root = Some(self.root_id()).filter(|root| *root != self.id);
        [self.id].into_iter().chain(root).map(|id| Subject::Connection(id.to_string()))
    }

    /// Voids all tickets and grants with which the client could resume: those of its user, or, if
    /// it has none, those of this connection and of the first one of its lineage.
    pub fn revoke_tickets(&self, realm: &Realm, now_ms: u64) {
        match self.user() {
            Some(user) => {
                realm.revoke(&Subject::User(user.to_string()), now_ms);
            }
            None => self.connection_subjects().for_each(|subject| {
                realm.revoke(&subject, now_ms);
            }),
        }
    }

    /// Voids the grants for a channel, of this connection and of the first one of its lineage.
    pub fn revoke_channel(&self, realm: &Realm, channel: &str, now_ms: u64) {
        self.connection_subjects().for_each(|subject| {
            realm.revoke_channel(&subject, channel, now_ms);
        });
    }

    /// Ends all subscriptions after the connection has closed: sends `Leave` to their homes.
    pub fn end_all(&mut self, call: &mut Call<'_>) {
        // From the back, because the last subscription moves into the place of a removed one.
        // Pending ones are skipped: the shard undoes them when their homes reply.
        while let Some(at) = self.subscriptions.iter().rposition(Subscription::is_live) {
            self.end_subscription(call, at);
        }
        self.end_outcomes(call);
        self.cancel_questions(call);
    }

    /// Returns whether it has no subscription, and none is pending.
    pub fn has_no_channels(&self) -> bool {
        self.subscriptions.is_empty() && self.pending.is_none()
    }

    /// Returns the client's identity; `None` before authentication.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }
}

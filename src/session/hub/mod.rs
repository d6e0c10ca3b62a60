//! A client of the hub, on one connection, whatever protocol it speaks. No sockets: frames and
//! answers of homes come in, and what they lead to comes out as [`Effects`].
//!
//! Requests of a connection take effect in their order, channel by channel: they go to the
//! channel's home through one queue. Where that is not enough they wait: behind a `resume`, and
//! behind a subscription of the same channel that has not been answered.
//!
//! Files: `cutter` (requests of a frame), `verbs` (what is done about them), `pending` (what is
//! under way), `by_server` (what backends ask), `answers` (what homes say), `resume` (tickets and
//! tokens), `review` (rights that change), `revoked`, `state`, `subscriptions` (found
//! by an index, where there are many), `realm`, `fuzz` (what always holds).
//! `seawall/PROTOCOL.md` specifies `seawall.v1` for developers of clients and backends;
//! `tests/hub/document.rs` compares its tables with the server.

mod answers;
mod by_server;
mod cutter;
pub mod fuzz;
mod pending;
mod portable;
mod rates;
mod realm;
mod resume;
mod review;
mod revoked;
mod state;
mod subscription_index;
mod subscriptions;
mod verbs;

use std::sync::Arc;

pub use answers::{JoinAnswer, MemberIndexes};
pub use by_server::Outcome;
pub use portable::SessionState;
pub use realm::{Realm, SessionLimits, retention};
pub use review::REVIEW_ALL;
pub use state::{HubSession, NONE, Subscription};
pub use verbs::NO_PRESENCE;

use crate::admission::limiter::RateKind;
use crate::auth::{Identity, Subject};
use crate::hub::{ChannelName, ConnectionId, ProtocolId, Refused, Request};
use crate::proto::ws::{CloseCode, Payload};
use crate::session::protocol::{ClientProtocol, Reply};

/// A member that is to be removed from its channel here.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub local: u32,
    pub member_index: u32,
    pub watcher_index: u32,
}

/// What a session wants done.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames to be sent.
    pub says: Vec<String>,
    /// Questions to homes.
    pub asks: Vec<Request>,
    pub left: Vec<Left>,
    /// Channels of which nothing that waits is to be sent any more.
    pub purge: Vec<ChannelName>,
    /// Channels of which no join and leave that waits is to be sent any more.
    pub purge_news: Vec<ChannelName>,
    /// Its subscriptions have other numbers now.
    pub renumbered: bool,
    /// It has a user now, and had none.
    pub named: bool,
    /// [`HubSession::deadline_ms`] is another one now.
    pub rescheduled: bool,
    /// It begins to continue this connection, and takes its place among those of its user.
    pub continues: Option<ConnectionId>,
    /// It has continued this connection, which is to be closed.
    pub replaces: Option<ConnectionId>,
    /// What has become of subscriptions that a backend asked for, by its number for each.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Say goodbye and close, with code and reason.
    pub close: Option<(CloseCode, String)>,
    /// When to come back after that.
    pub retry_after_ms: u32,
    pub auth_failures: Vec<&'static str>,
    /// Requests that were more than may come in a second.
    pub over_rate: Vec<RateKind>,
    pub errors: u32,
    pub resumed: u32,
    /// Requests looked at, each weighted by what it costs.
    pub requests: u32,
    /// Bytes of `says`.
    pub reply_bytes: usize,
}

impl Effects {
    /// Whether there is nothing to be done, counted or said.
    pub fn is_empty(&self) -> bool {
        self.says.is_empty()
            && self.asks.is_empty()
            && self.requests == 0
            && self.reply_bytes == 0
            && !self.has_changes()
    }

    /// Whether there is more than frames to be sent and questions to homes: most calls lead to
    /// these alone.
    pub fn has_changes(&self) -> bool {
        let Self { left, purge, purge_news, outcomes, auth_failures, over_rate, .. } = self;
        let is_changed = self.renumbered || self.named || self.rescheduled;
        let is_moved = self.continues.is_some() || self.replaces.is_some();
        let is_counted = self.errors + self.resumed > 0;
        let has_left = !(left.is_empty() && purge.is_empty() && purge_news.is_empty());
        let is_reported =
            !(outcomes.is_empty() && auth_failures.is_empty() && over_rate.is_empty());
        is_changed || is_moved || is_counted || has_left || is_reported || self.close.is_some()
    }

    /// Forgets what is sent and asked, and what that has cost.
    pub fn clear_words(&mut self) {
        self.says.clear();
        self.asks.clear();
        (self.requests, self.reply_bytes) = (0, 0);
    }

    /// As new, with its memory.
    pub fn clear(&mut self) {
        self.clear_words();
        self.left.clear();
        self.purge.clear();
        self.purge_news.clear();
        self.outcomes.clear();
        (self.renumbered, self.named, self.rescheduled) = (false, false, false);
        (self.continues, self.replaces, self.close) = (None, None, None);
        self.auth_failures.clear();
        self.over_rate.clear();
        (self.errors, self.resumed, self.retry_after_ms) = (0, 0, 0);
    }
}

/// How much one call may do. What exceeds it waits: see [`HubSession::has_requests`].
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Requests, each weighted by what it costs.
    pub requests_max: u32,
    /// Bytes of replies, give or take one reply.
    pub reply_bytes_max: usize,
}

/// One call of a session: the world as it is now, and what is to come of it.
#[derive(Debug)]
pub struct Call<'c> {
    pub realm: &'c Realm,
    /// What the client speaks.
    pub protocol: ProtocolId,
    /// Unix time (ms).
    pub now_ms: u64,
    /// The shards' clock (ns).
    pub now_ns: u64,
    pub budget: Budget,
    pub effects: &'c mut Effects,
}

impl Call<'_> {
    /// Queues a reply, if the client's protocol has one of its kind.
    fn say(&mut self, reply: &Reply<'_>) {
        if let Some(text) = self.client_protocol().encode_reply(reply) {
            self.effects.reply_bytes += text.len();
            self.effects.says.push(text);
        }
    }

    fn client_protocol(&self) -> &'static dyn ClientProtocol {
        self.realm.protocols.get(self.protocol)
    }

    fn say_error(&mut self, id: Option<&str>, refused: &Refused) {
        self.say(&Reply::Error { id, refused });
    }

    /// Whether the call has done as much as it may.
    fn is_spent(&self) -> bool {
        self.effects.requests >= self.budget.requests_max
            || self.effects.reply_bytes >= self.budget.reply_bytes_max
    }

    fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }
}

impl HubSession {
    /// Takes a text frame. What the call's budget does not suffice for waits.
    pub fn receive(&mut self, call: &mut Call<'_>, text: Payload<'_>) {
        self.receive_frame(call, text, None);
    }

    /// This connection, and the first of those that it continues.
    fn connections(&self) -> impl Iterator<Item = Subject> {
        let root = Some(self.root()).filter(|root| *root != self.id);
        [self.id].into_iter().chain(root).map(|id| Subject::Connection(id.to_string()))
    }

    /// Voids all tickets and grants with which the client could come back: its user's, or else
    /// those of this connection and of those that it continues.
    pub fn revoke(&self, realm: &Realm, now_ms: u64) {
        match self.user() {
            Some(user) => realm.revoke(&Subject::User(user.to_string()), now_ms),
            None => self.connections().for_each(|subject| realm.revoke(&subject, now_ms)),
        }
    }

    /// Voids the grants for a channel of this connection and of those that it continues.
    pub fn revoke_channel(&self, realm: &Realm, channel: &str, now_ms: u64) {
        self.connections().for_each(|subject| realm.revoke_channel(&subject, channel, now_ms));
    }

    /// The connection has ended: sends `Leave` to the homes of its subscriptions.
    pub fn end_all(&mut self, call: &mut Call<'_>) {
        while let Some(at) = self.subscriptions.iter().rposition(Subscription::is_live) {
            self.end(call, at);
        }
        self.end_outcomes(call);
    }

    /// The client's identity.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }
}

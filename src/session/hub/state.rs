//! The state of a hub connection: identity, subscriptions and pending requests.

use std::collections::HashMap;
use std::sync::Arc;

use thin_vec::ThinVec;

use super::Call;
use super::pending::Pending;
use super::realm::Realm;
use super::subscription_index::SubscriptionIndex;
use crate::admission::limiter::Limiter;
use crate::admission::rate::Earned;
use crate::auth::{ChannelGrant, Identity};
use crate::hub::{ChannelName, ConnectionId, MemberInfo, MemberKey, Sender};
use crate::session::protocol::{Reply, WelcomeLimits};

/// No index, or no channel.
pub const NONE: u32 = u32::MAX;

/// A subscription of a connection.
#[derive(Debug)]
pub struct Subscription {
    pub channel: ChannelName,
    /// The shard's number for the channel; [`NONE`] until the home has replied.
    pub local: u32,
    /// Its index among the channel's members on this shard.
    pub member_index: u32,
    /// Its index among the watchers; [`NONE`] if it does not watch joins and leaves.
    pub watcher_index: u32,
    /// The channel keeps presence: the connection is listed there, as the same member everywhere.
    pub(super) listed: bool,
    /// What happens to it when its home replies.
    pub(super) fate: Fate,
}

/// What happens to a pending subscription when its home replies: rights may change meanwhile.
/// Ordered by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    #[default]
    Stays,
    /// Its rights are checked again.
    Review,
    /// A backend has ended it.
    Ends,
}

// A connection may have thousands of them.
const _: () = assert!(size_of::<Subscription>() <= 24);

impl Subscription {
    /// Returns whether it receives messages.
    pub fn is_live(&self) -> bool {
        self.local != NONE
    }
}

/// State that only some connections need.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// After a resumption: the first connection of the lineage.
    pub(super) root: Option<ConnectionId>,
    /// This connection as the sender of its messages; created when first needed.
    from: Option<Arc<Sender>>,
    /// The channel of the last acknowledged publish, by the name that its home uses: most
    /// connections publish to one channel, whose home need not look the name up.
    published: Option<ChannelName>,
    /// The state of its rate limits for requests.
    pub(super) limiter: Limiter,
    /// Budgets of recent publishes, by namespace.
    pub(super) rates: Vec<Bucket>,
    /// Grants, for subscriptions that depend on a channel token or on the server.
    grants: HashMap<ChannelName, ChannelGrant>,
    /// The members as which it is listed in channels of its app.
    members: HashMap<ChannelName, Arc<MemberInfo>>,
    /// The index of subscriptions, if there are many.
    pub(super) index: Option<Box<SubscriptionIndex>>,
}

/// A hub connection.
#[derive(Debug)]
pub struct HubSession {
    pub id: ConnectionId,
    /// `None`: not authenticated yet.
    pub(super) identity: Option<Arc<Identity>>,
    pub subscriptions: ThinVec<Subscription>,
    pub(super) next_request: u32,
    pub(super) pending: Option<Box<Pending>>,
    /// The member as which it is listed in channels; created when first needed.
    member: Option<Arc<MemberInfo>>,
    pub(super) extras: Option<Box<Extras>>,
    /// Without an identity: when the connection is closed (Unix, ms). With one: when its ticket and
    /// grants are renewed, after half of their lifetime.
    pub(super) due_ms: u64,
    /// Channel messages that were dropped because the client read too slowly.
    pub dropped: u32,
}

/// Returns how long after their issue tickets and grants are renewed (ms): half of their lifetime,
/// and a second at least.
pub(super) fn renewal_ms(realm: &Realm) -> u64 {
    realm.limits.ticket_ttl_s.saturating_mul(500).max(1000)
}

/// A connection's budget of publishes in one namespace.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) pattern: Box<str>,
    pub(super) earned: Earned,
}

impl HubSession {
    /// Creates a session for a new connection; `identity` is that of a verified token.
    pub fn new(
        id: ConnectionId,
        identity: Option<Arc<Identity>>,
        realm: &Realm,
        now_ms: u64,
    ) -> Self {
        let identity = identity.or_else(|| realm.is_open().then(|| realm.anybody.clone()));
        let wait_ms = match &identity {
            Some(_) => renewal_ms(realm),
            None => u64::from(realm.limits.auth_timeout_ms),
        };
        Self {
            id,
            identity,
            subscriptions: ThinVec::new(),
            next_request: 0,
            pending: None,
            member: None,
            extras: None,
            due_ms: now_ms.saturating_add(wait_ms),
            dropped: 0,
        }
    }

    /// Creates the session of a client behind a link, which its application has made known.
    pub fn behind_link(id: ConnectionId, identity: Option<Arc<Identity>>, realm: &Realm) -> Self {
        let identity = identity.unwrap_or_else(|| realm.anybody.clone());
        Self::new(id, Some(identity), realm, 0)
    }

    /// Sets the identity of a client behind a link, which its application has changed.
    pub fn set_identity(&mut self, identity: Arc<Identity>) {
        debug_assert!(self.member.is_none(), "no channel lists such a client");
        self.identity = Some(identity);
    }

    /// Returns the user, if the identity names one.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.user.as_ref()
    }

    /// Returns whether requests are waiting; no other frame may be processed before them.
    pub fn has_requests(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|pending| !pending.held.is_empty() || pending.is_released)
    }

    /// Returns whether no request can be processed until a home has replied.
    pub fn is_waiting(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|pending| pending.is_barred || pending.resuming.is_some())
    }

    /// Returns whether channel messages have to wait for the reply to a `resume`.
    pub fn is_resuming(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.resuming.is_some())
    }

    /// Returns the number of requests in flight, and of those behind questions.
    pub(super) fn asked_count(&self) -> usize {
        let pending = self.pending.as_ref();
        pending.map_or(0, |pending| pending.asked.len() + pending.behind_questions.len())
    }

    /// Returns whether a request with a long reply is in flight.
    pub(super) fn is_reading(&self) -> bool {
        let asked = self.pending.iter().flat_map(|pending| &pending.asked);
        asked.into_iter().any(|asked| asked.kind.is_read())
    }

    /// Returns the pending work. If there is none, takes the memory that the last session left, or
    /// allocates it.
    pub(super) fn pending_mut(&mut self, call: &mut Call<'_>) -> &mut Pending {
        self.pending.get_or_insert_with(|| call.effects.spare_pending.take().unwrap_or_default())
    }

    /// Frees the pending work when it is empty: leaves its memory to the next session.
    pub(super) fn free_pending(&mut self, call: &mut Call<'_>) {
        let freed = self.pending.take_if(|pending| pending.is_empty());
        if let Some(mut freed) = freed.filter(|pending| pending.is_small()) {
            (freed.is_barred, freed.is_released) = (false, false);
            call.effects.spare_pending = Some(freed);
        }
    }

    pub(super) fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Returns the grant that a channel's subscription depends on, besides the identity.
    pub(super) fn find_grant(&self, channel: &str) -> Option<&ChannelGrant> {
        self.extras.as_ref()?.grants.get(channel)
    }

    pub(super) fn set_grant(&mut self, channel: &ChannelName, grant: ChannelGrant) {
        self.extras_mut().grants.insert(channel.clone(), grant);
    }

    pub(super) fn drop_grant(&mut self, channel: &str) {
        if let Some(extras) = &mut self.extras {
            extras.grants.remove(channel);
        }
    }

    /// Returns the first connection of the lineage, if it is not this one.
    fn earlier_root(&self) -> Option<ConnectionId> {
        self.extras.as_ref()?.root
    }

    /// Queues the welcome.
    pub fn send_welcome(&self, call: &mut Call<'_>, heartbeat_s: u32) {
        let realm = call.realm;
        let limits = WelcomeLimits {
            message_bytes_max: realm.limits.message_bytes_max,
            channels_max: realm.limits.channels_max,
        };
        // Clients of apps have no tickets.
        let ticket = self.app().is_none().then(|| self.seal_ticket(realm, call.now_ms)).flatten();
        let (connection, ticket) = (self.id, ticket.as_deref());
        let offers_ticket = self.identity.as_ref().is_some_and(|own| own.application.is_some());
        let welcome = Reply::Welcome { connection, ticket, heartbeat_s, limits, offers_ticket };
        call.queue_reply(&welcome);
    }

    /// Returns the first connection of the lineage: it identifies the client across resumptions.
    pub(super) fn root_id(&self) -> ConnectionId {
        self.earlier_root().unwrap_or(self.id)
    }

    /// Returns this connection as tickets and grants name it: its id, followed by the first one of
    /// the lineage after a resumption.
    pub(super) fn lineage(&self) -> String {
        match self.earlier_root() {
            Some(root) => format!("{} {root}", self.id),
            None => self.id.to_string(),
        }
    }

    /// Returns the owner of its idempotency keys, which stays the same across resumptions.
    pub(super) fn owner(&self) -> Box<str> {
        match self.user() {
            Some(user) => format!("user:{user}").into(),
            None => format!("connection:{}", self.root_id()).into(),
        }
    }

    /// Sets the identity. Channels list the connection under its old one until
    /// [`Self::replace_member`].
    pub(super) fn become_known(&mut self, call: &mut Call<'_>, identity: Arc<Identity>) {
        // A user's connection never becomes another user's.
        call.effects.named |= self.user().is_none() && identity.user.is_some();
        call.effects.rescheduled = true;
        self.identity = Some(identity);
        // The sender names the user, so it is rebuilt on the next publish.
        if let Some(extras) = &mut self.extras {
            extras.from = None;
        }
    }

    /// Replaces the listed member by the current identity's. Returns the old and the new one, if
    /// the connection was listed.
    pub(super) fn replace_member(&mut self) -> Option<(Arc<MemberInfo>, Arc<MemberInfo>)> {
        let old = self.member.take()?;
        Some((old, self.member_or_new()))
    }

    /// Returns the member as which it is listed in a channel, which it leaves.
    pub(super) fn take_member(&mut self, channel: &ChannelName) -> Option<Arc<MemberInfo>> {
        let of_channel = self.extras.as_mut().and_then(|extras| extras.members.remove(channel));
        of_channel.or_else(|| self.member.clone())
    }

    /// Sets the member as which it is listed in a channel of its app.
    pub(super) fn set_member(&mut self, channel: &ChannelName, member: Arc<MemberInfo>) {
        self.extras_mut().members.insert(channel.clone(), member);
    }

    /// Returns the member as which it is listed in a channel of its app.
    pub(super) fn member_of(&self, channel: &str) -> Option<&Arc<MemberInfo>> {
        self.extras.as_ref()?.members.get(channel)
    }

    /// Returns the listed member, and creates it if needed.
    pub(super) fn member_or_new(&mut self) -> Arc<MemberInfo> {
        if let Some(member) = &self.member {
            return member.clone();
        }
        let key = match self.user() {
            Some(user) => MemberKey::User(user.clone()),
            None => MemberKey::Connection(self.id),
        };
        let info = self.identity.as_ref().and_then(|identity| identity.info.clone());
        let member = Arc::new(MemberInfo { key, connection: self.id, info });
        self.member.insert(member).clone()
    }

    /// Returns this connection as the sender of its messages.
    pub(super) fn sender(&mut self) -> Arc<Sender> {
        if let Some(from) = self.extras.as_ref().and_then(|extras| extras.from.as_ref()) {
            return from.clone();
        }
        let sender = Arc::new(Sender { user: self.user().cloned(), connection: self.id });
        self.extras_mut().from.insert(sender).clone()
    }

    /// Returns the name of a channel to publish to.
    pub(super) fn name_to_publish(&self, channel: &str) -> ChannelName {
        let known = self.extras.as_ref().and_then(|extras| extras.published.as_ref());
        match known {
            Some(known) if known.as_str() == channel => known.clone(),
            _ => ChannelName::new(channel),
        }
    }

    /// Keeps the name of a channel that the connection has published to.
    pub(super) fn note_published(&mut self, channel: &ChannelName) {
        let Some(extras) = &mut self.extras else { return };
        if extras.published.as_ref().is_none_or(|known| !known.is_shared_with(channel)) {
            extras.published = Some(channel.clone());
        }
    }

    /// Returns when the session has to act without a request (Unix, ms): on the expiry of a token
    /// or grant, a renewal, or the authentication timeout.
    pub fn deadline_ms(&self, realm: &Realm) -> Option<u64> {
        let Some(identity) = &self.identity else { return Some(self.due_ms) };
        let grants = self.extras.iter().flat_map(|extras| extras.grants.values());
        let ends = grants.map(|grant| grant.expires_s).chain(identity.expires_s);
        let renewal = self.is_to_be_renewed(realm).then_some(self.due_ms);
        ends.map(|exp_s| realm.end_ms(exp_s)).chain(renewal).min()
    }

    /// Returns whether the ticket or a grant expires before the rights that it carries.
    pub(super) fn is_to_be_renewed(&self, realm: &Realm) -> bool {
        if self.app().is_some() {
            // Clients of apps have no tickets.
            return false;
        }
        // `due_ms` is half of the lifetime after the issue, so the other half ends then.
        let ticket_ends_ms = self.due_ms.saturating_add(renewal_ms(realm));
        let outlasts = |exp_s: u64| realm.end_ms(exp_s) > ticket_ends_ms;
        let grants = self.extras.iter().flat_map(|extras| extras.grants.values());
        self.identity.as_ref().is_some_and(|own| own.expires_s.is_none_or(outlasts))
            || grants.into_iter().any(|grant| outlasts(grant.expires_s))
    }

    /// Returns the channels of subscriptions that depend on a grant.
    pub(super) fn granted_channels(&self) -> Vec<ChannelName> {
        let grants = self.extras.iter().flat_map(|extras| extras.grants.keys());
        grants.cloned().collect()
    }
}

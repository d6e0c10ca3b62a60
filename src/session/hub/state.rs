//! What a hub connection is: identity, subscriptions, and what it has asked.

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

/// No place, or no channel.
pub const NONE: u32 = u32::MAX;

/// A channel of a connection.
#[derive(Debug)]
pub struct Subscription {
    pub channel: ChannelName,
    /// The shard's name for the channel; [`NONE`] until the home has answered.
    pub local: u32,
    /// Its index among the members.
    pub member_index: u32,
    /// Its index among the watchers; [`NONE`] if it does not watch.
    pub watcher_index: u32,
    /// The channel keeps presence: it is listed there as the connection is everywhere.
    pub(super) listed: bool,
    /// What is to become of it when its home has answered.
    pub(super) fate: Fate,
}

/// What becomes of a subscription that waits for its home. Rights may change meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    #[default]
    Stays,
    /// Its rights are looked at again.
    Review,
    /// A backend has taken it back.
    Ends,
}

// A connection may have very many.
const _: () = assert!(size_of::<Subscription>() <= 24);

impl Subscription {
    /// Whether messages come.
    pub fn is_live(&self) -> bool {
        self.local != NONE
    }
}

/// What only some connections have.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// Of a client that was resumed: the first of the connections that continue each other.
    pub(super) root: Option<ConnectionId>,
    /// This connection as the sender of its messages, made when first needed.
    from: Option<Arc<Sender>>,
    /// What may be asked in a second, where that is bounded.
    pub(super) limiter: Limiter,
    /// Publishes of late, by namespace.
    pub(super) rates: Vec<Bucket>,
    /// Of subscriptions that rest on the server's word or a channel's token.
    grants: HashMap<ChannelName, ChannelGrant>,
    /// Of subscriptions, where there are many.
    pub(super) index: Option<Box<SubscriptionIndex>>,
}

/// A connection.
#[derive(Debug)]
pub struct HubSession {
    pub id: ConnectionId,
    /// `None`: a token is awaited.
    pub(super) identity: Option<Arc<Identity>>,
    pub subscriptions: ThinVec<Subscription>,
    pub(super) next_request: u32,
    pub(super) pending: Option<Box<Pending>>,
    /// How it is listed where it is, made when first needed.
    member: Option<Arc<MemberInfo>>,
    pub(super) extras: Option<Box<Extras>>,
    /// Without identity it is closed at this time (Unix, ms); with one, its ticket and its grants
    /// have half of their time behind them and are renewed.
    pub(super) due_ms: u64,
    /// Channel messages that were dropped because it did not read.
    pub dropped: u32,
}

/// Tickets and grants are renewed when half of their time has passed.
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
    /// A connection whose token, if it came with one, was verified.
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

    /// The user, if it has one.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.user.as_ref()
    }

    /// Whether requests wait, so that no other frame may be looked at.
    pub fn has_requests(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.held.is_empty())
    }

    /// Whether nothing can be done before a home has answered.
    pub fn is_waiting(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|pending| pending.is_barred || pending.resuming.is_some())
    }

    /// Whether channel messages have to wait for the answer to a `resume`.
    pub fn is_resuming(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.resuming.is_some())
    }

    /// How many of its requests have no answer yet.
    pub(super) fn asked(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.asked.len())
    }

    /// Whether an answer that may be long is awaited.
    pub(super) fn is_reading(&self) -> bool {
        let asked = self.pending.iter().flat_map(|pending| &pending.asked);
        asked.into_iter().any(|asked| asked.kind.is_read())
    }

    /// To write what is under way.
    pub(super) fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    /// Gives the memory back when nothing is under way.
    pub(super) fn rest(&mut self) {
        self.pending.take_if(|pending| {
            let is_asked = !pending.asked.is_empty() || !pending.callers.is_empty();
            !is_asked && pending.held.is_empty() && pending.resuming.is_none()
        });
    }

    pub(super) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// What a channel's subscription rests on, besides the identity.
    pub(super) fn grant(&self, channel: &str) -> Option<&ChannelGrant> {
        self.extras.as_ref()?.grants.get(channel)
    }

    pub(super) fn set_grant(&mut self, channel: &ChannelName, grant: ChannelGrant) {
        self.extras().grants.insert(channel.clone(), grant);
    }

    pub(super) fn drop_grant(&mut self, channel: &str) {
        if let Some(extras) = &mut self.extras {
            extras.grants.remove(channel);
        }
    }

    /// The first of the connections that continue each other, if this is not it.
    fn earlier_root(&self) -> Option<ConnectionId> {
        self.extras.as_ref()?.root
    }

    /// Queues the welcome.
    pub fn greet(&self, call: &mut Call<'_>, heartbeat_s: u32) {
        let realm = call.realm;
        let limits = WelcomeLimits {
            message_bytes_max: realm.limits.message_bytes_max,
            channels_max: realm.limits.channels_max,
        };
        let ticket = self.ticket(realm, call.now_ms);
        let (connection, ticket) = (self.id, ticket.as_deref());
        call.say(&Reply::Welcome { connection, ticket, heartbeat_s, limits });
    }

    /// What makes it the same client after a resumption.
    pub(super) fn root(&self) -> ConnectionId {
        self.earlier_root().unwrap_or(self.id)
    }

    /// This connection as tickets and grants name it: the first of those that continue each other
    /// stands behind it.
    pub(super) fn lineage(&self) -> String {
        match self.earlier_root() {
            Some(root) => format!("{} {root}", self.id),
            None => self.id.to_string(),
        }
    }

    /// Whom its idempotency keys belong to.
    pub(super) fn owner(&self) -> Box<str> {
        match self.user() {
            Some(user) => format!("user:{user}").into(),
            None => format!("connection:{}", self.root()).into(),
        }
    }

    /// Has this identity from now on. Where it is listed already, it is so under its old name
    /// until [`Self::relist`].
    pub(super) fn become_known(&mut self, call: &mut Call<'_>, identity: Arc<Identity>) {
        // A user's connection never becomes another user's.
        call.effects.named |= self.user().is_none() && identity.user.is_some();
        call.effects.rescheduled = true;
        self.identity = Some(identity);
        if let Some(extras) = &mut self.extras {
            extras.from = None;
        }
    }

    /// How it was listed, and how it is to be from now on, if it was.
    pub(super) fn relist(&mut self) -> Option<(Arc<MemberInfo>, Arc<MemberInfo>)> {
        let old = self.member.take()?;
        Some((old, self.member()))
    }

    /// How it is listed, if it is anywhere.
    pub(super) fn listed_as(&self) -> Option<Arc<MemberInfo>> {
        self.member.clone()
    }

    /// How it is listed.
    pub(super) fn member(&mut self) -> Arc<MemberInfo> {
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

    /// This connection as the sender of its messages.
    pub(super) fn sender(&mut self) -> Arc<Sender> {
        if let Some(from) = self.extras.as_ref().and_then(|extras| extras.from.as_ref()) {
            return from.clone();
        }
        let sender = Arc::new(Sender { user: self.user().cloned(), connection: self.id });
        self.extras().from.insert(sender).clone()
    }

    /// When something is due by itself (Unix time, ms): a token that ends, or that has not come.
    pub fn deadline_ms(&self, realm: &Realm) -> Option<u64> {
        let Some(identity) = &self.identity else { return Some(self.due_ms) };
        let grants = self.extras.iter().flat_map(|extras| extras.grants.values());
        let ends = grants.map(|grant| grant.expires_s).chain(identity.expires_s);
        let renewal = self.is_to_be_renewed(realm).then_some(self.due_ms);
        ends.map(|exp_s| realm.end_ms(exp_s)).chain(renewal).min()
    }

    /// Whether the ticket or a grant expires before the right that it carries.
    pub(super) fn is_to_be_renewed(&self, realm: &Realm) -> bool {
        let ticket_ends_ms = self.due_ms.saturating_add(renewal_ms(realm));
        let outlasts = |exp_s: u64| realm.end_ms(exp_s) > ticket_ends_ms;
        let grants = self.extras.iter().flat_map(|extras| extras.grants.values());
        self.identity.as_ref().is_some_and(|own| own.expires_s.is_none_or(outlasts))
            || grants.into_iter().any(|grant| outlasts(grant.expires_s))
    }

    /// The channels of subscriptions that rest on a grant.
    pub(super) fn granted(&self) -> Vec<ChannelName> {
        let grants = self.extras.iter().flat_map(|extras| extras.grants.keys());
        grants.cloned().collect()
    }
}

//! What a hub connection is: identity, subscriptions, and what it has asked.

use std::collections::VecDeque;
use std::sync::Arc;

use super::realm::Realm;
use super::reply::{Line, quoted};
use super::resume::Resuming;
use crate::auth::{ChannelGrant, Identity};
use crate::hub::{ChannelName, ConnectionId, MemberInfo};

/// No place, or no channel.
pub const NONE: u32 = u32::MAX;

/// A channel of a connection.
#[derive(Debug)]
pub struct Subscription {
    pub channel: ChannelName,
    /// The shard's name for the channel; [`NONE`] until the home has answered.
    pub local: u32,
    /// Where it stands among the members.
    pub place: u32,
    /// Where it stands among those who watch; [`NONE`] if it does not.
    pub watching: u32,
    /// Messages were dropped since the last one that was sent.
    pub gapped: bool,
    /// It rests on the server's word or a channel's token.
    pub(super) grant: Option<Box<ChannelGrant>>,
    /// How it is listed; `None` where the channel keeps no presence.
    pub(super) member: Option<Arc<MemberInfo>>,
}

impl Subscription {
    /// Whether messages come.
    pub fn is_live(&self) -> bool {
        self.local != NONE
    }
}

/// Something that was asked of a home, and what it is for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: u32,
    pub(super) id: Option<Box<str>>,
    pub(super) kind: AskedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedKind {
    Subscribe,
    /// As part of a `resume`.
    Resume,
    Other,
}

/// A connection.
#[derive(Debug)]
pub struct HubSession {
    pub id: ConnectionId,
    /// `None`: a token is awaited.
    pub(super) identity: Option<Arc<Identity>>,
    pub subscriptions: Vec<Subscription>,
    pub(super) asked: Vec<Asked>,
    pub(super) next_request: u32,
    /// Requests that wait for an answer to one before them.
    pub(super) held: VecDeque<Box<str>>,
    /// Nothing more is done until this has its answers.
    pub(super) resuming: Option<Box<Resuming>>,
    /// Of an unnamed client that was resumed: its first connection.
    pub(super) root: Option<Arc<str>>,
    /// How it is listed where it is, made when first needed.
    member: Option<Arc<MemberInfo>>,
    /// What its messages say of their sender, made when first needed.
    from: Option<Arc<str>>,
    /// Publishes of late, by namespace.
    pub(super) rates: Vec<Bucket>,
    /// Without identity it is closed at this time (Unix, ms).
    pub(super) auth_by_ms: u64,
    /// Channel messages that were dropped because it did not read.
    pub dropped: u32,
}

/// A bucket of tokens for publishes of one namespace.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) pattern: Box<str>,
    /// Thousandths of a publish.
    pub(super) milli: u64,
    pub(super) filled_ms: u64,
}

impl HubSession {
    /// A connection whose token, if it came with one, was verified.
    pub fn new(
        id: ConnectionId,
        identity: Option<Arc<Identity>>,
        realm: &Realm,
        now_ms: u64,
    ) -> Self {
        let identity = identity.or_else(|| realm.is_open().then(Arc::default));
        Self {
            id,
            identity,
            subscriptions: Vec::new(),
            asked: Vec::new(),
            next_request: 0,
            held: VecDeque::new(),
            resuming: None,
            root: None,
            member: None,
            from: None,
            rates: Vec::new(),
            auth_by_ms: now_ms + u64::from(realm.limits.auth_timeout_ms),
            dropped: 0,
        }
    }

    /// The user, if it has one.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.user.as_ref()
    }

    /// Whether requests wait, so that nothing more is to be read.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty() || self.resuming.is_some()
    }

    /// Whether channel messages have to wait for the answer to a `resume`.
    pub fn is_resuming(&self) -> bool {
        self.resuming.is_some()
    }

    /// The welcome.
    pub(super) fn welcome(&self, realm: &Realm, heartbeat_s: u32, now_s: u64) -> String {
        let limits = Line::part()
            .value("message_bytes", realm.limits.message_bytes_max)
            .value("channels", realm.limits.channels_max)
            .end();
        let mut line = Line::new("welcome", None).text("connection", &self.id.to_string());
        if let Some(ticket) = self.ticket(realm, now_s) {
            line = line.text("ticket", &ticket);
        }
        line.value("heartbeat", heartbeat_s)
            .raw("limits", &limits)
            .text("server", concat!("seawall/", env!("CARGO_PKG_VERSION")))
            .end()
    }

    /// What makes it the same client after a resumption.
    pub(super) fn root(&self) -> String {
        self.root.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// Whom its idempotency keys belong to.
    pub(super) fn owner(&self) -> Box<str> {
        match self.user() {
            Some(user) => format!("user:{user}").into(),
            None => format!("connection:{}", self.root()).into(),
        }
    }

    /// Takes another identity.
    pub(super) fn become_known(&mut self, identity: Arc<Identity>) {
        self.identity = Some(identity);
        self.member = None;
        self.from = None;
    }

    /// How it is listed.
    pub(super) fn member(&mut self) -> Arc<MemberInfo> {
        if let Some(member) = &self.member {
            return member.clone();
        }
        let mut line = Line::part();
        if let Some(user) = self.user() {
            line = line.text("user", user);
        }
        line = line.text("connection", &self.id.to_string());
        let info = self.identity.as_ref().and_then(|identity| identity.info.as_deref());
        if let Some(info) = info {
            line = line.raw("info", info);
        }
        let key = self.user().cloned().unwrap_or_else(|| self.root().into());
        let member = Arc::new(MemberInfo { key, text: line.end().into() });
        self.member.insert(member).clone()
    }

    /// What its messages say of their sender.
    pub(super) fn from(&mut self) -> Arc<str> {
        if let Some(from) = &self.from {
            return from.clone();
        }
        let user = self.user().map(|user| format!(r#""user":{},"#, quoted(user)));
        let text = format!(r#"{{{}"connection":"{}"}}"#, user.unwrap_or_default(), self.id);
        self.from.insert(text.into()).clone()
    }

    /// A subscription by its channel.
    pub(super) fn find(&self, channel: &str) -> Option<usize> {
        self.subscriptions.iter().position(|one| one.channel.as_str() == channel)
    }

    /// Makes room for one more subscription: few have many, so no slack for few.
    pub(super) fn add(&mut self, subscription: Subscription) {
        if self.subscriptions.len() < 4 {
            self.subscriptions.reserve_exact(1);
        }
        self.subscriptions.push(subscription);
    }

    /// When something is due by itself (Unix time, ms): a token that ends, or that has not come.
    pub fn deadline_ms(&self, realm: &Realm) -> Option<u64> {
        let Some(identity) = &self.identity else { return Some(self.auth_by_ms) };
        let grants = self.subscriptions.iter().filter_map(|one| one.grant.as_ref());
        let own = identity.expires_s.map(|end_s| end_s.saturating_add(realm.leeway_s()));
        let ends = grants.map(|grant| grant.expires_s).chain(own);
        ends.min().map(|end_s| end_s.saturating_mul(1000))
    }
}

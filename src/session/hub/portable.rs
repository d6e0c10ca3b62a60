//! Serialization of a session, for handing a connection over to another process.
//!
//! A session is serialized only when it has no pending requests. Its indexes among a shard's
//! members are not included: the new process adds it to its own members.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::state::{Bucket, Fate, HubSession, NONE, Subscription};
use super::{MemberIndexes, Realm};
use crate::admission::limiter::LimiterState;
use crate::admission::rate;
use crate::auth::{ChannelGrant, Fingerprint, Identity, Right, Rights};
use crate::hub::{ChannelName, ConnectionId, MemberInfo, MemberKey};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SessionState {
    pub connection: String,
    pub identity: Option<IdentityState>,
    pub subscriptions: Vec<SubscriptionState>,
    pub next_request: u32,
    /// After a resumption: the first connection of the lineage.
    pub root: Option<String>,
    pub due_ms: u64,
    pub dropped: u32,
    /// The debt of each publish budget (ns), by namespace pattern.
    pub rates: Vec<(String, u64)>,
    pub limiter: Option<LimiterState>,
}

/// The client's identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct IdentityState {
    pub user: Option<String>,
    pub info: Option<String>,
    pub rights: Vec<Right>,
    pub expires_s: Option<u64>,
    pub key: Option<Fingerprint>,
    /// The application that has identified the client.
    #[serde(default)]
    pub application: Option<String>,
    /// The id of the app whose client it is.
    #[serde(default)]
    pub app: Option<String>,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SubscriptionState {
    pub channel: String,
    pub watching: bool,
    pub listed: bool,
    /// The rights of a channel token or of the server's grant, their expiry, and the token's key.
    pub grant: Option<(Rights, u64, Option<Fingerprint>)>,
    /// The user and the info as which a client of an app is listed there.
    #[serde(default)]
    pub member: Option<(String, Option<String>)>,
}

fn subscription(session: &HubSession, one: &Subscription) -> SubscriptionState {
    let grant = session.find_grant(one.channel.as_str());
    SubscriptionState {
        channel: one.channel.as_str().to_owned(),
        watching: one.watcher_index != NONE,
        listed: one.listed,
        grant: grant.map(|grant| (grant.rights, grant.expires_s, grant.key)),
        member: session.member_of(one.channel.as_str()).and_then(|member| match &member.key {
            MemberKey::User(user) => {
                Some((user.to_string(), member.info.as_deref().map(str::to_owned)))
            }
            MemberKey::Connection(_) => None,
        }),
    }
}

impl HubSession {
    /// Serializes the session. `None` while requests to homes are pending.
    pub fn serialize(&self, now_ns: u64) -> Option<SessionState> {
        if self.pending.is_some() || self.subscriptions.iter().any(|one| !one.is_live()) {
            return None;
        }
        let identity = self.identity.as_ref().map(|identity| IdentityState {
            user: identity.user.as_deref().map(str::to_owned),
            info: identity.info.as_deref().map(str::to_owned),
            rights: identity.rights.clone(),
            expires_s: identity.expires_s,
            key: identity.key,
            application: identity.application.as_deref().map(str::to_owned),
            app: identity.app.as_ref().map(|app| app.id().to_owned()),
        });
        let extras = self.extras.as_deref();
        let rates = extras.iter().flat_map(|extras| &extras.rates);
        let owed_ns = |one: &Bucket| rate::owed_ns(one.earned, now_ns);
        Some(SessionState {
            connection: self.id.to_string(),
            identity,
            subscriptions: self.subscriptions.iter().map(|one| subscription(self, one)).collect(),
            next_request: self.next_request,
            root: extras.and_then(|extras| extras.root).map(|root| root.to_string()),
            due_ms: self.due_ms,
            dropped: self.dropped,
            rates: rates.map(|one| (one.pattern.to_string(), owed_ns(one))).collect(),
            limiter: extras.map(|extras| extras.limiter.serialize(now_ns)),
        })
    }

    /// Restores a session with these member indexes, one for each subscription. `None`: the data is
    /// not valid.
    pub fn restore(
        state: &SessionState,
        member_indexes: &[MemberIndexes],
        realm: &Realm,
        now_ns: u64,
    ) -> Option<Self> {
        let app = state.identity.as_ref().and_then(|saved| saved.app.as_deref());
        let app = match app {
            Some(id) => Some(realm.apps.find(id)?.clone()),
            None => None,
        };
        let identity = state.identity.as_ref().map(|saved| {
            Arc::new(Identity {
                user: saved.user.as_deref().map(Arc::from),
                info: saved.info.as_deref().map(Arc::from),
                rights: saved.rights.clone(),
                expires_s: saved.expires_s,
                key: saved.key,
                application: saved.application.as_deref().map(Arc::from),
                app: app.clone(),
            })
        });
        let id = ConnectionId::parse(&state.connection)?;
        let mut session = Self::new(id, identity, realm, 0);
        (session.next_request, session.dropped) = (state.next_request, state.dropped);
        session.due_ms = state.due_ms;
        for (saved, member_indexes) in state.subscriptions.iter().zip(member_indexes) {
            let &MemberIndexes { local, member_index, watcher_index } = member_indexes;
            let channel = ChannelName::new(&saved.channel);
            if let Some((rights, expires_s, key)) = saved.grant {
                session.set_grant(&channel, ChannelGrant { rights, expires_s, key });
            }
            if let Some((user, info)) = &saved.member {
                let (key, info) = (MemberKey::User(user.as_str().into()), info.as_deref());
                let info = info.map(Arc::from);
                session.set_member(&channel, Arc::new(MemberInfo { key, connection: id, info }));
            }
            let listed = saved.listed;
            let fate = Fate::default();
            session.add(Subscription { channel, local, member_index, watcher_index, listed, fate });
        }
        if let Some(app) = &app {
            app.adopt();
        }
        if let Some(root) = &state.root {
            session.extras_mut().root = Some(ConnectionId::parse(root)?);
        }
        if let Some(limiter) = &state.limiter {
            session.extras_mut().limiter = limiter.restore(now_ns);
        }
        for (pattern, owed_ns) in &state.rates {
            let earned = rate::from_owed(*owed_ns, now_ns);
            session.extras_mut().rates.push(Bucket { pattern: pattern.as_str().into(), earned });
        }
        let is_listed = session
            .subscriptions
            .iter()
            .any(|one| one.listed && session.member_of(one.channel.as_str()).is_none());
        if is_listed {
            // It is listed at the homes already; its `Leave` must name the same member.
            session.member_or_new();
        }
        Some(session)
    }
}

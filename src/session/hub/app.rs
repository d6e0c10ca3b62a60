//! Commands of clients of an app (see `session::pusher`): the kind of a channel determines who
//! may subscribe, and the app's backend proves that with a signature.
//!
//! A client's rights last as long as its connection, whatever the rules of namespaces say: these
//! are for clients with tokens. Namespaces add history, and policies for slow readers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Call;
use super::pending::AskedKind;
use super::realm::retention_of;
use super::state::HubSession;
use super::verbs::{ChannelTerms, Wanted};
use crate::auth::{INFO_BYTES_MAX, Identity, Namespace, PusherApp, USER_BYTES_MAX};
use crate::events::EventKind;
use crate::hub::{
    ChannelName, Code, Draft, MemberInfo, MemberKey, Position, Refused, Sender, Verb,
};
use crate::proto::ws::CloseCode;
use crate::session::protocol::{AppCommand, Command, Reply};
use crate::session::pusher::{self, AppChannel, ChannelKind};
use crate::text::content::CheckedJson;

/// The longest data of a member or user (bytes).
const SIGNED_DATA_BYTES_MAX: usize = INFO_BYTES_MAX + USER_BYTES_MAX + 256;

/// What has happened in a channel of an app.
#[derive(Debug)]
pub enum AppEvent {
    /// A client has sent an event to the other members.
    Sent { channel: ChannelName, content: Box<str>, from: Arc<Sender> },
    /// A new member should receive the last event, and there is none.
    CacheMiss { channel: ChannelName },
}

impl AppEvent {
    pub fn channel(&self) -> &ChannelName {
        match self {
            Self::Sent { channel, .. } | Self::CacheMiss { channel } => channel,
        }
    }
}

/// The data of a member of a presence channel.
#[derive(Deserialize)]
struct MemberData<'d> {
    #[serde(borrow)]
    user_id: &'d RawValue,
    #[serde(borrow)]
    user_info: Option<&'d RawValue>,
}

/// The data of a user that signs in.
#[derive(Deserialize)]
struct UserData<'d> {
    #[serde(borrow)]
    id: &'d RawValue,
}

fn refuse(code: Code, message: impl Into<String>) -> Refused {
    Refused::new(code, message)
}

/// Reads an id, which backends write as a string or as a number.
fn read_user_id(json: &RawValue) -> Result<String, Refused> {
    let id = match serde_json::from_str(json.get()) {
        Ok(serde_json::Value::String(id)) => id,
        Ok(serde_json::Value::Number(id)) => id.to_string(),
        _ => String::new(),
    };
    if id.is_empty() || id.len() > USER_BYTES_MAX {
        let message = format!("the user's id must be a text of 1 to {USER_BYTES_MAX} bytes");
        return Err(refuse(Code::BadRequest, message));
    }
    Ok(id)
}

/// Returns the terms of a channel of an app.
fn app_terms(app: &PusherApp, channel: &AppChannel<'_>, namespace: &Namespace) -> ChannelTerms {
    let presence = channel.kind == ChannelKind::Presence;
    let most = app.options.presence_members_max;
    let members_max = if presence { most } else { namespace.members_max };
    ChannelTerms { retention: retention_of(namespace), presence, members_max }
}

impl HubSession {
    /// Returns the app whose client it is.
    pub fn app(&self) -> Option<&Arc<PusherApp>> {
        self.identity.as_ref()?.app.as_ref()
    }

    /// Returns the subscription that a command is for.
    pub(super) fn find_of_app(&self, command: &AppCommand) -> Option<usize> {
        let channel = AppChannel::parse(command.channel()?).ok()?;
        self.find(&channel.hub_name(self.app()?)?)
    }

    /// Executes a command.
    pub(super) fn carry_out_for_app(
        &mut self,
        call: &mut Call<'_>,
        command: AppCommand,
    ) -> Result<(), Refused> {
        let Some(app) = self.app().cloned() else {
            return Err(refuse(Code::Forbidden, "the connection belongs to no app"));
        };
        match command {
            AppCommand::Subscribe { channel, auth, channel_data } => {
                let proof = (auth.as_deref(), channel_data.as_deref());
                match self.subscribe_signed(call, &app, &channel, proof) {
                    Err(refused) if refused.code != Code::Conflict => {
                        call.effects.errors += 1;
                        // As the client wrote it; hub names have the app's prefix.
                        let channel = &app.own_name(&channel);
                        let (id, refused) = (None, &refused);
                        call.queue_reply(&Reply::SubscriptionRefused { id, channel, refused });
                        Ok(())
                    }
                    other => other,
                }
            }
            AppCommand::Unsubscribe { channel } => {
                let name = AppChannel::parse(&channel).ok().and_then(|one| one.hub_name(&app));
                // Clients unsubscribe from what they never got, too; there is no reply.
                if let Some(at) = name.and_then(|name| self.find(&name)) {
                    self.end_subscription(call, at);
                }
                Ok(())
            }
            AppCommand::SignIn { auth, user_data } => {
                self.sign_in(call, &app, &auth, &user_data);
                Ok(())
            }
            AppCommand::Send { channel, content } => {
                self.send_client_event(call, &app, &channel, content)
            }
            AppCommand::Pong => Ok(()),
        }
    }

    /// Refuses a subscription beyond a rate: clients wait for an answer that names the channel.
    pub(super) fn refuse_for_app(&self, call: &mut Call<'_>, command: Option<&Command<'_>>) {
        if let (Some(app), Some(Command::App(AppCommand::Subscribe { channel, .. }))) =
            (self.app(), command)
        {
            let refused = &refuse(Code::RateLimited, "too many subscriptions per second; wait");
            let channel = &app.own_name(channel);
            call.queue_reply(&Reply::SubscriptionRefused { id: None, channel, refused });
        }
    }

    /// Subscribes, if the channel's kind or the proof allows it.
    fn subscribe_signed(
        &mut self,
        call: &mut Call<'_>,
        app: &Arc<PusherApp>,
        channel: &str,
        (auth, channel_data): (Option<&str>, Option<&str>),
    ) -> Result<(), Refused> {
        let channel = AppChannel::parse(channel).map_err(|text| refuse(Code::BadRequest, text))?;
        let name = channel.hub_name(app);
        let name = name.ok_or_else(|| refuse(Code::BadRequest, "the user's id is too long"))?;
        if self.find(&name).is_some() {
            let message = format!("Existing subscription to channel {}", channel.name);
            return Err(refuse(Code::Conflict, message));
        }
        let member = match channel.kind {
            ChannelKind::Public => None,
            ChannelKind::Private => {
                let text = format!("{}:{}", pusher::socket_id(self.id), channel.name);
                verify(app, &text, auth)?;
                None
            }
            ChannelKind::Presence => {
                let data = channel_data.ok_or_else(|| {
                    refuse(Code::Unauthorized, "a presence channel needs channel_data")
                })?;
                let text = format!("{}:{}:{data}", pusher::socket_id(self.id), channel.name);
                verify(app, &text, auth)?;
                Some(self.read_member(app, data)?)
            }
            ChannelKind::OfUser => {
                let user = channel.user().map(|user| app.own_name(user));
                if self.user().map(|own| &**own) != user.as_deref() {
                    let message = "only the signed-in user may subscribe to its channel";
                    return Err(refuse(Code::Unauthorized, message));
                }
                None
            }
        };
        let namespace = call.realm.namespaces.find_or_granted(&name);
        let terms = app_terms(app, &channel, namespace);
        let watch = terms.presence;
        let kind = if watch { AskedKind::SubscribeAndRead } else { AskedKind::Subscribe };
        let (since, grant, trusted, replaces) = (None, None, true, None);
        let wanted = Wanted { channel: &name, since, watch, grant, trusted, replaces };
        self.begin_subscription(call, None, kind, (wanted, terms, member)).map(|_| ())
    }

    /// Reads the member that the app's backend has signed.
    fn read_member(&self, app: &PusherApp, data: &str) -> Result<Arc<MemberInfo>, Refused> {
        let invalid = |text: String| refuse(Code::BadRequest, format!("channel_data: {text}"));
        let MemberData { user_id, user_info } =
            serde_json::from_str(data).map_err(|error| invalid(error.to_string()))?;
        let key = MemberKey::User(app.own_name(&read_user_id(user_id)?).into());
        let info = user_info.filter(|info| info.get() != "null");
        let info = info.map(CheckedJson::new).transpose();
        let info = info.map_err(|fault| invalid(format!("user_info {}", fault.text())))?;
        let info = info.map(CheckedJson::into_text);
        if info.as_ref().is_some_and(|info| info.len() > INFO_BYTES_MAX) {
            return Err(invalid(format!("user_info has {INFO_BYTES_MAX} bytes at most")));
        }
        Ok(Arc::new(MemberInfo { key, connection: self.id, info: info.map(Into::into) }))
    }

    /// Signs a user in; closes the connection if the signature is invalid.
    fn sign_in(&mut self, call: &mut Call<'_>, app: &Arc<PusherApp>, auth: &str, user_data: &str) {
        match self.check_sign_in(app, auth, user_data) {
            Ok(user) => {
                let user = Some(app.own_name(&user).into());
                if self.user() != user.as_ref() {
                    let app = Some(app.clone());
                    let identity = Identity { user, app, ..Identity::default() };
                    self.become_known(call, Arc::new(identity));
                }
                call.queue_reply(&Reply::SignedIn { user_data });
            }
            Err(message) => {
                call.effects.auth_failures.push("signature");
                call.effects.close = Some((pusher::NOT_AUTHORIZED, message));
            }
        }
    }

    fn check_sign_in(
        &self,
        app: &PusherApp,
        auth: &str,
        user_data: &str,
    ) -> Result<String, String> {
        let text = format!("{}::user::{user_data}", pusher::socket_id(self.id));
        if user_data.len() > SIGNED_DATA_BYTES_MAX {
            return Err(format!("user_data has {SIGNED_DATA_BYTES_MAX} bytes at most"));
        }
        if !app.verify_authorization(&text, auth) {
            return Err("Invalid signature: the user was not authenticated".into());
        }
        let data: UserData<'_> =
            serde_json::from_str(user_data).map_err(|error| format!("user_data: {error}"))?;
        let user = read_user_id(data.id).map_err(|refused| refused.message)?;
        let own = app.own_name(&user);
        match self.user() {
            Some(before) if **before != *own => Err("another user has signed in before".into()),
            _ => Ok(user),
        }
    }

    /// Sends an event of a client to the other members of its channel.
    fn send_client_event(
        &mut self,
        call: &mut Call<'_>,
        app: &Arc<PusherApp>,
        channel: &str,
        content: Box<str>,
    ) -> Result<(), Refused> {
        let channel = AppChannel::parse(channel).map_err(|text| refuse(Code::BadRequest, text))?;
        if !app.options.client_events {
            let message = "The app does not have client messaging enabled";
            return Err(refuse(Code::Forbidden, message));
        }
        if !matches!(channel.kind, ChannelKind::Private | ChannelKind::Presence)
            || channel.is_encrypted
        {
            let message = "Client event rejected - only supported on private and presence channels";
            return Err(refuse(Code::Forbidden, message));
        }
        let name = channel.hub_name(app).unwrap_or_default();
        let is_member = self.find(&name).is_some_and(|at| self.subscriptions[at].is_live());
        if !is_member {
            let message = "The client is not a member of the channel";
            return Err(refuse(Code::Unauthorized, message));
        }
        let most = app.options.event_bytes_max;
        if content.len() > most as usize + ENVELOPE_BYTES_MAX {
            let message = format!("The data of an event has {most} bytes at most");
            return Err(refuse(Code::TooLarge, message));
        }
        let per_second = app.options.client_events_per_s;
        if !self.take_from_budget(&app.own_name("client-*"), per_second, call.now_ns) {
            let message =
                format!("The rate limit of {per_second} client events per second was exceeded");
            return Err(refuse(Code::RateLimited, message));
        }
        let from = match self.member_of(&name).map(|member| &member.key) {
            Some(MemberKey::User(user)) => {
                Arc::new(Sender { user: Some(user.clone()), connection: self.id })
            }
            _ => self.sender(),
        };
        let namespace = call.realm.namespaces.find_or_granted(&name);
        let channel_name = ChannelName::new(&name);
        if namespace.events.wants(EventKind::ClientEvent) {
            let (channel, content, from) = (channel_name.clone(), content.clone(), from.clone());
            call.effects.app_events.push(AppEvent::Sent { channel, content, from });
        }
        let draft = Draft {
            content,
            from: Some(from),
            exclude: Some(self.id),
            time_ms: call.now_ms,
            accepted_ns: call.now_ns,
            storing: call.realm.protocols.storing(),
        };
        let retention = retention_of(namespace);
        let verb = Verb::Publish { draft: Box::new(draft), key: None };
        self.send_request(call, None, AskedKind::Other, channel_name, retention, verb);
        Ok(())
    }

    /// Asks for the last event of a channel with a cache, which a new member receives.
    pub(super) fn ask_for_cached(
        &mut self,
        call: &mut Call<'_>,
        name: &ChannelName,
        position: Position,
    ) {
        let shown = pusher::shown_name(name.as_str());
        let is_cached = || AppChannel::parse(&shown).is_ok_and(|channel| channel.is_cached);
        if self.app().is_none() || !is_cached() {
            return;
        }
        let retention = retention_of(call.realm.namespaces.find_or_granted(name.as_str()));
        let verb = Verb::History { since: None, limit: 1, reverse: true };
        let kind = AskedKind::Cached { joined_at: position };
        self.send_request(call, None, kind, name.clone(), retention, verb);
    }

    /// Applies changed options of the app; closes the connection if the app was removed.
    pub(super) fn review_app(&mut self, call: &mut Call<'_>) {
        let (Some(identity), Some(app)) = (&self.identity, self.app()) else { return };
        let Some(new) = call.realm.apps.find(app.id()) else {
            let message = "the app was removed from the server";
            call.effects.close = Some((pusher::APP_DISABLED, message.into()));
            return;
        };
        if Arc::ptr_eq(new, app) {
            return;
        }
        if !new.continues(app) {
            // It was removed, and added again, before this review.
            let message = "the app was replaced; reconnect";
            call.effects.close = Some((CloseCode::GOING_AWAY, message.into()));
            return;
        }
        self.identity = match &identity.user {
            None => call.realm.apps.identify(new.key()).cloned(),
            Some(_) => {
                let app = Some(new.clone());
                Some(Arc::new(Identity { app, ..Identity::clone(identity) }))
            }
        };
    }
}

/// The parts of an event's content besides its data, at most (bytes).
const ENVELOPE_BYTES_MAX: usize = 1024;

fn verify(app: &PusherApp, text: &str, auth: Option<&str>) -> Result<(), Refused> {
    if auth.is_some_and(|auth| app.verify_authorization(text, auth)) {
        return Ok(());
    }
    let message = "The connection is unauthorized: the signature is missing or invalid";
    Err(refuse(Code::Unauthorized, message))
}

/// Notes that a channel with a cache has nothing for a new member.
pub(super) fn note_cache_miss(call: &mut Call<'_>, name: &ChannelName) {
    let namespace = call.realm.namespaces.find_or_granted(name.as_str());
    if namespace.events.wants(EventKind::CacheMiss) {
        call.effects.app_events.push(AppEvent::CacheMiss { channel: name.clone() });
    }
}

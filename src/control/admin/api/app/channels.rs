//! Calls that describe the channels and users of an app, and one that ends a user's connections.

use axum::extract::{Path, State as Extracted};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::channels::ListQuery;
use super::super::connections::Disconnect;
use super::super::{ApiError, State, ask_home, await_answer, everywhere, json_response};
use super::super::{parse_channel_name, unexpected_answer};
use super::signed::Signed;
use crate::auth::PusherApp;
use crate::hub::{Answer, MemberKey, Verb};
use crate::session::pusher::{self, AppChannel, ChannelKind};

/// Channels in one answer.
const CHANNELS_MAX: usize = 100_000;
/// Channels and members of one page.
const PAGE: u32 = 1000;

/// What a call asks of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    subscriptions: bool,
    users: bool,
    cache: bool,
}

impl Attributes {
    /// Reads the parameter `info`.
    ///
    /// # Errors
    /// The attributes that there are.
    pub(super) fn parse(info: &str) -> Result<Self, ApiError> {
        let mut wanted = Self::default();
        for name in info.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "subscription_count" => wanted.subscriptions = true,
                "user_count" => wanted.users = true,
                "cache" => wanted.cache = true,
                _ => {
                    let message = "info may contain subscription_count, user_count and cache";
                    return Err(ApiError::bad_request(message));
                }
            }
        }
        Ok(wanted)
    }

    /// Checks that a channel has these attributes.
    pub(super) fn check(self, channel: &AppChannel<'_>) -> Result<(), ApiError> {
        if self.users && channel.kind != ChannelKind::Presence {
            let message = "user_count is an attribute of presence channels only";
            return Err(ApiError::bad_request(message));
        }
        Ok(())
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

fn parse(channel: &str) -> Result<AppChannel<'_>, ApiError> {
    AppChannel::parse(channel).map_err(ApiError::bad_request)
}

fn hub_name(app: &PusherApp, channel: &AppChannel<'_>) -> Result<String, ApiError> {
    channel.hub_name(app).ok_or_else(|| ApiError::bad_request("the user's id is too long"))
}

/// Returns the attributes of a channel.
pub(super) async fn describe_attributes(
    state: &State,
    app: &PusherApp,
    channel: &str,
    wanted: Attributes,
) -> Result<Map<String, Value>, ApiError> {
    let channel = parse(channel)?;
    let name = hub_name(app, &channel)?;
    wanted.check(&channel)?;
    let mut described = Map::new();
    let about = match everywhere::describe_channel_of(state, &name).await {
        // A channel that nothing uses is not there.
        Err(error) if error.status == StatusCode::NOT_FOUND => json!({"members": 0, "users": 0}),
        about => about?,
    };
    if wanted.subscriptions {
        described.insert("subscription_count".into(), about["members"].clone());
    }
    if wanted.users {
        described.insert("user_count".into(), about["users"].clone());
    }
    described.insert("occupied".into(), (about["members"].as_u64() > Some(0)).into());
    if wanted.cache && channel.is_cached {
        described.insert("cache".into(), read_cache(state, &name).await?);
    }
    Ok(described)
}

/// Returns the last event of a channel with a cache.
async fn read_cache(state: &State, name: &str) -> Result<Value, ApiError> {
    let verb = Verb::History { since: None, limit: 1, reverse: true };
    let answer = await_answer(ask_home(state, parse_channel_name(name)?, verb)?).await?;
    let Answer::History { messages, .. } = answer else {
        return Err(unexpected_answer(&answer));
    };
    Ok(messages.first().map_or(Value::Null, |last| json!({"data": pusher::data_of(last)})))
}

/// `GET /apps/{id}/channels/{channel}`.
pub(super) async fn describe(
    Extracted(state): Extracted<State>,
    Path((_, channel)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let wanted = Attributes::parse(signed.param("info").unwrap_or_default())?;
    let described = describe_attributes(&state, &signed.app, &channel, wanted).await?;
    Ok(json_response(Value::Object(described).to_string()))
}

/// `GET /apps/{id}/channels`.
pub(super) async fn list(
    Extracted(state): Extracted<State>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let wanted = Attributes::parse(signed.param("info").unwrap_or_default())?;
    let filter = signed.param("filter_by_prefix").unwrap_or_default();
    if wanted.users && !filter.starts_with("presence-") {
        let message = "user_count needs filter_by_prefix=presence-: other channels have no users";
        return Err(ApiError::bad_request(message));
    }
    let mut channels = Map::new();
    let mut after = None;
    loop {
        let prefix = Some(signed.app.own_name(filter));
        let query = ListQuery { prefix, limit: Some(PAGE), after };
        let page = everywhere::list_channels_of(&state, query).await?;
        for (name, about) in page["channels"].as_object().into_iter().flatten() {
            if about["members"].as_u64() == Some(0) {
                continue;
            }
            let shown = pusher::shown_name(name).into_owned();
            let mut described = Map::new();
            if wanted.subscriptions {
                described.insert("subscription_count".into(), about["members"].clone());
            }
            if wanted.users {
                let wanted = Attributes { users: true, ..Attributes::default() };
                let one = describe_attributes(&state, &signed.app, &shown, wanted).await?;
                described.insert("user_count".into(), one["user_count"].clone());
            }
            channels.insert(shown, described.into());
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
        if channels.len() >= CHANNELS_MAX {
            let message = format!(
                "more than {CHANNELS_MAX} channels are occupied: use a longer filter_by_prefix"
            );
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(json_response(json!({"channels": channels}).to_string()))
}

/// `GET /apps/{id}/channels/{channel}/users`.
pub(super) async fn list_users(
    Extracted(state): Extracted<State>,
    Path((_, channel)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let channel = parse(&channel)?;
    if channel.kind != ChannelKind::Presence {
        return Err(ApiError::bad_request("only presence channels have users"));
    }
    let name = hub_name(&signed.app, &channel)?;
    let mut users = Vec::new();
    let mut after = None;
    loop {
        let verb = Verb::Presence { after, limit: PAGE };
        let answer = await_answer(ask_home(&state, parse_channel_name(&name)?, verb)?).await?;
        let Answer::Presence(page) = answer else { return Err(unexpected_answer(&answer)) };
        users.extend(page.members.iter().filter_map(|member| match &member.key {
            MemberKey::User(user) => Some(json!({"id": pusher::shown_user(user, &name)})),
            MemberKey::Connection(_) => None,
        }));
        after = page.next.map(Into::into);
        if after.is_none() {
            return Ok(json_response(json!({"users": users}).to_string()));
        }
    }
}

/// `GET /apps/{id}/connections`: those of this node.
pub(super) async fn count_connections(signed: Signed) -> Response {
    json_response(json!({"connections": signed.app.connections()}).to_string())
}

/// `POST /apps/{id}/users/{user}/terminate_connections`.
pub(super) async fn end_user(
    Extracted(state): Extracted<State>,
    Path((_, user)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let disconnect = Disconnect {
        user: Some(signed.app.own_name(&user)),
        connection: None,
        code: Some(pusher::NOT_AUTHORIZED.get()),
        reason: Some("You got disconnected by the app.".into()),
    };
    everywhere::disconnect(&state, disconnect).await?;
    Ok(json_response("{}".into()))
}

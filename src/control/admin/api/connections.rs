//! Calls on connections: list, describe, send, subscribe, unsubscribe, disconnect.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{ApiError, State, parse_channel_name, to_one_line};
use crate::auth::Subject;
use crate::hub::{ConnectionId, Draft, Publication};
use crate::proto::ws::CloseCode;
use crate::shard::mail::Mail;
use crate::shard::mail::{Act, ConnectionTarget, Filter, HubMail, Listed, Reached};

/// The maximum number of connections per page.
const PAGE_MAX: u32 = 1000;
/// Requests to shards per page: a rare user takes several pages to find.
const REQUESTS_MAX: usize = 64;

/// The body of a send; exactly one of the first three names the target.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    pub(super) user: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) all: Option<bool>,
    pub(super) content: Box<RawValue>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disconnect {
    pub(super) user: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) code: Option<u16>,
    pub(super) reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Membership {
    pub(super) user: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) channel: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    pub(super) user: Option<String>,
    pub(super) address: Option<IpAddr>,
    pub(super) limit: Option<u32>,
    pub(super) after: Option<String>,
}

pub(super) fn parse_target(
    user: Option<String>,
    connection: Option<String>,
    all: Option<bool>,
) -> Result<ConnectionTarget, ApiError> {
    match (user, connection, all) {
        (Some(user), None, None | Some(false)) => Ok(ConnectionTarget::User(user.into())),
        (None, Some(id), None | Some(false)) => {
            Ok(ConnectionTarget::Connection(parse_connection_id(&id)?))
        }
        (None, None, Some(true)) => Ok(ConnectionTarget::All),
        _ => Err(ApiError::bad_request(
            "name exactly one of user, connection and (to send) all: true",
        )),
    }
}

/// The subject whose tickets and grants a call revokes: this includes clients that are offline, and
/// connections that have ended.
pub(super) fn subject(target: &ConnectionTarget) -> Option<Subject> {
    match target {
        ConnectionTarget::User(user) => Some(Subject::User(user.to_string())),
        ConnectionTarget::Connection(id) => Some(Subject::Connection(id.to_string())),
        ConnectionTarget::All => None,
    }
}

pub(super) fn parse_connection_id(text: &str) -> Result<ConnectionId, ApiError> {
    ConnectionId::parse(text).ok_or_else(|| {
        ApiError::bad_request("invalid connection id; take one from /v1/connections")
    })
}

/// Applies an action to all connections of the target; returns their number.
pub(super) async fn apply(
    state: &State,
    target: ConnectionTarget,
    act: Act,
) -> Result<Reached, ApiError> {
    let shared = state.hub()?;
    let directory = &state.0.directory;
    let shards = match &target {
        // An id of another process: no shard here has it.
        ConnectionTarget::Connection(id) if id.node != shared.realm.node => 0..0,
        ConnectionTarget::Connection(id) if usize::from(id.shard) < directory.len() => {
            id.shard..id.shard + 1
        }
        ConnectionTarget::Connection(_) => 0..0,
        ConnectionTarget::User(_) | ConnectionTarget::All => 0..directory.len() as u16,
    };
    let mut replies = Vec::new();
    for shard in shards {
        let (reply, received) = oneshot::channel();
        let (target, act) = (target.clone(), act.clone());
        let mail = HubMail::Act { target, act, reply: Some(reply) };
        directory.post(shard, Mail::Hub(Box::new(mail)));
        replies.push(received);
    }
    let mut reached = Reached::default();
    for reply in replies {
        // A shard that has ended sends no reply, and has no connections.
        let Reached { count, refused } = reply.await.unwrap_or_default();
        reached.count += count;
        reached.refused = reached.refused.or(refused);
    }
    Ok(reached)
}

/// Sends a message to connections of this node.
pub(super) async fn send_here(state: &State, body: Send) -> Result<Value, ApiError> {
    let target = parse_target(body.user, body.connection, body.all)?;
    let text = to_one_line(&body.content)?;
    let most = state.config().limits.ws.message_bytes_max;
    if text.len() > most {
        let status = axum::http::StatusCode::PAYLOAD_TOO_LARGE;
        let message = format!("content of {} bytes exceeds the limit of {most}", text.len());
        return Err(ApiError::new(status, "too_large", message));
    }
    let draft = Draft {
        storing: state.hub()?.realm.protocols.storing(),
        content: text,
        from: None,
        exclude: None,
        time_ms: State::unix_ms(),
        accepted_ns: state.clock_ns(),
    };
    let delivered = apply(state, target, Act::Send(Publication::new_direct(draft))).await?.count;
    Ok(json!({"delivered": delivered}))
}

/// Returns the code and the reason of a disconnect.
pub(super) fn check_disconnect(body: &Disconnect) -> Result<(CloseCode, Arc<str>), ApiError> {
    let code = body.code.map_or(CloseCode::DISCONNECTED, CloseCode::new);
    if !matches!(code.get(), 1000 | 1001 | 3000..=4999) {
        return Err(ApiError::bad_request("code must be 1000, 1001, or 3000 to 4999"));
    }
    let reason = body.reason.as_deref().unwrap_or("disconnected by the server");
    if reason.len() > crate::proto::ws::CLOSE_REASON_BYTES_MAX {
        return Err(ApiError::bad_request(
            "reason must have at most 123 bytes, the room in a Close frame",
        ));
    }
    Ok((code, reason.into()))
}

/// Disconnects connections of this node, and revokes their tickets on it.
pub(super) async fn disconnect_here(state: &State, body: Disconnect) -> Result<Value, ApiError> {
    let (code, reason) = check_disconnect(&body)?;
    let target = parse_target(body.user, body.connection, None)?;
    if let Some(subject) = subject(&target) {
        state.hub()?.realm.revoke(&subject, State::unix_ms());
    }
    let disconnected = apply(state, target, Act::Disconnect { code, reason }).await?.count;
    Ok(json!({"disconnected": disconnected}))
}

/// Subscribes connections of this node.
pub(super) async fn subscribe_here(state: &State, body: Membership) -> Result<Value, ApiError> {
    let channel = parse_channel_name(&body.channel)?;
    let target = parse_target(body.user, body.connection, None)?;
    match apply(state, target, Act::Subscribe(channel)).await? {
        Reached { count: 0, refused: Some(refused) } => Err(refused.into()),
        Reached { count, .. } => Ok(json!({"subscribed": count})),
    }
}

/// Unsubscribes connections of this node, and revokes their grants on it.
pub(super) async fn unsubscribe_here(state: &State, body: Membership) -> Result<Value, ApiError> {
    let channel = parse_channel_name(&body.channel)?;
    let target = parse_target(body.user, body.connection, None)?;
    if let Some(subject) = subject(&target) {
        state.hub()?.realm.revoke_channel(&subject, channel.as_str(), State::unix_ms());
    }
    let unsubscribed = apply(state, target, Act::Unsubscribe(channel)).await?.count;
    Ok(json!({"unsubscribed": unsubscribed}))
}

async fn list_shard(state: &State, shard: u16, filter: Filter) -> Listed {
    let (reply, received) = oneshot::channel();
    let mail = HubMail::List { filter: Box::new(filter), reply };
    state.0.directory.post(shard, Mail::Hub(Box::new(mail)));
    // A shard that has ended sends no reply, and has no connections.
    received.await.unwrap_or_default()
}

/// Parses the position where a list continues: shard and slot.
fn parse_cursor(text: Option<&str>) -> Result<(u16, u32), ApiError> {
    let Some(text) = text else { return Ok((0, 0)) };
    let parts = text.split_once('.');
    parts
        .and_then(|(shard, slot)| Some((shard.parse().ok()?, slot.parse().ok()?)))
        .ok_or_else(|| ApiError::bad_request("invalid `after`; use `next` of an earlier answer"))
}

/// Returns the number of connections of a page.
pub(super) fn check_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(100);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "limit must be from 1 to {PAGE_MAX}, not {limit}"
        )));
    }
    Ok(limit)
}

/// Lists connections of this node.
pub(super) async fn list_here(state: &State, query: ListQuery) -> Result<Value, ApiError> {
    state.hub()?;
    let limit = check_limit(query.limit)?;
    let (mut shard, mut from_slot) = parse_cursor(query.after.as_deref())?;
    let shards = state.0.directory.len() as u16;
    let mut connections = Vec::new();
    for _ in 0..REQUESTS_MAX {
        if shard >= shards || connections.len() >= limit as usize {
            break;
        }
        let filter = Filter {
            user: query.user.clone(),
            // Listeners for both families report IPv4 peers as IPv6: compare in the canonical form.
            address: query.address.map(|address| address.to_canonical()),
            from_slot,
            limit: limit - connections.len() as u32,
        };
        let listed = list_shard(state, shard, filter).await;
        connections.extend(listed.connections);
        (shard, from_slot) = match listed.next_slot {
            Some(slot) => (shard, slot),
            None => (shard + 1, 0),
        };
    }
    let mut answer = json!({"connections": connections});
    if shard < shards {
        answer["next"] = format!("{shard}.{from_slot}").into();
    }
    Ok(answer)
}

/// Describes a connection of this node.
pub(super) async fn describe_here(state: &State, id: &str) -> Result<Value, ApiError> {
    let shared = state.hub()?;
    let id = parse_connection_id(id)?;
    let gone = || ApiError::not_found("no such connection, or it has closed");
    if id.node != shared.realm.node || usize::from(id.shard) >= state.0.directory.len() {
        return Err(gone());
    }
    let (reply, received) = oneshot::channel();
    let mail = HubMail::Look { id, reply };
    state.0.directory.post(id.shard, Mail::Hub(Box::new(mail)));
    // A shard that has ended sends no reply, and has no connections.
    let info = received.await.ok().flatten().ok_or_else(gone)?;
    Ok(json!(info))
}

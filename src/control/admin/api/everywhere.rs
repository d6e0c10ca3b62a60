//! Calls on the connections and channels of all nodes of a cluster: each node carries them out for
//! its own, and the answers are merged.
//!
//! Nodes that do not answer in time are counted in the answer as `unanswered`. A node without a
//! cluster answers for itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State as Extracted;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connections::{self, Disconnect, Membership, Send, parse_target, subject};
use super::{ApiError, Asked, Body, Named, State, channels};
use crate::auth::Subject;
use crate::backend::hook_line::HookOrder;
use crate::control::peers::{Answered, ClusterPeers, KeptRevocation, PeerCall, PeerError};
use crate::hub::ConnectionId;
use crate::shard::mail::{Act, ConnectionTarget, HubMail, Mail};

/// By how much the clock of another node may be ahead (ms): times beyond are not believed.
const CLOCK_AHEAD_MAX_MS: u64 = 600_000;
/// The channels and connections of a page, unless the call asks for others.
const PAGE: u32 = 100;

/// Converts a body to the form in which it is sent to other nodes.
fn encode_body(body: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(body).expect("bodies are JSON")
}

fn decode_body<T: serde::de::DeserializeOwned>(body: &RawValue) -> Result<T, ApiError> {
    serde_json::from_str(body.get()).map_err(|error| ApiError::bad_request(error.to_string()))
}

impl From<PeerError> for ApiError {
    fn from(error: PeerError) -> Self {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_GATEWAY);
        Self::new(status, "unavailable", error.message).with_code(&error.code)
    }
}

/// Adds up the counts of all nodes. A node that fails by itself has not answered; a rejection of
/// the call counts only where no node has succeeded.
fn add_counts(
    name: &str,
    own: Result<Value, ApiError>,
    others: Answered,
) -> Result<Value, ApiError> {
    let (mut total, mut error, mut unanswered) = (0, None, others.unanswered);
    let answers = others.answers.into_iter().map(|(_, answer)| answer.map_err(ApiError::from));
    for answer in answers {
        match answer {
            Ok(answer) => total += answer[name].as_u64().unwrap_or_default(),
            Err(failed) if failed.status.is_server_error() => unanswered += 1,
            Err(failed) => error = error.or(Some(failed)),
        }
    }
    match own {
        Ok(answer) => total += answer[name].as_u64().unwrap_or_default(),
        Err(failed) => error = Some(failed),
    }
    match error {
        Some(error) if total == 0 => Err(error),
        _ => Ok(with_unanswered(json!({name: total}), unanswered)),
    }
}

fn with_unanswered(mut answer: Value, unanswered: usize) -> Value {
    if unanswered > 0 {
        answer["unanswered"] = unanswered.into();
    }
    answer
}

/// The node that has the connections of a target; `None`: all may have some.
fn node_of(target: &ConnectionTarget) -> Option<u32> {
    match target {
        ConnectionTarget::Connection(id) => Some(id.node),
        ConnectionTarget::User(_) | ConnectionTarget::All => None,
    }
}

/// Runs a call on this node, and on others: on one, or on all.
async fn count_on(
    peers: &ClusterPeers,
    to: Option<u32>,
    name: &str,
    here: impl Future<Output = Result<Value, ApiError>>,
    call: PeerCall,
) -> Result<Value, ApiError> {
    if to == Some(peers.node()) {
        return here.await;
    }
    let (own, others) = tokio::join!(here, peers.call(to, call));
    add_counts(name, own, others)
}

pub(super) async fn send(state: &State, body: Send) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else { return connections::send_here(state, body).await };
    let target = parse_target(body.user.clone(), body.connection.clone(), body.all)?;
    let call = PeerCall::Send(encode_body(&body));
    let here = connections::send_here(state, body);
    count_on(peers, node_of(&target), "delivered", here, call).await
}

pub(super) async fn subscribe(state: &State, body: Membership) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else { return connections::subscribe_here(state, body).await };
    let target = parse_target(body.user.clone(), body.connection.clone(), None)?;
    let call = PeerCall::Subscribe(encode_body(&body));
    let here = connections::subscribe_here(state, body);
    count_on(peers, node_of(&target), "subscribed", here, call).await
}

pub(super) async fn unsubscribe(state: &State, body: Membership) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else {
        return connections::unsubscribe_here(state, body).await;
    };
    let target = parse_target(body.user.clone(), body.connection.clone(), None)?;
    super::parse_channel_name(&body.channel)?;
    keep_revocation(state, peers, &target, Some(&body.channel))?;
    // Grants are void on every node, wherever the connection is.
    let call = PeerCall::Unsubscribe(encode_body(&body));
    let here = connections::unsubscribe_here(state, body);
    count_on(peers, None, "unsubscribed", here, call).await
}

pub(super) async fn disconnect(state: &State, body: Disconnect) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else {
        return connections::disconnect_here(state, body).await;
    };
    let target = parse_target(body.user.clone(), body.connection.clone(), None)?;
    connections::check_disconnect(&body)?;
    // The tickets of a connection's user are revoked with it.
    let user = match &body.connection {
        Some(id) => describe(state, id).await.ok(),
        None => None,
    };
    let user = user.and_then(|info| info["user"].as_str().map(str::to_owned));
    keep_revocation(state, peers, &target, None)?;
    let call = PeerCall::Disconnect(encode_body(&body));
    let here = connections::disconnect_here(state, body);
    let answer = count_on(peers, None, "disconnected", here, call).await;
    if let Some(user) = user {
        let target = ConnectionTarget::User(user.as_str().into());
        let until_ms = keep_revocation(state, peers, &target, None)?;
        // The user's other connections stay open, and need new tickets. All nodes void those up to
        // the same time: a later one would void tickets that others have just renewed.
        renew_tickets(state, &user).await?;
        peers.call(None, PeerCall::RenewTickets { user, until_ms }).await;
    }
    answer
}

/// Revokes on this node, and keeps that in the engine for nodes that the call does not reach.
/// Returns up to which time of issue (Unix, ms).
fn keep_revocation(
    state: &State,
    peers: &ClusterPeers,
    target: &ConnectionTarget,
    channel: Option<&str>,
) -> Result<u64, ApiError> {
    let now_ms = State::unix_ms();
    let Some(subject) = subject(target) else { return Ok(now_ms) };
    let realm = &state.hub()?.realm;
    let until_ms = match channel {
        Some(channel) => realm.revoke_channel(&subject, channel, now_ms),
        None => realm.revoke(&subject, now_ms),
    };
    let (user, connection) = match subject {
        Subject::User(user) => (Some(user), None),
        Subject::Connection(id) => (None, Some(id)),
    };
    let channel = channel.map(str::to_owned);
    let revocation = KeptRevocation { user, connection, channel, until_ms };
    peers.keep_revocation(&revocation, state.config().resume.ttl_s.saturating_mul(1000));
    Ok(until_ms)
}

/// Applies a revocation that another node has kept.
pub(in crate::control) fn note_revocation(state: &State, revocation: KeptRevocation) {
    let KeptRevocation { user, connection, channel, until_ms } = revocation;
    let subject = match (user, connection) {
        (Some(user), _) => {
            forget_answers(state, &user);
            Subject::User(user)
        }
        (None, Some(id)) => Subject::Connection(id),
        (None, None) => return,
    };
    if let Ok(hub) = state.hub() {
        let until_ms = until_ms.min(State::unix_ms() + CLOCK_AHEAD_MAX_MS);
        hub.realm.note_revocation(&subject, channel.as_deref(), until_ms);
    }
}

/// Has applications asked about a user the next time.
fn forget_answers(state: &State, user: &str) {
    if let Some(hooks) = state.0.directory.hooks() {
        // Fails only when the process is ending.
        let _ = hooks.send(HookOrder::ForgetUser { user: user.into() });
    }
}

/// Sends the connections of a user on this node new tickets, for theirs were revoked.
async fn renew_tickets(state: &State, user: &str) -> Result<Value, ApiError> {
    forget_answers(state, user);
    let target = ConnectionTarget::User(user.into());
    let renewed = connections::apply(state, target, Act::RenewTicket).await?;
    Ok(json!({"renewed": renewed.count}))
}

/// Lists connections node by node, in the order of their numbers.
async fn list_connections_of(
    state: &State,
    query: connections::ListQuery,
) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else { return connections::list_here(state, query).await };
    let limit = connections::check_limit(query.limit)? as usize;
    let (first, mut after) = parse_cursor(query.after.as_deref())?;
    let (mut found, mut unanswered, mut next) = (Vec::new(), 0, None);
    for node in peers.all_present().into_iter().filter(|node| *node >= first) {
        if node > first {
            after = None;
        }
        let left = limit.saturating_sub(found.len()) as u32;
        if left == 0 {
            next = Some(format!("{node}:"));
            break;
        }
        let part =
            connections::ListQuery { limit: Some(left), after: after.clone(), ..query.clone() };
        let answer = if node == peers.node() {
            connections::list_here(state, part).await?
        } else {
            let call = PeerCall::ListConnections(encode_body(&part));
            match peers.call(Some(node), call).await.answers.pop() {
                Some((_, Ok(answer))) => answer,
                Some((_, Err(error))) if error.status < 500 => return Err(error.into()),
                _ => {
                    unanswered += 1;
                    continue;
                }
            }
        };
        found.extend(answer["connections"].as_array().cloned().unwrap_or_default());
        if let Some(more) = answer["next"].as_str() {
            next = Some(format!("{node}:{more}"));
            break;
        }
    }
    let mut answer = with_unanswered(json!({"connections": found}), unanswered);
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(answer)
}

/// Parses a cursor: a node, and the node's own cursor.
fn parse_cursor(text: Option<&str>) -> Result<(u32, Option<String>), ApiError> {
    let Some(text) = text else { return Ok((0, None)) };
    let parts = text.split_once(':').and_then(|(node, rest)| Some((node.parse().ok()?, rest)));
    let (node, rest) = parts
        .ok_or_else(|| ApiError::bad_request("invalid `after`; use `next` of an earlier answer"))?;
    Ok((node, (!rest.is_empty()).then(|| rest.to_owned())))
}

async fn describe(state: &State, id: &str) -> Result<Value, ApiError> {
    let node = connections::parse_connection_id(id)?.node;
    match state.peers() {
        Some(peers) if node != peers.node() && peers.is_present(node) => {
            let call = PeerCall::DescribeConnection(id.to_owned());
            let (_, answer) =
                peers.call(Some(node), call).await.answers.pop().ok_or_else(|| {
                    ApiError::unavailable("the connection's node does not answer; retry later")
                })?;
            Ok(answer?)
        }
        _ => connections::describe_here(state, id).await,
    }
}

/// Lists channels of all nodes by name, and adds up their members.
pub(super) async fn list_channels_of(
    state: &State,
    query: channels::ListQuery,
) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else { return channels::list_here(state, query).await };
    let limit = query.limit.unwrap_or(PAGE) as usize;
    let call = PeerCall::ListChannels(encode_body(&query));
    let (own, others) = tokio::join!(channels::list_here(state, query), peers.call(None, call));
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    // A node lists its first names only: what follows the last name of a full page is not complete.
    let mut complete_to: Option<String> = None;
    let mut unanswered = others.unanswered;
    let (answers, failed): (Vec<_>, Vec<_>) =
        others.answers.into_iter().map(|(_, answer)| answer).partition(Result::is_ok);
    unanswered += failed.len();
    let answers = answers.into_iter().filter_map(Result::ok);
    for answer in std::iter::once(own?).chain(answers) {
        for (name, about) in answer["channels"].as_object().into_iter().flatten() {
            *all.entry(name.clone()).or_default() += about["members"].as_u64().unwrap_or_default();
        }
        if let Some(next) = answer["next"].as_str() {
            let next = next.to_owned();
            complete_to = Some(complete_to.map_or(next.clone(), |before| before.min(next)));
        }
    }
    if let Some(last) = &complete_to {
        all.retain(|name, _| name <= last);
    }
    let is_cut = complete_to.is_some() || all.len() > limit;
    let page: Vec<_> = all.into_iter().take(limit).collect();
    let next = page.last().filter(|_| is_cut).map(|(name, _)| name.clone());
    let page = page.into_iter().map(|(name, members)| (name, json!({"members": members})));
    let page: serde_json::Map<String, Value> = page.collect();
    let mut answer = with_unanswered(json!({"channels": page}), unanswered);
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(answer)
}

/// Describes a channel, with the members of all nodes.
pub(super) async fn describe_channel_of(state: &State, channel: &str) -> Result<Value, ApiError> {
    let Some(peers) = state.peers() else { return channels::describe_here(state, channel).await };
    let call = PeerCall::DescribeChannel(channel.to_owned());
    let here = channels::describe_here(state, channel);
    let (own, others) = tokio::join!(here, peers.call(None, call));
    let answers = others.answers.into_iter().map(|(_, answer)| answer.map_err(ApiError::from));
    let mut result = own;
    for answer in answers {
        result = match (result, answer) {
            (Ok(mut whole), Ok(part)) => {
                let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
                whole["members"] = (number(&whole, "members") + number(&part, "members")).into();
                // Each node knows the users of all.
                whole["users"] = number(&whole, "users").max(number(&part, "users")).into();
                Ok(whole)
            }
            (Err(_), Ok(part)) => Ok(part),
            (result, Err(_)) => result,
        };
    }
    result.map(|answer| with_unanswered(answer, others.unanswered))
}

/// `GET /v1/nodes`.
pub(super) async fn list_nodes(
    Extracted(state): Extracted<State>,
) -> Result<Json<Value>, ApiError> {
    state.hub()?;
    Ok(Json(match state.peers() {
        Some(peers) => json!({"nodes": *peers.nodes()}),
        None => json!({"nodes": []}),
    }))
}

/// `POST /v1/send`.
pub(super) async fn post_send(
    Extracted(state): Extracted<State>,
    Body(body): Body<Send>,
) -> Result<Json<Value>, ApiError> {
    send(&state, body).await.map(Json)
}

/// `POST /v1/disconnect`.
pub(super) async fn post_disconnect(
    Extracted(state): Extracted<State>,
    Body(body): Body<Disconnect>,
) -> Result<Json<Value>, ApiError> {
    disconnect(&state, body).await.map(Json)
}

/// `POST /v1/subscribe`.
pub(super) async fn post_subscribe(
    Extracted(state): Extracted<State>,
    Body(body): Body<Membership>,
) -> Result<Json<Value>, ApiError> {
    subscribe(&state, body).await.map(Json)
}

/// `POST /v1/unsubscribe`.
pub(super) async fn post_unsubscribe(
    Extracted(state): Extracted<State>,
    Body(body): Body<Membership>,
) -> Result<Json<Value>, ApiError> {
    unsubscribe(&state, body).await.map(Json)
}

/// `GET /v1/connections`.
pub(super) async fn list_connections(
    Extracted(state): Extracted<State>,
    Asked(query): Asked<connections::ListQuery>,
) -> Result<Json<Value>, ApiError> {
    list_connections_of(&state, query).await.map(Json)
}

/// `GET /v1/connections/{id}`.
pub(super) async fn describe_connection(
    Extracted(state): Extracted<State>,
    Named(id): Named,
) -> Result<Json<Value>, ApiError> {
    describe(&state, &id).await.map(Json)
}

/// `GET /v1/channels`.
pub(super) async fn list_channels(
    Extracted(state): Extracted<State>,
    Asked(query): Asked<channels::ListQuery>,
) -> Result<Json<Value>, ApiError> {
    list_channels_of(&state, query).await.map(Json)
}

/// `GET /v1/channels/{channel}`.
pub(super) async fn describe_channel(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
) -> Result<Json<Value>, ApiError> {
    describe_channel_of(&state, &channel).await.map(Json)
}

/// Carries out a call of another node.
pub(in crate::control) async fn answer_peer(
    state: State,
    call: PeerCall,
) -> Result<Value, PeerError> {
    let result = run_here(&state, call).await;
    result.map_err(|ApiError { status, code, message }| PeerError {
        status: status.as_u16(),
        code: code.to_owned(),
        message,
    })
}

async fn run_here(state: &State, call: PeerCall) -> Result<Value, ApiError> {
    match call {
        PeerCall::Send(body) => connections::send_here(state, decode_body(&body)?).await,
        PeerCall::Disconnect(body) => {
            connections::disconnect_here(state, decode_body(&body)?).await
        }
        PeerCall::Subscribe(body) => connections::subscribe_here(state, decode_body(&body)?).await,
        PeerCall::Unsubscribe(body) => {
            connections::unsubscribe_here(state, decode_body(&body)?).await
        }
        PeerCall::ListConnections(body) => connections::list_here(state, decode_body(&body)?).await,
        PeerCall::ListChannels(body) => channels::list_here(state, decode_body(&body)?).await,
        PeerCall::DescribeConnection(id) => connections::describe_here(state, &id).await,
        PeerCall::DescribeChannel(name) => channels::describe_here(state, &name).await,
        PeerCall::RenewTickets { user, until_ms } => {
            let (connection, channel) = (None, None);
            let user_of = Some(user.clone());
            let revocation = KeptRevocation { user: user_of, connection, channel, until_ms };
            note_revocation(state, revocation);
            renew_tickets(state, &user).await
        }
        PeerCall::Replaced { old, by } => replace(state, &old, &by),
    }
}

/// Closes a connection of this node that was resumed on another.
fn replace(state: &State, old: &str, by: &str) -> Result<Value, ApiError> {
    let [old, by] = [old, by].map(connections::parse_connection_id);
    let (old, by): (ConnectionId, ConnectionId) = (old?, by?);
    let directory = &state.0.directory;
    if old.node == state.hub()?.realm.node && usize::from(old.shard) < directory.len() {
        let mail = HubMail::Replaced { old, by, user: None };
        directory.post(old.shard, Mail::Hub(Box::new(mail)));
    }
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_and_an_error_counts_alone() {
        let answered = |answers: Vec<Result<Value, PeerError>>| Answered {
            answers: answers.into_iter().map(|answer| (1, answer)).collect(),
            unanswered: 1,
        };
        let failed = || PeerError { status: 403, code: "forbidden".into(), message: "no".into() };
        let some = || json!({"delivered": 2});
        let others = answered(vec![Ok(some()), Err(failed())]);
        let total = add_counts("delivered", Ok(some()), others).unwrap();
        assert_eq!(total, json!({"delivered": 4, "unanswered": 1}));
        let none = || Ok(json!({"delivered": 0}));
        let error = add_counts("delivered", none(), answered(vec![Err(failed())])).unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (403, "forbidden"));
    }

    #[test]
    fn a_cursor_names_its_node() {
        assert_eq!(parse_cursor(None).unwrap(), (0, None));
        assert_eq!(parse_cursor(Some("7:1.20")).unwrap(), (7, Some("1.20".into())));
        assert_eq!(parse_cursor(Some("7:")).unwrap(), (7, None));
        assert!(parse_cursor(Some("1.20")).is_err());
    }
}

//! Calls on channels: list, describe, read members and history, remove history.

use axum::Json;
use axum::extract::State as Extracted;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    ApiError, Asked, Named, State, ask_home, await_answer, json_response, parse_channel_name,
    shapes, unexpected_answer,
};
use crate::hub::{Answer, Epoch, Position, Since, Verb};
use crate::session::hub::NO_PRESENCE;
use crate::shard::mail::HubMail;
use crate::shard::mail::Mail;

/// The maximum number of channels per page.
const PAGE_MAX: u32 = 1000;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    pub(super) prefix: Option<String>,
    pub(super) limit: Option<u32>,
    pub(super) after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PresenceQuery {
    limit: Option<u32>,
    after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    limit: Option<u32>,
    epoch: Option<String>,
    offset: Option<u64>,
    reverse: Option<bool>,
}

fn page_limit(limit: Option<u32>, most: u32) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(most.min(100));
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::bad_request(format!("limit must be from 1 to {most}, not {limit}")))
}

/// Lists channels with members on this node, and those that it has in use.
pub(super) async fn list_here(state: &State, query: ListQuery) -> Result<Value, ApiError> {
    state.hub()?;
    let limit = page_limit(query.limit, PAGE_MAX)?;
    let directory = &state.0.directory;
    let mut replies = Vec::new();
    for shard in 0..directory.len() as u16 {
        let (reply, received) = oneshot::channel();
        let prefix = query.prefix.clone().unwrap_or_default().into();
        let after = query.after.clone().map(Into::into);
        let mail = HubMail::Channels { prefix, after, limit: limit + 1, reply };
        directory.post(shard, Mail::Hub(Box::new(mail)));
        replies.push(received);
    }
    let mut names = Vec::new();
    for reply in replies {
        // A shard that has ended sends no reply, and has no channels.
        names.extend(reply.await.unwrap_or_default().names);
    }
    names.sort_unstable();
    let more = names.len() > limit as usize;
    names.truncate(limit as usize);
    let next = names.last().filter(|_| more).map(|(name, _)| name.to_string());
    let channels: serde_json::Map<String, Value> = names
        .iter()
        .map(|(name, members)| (name.to_string(), json!({"members": members})))
        .collect();
    let mut answer = json!({"channels": channels});
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(answer)
}

fn position_json(position: Position) -> Value {
    json!({"epoch": position.epoch.to_string(), "offset": position.offset})
}

/// Describes a channel, with its members on this node.
pub(super) async fn describe_here(state: &State, channel: &str) -> Result<Value, ApiError> {
    let pending = ask_home(state, parse_channel_name(channel)?, Verb::Describe)?;
    match await_answer(pending).await? {
        Answer::Described { position, members, users } => {
            let mut answer = position_json(position);
            answer["channel"] = channel.into();
            answer["members"] = members.into();
            answer["users"] = users.into();
            Ok(answer)
        }
        other => Err(unexpected_answer(&other)),
    }
}

/// `GET /v1/channels/{channel}/presence`.
pub(super) async fn list_members(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
    Asked(query): Asked<PresenceQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, state.config().hub.presence_page_max)?;
    let channel = parse_channel_name(&channel)?;
    let namespaces = &state.hub()?.realm.namespaces;
    if !namespaces.find_or_granted(channel.as_str()).presence {
        return Err(ApiError::not_found(NO_PRESENCE));
    }
    let after = query.after.map(Into::into);
    let pending = ask_home(&state, channel, Verb::Presence { after, limit })?;
    match await_answer(pending).await? {
        Answer::Presence(page) => Ok(json_response(shapes::presence(&page))),
        other => Err(unexpected_answer(&other)),
    }
}

/// `GET /v1/channels/{channel}/history`.
pub(super) async fn read_history(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, state.config().hub.history_page_max)?;
    let since = match (query.epoch, query.offset) {
        (Some(epoch), Some(offset)) => Some(Since { epoch: Epoch::parse(&epoch), offset }),
        (None, None) => None,
        _ => {
            return Err(ApiError::bad_request(
                "epoch and offset must be given together, or neither of them",
            ));
        }
    };
    let reverse = query.reverse.unwrap_or(false);
    let verb = Verb::History { since, limit, reverse };
    let pending = ask_home(&state, parse_channel_name(&channel)?, verb)?;
    match await_answer(pending).await? {
        Answer::History { position, messages } => {
            Ok(json_response(shapes::history(position, &messages)))
        }
        other => Err(unexpected_answer(&other)),
    }
}

/// `DELETE /v1/channels/{channel}/history`.
pub(super) async fn trim_history(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
) -> Result<Json<Value>, ApiError> {
    match await_answer(ask_home(&state, parse_channel_name(&channel)?, Verb::Trim)?).await? {
        Answer::Trimmed { position } => Ok(Json(position_json(position))),
        other => Err(unexpected_answer(&other)),
    }
}

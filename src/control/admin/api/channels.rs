//! Channels: listed, looked at, their history read and removed.

use axum::Json;
use axum::extract::State as Extracted;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{ApiError, Asked, Named, State, answer, ask, channel_name, reply, shapes, unexpected};
use crate::hub::{Answer, Epoch, Position, Since, Verb};
use crate::session::hub::NO_PRESENCE;
use crate::shard::mail::HubMail;
use crate::shard::mail::Mail;

/// Channels of one page.
const PAGE_MAX: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    prefix: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
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
    Err(ApiError::bad(format!("limit must be from 1 to {most}, not {limit}")))
}

/// `GET /v1/channels`.
pub(super) async fn list(
    Extracted(state): Extracted<State>,
    Asked(query): Asked<ListQuery>,
) -> Result<Json<Value>, ApiError> {
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
        // A shard that has ended has no channels.
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
    Ok(Json(answer))
}

fn place(position: Position) -> Value {
    json!({"epoch": position.epoch.to_string(), "offset": position.offset})
}

/// `GET /v1/channels/{channel}`.
pub(super) async fn one(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
) -> Result<Json<Value>, ApiError> {
    let pending = ask(&state, channel_name(&channel)?, Verb::Describe)?;
    match answer(pending).await? {
        Answer::Described { position, members, users } => {
            let mut answer = place(position);
            answer["channel"] = channel.into();
            answer["members"] = members.into();
            answer["users"] = users.into();
            Ok(Json(answer))
        }
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/channels/{channel}/presence`.
pub(super) async fn presence(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
    Asked(query): Asked<PresenceQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, state.config().hub.presence_page_max)?;
    let channel = channel_name(&channel)?;
    let namespaces = &state.hub()?.realm.namespaces;
    if !namespaces.find(channel.as_str()).unwrap_or(namespaces.granted()).presence {
        return Err(ApiError::not_found(NO_PRESENCE));
    }
    let after = query.after.map(Into::into);
    let pending = ask(&state, channel, Verb::Presence { after, limit })?;
    match answer(pending).await? {
        Answer::Presence(page) => Ok(reply(shapes::presence(&page))),
        other => Err(unexpected(&other)),
    }
}

/// `GET /v1/channels/{channel}/history`.
pub(super) async fn history(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
    Asked(query): Asked<HistoryQuery>,
) -> Result<Response, ApiError> {
    let limit = page_limit(query.limit, state.config().hub.history_page_max)?;
    let since = match (query.epoch, query.offset) {
        (Some(epoch), Some(offset)) => Some(Since { epoch: Epoch::parse(&epoch), offset }),
        (None, None) => None,
        _ => return Err(ApiError::bad("epoch and offset belong together: give both, or none")),
    };
    let reverse = query.reverse.unwrap_or(false);
    let verb = Verb::History { since, limit, reverse };
    let pending = ask(&state, channel_name(&channel)?, verb)?;
    match answer(pending).await? {
        Answer::History { position, messages } => Ok(reply(shapes::history(position, &messages))),
        other => Err(unexpected(&other)),
    }
}

/// `DELETE /v1/channels/{channel}/history`.
pub(super) async fn trim(
    Extracted(state): Extracted<State>,
    Named(channel): Named,
) -> Result<Json<Value>, ApiError> {
    match answer(ask(&state, channel_name(&channel)?, Verb::Trim)?).await? {
        Answer::Trimmed { position } => Ok(Json(place(position))),
        other => Err(unexpected(&other)),
    }
}

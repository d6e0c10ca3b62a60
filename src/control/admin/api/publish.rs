//! Calls that publish: to one channel, to several, or as part of a batch.

use axum::extract::State as Extracted;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::guard::Caller;
use super::object::Object;
use super::{
    ApiError, Body, Pending, State, ask_home, await_answer, connections, parse_channel_name,
    to_one_line, unexpected_answer,
};
use crate::hub::{Answer, Draft, KeyScope, Verb};

/// Commands of a batch, and channels of a broadcast, at most.
const COMMANDS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    channel: String,
    content: Box<RawValue>,
    key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast {
    channels: Vec<String>,
    content: Box<RawValue>,
    key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchBody {
    commands: Vec<Command>,
}

/// A command of a batch: an object with one field, whose name is the type.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Publish(Object<Publish>),
    Broadcast(Object<Broadcast>),
    Send(Object<connections::Send>),
    Disconnect(Object<connections::Disconnect>),
    Subscribe(Object<connections::Membership>),
    Unsubscribe(Object<connections::Membership>),
}

/// The namespace of idempotency keys: each API key has one, so that backends choose keys
/// independently.
fn key_owner(caller: &Caller) -> Box<str> {
    match &caller.0 {
        Some(name) => format!("api:{name}").into(),
        None => "api".into(),
    }
}

/// Checks a publish, and sends it to the channel's home.
fn begin_publish(
    state: &State,
    caller: &Caller,
    channel: &str,
    content: &RawValue,
    key: Option<&str>,
) -> Result<Pending, ApiError> {
    let channel = parse_channel_name(channel)?;
    let text = to_one_line(content)?;
    let key = key.map(|key| KeyScope::new(key_owner(caller), key)).transpose();
    let key = key.map_err(|refused| ApiError::bad_request(refused.message))?;
    let realm = &state.hub()?.realm;
    let most = realm.namespaces.find_or_granted(channel.as_str()).message_bytes_max as usize;
    if text.len() > most {
        let status = axum::http::StatusCode::PAYLOAD_TOO_LARGE;
        let message =
            format!("content of {} bytes exceeds the channel's limit of {most}", text.len());
        return Err(ApiError::new(status, "too_large", message));
    }
    let draft = Draft {
        storing: realm.protocols.storing(),
        content: text,
        from: None,
        exclude: None,
        time_ms: State::unix_ms(),
        accepted_ns: state.clock_ns(),
    };
    ask_home(state, channel, Verb::Publish { draft: Box::new(draft), key: key.map(Box::new) })
}

/// Waits for a publish, and returns its position.
async fn end_publish(pending: Pending) -> Result<Value, ApiError> {
    match await_answer(pending).await? {
        Answer::Published { position, duplicate } => {
            let mut answer =
                json!({"epoch": position.epoch.to_string(), "offset": position.offset});
            if duplicate {
                answer["duplicate"] = true.into();
            }
            Ok(answer)
        }
        other => Err(unexpected_answer(&other)),
    }
}

/// `POST /v1/publish`.
pub(super) async fn publish(
    Extracted(state): Extracted<State>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<Publish>,
) -> Result<Json<Value>, ApiError> {
    let pending =
        begin_publish(&state, &caller, &body.channel, &body.content, body.key.as_deref())?;
    end_publish(pending).await.map(Json)
}

/// The JSON of one result among several.
fn outcome_json(result: Result<Value, ApiError>) -> Value {
    result.unwrap_or_else(|error| json!({"error": {"code": error.code, "message": error.message}}))
}

fn begin_all(
    state: &State,
    caller: &Caller,
    body: &Broadcast,
) -> Result<Vec<Result<Pending, ApiError>>, ApiError> {
    check_count(body.channels.len(), "channels")?;
    let begin = |channel: &String| {
        begin_publish(state, caller, channel, &body.content, body.key.as_deref())
    };
    Ok(body.channels.iter().map(begin).collect())
}

async fn end_all(pending: Vec<Result<Pending, ApiError>>) -> Vec<Value> {
    let mut results = Vec::with_capacity(pending.len());
    for one in pending {
        results.push(outcome_json(match one {
            Ok(pending) => end_publish(pending).await,
            Err(error) => Err(error),
        }));
    }
    results
}

fn check_count(count: usize, what: &str) -> Result<(), ApiError> {
    if (1..=COMMANDS_MAX).contains(&count) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("{what} must have 1 to {COMMANDS_MAX} entries, not {count}")))
}

/// `POST /v1/broadcast`.
pub(super) async fn broadcast(
    Extracted(state): Extracted<State>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<Broadcast>,
) -> Result<Json<Value>, ApiError> {
    let pending = begin_all(&state, &caller, &body)?;
    Ok(Json(json!({"results": end_all(pending).await})))
}

/// A started command of a batch: all publishes are sent to their homes before any is awaited.
enum Begun {
    Publish(Result<Pending, ApiError>),
    Broadcast(Result<Vec<Result<Pending, ApiError>>, ApiError>),
    Done(Result<Value, ApiError>),
}

/// `POST /v1/batch`.
pub(super) async fn run_batch(
    Extracted(state): Extracted<State>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<BatchBody>,
) -> Result<Json<Value>, ApiError> {
    check_count(body.commands.len(), "commands")?;
    let mut begun = Vec::with_capacity(body.commands.len());
    for command in body.commands {
        begun.push(match command {
            Command::Publish(Object(one)) => Begun::Publish(begin_publish(
                &state,
                &caller,
                &one.channel,
                &one.content,
                one.key.as_deref(),
            )),
            Command::Broadcast(Object(one)) => Begun::Broadcast(begin_all(&state, &caller, &one)),
            Command::Send(Object(one)) => Begun::Done(connections::do_send(&state, one).await),
            Command::Disconnect(Object(one)) => {
                Begun::Done(connections::do_disconnect(&state, one).await)
            }
            Command::Subscribe(Object(one)) => {
                Begun::Done(connections::do_subscribe(&state, one).await)
            }
            Command::Unsubscribe(Object(one)) => {
                Begun::Done(connections::do_unsubscribe(&state, one).await)
            }
        });
    }
    let mut results = Vec::with_capacity(begun.len());
    for one in begun {
        results.push(match one {
            Begun::Publish(Ok(pending)) => outcome_json(end_publish(pending).await),
            Begun::Broadcast(Ok(pending)) => json!({"results": end_all(pending).await}),
            Begun::Publish(Err(error)) | Begun::Broadcast(Err(error)) => outcome_json(Err(error)),
            Begun::Done(result) => outcome_json(result),
        });
    }
    Ok(Json(json!({"results": results})))
}

//! Calls that publish: to one channel, to several, or as part of a batch.

use axum::Extension;
use axum::extract::State as Extracted;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::guard::Caller;
use super::gather::{AnswerPlace, Gained, Gathered};
use super::object::Object;
use super::{
    ApiError, Body, State, accept_answer, ask_home, await_answer, check_memory, connections,
    everywhere, json_response, no_hub, parse_channel_name, to_one_line, unexpected_answer,
};
use crate::hub::{Answer, ChannelName, Draft, KeyScope, Retention, Verb};
use crate::session::hub::retention_of;
use crate::shard::mail::HubShared;

/// The maximum number of commands of a batch, and of channels of a broadcast.
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

/// When a call publishes: Unix time (ms), and the shards' clock (ns).
#[derive(Clone, Copy)]
struct Now {
    time_ms: u64,
    accepted_ns: u64,
}

/// A valid publish, with its channel and the channel's retention.
type Checked = (ChannelName, Retention, Verb);

/// Validates a publish.
fn check_publish(
    (state, hub): (&State, Result<&HubShared, ApiError>),
    caller: &Caller,
    now: Now,
    channel: &str,
    content: &RawValue,
    key: Option<&str>,
) -> Result<Checked, ApiError> {
    let channel = parse_channel_name(channel)?;
    let text = to_one_line(content)?;
    let key = key.map(|key| KeyScope::new(key_owner(caller), key)).transpose();
    let key = key.map_err(|refused| ApiError::bad_request(refused.message))?;
    let realm = &hub?.realm;
    let namespace = realm.namespaces.find_or_granted(channel.as_str());
    let most = namespace.message_bytes_max as usize;
    if text.len() > most {
        let status = axum::http::StatusCode::PAYLOAD_TOO_LARGE;
        let message =
            format!("content of {} bytes exceeds the channel's limit of {most}", text.len());
        return Err(ApiError::new(status, "too_large", message));
    }
    check_memory(state)?;
    let draft = Draft {
        storing: realm.protocols.storing(),
        content: text,
        from: None,
        exclude: None,
        time_ms: now.time_ms,
        accepted_ns: now.accepted_ns,
    };
    let verb = Verb::Publish { draft: Box::new(draft), key: key.map(Box::new) };
    Ok((channel, retention_of(namespace), verb))
}

fn now(state: &State) -> Now {
    Now { time_ms: State::unix_ms(), accepted_ns: state.clock_ns() }
}

/// Appends the result of a publish as JSON.
fn push_position(answer: &Answer, json: &mut String) -> Result<(), ApiError> {
    let Answer::Published { position, duplicate } = answer else {
        return Err(unexpected_answer(answer));
    };
    json.push('{');
    if *duplicate {
        json.push_str(r#""duplicate":true,"#);
    }
    json.push_str(r#""epoch":""#);
    json.push_str(&position.epoch.to_string());
    json.push_str(r#"","offset":"#);
    json.push_str(itoa::Buffer::new().format(position.offset));
    json.push('}');
    Ok(())
}

/// `POST /v1/publish`.
pub(super) async fn publish(
    Extracted(state): Extracted<State>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<Publish>,
) -> Result<Response, ApiError> {
    let Publish { channel, content, key } = &body;
    let (now, key) = (now(&state), key.as_deref());
    let hub = state.hub();
    let shared = hub.as_deref().map_err(|_| no_hub());
    let (channel, _, verb) = check_publish((&state, shared), &caller, now, channel, content, key)?;
    let answer = await_answer(ask_home(&state, channel, verb)?).await?;
    let mut json = String::new();
    push_position(&answer, &mut json)?;
    Ok(json_response(json))
}

/// Appends one result among several.
fn push_outcome(json: &mut String, result: Result<Value, ApiError>) {
    let outcome = result
        .unwrap_or_else(|error| json!({"error": {"code": error.code, "message": error.message}}));
    json.push_str(&outcome.to_string());
}

/// The publishes of a call, each with the place of its reply.
type Begun = Vec<Result<AnswerPlace, ApiError>>;

/// Appends the results of publishes.
fn push_results(json: &mut String, begun: Begun, gained: &mut Gained) {
    json.push_str(r#"{"results":["#);
    for (at, place) in begun.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        push_result(json, place, gained);
    }
    json.push_str("]}");
}

fn push_result(json: &mut String, place: Result<AnswerPlace, ApiError>, gained: &mut Gained) {
    let answer = place.and_then(|place| accept_answer(gained.take(&place)));
    if let Err(error) = answer.and_then(|answer| push_position(&answer, json)) {
        push_outcome(json, Err(error));
    }
}

fn begin_all(
    gathered: &mut Gathered<'_>,
    state: &State,
    caller: &Caller,
    now: Now,
    body: &Broadcast,
) -> Result<Begun, ApiError> {
    check_count(body.channels.len(), "channels")?;
    let begin = |channel: &String| {
        let key = body.key.as_deref();
        let world = (state, gathered.hub());
        let checked = check_publish(world, caller, now, channel, &body.content, key)?;
        gathered.ask(checked.0, checked.1, checked.2)
    };
    Ok(body.channels.iter().map(begin).collect())
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
) -> Result<Response, ApiError> {
    let mut gathered = Gathered::new(&state);
    let begun = begin_all(&mut gathered, &state, &caller, now(&state), &body)?;
    let mut gained = gathered.finish().await;
    let mut json = String::new();
    push_results(&mut json, begun, &mut gained);
    Ok(json_response(json))
}

/// A started command of a batch: replies to publishes are awaited after all have been sent.
enum Started {
    Publish(Result<AnswerPlace, ApiError>),
    Broadcast(Result<Begun, ApiError>),
    Done(Result<Value, ApiError>),
}

/// Starts a command, and waits for it unless it publishes. Publishes gathered before it are sent
/// first, so that they take effect before it.
async fn start(
    gathered: &mut Gathered<'_>,
    (state, caller): (&State, &Caller),
    now: Now,
    command: Command,
) -> Started {
    if let Command::Publish(Object(Publish { channel, content, key })) = &command {
        let world = (state, gathered.hub());
        let checked = check_publish(world, caller, now, channel, content, key.as_deref());
        let ask = |(channel, retention, verb)| gathered.ask(channel, retention, verb);
        return Started::Publish(checked.and_then(ask));
    }
    if let Command::Broadcast(Object(one)) = &command {
        return Started::Broadcast(begin_all(gathered, state, caller, now, one));
    }
    gathered.send();
    Started::Done(match command {
        Command::Send(Object(one)) => everywhere::send(state, one).await,
        Command::Disconnect(Object(one)) => everywhere::disconnect(state, one).await,
        Command::Subscribe(Object(one)) => everywhere::subscribe(state, one).await,
        Command::Unsubscribe(Object(one)) => everywhere::unsubscribe(state, one).await,
        Command::Publish(_) | Command::Broadcast(_) => unreachable!("they were started above"),
    })
}

/// Runs one command of an application, as JSON; returns its result as JSON.
pub(in crate::control::admin) async fn run_command(
    state: &State,
    caller: &Caller,
    body: &[u8],
) -> String {
    let mut json = String::new();
    let command = match serde_json::from_slice(body) {
        Ok(command) => command,
        Err(error) => {
            let message = format!("invalid command: {error}; send one as in POST /v1/batch");
            push_outcome(&mut json, Err(ApiError::bad_request(message)));
            return json;
        }
    };
    let mut gathered = Gathered::new(state);
    let started = start(&mut gathered, (state, caller), now(state), command).await;
    let mut gained = gathered.finish().await;
    push_started(&mut json, started, &mut gained);
    json
}

/// Appends the result of a command.
fn push_started(json: &mut String, started: Started, gained: &mut Gained) {
    match started {
        Started::Publish(place) => push_result(json, place, gained),
        Started::Broadcast(Ok(begun)) => push_results(json, begun, gained),
        Started::Broadcast(Err(error)) => push_outcome(json, Err(error)),
        Started::Done(result) => push_outcome(json, result),
    }
}

/// `POST /v1/batch`.
pub(super) async fn run_batch(
    Extracted(state): Extracted<State>,
    Extension(caller): Extension<Caller>,
    Body(body): Body<BatchBody>,
) -> Result<Response, ApiError> {
    check_count(body.commands.len(), "commands")?;
    let mut gathered = Gathered::new(&state);
    let mut started = Vec::with_capacity(body.commands.len());
    let mut now_is = now(&state);
    for command in body.commands {
        let one = start(&mut gathered, (&state, &caller), now_is, command).await;
        if matches!(one, Started::Done(_)) {
            // The command may have waited, so the time and the configuration may have changed.
            now_is = now(&state);
            gathered.refresh();
        }
        started.push(one);
    }
    let mut gained = gathered.finish().await;
    let mut json = String::from(r#"{"results":["#);
    for (at, one) in started.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        push_started(&mut json, one, &mut gained);
    }
    json.push_str("]}");
    Ok(json_response(json))
}

//! Calls that publish events.

use axum::extract::State as Extracted;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::super::gather::{AnswerPlace, Gathered};
use super::super::{ApiError, State, accept_answer, check_memory, json_response};
use super::channels::{Attributes, describe_attributes};
use super::signed::Signed;
use crate::auth::{EVENT_BATCH_MAX, PusherApp};
use crate::hub::{ChannelName, ConnectionId, Draft, Verb};
use crate::session::hub::retention_of;
use crate::session::pusher::{
    AppChannel, EVENT_NAME_CHARS_MAX, is_reserved, make_content, parse_socket_id,
};

/// Channels of an event.
const CHANNELS_MAX: usize = 100;

#[derive(Deserialize)]
struct EventBody {
    name: String,
    #[serde(deserialize_with = "read_data")]
    data: String,
    #[serde(default)]
    channels: Vec<String>,
    channel: Option<String>,
    socket_id: Option<String>,
    info: Option<String>,
}

#[derive(Deserialize)]
struct BatchBody {
    batch: Vec<EventBody>,
}

/// Reads data, which is a string; other JSON, as some libraries send it, counts as its text.
fn read_data<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}

fn read_body<T: serde::de::DeserializeOwned>(signed: &Signed) -> Result<T, ApiError> {
    serde_json::from_slice(&signed.body)
        .map_err(|error| ApiError::bad_request(format!("invalid body: {error}")))
}

/// A valid event.
struct CheckedEvent {
    content: Box<str>,
    channels: Vec<String>,
    exclude: Option<ConnectionId>,
    attributes: Attributes,
}

fn check_event(app: &PusherApp, event: EventBody) -> Result<CheckedEvent, ApiError> {
    let EventBody { name, data, mut channels, channel, socket_id, info } = event;
    if name.is_empty() || name.chars().count() > EVENT_NAME_CHARS_MAX {
        let message = format!("name must have 1 to {EVENT_NAME_CHARS_MAX} characters");
        return Err(ApiError::bad_request(message));
    }
    if is_reserved(&name) {
        let message = "names that begin with pusher: or pusher_internal: are the server's own";
        return Err(ApiError::bad_request(message));
    }
    let most = app.options.event_bytes_max as usize;
    if data.len() > most {
        let message = format!(
            "The data content of this event exceeds the allowed maximum ({most} bytes); send less, \
             or raise event_bytes_max of the [[app]]"
        );
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    }
    channels.extend(channel);
    let attributes = Attributes::parse(info.as_deref().unwrap_or_default())?;
    if channels.is_empty() || channels.len() > CHANNELS_MAX {
        let message = format!("an event needs 1 to {CHANNELS_MAX} channels");
        return Err(ApiError::bad_request(message));
    }
    for channel in &channels {
        let invalid = |text: &str| ApiError::bad_request(format!("channel {channel:?}: {text}"));
        let channel = AppChannel::parse(channel).map_err(invalid)?;
        attributes.check(&channel)?;
    }
    let exclude = socket_id.map(|id| {
        parse_socket_id(&id).ok_or_else(|| ApiError::bad_request("socket_id is not one"))
    });
    Ok(CheckedEvent {
        content: make_content(&name, &data),
        channels,
        exclude: exclude.transpose()?,
        attributes,
    })
}

/// Begins the publishes of an event, one for each of its channels.
fn begin(
    state: &State,
    gathered: &mut Gathered<'_>,
    app: &PusherApp,
    event: &CheckedEvent,
) -> Result<Vec<AnswerPlace>, ApiError> {
    check_memory(state)?;
    let realm = &state.hub()?.realm;
    let (time_ms, accepted_ns) = (State::unix_ms(), state.clock_ns());
    let mut places = Vec::with_capacity(event.channels.len());
    for channel in &event.channels {
        let channel = AppChannel::parse(channel).map_err(ApiError::bad_request)?;
        let name = channel.hub_name(app);
        let name = name.ok_or_else(|| ApiError::bad_request("the user's id is too long"))?;
        let retention = retention_of(realm.namespaces.find_or_granted(&name));
        let draft = Draft {
            storing: realm.protocols.storing(),
            content: event.content.clone(),
            from: None,
            exclude: event.exclude,
            time_ms,
            accepted_ns,
        };
        let verb = Verb::Publish { draft: Box::new(draft), key: None };
        places.push(gathered.ask(ChannelName::new(&name), retention, verb)?);
    }
    Ok(places)
}

/// Publishes events; all of them are checked before the first.
async fn publish_all(
    state: &State,
    app: &PusherApp,
    events: &[CheckedEvent],
) -> Result<(), ApiError> {
    let mut gathered = Gathered::new(state);
    let mut places = Vec::new();
    for event in events {
        places.extend(begin(state, &mut gathered, app, event)?);
    }
    let mut gained = gathered.finish().await;
    for place in places {
        accept_answer(gained.take(&place))?;
    }
    Ok(())
}

/// `POST /apps/{id}/events`.
pub(super) async fn publish(
    Extracted(state): Extracted<State>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let event = check_event(&signed.app, read_body(&signed)?)?;
    publish_all(&state, &signed.app, std::slice::from_ref(&event)).await?;
    if event.attributes.is_empty() {
        return Ok(json_response("{}".into()));
    }
    let mut channels = Map::new();
    for channel in &event.channels {
        let described = describe_attributes(&state, &signed.app, channel, event.attributes).await?;
        channels.insert(channel.clone(), described.into());
    }
    Ok(json_response(json!({"channels": channels}).to_string()))
}

/// `POST /apps/{id}/batch_events`.
pub(super) async fn publish_batch(
    Extracted(state): Extracted<State>,
    signed: Signed,
) -> Result<Response, ApiError> {
    let BatchBody { batch } = read_body(&signed)?;
    if batch.is_empty() || batch.len() > EVENT_BATCH_MAX {
        return Err(ApiError::bad_request(format!("a batch has 1 to {EVENT_BATCH_MAX} events")));
    }
    let check = |event| check_event(&signed.app, event);
    let events = batch.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
    publish_all(&state, &signed.app, &events).await?;
    if events.iter().all(|event| event.attributes.is_empty()) {
        return Ok(json_response("{}".into()));
    }
    let mut described = Vec::with_capacity(events.len());
    for event in &events {
        let channel = event.channels.first().map_or("", String::as_str);
        let one = describe_attributes(&state, &signed.app, channel, event.attributes).await?;
        described.push(one);
    }
    Ok(json_response(json!({"batch": described}).to_string()))
}

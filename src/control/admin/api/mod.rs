//! The API for backends: publish, look at channels and connections, act on connections.
//!
//! Calls become mail to shards: to a channel's home, or to all that may have the connections
//! meant. An answer comes when it is done: a publish is answered after it is in the log. While a
//! home's mailbox is full its calls are refused with 503, so that a fast backend cannot fill the
//! server's memory.

mod channels;
mod connections;
mod memory;
mod object;
mod openapi;
mod publish;
mod shapes;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use self::object::Object;
use super::{State, call, refuse};
use crate::admission::Shortage;
use crate::auth;
use crate::hub::{self, Answer, ApiReply, ChannelName, Code, Origin, Verb};
use crate::session::hub::retention;
use crate::shard::mail::HubMail;
use crate::shard::mail::Mail;
use crate::text::content::{self, CheckedJson};

/// The longest body of a call (bytes).
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
/// Long bodies that are held at once come to so many KiB; further ones wait.
pub(super) const BODIES_KIB_MAX: usize = 128 << 10;
/// Bodies up to this length do not count among those, so that long ones hold up no short one.
const SHORT_BODY_BYTES_MAX: usize = 64 << 10;
/// How long a body may take to arrive, its wait for others included.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// All calls.
pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/v1/publish", call(post(publish::publish)))
        .route("/v1/broadcast", call(post(publish::broadcast)))
        .route("/v1/batch", call(post(publish::batch)))
        .route("/v1/send", call(post(connections::send)))
        .route("/v1/disconnect", call(post(connections::disconnect)))
        .route("/v1/subscribe", call(post(connections::subscribe)))
        .route("/v1/unsubscribe", call(post(connections::unsubscribe)))
        .route("/v1/connections", call(get(connections::list)))
        .route("/v1/connections/{id}", call(get(connections::one)))
        .route("/v1/channels", call(get(channels::list)))
        .route("/v1/channels/{channel}", call(get(channels::one)))
        .route("/v1/channels/{channel}/presence", call(get(channels::presence)))
        .route("/v1/channels/{channel}/history", call(get(channels::history)))
        .route("/v1/channels/{channel}/history", call(delete(channels::trim)))
        .route("/v1/memory", call(get(memory::memory)))
        .route("/v1/openapi.json", call(get(openapi::document)))
}

/// A call that was refused.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl ApiError {
    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl From<hub::Refused> for ApiError {
    fn from(refused: hub::Refused) -> Self {
        let status = match refused.code {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::Unauthorized | Code::Expired => StatusCode::UNAUTHORIZED,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::CONFLICT,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Limit | Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, code: refused.code.as_str(), message: refused.message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        refuse(self.status, self.code, &self.message)
    }
}

/// There are no channels here.
pub(super) fn no_hub() -> ApiError {
    ApiError::not_found("no route of this server leads to the hub: add one with handler = \"hub\"")
}

/// A body that was read and checked.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<State> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let length = request.headers().get("content-length").and_then(|text| text.to_str().ok());
        let length = length.and_then(|text| text.parse::<usize>().ok());
        // A body in chunks may have any length up to the bound.
        let bytes_max = length.unwrap_or(BODY_BYTES_MAX);
        if bytes_max > BODY_BYTES_MAX {
            return Err(body_too_long());
        }
        let read = async {
            let mut share = None;
            if bytes_max > SHORT_BODY_BYTES_MAX {
                let kib = bytes_max.div_ceil(1024) as u32;
                share = state.0.bodies.acquire_many(kib).await.ok();
            }
            let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
            let body = match serde_json::from_slice(&bytes) {
                Ok(Object(value)) => Ok(Self(value)),
                Err(error) => Err(ApiError::bad(format!("the body: {error}"))),
            };
            drop(share);
            body
        };
        tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
            let seconds = BODY_TIMEOUT.as_secs();
            let message = format!("the body did not arrive within {seconds} s: send it faster");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        })
    }
}

fn body_too_long() -> ApiError {
    let message = format!("a body has {BODY_BYTES_MAX} bytes at most: send several calls");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

fn unreadable(rejection: BytesRejection) -> ApiError {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            body_too_long()
        }
        other => ApiError::bad(format!(
            "the body cannot be read, check its framing: {}",
            other.body_text()
        )),
    }
}

/// Parameters of a query that were read and checked.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad(format!("the query: {error}"))),
        }
    }
}

/// Checks a channel's name.
pub(super) fn channel_name(name: &str) -> Result<ChannelName, ApiError> {
    auth::check_channel(name).map_err(ApiError::bad)?;
    Ok(ChannelName::new(name))
}

/// A content as it is stored.
fn one_line(content: &RawValue) -> Result<Box<str>, ApiError> {
    let bad = |fault: content::Fault| ApiError::bad(format!("content {}", fault.text()));
    CheckedJson::new(content).map(CheckedJson::into_text).map_err(bad)
}

/// A reply put together from JSON texts: what applications wrote is in it byte for byte.
fn reply(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// The part of a path that names something.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(ApiError::bad(format!("the path: {}", error.body_text()))),
        }
    }
}

/// A home's answer that is on its way.
pub(super) type Pending = oneshot::Receiver<Answer>;

/// Asks a channel's home.
pub(super) fn ask(state: &State, channel: ChannelName, verb: Verb) -> Result<Pending, ApiError> {
    let directory = &state.0.directory;
    let shared = state.hub()?;
    if matches!(verb, Verb::Publish { .. }) && directory.admission().shortage() == Shortage::Work {
        return Err(ApiError::unavailable("server is short of memory: try again later"));
    }
    let home = shared.home_of(channel.as_str(), directory.len());
    if directory.mail_bytes(home) > state.config().engine.mailbox_bytes_max as usize {
        return Err(ApiError::unavailable(
            "the channel's shard has more mail than it can work through: slow down, and try again",
        ));
    }
    let namespaces = &shared.realm.namespaces;
    let namespace = namespaces.find(channel.as_str()).unwrap_or(namespaces.granted());
    let (sender, receiver) = oneshot::channel();
    let reply = ApiReply(Box::new(move |answer| {
        // Nobody waits any more if this fails.
        let _ = sender.send(answer);
    }));
    let from = Origin::Api(reply);
    let request = hub::Request { from, channel, retention: retention(namespace), verb };
    directory.post(home, Mail::Hub(Box::new(HubMail::Ask(request))));
    Ok(receiver)
}

/// Waits for a home's answer.
pub(super) async fn answer(pending: Pending) -> Result<Answer, ApiError> {
    match pending.await {
        Ok(Answer::Refused(refused)) => Err(refused.into()),
        Ok(answer) => Ok(answer),
        Err(_) => Err(ApiError::unavailable("the channel's shard has ended: the server drains")),
    }
}

/// Answers that a call does not have.
pub(super) fn unexpected(answer: &Answer) -> ApiError {
    tracing::error!(?answer, "a home gave an answer that was not asked for");
    let message = "internal error, which is logged".to_owned();
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_does_not_answer_makes_a_call_unavailable() {
        let error = ApiError::from(hub::Refused::unavailable(Some(5)));
        assert_eq!((error.status.as_u16(), error.code), (503, "unavailable"));
    }
}

//! The API for backends: publishes, and reads and changes channels and connections.
//!
//! Calls become mail to a channel's home, or to all shards that may have the target connections. A
//! call is answered when its work is done: a publish, after it is in the log. While a home's
//! mailbox is full, its calls are rejected with 503, so that a fast backend cannot exhaust the
//! server's memory.

pub(super) mod app;
mod channels;
mod connections;
pub(in crate::control) mod everywhere;
mod gather;
mod link;
mod memory;
mod object;
mod openapi;
mod publish;
mod shapes;

pub(super) use publish::run_command;

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
use super::{State, error_response, json_call};
use crate::admission::Shortage;
use crate::auth;
use crate::hub::{self, Answer, ApiReply, ChannelName, Code, Origin, Verb};
use crate::session::hub::retention_of;
use crate::shard::mail::{Directory, HubMail, Mail};
use crate::text::content::{self, CheckedJson};

/// The maximum size of a call's body (bytes).
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
/// Total of long bodies in memory (KiB); further calls wait.
pub(super) const BODIES_KIB_MAX: usize = 128 << 10;
/// Bodies up to this length are not counted, so that long ones never delay short ones.
const SHORT_BODY_BYTES_MAX: usize = 64 << 10;
/// Limit for receiving a body, including its wait for others.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Routes of all calls.
pub(super) fn call_routes() -> Router<State> {
    Router::new()
        .route("/v1/publish", json_call(post(publish::publish)))
        .route("/v1/broadcast", json_call(post(publish::broadcast)))
        .route("/v1/batch", json_call(post(publish::run_batch)))
        .route("/v1/send", json_call(post(everywhere::post_send)))
        .route("/v1/disconnect", json_call(post(everywhere::post_disconnect)))
        .route("/v1/subscribe", json_call(post(everywhere::post_subscribe)))
        .route("/v1/unsubscribe", json_call(post(everywhere::post_unsubscribe)))
        .route("/v1/connections", json_call(get(everywhere::list_connections)))
        .route("/v1/connections/{id}", json_call(get(everywhere::describe_connection)))
        .route("/v1/channels", json_call(get(everywhere::list_channels)))
        .route("/v1/channels/{channel}", json_call(get(everywhere::describe_channel)))
        .route("/v1/channels/{channel}/presence", json_call(get(channels::list_members)))
        .route("/v1/channels/{channel}/history", json_call(get(channels::read_history)))
        .route("/v1/channels/{channel}/history", json_call(delete(channels::trim_history)))
        .route("/v1/nodes", json_call(get(everywhere::list_nodes)))
        .route("/v1/link", json_call(get(link::open_link)))
        .route("/v1/memory", json_call(get(memory::report_memory)))
        .route("/v1/openapi.json", json_call(get(openapi::get_document)))
}

/// A rejected call: its status, code and message.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl ApiError {
    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// Replaces the code by a known one of this text.
    fn with_code(self, code: &str) -> Self {
        let known = Code::ALL.into_iter().map(Code::as_str).find(|known| *known == code);
        Self { code: known.unwrap_or(self.code), ..self }
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
        error_response(self.status, self.code, &self.message)
    }
}

/// The error of calls on channels where no route has them.
pub(super) fn no_hub() -> ApiError {
    ApiError::not_found("no route uses the hub; add one with handler = \"hub\"")
}

/// A parsed body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<State> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &State) -> Result<Self, ApiError> {
        let length = request.headers().get("content-length").and_then(|text| text.to_str().ok());
        let length = length.and_then(|text| text.parse::<usize>().ok());
        // A chunked body may have any length up to the limit.
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
            let bytes = Bytes::from_request(request, state).await.map_err(unreadable_body)?;
            let body = match serde_json::from_slice(&bytes) {
                Ok(Object(value)) => Ok(Self(value)),
                Err(error) => Err(ApiError::bad_request(format!("invalid body: {error}"))),
            };
            drop(share);
            body
        };
        tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
            let seconds = BODY_TIMEOUT.as_secs();
            let message = format!("request body not received within {seconds} s");
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        })
    }
}

fn body_too_long() -> ApiError {
    let message =
        format!("body exceeds the limit of {BODY_BYTES_MAX} bytes; split it into several calls");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

fn unreadable_body(rejection: BytesRejection) -> ApiError {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            body_too_long()
        }
        other => ApiError::bad_request(format!("cannot read the body: {}", other.body_text())),
    }
}

/// Parsed query parameters.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad_request(format!("invalid query: {error}"))),
        }
    }
}

/// Validates a channel's name.
pub(super) fn parse_channel_name(name: &str) -> Result<ChannelName, ApiError> {
    auth::check_channel(name).map_err(ApiError::bad_request)?;
    Ok(ChannelName::new(name))
}

/// Checks a content, and returns it in its stored form: on one line.
fn to_one_line(content: &RawValue) -> Result<Box<str>, ApiError> {
    let bad = |fault: content::Fault| ApiError::bad_request(format!("content {}", fault.text()));
    CheckedJson::new(content).map(CheckedJson::into_text).map_err(bad)
}

/// Creates a response of JSON text, which contains application data byte for byte.
fn json_response(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// A decoded name in the path.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => {
                Err(ApiError::bad_request(format!("invalid path: {}", error.body_text())))
            }
        }
    }
}

/// A home's pending reply.
pub(super) type Pending = oneshot::Receiver<Answer>;

/// Rejects work while memory is short.
fn check_memory(state: &State) -> Result<(), ApiError> {
    if state.0.directory.admission().shortage() == Shortage::Work {
        return Err(ApiError::unavailable("server is low on memory; retry later"));
    }
    Ok(())
}

/// Rejects a request to a home whose mailbox is full, counting `more_bytes` of the same call.
fn check_mailbox(
    directory: &Directory,
    home: u16,
    more_bytes: usize,
    bytes_max: usize,
) -> Result<(), ApiError> {
    if directory.mail_bytes(home) + more_bytes > bytes_max {
        return Err(ApiError::unavailable("the channel's shard is overloaded; back off and retry"));
    }
    Ok(())
}

/// Sends a request to a channel's home.
pub(super) fn ask_home(
    state: &State,
    channel: ChannelName,
    verb: Verb,
) -> Result<Pending, ApiError> {
    let directory = &state.0.directory;
    let shared = state.hub()?;
    let home = shared.home_of(channel.as_str(), directory.len());
    check_mailbox(directory, home, 0, state.config().engine.mailbox_bytes_max as usize)?;
    let namespaces = &shared.realm.namespaces;
    let namespace = namespaces.find_or_granted(channel.as_str());
    let (sender, receiver) = oneshot::channel();
    let reply = ApiReply(Box::new(move |answer| {
        // The caller may have disconnected.
        let _ = sender.send(answer);
    }));
    let from = Origin::Api(reply);
    let request = hub::Request { from, channel, retention: retention_of(namespace), verb };
    directory.post(home, Mail::Hub(Box::new(HubMail::Ask(request))));
    Ok(receiver)
}

/// Waits for a home's reply; a rejection becomes an error.
pub(super) async fn await_answer(pending: Pending) -> Result<Answer, ApiError> {
    accept_answer(pending.await.ok())
}

/// Converts a rejection to an error, and also a reply that cannot come any more.
fn accept_answer(answer: Option<Answer>) -> Result<Answer, ApiError> {
    match answer {
        Some(Answer::Refused(refused)) => Err(refused.into()),
        Some(answer) => Ok(answer),
        None => Err(ApiError::unavailable("the channel's shard has ended; the server is draining")),
    }
}

/// Logs a reply of the wrong type, which is a bug in Seawall, and converts it to an error.
pub(super) fn unexpected_answer(answer: &Answer) -> ApiError {
    tracing::error!(?answer, "unexpected reply type from the channel's home");
    let message = "internal error; see the log".to_owned();
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

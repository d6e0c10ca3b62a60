//! What becomes of a request, as data: everything that an encoder needs, in no wire format.

use super::pages::PageForm;
use super::{Compression, Refusal};
use std::borrow::Cow;
use std::sync::Arc;

/// Bytes of a `Sec-WebSocket-Key`: 16 in base64.
pub const KEY_BYTES: usize = 24;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'c> {
    /// The connection becomes a WebSocket: send the 101, and frames follow.
    Upgrade(Upgrade<'c>),
    /// It becomes one if that is decided elsewhere, later: nothing may be sent until then.
    Pending(Upgrade<'c>),
    /// Its body follows, and it is answered elsewhere.
    Forward(ForwardTerms),
    /// It is answered: send the answer, then let the connection linger and close.
    Answer(Response<'c>),
}

/// How a request is received that is answered elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardTerms {
    /// The bytes of its body.
    pub body_bytes: usize,
    /// The client waits for a 100 before it sends the body (RFC 9110 10.1.1).
    pub expects_continue: bool,
}

/// What an upgrade has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade<'c> {
    /// The index of the route in the list given to [`super::Routes::new`].
    pub route: usize,
    /// The client's key, which the 101 proves to have been read.
    pub key: [u8; KEY_BYTES],
    /// The subprotocol chosen among the client's.
    pub subprotocol: Option<Cow<'c, str>>,
    /// Whether and how messages are compressed.
    pub compression: Compression,
}

impl Upgrade<'_> {
    /// The same, to be kept beyond the request and the configuration.
    pub fn into_owned(self) -> Upgrade<'static> {
        let Self { route, key, subprotocol, compression } = self;
        let subprotocol = subprotocol.map(|name| Cow::Owned(name.into_owned()));
        Upgrade { route, key, subprotocol, compression }
    }
}

/// An answer that is no upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'c> {
    /// What it says.
    pub content: Content<'c>,
    /// The methods of the resource, for the `Allow` of a 405.
    pub allow: &'static str,
    /// The `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// Whether the request was HEAD, whose answer has no body (RFC 9110 9.3.2).
    pub head_only: bool,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'c> {
    /// Why the request is rejected, and what to do.
    Error { refusal: Refusal, message: Cow<'c, str> },
    /// The state of the server, in JSON.
    Health { status: u16, body: &'static str },
    /// The request is to be sent to this URL, in the same form (RFC 9110 15.4.9).
    Redirect { location: String },
    /// What an authority is shown that verifies the server's name (RFC 8555 section 8.3).
    Challenge(Arc<str>),
    /// A page, or that the client has it already.
    Page(PageForm<'c>),
}

impl<'c> Response<'c> {
    pub(super) fn new(content: Content<'c>) -> Self {
        Self { content, allow: "GET", retry_after_s: None, head_only: false }
    }

    /// A rejection; `message` says what was wrong and what to do.
    pub fn error(refusal: Refusal, message: impl Into<Cow<'c, str>>) -> Self {
        Self::new(Content::Error { refusal, message: message.into() })
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match &self.content {
            Content::Error { refusal, .. } => refusal.status(),
            Content::Health { status, .. } => *status,
            Content::Redirect { .. } => 308,
            Content::Challenge(_) => 200,
            Content::Page(form) => form.status(),
        }
    }

    /// Why the request is rejected; `None` for an ordinary answer.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.content {
            Content::Error { refusal, .. } => Some(refusal),
            Content::Health { .. }
            | Content::Redirect { .. }
            | Content::Challenge(_)
            | Content::Page(_) => None,
        }
    }

    /// The body, which is sent unless the request was HEAD, and its type.
    pub fn body(&self) -> (Cow<'c, [u8]>, &'c str) {
        const JSON: &str = "application/json";
        match &self.content {
            Content::Error { refusal, message } => {
                let error = serde_json::json!({"code": refusal.code(), "message": message});
                let body = serde_json::json!({"error": error}).to_string();
                (Cow::Owned(body.into_bytes()), JSON)
            }
            Content::Health { body, .. } => (Cow::Borrowed(body.as_bytes()), JSON),
            Content::Challenge(text) => {
                (Cow::Owned(text.as_bytes().to_vec()), "application/octet-stream")
            }
            Content::Redirect { location } => {
                let body = serde_json::json!({"location": location}).to_string();
                (Cow::Owned(body.into_bytes()), JSON)
            }
            Content::Page(form) => (Cow::Borrowed(form.bytes()), form.page.content_type),
        }
    }
}

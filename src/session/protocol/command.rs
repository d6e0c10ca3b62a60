//! What clients ask for, as data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use serde::Deserialize;

use crate::hub::{Refused, Since};
use crate::text::content::CheckedJson;

/// The longest [`ClientRequest::id`] (bytes), its quotes included: sessions keep ids of requests
/// that homes have not answered.
pub const REQUEST_ID_BYTES_MAX: usize = 66;

/// A string that is borrowed from the frame where it has no escapes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Text<'f>(#[serde(borrow)] pub Cow<'f, str>);

impl<'f> From<&'f str> for Text<'f> {
    fn from(text: &'f str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// Where a client wants to continue in a channel.
#[derive(Clone, Debug)]
pub struct ResumePoint<'f> {
    pub since: Since,
    /// The grant that came with the subscription.
    pub grant: Option<Text<'f>>,
    /// Whether the client wants joins and leaves.
    pub presence: bool,
}

/// A command of a client.
#[derive(Debug)]
pub enum Command<'f> {
    Auth { token: Text<'f> },
    Subscribe { channel: Text<'f>, since: Option<Since>, presence: bool, token: Option<Text<'f>> },
    Unsubscribe { channel: Text<'f> },
    Publish { channel: Text<'f>, content: CheckedJson<'f>, key: Option<Text<'f>>, echo: bool },
    Presence { channel: Text<'f>, limit: Option<u32>, after: Option<Text<'f>> },
    History { channel: Text<'f>, limit: Option<u32>, since: Option<Since>, reverse: bool },
    Resume { ticket: Text<'f>, positions: BTreeMap<Text<'f>, ResumePoint<'f>> },
    Ping,
}

/// One request of a client.
#[derive(Debug)]
pub struct ClientRequest<'f> {
    /// The client's name for it, which the reply carries; opaque outside the protocol, and at most
    /// [`REQUEST_ID_BYTES_MAX`] long.
    pub id: Option<&'f str>,
    /// What is wanted.
    ///
    /// # Errors
    /// The request cannot be read; the client receives this as an error.
    pub command: Result<Command<'f>, Refused>,
}

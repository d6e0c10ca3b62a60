//! The requests of clients, as data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use serde::Deserialize;

use crate::hub::{Refused, Since};
use crate::text::content::CheckedJson;

/// The longest [`ClientRequest::id`] (bytes), including its quotes. Bounded because a session keeps
/// the id of each request until the channel's home has replied.
pub const REQUEST_ID_BYTES_MAX: usize = 66;

/// A string, borrowed from the frame unless it contains escapes.
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

/// The position from which a client resumes a channel.
#[derive(Clone, Debug)]
pub struct ResumePoint<'f> {
    pub since: Since,
    /// The grant that the client received with the subscription.
    pub grant: Option<Text<'f>>,
    /// Whether the client subscribes to joins and leaves as well.
    pub presence: bool,
}

/// A command of a client.
#[derive(Debug)]
pub enum Command<'f> {
    Auth {
        token: Text<'f>,
    },
    Subscribe {
        channel: Text<'f>,
        since: Option<Since>,
        presence: bool,
        token: Option<Text<'f>>,
    },
    Unsubscribe {
        channel: Text<'f>,
    },
    Publish {
        channel: Text<'f>,
        content: CheckedJson<'f>,
        key: Option<Text<'f>>,
        echo: bool,
    },
    /// A call of a method of the application behind the route.
    Call {
        method: Text<'f>,
        content: Option<CheckedJson<'f>>,
    },
    Presence {
        channel: Text<'f>,
        limit: Option<u32>,
        after: Option<Text<'f>>,
    },
    History {
        channel: Text<'f>,
        limit: Option<u32>,
        since: Option<Since>,
        reverse: bool,
    },
    Resume {
        ticket: Text<'f>,
        positions: BTreeMap<Text<'f>, ResumePoint<'f>>,
    },
    Ping,
    /// A command of a client of an app; see `session::pusher`.
    App(AppCommand),
}

/// The commands of clients whose rights the backend of an app signs. Channels have the names that
/// the app's clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppCommand {
    Subscribe {
        channel: String,
        /// The app's key and the signature.
        auth: Option<String>,
        /// The member of a presence channel, as the backend has signed it.
        channel_data: Option<String>,
    },
    Unsubscribe {
        channel: String,
    },
    SignIn {
        auth: String,
        user_data: String,
    },
    /// Sends an event to the other members of a channel.
    Send {
        channel: String,
        content: Box<str>,
    },
    /// The reply to a ping of the server.
    Pong,
}

impl AppCommand {
    /// Returns the channel that the command is for, if it is for one.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Self::Subscribe { channel, .. }
            | Self::Unsubscribe { channel }
            | Self::Send { channel, .. } => Some(channel),
            Self::SignIn { .. } | Self::Pong => None,
        }
    }
}

impl Command<'_> {
    /// Returns the channel that the command is for, if it is for one of the hub.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Self::Subscribe { channel, .. }
            | Self::Unsubscribe { channel }
            | Self::Publish { channel, .. }
            | Self::Presence { channel, .. }
            | Self::History { channel, .. } => Some(channel),
            Self::Auth { .. }
            | Self::Call { .. }
            | Self::Resume { .. }
            | Self::Ping
            | Self::App(_) => None,
        }
    }
}

/// One request of a client.
#[derive(Debug)]
pub struct ClientRequest<'f> {
    /// The client's id for the request, repeated in the reply. Sessions do not interpret it. At
    /// most [`REQUEST_ID_BYTES_MAX`] long.
    pub id: Option<&'f str>,
    /// The command.
    ///
    /// # Errors
    /// The request is malformed; the client receives the reason as an error reply.
    pub command: Result<Command<'f>, Refused>,
}

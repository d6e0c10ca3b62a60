//! Questions to an application, as data.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::OnFailure;
use crate::driver::Token;
use crate::hub::{ChannelName, ConnectionId};

/// What a hook asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookKind {
    Connect,
    Subscribe,
    Publish,
    Call,
}

impl HookKind {
    /// All kinds, as metrics list them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Subscribe, Self::Publish, Self::Call];

    /// Returns its name in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Call => "call",
        }
    }
}

/// Where the outcome of a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookTicket {
    pub shard: u16,
    /// The connection.
    pub token: Token,
    /// The connection's number for the question; 0 for `connect`.
    pub request: u32,
}

/// The client that a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub connection: ConnectionId,
    pub user: Option<Arc<str>>,
    /// Public info about the user: JSON on one line.
    pub info: Option<Arc<str>>,
}

/// An upgrade to decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectQuestion {
    /// The request's target: path, and query if there is one.
    pub target: Box<str>,
    /// The client's address, if it is known.
    pub address: Option<IpAddr>,
    /// The request's headers that the application may see, in order. Names are in lowercase.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookQuestion {
    Connect(ConnectQuestion),
    /// May this client subscribe to the channel?
    Subscribe {
        asker: Asker,
        channel: ChannelName,
    },
    /// May this client publish this?
    Publish {
        asker: Asker,
        channel: ChannelName,
        /// JSON on one line.
        content: Box<str>,
        key: Option<Box<str>>,
        on_failure: OnFailure,
    },
    /// A call of one of the application's methods.
    Call {
        asker: Asker,
        method: Box<str>,
        /// JSON on one line.
        content: Box<str>,
    },
}

impl HookQuestion {
    pub fn kind(&self) -> HookKind {
        match self {
            Self::Connect(_) => HookKind::Connect,
            Self::Subscribe { .. } => HookKind::Subscribe,
            Self::Publish { .. } => HookKind::Publish,
            Self::Call { .. } => HookKind::Call,
        }
    }

    /// Returns the memory that the question takes (bytes).
    pub fn bytes(&self) -> usize {
        let own = match self {
            Self::Connect(ConnectQuestion { target, headers, .. }) => {
                let headers = headers.iter().map(|(name, value)| name.len() + value.len());
                target.len() + headers.sum::<usize>()
            }
            Self::Subscribe { channel, .. } => channel.as_str().len(),
            Self::Publish { channel, content, key, .. } => {
                let key = key.as_ref().map_or(0, |key| key.len());
                channel.as_str().len() + content.len() + key
            }
            Self::Call { method, content, .. } => method.len() + content.len(),
        };
        size_of::<Self>() + own
    }
}

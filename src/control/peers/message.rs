//! Messages between nodes, as JSON. Unknown fields are ignored, and messages that cannot be read
//! are logged, so that nodes of adjacent releases may run side by side.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// A message, and the node that sent it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Message {
    pub(super) from: u32,
    pub(super) letter: Letter,
}

/// The content of a message.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Letter {
    Call {
        id: u64,
        call: PeerCall,
    },
    /// A call without an answer.
    Notice {
        call: PeerCall,
    },
    Answer {
        id: u64,
        answer: PeerAnswer,
    },
    /// The node ends.
    Departure {
        incarnation: String,
    },
}

/// A call to another node: mostly a call of the API, as it was received.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerCall {
    Send(Box<RawValue>),
    Disconnect(Box<RawValue>),
    Subscribe(Box<RawValue>),
    Unsubscribe(Box<RawValue>),
    ListConnections(Box<RawValue>),
    ListChannels(Box<RawValue>),
    DescribeConnection(String),
    DescribeChannel(String),
    /// Voids the tickets of a user that were issued up to a time (Unix, ms), and sends the user's
    /// connections new ones.
    RenewTickets {
        user: String,
        until_ms: u64,
    },
    /// Closes a connection that another one has resumed on another node.
    Replaced {
        old: String,
        by: String,
    },
}

/// A revocation that is kept in the engine: whatever was issued until then is void, of a user or a
/// connection, or of its grants for a channel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct KeptRevocation {
    pub(crate) user: Option<String>,
    pub(crate) connection: Option<String>,
    pub(crate) channel: Option<String>,
    /// Unix time (ms).
    pub(crate) until_ms: u64,
}

/// An error of a call to another node.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PeerError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The answer to a call.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PeerAnswer {
    Done(Value),
    Failed(PeerError),
}

impl From<Result<Value, PeerError>> for PeerAnswer {
    fn from(result: Result<Value, PeerError>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Failed(error),
        }
    }
}

impl From<PeerAnswer> for Result<Value, PeerError> {
    fn from(answer: PeerAnswer) -> Self {
        match answer {
            PeerAnswer::Done(value) => Ok(value),
            PeerAnswer::Failed(error) => Err(error),
        }
    }
}

//! Events that members of a channel receive, as data. Client protocols encode them.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::ChannelName;
use super::connection_id::ConnectionId;
use super::position::Position;
use super::presence::MemberInfo;
use crate::proto::ws::DataKind;

/// The maximum number of encodings of a publication: one for each client protocol of the process,
/// and that of members behind links.
pub const PROTOCOLS_MAX: usize = 4;

/// Identifies a client protocol of the process. Publications cache one encoding for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolId(u8);

impl ProtocolId {
    /// The protocol in whose encoding messages are stored.
    pub const STORED: Self = Self(0);
    /// The encoding for members behind links; no client chooses it.
    pub const CONTENT: Self = Self(PROTOCOLS_MAX as u8 - 1);

    /// Returns the protocol with this index. `None`: the index exceeds the maximum.
    pub fn new(index: usize) -> Option<Self> {
        (index < PROTOCOLS_MAX).then_some(Self(index as u8))
    }

    /// Returns its index, below [`PROTOCOLS_MAX`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The connection that published a message, and its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    pub user: Option<Arc<str>>,
    pub connection: ConnectionId,
}

/// A message of a channel, or one addressed to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMessage<'e> {
    /// `None` for a message addressed to connections.
    pub channel: Option<&'e ChannelName>,
    /// `None` for a message that is not part of a history.
    pub position: Option<Position>,
    /// The offset of its predecessor, if that is not the offset before its own.
    pub prev: Option<u64>,
    /// JSON without raw line breaks.
    pub content: &'e str,
    /// `None` if a backend published it.
    pub from: Option<&'e Sender>,
    /// Unix time (ms).
    pub time_ms: u64,
}

/// Why a member missed messages of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The member reads too slowly.
    Slow,
    /// The member's shard falls behind the channel.
    Lagging,
}

/// Whether the engine that the nodes of a cluster share is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineNotice {
    /// Requests that need it wait, and then fail.
    Away,
    #[default]
    Back,
}

/// An event of a channel, or of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'e> {
    Message(ChannelMessage<'e>),
    /// A member joined.
    Join {
        channel: &'e ChannelName,
        member: &'e MemberInfo,
    },
    /// A member left.
    Leave {
        channel: &'e ChannelName,
        member: &'e MemberInfo,
    },
    /// Joins or leaves were missed: the list of members is to be read again.
    PresenceGap {
        channel: &'e ChannelName,
    },
    /// The member missed messages, up to this position.
    Gap {
        channel: &'e ChannelName,
        position: Position,
        reason: GapReason,
    },
    /// The channel's history was lost; offsets continue from this position in a new epoch.
    Position {
        channel: &'e ChannelName,
        position: Position,
    },
    /// The cluster's engine has gone away, or is back.
    Engine(EngineNotice),
}

/// An event, as the clients of one protocol receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEvent {
    pub kind: DataKind,
    /// The payload of the WebSocket message; UTF-8 for a text message.
    pub payload: Vec<u8>,
    /// The range of the payload that is the unchanged content of a message, if there is one.
    pub content: Option<Range<usize>>,
}

/// Encodes events for the clients of one protocol.
///
/// An encoding must not exceed its content and names by more than a small envelope: queues and
/// histories count the size of the stored encoding, and assume the same for the others.
pub trait EventEncoder: Debug + Send + Sync {
    /// Encodes an event. `None`: the protocol has no such event, and its clients do not get it.
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent>;
}

/// A client protocol and its encoder.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolEncoder {
    pub id: ProtocolId,
    pub encoder: &'static dyn EventEncoder,
}

/// How messages are stored.
#[derive(Clone, Copy, Debug)]
pub struct Storing {
    /// The encoder of the protocol [`ProtocolId::STORED`].
    pub encoder: &'static dyn EventEncoder,
    /// The number of client protocols in the process: each may add an encoding.
    pub protocols: u8,
}

impl Storing {
    /// Creates it for a process with one protocol.
    pub fn with_only(encoder: &'static dyn EventEncoder) -> Self {
        Self { encoder, protocols: 1 }
    }
}

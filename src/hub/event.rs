//! What members of a channel receive, as data. How it looks on the wire is for client protocols.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::ChannelName;
use super::connection_id::ConnectionId;
use super::position::Position;
use super::presence::MemberInfo;
use crate::proto::ws::DataKind;

/// The most client protocols that a process can speak.
pub const PROTOCOLS_MAX: usize = 4;

/// Names a client protocol of the process. Publications cache one encoding for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolId(u8);

impl ProtocolId {
    /// The protocol in whose encoding messages are stored.
    pub const STORED: Self = Self(0);

    /// The protocol with this index. `None`: there can be no such protocol.
    pub fn new(index: usize) -> Option<Self> {
        (index < PROTOCOLS_MAX).then_some(Self(index as u8))
    }

    /// Its index, below [`PROTOCOLS_MAX`].
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

/// A message of a channel, or one that is addressed to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMessage<'e> {
    /// `None` for a message that is addressed to connections.
    pub channel: Option<&'e ChannelName>,
    /// `None` for a message that has no place in a history.
    pub position: Option<Position>,
    /// The offset of its predecessor, where that is not one less.
    pub prev: Option<u64>,
    /// JSON without raw line ends.
    pub content: &'e str,
    /// `None` for what a backend published.
    pub from: Option<&'e Sender>,
    /// Unix time (ms).
    pub time_ms: u64,
}

/// Why messages of a channel did not reach a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The member does not read fast enough.
    Slow,
    /// The member's shard does not keep up with the channel.
    Lagging,
}

/// An event of a channel.
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
    /// The member missed messages, up to this position.
    Gap {
        channel: &'e ChannelName,
        position: Position,
        reason: GapReason,
    },
    /// The channel's history was lost: offsets count from this position in a new epoch.
    Position {
        channel: &'e ChannelName,
        position: Position,
    },
}

/// An event as the clients of one protocol receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEvent {
    pub kind: DataKind,
    /// The WebSocket message; UTF-8 if it is a text.
    pub payload: Vec<u8>,
    /// Where the payload holds the content of a message unchanged, if it does.
    pub content: Option<Range<usize>>,
}

/// Encodes events for the clients of one protocol.
///
/// An encoding is not to be longer than the content and names in it by more than a small envelope:
/// queues and histories count the stored encoding, and the others as if they were as long.
pub trait EventEncoder: Debug + Send + Sync {
    /// Encodes an event. `None`: the protocol has no such event, and its clients do not receive it.
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent>;
}

/// A client protocol, and how it encodes events.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolEncoder {
    pub id: ProtocolId,
    pub encoder: &'static dyn EventEncoder,
}

/// How messages are stored.
#[derive(Clone, Copy, Debug)]
pub struct Storing {
    /// Of the protocol [`ProtocolId::STORED`].
    pub encoder: &'static dyn EventEncoder,
    /// Client protocols of the process: each may add an encoding.
    pub protocols: u8,
}

impl Storing {
    /// For a process that speaks one protocol.
    pub fn with_only(encoder: &'static dyn EventEncoder) -> Self {
        Self { encoder, protocols: 1 }
    }
}

//! Mail about channels and connections between shards, and from the control thread.

use std::sync::Arc;

use crate::driver::TcpInfo;
use crate::hub::{ChannelName, ConnectionId, Out, Position, Publication, Refused, Request, Verb};
use crate::proto::ws::CloseCode;

/// Connections that something reached.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    pub count: u64,
    /// Why it did not reach one of the others.
    pub refused: Option<Refused>,
}

/// Where that goes.
pub type CountReply = tokio::sync::oneshot::Sender<Reached>;

/// Where a connection goes that was looked at; `None`: it is gone.
pub type LookReply = tokio::sync::oneshot::Sender<Option<Box<ConnectionInfo>>>;

/// Which connections.
#[derive(Clone, Debug)]
pub enum ConnectionTarget {
    All,
    User(Arc<str>),
    Connection(ConnectionId),
}

/// Something to be done with connections.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send them this.
    Send(Arc<Publication>),
    /// Close them.
    Disconnect {
        code: CloseCode,
        reason: Arc<str>,
    },
    Subscribe(ChannelName),
    Unsubscribe(ChannelName),
    /// Send them a fresh ticket: theirs was revoked with another connection's of their user.
    RenewTicket,
}

/// A connection, as lists show it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ConnectionInfo {
    pub connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub path: String,
    pub shard: u16,
    /// Unix time (ms).
    pub since: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub messages_received: u32,
    pub messages_sent: u32,
    /// Bytes that wait to be sent.
    pub queue_bytes: u64,
    /// Channel messages dropped because it did not read.
    pub dropped: u32,
    /// Round trip of the last heartbeat (µs), once there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    pub subscriptions: Vec<String>,
    /// What TCP knows, where it was asked, or why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_error: Option<String>,
}

/// Which connections a list wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub user: Option<String>,
    pub address: Option<std::net::IpAddr>,
    /// Slots from here on.
    pub from_slot: u32,
    pub limit: u32,
}

/// Connections of a shard, and where the list continues.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub connections: Vec<ConnectionInfo>,
    pub next_slot: Option<u32>,
}

/// Channels of a shard's home, in the order of their names, with their members.
#[derive(Clone, Debug, Default)]
pub struct Channels {
    pub names: Vec<(ChannelName, u32)>,
}

/// Mail about channels and connections.
#[derive(Debug)]
pub enum HubMail {
    /// To a channel's home.
    Ask(Request),
    /// From a home.
    Out(Out),
    /// Publications for a shard were lost on the way, up to this place.
    Lagging {
        channel: ChannelName,
        position: Position,
    },
    /// Wakes a shard: a channel is no longer congested and its publishers may resume, or the memory
    /// for history is exceeded and the shard may hold more than its share.
    Room,
    /// The connection was continued by another, which may need its place among those of the user.
    Replaced {
        old: ConnectionId,
        by: ConnectionId,
        user: Option<Arc<str>>,
    },
    /// The answer to that: whether the connection has the place of the one that it continued.
    Place {
        id: ConnectionId,
        user: Arc<str>,
        is_passed_on: bool,
    },
    /// Keys were withdrawn, or have arrived: look at all connections again.
    Review,
    Act {
        target: ConnectionTarget,
        act: Act,
        reply: Option<CountReply>,
    },
    List {
        filter: Box<Filter>,
        reply: tokio::sync::oneshot::Sender<Listed>,
    },
    /// One connection in full.
    Look {
        id: ConnectionId,
        reply: LookReply,
    },
    Channels {
        prefix: Box<str>,
        after: Option<Box<str>>,
        limit: u32,
        reply: tokio::sync::oneshot::Sender<Channels>,
    },
}

impl HubMail {
    /// What it costs while it waits (bytes).
    pub(crate) fn bytes(&self) -> usize {
        let own = size_of::<Self>();
        own + match self {
            Self::Ask(Request { verb: Verb::Publish { draft, .. }, .. }) => draft.content.len(),
            Self::Out(Out::Publish(publication)) => publication.bytes(),
            _ => 0,
        }
    }
}

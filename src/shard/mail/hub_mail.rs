//! Mail about channels and connections between shards, and from the control thread.

use std::sync::Arc;

use crate::driver::{TcpInfo, Token};
use crate::hooks::HookOutcome;
use crate::hub::{
    ChannelName, ConnectionId, EngineNotice, Out, Position, Publication, Refused, Request, Verb,
};
use crate::proto::ws::CloseCode;

/// The number of connections that an action reached.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    pub count: u64,
    /// Why it failed for one of the others.
    pub refused: Option<Refused>,
}

/// Receives the number of connections that an action reached.
pub type CountReply = tokio::sync::oneshot::Sender<Reached>;

/// Receives the description of a connection; `None` if it has closed.
pub type LookReply = tokio::sync::oneshot::Sender<Option<Box<ConnectionInfo>>>;

/// The connections that an action applies to.
#[derive(Clone, Debug)]
pub enum ConnectionTarget {
    All,
    User(Arc<str>),
    Connection(ConnectionId),
}

/// An action on connections.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send them a publication.
    Send(Arc<Publication>),
    /// Close them.
    Disconnect {
        code: CloseCode,
        reason: Arc<str>,
    },
    Subscribe(ChannelName),
    Unsubscribe(ChannelName),
    /// Send them a new ticket: theirs was revoked together with that of another connection of the
    /// same user.
    RenewTicket,
    /// Send them the state of the cluster's engine; those that connect later receive it as well.
    NotifyEngine(EngineNotice),
}

/// The description of a connection.
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
    /// Bytes queued to be sent.
    pub queue_bytes: u64,
    /// Channel messages dropped because it did not read.
    pub dropped: u32,
    /// Round trip of the last heartbeat (µs), if one was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    pub subscriptions: Vec<String>,
    /// The state of TCP, if requested, or the error in reading it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_error: Option<String>,
}

/// The filter of a list of connections.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub user: Option<String>,
    pub address: Option<std::net::IpAddr>,
    /// The first slot to list.
    pub from_slot: u32,
    pub limit: u32,
}

/// A page of a shard's connections, and the slot where the next one starts.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub connections: Vec<ConnectionInfo>,
    pub next_slot: Option<u32>,
}

/// Channels of a shard's home, sorted by name, with their numbers of members.
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
    /// A channel's publications for the shard were dropped on the way, up to this position.
    Lagging {
        channel: ChannelName,
        position: Position,
    },
    /// Wakes a shard: a channel is no longer congested and its publishers may resume, or the memory
    /// for history is exceeded and the shard may hold more than its share.
    Room,
    /// A connection was resumed by another, which may take over its count towards the user's limit.
    Replaced {
        old: ConnectionId,
        by: ConnectionId,
        user: Option<Arc<str>>,
    },
    /// The reply to `Replaced`: whether the new connection has taken over the count.
    Place {
        id: ConnectionId,
        user: Arc<str>,
        is_passed_on: bool,
    },
    /// A question of a session has an outcome.
    Decided {
        token: Token,
        request: u32,
        outcome: HookOutcome,
    },
    /// Keys were withdrawn or added: review all connections.
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
    /// Describe one connection in full.
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
    /// Returns the bytes counted for it while it is queued.
    pub(crate) fn bytes(&self) -> usize {
        let own = size_of::<Self>();
        own + match self {
            Self::Ask(Request { verb: Verb::Publish { draft, .. }, .. }) => draft.content.len(),
            Self::Out(Out::Publish(publication)) => publication.bytes(),
            _ => 0,
        }
    }
}

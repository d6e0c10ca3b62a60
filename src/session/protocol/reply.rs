//! What a session answers, as data.

use std::sync::Arc;

use crate::hub::{ConnectionId, Position, PresencePage, ProtocolEncoder, Publication, Refused};
use crate::proto::ws::CloseCode;

/// Limits that a client learns when it connects.
#[derive(Clone, Copy, Debug)]
pub struct WelcomeLimits {
    /// The longest WebSocket message that a client may send.
    pub message_bytes_max: u64,
    /// Subscriptions of a connection.
    pub channels_max: u32,
}

/// Where a channel of a resumption continues.
#[derive(Clone, Debug)]
pub struct ResumedAt {
    pub position: Position,
    /// Whether all missed messages follow.
    pub recovered: bool,
    pub grant: Option<String>,
}

/// What has become of one channel of a resumption.
#[derive(Clone, Debug)]
pub struct ResumedChannel {
    pub channel: Box<str>,
    pub outcome: Result<ResumedAt, Refused>,
}

/// A grant that replaces an earlier one for the same channel.
#[derive(Clone, Debug)]
pub struct FreshGrant {
    pub channel: Box<str>,
    pub grant: String,
}

/// A reply, or something else that a session says to its client. `id` is the client's name for the
/// request that is answered.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'r> {
    /// The first thing that a client receives.
    Welcome {
        connection: ConnectionId,
        ticket: Option<&'r str>,
        heartbeat_s: u32,
        limits: WelcomeLimits,
    },
    Subscribed {
        id: Option<&'r str>,
        channel: &'r str,
        position: Position,
        recovered: bool,
        presence: Option<&'r PresencePage>,
        grant: Option<&'r str>,
    },
    /// `reason`: why a subscription ended that its client has not ended.
    Unsubscribed {
        id: Option<&'r str>,
        channel: &'r str,
        reason: Option<&'r str>,
    },
    Published {
        id: Option<&'r str>,
        channel: &'r str,
        position: Position,
        duplicate: bool,
    },
    Presence {
        id: Option<&'r str>,
        channel: &'r str,
        page: &'r PresencePage,
    },
    History {
        id: Option<&'r str>,
        channel: &'r str,
        position: Position,
        messages: &'r [Arc<Publication>],
        /// The client's protocol, in which messages may be encoded already.
        encoder: ProtocolEncoder,
    },
    Resumed {
        id: Option<&'r str>,
        ticket: Option<&'r str>,
        connection: ConnectionId,
        channels: &'r [ResumedChannel],
    },
    Authenticated {
        id: Option<&'r str>,
        user: Option<&'r str>,
        expires_in_s: Option<u64>,
        ticket: Option<&'r str>,
    },
    /// A fresh ticket, and fresh grants by channel.
    Ticket {
        ticket: &'r str,
        grants: &'r [FreshGrant],
    },
    Pong {
        id: Option<&'r str>,
    },
    Error {
        id: Option<&'r str>,
        refused: &'r Refused,
    },
    /// The last thing before the server closes.
    Goodbye {
        code: CloseCode,
        reason: &'r str,
        retry_after_ms: u32,
    },
}

//! The replies of a session, as data.

use std::sync::Arc;

use crate::hub::{ConnectionId, Position, PresencePage, ProtocolEncoder, Publication, Refused};
use crate::proto::ws::CloseCode;

/// Limits that the welcome states.
#[derive(Clone, Copy, Debug)]
pub struct WelcomeLimits {
    /// The longest WebSocket message that a client may send.
    pub message_bytes_max: u64,
    /// The maximum number of subscriptions of a connection.
    pub channels_max: u32,
}

/// The result of resuming one channel.
#[derive(Clone, Debug)]
pub struct ResumedAt {
    pub position: Position,
    /// Whether all missed messages follow; false if some are not retained any more.
    pub recovered: bool,
    pub grant: Option<String>,
}

/// The outcome of one channel of a `resume`.
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

/// A reply, or a message that a session sends unprompted. `id` is the client's id for the request.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'r> {
    /// The first message on a connection.
    Welcome {
        connection: ConnectionId,
        ticket: Option<&'r str>,
        heartbeat_s: u32,
        limits: WelcomeLimits,
        /// An application has identified the client: it should offer its ticket in the handshake
        /// of its next connection, so that the application is not asked again.
        offers_ticket: bool,
    },
    Subscribed {
        id: Option<&'r str>,
        channel: &'r str,
        position: Position,
        recovered: bool,
        presence: Option<&'r PresencePage>,
        grant: Option<&'r str>,
    },
    /// A subscription failed.
    SubscriptionRefused {
        id: Option<&'r str>,
        channel: &'r str,
        refused: &'r Refused,
    },
    /// A client of an app has signed in, with this data.
    SignedIn {
        user_data: &'r str,
    },
    /// `reason`: set if the server ended the subscription, and not the client.
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
        /// The client's protocol; stored messages may be encoded in it already.
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
    /// A fresh ticket, and fresh grants by channel; sent before the earlier ones expire.
    Ticket {
        ticket: &'r str,
        grants: &'r [FreshGrant],
    },
    Pong {
        id: Option<&'r str>,
    },
    /// The result of a call.
    CallResult {
        id: Option<&'r str>,
        /// JSON on one line.
        content: &'r str,
    },
    /// An error that the application chose: the answer to a call, or the rejection of a request
    /// that it decides on.
    ApplicationError {
        id: Option<&'r str>,
        code: &'r str,
        message: &'r str,
    },
    Error {
        id: Option<&'r str>,
        refused: &'r Refused,
    },
    /// The last message before the server closes the connection.
    Goodbye {
        code: CloseCode,
        reason: &'r str,
        retry_after_ms: u32,
    },
}

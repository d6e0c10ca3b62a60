//! Requests to homes, and their replies.

use std::fmt;
use std::sync::Arc;

use super::ChannelName;
use super::batch_reply::BatchReply;
use super::connection_id::ConnectionId;
use super::key_scope::KeyScope;
use super::log::Retention;
use super::position::{Position, Since};
use super::presence::{MemberInfo, PresencePage};
use super::publication::{Draft, Publication};
use super::refusal::Refused;

/// Receives the reply to a request from outside of the shards.
pub struct ApiReply(pub Box<dyn FnOnce(Answer) + Send>);

impl fmt::Debug for ApiReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiReply")
    }
}

/// The source of a request, which receives the reply.
#[derive(Debug)]
pub enum Origin {
    /// A connection; `request` is its number for the request.
    Session { id: ConnectionId, request: u32 },
    /// A backend.
    Api(ApiReply),
    /// One of several requests of a backend.
    Batch(BatchReply),
}

/// A request about a channel.
#[derive(Debug)]
pub struct Request {
    pub from: Origin,
    pub channel: ChannelName,
    /// The retention of the channel, in case the request opens it.
    pub retention: Retention,
    pub verb: Verb,
}

/// A requested subscription.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The last position that the client has; messages after it are sent. `None`: from now on.
    pub since: Option<Since>,
    /// Whether joins and leaves are requested.
    pub watch: bool,
    /// Set for a restart from `since`: the connection is counted as a member already. The value
    /// states whether it watched before.
    pub restart: Option<bool>,
    /// The member to list; `None` if the channel keeps no presence.
    pub member: Option<Arc<MemberInfo>>,
    /// The connection that it resumes: if that is still a member, this one takes its place.
    pub replaces: Option<ConnectionId>,
    /// The maximum number of members of the channel; 0 = unlimited.
    pub members_max: u32,
}

/// The operation. Large variants are boxed, because requests move through several queues.
#[derive(Debug)]
pub enum Verb {
    Subscribe(Box<Subscribe>),
    /// Ends a subscription that was confirmed.
    Leave {
        watch: bool,
        member: Option<Arc<MemberInfo>>,
    },
    /// Ends the delivery of joins and leaves to a member.
    Unwatch,
    /// Changes how a member is listed.
    Rename {
        old: Arc<MemberInfo>,
        new: Arc<MemberInfo>,
    },
    Publish {
        draft: Box<Draft>,
        key: Option<Box<KeyScope>>,
    },
    Presence {
        after: Option<Box<str>>,
        limit: u32,
    },
    History {
        since: Option<Since>,
        limit: u32,
        reverse: bool,
    },
    /// Removes the history.
    Trim,
    /// Returns the number of members, and the channel's position.
    Describe,
}

/// A new member: it is counted, and is up to date with `position` after receiving `missed`.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub position: Position,
    pub recovered: bool,
    pub missed: Vec<Arc<Publication>>,
    /// Set if the channel keeps presence and the client watches it.
    pub presence: Option<PresencePage>,
    /// As requested. A shard needs these two to undo the subscription.
    pub watch: bool,
    pub member: Option<Arc<MemberInfo>>,
}

/// The reply of a home.
#[derive(Clone, Debug)]
pub enum Answer {
    Subscribed(Box<Subscribed>),
    Published { position: Position, duplicate: bool },
    Presence(Box<PresencePage>),
    History { position: Position, messages: Vec<Arc<Publication>> },
    Trimmed { position: Position },
    Described { position: Position, members: u64, users: u64 },
    Refused(Refused),
}

/// A message of a home to a shard.
#[derive(Debug)]
pub enum Out {
    Answer {
        id: ConnectionId,
        request: u32,
        channel: ChannelName,
        answer: Answer,
    },
    /// A message for all members on the shard.
    Publish(Arc<Publication>),
    /// A join or leave, for the channel's watchers on the shard.
    News(Arc<Publication>),
    /// The history was lost; for all members on the shard.
    EpochChanged {
        channel: ChannelName,
        position: Position,
    },
    /// Messages up to this position were lost on the way; for all members on the shard.
    Gap {
        channel: ChannelName,
        position: Position,
    },
}

// Each publish moves one of each through several queues, so their size matters.
const _: () = assert!(size_of::<Request>() <= 88 && size_of::<Out>() <= 80);

impl Out {
    /// Returns the channel; `None` for a message that is addressed to connections.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Answer { channel, .. }
            | Self::EpochChanged { channel, .. }
            | Self::Gap { channel, .. } => Some(channel),
            Self::Publish(publication) | Self::News(publication) => publication.channel.as_ref(),
        }
    }
}

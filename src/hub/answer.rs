//! Requests to homes, and their answers.

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

/// Where an answer from outside the shards goes.
pub struct ApiReply(pub Box<dyn FnOnce(Answer) + Send>);

impl fmt::Debug for ApiReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiReply")
    }
}

/// Where a request comes from.
#[derive(Debug)]
pub enum Origin {
    /// A connection; `request` is its name for the question.
    Session { id: ConnectionId, request: u32 },
    /// A backend.
    Api(ApiReply),
    /// One of several requests of a backend.
    Batch(BatchReply),
}

/// A question about a channel.
#[derive(Debug)]
pub struct Request {
    pub from: Origin,
    pub channel: ChannelName,
    /// How much of it is kept, should it have to be opened.
    pub retention: Retention,
    pub verb: Verb,
}

/// A subscription that is asked for.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The place up to which the member has everything.
    pub since: Option<Since>,
    /// Wants to hear of joins and leaves.
    pub watch: bool,
    /// It is counted as a member already, having watched or not, and starts again from `since`.
    pub restart: Option<bool>,
    /// How it is listed; `None` where the channel keeps no presence.
    pub member: Option<Arc<MemberInfo>>,
    /// The connection that it continues, if that still lives: it is to take its place.
    pub replaces: Option<ConnectionId>,
    /// The most members that the channel may have; 0 = no bound.
    pub members_max: u32,
}

/// What is asked. What is large is boxed: questions move through several queues.
#[derive(Debug)]
pub enum Verb {
    Subscribe(Box<Subscribe>),
    /// The end of a subscription that was answered.
    Leave {
        watch: bool,
        member: Option<Arc<MemberInfo>>,
    },
    /// A member hears of joins and leaves no more.
    Unwatch,
    /// A member goes by another name from now on.
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
    /// Remove the history.
    Trim,
    /// The number of members, and the channel's position.
    Describe,
}

/// A new member: it is counted, and has everything up to `position` once it has `missed`.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub position: Position,
    pub recovered: bool,
    pub missed: Vec<Arc<Publication>>,
    /// Of a channel that keeps presence, for one who watches.
    pub presence: Option<PresencePage>,
    /// As requested: a shard that takes the answer back needs them.
    pub watch: bool,
    pub member: Option<Arc<MemberInfo>>,
}

/// What a home answers.
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

/// What a home sends to a shard.
#[derive(Debug)]
pub enum Out {
    Answer {
        id: ConnectionId,
        request: u32,
        channel: ChannelName,
        answer: Answer,
    },
    /// To all members there.
    Publish(Arc<Publication>),
    /// To the channel's watchers.
    News(Arc<Publication>),
    /// The past is lost: to all members there.
    EpochChanged {
        channel: ChannelName,
        position: Position,
    },
}

// Each publish moves one of each through several queues.
const _: () = assert!(size_of::<Request>() <= 88 && size_of::<Out>() <= 80);

impl Out {
    /// What it is about.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Answer { channel, .. } | Self::EpochChanged { channel, .. } => Some(channel),
            Self::Publish(publication) | Self::News(publication) => publication.channel.as_ref(),
        }
    }
}

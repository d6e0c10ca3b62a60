//! Commands to the engine, and its events, as the shards' logs exchange them with an outer thread.

use std::sync::Arc;

use crate::hub::{
    ChannelName, ConnectionId, Epoch, MemberInfo, MemberKey, Position, Range, Retention,
    RosterNews, RosterPage, RosterRange,
};

use super::layout::Place;

/// A command of a shard's log.
#[derive(Debug)]
pub struct EngineCommand {
    /// The shard's number for the command, repeated in its event.
    pub token: u64,
    pub channel: ChannelName,
    pub place: Place,
    pub action: Action,
}

/// An idempotency key, hashed with its owner and channel, and the hash of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendKey {
    pub digest: [u8; 16],
    pub content: [u8; 16],
    /// How long the engine keeps it (ms).
    pub ttl_ms: u64,
}

/// A change of what this node lists of a channel. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterChange {
    /// Lists a member. `replaces`: see [`Roster::list_member`](crate::hub::Roster::list_member).
    List {
        member: Arc<MemberInfo>,
        replaces: Option<ConnectionId>,
    },
    /// Lists it again, and reports that if no other node lists it.
    Relist {
        member: Arc<MemberInfo>,
    },
    Unlist {
        key: MemberKey,
    },
    /// The connection has a seat.
    Seat {
        id: ConnectionId,
    },
    Unseat {
        id: ConnectionId,
    },
}

/// A read of the position only.
pub(super) const POSITION: Range =
    Range { since: None, messages_max: 0, bytes_max: 0, reverse: false };

/// What the engine is to do. `fresh`: the epoch to start if the engine knows none of the channel.
#[derive(Debug)]
pub enum Action {
    /// Completes with [`EngineEvent::Appended`] or [`EngineEvent::Conflict`].
    Append { envelope: Box<[u8]>, retention: Retention, fresh: Epoch, key: Option<AppendKey> },
    /// Completes with [`EngineEvent::Page`]. The range limits the bytes of envelopes, but not of
    /// the first one. The position of a channel that is not watched is kept for a short time only.
    Read { range: Range, retention: Retention, fresh: Epoch, is_watched: bool },
    /// Removes the messages; completes with [`EngineEvent::Trimmed`].
    Trim { fresh: Epoch },
    /// Changes what this node lists of the channel; completes with [`EngineEvent::Changed`].
    Change { changes: Vec<RosterChange> },
    /// Completes with [`EngineEvent::Members`].
    Members { range: RosterRange },
    /// Takes a seat, or that of the connection that it resumes; completes with
    /// [`EngineEvent::Seated`].
    Seat { id: ConnectionId, replaces: Option<ConnectionId>, seats_max: u32 },
    /// Subscribes to the channel. [`EngineEvent::Watching`] follows now and after each
    /// reconnection, until [`Self::Unwatch`].
    Watch,
    /// Ends the subscription. Has no event.
    Unwatch,
}

impl RosterChange {
    /// Returns an upper bound of its size as a command (bytes).
    pub(super) fn bytes(&self) -> usize {
        let member = match self {
            Self::List { member, .. } | Self::Relist { member } => member.encoded_bytes_max(),
            _ => 0,
        };
        size_of::<Self>() + member
    }
}

impl EngineCommand {
    /// Returns the memory that counts while the command waits or is in flight (bytes).
    pub fn bytes(&self) -> u64 {
        let content = match &self.action {
            Action::Append { envelope, .. } => envelope.len(),
            Action::Change { changes } => changes.iter().map(RosterChange::bytes).sum(),
            _ => 0,
        };
        (size_of::<Self>() + self.channel.as_str().len() + content) as u64
    }
}

/// A message, as the engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    pub offset: u64,
    /// The engine's time (Unix, ms).
    pub time_ms: u64,
    pub envelope: Vec<u8>,
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPage {
    pub position: Position,
    /// Whether all messages of the range are in the page.
    pub complete: bool,
    pub messages: Vec<RawMessage>,
}

/// The reply to a command, or something that the engine published.
#[derive(Debug, PartialEq, Eq)]
pub enum EngineEvent {
    Appended {
        token: u64,
        position: Position,
        duplicate: bool,
    },
    /// The idempotency key was used for other content.
    Conflict {
        token: u64,
    },
    Page {
        token: u64,
        page: RawPage,
    },
    Trimmed {
        token: u64,
        position: Position,
    },
    Changed {
        token: u64,
    },
    Members {
        token: u64,
        page: RosterPage,
    },
    Seated {
        token: u64,
        has_seat: bool,
    },
    /// The command was not carried out, or it is not known whether it was.
    Failed {
        token: u64,
        retry_after_ms: Option<u32>,
    },
    /// The subscription of [`Action::Watch`] is in effect: later messages are pushed.
    Watching {
        token: u64,
    },
    /// A message was published.
    Pushed {
        channel: ChannelName,
        epoch: Epoch,
        message: RawMessage,
    },
    /// A member has joined or left.
    News {
        channel: ChannelName,
        news: RosterNews,
    },
    /// The engine has dropped all that this node lists, or may have: it is to be listed again.
    Unlisted,
    /// The history of a channel was removed: no copy of it is valid any more.
    TailEnded {
        channel: ChannelName,
    },
    /// Publications were dropped, because the shard did not take them.
    Dropped,
    /// All subscriptions at this instance are lost; each is announced again by
    /// [`Self::Watching`].
    Lost {
        instance: u8,
    },
}

/// The way from a shard's log to the engine and back.
///
/// Contract: commands take effect in the order in which they are submitted, channel by channel, and
/// each command has one event, except [`Action::Watch`] and [`Action::Unwatch`]. After
/// [`EngineEvent::Lost`], no event from before it follows. The shard is woken when
/// [`Self::next_event`] has an event.
pub trait EnginePort: Send {
    /// Submits a command. Returns whether it was accepted: an [`Action::Append`] is not if too many
    /// bytes are in flight.
    fn submit(&mut self, command: EngineCommand) -> bool;
    /// Returns the next event. Never blocks.
    fn next_event(&mut self) -> Option<EngineEvent>;
}

//! The log, which orders and retains a channel's messages: commands are submitted, and completions
//! follow.
//!
//! # The contract
//!
//! - A log that completes commands later wakes its shard when [`Log::next`] has a completion; the
//!   home does not poll it otherwise.
//! - Commands about one channel take effect in the order in which they are given. Completions may
//!   come at any later time and in any order, with two exceptions: [`Done::Delivered`] of one
//!   channel follows the order of offsets, each publication once while the channel is watched; and
//!   [`Done::EpochChanged`] precedes everything of the new epoch.
//! - Messages of a watched channel that the log has lost on the way are reported by [`Done::Gap`],
//!   in the place where they would have been delivered.
//! - A log may be ahead of its deliveries: a page may contain messages not yet delivered.
//! - Each command with a ticket has exactly one completion, which may be [`Done::Failed`] or
//!   [`Done::Refused`].
//! - Offsets of a channel grow strictly. Trimming removes messages, never the epoch or the offset.

use std::sync::Arc;

use super::position::{Epoch, Position, Since};
use super::publication::{Draft, Publication};
use super::refusal::Refused;
use super::roster::{Roster, RosterNews, RosterPage};
use super::{ChannelName, KeyScope};

/// How much of a channel's history is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages; 0 = none.
    pub messages_max: u32,
    /// Age (ms).
    pub ttl_ms: u64,
}

/// The messages that a read requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Messages after this position; none if it belongs to another epoch. `None`: from the oldest.
    pub since: Option<Since>,
    pub messages_max: u32,
    pub bytes_max: u64,
    /// Newest first; the bounds then cut off the oldest.
    pub reverse: bool,
}

/// The result of a read.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// Position of the channel's last message at the time of the read.
    pub position: Position,
    /// Whether the page has all messages of the range: none was trimmed or cut off.
    pub complete: bool,
    pub messages: Vec<Arc<Publication>>,
}

/// A completed command, or an event of a channel. `key` is the home's number for the channel, as
/// given to [`Log::open`].
#[derive(Debug)]
pub enum Done {
    /// The channel is open: commands may follow.
    Opened { key: u32 },
    /// The channel could not be opened: the log has closed it. `retry_after_ms` as below.
    OpenFailed { key: u32, retry_after_ms: Option<u32> },
    /// The message is in the log. `duplicate`: it was there before, under the same key.
    Appended { ticket: u64, position: Position, duplicate: bool },
    /// A message to deliver to the members.
    Delivered { key: u32, publication: Arc<Publication> },
    /// The result of a read.
    Page { ticket: u64, page: HistoryPage },
    /// The history was removed.
    Trimmed { ticket: u64, position: Position },
    /// The command failed, or the log does not know whether it took effect: a message whose append
    /// failed may still be delivered. `retry_after_ms`: the delay after which a retry may succeed,
    /// if the log knows.
    Failed { ticket: u64, retry_after_ms: Option<u32> },
    /// The command was rejected because of its content.
    Refused { ticket: u64, refused: Refused },
    /// The channel's history was lost; offsets continue from this position.
    EpochChanged { key: u32, position: Position },
    /// Messages up to this position, of the same epoch, cannot be delivered any more.
    Gap { key: u32, position: Position },
    /// A page of the channel's members on all nodes.
    Members { ticket: u64, page: Box<RosterPage> },
    /// Whether the connection has a seat. If not, all are taken.
    Seated { ticket: u64, has_seat: bool },
    /// A member has joined or left on some node.
    News { key: u32, news: Box<RosterNews> },
    /// Joins or leaves of the channel were missed, and cannot be reported any more.
    NewsMissed { key: u32 },
}

/// Idempotency keys stored by a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage {
    pub count: u64,
    /// Memory (bytes).
    pub bytes: u64,
    /// Keys evicted before they expired.
    pub evicted: u64,
}

/// What a log over an engine that several nodes share has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Reads of missed messages that were answered in this process, and by the engine.
    pub tail_reads: u64,
    pub engine_reads: u64,
    /// Losses of messages on the way, read again, or reported.
    pub holes_filled: u64,
    pub holes_reported: u64,
    /// New epochs reported.
    pub epochs_reported: u64,
    /// At present: changes of the roster that are not confirmed.
    pub roster_changes: u64,
}

/// How a channel was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The log's number for the channel, used in commands.
    pub channel: u32,
    /// Whether commands may follow at once. If not, they must wait for [`Done::Opened`].
    pub is_open: bool,
}

/// The state that closing a channel loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the channel is at its start, or the log keeps its state elsewhere.
    Nothing,
    /// The position: the channel starts a new epoch when it is opened again.
    Position,
    /// The position and messages.
    Messages,
}

/// Order and history of the channels of one home.
pub trait Log {
    /// Opens a channel. `key` is the home's number for it in completions. A channel unknown to the
    /// log starts in epoch `first`. Until it is open, only [`Self::retain`] may be called.
    fn open(&mut self, name: &ChannelName, key: u32, retention: Retention, first: Epoch)
    -> Opening;
    /// Returns whether the log keeps no state of channels that are not open.
    fn is_empty_while_closed(&self) -> bool {
        false
    }
    /// Changes the retention of a channel.
    fn retain(&mut self, channel: u32, retention: Retention);
    /// Closes a channel that has no command in flight. The log may drop its state, including the
    /// epoch. No completion of the channel follows, because `key` may be reused.
    fn close(&mut self, channel: u32);
    /// Returns what [`Self::close`] would lose of the state in this process.
    fn loss_on_close(&self, _channel: u32) -> Loss {
        Loss::Nothing
    }
    /// Starts or stops the delivery of messages that the log orders after this command. A channel
    /// just opened is not watched.
    fn set_watched(&mut self, channel: u32, is_watched: bool);
    /// Sets the time of the commands that follow (Unix, ms); reads skip expired messages.
    fn set_time(&mut self, _now_ms: u64) {}
    /// Sets the number and the lifetime of idempotency keys, where the log keeps them in this
    /// process. Called first of all, and after each change of the configuration.
    fn set_key_bounds(&mut self, _keys_max: usize, _ttl_ms: u64) {}
    /// Appends a message and, if the channel is watched, delivers it once it is ordered. A second
    /// message under the same key is not appended: it completes with the position of the first, or
    /// is rejected ([`Refused::reused_key`]) if its content differs.
    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>);
    /// Reads what a member of a watched channel has missed. The page may end before the channel's
    /// last message: what follows its position is delivered.
    fn recover(&mut self, ticket: u64, channel: u32, range: Range) {
        self.read(ticket, channel, range);
    }
    /// Reads a page of history, up to the channel's last message.
    fn read(&mut self, ticket: u64, channel: u32, range: Range);
    /// Removes a channel's messages.
    fn trim(&mut self, ticket: u64, channel: u32);
    /// Removes expired messages and keys. Examines at most `channels_max` channels and as many
    /// keys.
    fn expire_messages(&mut self, now_ms: u64, channels_max: usize);
    /// Returns when the next message or key expires (Unix time, ms). `None`: there is none, or the
    /// log expires them by itself.
    fn next_expiry_ms(&self) -> Option<u64> {
        None
    }
    /// Returns whether the memory bound that several logs share is exceeded.
    fn wants_room(&self) -> bool {
        false
    }
    /// Returns the memory of the table of channels, without messages (bytes).
    fn table_bytes(&self) -> u64 {
        0
    }
    /// Returns whether [`Self::next`] may have a completion.
    fn may_have_completions(&self) -> bool {
        true
    }
    /// Returns the next completion that is ready. Never blocks.
    fn next(&mut self) -> Option<Done>;
    /// Returns the usage of idempotency keys in this process.
    fn keys(&self) -> KeyUsage {
        KeyUsage::default()
    }
    /// Returns what was counted about the engine.
    fn stats(&self) -> LogStats {
        LogStats::default()
    }
    /// Returns the roster of the nodes that share the log. `None`: all members are in this process.
    fn roster(&mut self) -> Option<&mut dyn Roster> {
        None
    }
    /// Returns the number of messages in this process, and their bytes.
    fn kept_messages(&self) -> (u64, u64) {
        (0, 0)
    }
}

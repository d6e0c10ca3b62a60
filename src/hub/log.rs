//! The log behind a channel's order and history: commands in, completions later.
//!
//! # The contract
//!
//! A log that completes commands later wakes its shard once there is something to be read from
//! [`Log::next`]; the home does not look for it otherwise.
//!
//! Commands about one channel take effect in the order in which they are given. Completions may
//! come at any later time and in any order, but [`Done::Delivered`] of one channel comes in the
//! order of offsets, each publication once while the channel is watched, and
//! [`Done::EpochChanged`] before anything of the new epoch. A log may be ahead of its deliveries: a
//! page may hold what is yet to be delivered. Each command with a ticket has exactly one
//! completion, which may be [`Done::Failed`] or [`Done::Refused`]. Offsets of a channel grow
//! strictly. Trimming removes messages, never epoch or offset.

use std::sync::Arc;

use super::position::{Epoch, Position, Since};
use super::publication::{Draft, Publication};
use super::refusal::Refused;
use super::{ChannelName, KeyScope};

/// How much of a channel is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Messages; 0 = none.
    pub messages_max: u32,
    /// Age (ms).
    pub ttl_ms: u64,
}

/// Which messages a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// After this place; of another epoch: none. `None`: from the oldest.
    pub since: Option<Since>,
    pub messages_max: u32,
    pub bytes_max: u64,
    /// The newest first, and the bounds cut off the oldest.
    pub reverse: bool,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// The channel's last message at that moment.
    pub position: Position,
    /// All that the range names is here: nothing was trimmed or cut off.
    pub complete: bool,
    pub messages: Vec<Arc<Publication>>,
}

/// A command has completed, or something has happened to a channel. `key`: the home's name for the
/// channel, as given to [`Log::open`].
#[derive(Debug)]
pub enum Done {
    /// The channel is open: commands may follow.
    Opened { key: u32 },
    /// The channel could not be opened: the log has closed it. `retry_after_ms` as below.
    OpenFailed { key: u32, retry_after_ms: Option<u32> },
    /// The message is in the log; `duplicate`: it was already, under the same key.
    Appended { ticket: u64, position: Position, duplicate: bool },
    /// To be handed to the members.
    Delivered { key: u32, publication: Arc<Publication> },
    /// What a read found.
    Page { ticket: u64, page: HistoryPage },
    /// The history was removed.
    Trimmed { ticket: u64, position: Position },
    /// The command could not be carried out, or the log does not know whether it was: a message
    /// whose append failed may still be delivered. `retry_after_ms`: when it may work again, if
    /// the log can say.
    Failed { ticket: u64, retry_after_ms: Option<u32> },
    /// The command was not carried out, for a reason that lies in it.
    Refused { ticket: u64, refused: Refused },
    /// The channel's history was lost; offsets count from this position.
    EpochChanged { key: u32, position: Position },
}

/// Idempotency keys that a log remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage {
    pub count: u64,
    /// Memory (bytes).
    pub bytes: u64,
    /// Those that were forgotten before their time.
    pub evicted: u64,
}

/// How a channel was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The log's name for the channel, in commands.
    pub channel: u32,
    /// Commands may follow at once. Otherwise they follow [`Done::Opened`].
    pub is_open: bool,
}

/// What the end of a channel's time in memory loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is where it began, or the log keeps it elsewhere.
    Nothing,
    /// Its position: the next one is of another epoch.
    Position,
    /// Messages as well.
    Messages,
}

/// Order and history of the channels of one home.
pub trait Log {
    /// A channel is wanted. `key` is the home's name for it in completions. If the log knows
    /// nothing of it, it begins in `first`. Until it is open, only [`Self::retain`] is called.
    fn open(&mut self, name: &ChannelName, key: u32, retention: Retention, first: Epoch)
    -> Opening;
    /// Whether it knows nothing of channels that are not open.
    fn is_empty_while_closed(&self) -> bool {
        false
    }
    /// A channel is to keep more or less from now on.
    fn retain(&mut self, channel: u32, retention: Retention);
    /// A channel is wanted no more; no command about it is under way. What it holds may be
    /// forgotten, its epoch included. No completion about it follows: `key` may name another one.
    fn close(&mut self, channel: u32);
    /// What would be lost by closing the channel, as far as it is kept in this process.
    fn loss(&self, _channel: u32) -> Loss {
        Loss::Nothing
    }
    /// Whether the channel's messages are to be delivered: those that get their place after this
    /// command, and none once it has said no. A channel that is opened is not watched.
    fn watch(&mut self, channel: u32, is_watched: bool);
    /// The time of the commands that follow (Unix, ms): messages past their age are not read.
    fn set_time(&mut self, _now_ms: u64) {}
    /// How many idempotency keys are remembered, and for how long, where the log does that in
    /// this process. Called before anything else, and when the configuration has changed.
    fn set_key_bounds(&mut self, _keys_max: usize, _ttl_ms: u64) {}
    /// Appends a message, to be delivered once it has its place, if the channel is watched. Another
    /// one under the same key is not appended: it has the position of the first, or is refused
    /// ([`Refused::reused_key`]) if its content is another one.
    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>);
    /// Reads.
    fn read(&mut self, ticket: u64, channel: u32, range: Range);
    /// Removes a channel's messages.
    fn trim(&mut self, ticket: u64, channel: u32);
    /// Removes messages and keys past their age; looks at so many channels, and keys, at most.
    fn expire(&mut self, now_ms: u64, channels_max: usize);
    /// When a message or key will be past its age next (Unix time, ms). `None`: there is none, or
    /// the log looks after that by itself.
    fn next_expiry_ms(&self) -> Option<u64> {
        None
    }
    /// Whether the memory for history is exceeded by what other logs hold that share it.
    fn wants_room(&self) -> bool {
        false
    }
    /// Memory of the table of channels, without messages (bytes).
    fn table_bytes(&self) -> u64 {
        0
    }
    /// The next completion that is ready. Not to be waited for: see the contract.
    fn next(&mut self) -> Option<Done>;
    /// Idempotency keys remembered in this process.
    fn keys(&self) -> KeyUsage {
        KeyUsage::default()
    }
    /// Messages kept in this process, and bytes of them.
    fn kept(&self) -> (u64, u64) {
        (0, 0)
    }
}

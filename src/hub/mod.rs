//! The routing side: channels, their order, history and members. No sockets, no clock, no threads,
//! and no client protocol: requests and times come in, answers and publications go out as data
//! ([`Event`]), which client protocols encode ([`EventEncoder`]).
//!
//! A channel's name decides its **home**, one of the shards ([`Home`]): it orders the channel's
//! publishes, keeps its presence and counts its members on every shard. History and order are
//! behind a [`Log`]: commands in, completions later. [`MemoryLog`] completes at once; nothing
//! relies on that, and a log that does not wakes the shard by its bell. Opening a channel may take
//! time as well: requests for it wait in their order, at its home. Each shard that has members of a
//! channel keeps them in a dense array ([`Members`]) and hands every publication to them in the
//! order in which the home sent it.
//!
//! # How nothing is lost or doubled
//!
//! A home answers a subscription with the position up to which its member has everything: the
//! missed messages are in the answer, and what the home delivers later has a higher offset. Answer
//! and publications travel in one queue from home to shard, and the shard works each channel's
//! queue in order, so the answer is what makes the member live. While a page of history is being
//! read, deliveries are remembered; the answer is completed with them, or cut to what has been
//! delivered, whichever of log and home is ahead.
//!
//! A member is counted at home from the moment its subscription is answered. A shard that receives
//! an answer for a connection that has closed takes it back; so a home knows connections only where
//! they are listed as present, or where their number is limited.
//!
//! A channel that is only read is not opened: its position is derived from its name and the time,
//! and counts as long as that of a channel that was opened and left (`home/starts.rs`).

mod answer;
mod batch_reply;
mod connection_id;
mod due;
mod event;
mod home;
mod idempotency;
mod key_scope;
pub mod log;
mod members;
mod memory;
mod name_hash;
mod names;
mod position;
mod presence;
mod publication;
mod refusal;
mod roster;
mod seats;
#[cfg(test)]
pub(crate) mod testing;

pub use answer::{Answer, ApiReply, Origin, Out, Request, Subscribe, Subscribed, Verb};
pub use batch_reply::{Answers, BatchReplies, BatchReply};
pub use connection_id::{ConnectionId, ID_BYTES};
pub use due::DueQueue;
pub use event::{
    ChannelMessage, EncodedEvent, EngineNotice, Event, EventEncoder, GapReason, PROTOCOLS_MAX,
    ProtocolEncoder, ProtocolId, Sender, Storing,
};
pub use home::{Home, HomeEvent, HomeGauges, HomeOptions, HomeStats};
pub use key_scope::KeyScope;
pub use log::{Done, HistoryPage, KeyUsage, Log, LogStats, Loss, Opening, Range, Retention};
pub use members::{ChannelOp, Local, Member, Members, Moved, Step};
pub use memory::{HistoryBudget, MemoryLog};
pub use name_hash::NameHash;
pub use position::{Epoch, Position, Since};
pub use presence::{MemberInfo, MemberKey, PresencePage};
pub use publication::{Draft, Publication};
pub use refusal::{Code, Refused};
pub use roster::{Roster, RosterNews, RosterPage, RosterRange, SoughtMember};

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;

/// A channel's name: 1 to 200 bytes. Stored once in a process, where it is handed on; one word,
/// because every subscription has one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(ArcStr);

impl ChannelName {
    /// The name, which must have been checked.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether both share the same text in memory: then they are equal. Equal names need
    /// not share it.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        ArcStr::ptr_eq(&self.0, &other.0)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! The pending work of a hub session: requests that homes or applications have not answered, frames
//! that wait, and backends that wait for the outcome of a subscription.

use std::collections::VecDeque;

use super::cutter::Cutter;
use super::undecided::Undecided;
use crate::admission::limiter::RateKind;
use crate::hub::{ChannelName, ConnectionId, Position};
use crate::session::protocol::ResumedChannel;

/// A backend's call that waits for the reply of a channel's home.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) channel: ChannelName,
    pub(super) call: u32,
}

/// A `resume` that waits for replies of homes.
#[derive(Debug)]
pub(super) struct Resuming {
    pub(super) id: Option<Box<str>>,
    /// The number of channels without an outcome.
    pub(super) waiting: u32,
    /// The channels with an outcome.
    pub(super) channels: Vec<ResumedChannel>,
    /// The connection that is resumed.
    pub(super) old: Option<ConnectionId>,
}

/// The most entries that empty lists have room for when they are kept.
const SPARE_CAPACITY: usize = 16;

/// A request in flight to a home or an application.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: u32,
    pub(super) id: Option<Box<str>>,
    pub(super) kind: AskedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedKind {
    Subscribe,
    /// By a backend: the client gets no reply.
    ByServer,
    /// With the members in its reply.
    SubscribeAndRead,
    /// As part of a `resume`.
    Resume,
    Read,
    /// The last event of a channel with a cache, if it is not later than the position of the new
    /// member, which later ones are delivered to.
    Cached {
        joined_at: Position,
    },
    /// An application is asked.
    Question,
    Other,
}

impl AskedKind {
    /// Returns whether the reply may be long. Only one of these is in flight at a time, so that
    /// replies exceed the bound of an outbox by one at most.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::SubscribeAndRead | Self::Read)
    }

    /// Returns whether the outcome of a subscription depends on the reply.
    pub(super) fn is_subscription(self) -> bool {
        !matches!(self, Self::Read | Self::Cached { .. } | Self::Question | Self::Other)
    }
}

/// A request that waits for the outcome of a question about its channel; requests for other
/// channels pass it.
#[derive(Debug)]
pub(super) struct HeldRequest {
    pub(super) channel: ChannelName,
    pub(super) text: Box<str>,
}

/// A frame with requests that have to wait.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) cutter: Cutter,
    /// The whole frame exceeds a rate limit: each request is rejected, with this wait (ms).
    pub(super) over_rate: Option<(RateKind, u64)>,
}

/// Allocated only while there is work: most connections subscribe once and then only listen.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Requests in flight, oldest first. Homes mostly reply in this order.
    pub(super) asked: VecDeque<Asked>,
    /// Those of them that an application decides on or answers.
    pub(super) undecided: Vec<Undecided>,
    /// Requests that wait for questions about their channels, in order.
    pub(super) behind_questions: VecDeque<HeldRequest>,
    /// Some of these may be able to continue.
    pub(super) is_released: bool,
    /// Frames with waiting requests; the first one may be partly processed.
    pub(super) held: VecDeque<HeldFrame>,
    /// The first held request waits for the reply to an earlier one.
    pub(super) is_barred: bool,
    /// While set, no other request is processed.
    pub(super) resuming: Option<Box<Resuming>>,
    /// Calls of backends that wait for the outcome of a subscription.
    pub(super) callers: Vec<Caller>,
}

impl Pending {
    /// Returns whether nothing is pending.
    pub(super) fn is_empty(&self) -> bool {
        debug_assert!(self.undecided.len() <= self.asked.len(), "questions are in flight");
        let is_asked = !self.asked.is_empty() || !self.callers.is_empty();
        let is_held = !self.held.is_empty() || !self.behind_questions.is_empty();
        !is_asked && !is_held && self.resuming.is_none()
    }

    /// Returns whether its memory may be kept when it is empty.
    pub(super) fn is_small(&self) -> bool {
        let capacity = self.asked.capacity().max(self.held.capacity());
        let questions = self.undecided.capacity().max(self.behind_questions.capacity());
        capacity.max(self.callers.capacity()).max(questions) <= SPARE_CAPACITY
    }
}

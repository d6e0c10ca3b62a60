//! What a hub session has under way: requests that homes have not answered, frames that wait, and
//! backends that wait for the outcome of a subscription.

use std::collections::VecDeque;

use super::cutter::Cutter;
use crate::admission::limiter::RateKind;
use crate::hub::{ChannelName, ConnectionId};
use crate::session::protocol::ResumedChannel;

/// A backend's call that waits for a channel's home.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) channel: ChannelName,
    pub(super) call: u32,
}

/// A `resume` that waits for homes.
#[derive(Debug)]
pub(super) struct Resuming {
    pub(super) id: Option<Box<str>>,
    pub(super) waiting: u32,
    /// The channels that have an outcome.
    pub(super) channels: Vec<ResumedChannel>,
    /// The connection that it continues.
    pub(super) old: Option<ConnectionId>,
}

/// Something that was asked of a home, and what it is for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: u32,
    pub(super) id: Option<Box<str>>,
    pub(super) kind: AskedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedKind {
    Subscribe,
    /// For a backend: the client has not asked.
    ByServer,
    /// With the members in its answer.
    SubscribeAndRead,
    /// As part of a `resume`.
    Resume,
    Read,
    Other,
}

impl AskedKind {
    /// Whether the answer may be long. Only one of these is asked at a time, so that replies stay
    /// within the bound of an outbox and one more.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::SubscribeAndRead | Self::Read)
    }

    /// Whether a subscription depends on the answer.
    pub(super) fn is_subscription(self) -> bool {
        !matches!(self, Self::Read | Self::Other)
    }
}

/// A frame of which requests have to wait.
#[derive(Debug)]
pub(super) struct HeldFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) cutter: Cutter,
    /// The whole frame is above a rate: each request is rejected, to be tried again in so many ms.
    pub(super) over_rate: Option<(RateKind, u64)>,
}

/// What is under way; most connections ask once, and then listen for hours without any of it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Homes answer in order, as a rule.
    pub(super) asked: VecDeque<Asked>,
    /// Frames with requests that wait, the first one in part.
    pub(super) held: VecDeque<HeldFrame>,
    /// The first of them waits for an answer to one before it.
    pub(super) is_barred: bool,
    /// Nothing more is done until this has its answers.
    pub(super) resuming: Option<Box<Resuming>>,
    /// Backends that wait for what becomes of a subscription.
    pub(super) callers: Vec<Caller>,
}

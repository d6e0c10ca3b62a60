//! Requests that wait for the outcome of a question to an application, as data.

use crate::hooks::HookKind;
use crate::hub::{ChannelName, Since};

/// What a question is about.
#[derive(Debug)]
pub(super) enum AskedSubject {
    Subscribe {
        channel: ChannelName,
        since: Option<Since>,
        watch: bool,
        /// The backend has ended the subscription meanwhile.
        is_ended: bool,
    },
    Publish {
        channel: ChannelName,
        content: Box<str>,
        key: Option<Box<str>>,
        echo: bool,
    },
    Call,
}

impl AskedSubject {
    pub(super) fn kind(&self) -> HookKind {
        match self {
            Self::Subscribe { .. } => HookKind::Subscribe,
            Self::Publish { .. } => HookKind::Publish,
            Self::Call => HookKind::Call,
        }
    }
}

/// A request that waits for the outcome of a question.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) request: u32,
    /// When it was asked, on the shards' clock (ns).
    pub(super) asked_ns: u64,
    pub(super) subject: AskedSubject,
}

impl Undecided {
    /// Returns the channel whose later requests it holds.
    pub(super) fn channel(&self) -> Option<&str> {
        match &self.subject {
            AskedSubject::Subscribe { channel, .. } | AskedSubject::Publish { channel, .. } => {
                Some(channel.as_str())
            }
            AskedSubject::Call => None,
        }
    }
}

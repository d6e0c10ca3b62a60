//! Answers of an application, as data. `decode` has checked them.

use std::sync::Arc;

use super::question::{HookKind, HookQuestion};
use crate::auth::{ChannelGrant, Identity, OnFailure};
use crate::hub::ChannelName;

/// How an application refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// 401: the client has to authenticate.
    Unauthorized,
    /// 403: nothing that this client could change would help.
    Forbidden,
    /// 429: the client should come back later.
    TooMany,
}

/// The decision on an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectAnswer {
    Accept {
        identity: Arc<Identity>,
        /// Channels to subscribe the connection to.
        subscribe: Arc<[ChannelName]>,
    },
    Refuse {
        refusal: ConnectRefusal,
        message: Box<str>,
    },
}

/// An error that the application chose, which its client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookError {
    /// 1 to 64 characters of `a-z`, `0-9` and `_`.
    pub code: Box<str>,
    pub message: Box<str>,
}

/// The decision on a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeAnswer {
    Grant(ChannelGrant),
    Error(HookError),
}

/// The decision on a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishAnswer {
    /// Publish what the client wrote.
    Accept,
    /// Publish this instead: JSON on one line.
    Replace(Box<str>),
    Error(HookError),
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallAnswer {
    /// JSON on one line.
    Content(Box<str>),
    Error(HookError),
}

/// An answer; its kind is that of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    Connect(ConnectAnswer),
    Subscribe(SubscribeAnswer),
    Publish(PublishAnswer),
    Call(CallAnswer),
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureCause {
    /// The route has no application to ask.
    NoApplication,
    /// Too many questions wait.
    Busy,
    /// The breaker is open: too many questions failed just before.
    Open,
    /// No answer came in time.
    TimedOut,
    /// There is no connection to the application, or it broke.
    Unreachable,
    /// The application answered with a status that is no answer.
    Status,
    /// The answer is not one that the question may have.
    Malformed,
}

impl FailureCause {
    /// All causes, as metrics list them.
    pub const ALL: [Self; 7] = [
        Self::NoApplication,
        Self::Busy,
        Self::Open,
        Self::TimedOut,
        Self::Unreachable,
        Self::Status,
        Self::Malformed,
    ];

    /// Returns its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoApplication => "no_application",
            Self::Busy => "busy",
            Self::Open => "open",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Status => "status",
            Self::Malformed => "malformed",
        }
    }
}

/// The end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookOutcome {
    Answered(HookAnswer),
    /// There is no answer, and the question allows that
    /// ([`OnFailure::Allow`]).
    Allowed,
    Failed {
        kind: HookKind,
        cause: FailureCause,
        /// When the client may try again (ms).
        retry_after_ms: u32,
    },
}

impl HookOutcome {
    /// Returns the outcome of a question that is not asked. `retry_after_ms`: when the client may
    /// try again.
    pub fn unasked(question: &HookQuestion, cause: FailureCause, retry_after_ms: u32) -> Self {
        match question {
            HookQuestion::Publish { on_failure: OnFailure::Allow, .. } => Self::Allowed,
            _ => Self::Failed { kind: question.kind(), cause, retry_after_ms },
        }
    }
}

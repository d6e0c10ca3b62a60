//! Decisions of applications: they arrive by mail.

use std::sync::Arc;

use super::mail::{Directory, HubMail, Mail};
use crate::auth::Identity;
use crate::backend::hooking::HookReplies;
use crate::hooks::{ConnectAnswer, ConnectRefusal, HookAnswer, HookKind, HookOutcome, HookTicket};
use crate::hub::ChannelName;
use crate::proto::http::Refusal;

/// The decision on an upgrade.
#[derive(Clone, Debug)]
pub enum ConnectReply {
    /// Upgrade the client, unless a limit or a drain prevents it by then.
    Accept {
        identity: Arc<Identity>,
        /// Channels to subscribe the connection to.
        subscribe: Arc<[ChannelName]>,
    },
    /// The same, for a client whose messages go to the application over a link.
    AcceptLinked { identity: Option<Arc<Identity>> },
    /// Answer the client with an error.
    Reject {
        refusal: Refusal,
        /// The reason and the remedy.
        message: String,
        /// The `Retry-After` header (s).
        retry_after_s: Option<u32>,
    },
}

impl From<HookOutcome> for ConnectReply {
    fn from(outcome: HookOutcome) -> Self {
        match outcome {
            HookOutcome::Answered(HookAnswer::Connect(ConnectAnswer::Accept {
                identity,
                subscribe,
            })) => Self::Accept { identity, subscribe },
            HookOutcome::Answered(HookAnswer::Connect(ConnectAnswer::Refuse {
                refusal,
                message,
            })) => {
                let refusal = match refusal {
                    ConnectRefusal::Unauthorized => Refusal::Unauthorized,
                    ConnectRefusal::Forbidden => Refusal::Forbidden,
                    ConnectRefusal::TooMany => Refusal::TooManyRequests,
                };
                Self::Reject { refusal, message: message.into(), retry_after_s: None }
            }
            outcome => {
                let retry_after_ms = match outcome {
                    HookOutcome::Failed { retry_after_ms, .. } => retry_after_ms,
                    _ => 0,
                };
                Self::Reject {
                    refusal: Refusal::Unavailable,
                    message: "the application that decides on connections did not answer; retry \
                              later"
                        .into(),
                    retry_after_s: Some(retry_after_ms.div_ceil(1000).max(1)),
                }
            }
        }
    }
}

impl HookReplies for Directory {
    fn reply(&self, ticket: HookTicket, kind: HookKind, outcome: HookOutcome) {
        let HookTicket { shard, token, request } = ticket;
        let mail = match kind {
            HookKind::Connect => Mail::Decided { token, reply: Box::new(outcome.into()) },
            HookKind::Subscribe | HookKind::Publish | HookKind::Call => {
                Mail::Hub(Box::new(HubMail::Decided { token, request, outcome }))
            }
        };
        self.post(shard, mail);
    }
}

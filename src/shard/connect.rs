//! Decisions about upgrades that are made outside the shards: the question, and the reply.
//!
//! A shard hands a [`Question`] to its [`ConnectBackend`] and continues; the reply comes back by
//! mail ([`super::mail::Mail::Decided`]). Nothing is sent to the client between the two.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Identity;
use crate::driver::Token;
use crate::proto::http::Refusal;

/// Decides upgrades outside the shards.
pub trait ConnectBackend: Send + Sync + std::fmt::Debug {
    /// Whether upgrades to the route of this index wait for its decision.
    fn decides(&self, route: usize) -> bool;
    /// Takes a question. It is called within a shard's turn, so it must not wait. A question
    /// without a reply ends with the handshake's deadline.
    fn ask(&self, question: Question);
}

/// An upgrade that waits for a decision. Everything else about it has been checked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where the reply goes.
    pub shard: u16,
    /// Whom the reply is about.
    pub token: Token,
    /// The index of the route.
    pub route: usize,
    /// The client's address: what trusted proxies say, else the peer's.
    pub client: Option<IpAddr>,
    /// The request's head, as it came.
    pub head: Box<[u8]>,
    /// Whom the request's token names, where it has one.
    pub identity: Option<Arc<Identity>>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub enum ConnectReply {
    /// The client is upgraded, unless a limit or a drain speaks against it by now.
    Accept {
        /// Who it is; `None`: whom its token names.
        identity: Option<Arc<Identity>>,
    },
    /// The client is answered with an error.
    Reject {
        refusal: Refusal,
        /// What was wrong, and what to do.
        message: String,
        /// When to come back, in seconds.
        retry_after_s: Option<u32>,
    },
}

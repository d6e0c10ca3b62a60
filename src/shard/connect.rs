//! Upgrade decisions made outside the shards: the question and the reply.
//!
//! A shard passes a [`Question`] to its [`ConnectBackend`] and continues; the reply arrives by mail
//! ([`super::mail::Mail::Decided`]). The client receives nothing in between.

use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::Identity;
use crate::driver::Token;
use crate::proto::http::Refusal;

/// Decides upgrades outside the shards.
pub trait ConnectBackend: Send + Sync + std::fmt::Debug {
    /// Returns whether upgrades on the route with this index need its decision.
    fn decides(&self, route: usize) -> bool;
    /// Accepts a question. Called within a shard's turn, so it must not block. If no reply comes,
    /// the connection ends with its handshake deadline.
    fn ask(&self, question: Question);
}

/// An upgrade that awaits a decision. All other checks have passed.
#[derive(Clone, Debug)]
pub struct Question {
    /// The shard that awaits the reply.
    pub shard: u16,
    /// The connection.
    pub token: Token,
    /// The index of the route.
    pub route: usize,
    /// The client's address: as named by trusted proxies, or else the peer's.
    pub client: Option<IpAddr>,
    /// The request's head, as received.
    pub head: Box<[u8]>,
    /// The identity in the request's token, if it has one.
    pub identity: Option<Arc<Identity>>,
}

/// The decision.
#[derive(Clone, Debug)]
pub enum ConnectReply {
    /// Upgrade the client, unless a limit or a drain prevents it by then.
    Accept {
        /// The client's identity; `None`: the one in its token.
        identity: Option<Arc<Identity>>,
    },
    /// Answer the client with an error.
    Reject {
        refusal: Refusal,
        /// The reason and the remedy.
        message: String,
        /// The `Retry-After` header (s).
        retry_after_s: Option<u32>,
    },
}

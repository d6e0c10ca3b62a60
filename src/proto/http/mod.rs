//! The request that opens a connection (RFC 9110, 9112), and the upgrade it asks for (RFC 6455 4).
//!
//! One function decides: [`receive`] looks at all the bytes of the request so far and says that
//! it needs more, or gives a [`Decision`]: data that says all that is to be sent. Another function,
//! [`encode`], writes it as HTTP/1.1, and nothing here keeps state with which to write again. An
//! edge has no use for leniency: what two parsers could read in two ways is refused, and every
//! refusal says what was wrong, where, and what to do.
//!
//! Files, in the order of the bytes: `head` (finds the end, limits), `fault` (explains what does
//! not parse), `request` (fields), `target`, `authority` (Host, Origin), `route`, `forwarded`,
//! `extensions`, `pages`, `upgrade` (decides), `decision` (the result), `response` (encodes it),
//! `refusal`.

mod authority;
mod decision;
mod extensions;
mod fault;
mod forwarded;
mod head;
mod pages;
mod refusal;
mod request;
mod response;
mod route;
mod target;
mod upgrade;

use std::net::IpAddr;
use std::sync::Arc;

pub use authority::OriginPattern;
pub use decision::{Content, Decision, ForwardTerms, KEY_BYTES, Response, Upgrade};
pub use extensions::Compression;
pub use forwarded::{Forwarding, ForwardingHeader};
pub use pages::{Form, Page, PageForm, Pages};
pub use refusal::Refusal;
pub use request::TICKET_PREFIX;
pub use response::{CONTINUE, encode, refuse};
pub use route::{Origins, Route, Routes};
pub use upgrade::receive;

/// The most header fields that [`Limits::headers_max`] can allow: they are read onto the stack.
pub const HEADERS_MAX: usize = 100;

/// How much a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest request head in bytes, from the method to the empty line; more is refused with
    /// 431.
    pub head_bytes_max: usize,
    /// The longest request target in bytes; more is refused with 414.
    pub target_bytes_max: usize,
    /// The most header fields, at most [`HEADERS_MAX`]; more are refused with 431.
    pub headers_max: usize,
}

/// The reason for clients that connect while the server drains.
pub const DRAINING: &str = "server is shutting down; reconnect to another one";

/// Whether new connections are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// They are.
    Ready,
    /// The server is about to stop: upgrades get 503, `/readyz` says so.
    Draining {
        /// When to come back, in seconds.
        retry_after_s: u32,
    },
    /// The connection was accepted in order to reject it with an answer.
    Denied(Denial),
}

/// Why a client is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The status.
    pub refusal: Refusal,
    /// What was too much, and what to do.
    pub message: &'static str,
    /// When to come back, in seconds.
    pub retry_after_s: u32,
}

/// Why a token is rejected, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFault {
    pub message: String,
    /// The fault is the server's and may pass: the answer is 503 with this `Retry-After` (seconds).
    /// `None`: it is the token's, and the answer is 401.
    pub retry_after_s: Option<u32>,
}

/// What a gate says to a client that it lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It is counted in: the upgrade follows.
    Granted,
    /// Whether it is upgraded is decided elsewhere, later: nothing may be sent until then.
    Pending,
}

/// Decides about upgrades by who asks: by token, and by how many there are.
pub trait Gate: std::fmt::Debug {
    /// Whether a token in the query counts.
    fn takes_query(&self) -> bool;
    /// Looks at the token of a request for the route of this index: of its `Authorization: Bearer`,
    /// or else of `token` in its query.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    fn check(&self, route: usize, token: Option<&str>) -> Result<(), TokenFault>;
    /// Returns whether a ticket that a request for the route offers as a subprotocol counts.
    fn takes_ticket(&self, route: usize) -> bool;
    /// Looks at a ticket that a request offers. One that is not valid counts as none.
    fn present_ticket(&self, route: usize, ticket: &str);
    /// Counts a client in against whom nothing else speaks.
    ///
    /// # Errors
    /// Why there are too many; then it is not counted.
    fn enter(&self, client: Option<IpAddr>, route: usize) -> Result<Entry, Denial>;
    /// Counts a client in by its address, for a request that is answered elsewhere.
    ///
    /// # Errors
    /// Why there are too many; then it is not counted.
    fn enter_request(&self, client: Option<IpAddr>) -> Result<(), Denial>;
}

/// Pages below [`CHALLENGE_PATH`] (RFC 8555 section 8.3).
pub trait ChallengePages: std::fmt::Debug {
    /// The text of a token's page.
    fn find(&self, token: &str) -> Option<Arc<str>>;
}

/// Where an authority asks for the page of a token.
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Which hosts a page may connect from whose `Origin` is the request's own `Host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameOrigin {
    /// Any.
    AnyHost,
    /// Loopback addresses, `localhost` and names below it. For listeners that only this host
    /// reaches and that ask for no token: a page of any other name was led here by its name
    /// (DNS rebinding).
    Loopback,
}

/// How a client's request reached the first server that took it, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// It came without TLS, from a peer that may be a proxy which has ended TLS.
    Unknown,
    Http,
    Https,
}

/// What the decision about a request depends on beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// Where upgrades lead.
    pub routes: &'c Routes,
    /// What is shown where no route is.
    pub pages: &'c Pages,
    /// How much a request may be.
    pub limits: &'c Limits,
    /// Which header names the client, and which peers are trusted; `None`: no header is.
    pub forwarding: Option<&'c Forwarding>,
    /// The address at the other end; `None` is a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether the connection to the peer is encrypted.
    pub is_tls: bool,
    /// The pages by which an authority verifies the server's names; `None`: it is not asked.
    pub challenges: Option<&'c dyn ChallengePages>,
    /// Where requests are redirected to with `https://`, on the host that they name; health pages
    /// are answered all the same. `None`: they are not.
    pub redirect_port: Option<u16>,
    /// What a page's `Origin` may be where a route lists none.
    pub same_origin: SameOrigin,
    /// Whether upgrades are taken now.
    pub availability: Availability,
    /// Who may be upgraded; `None`: everybody.
    pub gate: Option<&'c dyn Gate>,
    /// Memory left for compression contexts of single connections (bytes).
    pub context_room_bytes: u64,
    /// The requests that are answered elsewhere; `None`: none are.
    pub forwards: Option<ForwardRule>,
}

/// Requests that are answered elsewhere, with their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardRule {
    /// The beginning of their paths.
    pub prefix: &'static str,
    /// The longest body (bytes); a longer one is not received.
    pub body_bytes_max: usize,
}

/// What [`receive`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head<'c> {
    /// A request that has not ended: show the same bytes again with more behind them.
    Partial,
    /// A request that was decided.
    Complete {
        /// How many bytes belong to it. What follows an upgrade are frames.
        consumed: usize,
        /// The client: what trusted proxies say, else the peer.
        client: Option<IpAddr>,
        /// What was decided.
        decision: Decision<'c>,
    },
}

//! The wire side: pure state machines that turn received bytes into events and answers into bytes.
//!
//! Nothing here sees a descriptor, a clock, a thread or another module of the crate; what the world
//! knows (limits, routes, whether the server drains, who the peer is) is passed in by value. So the
//! same code runs under any driver, can be replayed, and can be cut at any byte. The contract:
//!
//! - **Bytes in**: the owner keeps the received bytes and shows them; each part says how many it
//!   consumed. A connection goes [`proxy::parse`] (where a listener asks for it) →
//!   [`http::receive`] → [`ws::Receiver::next`], and what one stage leaves unconsumed is the next
//!   one's input.
//! - **Events out**: drain them before showing the next bytes. Any split of the input gives the
//!   same events, in the same order.
//! - **Bytes out**: appended to a buffer of the caller's.
//! - **Blame**: what a peer does wrong is a value ([`http::Refusal`], [`ws::ProtocolError`],
//!   [`proxy::ProxyError`]); no input whatever panics, spins or makes memory grow past its bound.
//!
//! After the upgrade nothing of [`http`] can write to the connection: it keeps no state to do it
//! with.
// Forbidden but for the fenced module of ws::deflate that calls zlib.
#![deny(unsafe_code)]

#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod proxy;
pub mod ws;

//! Requests that shards forward to the control thread.

use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::driver::Token;

/// Requests that wait for the control thread; further ones are rejected.
const REQUESTS_MAX: usize = 1024;

/// A whole request, with the connection that awaits its answer
/// ([`Mail::Forwarded`](super::mail::Mail::Forwarded)).
#[derive(Debug)]
pub struct ForwardedRequest {
    pub shard: u16,
    pub token: Token,
    /// The client's address, as the listener knows it.
    pub client: Option<IpAddr>,
    /// The bytes of the request's head, which was found valid.
    pub head: Box<[u8]>,
    pub body: Vec<u8>,
}

/// The way of requests to the control thread.
pub type ForwardedRequests = mpsc::Sender<ForwardedRequest>;

/// Makes the way.
pub fn forwarding_line() -> (ForwardedRequests, mpsc::Receiver<ForwardedRequest>) {
    mpsc::channel(REQUESTS_MAX)
}

//! Requests that shards forward to the control thread, bounded by number and by bytes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;

use crate::driver::Token;

/// Requests that wait for the control thread; further ones are rejected.
const REQUESTS_MAX: usize = 1024;
/// The bytes of all requests that are not answered yet, at most.
const BYTES_MAX: usize = 64 << 20;

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
    /// Keep it until the request is answered.
    pub room: RequestRoom,
}

/// The room that a request takes.
#[derive(Debug)]
pub struct RequestRoom {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for RequestRoom {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// The way of requests to the control thread.
#[derive(Debug)]
pub struct ForwardedRequests {
    sender: mpsc::Sender<ForwardedRequest>,
    all: Arc<AtomicUsize>,
}

/// Makes the way.
pub fn forwarding_line() -> (ForwardedRequests, mpsc::Receiver<ForwardedRequest>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    (ForwardedRequests { sender, all: Arc::default() }, receiver)
}

impl ForwardedRequests {
    /// Sends a request of this size (bytes), if there is room for it; returns whether there was.
    pub fn send_request(
        &self,
        bytes: usize,
        make: impl FnOnce(RequestRoom) -> ForwardedRequest,
    ) -> bool {
        // A single request always finds room.
        let next = |all: usize| (all == 0 || all + bytes <= BYTES_MAX).then_some(all + bytes);
        if self.all.fetch_update(Relaxed, Relaxed, next).is_err() {
            return false;
        }
        let room = RequestRoom { all: self.all.clone(), bytes };
        self.sender.try_send(make(room)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_by_bytes_until_they_are_answered() {
        let (requests, mut receiver) = forwarding_line();
        let send = |bytes| {
            requests.send_request(bytes, |room| ForwardedRequest {
                shard: 0,
                token: Token { slot: 0, generation: 0 },
                client: None,
                head: Box::default(),
                body: Vec::new(),
                room,
            })
        };
        assert!(send(2 * BYTES_MAX), "a single one finds room");
        assert!(!send(1));
        drop(receiver.try_recv().unwrap());
        assert!(send(BYTES_MAX / 2) && send(BYTES_MAX / 2) && !send(1));
        drop(receiver.try_recv().unwrap());
        assert!(send(1));
        drop(receiver);
        assert!(!send(1), "there is no control thread any more");
    }
}

//! Both engines against real sockets, without a shard: each operation of the driver's contract, and
//! the rare ends of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall::driver::epoll::{self, Epoll, EpollOptions};
use seawall::driver::uring::{self, Uring, UringOptions};
use seawall::driver::{Batch, Completion, Driver, Input, Received, Segment, Socket, Token, Wait};

const TOKEN: Token = Token { slot: 7, generation: 3 };

/// An engine under test.
trait Engine: Driver + Sized {
    type Peers;

    fn peers(shards: usize) -> Arc<Self::Peers>;
    /// Its driver for a shard, with as many buffers of this size, if it has that many.
    fn make(shard: u16, peers: &Arc<Self::Peers>, buffers: u32, buffer_bytes: u32) -> Self;

    /// Its only driver.
    fn alone(buffers: u32, buffer_bytes: u32) -> Self {
        Self::make(0, &Self::peers(1), buffers, buffer_bytes)
    }
}

fn uring_options(buffers: u32, buffer_bytes: u32) -> UringOptions {
    UringOptions {
        ring_entries: 64,
        completion_entries: 512,
        sockets_max: 64,
        buffers,
        buffer_bytes,
        min_wait_us: 0,
        min_wait_completions: 1,
        features: uring::probe_features().unwrap(),
        epoch: Instant::now(),
    }
}

impl Engine for Uring {
    type Peers = uring::Peers;

    fn peers(shards: usize) -> Arc<uring::Peers> {
        uring::Peers::new(shards)
    }

    fn make(shard: u16, peers: &Arc<uring::Peers>, buffers: u32, buffer_bytes: u32) -> Self {
        Self::new(uring_options(buffers, buffer_bytes), shard, peers.clone()).unwrap()
    }
}

impl Engine for Epoll {
    type Peers = epoll::Peers;

    fn peers(shards: usize) -> Arc<epoll::Peers> {
        epoll::Peers::new(shards)
    }

    fn make(shard: u16, peers: &Arc<epoll::Peers>, _: u32, buffer_bytes: u32) -> Self {
        let options = EpollOptions { sockets_max: 64, buffer_bytes, epoch: Instant::now() };
        Self::new(options, shard, peers.clone()).unwrap()
    }
}

/// Defines tests that run on each engine.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod on_uring {
            $(#[test] fn $test() { super::$test::<super::Uring>(); })*
        }
        mod on_epoll {
            $(#[test] fn $test() { super::$test::<super::Epoll>(); })*
        }
    };
}

mod receives;
mod sends;
mod sockets;

/// Turns until a completion comes; fails after some seconds without one.
fn next(driver: &mut impl Driver) -> Completion {
    for _ in 0..50 {
        if let Some(completion) = driver.next() {
            return completion;
        }
        let until = driver.now_ns() + 100_000_000;
        driver.submit(Wait::Until(until)).unwrap();
    }
    panic!("no completion came");
}

/// A driver with one accepted connection, and the client's end of it.
fn connected(driver: &mut impl Driver) -> (Socket, TcpStream, Option<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    driver.listen(0, listener.into()).unwrap();
    driver.accept(0);
    driver.submit(Wait::No).unwrap();
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match next(driver) {
        Completion::Accepted { listener: 0, socket, peer } => (socket, client, peer),
        other => panic!("{other:?}"),
    }
}

/// Receives until this many bytes are there.
fn receive(driver: &mut impl Driver, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        match next(driver) {
            Completion::Received { token, what: Received::Data(lease), .. } => {
                assert_eq!(token, TOKEN);
                bytes.extend_from_slice(driver.bytes(&lease));
                driver.release(lease);
            }
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[expect(clippy::unnecessary_box_returns, reason = "a driver takes its batches boxed")]
fn batch(segments: impl IntoIterator<Item = Vec<u8>>) -> Box<Batch> {
    let mut batch = Box::<Batch>::default();
    batch.token = TOKEN;
    segments.into_iter().for_each(|segment| batch.push(Segment::Owned(segment)));
    batch
}

fn readable(completion: &Completion) -> bool {
    matches!(completion, Completion::Received { armed: false, what: Received::Readable { .. }, .. })
}

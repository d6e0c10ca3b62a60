//! A steady-state echo allocates nothing: counted by the allocator, on the shard's own thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use seawall::config::{Config, file::File};
use seawall::driver::Driver;
use seawall::driver::epoll::{self, Epoll, EpollOptions};
use seawall::driver::listener::{Address, Options, listen};
use seawall::driver::uring::{self, Uring, UringOptions};
use seawall::shard::Shard;
use seawall::shard::mail::{Directory, Mail};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.with(Cell::get) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn connect(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

fn echoes(streams: &mut [TcpStream], rounds: usize, payload: &[u8]) {
    let len = payload.len();
    let mut frame = vec![0x82, 0x80 | 0x7E];
    frame.extend((len as u16).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    let mut reply = vec![0; len + 4];
    for _ in 0..rounds {
        // Two in a row, so that replies share a send.
        for stream in &mut *streams {
            stream.write_all(&frame).unwrap();
            stream.write_all(&frame).unwrap();
        }
        for stream in &mut *streams {
            for _ in 0..2 {
                stream.read_exact(&mut reply).unwrap();
                assert_eq!(&reply[4..], payload);
            }
        }
    }
}

#[test]
fn a_steady_echo_allocates_nothing() {
    // One after the other: the counter is shared.
    check_echo(make_uring);
    check_echo(make_epoll);
}

fn make_uring() -> Uring {
    let options = UringOptions {
        ring_entries: 256,
        completion_entries: 2048,
        sockets_max: 256,
        buffers: 64,
        buffer_bytes: 16 * 1024,
        min_wait_us: 0,
        min_wait_completions: 1,
        features: uring::probe_features().unwrap(),
        epoch: Instant::now(),
    };
    Uring::new(options, 0, uring::Peers::new(1)).unwrap()
}

fn make_epoll() -> Epoll {
    let options = EpollOptions { sockets_max: 256, buffer_bytes: 16 * 1024, epoch: Instant::now() };
    Epoll::new(options, 0, epoll::Peers::new(1)).unwrap()
}

fn check_echo<D: Driver>(make: impl FnOnce() -> D + Send + 'static) {
    let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let (bound, sockets) = listen(&address, &Options::default(), 1).unwrap();
    let Address::Tcp(bound) = bound else { panic!("TCP was asked for") };
    let config =
        Arc::new(Config::validate(&File { shards: 1, ..File::default() }, 4096, 1).unwrap());
    let directory = Directory::new(1);
    let shard_directory = directory.clone();
    let shard = std::thread::spawn(move || {
        let mut shard = Shard::new(make(), 0, config, shard_directory, sockets, 1).unwrap();
        COUNTED.with(|counted| counted.set(true));
        shard.run().unwrap();
    });
    let mut streams: Vec<_> = (0..20).map(|_| connect(bound)).collect();
    for payload in [&[7; 300][..], &[8; 9000][..]] {
        // Long enough for the pools to have met the clients' worst pace.
        echoes(&mut streams, 200, payload);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        echoes(&mut streams, 50, payload);
        let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(before > 0, "the counter counts");
        // The clients' pace varies, so a rare first need of one more chunk is not a steady cost.
        assert!(
            during <= 20,
            "{during} allocations during 2,000 echoes of {} bytes",
            payload.len()
        );
    }
    drop(streams);
    directory.post(0, Mail::Drain);
    shard.join().unwrap();
}

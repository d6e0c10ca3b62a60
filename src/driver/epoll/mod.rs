//! The epoll engine, for hosts that refuse `io_uring`: completions made from readiness.
//!
//! Each socket is registered once, edge-triggered, for input, room and the peer's end. What the
//! edges report is remembered (`sockets.rs`), and an operation is tried when it is armed and may
//! succeed; nothing is ever modified, so that pausing and waiting for room cost no call. An echo
//! costs two system calls, and a part of the wait that it shares with others.
//!
//! - Receives happen in [`Driver::next`], one at a time, into a buffer that stays warm: the shard
//!   returns or lends it before it asks again. After a receive that fills the buffer the socket
//!   goes to the back of the queue; a shorter one has emptied it.
//! - A send is tried at once, and rests only where there is no room. It continues in its turn of
//!   the same queue, so that one submission does a bounded amount of work.
//! - Every other operation is done when it is requested.
//!
//! A peer that sends urgent data (TCP), or descriptors (Unix), can make a receive short that has
//! not emptied the socket. The rest is received with the next bytes: it delays that peer alone.
//!
//! Tried and rejected (µs a message in bare loops, 26 B, at 200 and at 5,000 connections):
//! level-triggered events, which are as fast (4.0 to 4.8 and 6.5 to 7.4, against 4.0 to 4.2 and 6.3
//! to 7.4) but cost a call for each pause; and events for one shot, or receiving until the socket
//! is empty, which cost three calls a message instead of two.

mod buffers;
mod calls;
mod event_set;
mod factory;
mod listeners;
mod peers;
mod sockets;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::clock::Clock;
use super::{
    Batch, Bell, Completion, Driver, DriverCounters, Input, Lease, Loan, Received, Socket, TcpInfo,
    Token, Wait,
};
use buffers::{BUFFERS, Buffers};
use event_set::EventSet;
pub use factory::{EpollError, EpollFactory, NAME, SYSTEM_CALLS};
use listeners::Listeners;
use peers::Door;
pub use peers::Peers;
use sockets::{Armed, ENDED, LISTENER, READABLE, Sockets, WRITABLE};

/// What a socket is registered for.
const SOCKET_EVENTS: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
/// Events after which the socket stays readable.
const END_EVENTS: i32 = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
/// Data of the door's event.
const DOOR: u64 = u64::MAX;

/// Options of a shard's engine.
#[derive(Clone, Copy, Debug)]
pub struct EpollOptions {
    /// Sockets at a time at most, for which room is reserved.
    pub sockets_max: u32,
    /// Bytes of a receive buffer.
    pub buffer_bytes: u32,
    /// The start of all drivers' clocks.
    pub epoch: Instant,
}

/// The engine of one shard.
pub struct Epoll {
    set: EventSet,
    sockets: Sockets,
    listeners: Listeners,
    buffers: Buffers,
    /// Sends that have succeeded quietly: they wake nothing, and are reported before all else.
    quiet: VecDeque<Box<Batch>>,
    ready: VecDeque<Completion>,
    door: Arc<Door>,
    peers: Arc<Peers>,
    clock: Clock,
    scratch: Vec<IoSlice<'static>>,
    submissions: u64,
    completions: u64,
    starvations: u64,
}

impl Epoll {
    /// Makes the engine of shard `shard`.
    ///
    /// # Errors
    /// With the step that failed.
    pub fn new(options: EpollOptions, shard: u16, peers: Arc<Peers>) -> Result<Self, EpollError> {
        let at = |step| move |source| EpollError::new(step, source);
        let set = EventSet::new().map_err(at("epoll_create1"))?;
        let door = Door::new().map_err(at("eventfd"))?;
        let events = libc::EPOLLIN | libc::EPOLLET;
        set.add(&door.event, events, DOOR).map_err(at("epoll_ctl"))?;
        let buffers = Buffers::new(options.buffer_bytes).map_err(at("mmap"))?;
        peers.set(shard, door.clone());
        Ok(Self {
            set,
            sockets: Sockets::new(options.sockets_max as usize),
            listeners: Listeners::default(),
            buffers,
            quiet: VecDeque::new(),
            ready: VecDeque::new(),
            door,
            peers,
            clock: Clock::new(options.epoch),
            scratch: Vec::new(),
            submissions: 0,
            completions: 0,
            starvations: 0,
        })
    }

    /// Remembers what the events of the last wait report.
    fn note_events(&mut self) {
        for index in 0..self.set.count() {
            let (events, data) = self.set.event(index);
            if data == DOOR {
                self.note_door();
            } else if data as u32 & LISTENER != 0 {
                self.listeners.note_ready((data as u32 & !LISTENER) as u16);
            } else if let Some(socket) = self.sockets.of_event(data) {
                let mut flags = 0;
                if events & (libc::EPOLLIN | END_EVENTS) != 0 {
                    flags |= READABLE;
                }
                if events & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                    flags |= WRITABLE;
                }
                if events & END_EVENTS != 0 {
                    flags |= ENDED;
                }
                self.sockets.get(socket).set(flags);
                self.sockets.enqueue(socket);
            }
        }
    }

    /// Takes in what other threads have brought.
    fn note_door(&mut self) {
        let is_rung = self.door.take_ring();
        for (key, descriptor) in self.door.take_arrivals() {
            let socket = self.insert_or_end(descriptor);
            self.ready.push_back(Completion::Arrived { key, socket });
        }
        if is_rung {
            self.ready.push_back(Completion::Doorbell);
        }
    }

    /// Inserts a socket and registers it.
    fn insert(&mut self, descriptor: OwnedFd) -> Result<Socket, i32> {
        let (socket, data) = self.sockets.insert(descriptor);
        let descriptor = &self.sockets.get(socket).descriptor;
        let added = self.set.add(descriptor, SOCKET_EVENTS, data);
        added.map(|()| socket).map_err(|error| {
            self.sockets.remove(socket);
            error.raw_os_error().unwrap_or(libc::EIO)
        })
    }

    /// Inserts a socket that another shard has passed on, and expects to live here. If it cannot be
    /// registered, the connection ends.
    fn insert_or_end(&mut self, descriptor: OwnedFd) -> Socket {
        let (socket, data) = self.sockets.insert(descriptor);
        let entry = self.sockets.get(socket);
        if self.set.add(&entry.descriptor, SOCKET_EVENTS, data).is_err() {
            let _ = socket2::SockRef::from(&entry.descriptor).shutdown(std::net::Shutdown::Both);
            entry.set(READABLE | ENDED);
        }
        socket
    }

    /// Takes a socket out of the engine.
    fn remove(&mut self, socket: Socket) -> OwnedFd {
        let descriptor = self.sockets.remove(socket).descriptor;
        self.set.remove(&descriptor);
        descriptor
    }

    /// Arms an operation that awaits input.
    fn arm(&mut self, socket: Socket, token: Token, what: Armed) {
        let entry = self.sockets.get(socket);
        assert!(entry.armed == Armed::Nothing, "at most one receive or watch is armed on a socket");
        (entry.armed, entry.token) = (what, token);
        self.sockets.enqueue(socket);
    }

    /// Does what is queued until something completes.
    fn work(&mut self) -> Option<Completion> {
        while let Some(place) = self.sockets.dequeue() {
            let completion = if place & LISTENER == 0 {
                self.advance(Socket(place))
            } else {
                self.accept_next((place & !LISTENER) as u16)
            };
            if completion.is_some() {
                return completion;
            }
        }
        None
    }

    /// Continues one operation of a socket. If there is more to do, it goes to the queue's end.
    fn advance(&mut self, socket: Socket) -> Option<Completion> {
        let mut completion = None;
        if self.sockets.get(socket).can_send() {
            let batch = self.sockets.get(socket).resting.take();
            completion = self.try_send(socket, batch.expect("a send rests"));
        }
        if completion.is_none() && self.sockets.get(socket).can_receive() {
            completion = self.receive_next(socket);
        }
        self.sockets.enqueue(socket);
        completion
    }

    /// Receives once, or reports to a watch.
    fn receive_next(&mut self, socket: Socket) -> Option<Completion> {
        let entry = self.sockets.get(socket);
        let (token, ended) = (entry.token, entry.has(ENDED));
        let what = if entry.armed == Armed::Watch {
            Received::Readable { ended }
        } else if let Some(buffer) = self.buffers.lend() {
            self.submissions += 1;
            let result = calls::receive(&entry.descriptor, self.buffers.whole(buffer));
            if !matches!(result, Ok(1..)) {
                self.buffers.release(buffer);
            }
            match result {
                Ok(0) => Received::End,
                Ok(len) => {
                    if len < self.buffers.buffer_bytes() && !ended {
                        entry.clear(READABLE);
                    }
                    Received::Data(Lease { buffer, len: len as u32 })
                }
                Err(libc::EAGAIN) => {
                    entry.clear(READABLE);
                    return None;
                }
                // It is still readable.
                Err(libc::EINTR) => return None,
                Err(errno) => Received::Failed(errno),
            }
        } else {
            self.starvations += 1;
            Received::Starved
        };
        let armed = entry.armed == Armed::Streaming && matches!(what, Received::Data(_));
        if !armed {
            entry.armed = Armed::Nothing;
        }
        Some(Completion::Received { token, armed, what })
    }

    /// Accepts one connection.
    fn accept_next(&mut self, listener: u16) -> Option<Completion> {
        let socket = self.listeners.take_turn(listener)?;
        self.submissions += 1;
        let accepted = calls::accept(socket);
        if accepted.as_ref().is_err_and(|errno| *errno == libc::EAGAIN) {
            self.listeners.note_empty(listener);
            return None;
        }
        self.listeners.complete(listener);
        let inserted = accepted.and_then(|(descriptor, peer)| Ok((self.insert(descriptor)?, peer)));
        self.queue_listener(listener);
        Some(match inserted {
            Ok((socket, peer)) => Completion::Accepted { listener, socket, peer },
            Err(errno) => Completion::AcceptFailed { listener, errno },
        })
    }

    fn queue_listener(&mut self, listener: u16) {
        if self.listeners.begin_turn(listener) {
            self.sockets.enqueue_listener(listener);
        }
    }

    /// Sends what there is room for; without any, the batch rests in the socket, unless it is
    /// quiet.
    fn try_send(&mut self, socket: Socket, mut batch: Box<Batch>) -> Option<Completion> {
        let entry = self.sockets.get(socket);
        let mut result = Err(libc::EAGAIN);
        if entry.has(WRITABLE) {
            self.submissions += 1;
            let (sent, tried) = calls::send_batch(&entry.descriptor, &batch, &mut self.scratch);
            let is_full = match sent {
                Ok(taken) => taken < tried,
                Err(errno) => errno == libc::EAGAIN,
            };
            if is_full {
                entry.clear(WRITABLE);
            }
            result = sent;
        }
        if result == Err(libc::EAGAIN) && !batch.is_quiet {
            entry.resting = Some(batch);
            return None;
        }
        if batch.is_quiet && result == Ok(batch.offered_bytes()) {
            batch.left_ns = Some(self.clock.read());
            self.quiet.push_back(batch);
            return None;
        }
        Some(Completion::Sent { batch, result })
    }
}

impl Driver for Epoll {
    const WATCH_IS_CHEAPER: bool = false;

    fn now_ns(&mut self) -> u64 {
        self.clock.read()
    }

    fn unix_ms(&mut self) -> u64 {
        self.clock.unix_ms()
    }

    fn listen(&mut self, listener: u16, socket: OwnedFd) -> io::Result<()> {
        self.listeners.insert(listener, socket, &self.set)
    }

    fn accept(&mut self, listener: u16) {
        self.listeners.arm(listener);
        self.queue_listener(listener);
    }

    fn stop_listening(&mut self, listener: u16) {
        self.listeners.close(listener, &self.set);
    }

    fn is_listening(&self) -> bool {
        self.listeners.has_open()
    }

    fn receive(&mut self, socket: Socket, token: Token) {
        self.arm(socket, token, Armed::Streaming);
    }

    fn receive_once(&mut self, socket: Socket, token: Token, _: Input) {
        self.arm(socket, token, Armed::Once);
    }

    fn watch(&mut self, socket: Socket, token: Token) {
        self.arm(socket, token, Armed::Watch);
    }

    fn cancel_receive(&mut self, socket: Socket, token: Token) {
        let entry = self.sockets.get(socket);
        let found = std::mem::replace(&mut entry.armed, Armed::Nothing) != Armed::Nothing;
        let armed_token = entry.token;
        self.ready.push_back(Completion::CancelRan { token, found });
        if found {
            let (token, armed, what) = (armed_token, false, Received::Cancelled);
            self.ready.push_back(Completion::Received { token, armed, what });
        }
    }

    fn cancel_all(&mut self, socket: Socket, token: Token) {
        if let Some(batch) = self.sockets.get(socket).resting.take() {
            self.ready.push_back(Completion::Sent { batch, result: Err(libc::ECANCELED) });
        }
        self.cancel_receive(socket, token);
    }

    fn send(&mut self, socket: Socket, mut batch: Box<Batch>) {
        let is_alone = self.sockets.get(socket).resting.is_none();
        assert!(is_alone, "at most one send is in flight on a socket");
        batch.left_ns = None;
        let completion = self.try_send(socket, batch);
        self.ready.extend(completion);
    }

    fn send_loan(&mut self, socket: Socket, loan: Loan) {
        let entry = self.sockets.get(socket);
        assert!(entry.resting.is_none(), "a loan is the only send");
        let mut result = Err(libc::EAGAIN);
        if entry.has(WRITABLE) {
            let (buffer, len) = (loan.lease.buffer, loan.lease.len());
            let bytes = &self.buffers.bytes(buffer, len)[loan.start..];
            result = calls::send_bytes(&entry.descriptor, bytes);
            self.submissions += 1;
            if result.map_or_else(|errno| errno == libc::EAGAIN, |taken| taken < bytes.len()) {
                entry.clear(WRITABLE);
            }
        }
        self.ready.push_back(Completion::LoanSent { loan, result });
    }

    fn may_lend(&self) -> bool {
        self.buffers.free() > 0
    }

    fn shutdown(&mut self, socket: Socket, token: Token) {
        let entry = self.sockets.get(socket);
        calls::shut_down(&entry.descriptor);
        // A send that rests fails now.
        entry.set(WRITABLE);
        self.sockets.enqueue(socket);
        self.submissions += 1;
        self.ready.push_back(Completion::ShutDown { token });
    }

    fn close(&mut self, socket: Socket, token: Token) {
        drop(self.remove(socket));
        self.ready.push_back(Completion::Closed { token });
    }

    fn doorbell(&mut self, shard: u16) {
        if let Some(door) = self.peers.get(shard) {
            door.ring();
        }
    }

    fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64) {
        let result = match self.peers.get(shard).cloned() {
            Some(door) => {
                door.hand_over(key, self.remove(socket));
                Ok(())
            }
            None => Err(libc::EBADF),
        };
        self.ready.push_back(Completion::Passed { token, result });
    }

    fn measure(&mut self, socket: Socket, token: Token) {
        let result = TcpInfo::read(self.sockets.get(socket).descriptor.as_fd());
        self.ready.push_back(Completion::Measured { token, result });
    }

    fn duplicate(&mut self, socket: Socket, token: Token) {
        let result = self.sockets.get(socket).descriptor.try_clone();
        let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        self.ready.push_back(Completion::Duplicated { token, result });
    }

    fn adopt(&mut self, descriptors: Vec<OwnedFd>, token: Token) {
        let (mut sockets, mut failure) = (Vec::with_capacity(descriptors.len()), None);
        for descriptor in descriptors {
            match self.insert(descriptor) {
                Ok(socket) => sockets.push(socket),
                Err(errno) => {
                    failure = Some(errno);
                    break;
                }
            }
        }
        let sockets = sockets.into_boxed_slice();
        self.ready.push_back(Completion::Adopted { token, sockets, failure });
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        self.listeners.register(&self.set);
        let is_busy = !self.ready.is_empty() || self.sockets.has_queued();
        let timeout_ns = match wait {
            Wait::Until(until_ns) if !is_busy => {
                Some(until_ns.saturating_sub(self.clock.read_once()))
            }
            Wait::Forever if !is_busy => None,
            _ => Some(0),
        };
        self.set.wait(timeout_ns)?;
        self.note_events();
        (0..self.listeners.count()).for_each(|listener| self.queue_listener(listener));
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.clock.age();
        if let Some(batch) = self.quiet.pop_front() {
            let result = Ok(batch.offered_bytes());
            return Some(Completion::Sent { batch, result });
        }
        let completion = self.ready.pop_front().or_else(|| self.work());
        self.completions += u64::from(completion.is_some());
        completion
    }

    fn may_have_more(&self, _handled: u32) -> bool {
        self.set.is_full()
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        self.buffers.bytes(lease.buffer, lease.len())
    }

    fn release(&mut self, lease: Lease) {
        self.buffers.release(lease.buffer);
    }

    fn has_buffers(&self) -> bool {
        self.buffers.free() > 0
    }

    fn trim(&mut self) {
        self.buffers.trim();
        self.sockets.trim();
        self.ready.shrink_to(64);
        self.quiet.shrink_to(64);
    }

    fn bell(&self) -> Arc<dyn Bell> {
        self.door.clone()
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            enters: self.set.waits,
            submissions: self.submissions,
            completions: self.completions,
            overflows: 0,
            starvations: self.starvations,
            doorbells_failed: 0,
            buffers_lent: self.buffers.lent(),
            buffers_published: self.buffers.free(),
            buffers_total: BUFFERS.into(),
            buffer_bytes: self.buffers.buffer_bytes() as u32,
        }
    }
}

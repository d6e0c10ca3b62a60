//! The `io_uring` engine: per shard one ring, one buffer ring and one table of direct descriptors.
//!
//! An echo costs one system call: connections are direct descriptors; a receive is armed once and
//! stays armed (multishot) over provided buffers; all operations of a turn are queued and submitted
//! by the same `io_uring_enter` that waits for completions. With deferred task work the kernel
//! delivers completions inside that call, on this core.
//!
//! Rings are made disabled, restricted to the operations named in `ring.rs`, and enabled by the
//! thread that uses them, their single issuer.

mod accept_address;
mod buffers;
mod demand;
mod factory;
mod operations;
mod peers;
mod probe;
mod ring;
mod sends;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::cqueue;
use slab::Slab;

use super::clock::Clock;
use super::event;
use super::token::Op;
use super::{
    Batch, Bell, Completion, Driver, DriverCounters, Input, Lease, Loan, Received, Socket, Token,
    Wait,
};
use accept_address::AcceptAddress;
use buffers::Buffers;
pub use factory::{NAME, SYSTEM_CALLS, UringFactory};
use operations::Adoption;
use peers::EventBell;
pub use peers::Peers;
pub use probe::{Features, UringError, denial, io_uring_disabled, probe_features, seccomp_active};
use ring::{REPORTED_AT_ONCE, Ring};
use sends::Sends;

/// Options of a shard's engine.
#[derive(Clone, Copy, Debug)]
pub struct UringOptions {
    /// Submission entries.
    pub ring_entries: u32,
    /// Completion entries, at least twice as many.
    pub completion_entries: u32,
    /// Sockets at a time at most: size of the table of direct descriptors.
    pub sockets_max: u32,
    /// Receive buffers of this shard.
    pub buffers: u32,
    /// Bytes of one receive buffer.
    pub buffer_bytes: u32,
    /// Waits up to this long for [`UringOptions::min_wait_completions`] (µs); 0 = off.
    pub min_wait_us: u32,
    /// Completions that end the wait of `min_wait_us` early.
    pub min_wait_completions: u32,
    /// Features of this kernel.
    pub features: Features,
    /// The start of all drivers' clocks.
    pub epoch: Instant,
}

struct Listening {
    socket: OwnedFd,
    armed: u32,
    stopping: bool,
}

/// The engine of one shard.
pub struct Uring {
    ring: Ring,
    buffers: Buffers,
    listeners: Vec<Option<Listening>>,
    accepts: Slab<Box<AcceptAddress>>,
    sends: Sends,
    loans: Slab<Loan>,
    adopting: Slab<Adoption>,
    passing: Slab<(Token, Socket)>,
    ready: VecDeque<Completion>,
    bell: Arc<EventBell>,
    bell_count: Box<u64>,
    peers: Arc<Peers>,
    options: UringOptions,
    clock: Clock,
    doorbells_failed: u64,
    starvations: u64,
    /// A fatal error; the next `submit` returns it.
    failed: Option<i32>,
}

impl Uring {
    /// Makes the engine of shard `shard`. Call it on the thread that will use it.
    ///
    /// If the locked-memory limit refuses the ring, retries with half the size, down to 64 entries;
    /// [`Uring::ring_entries`] returns the granted size.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub fn new(options: UringOptions, shard: u16, peers: Arc<Peers>) -> Result<Self, UringError> {
        let mut entries = options.ring_entries.next_power_of_two();
        let mut buffer_count = options.buffers;
        let mut patience = 5;
        let (ring, buffers) = loop {
            match Self::assemble(&options, entries, buffer_count) {
                Ok(made) => break made,
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && patience > 0 => {
                    // A dropped ring counts until the kernel has cleaned it up.
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && entries > 64 => {
                    entries /= 2;
                    buffer_count = (buffer_count / 2).max(64);
                }
                Err(error) => {
                    return Err(UringError::explain("cannot set up a shard's ring", error));
                }
            }
        };
        let event = event::make_event().map_err(|error| UringError::explain("eventfd", error))?;
        let bell = Arc::new(EventBell { event });
        peers
            .set_ring(shard, ring.descriptor(), bell.clone())
            .map_err(|error| UringError::explain("cannot share a shard's ring", error))?;
        let mut uring = Self {
            ring,
            buffers,
            listeners: Vec::new(),
            accepts: Slab::new(),
            sends: Sends::new(options.sockets_max as usize),
            loans: Slab::new(),
            adopting: Slab::new(),
            passing: Slab::new(),
            ready: VecDeque::new(),
            bell,
            bell_count: Box::new(0),
            peers,
            options,
            clock: Clock::new(options.epoch),
            doorbells_failed: 0,
            starvations: 0,
            failed: None,
        };
        uring.arm_bell();
        Ok(uring)
    }

    fn assemble(
        options: &UringOptions,
        entries: u32,
        buffer_count: u32,
    ) -> io::Result<(Ring, Buffers)> {
        // In proportion, if the ring had to be made smaller.
        let wanted = u64::from(options.completion_entries) * u64::from(entries);
        let completions = wanted / u64::from(options.ring_entries.next_power_of_two());
        let mut ring = Ring::new(entries, completions as u32, options.features)?;
        ring.submitter().register_files_sparse(options.sockets_max)?;
        let buffers = Buffers::new(ring.submitter(), buffer_count, options.buffer_bytes)?;
        ring.enable()?;
        Ok((ring, buffers))
    }

    /// Submission entries that the kernel granted.
    pub fn ring_entries(&self) -> u32 {
        self.ring.entries()
    }

    /// Reports the quiet sends that have succeeded, before anything that came after them.
    fn conclude_quiet(&mut self, submitted_ns: u64) {
        let Self { ring, sends, ready, .. } = self;
        ring.look_ahead(|entry| {
            if let Some((Op::Send, socket)) = Op::unpack(entry.user_data()) {
                sends.note_completion(socket as u32);
            }
        });
        sends.conclude_quiet(submitted_ns, |batch| {
            let result = Ok(batch.offered_bytes());
            ready.push_back(Completion::Sent { batch, result });
        });
    }

    fn arm_bell(&mut self) {
        let event = self.bell.event.as_raw_fd();
        let entry = operations::read_event(event, &mut self.bell_count);
        self.ring.push(&entry);
    }

    /// Translates one queue entry; `None` for events that concern only the driver.
    fn translate_completion(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let (op, value) = Op::unpack(entry.user_data()).expect("this driver made the user data");
        let result = entry.result();
        match op {
            Op::Receive => Some(self.translate_receive(Token::from_value(value), entry)),
            Op::Send => {
                let batch = self.sends.complete_send(value as u32);
                let batch = batch.expect("a send completes once, and its batch is here until then");
                Some(Completion::Sent { batch, result: operations::to_result(result) })
            }
            Op::SendLoan => {
                let loan = self.loans.remove(value as usize);
                Some(Completion::LoanSent { loan, result: operations::to_result(result) })
            }
            Op::Accept => self.translate_accept(value, result),
            Op::Cancel => {
                Some(Completion::CancelRan { token: Token::from_value(value), found: result >= 0 })
            }
            Op::CancelSend => None, // The send completes on its own.
            Op::Shutdown => Some(Completion::ShutDown { token: Token::from_value(value) }),
            Op::Close => Some(Completion::Closed { token: Token::from_value(value) }),
            Op::Doorbell => Some(Completion::Doorbell),
            Op::DoorbellSent => {
                // Only failures are reported: a success is skipped. The shard's mailbox counts as
                // announced, so no later mail would wake it.
                self.doorbells_failed += 1;
                self.peers.wake_shard(value as u16);
                None
            }
            Op::Bell => {
                if result < 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
                    // Arming again would fail again: end the shard instead of spinning.
                    self.failed = Some(-result);
                    return None;
                }
                self.arm_bell();
                Some(Completion::Doorbell)
            }
            // The sender gets this failure too, and reports it by mail.
            Op::Arrived if result < 0 => None,
            Op::Arrived => Some(Completion::Arrived { key: value, socket: Socket(result as u32) }),
            Op::Pass | Op::PassClose => self.translate_pass(op, value as usize, result),
            Op::Install => {
                let result = operations::to_result(result).map(|descriptor| {
                    // SAFETY: the kernel has just installed this descriptor for us.
                    unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) }
                });
                Some(Completion::Duplicated { token: Token::from_value(value), result })
            }
            Op::Measure => Some(operations::complete_measure(Token::from_value(value), result)),
            Op::Adopt => Some(self.adopting.remove(value as usize).complete(result)),
            Op::StopListening => {
                self.close_listener_if_quiet(value as usize);
                None
            }
        }
    }

    fn translate_receive(&mut self, token: Token, entry: &cqueue::Entry) -> Completion {
        let armed = cqueue::more(entry.flags());
        let what = match (entry.result(), cqueue::buffer_select(entry.flags())) {
            (0, buffer) => {
                self.reclaim_buffer(buffer);
                Received::End
            }
            (len, Some(buffer)) if len > 0 => {
                self.buffers.lend_buffer(buffer, len as u32);
                Received::Data(Lease { buffer, len: len as u32 })
            }
            // Only a poll succeeds without a buffer: the result is its event mask.
            (events, None) if events > 0 => {
                let end = libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP;
                Received::Readable { ended: events as libc::c_short & end != 0 }
            }
            (error, buffer) => {
                self.reclaim_buffer(buffer);
                match -error {
                    libc::ENOBUFS => {
                        self.buffers.record_starved();
                        self.starvations += 1;
                        Received::Starved
                    }
                    libc::ECANCELED => Received::Cancelled,
                    // The kernel ended the multishot early without a socket error.
                    libc::EAGAIN | libc::EINTR => Received::Starved,
                    errno => Received::Failed(errno),
                }
            }
        };
        Completion::Received { token, armed, what }
    }

    /// Releases a buffer of a completion that carries no bytes.
    fn reclaim_buffer(&mut self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.buffers.lend_buffer(buffer, 0);
            self.buffers.release_buffer(buffer);
        }
    }

    fn translate_accept(&mut self, value: u64, result: i32) -> Option<Completion> {
        let (listener, index) = ((value >> 32) as u16, value as u32 as usize);
        let address = self.accepts.remove(index);
        let listening = self.listeners[usize::from(listener)].as_mut()?;
        listening.armed -= 1;
        let stopping = listening.stopping;
        self.close_listener_if_quiet(usize::from(listener));
        if result < 0 {
            // Cancelled because the listener stops: the shard does not expect a completion.
            let failed = Completion::AcceptFailed { listener, errno: -result };
            return (!stopping).then_some(failed);
        }
        let peer = address.peer();
        Some(Completion::Accepted { listener, socket: Socket(result as u32), peer })
    }

    fn close_listener_if_quiet(&mut self, listener: usize) {
        if self.listeners[listener].as_ref().is_some_and(|l| l.stopping && l.armed == 0) {
            self.listeners[listener] = None;
        }
    }

    fn translate_pass(&mut self, op: Op, index: usize, result: i32) -> Option<Completion> {
        let (token, socket) = self.passing[index];
        if op == Op::Pass && result >= 0 {
            // The other ring has the socket now; close this ring's reference.
            self.ring.push(&operations::close(socket, Op::PassClose.pack(index as u64)));
            return None;
        }
        self.passing.remove(index);
        let result = if op == Op::Pass { Err(-result) } else { Ok(()) };
        Some(Completion::Passed { token, result })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still access memory in flight, for instance after a shard's panic. Leak it
        // instead of freeing it.
        self.sends.leak();
        std::mem::forget(std::mem::take(&mut self.accepts));
        std::mem::forget(std::mem::take(&mut self.adopting));
        std::mem::forget(std::mem::take(&mut self.bell_count));
        if std::thread::panicking() {
            self.buffers.leak();
        }
    }
}

impl Driver for Uring {
    const WATCH_IS_CHEAPER: bool = true;

    fn now_ns(&mut self) -> u64 {
        self.clock.read()
    }

    fn unix_ms(&mut self) -> u64 {
        self.clock.unix_ms()
    }

    fn listen(&mut self, listener: u16, socket: OwnedFd) -> io::Result<()> {
        let index = usize::from(listener);
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        self.listeners[index] = Some(Listening { socket, armed: 0, stopping: false });
        Ok(())
    }

    fn accept(&mut self, listener: u16) {
        let Some(listening) = self.listeners[usize::from(listener)].as_mut() else { return };
        if listening.stopping {
            return;
        }
        listening.armed += 1;
        let entry = self.accepts.vacant_entry();
        let user_data = Op::Accept.pack(u64::from(listener) << 32 | entry.key() as u64);
        let address = entry.insert(AcceptAddress::new());
        let descriptor = listening.socket.as_raw_fd();
        self.ring.push(&operations::accept(
            descriptor,
            &mut address.storage,
            &mut address.len,
            user_data,
        ));
    }

    fn stop_listening(&mut self, listener: u16) {
        let Some(listening) = self.listeners[usize::from(listener)].as_mut() else { return };
        if !std::mem::replace(&mut listening.stopping, true) {
            let user_data = Op::StopListening.pack(u64::from(listener));
            self.ring.push(&operations::cancel_listener(listening.socket.as_raw_fd(), user_data));
        }
    }

    fn is_listening(&self) -> bool {
        self.listeners.iter().any(Option::is_some)
    }

    fn receive(&mut self, socket: Socket, token: Token) {
        let user_data = Op::Receive.pack(token.value());
        self.ring.push(&operations::receive(socket, buffers::GROUP, user_data));
    }

    fn receive_once(&mut self, socket: Socket, token: Token, input: Input) {
        let (bytes, user_data) = (self.options.buffer_bytes, Op::Receive.pack(token.value()));
        let entry = operations::receive_once(socket, buffers::GROUP, bytes, user_data);
        let waits = input == Input::Unknown;
        self.ring.push(&if waits { operations::poll_first(entry) } else { entry });
    }

    fn watch(&mut self, socket: Socket, token: Token) {
        self.ring.push(&operations::watch(socket, Op::Receive.pack(token.value())));
    }

    fn cancel_receive(&mut self, socket: Socket, token: Token) {
        let _ = socket;
        let target = Op::Receive.pack(token.value());
        self.ring.push(&operations::cancel_one(target, Op::Cancel.pack(token.value())));
    }

    fn cancel_all(&mut self, socket: Socket, token: Token) {
        // Cancel each by its user data: cancelling by descriptor walks through every armed receive
        // of the ring, so that closing all connections would cost their number squared.
        if self.sends.has_send(socket) {
            let target = Op::Send.pack(u64::from(socket.0));
            self.ring.push(&operations::cancel_one(target, Op::CancelSend.pack(0)));
        }
        self.cancel_receive(socket, token);
    }

    fn send(&mut self, socket: Socket, batch: Box<Batch>) {
        let user_data = Op::Send.pack(u64::from(socket.0));
        let batch = self.sends.begin_send(socket, batch);
        let vectorized = self.options.features.send_vectorized;
        self.ring.push(&operations::send(socket, batch, vectorized, user_data));
    }

    fn send_loan(&mut self, socket: Socket, loan: Loan) {
        let bytes = &self.buffers.bytes(loan.lease.buffer, loan.lease.len)[loan.start..];
        let (address, len) = (bytes.as_ptr(), bytes.len());
        let index = self.loans.insert(loan);
        let user_data = Op::SendLoan.pack(index as u64);
        self.ring.push(&operations::send_now(socket, address, len, user_data));
    }

    fn may_lend(&self) -> bool {
        self.loans.len() < self.buffers.total() as usize / 4
    }

    fn shutdown(&mut self, socket: Socket, token: Token) {
        self.ring.push(&operations::shutdown(socket, Op::Shutdown.pack(token.value())));
    }

    fn close(&mut self, socket: Socket, token: Token) {
        self.ring.push(&operations::close(socket, Op::Close.pack(token.value())));
    }

    fn doorbell(&mut self, shard: u16) {
        if let Some(ring) = self.peers.ring_of(shard) {
            self.ring.push(&operations::doorbell(ring, shard));
        }
    }

    fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64) {
        let Some(ring) = self.peers.ring_of(shard) else {
            self.ready.push_back(Completion::Passed { token, result: Err(libc::EBADF) });
            return;
        };
        let index = self.passing.insert((token, socket));
        self.ring.push(&operations::pass(
            ring,
            socket,
            Op::Arrived.pack(key),
            Op::Pass.pack(index as u64),
        ));
    }

    fn measure(&mut self, socket: Socket, token: Token) {
        if !self.options.features.install {
            self.ready.push_back(Completion::Measured { token, result: Err(libc::EOPNOTSUPP) });
            return;
        }
        // The ring's own socket commands do not reach TCP options: they need a plain descriptor.
        self.ring.push(&operations::install_descriptor(socket, Op::Measure.pack(token.value())));
    }

    fn duplicate(&mut self, socket: Socket, token: Token) {
        if !self.options.features.install {
            self.ready.push_back(Completion::Duplicated { token, result: Err(libc::EOPNOTSUPP) });
            return;
        }
        self.ring.push(&operations::install_descriptor(socket, Op::Install.pack(token.value())));
    }

    fn adopt(&mut self, descriptors: Vec<OwnedFd>, token: Token) {
        let index = self.adopting.insert(Adoption::new(descriptors, token));
        let numbers = self.adopting[index].numbers();
        self.ring.push(&operations::adopt(numbers, Op::Adopt.pack(index as u64)));
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        if let Some(errno) = self.failed {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.buffers.top_up();
        let wait = if self.ready.is_empty() { wait } else { Wait::No };
        let now = if matches!(wait, Wait::Until(_)) { self.clock.read_once() } else { 0 };
        let has_quiet = self.sends.has_queued();
        let submitted_ns = if has_quiet { self.clock.read_once() } else { 0 };
        self.ring.enter(wait, now, &self.options)?;
        if has_quiet && self.ring.has_submitted_all() {
            self.conclude_quiet(submitted_ns);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        self.clock.age();
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            let entry = self.ring.reap_completion()?;
            if let Some(completion) = self.translate_completion(&entry) {
                return Some(completion);
            }
        }
    }

    fn may_have_more(&self, handled: u32) -> bool {
        handled >= REPORTED_AT_ONCE
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        self.buffers.bytes(lease.buffer, lease.len)
    }

    fn release(&mut self, lease: Lease) {
        self.buffers.release_buffer(lease.buffer);
    }

    fn has_buffers(&self) -> bool {
        self.buffers.has_buffers()
    }

    fn trim(&mut self) {
        self.ring.trim();
        if self.ring.is_drained() {
            self.buffers.trim();
        }
    }

    fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            enters: self.ring.enters,
            submissions: self.ring.submissions,
            completions: self.ring.completions,
            overflows: self.ring.overflows(),
            starvations: self.starvations,
            doorbells_failed: self.doorbells_failed,
            buffers_lent: self.buffers.lent(),
            buffers_published: self.buffers.published(),
            buffers_total: self.buffers.total(),
            buffer_bytes: self.buffers.buffer_bytes(),
        }
    }
}

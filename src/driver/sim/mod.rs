//! A seeded fake of the kernel: virtual time, and every fault that a shard must handle.
//!
//! A [`Network`] holds the sockets of all shards and of their simulated clients; a [`Sim`] is one
//! shard's driver on it. Every decision that a kernel is free to make is drawn from the seed: how
//! many bytes a receive returns, how few a send takes, how long an operation rests, the order of
//! completions, and whether buffers, descriptors or memory run out. The same seed gives the same
//! run.
//!
//! The fake is strict where the kernel is not: it panics when an operation breaks the contract of
//! [`Driver`] (two sends at once, a close with a receive armed, a lease kept over a turn).

mod network;

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Batch, Bell, Completion, Driver, DriverCounters, Input, Lease, Loan, Received, Socket, TcpInfo,
    Token, Wait,
};
use network::{Cancel, Receive, State};
pub use network::{Faults, Peer, Traffic};

/// When simulated time begins (Unix, ms).
const UNIX_START_MS: u64 = 1_700_000_000_000;

/// The whole simulation.
#[derive(Clone)]
pub struct Network(Rc<RefCell<State>>);

impl Network {
    /// Makes a network of this many shards.
    pub fn new(seed: u64, shards: u16, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(State::new(seed, shards, faults))))
    }

    /// Makes the driver of one shard, with this many receive buffers of this size.
    pub fn new_driver(&self, shard: u16, buffers: u16, buffer_bytes: usize) -> Sim {
        Sim {
            network: self.0.clone(),
            shard,
            buffers: (0..buffers).map(|_| vec![0; buffer_bytes]).collect(),
            free: (0..buffers).collect(),
            loans: Vec::new(),
            ready: VecDeque::new(),
            quiet: VecDeque::new(),
            counters: DriverCounters::default(),
        }
    }

    /// Connects a client to a listener of one shard.
    pub fn connect(&self, shard: u16, listener: u16, address: Option<SocketAddr>) -> Peer {
        let socket = self.0.borrow_mut().connect(shard, listener, address);
        Peer { network: self.0.clone(), socket }
    }

    /// Advances the clock.
    pub fn advance_clock(&self, ns: u64) {
        self.0.borrow_mut().now_ns += ns;
    }

    /// Sets the wall clock forward (ms), as after a suspension of the machine.
    pub fn step_wall_clock(&self, ms: u64) {
        self.0.borrow_mut().wall_step_ms += ms;
    }

    /// The wall clock (Unix, ms).
    pub fn unix_ms(&self) -> u64 {
        let state = self.0.borrow();
        UNIX_START_MS + state.wall_step_ms + state.now_ns / 1_000_000
    }

    /// The clock (ns).
    pub fn now_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }

    /// Sockets that the server has accepted and not closed.
    pub fn open_sockets(&self) -> usize {
        self.0.borrow().sockets.iter().filter(|socket| socket.taken && !socket.closed).count()
    }

    /// Counts of what the network has done so far.
    pub fn traffic(&self) -> Traffic {
        self.0.borrow().traffic
    }

    /// A random number below `bound`, from the run's seed.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.0.borrow_mut().random_below(bound)
    }

    /// The last wait that the shard requested.
    pub fn last_wait(&self, shard: u16) -> Wait {
        self.0.borrow().shards[usize::from(shard)].wait
    }
}

/// The simulated driver of one shard.
pub struct Sim {
    network: Rc<RefCell<State>>,
    shard: u16,
    buffers: Vec<Vec<u8>>,
    free: Vec<u16>,
    loans: Vec<(Socket, Loan)>,
    ready: VecDeque<Completion>,
    /// Quiet sends that have succeeded: they wake nothing, and are reported before all else.
    quiet: VecDeque<Box<Batch>>,
    counters: DriverCounters,
}

impl Sim {
    /// Whether a shard that waits like this would wake by now: its time has come, its doorbell was
    /// rung, or the kernel may have a completion for it.
    pub fn is_awake(&self, wait: Wait) -> bool {
        let state = self.network.borrow();
        let is_due = match wait {
            Wait::No => true,
            Wait::Until(until_ns) => until_ns <= state.now_ns,
            Wait::Forever => false,
        };
        let is_done = !self.ready.is_empty() || !self.loans.is_empty();
        is_due || is_done || state.has_completion(self.shard)
    }

    fn state(&self) -> RefMut<'_, State> {
        self.network.borrow_mut()
    }

    fn arm_receive(&mut self, socket: Socket, token: Token, kind: Receive) {
        let mut state = self.state();
        let socket = state.own_socket(self.shard, socket);
        let earlier = socket.receive.replace((token, kind));
        assert!(earlier.is_none(), "at most one receive or watch is armed on a socket");
        // A cancellation is processed in its order, before this one: it finds nothing.
        if let Some((token, Cancel::Receive)) =
            socket.cancel.take_if(|(_, what)| *what == Cancel::Receive)
        {
            drop(state);
            self.ready.push_back(Completion::CancelRan { token, found: false });
        }
    }

    /// Advances the operations of one socket as far as the seed decides.
    fn advance_socket(&mut self, index: u32) {
        let network = self.network.clone();
        let mut state = network.borrow_mut();
        if state.draw_rest() {
            return;
        }
        let later = state.random_below(2) == 0;
        let socket = &mut state.sockets[index as usize];
        if std::mem::take(&mut socket.cancelled)
            && let Some((token, _)) = socket.receive.take()
        {
            let what = Received::Cancelled;
            self.ready.push_back(Completion::Received { token, armed: false, what });
        }
        self.advance_receive(&mut state, index);
        self.advance_send(&mut state, index);
        let socket = &mut state.sockets[index as usize];
        match socket.cancel.take() {
            None => {}
            Some((token, what)) => {
                let found = socket.receive.is_some();
                let mut ended = vec![Completion::CancelRan { token, found }];
                if found && later {
                    socket.cancelled = true;
                } else if let Some((token, _)) = socket.receive.take() {
                    ended.push(Completion::Received {
                        token,
                        armed: false,
                        what: Received::Cancelled,
                    });
                }
                if what == Cancel::All
                    && let Some(batch) = socket.send.take()
                {
                    ended.push(Completion::Sent { batch, result: Err(libc::ECANCELED) });
                }
                if state.random_below(2) == 0 {
                    ended.reverse();
                }
                self.ready.extend(ended);
            }
        }
        let socket = &mut state.sockets[index as usize];
        if let Some(token) = socket.shutdown.take() {
            socket.fin_sent = true;
            self.ready.push_back(Completion::ShutDown { token });
        }
        if let Some(token) = socket.closing.take() {
            socket.close();
            self.ready.push_back(Completion::Closed { token });
        }
    }

    fn advance_receive(&mut self, state: &mut State, index: u32) {
        let Some((token, kind)) = state.sockets[index as usize].receive else { return };
        loop {
            let socket = &state.sockets[index as usize];
            let available = socket.to_server.len();
            let ended = if kind == Receive::Watching {
                if !socket.has_input() {
                    return;
                }
                Some(Received::Readable { ended: socket.reset || socket.client_fin })
            } else if socket.reset {
                Some(Received::Failed(libc::ECONNRESET))
            } else if available == 0 {
                if !socket.client_fin {
                    return;
                }
                Some(Received::End)
            } else if self.free.is_empty() || state.draw_fault(state.faults.starve) {
                self.counters.starvations += 1;
                Some(Received::Starved)
            } else {
                None
            };
            if let Some(what) = ended {
                state.sockets[index as usize].receive = None;
                self.ready.push_back(Completion::Received { token, armed: false, what });
                return;
            }
            let buffer = self.free.pop().expect("it was just checked");
            let segment = state.sockets[index as usize].segment;
            let most = available.min(self.buffers[usize::from(buffer)].len()).min(segment);
            let len = if state.draw_fault(state.faults.short_receive) {
                1 + state.random_below(most as u64) as usize
            } else {
                most
            };
            let armed = kind == Receive::Streaming && !state.draw_fault(state.faults.receive_ends);
            let socket = &mut state.sockets[index as usize];
            for (to, from) in
                self.buffers[usize::from(buffer)].iter_mut().zip(socket.to_server.drain(..len))
            {
                *to = from;
            }
            if !armed {
                socket.receive = None;
            }
            state.traffic.bytes_received += len as u64;
            state.traffic.leases_given += 1;
            let what = Received::Data(Lease { buffer, len: len as u32 });
            self.ready.push_back(Completion::Received { token, armed, what });
            if !armed || state.draw_fault(state.faults.short_receive) {
                return;
            }
        }
    }

    /// A loan's send never waits: it sends as much as there is room for, or fails.
    fn advance_loans(&mut self) {
        for (socket, loan) in std::mem::take(&mut self.loans) {
            let mut state = self.network.borrow_mut();
            let faults = state.faults;
            let (fails, short) =
                (state.draw_fault(faults.send_fails), state.draw_fault(faults.short_send));
            let bytes = &self.buffers[usize::from(loan.lease.buffer)][..loan.lease.len()];
            let bytes = &bytes[loan.start..];
            let portion = state.random_below(bytes.len() as u64) as usize;
            let socket = &mut state.sockets[socket.0 as usize];
            let room = socket.window.saturating_sub(socket.to_client.len());
            let most = if short { portion } else { bytes.len() };
            let result = if socket.reset || fails {
                socket.lost = true;
                Err(libc::EPIPE)
            } else if room.min(most) == 0 {
                Err(libc::EAGAIN)
            } else {
                socket.to_client.extend(&bytes[..room.min(most)]);
                state.traffic.bytes_sent += room.min(most) as u64;
                Ok(room.min(most))
            };
            drop(state);
            self.ready.push_back(Completion::LoanSent { loan, result });
        }
    }

    fn advance_send(&mut self, state: &mut State, index: u32) {
        let fails = state.draw_fault(state.faults.send_fails);
        let socket = &state.sockets[index as usize];
        let Some(batch) = &socket.send else { return };
        let room = socket.window.saturating_sub(socket.to_client.len());
        let lost = socket.reset || fails;
        if room == 0 && !lost && !batch.is_quiet {
            return;
        }
        let asked = batch.offered_bytes();
        let mut taken = asked.min(room);
        if state.draw_fault(state.faults.short_send) {
            taken = 1 + state.random_below(taken.max(1) as u64) as usize;
        }
        let taken = taken.min(asked).min(room);
        let socket = &mut state.sockets[index as usize];
        let mut batch = socket.send.take().expect("it was just checked");
        batch.left_ns = None;
        if lost {
            socket.lost = true;
            self.ready.push_back(Completion::Sent { batch, result: Err(libc::EPIPE) });
            return;
        }
        assert!(!socket.fin_sent, "nothing is sent after a shutdown");
        socket.to_client.extend(batch.offered_slices().flatten().take(taken));
        state.traffic.bytes_sent += taken as u64;
        if batch.is_quiet && taken == asked {
            batch.left_ns = Some(state.now_ns);
            return self.quiet.push_back(batch);
        }
        let result = if taken > 0 { Ok(taken) } else { Err(libc::EAGAIN) };
        self.ready.push_back(Completion::Sent { batch, result });
    }
}

impl Driver for Sim {
    const WATCH_IS_CHEAPER: bool = true;

    /// Only the simulation advances time.
    fn stopwatch() -> fn() -> u64 {
        || 0
    }

    fn now_ns(&mut self) -> u64 {
        self.state().now_ns
    }

    fn unix_ms(&mut self) -> u64 {
        let state = self.state();
        UNIX_START_MS + state.wall_step_ms + state.now_ns / 1_000_000
    }

    fn listen(&mut self, listener: u16, _socket: OwnedFd) -> io::Result<()> {
        self.state().listen(self.shard, listener);
        Ok(())
    }

    fn accept(&mut self, listener: u16) {
        self.state().shards[usize::from(self.shard)].listeners[usize::from(listener)].armed += 1;
    }

    fn stop_listening(&mut self, listener: u16) {
        let mut state = self.state();
        let listener = &mut state.shards[usize::from(self.shard)].listeners[usize::from(listener)];
        listener.armed = 0;
        listener.closed = true;
    }

    fn is_listening(&self) -> bool {
        false
    }

    fn receive(&mut self, socket: Socket, token: Token) {
        self.arm_receive(socket, token, Receive::Streaming);
    }

    fn receive_once(&mut self, socket: Socket, token: Token, input: Input) {
        assert!(input != Input::There || self.state().own_socket(self.shard, socket).has_input());
        self.arm_receive(socket, token, Receive::Once);
    }

    fn watch(&mut self, socket: Socket, token: Token) {
        self.arm_receive(socket, token, Receive::Watching);
    }

    fn cancel_receive(&mut self, socket: Socket, token: Token) {
        let mut state = self.state();
        state.traffic.cancellations += 1;
        let socket = state.own_socket(self.shard, socket);
        assert!(!socket.cancelled, "at most one cancellation is in flight");
        socket.cancel = Some((token, Cancel::Receive));
    }

    fn cancel_all(&mut self, socket: Socket, token: Token) {
        let mut state = self.state();
        state.traffic.cancellations += 1;
        let socket = state.own_socket(self.shard, socket);
        // An earlier cancellation still gets its own completion.
        if let Some((token, _)) = socket.cancel.replace((token, Cancel::All)) {
            drop(state);
            self.ready.push_back(Completion::CancelRan { token, found: true });
        }
    }

    fn send(&mut self, socket: Socket, batch: Box<Batch>) {
        assert!(!batch.is_empty(), "a send is not empty");
        let earlier = self.state().own_socket(self.shard, socket).send.replace(batch);
        assert!(earlier.is_none(), "at most one send is in flight on a socket");
    }

    fn send_loan(&mut self, socket: Socket, loan: Loan) {
        let mut state = self.state();
        assert!(state.own_socket(self.shard, socket).send.is_none(), "a loan is the only send");
        drop(state);
        self.loans.push((socket, loan));
    }

    fn may_lend(&self) -> bool {
        self.loans.len() < self.buffers.len() / 2
    }

    fn shutdown(&mut self, socket: Socket, token: Token) {
        self.state().own_socket(self.shard, socket).shutdown = Some(token);
    }

    fn close(&mut self, socket: Socket, token: Token) {
        let mut state = self.state();
        let socket = state.own_socket(self.shard, socket);
        assert!(
            socket.receive.is_none() && socket.send.is_none() && socket.shutdown.is_none(),
            "nothing is in flight on a socket that is closed"
        );
        socket.closing = Some(token);
    }

    fn doorbell(&mut self, shard: u16) {
        self.state().shards[usize::from(shard)].rung.store(true, Ordering::Release);
    }

    fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64) {
        let mut state = self.state();
        let percent = state.faults.pass_fails;
        if state.draw_fault(percent) {
            drop(state);
            self.ready.push_back(Completion::Passed { token, result: Err(libc::ENFILE) });
            return;
        }
        state.own_socket(self.shard, socket).shard = shard;
        state.shards[usize::from(shard)].arrived.push_back((key, socket));
        drop(state);
        self.ready.push_back(Completion::Passed { token, result: Ok(()) });
    }

    fn measure(&mut self, socket: Socket, token: Token) {
        let mut state = self.state();
        let now_ns = state.now_ns;
        let socket = state.own_socket(self.shard, socket);
        // The simulated peer acknowledges every byte that it reads.
        let unread = socket.to_client.len();
        let info = TcpInfo {
            unacknowledged: unread as u32,
            last_acknowledged_ms: ((now_ns - socket.read_ns) / 1_000_000) as u32,
            acknowledged_bytes: socket.read_bytes,
            window_bytes: socket.window.saturating_sub(unread).min(u32::MAX as usize) as u32,
            ..TcpInfo::default()
        };
        drop(state);
        self.ready.push_back(Completion::Measured { token, result: Ok(info) });
    }

    fn duplicate(&mut self, _socket: Socket, token: Token) {
        self.ready.push_back(Completion::Duplicated { token, result: Err(libc::EOPNOTSUPP) });
    }

    fn adopt(&mut self, _descriptors: Vec<OwnedFd>, token: Token) {
        let failure = Some(libc::EOPNOTSUPP);
        self.ready.push_back(Completion::Adopted { token, sockets: Box::default(), failure });
    }

    fn submit(&mut self, wait: Wait) -> io::Result<()> {
        // A turn that was cut short has left completions for the next one.
        let is_data =
            |one: &&Completion| matches!(one, Completion::Received { what: Received::Data(_), .. });
        let unseen = self.ready.iter().filter(is_data).count();
        let home = self.free.len() + self.loans.len() + unseen;
        assert_eq!(home, self.buffers.len(), "every lease is released in its turn, or is a loan");
        self.advance_loans();
        self.counters.enters += 1;
        let (accepted, own) = {
            let mut state = self.state();
            state.shards[usize::from(self.shard)].wait = wait;
            (state.accept(self.shard), state.sockets_of(self.shard))
        };
        self.ready.extend(accepted);
        for index in own {
            self.advance_socket(index);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Completion> {
        if let Some(batch) = self.quiet.pop_front() {
            let result = Ok(batch.offered_bytes());
            return Some(Completion::Sent { batch, result });
        }
        let next = self.ready.pop_front();
        self.counters.completions += u64::from(next.is_some());
        next
    }

    /// The same rule as a ring, so that the shard takes the same paths.
    fn may_have_more(&self, handled: u32) -> bool {
        handled >= 16
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        &mut self.buffers[usize::from(lease.buffer)][..lease.len as usize]
    }

    fn release(&mut self, lease: Lease) {
        assert!(!self.free.contains(&lease.buffer), "a lease is released once");
        self.free.push(lease.buffer);
        self.state().traffic.leases_returned += 1;
    }

    fn has_buffers(&self) -> bool {
        !self.free.is_empty()
    }

    fn trim(&mut self) {}

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(SimBell(self.state().shards[usize::from(self.shard)].rung.clone()))
    }

    fn counters(&self) -> DriverCounters {
        DriverCounters {
            buffers_lent: (self.buffers.len() - self.free.len()) as u32,
            buffers_published: self.free.len() as u32,
            buffers_total: self.buffers.len() as u32,
            ..self.counters
        }
    }
}

/// Wakes the shard of its driver; see [`Sim::is_awake`].
struct SimBell(Arc<AtomicBool>);

impl Bell for SimBell {
    fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }
}

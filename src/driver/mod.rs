//! The kernel side: sockets, rings and receive buffers, behind one trait that speaks completions.
//!
//! A shard tells its [`Driver`] what to do, submits everything once a turn, and takes
//! [`Completion`]s back. Nothing here knows of HTTP, WebSocket or channels. Two engines exist:
//! [`uring`] is the product; [`sim`] is a seeded fake with virtual time and faults, so that every
//! rare path of the shard can be walked in a test. An epoll engine has its place here for hosts
//! that refuse `io_uring`; the trait is made so that it can emulate the completions. The server
//! gets its drivers from a [`DriverFactory`], which also describes the engine.
//!
//! Three contracts keep the kernel and the shard apart:
//!
//! - **Sockets are names, not descriptors.** A [`Socket`] is an index that only its driver can
//!   read. It is valid from `Accepted`, `Arrived` or `Adopted` until `Closed`, `Passed` or
//!   `Detached`.
//! - **Memory in flight belongs to the driver.** A [`Batch`] is given away with [`Driver::send`]
//!   and comes back in [`Completion::Sent`]; received bytes are lent as a [`Lease`] and must be
//!   given back with [`Driver::release`] in the same turn, or be sent on as a [`Loan`], which comes
//!   back as soon as the kernel has looked at it.
//! - **Every operation ends with exactly one final completion**, also a cancelled one. A
//!   [`Token`] carries slot and generation, so that the shard can tell a late completion from a
//!   current one and frees a slot only when nothing of it is left in the kernel.

pub mod allocator;
pub mod batch;
pub mod engine;
pub mod host;
pub mod listener;
pub mod signals;
pub mod sim;
pub mod tcp;
pub mod token;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use batch::{Batch, Segment};
pub use engine::{DriverFactory, EngineFacts, EngineFeature, EngineSize};
pub use tcp::TcpInfo;
pub use token::Token;

/// A connection's socket, as its driver names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub(crate) u32);

/// A receive buffer lent to the shard: to be released, or sent on as a [`Loan`], in the same turn.
#[derive(Debug)]
#[must_use = "a lease that is not released never returns to the ring"]
pub struct Lease {
    pub(crate) buffer: u16,
    pub(crate) len: u32,
}

impl Lease {
    /// Number of bytes received.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was received; drivers never lend such a lease.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Bytes that are sent from the very buffer in which they were received, with whatever the shard
/// has written over what came before them.
#[derive(Debug)]
pub struct Loan {
    /// Whose bytes these are.
    pub token: Token,
    pub lease: Lease,
    /// Where in the leased bytes they begin; they reach to their end.
    pub start: usize,
    /// The shard's own note.
    pub note: u64,
}

/// How a receive went on.
#[derive(Debug)]
pub enum Received {
    /// Bytes arrived.
    Data(Lease),
    /// A watched socket has something to be received, or the peer's end, or both. Final.
    Readable { ended: bool },
    /// The peer sent its FIN. Final.
    End,
    /// No receive buffer was free. Final: arm again when buffers have come back.
    Starved,
    /// The receive was cancelled. Final.
    Cancelled,
    /// The connection failed with this errno. Final.
    Failed(i32),
}

/// What the kernel has finished. One exhaustive enum: everything that can wake a shard is here.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted; the accept is no longer armed.
    Accepted { listener: u16, socket: Socket, peer: Option<SocketAddr> },
    /// An accept failed with this errno; the accept is no longer armed.
    AcceptFailed { listener: u16, errno: i32 },
    /// A receive has something to say; `armed` tells whether it goes on.
    Received { token: Token, armed: bool, what: Received },
    /// A send has ended: bytes taken by the kernel (fewer than asked for is normal), or an errno.
    Sent { batch: Box<Batch>, result: Result<usize, i32> },
    /// The send of a loan has ended, without waiting for room: bytes taken, or an errno.
    LoanSent { loan: Loan, result: Result<usize, i32> },
    /// A cancellation has run. If it has found a receive or watch, that completes on its own, some
    /// time later; if not, it has completed, or is just at work and may go on.
    CancelRan { token: Token, found: bool },
    /// The writing side is shut down (or was already gone).
    ShutDown { token: Token },
    /// The socket is closed and its name free.
    Closed { token: Token },
    /// A socket came over from another shard, under the key that its sender chose.
    Arrived { key: u64, socket: Socket },
    /// A socket was handed to another shard, or was refused there with this errno and stays ours.
    Passed { token: Token, result: Result<(), i32> },
    /// A socket left the driver as a plain descriptor.
    Detached { token: Token, result: Result<OwnedFd, i32> },
    /// What TCP knows of the connection, or an errno.
    Measured { token: Token, result: Result<TcpInfo, i32> },
    /// A plain descriptor became a socket of this driver.
    Adopted { token: Token, result: Result<Socket, i32> },
    /// Mail has come.
    Doorbell,
}

/// How long a turn may wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit and return at once: there is work left.
    No,
    /// Until a completion, or until this time on the driver's clock (ns).
    Until(u64),
    /// Until a completion.
    Forever,
}

/// What is known of a socket's input before it is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Unknown,
    /// Most likely there is some: the receive is tried with the submission.
    Likely,
    /// There is some, or the end: the receive is tried with the submission.
    There,
}

/// What a driver counts on its own; all values since its start unless named otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverCounters {
    /// Calls by which it submitted or waited ([`EngineFacts::wait_call`]).
    pub enters: u64,
    /// Submissions handed to the kernel.
    pub submissions: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Completions that did not fit the queue and went the slow way.
    pub overflows: u64,
    /// Receives that found no buffer.
    pub starvations: u64,
    /// Doorbells that could not be rung; the mail waits for the next turn of its reader.
    pub doorbells_failed: u64,
    /// Receive buffers now lent, now published to the kernel, and in all.
    pub buffers_lent: u32,
    pub buffers_published: u32,
    pub buffers_total: u32,
    /// Bytes of one receive buffer.
    pub buffer_bytes: u32,
}

/// Wakes a shard from any thread.
pub trait Bell: Send + Sync {
    /// Makes the shard's next (or present) wait return with [`Completion::Doorbell`].
    fn ring(&self);
}

/// An engine that moves bytes. One per shard, never shared between threads.
pub trait Driver {
    /// Whether [`Driver::watch`] costs less memory than an armed receive. Where it does not,
    /// parking quiet connections gains nothing, and none is parked.
    const WATCH_IS_CHEAPER: bool;

    /// Monotonic time in ns since an arbitrary start common to all drivers of the process.
    fn now_ns(&mut self) -> u64;
    /// Unix time (ms): for what is told to people and compared with tokens, never for waiting.
    fn unix_ms(&mut self) -> u64;
    /// A clock in ns for measuring what is shorter than a turn.
    fn stopwatch() -> fn() -> u64 {
        host::monotonic_ns
    }

    /// Takes a listening socket over under the number `listener`.
    fn listen(&mut self, listener: u16, socket: OwnedFd) -> io::Result<()>;
    /// Arms one accept. The shard keeps several armed, each ends in one completion.
    fn accept(&mut self, listener: u16);
    /// Cancels all accepts of the listener and closes it once they have ended.
    fn stop_listening(&mut self, listener: u16);

    /// Whether a listener is still open.
    fn is_listening(&self) -> bool;

    /// Arms a receive that goes on until its final completion. At most one of this, a single
    /// receive and a watch is armed on a socket; all three complete as [`Completion::Received`].
    fn receive(&mut self, socket: Socket, token: Token);
    /// Receives once.
    fn receive_once(&mut self, socket: Socket, token: Token, input: Input);
    /// Says once when there is something to be received, or the peer is gone: costs the kernel a
    /// third of an armed receive.
    fn watch(&mut self, socket: Socket, token: Token);
    /// Cancels whatever of these is armed.
    fn cancel_receive(&mut self, socket: Socket, token: Token);
    /// Cancels receive and send; a shutdown runs to its end by itself.
    fn cancel_all(&mut self, socket: Socket, token: Token);
    /// Sends what is left of the batch. At most one per socket may be in flight.
    fn send(&mut self, socket: Socket, batch: Box<Batch>);
    /// Sends the bytes of a loan as far as there is room at once. No other send may be in flight
    /// on the socket.
    fn send_loan(&mut self, socket: Socket, loan: Loan);
    /// Whether one more buffer may be lent out for longer than a turn.
    fn may_lend(&self) -> bool;
    /// Shuts the writing side down.
    fn shutdown(&mut self, socket: Socket, token: Token);
    /// Closes the socket. Nothing may be in flight on it.
    fn close(&mut self, socket: Socket, token: Token);

    /// Rings another shard's doorbell with this turn's submission.
    fn doorbell(&mut self, shard: u16);
    /// Hands the socket to another shard, where it arrives under `key` (below 2^56).
    fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64);
    /// Asks what TCP knows of the connection.
    fn measure(&mut self, socket: Socket, token: Token);
    /// Turns the socket into a plain descriptor.
    fn detach(&mut self, socket: Socket, token: Token);
    /// Takes a plain descriptor in as a socket.
    fn adopt(&mut self, descriptor: OwnedFd, token: Token);

    /// Submits everything asked for since the last call, then waits.
    ///
    /// # Errors
    /// Only for what no retry can mend; the shard ends with it.
    fn submit(&mut self, wait: Wait) -> io::Result<()>;
    /// The next completion that is already there.
    fn next(&mut self) -> Option<Completion>;

    /// Whether there may be more to take than was reported, when so many completions were taken
    /// since the last submission: another one brings it.
    fn may_have_more(&self, handled: u32) -> bool;

    /// The received bytes.
    fn bytes(&mut self, lease: &Lease) -> &mut [u8];
    /// Gives a buffer back.
    fn release(&mut self, lease: Lease);
    /// Whether enough buffers are back to arm starved receives again.
    fn has_buffers(&self) -> bool;
    /// Gives memory of receive buffers that have not been used for a while back to the system.
    /// To be called now and then, when no completion is waiting.
    fn trim(&mut self);

    /// A handle by which other threads wake this driver.
    fn bell(&self) -> Arc<dyn Bell>;
    /// The driver's own counters.
    fn counters(&self) -> DriverCounters;
}

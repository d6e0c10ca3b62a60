//! The kernel side: sockets, rings and receive buffers, behind one trait based on completions.
//!
//! A shard requests operations of its [`Driver`], submits them once a turn, and receives
//! [`Completion`]s. Nothing here knows HTTP, WebSocket or channels. Three engines exist: [`uring`];
//! [`epoll`], which makes completions from readiness on hosts that refuse `io_uring`; and [`sim`],
//! a seeded fake with virtual time and faults, so that tests reach every rare path of a shard. The
//! server gets its drivers from a [`DriverFactory`], which also describes the engine.
//!
//! Three contracts keep the kernel and the shard apart:
//!
//! - **Sockets are names, not descriptors.** A [`Socket`] is an index that only its driver can
//!   read. It is valid from `Accepted`, `Arrived` or `Adopted` until `Closed` or `Passed`.
//! - **Memory in flight belongs to the driver.** A [`Batch`] is moved into [`Driver::send`] and
//!   returned in [`Completion::Sent`]; received bytes are lent as a [`Lease`] and must be returned
//!   with [`Driver::release`] in the same turn, or be sent on as a [`Loan`], which is returned as
//!   soon as the kernel has read it.
//! - **Every operation ends with exactly one final completion**, also a cancelled one. A [`Token`]
//!   carries slot and generation, so that the shard distinguishes a late completion from a current
//!   one, and frees a slot only when the kernel has no operation of it.

pub mod allocator;
pub mod batch;
mod clock;
pub mod engine;
pub mod epoll;
mod event;
pub mod host;
pub mod listener;
mod mapping;
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

/// A receive buffer lent to the shard: release it, or send it on as a [`Loan`], in the same turn.
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

/// Bytes sent from the buffer in which they were received. The shard may have overwritten what
/// precedes them.
#[derive(Debug)]
pub struct Loan {
    /// The connection that sends them.
    pub token: Token,
    pub lease: Lease,
    /// Start of the bytes in the lease; they reach to its end.
    pub start: usize,
    /// A value for the shard's own use.
    pub note: u64,
}

/// The outcome of a receive.
#[derive(Debug)]
pub enum Received {
    /// Bytes arrived.
    Data(Lease),
    /// A watched socket has input, or the peer has ended its side, or both. Final.
    Readable { ended: bool },
    /// The peer sent its FIN. Final.
    End,
    /// No receive buffer was free. Final: arm again when buffers are back.
    Starved,
    /// The receive was cancelled. Final.
    Cancelled,
    /// The connection failed with this errno. Final.
    Failed(i32),
}

/// A finished operation. This enum is exhaustive: it contains everything that can wake a shard.
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted; the accept is no longer armed.
    Accepted { listener: u16, socket: Socket, peer: Option<SocketAddr> },
    /// An accept failed with this errno; the accept is no longer armed.
    AcceptFailed { listener: u16, errno: i32 },
    /// A receive reports; it continues while `armed`.
    Received { token: Token, armed: bool, what: Received },
    /// A send ended: bytes taken by the kernel (fewer than offered is normal), or an errno.
    Sent { batch: Box<Batch>, result: Result<usize, i32> },
    /// The send of a loan ended, without waiting for room: bytes taken, or an errno.
    LoanSent { loan: Loan, result: Result<usize, i32> },
    /// A cancellation has run. If it found a receive or watch, that completes on its own some time
    /// later; if not, it has completed, or is running right now and may continue.
    CancelRan { token: Token, found: bool },
    /// The writing side is shut down (or already was).
    ShutDown { token: Token },
    /// The socket is closed, and its name may be reused.
    Closed { token: Token },
    /// A socket arrived from another shard, under the key that the sender chose.
    Arrived { key: u64, socket: Socket },
    /// A socket was passed to another shard, or that failed with this errno and it stays here.
    Passed { token: Token, result: Result<(), i32> },
    /// A plain descriptor of the socket's connection, or an errno.
    Duplicated { token: Token, result: Result<OwnedFd, i32> },
    /// TCP statistics of the connection, or an errno.
    Measured { token: Token, result: Result<TcpInfo, i32> },
    /// Plain descriptors became sockets of this driver, in their order: all, or as many as were
    /// taken before the failure with this errno. The others were closed.
    Adopted { token: Token, sockets: Box<[Socket]>, failure: Option<i32> },
    /// The shard has mail.
    Doorbell,
}

/// How long a submission may wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit and return at once: the shard has more work.
    No,
    /// Until a completion, or until this time on the driver's clock (ns).
    Until(u64),
    /// Until a completion.
    Forever,
}

/// What the shard knows about a socket's input before a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Unknown,
    /// There is probably some: try the receive with the submission.
    Likely,
    /// There is some, or the end: try the receive with the submission.
    There,
}

/// A driver's counters, since its start unless noted otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriverCounters {
    /// Calls by which it submitted or waited ([`EngineFacts::wait_call`]).
    pub enters: u64,
    /// Submissions handed to the kernel.
    pub submissions: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Completions that did not fit the queue, and that the kernel delivered late.
    pub overflows: u64,
    /// Receives that found no buffer.
    pub starvations: u64,
    /// Doorbells that failed; the mail waits for the receiver's next turn.
    pub doorbells_failed: u64,
    /// Receive buffers now lent, now published to the kernel, and in total.
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
    /// Whether [`Driver::watch`] costs less memory than an armed receive. If not, parking quiet
    /// connections would gain nothing, and none is parked.
    const WATCH_IS_CHEAPER: bool;

    /// Monotonic time in ns since an arbitrary start common to all drivers of the process.
    fn now_ns(&mut self) -> u64;
    /// Unix time (ms): for logs and messages, and to compare with tokens; never for waiting.
    fn unix_ms(&mut self) -> u64;
    /// A clock for durations shorter than a turn (ns).
    fn stopwatch() -> fn() -> u64 {
        host::monotonic_ns
    }

    /// Takes ownership of a listening socket under the number `listener`.
    fn listen(&mut self, listener: u16, socket: OwnedFd) -> io::Result<()>;
    /// Arms one accept. The shard keeps several armed; each ends in one completion.
    fn accept(&mut self, listener: u16);
    /// Cancels all accepts of the listener and closes it once they have ended.
    fn stop_listening(&mut self, listener: u16);

    /// Whether a listener is still open.
    fn is_listening(&self) -> bool;

    /// Arms a receive that continues until its final completion. At most one of this, a single
    /// receive and a watch is armed on a socket; all three complete as [`Completion::Received`].
    fn receive(&mut self, socket: Socket, token: Token);
    /// Receives once.
    fn receive_once(&mut self, socket: Socket, token: Token, input: Input);
    /// Completes once when the socket has input or the peer is gone. Costs the kernel a third of
    /// the memory of an armed receive.
    fn watch(&mut self, socket: Socket, token: Token);
    /// Cancels the armed receive or watch.
    fn cancel_receive(&mut self, socket: Socket, token: Token);
    /// Cancels receive and send; a shutdown ends by itself.
    fn cancel_all(&mut self, socket: Socket, token: Token);
    /// Sends the rest of the batch. At most one send per socket may be in flight.
    fn send(&mut self, socket: Socket, batch: Box<Batch>);
    /// Sends as many bytes of a loan as there is room for. No other send may be in flight on the
    /// socket.
    fn send_loan(&mut self, socket: Socket, loan: Loan);
    /// Whether one more buffer may stay lent for longer than a turn.
    fn may_lend(&self) -> bool;
    /// Shuts the writing side down.
    fn shutdown(&mut self, socket: Socket, token: Token);
    /// Closes the socket. No operation may be in flight on it.
    fn close(&mut self, socket: Socket, token: Token);

    /// Rings another shard's doorbell with this turn's submission.
    fn doorbell(&mut self, shard: u16);
    /// Passes the socket to another shard, where it arrives under `key` (below 2^56).
    fn pass(&mut self, socket: Socket, token: Token, shard: u16, key: u64);
    /// Requests TCP statistics of the connection.
    fn measure(&mut self, socket: Socket, token: Token);
    /// Makes a plain descriptor for the socket's connection. The socket stays, so that handing the
    /// descriptor over can be given up.
    fn duplicate(&mut self, socket: Socket, token: Token);
    /// Takes ownership of plain descriptors as sockets, at least one.
    fn adopt(&mut self, descriptors: Vec<OwnedFd>, token: Token);

    /// Submits all requests since the last call, then waits.
    ///
    /// # Errors
    /// Only when no retry can succeed; the shard ends with it.
    fn submit(&mut self, wait: Wait) -> io::Result<()>;
    /// Takes the next completion that is ready.
    fn next(&mut self) -> Option<Completion>;

    /// Whether the kernel may have more completions than it reported, given how many were taken
    /// since the last submission: another submission fetches them.
    fn may_have_more(&self, handled: u32) -> bool;

    /// The received bytes.
    fn bytes(&mut self, lease: &Lease) -> &mut [u8];
    /// Returns a buffer.
    fn release(&mut self, lease: Lease);
    /// Whether enough buffers are back to arm starved receives again.
    fn has_buffers(&self) -> bool;
    /// Returns memory of receive buffers not used for a while to the system. Call it now and then,
    /// when no completion is ready.
    fn trim(&mut self);

    /// A handle by which other threads wake this driver.
    fn bell(&self) -> Arc<dyn Bell>;
    /// The driver's own counters.
    fn counters(&self) -> DriverCounters;
}

//! The simulated sockets, and their faults.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::{Batch, Completion, Socket, Token, Wait};

/// Probability of each fault, in percent of the occasions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A receive returns fewer bytes than there are.
    pub short_receive: u8,
    /// A receive ends without a reason and must be armed again.
    pub receive_ends: u8,
    /// A receive finds no buffer.
    pub starve: u8,
    /// A send takes fewer bytes than it could.
    pub short_send: u8,
    /// A send finds the connection lost.
    pub send_fails: u8,
    /// An accept fails for lack of descriptors.
    pub accept_fails: u8,
    /// A handover is refused by the other ring.
    pub pass_fails: u8,
    /// A socket's operations rest for this turn.
    pub rest: u8,
}

impl Faults {
    /// Frequent faults of all kinds that lose no connection.
    pub fn harmless() -> Self {
        Self {
            short_receive: 40,
            receive_ends: 10,
            starve: 10,
            short_send: 40,
            send_fails: 0,
            accept_fails: 10,
            pass_fails: 20,
            rest: 30,
        }
    }
}

/// Counts of the simulated kernel since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that receives returned to shards.
    pub bytes_received: u64,
    /// Bytes that sends took from shards.
    pub bytes_sent: u64,
    /// Receive buffers lent to shards.
    pub leases_given: u64,
    /// Receive buffers that came back.
    pub leases_returned: u64,
    /// Cancellations that shards requested.
    pub cancellations: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    Receive,
    All,
}

/// The armed receive or watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    Streaming,
    Once,
    Watching,
}

/// Both ends of one connection.
pub(super) struct SimSocket {
    pub(super) shard: u16,
    pub(super) address: Option<SocketAddr>,
    /// Sent by the client, not yet received by the server.
    pub(super) to_server: VecDeque<u8>,
    /// Sent by the server, not yet read by the client.
    pub(super) to_client: VecDeque<u8>,
    /// Bytes that the client has read, and when it last did.
    pub(super) read_bytes: u64,
    pub(super) read_ns: u64,
    /// Bytes that may be queued for the client.
    pub(super) window: usize,
    /// Bytes that one receive brings at most.
    pub(super) segment: usize,
    pub(super) client_fin: bool,
    pub(super) reset: bool,
    /// The server has shut down its writing side, or closed.
    pub(super) fin_sent: bool,
    /// The server closed with unread input: a real kernel would reset.
    pub(super) reset_sent: bool,
    /// The server has accepted it.
    pub(super) taken: bool,
    pub(super) closed: bool,
    /// A fault broke it.
    pub(super) lost: bool,
    pub(super) receive: Option<(Token, Receive)>,
    pub(super) send: Option<Box<Batch>>,
    pub(super) cancel: Option<(Token, Cancel)>,
    /// A cancellation found the receive, which ends with the next advance.
    pub(super) cancelled: bool,
    pub(super) shutdown: Option<Token>,
    pub(super) closing: Option<Token>,
}

impl SimSocket {
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.fin_sent = true;
        self.reset_sent = !self.to_server.is_empty();
    }

    /// Whether the kernel may complete an operation on it. A fault may fail any send.
    fn has_completion(&self, faults: Faults) -> bool {
        let has_ended = self.cancelled
            || self.cancel.is_some()
            || self.shutdown.is_some()
            || self.closing.is_some();
        let can_send = self.reset || self.to_client.len() < self.window || faults.send_fails > 0;
        has_ended
            || (self.receive.is_some() && self.has_input())
            || (self.send.is_some() && can_send)
    }

    /// Whether a receive would complete at once.
    pub(super) fn has_input(&self) -> bool {
        self.reset || self.client_fin || !self.to_server.is_empty()
    }
}

#[derive(Default)]
pub(super) struct SimListener {
    pub(super) armed: u32,
    pub(super) closed: bool,
    waiting: VecDeque<u32>,
}

pub(super) struct SimShard {
    pub(super) listeners: Vec<SimListener>,
    pub(super) arrived: VecDeque<(u64, Socket)>,
    /// Its doorbell was rung, by another shard or through its bell.
    pub(super) rung: Arc<AtomicBool>,
    pub(super) wait: Wait,
}

pub(super) struct State {
    pub(super) now_ns: u64,
    /// How far the wall clock was set forward (ms).
    pub(super) wall_step_ms: u64,
    pub(super) faults: Faults,
    pub(super) sockets: Vec<SimSocket>,
    pub(super) shards: Vec<SimShard>,
    pub(super) traffic: Traffic,
    random: u64,
}

impl State {
    pub(super) fn new(seed: u64, shards: u16, faults: Faults) -> Self {
        let shard = || SimShard {
            listeners: Vec::new(),
            arrived: VecDeque::new(),
            rung: Arc::default(),
            wait: Wait::No,
        };
        Self {
            now_ns: 1_000_000_000,
            wall_step_ms: 0,
            faults,
            sockets: Vec::new(),
            shards: (0..shards).map(|_| shard()).collect(),
            traffic: Traffic::default(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    pub(super) fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound.max(1)
    }

    pub(super) fn draw_fault(&mut self, percent: u8) -> bool {
        self.random_below(100) < u64::from(percent)
    }

    pub(super) fn draw_rest(&mut self) -> bool {
        self.draw_fault(self.faults.rest)
    }

    pub(super) fn listen(&mut self, shard: u16, listener: u16) {
        let listeners = &mut self.shards[usize::from(shard)].listeners;
        let len = listeners.len().max(usize::from(listener) + 1);
        listeners.resize_with(len, SimListener::default);
    }

    pub(super) fn connect(
        &mut self,
        shard: u16,
        listener: u16,
        address: Option<SocketAddr>,
    ) -> u32 {
        let index = self.sockets.len() as u32;
        let listener = &mut self.shards[usize::from(shard)].listeners[usize::from(listener)];
        self.sockets.push(SimSocket {
            shard,
            address,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            read_bytes: 0,
            read_ns: self.now_ns,
            window: usize::MAX,
            segment: usize::MAX,
            client_fin: false,
            reset: listener.closed,
            fin_sent: false,
            reset_sent: false,
            taken: false,
            closed: false,
            lost: false,
            receive: None,
            send: None,
            cancel: None,
            cancelled: false,
            shutdown: None,
            closing: None,
        });
        listener.waiting.push_back(index);
        index
    }

    /// The server's side of a socket that this shard may use.
    pub(super) fn own_socket(&mut self, shard: u16, socket: Socket) -> &mut SimSocket {
        let own = &mut self.sockets[socket.0 as usize];
        assert!(own.taken && !own.closed, "a socket is used only while it is open");
        assert_eq!(own.shard, shard, "a socket is used only by the shard that has it");
        own
    }

    pub(super) fn sockets_of(&mut self, shard: u16) -> Vec<u32> {
        let mut own: Vec<u32> = (0..self.sockets.len() as u32)
            .filter(|index| {
                let socket = &self.sockets[*index as usize];
                socket.shard == shard && socket.taken && !socket.closed
            })
            .collect();
        for index in (1..own.len()).rev() {
            let other = self.random_below(index as u64 + 1) as usize;
            own.swap(index, other);
        }
        own
    }

    /// Whether the kernel may have a completion for a shard.
    pub(super) fn has_completion(&self, shard: u16) -> bool {
        let own = &self.shards[usize::from(shard)];
        let is_called = |one: &SimListener| one.armed > 0 && !one.waiting.is_empty();
        own.rung.load(Ordering::Acquire)
            || !own.arrived.is_empty()
            || own.listeners.iter().any(is_called)
            || self.sockets.iter().any(|socket| {
                let is_own = socket.shard == shard && socket.taken && !socket.closed;
                is_own && socket.has_completion(self.faults)
            })
    }

    /// Collects unsolicited events of a shard: connections, handovers, its doorbell.
    pub(super) fn accept(&mut self, shard: u16) -> Vec<Completion> {
        let mut ready = Vec::new();
        for number in 0..self.shards[usize::from(shard)].listeners.len() {
            loop {
                let fails = self.draw_fault(self.faults.accept_fails);
                let listener = &mut self.shards[usize::from(shard)].listeners[number];
                if listener.armed == 0 || listener.waiting.is_empty() {
                    break;
                }
                listener.armed -= 1;
                let listener_number = number as u16;
                if fails {
                    let errno = libc::EMFILE;
                    ready.push(Completion::AcceptFailed { listener: listener_number, errno });
                    continue;
                }
                let index = listener.waiting.pop_front().expect("it was just checked");
                let socket = &mut self.sockets[index as usize];
                socket.taken = true;
                ready.push(Completion::Accepted {
                    listener: listener_number,
                    socket: Socket(index),
                    peer: socket.address,
                });
            }
        }
        let own = &mut self.shards[usize::from(shard)];
        ready
            .extend(own.arrived.drain(..).map(|(key, socket)| Completion::Arrived { key, socket }));
        if own.rung.swap(false, Ordering::AcqRel) {
            ready.push(Completion::Doorbell);
        }
        ready
    }
}

/// The client's end of a connection.
pub struct Peer {
    pub(super) network: Rc<RefCell<State>>,
    pub(super) socket: u32,
}

impl Peer {
    fn with_socket<T>(&self, act: impl FnOnce(&mut SimSocket) -> T) -> T {
        act(&mut self.network.borrow_mut().sockets[self.socket as usize])
    }

    /// Sends bytes to the server.
    pub fn write(&self, bytes: &[u8]) {
        self.with_socket(|socket| socket.to_server.extend(bytes));
    }

    /// Bytes that the server has not received yet.
    pub fn unreceived_bytes(&self) -> usize {
        self.with_socket(|socket| socket.to_server.len())
    }

    /// Reads up to `most` bytes that the server has sent.
    pub fn read(&self, most: usize) -> Vec<u8> {
        let now_ns = self.network.borrow().now_ns;
        self.with_socket(|socket| {
            let len = socket.to_client.len().min(most);
            if len > 0 {
                socket.read_bytes += len as u64;
                socket.read_ns = now_ns;
            }
            socket.to_client.drain(..len).collect()
        })
    }

    /// Sets how many bytes may be queued for the client; 0 = it reads nothing at all.
    pub fn set_window(&self, bytes: usize) {
        self.with_socket(|socket| socket.window = bytes);
    }

    /// Sets how many bytes one receive brings at most: as if they came in segments of this size.
    pub fn set_segment(&self, bytes: usize) {
        assert!(bytes > 0, "a receive brings something");
        self.with_socket(|socket| socket.segment = bytes);
    }

    /// Sends a FIN.
    pub fn send_fin(&self) {
        self.with_socket(|socket| socket.client_fin = true);
    }

    /// Breaks the connection.
    pub fn send_reset(&self) {
        self.with_socket(|socket| {
            socket.reset = true;
            socket.to_server.clear();
        });
    }

    /// Whether the server has ended its side and the client has read everything.
    pub fn is_ended(&self) -> bool {
        self.with_socket(|socket| socket.to_client.is_empty() && (socket.fin_sent || socket.reset))
    }

    /// Whether the server has closed its socket.
    pub fn was_closed(&self) -> bool {
        self.with_socket(|socket| socket.closed)
    }

    /// Whether a simulated fault broke the connection.
    pub fn was_lost(&self) -> bool {
        self.with_socket(|socket| socket.lost)
    }

    /// Whether the server closed with unread input, which would have reset the connection and
    /// discarded its last bytes.
    pub fn was_reset(&self) -> bool {
        self.with_socket(|socket| socket.reset_sent)
    }
}

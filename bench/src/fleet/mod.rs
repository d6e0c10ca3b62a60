//! The connections of one ring, and the ring that moves their bytes.
//!
//! A turn: let the load decide, submit and wait once, take the batch of completions. One clock
//! reading serves a batch, because its completions became visible together. A slot is reused only
//! after the kernel's last operation on it; a completion of an earlier generation is dropped.
//!
//! A thread drives one or more fleets ([`drive()`]): the limit of open files bounds a ring's table,
//! not a thread.

mod drive;
mod either;
mod load;
mod metered;
mod parked;
mod prepared;
mod slot;
mod tls;

pub use drive::drive;
pub use either::Either;
pub use load::{Clock, Ending, Load, Turn};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::buffers::{Buffers, GROUP};
use crate::client::{Connection, Events, Fault, Outgoing, Stage, Terms, Tools, Traffic};
use crate::ring::{Completion, Op, Ring, RingSizes, Token, poll_first};
use crate::target::{SocketHabits, Target};
use slot::Slot;

/// How often connections are checked for timeouts.
const SCAN_NS: u64 = 250_000_000;
/// Limit for the server to end TCP after the closing handshake.
const LINGER_NS: u64 = 1_000_000_000;

/// Parameters of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct FleetPlan {
    /// Slots: connections at a time at most.
    pub slots: u32,
    pub buffer_count: u16,
    pub buffer_size: usize,
    /// Timeout of a connect, an upgrade or a close.
    pub timeout: Duration,
    /// Successful sends of messages produce no completion. Correct only if a connection never has a
    /// second send before the echo of the first: one message in flight.
    pub quiet_sends: bool,
    /// Number of this ring's first connection.
    pub first_number: u32,
    /// Entries of the completion queue; 0 = derived from the number of slots.
    pub completions: u32,
    /// Never sleep: then a server on the same host does not pay for waking this thread.
    pub spin: bool,
    /// Connections wait with a one-shot poll instead of an armed receive.
    pub park: bool,
    pub habits: SocketHabits,
}

/// The connections of one ring.
pub struct Fleet {
    ring: Ring,
    buffers: Buffers,
    slots: Vec<Slot>,
    target: Arc<Target>,
    terms: Arc<Terms>,
    clock: Clock,
    plan: FleetPlan,
    tools: Tools,
    reaped: Vec<Completion>,
    next_number: u32,
    next_scan_ns: u64,
    /// Slots that entered a stage with a timeout, since the last scan or earlier. Scanning all
    /// slots instead took 4 % of a ramp with a million of them.
    waiting: Vec<u32>,
    /// Slots freed since they were last reported.
    ended: Vec<u32>,
}

impl Fleet {
    /// Sets up the ring of the calling thread.
    pub fn new(
        plan: FleetPlan,
        target: Arc<Target>,
        terms: Arc<Terms>,
        clock: Clock,
    ) -> io::Result<Self> {
        let completions = match plan.completions {
            0 => (plan.slots * 4).next_power_of_two().clamp(4096, 65_536),
            count => count,
        };
        let sizes = RingSizes { submissions: 256, completions, files: plan.slots.max(1) };
        let ring = Ring::new(sizes)?;
        let buffers = Buffers::new(&ring, plan.buffer_count, plan.buffer_size)?;
        Ok(Self {
            ring,
            buffers,
            slots: (0..plan.slots).map(|_| Slot::default()).collect(),
            target,
            terms,
            clock,
            plan,
            tools: Tools::default(),
            reaped: Vec::new(),
            next_number: plan.first_number,
            next_scan_ns: 0,
            waiting: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Runs the load to its end.
    ///
    /// # Errors
    /// When the ring fails, or the load gives up.
    pub fn run(&mut self, load: &mut impl Load) -> io::Result<()> {
        loop {
            let now = self.clock.now_ns();
            let Turn::Until(deadline) = self.decide(load, now)? else { return Ok(()) };
            let wait = deadline.min(self.next_scan_ns).saturating_sub(now);
            let wait = if self.plan.spin { 0 } else { wait };
            self.ring.wait(Some(Duration::from_nanos(wait)))?;
            self.take_completions(load)?;
        }
    }

    /// The part of a turn before the wait.
    fn decide(&mut self, load: &mut impl Load, now_ns: u64) -> io::Result<Turn> {
        self.scan(now_ns)?;
        self.report_ended(load, now_ns)?;
        load.turn(self, now_ns)
    }

    /// The part of a turn after the wait.
    fn take_completions(&mut self, load: &mut impl Load) -> io::Result<()> {
        let mut reaped = std::mem::take(&mut self.reaped);
        self.ring.reap(&mut reaped);
        let now = self.clock.now_ns();
        for completion in &reaped {
            self.dispatch(completion, load, now)?;
        }
        self.reaped = reaped;
        Ok(())
    }

    pub fn stage(&self, slot: u32) -> Stage {
        self.slots[slot as usize].connection.stage
    }

    /// Completions that did not fit the queue; if there are any, latencies are unreliable.
    pub fn overflow_count(&self) -> u32 {
        self.ring.overflow_count()
    }

    /// Byte counts of all connections.
    pub fn traffic(&self) -> Traffic {
        self.tools.traffic
    }

    /// Starts to connect a free slot.
    pub fn open(&mut self, slot: u32, now_ns: u64) -> io::Result<()> {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let socket = self.target.socket(number, self.plan.habits)?;
        self.ring.install(slot, socket)?;
        let state = &mut self.slots[slot as usize];
        assert_eq!(state.connection.stage, Stage::Free, "slot {slot} is in use");
        state.connection = Connection::connecting(number, &self.terms);
        state.since_ns = now_ns;
        self.waiting.push(slot);
        let address = self.target.raw();
        let entry =
            opcode::Connect::new(types::Fixed(slot), address.as_ptr().cast(), address.len());
        self.push(slot, Op::Connect, entry.build())
    }

    /// Sends `count` more messages on an open connection.
    pub fn send(&mut self, slot: u32, count: u32) -> io::Result<()> {
        self.slots[slot as usize].connection.request_messages(count);
        self.flush(slot)
    }

    /// Sends a ping on an open connection.
    pub fn ping(&mut self, slot: u32, payload: &[u8]) -> io::Result<()> {
        self.slots[slot as usize].connection.queue_ping(payload);
        self.flush(slot)
    }

    /// Starts to close an open connection: by the closing handshake, or a raw one by ending TCP.
    pub fn close(&mut self, slot: u32, now_ns: u64) -> io::Result<()> {
        if self.terms.sheet.shape().raw {
            self.end(slot, Ending::Clean)?;
            return self.release(slot);
        }
        let state = &mut self.slots[slot as usize];
        state.connection.close();
        state.since_ns = now_ns;
        self.waiting.push(slot);
        self.flush(slot)
    }

    /// Drops a connection without a Close: by a reset if the fleet's sockets are abortive.
    pub fn abort(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.ending.is_some() || state.connection.stage >= Stage::Ending {
            return Ok(());
        }
        let connecting = state.connection.stage == Stage::Connecting;
        let (receiving, sending) = (state.receiving, state.outgoing.is_some());
        state.ending = Some(Box::new(Ending::Clean));
        state.connection.stage = Stage::Ending;
        // A shutdown would send a FIN; cancelled operations send nothing. Cancel by user data: by
        // descriptor, the kernel would walk through all operations of the ring for each.
        let waiting = if self.plan.park { Op::Poll } else { Op::Receive };
        for (armed, op) in [(connecting, Op::Connect), (receiving, waiting), (sending, Op::Send)] {
            if armed {
                self.cancel(slot, op)?;
            }
        }
        self.release(slot)
    }

    fn cancel(&mut self, slot: u32, op: Op) -> io::Result<()> {
        let generation = self.slots[slot as usize].generation;
        let entry = opcode::AsyncCancel::new(Token::new(op, generation, slot).encode()).build();
        self.push(slot, Op::Close, entry)
    }

    /// Sends a whole masked frame on an open connection.
    pub fn send_frame(&mut self, slot: u32, frame: Box<[u8]>) -> io::Result<()> {
        self.slots[slot as usize].connection.send_frame(frame);
        self.flush(slot)
    }

    fn push(&mut self, slot: u32, op: Op, entry: squeue::Entry) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        state.in_flight += 1;
        let entry = entry.user_data(Token::new(op, state.generation, slot).encode());
        // SAFETY: an entry points to the target's address, to the sheet, or to a frame that
        // stays in `outgoing` until its send has completed; all live as long as the fleet. Sockets
        // are polled and never handed to kernel workers, and with deferred task work the kernel
        // reads them only inside this thread's waits, of which there is none without the fleet.
        unsafe { self.ring.push(&entry) }
    }

    fn flush(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.outgoing.is_some() {
            return Ok(());
        }
        let (connection, terms) = (&mut state.connection, &self.terms);
        state.outgoing = connection.next_outgoing(&terms.sheet, &mut self.tools.traffic);
        if let Some(tls) = &mut state.tls {
            state.outgoing = tls::seal(tls, connection, state.outgoing.as_ref(), terms);
        }
        state.outgoing_sent = 0;
        self.send_outgoing(slot)
    }

    fn send_outgoing(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        let Some(outgoing) = &state.outgoing else { return Ok(()) };
        let bytes =
            &state.connection.outgoing_bytes(outgoing, &self.terms)[state.outgoing_sent as usize..];
        let len = prepared::send_len(outgoing, bytes) as u32;
        let entry = opcode::Send::new(types::Fixed(slot), bytes.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        if !self.plan.quiet_sends || !matches!(outgoing, Outgoing::Messages { .. }) {
            return self.push(slot, Op::Send, entry);
        }
        state.outgoing = None;
        let entry = entry
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Token::new(Op::Send, state.generation, slot).encode());
        // SAFETY: the bytes are the sheet's, which lives as long as the fleet; see `push`.
        unsafe { self.ring.push(&entry) }
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.slots[slot as usize].receiving = true;
        if self.plan.park {
            return self.park(slot);
        }
        let entry = poll_first(opcode::RecvMulti::new(types::Fixed(slot), GROUP).build());
        self.push(slot, Op::Receive, entry)
    }

    fn dispatch(
        &mut self,
        completion: &Completion,
        load: &mut impl Load,
        now_ns: u64,
    ) -> io::Result<()> {
        let Token { op, generation, slot } = completion.token;
        let state = &mut self.slots[slot as usize];
        if Token::new(op, state.generation, slot).generation != generation {
            if let Some(buffer) = completion.buffer {
                self.buffers.give_back(buffer);
            }
            return Ok(());
        }
        let quiet_failure = op == Op::Send && state.outgoing.is_none();
        if !completion.more && !quiet_failure {
            state.in_flight -= 1;
        }
        match op {
            Op::Connect => self.connected(slot, completion.result, load, now_ns)?,
            Op::Send => self.sent(slot, completion.result)?,
            Op::Receive => self.received(slot, completion, load, now_ns)?,
            Op::Poll => self.unpark(slot, completion.result)?,
            Op::Accept | Op::Close => {}
        }
        self.release(slot)?;
        self.report_ended(load, now_ns)
    }

    fn connected(
        &mut self,
        slot: u32,
        result: i32,
        load: &mut impl Load,
        now_ns: u64,
    ) -> io::Result<()> {
        if result < 0 {
            return self.end(slot, Ending::Lost(Fault::System("connect", -result)));
        }
        let state = &mut self.slots[slot as usize];
        if state.connection.stage != Stage::Connecting {
            return Ok(());
        }
        state.connection.connected();
        state.since_ns = now_ns;
        state.tls = self.target.start_tls()?.map(Box::new);
        self.receive(slot)?;
        if self.stage(slot) == Stage::Open {
            return load.opened(self, slot, now_ns);
        }
        self.flush(slot)
    }

    fn sent(&mut self, slot: u32, result: i32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if result < 0 {
            state.outgoing = None;
            if state.metered {
                // The server's last bytes are still unread, and say more than this error.
                state.cut = true;
                return Ok(());
            }
            return self.end(slot, Ending::Lost(Fault::System("send", -result)));
        }
        let Some(outgoing) = &state.outgoing else {
            // A quiet send with a completion was cut short: its rest is lost.
            return self.end(slot, Ending::Lost(Fault::System("send cut short", libc::EIO)));
        };
        state.outgoing_sent += result as u32;
        self.tools.traffic.written_bytes += result as u64;
        let whole = state.connection.outgoing_bytes(outgoing, &self.terms).len();
        if (state.outgoing_sent as usize) < whole {
            return self.send_outgoing(slot);
        }
        state.outgoing = None;
        self.flush(slot)
    }

    fn received(
        &mut self,
        slot: u32,
        completion: &Completion,
        load: &mut impl Load,
        now_ns: u64,
    ) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        let was_open = state.connection.stage == Stage::Open;
        state.receiving = completion.more;
        let outcome = match (completion.result, completion.buffer) {
            (1.., Some(buffer)) => {
                let bytes = self.buffers.bytes(buffer, completion.result as usize);
                self.tools.traffic.read_bytes += bytes.len() as u64;
                let (tls, connection) = (state.tls.as_deref_mut(), &mut state.connection);
                let outcome = tls::receive(tls, connection, bytes, &self.terms, &mut self.tools);
                self.buffers.give_back(buffer);
                outcome
            }
            // The buffers ran out; all are returned in this batch, and then it is armed again.
            (starved, _) if starved == -libc::ENOBUFS => Ok(Events::default()),
            // Reading was stopped, and the receive was cancelled; or a poll was spurious.
            (stopped, _) if matches!(-stopped, libc::ECANCELED | libc::EAGAIN) => {
                Ok(Events::default())
            }
            (0, _) if matches!(state.connection.stage, Stage::Closed | Stage::Ending) => {
                return self.end_closed(slot);
            }
            (0, _) => Err(Fault::Ended(state.connection.stage)),
            (error, _) => Err(Fault::System("receive", -error)),
        };
        let events = match outcome {
            Ok(events) => events,
            Err(fault) => {
                self.tools.heard.clear();
                return self.end(slot, Ending::Lost(fault));
            }
        };
        let metered = self.slots[slot as usize].metered;
        if !completion.more && !metered && self.stage(slot) < Stage::Ending {
            self.receive(slot)?;
        }
        self.report_received(slot, was_open, events, load, now_ns)
    }

    fn report_received(
        &mut self,
        slot: u32,
        was_open: bool,
        events: Events,
        load: &mut impl Load,
        now_ns: u64,
    ) -> io::Result<()> {
        if events.opened {
            load.opened(self, slot, now_ns)?;
        }
        // Messages may have arrived in one piece with the Close after them.
        let open = was_open || events.opened;
        let open = open && matches!(self.stage(slot), Stage::Open | Stage::Closed);
        if self.terms.hear {
            let mut heard = std::mem::take(&mut self.tools.heard);
            for text in heard.messages().filter(|_| open) {
                load.heard(self, slot, text, now_ns)?;
            }
            heard.clear();
            self.tools.heard = heard;
        }
        if events.messages > 0 && open {
            load.messages(self, slot, events.messages, now_ns)?;
        }
        if events.pongs > 0 {
            load.ponged(slot, events.pongs);
        }
        if events.pings > 0 {
            load.pinged(slot, events.pings);
        }
        if events.closed {
            self.slots[slot as usize].since_ns = now_ns;
            self.waiting.push(slot);
        }
        // A pong or the answer to a Close may be due.
        let may_send = (Stage::Upgrading..=Stage::Closed).contains(&self.stage(slot));
        if may_send { self.flush(slot) } else { Ok(()) }
    }

    /// Ends a connection on which both sides have sent Close.
    fn end_closed(&mut self, slot: u32) -> io::Result<()> {
        let verdict = self.slots[slot as usize].connection.verdict();
        self.end(slot, verdict.map_or(Ending::Clean, Ending::Lost))
    }

    /// Ends a connection; the first reason is kept.
    fn end(&mut self, slot: u32, ending: Ending) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.ending.is_some() {
            return Ok(());
        }
        // A server that has sent its Close may end TCP before it has read all our bytes.
        let said = state.connection.verdict().filter(|_| ending.is_cut_off());
        state.ending = Some(Box::new(said.map_or(ending, Ending::Lost)));
        state.connection.stage = Stage::Ending;
        if state.in_flight > 0 {
            // The shutdown ends an armed receive, and fails a blocked send.
            let entry = opcode::Shutdown::new(types::Fixed(slot), libc::SHUT_RDWR).build();
            return self.push(slot, Op::Close, entry);
        }
        Ok(())
    }

    /// Closes the descriptor after the kernel's last operation, then frees the slot.
    fn release(&mut self, slot: u32) -> io::Result<()> {
        let state = &mut self.slots[slot as usize];
        if state.in_flight > 0 {
            return Ok(());
        }
        match state.connection.stage {
            Stage::Ending => {
                state.connection.stage = Stage::Releasing;
                self.push(slot, Op::Close, opcode::Close::new(types::Fixed(slot)).build())
            }
            Stage::Releasing => {
                state.connection = Connection::free();
                state.generation = state.generation.wrapping_add(1);
                state.outgoing = None;
                state.tls = None;
                state.metered = false;
                state.cut = false;
                self.ended.push(slot);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn report_ended(&mut self, load: &mut impl Load, now_ns: u64) -> io::Result<()> {
        while let Some(slot) = self.ended.pop() {
            let ending = self.slots[slot as usize].ending.take();
            load.ended(self, slot, ending.map_or(Ending::Clean, |ending| *ending), now_ns)?;
        }
        Ok(())
    }

    fn scan(&mut self, now_ns: u64) -> io::Result<()> {
        if now_ns < self.next_scan_ns {
            return Ok(());
        }
        self.next_scan_ns = now_ns + SCAN_NS;
        let timeout_ns = self.plan.timeout.as_nanos() as u64;
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.len() > self.slots.len() {
            waiting.sort_unstable();
            waiting.dedup();
        }
        let mut kept = 0;
        for at in 0..waiting.len() {
            let slot = waiting[at];
            let stage = self.stage(slot);
            let waited_ns = now_ns.saturating_sub(self.slots[slot as usize].since_ns);
            match stage {
                Stage::Connecting | Stage::Upgrading | Stage::Closing if waited_ns > timeout_ns => {
                    self.end(slot, Ending::Lost(Fault::TimedOut(stage)))?;
                }
                // The closing handshake is done; we may end TCP ourselves after a while.
                Stage::Closed if waited_ns > LINGER_NS => self.end_closed(slot)?,
                Stage::Connecting | Stage::Upgrading | Stage::Closing | Stage::Closed => {
                    waiting[kept] = slot;
                    kept += 1;
                    continue;
                }
                Stage::Free | Stage::Open | Stage::Ending | Stage::Releasing => continue,
            }
            self.release(slot)?;
        }
        waiting.truncate(kept);
        self.waiting = waiting;
        Ok(())
    }
}

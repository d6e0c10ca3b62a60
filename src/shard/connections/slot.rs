//! A connection, in at most 128 bytes while it is idle.
//!
//! Rarely needed parts are outside the slot, and exist only while needed: a request received in
//! pieces, a partial message, an outbox.

use serde::{Deserialize, Serialize};

use super::flags::Flags;
use super::outbox::{Outbox, Pools};
use super::peer::PeerAddress;
use super::readiness::SessionReadiness;
use super::receiving::{ReceiveStage, Receiving};
use super::stage::Stage;
use super::timers::{Timed, TimerLinks};
use super::transport::Transport;
use crate::admission::Standing;
use crate::driver::Socket;
use crate::proto::ws;

/// The longest Close: header, code and reason (RFC 6455 section 5.5).
const CLOSE_BYTES_MAX: usize = 2 + 125;

/// The progress of shutting the socket down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teardown {
    Nothing,
    /// The shutdown of the writing side was requested.
    Writing,
    /// The close of the socket, its last operation, is in flight.
    Socket,
}

/// One connection.
///
/// Invariants: it is freed only when no operation refers to it, so that no completion is applied to
/// another connection; and its outbox exists only while it has bytes queued.
#[derive(Debug)]
pub(super) struct Slot {
    stage: Stage,
    transport: Transport,
    /// Queued output; `None` if there is none.
    outbox: Option<Box<Outbox>>,
    bytes_received: u64,
    bytes_sent: u64,
    /// Saturating, as is the next one; the shard's counters have 64 bits.
    messages_received: u32,
    messages_sent: u32,
    socket: Socket,
    generation: u32,
    timer: TimerLinks,
    /// When the connection was accepted, or, once it is open, when it was opened.
    opened_tick: u32,
    /// When bytes were last received.
    heard_tick: u32,
    /// When a message was last received.
    message_tick: u32,
    /// When the next ping is due, or, if a ping is unanswered, when it was sent; in the closing
    /// stages: when the stage began.
    stage_tick: u32,
    peer: PeerAddress,
    route: u16,
    listener: u8,
    /// Operations in flight.
    in_flight: u8,
    receiving: Receiving,
    session: SessionReadiness,
    flags: Flags,
    /// How it is counted in admission.
    standing: Standing,
    teardown: Teardown,
}

/// A reply is being sent from its receive buffer.
const LENDING: u8 = 0;
/// Queued to be flushed at the end of the turn.
const DIRTY: u8 = 1;
/// A ping is unanswered.
const PINGED: u8 = 2;
/// The transport has bytes of its own to send.
const OWING: u8 = 3;

/// The parts of an open connection that processing its next frame needs.
pub(super) struct OpenParts<'s> {
    pub(super) receiver: &'s mut ws::Receiver,
    pub(super) outbox: &'s mut Option<Box<Outbox>>,
    pub(super) messages_received: &'s mut u32,
    pub(super) messages_sent: &'s mut u32,
    pub(super) message_tick: &'s mut u32,
    pub(super) route: usize,
}

/// The origin of a connection.
pub(super) struct SlotOrigin {
    pub(super) socket: Socket,
    pub(super) generation: u32,
    pub(super) listener: u8,
    pub(super) peer: PeerAddress,
    pub(super) standing: Standing,
}

impl Slot {
    /// Makes the slot of a connection that was just accepted.
    pub(super) fn new(origin: &SlotOrigin, stage: Stage, tick: u32) -> Self {
        Self {
            stage,
            transport: Transport::Plain,
            outbox: None,
            bytes_received: 0,
            bytes_sent: 0,
            messages_received: 0,
            messages_sent: 0,
            socket: origin.socket,
            generation: origin.generation,
            timer: TimerLinks::unset(),
            opened_tick: tick,
            heard_tick: tick,
            message_tick: tick,
            stage_tick: tick,
            peer: origin.peer,
            route: 0,
            listener: origin.listener,
            in_flight: 0,
            receiving: Receiving::new(),
            session: SessionReadiness::default(),
            flags: Flags::default(),
            standing: origin.standing,
            teardown: Teardown::Nothing,
        }
    }

    #[inline]
    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// For changes of a stage's own state. To move to another stage, use [`Self::enter_stage`].
    #[inline]
    pub(super) fn stage_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }

    /// Moves the connection to another stage, which begins now.
    pub(super) fn enter_stage(&mut self, stage: Stage, tick: u32) {
        assert!(self.stage.may_precede(&stage), "stages only move downwards");
        self.stage = stage;
        self.stage_tick = tick;
    }

    /// Returns the parts that processing the next frame needs; `None` if the connection is not
    /// open.
    #[inline]
    pub(super) fn open_parts(&mut self) -> Option<OpenParts<'_>> {
        let Stage::Open(receiver) = &mut self.stage else { return None };
        Some(OpenParts {
            receiver,
            outbox: &mut self.outbox,
            messages_received: &mut self.messages_received,
            messages_sent: &mut self.messages_sent,
            message_tick: &mut self.message_tick,
            route: usize::from(self.route),
        })
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    pub(super) fn set_transport(&mut self, transport: Transport) {
        self.transport = transport;
    }

    /// Sets whether the transport has bytes of its own to send.
    pub(super) fn set_owing(&mut self, is_owing: bool) {
        self.flags.set(OWING, is_owing);
    }

    pub(super) fn is_owing(&self) -> bool {
        self.flags.has(OWING)
    }

    /// Returns whether the connection is an open WebSocket.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Returns whether the connection is open, and needs no operations but sends of replies.
    #[inline]
    pub(super) fn is_steady(&self) -> bool {
        self.is_open() && self.receiving.is_steady()
    }

    /// Returns whether all output was sent.
    #[inline]
    pub(super) fn has_sent_all(&self) -> bool {
        self.outbox.is_none() && !self.flags.has_any(1 << LENDING | 1 << OWING)
    }

    #[inline]
    pub(super) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_deref()
    }

    #[inline]
    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_deref_mut()
    }

    /// Returns the bytes in the outbox.
    #[inline]
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Returns the outbox; makes one if there is none.
    pub(super) fn open_outbox(&mut self, pools: &mut Pools, tick: u32) -> &mut Outbox {
        ensure_outbox(&mut self.outbox, pools, tick)
    }

    /// Returns the outbox, and the receiver that compresses its messages.
    pub(super) fn compressed_outbox(&mut self) -> Option<(&mut Outbox, &ws::Receiver)> {
        let (Stage::Open(receiver) | Stage::Closing { receiver, .. }) = &self.stage else {
            return None;
        };
        Some((self.outbox.as_deref_mut()?, receiver))
    }

    /// Replaces the outbox.
    pub(super) fn replace_outbox(&mut self, outbox: Option<Box<Outbox>>) -> Option<Box<Outbox>> {
        std::mem::replace(&mut self.outbox, outbox)
    }

    /// Recycles the outbox if it is empty; returns whether it was.
    pub(super) fn release_outbox(&mut self, pools: &mut Pools) -> bool {
        let is_over =
            self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty() && !outbox.is_sending());
        if is_over {
            self.outbox.take().into_iter().for_each(|outbox| pools.recycle_outbox(outbox));
        }
        is_over
    }

    /// Returns whether a send is in flight.
    #[inline]
    pub(super) fn is_sending(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_sending())
    }

    /// Returns whether the next send may begin: one at a time, and none once the connection ends.
    #[inline]
    pub(super) fn may_send(&self) -> bool {
        !matches!(self.stage, Stage::Ending) && !self.flags.has(LENDING) && !self.is_sending()
    }

    #[inline]
    pub(super) fn receiving(&self) -> &Receiving {
        &self.receiving
    }

    #[inline]
    pub(super) fn receiving_mut(&mut self) -> &mut Receiving {
        &mut self.receiving
    }

    /// Returns what the stage means for receiving. Parting: the peer's Close was received, and ours
    /// is sent in this turn. While more than a Close is queued, which may take long, input is still
    /// received and discarded: closing a socket with unread bytes, such as a pong, would reset the
    /// connection and lose queued output.
    #[inline]
    pub(super) fn receive_stage(&self) -> ReceiveStage {
        ReceiveStage {
            is_handshake: self.stage.is_handshake(),
            is_parting: matches!(self.stage, Stage::Finishing)
                && self.queued_bytes() <= CLOSE_BYTES_MAX,
        }
    }

    pub(super) fn socket(&self) -> Socket {
        self.socket
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Counts an operation that is submitted.
    #[inline]
    pub(super) fn begin_operation(&mut self) {
        assert!(self.teardown != Teardown::Socket, "no operation follows the close of a socket");
        self.in_flight += 1;
    }

    /// Counts an operation that has completed.
    #[inline]
    pub(super) fn end_operation(&mut self) {
        assert!(self.in_flight > 0, "only an operation in flight can end");
        self.in_flight -= 1;
    }

    /// Whether a deadline is set.
    pub(super) fn has_deadline(&self) -> bool {
        self.timer.is_set()
    }

    /// Returns whether any operation refers to this connection.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Returns whether an operation is in flight that may never complete by itself.
    pub(super) fn is_cancellable(&self) -> bool {
        self.receiving.is_armed() || self.is_sending()
    }

    /// Begins the shutdown of the writing side; returns whether it had not begun.
    pub(super) fn begin_shutdown(&mut self) -> bool {
        let is_first = self.teardown == Teardown::Nothing;
        if is_first {
            self.teardown = Teardown::Writing;
        }
        is_first
    }

    /// Begins the close of the socket, its last operation; returns whether it had not begun.
    pub(super) fn begin_close(&mut self) -> bool {
        assert_eq!(self.in_flight, 0, "nothing may be in flight on a socket that is closed");
        let is_first = self.teardown != Teardown::Socket;
        if is_first {
            self.begin_operation();
            self.teardown = Teardown::Socket;
        }
        is_first
    }

    /// Whether the socket's close has begun.
    pub(super) fn is_closing_socket(&self) -> bool {
        self.teardown == Teardown::Socket
    }

    /// Records that bytes were received.
    #[inline]
    pub(super) fn note_received(&mut self, bytes: usize, tick: u32) {
        self.bytes_received += bytes as u64;
        self.heard_tick = tick;
    }

    #[inline]
    pub(super) fn note_sent(&mut self, bytes: usize) {
        self.bytes_sent += bytes as u64;
    }

    /// Records that a message was queued.
    #[inline]
    pub(super) fn note_message_sent(&mut self) {
        self.messages_sent = self.messages_sent.saturating_add(1);
    }

    /// Records that messages were queued.
    #[inline]
    pub(super) fn note_messages_sent(&mut self, messages: u32) {
        self.messages_sent = self.messages_sent.saturating_add(messages);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            messages_received: self.messages_received,
            messages_sent: self.messages_sent,
        }
    }

    pub(super) fn set_traffic(&mut self, traffic: Traffic) {
        self.bytes_received = traffic.bytes_received;
        self.bytes_sent = traffic.bytes_sent;
        self.messages_received = traffic.messages_received;
        self.messages_sent = traffic.messages_sent;
    }

    pub(super) fn clocks(&self) -> Clocks {
        Clocks {
            opened_tick: self.opened_tick,
            heard_tick: self.heard_tick,
            message_tick: self.message_tick,
            stage_tick: self.stage_tick,
        }
    }

    pub(super) fn set_clocks(&mut self, clocks: Clocks) {
        self.opened_tick = clocks.opened_tick;
        self.heard_tick = clocks.heard_tick;
        self.message_tick = clocks.message_tick;
        self.stage_tick = clocks.stage_tick;
    }

    pub(super) fn set_stage_tick(&mut self, tick: u32) {
        self.stage_tick = tick;
    }

    pub(super) fn peer(&self) -> PeerAddress {
        self.peer
    }

    pub(super) fn set_peer(&mut self, peer: PeerAddress) {
        self.peer = peer;
    }

    #[inline]
    pub(super) fn route(&self) -> usize {
        usize::from(self.route)
    }

    /// Sets the route on which the connection is opened.
    pub(super) fn set_route(&mut self, route: usize) {
        self.route = u16::try_from(route).expect("a configuration has at most 65,536 routes");
    }

    pub(super) fn listener(&self) -> u8 {
        self.listener
    }

    pub(super) fn set_listener(&mut self, listener: u8) {
        self.listener = listener;
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Returns whether the connection is being rejected.
    pub(super) fn is_rejected(&self) -> bool {
        matches!(self.standing, Standing::Refused(_))
    }

    #[inline]
    pub(super) fn readiness(&self) -> SessionReadiness {
        self.session
    }

    pub(super) fn set_readiness(&mut self, session: SessionReadiness) {
        self.session = session;
    }

    #[inline]
    pub(super) fn is_lending(&self) -> bool {
        self.flags.has(LENDING)
    }

    /// Begins an in-place reply: it is sent from its receive buffer.
    pub(super) fn begin_loan(&mut self) {
        assert!(!self.flags.has(LENDING) && self.outbox.is_none(), "a loan is the only output");
        self.flags.set(LENDING, true);
        self.begin_operation();
    }

    pub(super) fn end_loan(&mut self) {
        assert!(self.flags.has(LENDING), "an in-place reply is in flight");
        self.flags.set(LENDING, false);
    }

    #[inline]
    pub(super) fn is_dirty(&self) -> bool {
        self.flags.has(DIRTY)
    }

    /// Marks the connection for the flush, unless output is in flight; returns false if it was.
    #[inline]
    pub(super) fn mark_dirty(&mut self) -> bool {
        let is_new = !self.flags.has(DIRTY) && !self.flags.has(LENDING) && !self.is_sending();
        if is_new {
            self.flags.set(DIRTY, true);
        }
        is_new
    }

    pub(super) fn set_dirty(&mut self, is_dirty: bool) {
        self.flags.set(DIRTY, is_dirty);
    }

    pub(super) fn is_pinged(&self) -> bool {
        self.flags.has(PINGED)
    }

    pub(super) fn set_pinged(&mut self, is_pinged: bool) {
        self.flags.set(PINGED, is_pinged);
    }

    /// Bytes that an unfinished request or message holds.
    #[inline]
    pub(super) fn partial_bytes(&self) -> usize {
        self.stage.partial_bytes()
    }

    /// Checks the invariants of a slot.
    pub(super) fn check_invariants(&self) {
        let is_asking = matches!(self.stage, Stage::Asking(_));
        self.receiving.check_invariants(self.stage.is_websocket(), is_asking);
        if let Stage::Asking(asking) = &self.stage {
            assert_eq!(self.receiving.is_paused(), asking.is_full(), "paused once it holds enough");
            let is_counted = matches!(self.standing, Standing::Node | Standing::Address);
            assert!(is_counted, "the address is counted before the question");
            assert!(self.has_sent_all(), "nothing is sent before the decision");
        }
        let is_empty = self.outbox.as_ref().is_some_and(|outbox| outbox.is_empty());
        assert!(!is_empty, "an outbox exists only while it has bytes queued");
        assert!(!self.flags.has(LENDING) || !self.is_sending(), "one send at a time");
        let least = u8::from(self.receiving.is_armed())
            + u8::from(self.is_sending())
            + u8::from(self.flags.has(LENDING))
            + u8::from(self.is_closing_socket());
        assert!(self.in_flight >= least, "operations in flight are counted");
    }
}

impl Timed for Slot {
    fn timer(&self) -> &TimerLinks {
        &self.timer
    }

    fn timer_mut(&mut self) -> &mut TimerLinks {
        &mut self.timer
    }
}

/// Returns the outbox in this place; makes one if there is none.
#[expect(clippy::inline_always, reason = "a call for each delivery costs 3 % of it")]
#[inline(always)]
pub(super) fn ensure_outbox<'o>(
    outbox: &'o mut Option<Box<Outbox>>,
    pools: &mut Pools,
    tick: u32,
) -> &'o mut Outbox {
    if outbox.is_none() {
        *outbox = Some(pools.take_outbox(tick));
    }
    outbox.as_mut().expect("it was just made")
}

/// Bytes and messages of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Traffic {
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) messages_received: u32,
    pub(super) messages_sent: u32,
}

/// When things last happened to a connection; see [`Slot`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) opened_tick: u32,
    pub(super) heard_tick: u32,
    pub(super) message_tick: u32,
    pub(super) stage_tick: u32,
}

const _: () = assert!(size_of::<Slot>() <= 128, "an idle connection costs at most 128 bytes");
const _: () = assert!(size_of::<Option<Slot>>() == size_of::<Slot>(), "a slab entry adds nothing");

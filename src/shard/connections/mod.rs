//! The connections of a shard: their slots, outboxes, receive states and timers, and all counts of
//! them.
//!
//! # Contract
//!
//! Connections change only through methods of [`Connections`]; no field is visible outside this
//! module. Effort, counters, histograms and codecs are shared with the layer above. Below are the
//! driver and the protocols; above is the layer of sessions ([`Sessions`]), which connections call,
//! passing themselves as an argument.
//!
//! Methods for one connection are of four kinds:
//!
//! - *Completions* (`complete_*`) handle the end of an operation of the driver.
//! - *Changes* process input, queue bytes, or move to another stage. They change the desired state,
//!   and request nothing from the driver.
//! - *Reconciliation* ([`Connections::reconcile`]) requests operations from the driver for the
//!   difference between the desired state and the operations in flight. It must follow each change
//!   of a connection within the same turn; output is sent by the flush at the end of the turn.
//! - *Queries* change nothing.
//!
//! Completions, and the methods that the turn calls ([`Connections::fire_timers`] and others),
//! reconcile the connections that they change; [`Connections::flush_output`] needs no
//! reconciliation. Apart from reconciliation and the flush, only in-place replies and requests for
//! TCP's state call the driver. A change that may make room for input calls
//! [`Connections::reconsider`] before the reconciliation.
//!
//! Invariants, checked by `check_invariants` after each turn in debug builds and in the simulation:
//!
//! - A slot is freed only when no operation refers to it; a token is unique until 2^24 more
//!   connections were accepted.
//! - An outbox exists only while it has bytes queued, and the shard's count is the sum over all.
//! - Every connection with output that can be sent (no send or loan in flight) is queued for the
//!   flush.
//! - The counts by stage (handshakes, open, parked, rejected) agree with the slots.
//! - A connection whose upgrade is being decided has sent nothing, counts as a handshake, and
//!   receives nothing more once it holds as much as the limit of a request's head.
//! - A connection that is unfinished and ready is queued; one that is throttled is listed.

mod asking;
mod backpressure;
mod bulk;
mod closing;
mod compression;
mod deadlines;
mod deferred;
mod deliveries;
mod draining;
mod flags;
mod forwarding;
mod frames;
mod handshake;
mod heads;
mod held;
mod input;
mod inspect;
mod invariants;
mod journal;
mod link_opening;
mod liveness;
mod meter;
mod opening;
mod outbox;
mod partials;
mod peer;
mod plain_echo;
mod portable;
mod readiness;
mod receiving;
mod reconcile;
mod replies;
mod reports;
mod rotation;
mod sends;
mod sessions;
mod slot;
mod stage;
mod timers;
mod tls;
mod tls_table;
mod transport;
mod work;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use slab::Slab;

use super::mail::Directory;
use crate::admission::Standing;
use crate::backend::hook_line::HookLine;
use crate::backend::queue::EventSender;
use crate::config::{Config, RouteOptions};
use crate::driver::{Driver, Socket, Token, token};
use crate::metrics::{Counters, Gauges, Histograms};
use crate::proto::http::Pages;
use crate::proto::ws::deflate::{Deflaters, Inflaters};
use crate::text::repeats::Repeats;
use deferred::DeferredWork;
use held::HeldInputs;
use meter::Meter;
use outbox::Pools;
use partials::Partials;
use peer::PeerAddress;
use rotation::Rotation;
use slot::{Slot, SlotOrigin};
use stage::Stage;
use timers::Wheel;
use tls_table::TlsTable;
use work::Work;

pub(super) use backpressure::QueuedSize;
pub(super) use compression::ReplyCompression;
pub(super) use deliveries::{FrameRoom, NOT_RECORDED, PieceKind};
pub(super) use flags::Flags;
pub(super) use link_opening::LinkOpening;
pub(super) use meter::TooMuch;
pub(super) use opening::{LINKED, OpeningStep};
pub(super) use outbox::{Piece, PieceBuilder};
pub use portable::NotSerializable;
pub(super) use portable::SlotState;
pub(super) use readiness::SessionReadiness;
pub(super) use sessions::{Goodbye, MessageContext, Sessions};
pub(super) use timers::{TICK_MS, TICK_NS, UNSET, ticks};
pub(super) use work::{MAIL_EFFORT, REPLY_BYTES, REQUEST_EFFORT};

/// Memory of an idle connection (bytes).
pub(super) const SLOT_BYTES: u64 = size_of::<Slot>() as u64;

/// The connections of a shard. See the module.
pub(super) struct Connections {
    id: u16,
    config: Arc<Config>,
    /// Pages for paths without a route; shared by all shards.
    pages: Arc<Pages>,
    directory: Arc<Directory>,
    slots: Slab<Slot>,
    /// One more than the highest slot index ever used.
    slots_high: u32,
    wheel: Wheel,
    pools: Pools,
    meter: Meter,
    tls: TlsTable,
    deferred: DeferredWork,
    /// The number of connections being rejected.
    rejected: u32,
    /// The number of these without an answer yet: they count in `gauges.handshakes`, but not
    /// towards the limit of handshakes.
    rejected_handshakes: u32,
    inflaters: Inflaters,
    deflaters: Deflaters,
    counters: Counters,
    histograms: Histograms,
    gauges: Gauges,
    /// The size of all sessions' backlogs.
    backlogs: QueuedSize,
    /// Slots with output to flush at the end of the turn.
    dirty: Vec<u32>,
    /// Paused connections that may resume once the shard's outboxes have drained.
    throttled: Vec<Token>,
    /// Connections whose receive waits for buffers.
    starved: Vec<Token>,
    /// Connections that fill whole buffers.
    bulk: Rotation,
    /// Received input that is not yet processed.
    held: HeldInputs,
    partials: Partials,
    /// Connections with unfinished input or work that are ready to continue.
    unfinished: Rotation,
    /// The effort of this turn.
    work: Work,
    /// The deadline of each session, by slot (tick).
    session_due: Vec<u32>,
    /// Connections with an overdue pong, whose TCP state is to be requested.
    questioned: Vec<u32>,
    /// The state of TCP for these, once known: bytes acknowledged, and the peer's window.
    suspects: HashMap<Token, Option<(u64, u32)>>,
    journal: Repeats,
    /// Events for a consumer on another thread.
    events: EventSender,
    /// The path of the connection that is being opened, if its event is wanted.
    opening_path: Option<Box<str>>,
    /// The target of the request of a connection that is being opened, where its session needs it.
    opened_target: Option<Box<str>>,
    /// The session of an application that is being opened.
    opened: Option<Box<LinkOpening>>,
    /// Handshakes that await an application behind a link, and some that did.
    openings: Vec<Token>,
    /// Makes ids of connections with a link unique.
    link_serial: u32,
    /// Whether parking a quiet connection saves memory with this driver.
    is_parking_useful: bool,
    /// The number of ignored replies of the connect backend.
    late_replies: u64,
    is_draining: bool,
    /// The drain began with few connections, so clients may reconnect at once.
    drains_few: bool,
    /// The time when the turn's completions were reaped.
    now_ns: u64,
    tick: u32,
    /// Slots from this index on must still be updated for a changed configuration or clock.
    refresh_from: Option<u32>,
    /// The tick at which a configuration last lowered the limits of connection age or idle time.
    lowered_tick: Option<u32>,
    generation: u32,
    random: u64,
    ping_key: std::hash::RandomState,
}

/// A connection that was accepted here, or handed over by another shard.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) listener: u8,
    pub(super) peer: Option<SocketAddr>,
    pub(super) accepted_us: u32,
}

impl Connections {
    /// Makes the table of a shard's connections for this kind of driver.
    pub(super) fn new<D: Driver>(
        id: u16,
        config: Arc<Config>,
        directory: Arc<Directory>,
        now_ns: u64,
        seed: u64,
    ) -> Self {
        let room = config.limits.connections_per_shard_max as usize + 64;
        let pools =
            Pools::new(config.engine.buffer_bytes as usize, config.engine.pool_bytes_max as usize);
        let pages = match directory.hub() {
            Some(_) => crate::web::shared_pages(config.hub.playground && config.has_hub()),
            None => Arc::new(Pages::new(Vec::new())),
        };
        let (tick, stopwatch) = (timers::tick_of(now_ns), D::stopwatch());
        let events = EventSender::new(directory.events().clone(), id);
        Self {
            id,
            pages,
            directory,
            // Reserved in advance: growing would copy the slots. Memory is used as slots are
            // touched.
            slots: Slab::with_capacity(room),
            slots_high: 0,
            wheel: Wheel::new(tick),
            pools,
            meter: Meter::default(),
            tls: TlsTable::default(),
            deferred: DeferredWork::default(),
            rejected: 0,
            rejected_handshakes: 0,
            inflaters: Inflaters::new(config.inflate_limits(), stopwatch),
            deflaters: Deflaters::new(stopwatch),
            counters: Counters::default(),
            histograms: Histograms::new(config.metrics.histograms),
            gauges: Gauges::default(),
            backlogs: QueuedSize::default(),
            dirty: Vec::with_capacity(1024),
            throttled: Vec::new(),
            starved: Vec::new(),
            bulk: Rotation::default(),
            held: HeldInputs::default(),
            partials: Partials::default(),
            unfinished: Rotation::default(),
            work: Work::new(&config),
            // Reserved like the slots; memory is used where sessions have deadlines.
            session_due: Vec::with_capacity(room),
            questioned: Vec::new(),
            suspects: HashMap::new(),
            journal: Repeats::default(),
            events,
            opening_path: None,
            opened_target: None,
            opened: None,
            openings: Vec::new(),
            link_serial: 0,
            is_parking_useful: D::WATCH_IS_CHEAPER,
            late_replies: 0,
            is_draining: false,
            drains_few: false,
            now_ns,
            tick,
            refresh_from: None,
            lowered_tick: None,
            generation: 0,
            random: seed | 1,
            ping_key: std::hash::RandomState::new(),
            config,
        }
    }

    /// Switches to another configuration. Connections use it from their next action on.
    pub(super) fn apply_config(&mut self, config: Arc<Config>) {
        self.inflaters.set_limits(config.inflate_limits());
        self.work.apply_config(&config);
        if self.directory.hub().is_some() {
            self.pages = crate::web::shared_pages(config.hub.playground && config.has_hub());
        }
        self.directory.set_epoch(self.id, config.epoch);
        if config.lowers_stays(&self.config) {
            self.lowered_tick = Some(self.tick);
        }
        self.config = config;
        self.refresh_from = Some(0);
    }

    /// Sets the time of the completions that are handled next.
    pub(super) fn set_now(&mut self, now_ns: u64) {
        if self.pools.has_sent_pieces() {
            self.record_sent_pieces();
        }
        debug_assert!(now_ns >= self.now_ns, "the clock is monotonic");
        self.now_ns = now_ns;
        self.tick = timers::tick_of(now_ns);
    }

    /// Returns a random number below `bound` (xorshift, only for spreading timers).
    pub(super) fn random_below(&mut self, bound: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32).wrapping_mul(u64::from(bound)) >> 32) as u32
    }

    /// Gives a connection a slot; returns its index.
    pub(super) fn insert(&mut self, arrival: &Arrival, standing: Standing) -> u32 {
        self.generation = (self.generation + 1) & token::GENERATION_MASK;
        let (partial, accepted_us) = (None, arrival.accepted_us);
        let is_proxied = self.config.listeners[usize::from(arrival.listener)].proxy_protocol;
        let stage = if is_proxied {
            Stage::Proxy { partial, accepted_us }
        } else {
            Stage::Http { partial, accepted_us }
        };
        let origin = SlotOrigin {
            socket: arrival.socket,
            generation: self.generation,
            listener: arrival.listener,
            peer: PeerAddress::from(arrival.peer),
            standing,
        };
        let index = self.slots.insert(Slot::new(&origin, stage, self.tick)) as u32;
        self.slots_high = self.slots_high.max(index + 1);
        self.gauges.handshakes += 1;
        let rejected = u32::from(matches!(standing, Standing::Refused(_)));
        self.rejected += rejected;
        self.rejected_handshakes += rejected;
        if !is_proxied {
            self.begin_tls(index);
        }
        self.set_deadline(index);
        index
    }

    /// Frees a slot to which no operation refers.
    pub(super) fn remove(&mut self, index: u32) {
        self.wheel.unset(&mut self.slots, index);
        self.drop_tls(index);
        if !self.suspects.is_empty() {
            self.suspects.remove(&self.token(index));
        }
        let mut slot = self.slots.remove(index as usize);
        assert!(!slot.is_in_flight(), "a slot is freed only when no operation refers to it");
        assert!(matches!(slot.stage(), Stage::Ending), "a connection ends before it is freed");
        let address = slot.peer().get().map(|peer| peer.ip());
        let limits = &self.config.limits.admission;
        self.directory.admission().leave(limits, slot.standing(), address);
        self.meter.remove_limiter(index);
        self.rejected -= u32::from(slot.is_rejected());
        self.gauges.parked -= u64::from(slot.receiving().is_parked());
        if let Some(mut outbox) = slot.replace_outbox(None) {
            outbox.clear(&mut self.pools);
            self.pools.recycle_outbox(outbox);
        }
    }

    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    pub(super) fn token(&self, index: u32) -> Token {
        Token { slot: index, generation: self.slot(index).generation() }
    }

    /// Returns the slot of a completion; `None`, counted as stale, if it has been freed since.
    pub(super) fn find_or_count_stale(&mut self, token: Token) -> Option<u32> {
        let found = self.find(token);
        self.counters.stale_completions += u64::from(found.is_none());
        found
    }

    /// Returns the slot of a token; `None` if it has been freed since.
    pub(super) fn find(&self, token: Token) -> Option<u32> {
        let slot = self.slots.get(token.slot as usize)?;
        (slot.generation() == token.generation).then_some(token.slot)
    }

    /// Returns whether a slot is in use.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.slots.contains(index as usize)
    }

    /// Returns the slots in use.
    pub(super) fn indices(&self) -> Vec<u32> {
        self.slots.iter().map(|(index, _)| index as u32).collect()
    }

    /// One past the highest slot index ever used.
    pub(super) fn slots_high(&self) -> u32 {
        self.slots_high
    }

    /// Connections here, in whichever stage.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// WebSockets that are open.
    pub(super) fn open_count(&self) -> u64 {
        self.gauges.open
    }

    /// Connections that are here to be rejected.
    pub(super) fn rejected_count(&self) -> u32 {
        self.rejected
    }

    /// Whether messages flow on a connection.
    #[inline]
    pub(super) fn is_open(&self, index: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| matches!(slot.stage(), Stage::Open(_)))
    }

    /// Returns the way of questions to applications.
    pub(in crate::shard) fn hooks(&self) -> Option<&HookLine> {
        self.directory.hooks()
    }

    /// Counts the outcome of a question whose connection has closed.
    pub(in crate::shard) fn count_late_reply(&mut self) {
        self.late_replies += 1;
    }

    /// Outcomes of questions that nothing waited for.
    pub(super) fn late_replies(&self) -> u64 {
        self.late_replies
    }

    pub(super) fn route(&self, index: u32) -> &RouteOptions {
        &self.config.route_options[self.slot(index).route()]
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn tick(&self) -> u32 {
        self.tick
    }

    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    pub(super) fn work_mut(&mut self) -> &mut Work {
        &mut self.work
    }

    pub(super) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    pub(super) fn histograms(&self) -> &Histograms {
        &self.histograms
    }

    pub(super) fn histograms_mut(&mut self) -> &mut Histograms {
        if self.pools.has_sent_pieces() {
            self.record_sent_pieces();
        }
        &mut self.histograms
    }

    /// Adds to the time that turns have taken, and to that between them.
    pub(super) fn add_turn_time(&mut self, busy_ns: u64, idle_ns: u64) {
        self.gauges.busy_ns += busy_ns;
        self.gauges.idle_ns += idle_ns;
    }

    /// The counters of this moment; those that codecs keep are filled in.
    pub(super) fn fill_counters(&self, numbers: &mut crate::metrics::Snapshot) {
        numbers.counters.clone_from(&self.counters);
        numbers.counters.tls_key_misses = self.tls.key_misses();
        self.fill_compression(numbers);
    }

    /// The gauges of this moment.
    pub(super) fn gauges(&self) -> Gauges {
        self.compression_gauges(Gauges {
            slots: self.slots.len() as u64,
            deferred_work: self.deferred.len() as u64,
            held_bytes: self.held.bytes() as u64,
            partial_bytes: self.partials.bytes(),
            outbox_bytes: self.queued_bytes(),
            recovering_bytes: self.backlogs.missed_bytes as u64,
            tls: self.tls.len() as u64,
            ..self.gauges
        })
    }

    /// Gives back memory that only a burst needed. To be called now and then.
    pub(super) fn trim(&mut self) {
        self.deferred.trim();
        self.trim_throttled();
        self.pools.trim();
        self.held.trim();
        self.partials.trim();
        self.inflaters.trim();
        self.deflaters.trim();
        self.trim_waiting_handshakes();
        self.tls.trim();
        self.summarize_rejections();
    }
}

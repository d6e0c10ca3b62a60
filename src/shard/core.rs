//! Everything a shard knows, without the driver: slots, timers, queues, numbers.
//!
//! Code here changes what *should* be; [`super::settle`] then tells the driver what follows from
//! it. So each transition is written once, whatever brought it about: bytes, a deadline, a drain.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;

use slab::Slab;

use super::held::HeldInputs;
use super::hub::HubState;
use super::mailbox::Directory;
use super::meter::Meter;
use super::outbox::Pools;
use super::rotation::Rotation;
use super::slot::{
    Armed, Cancel, Parked, PeerAddress, Slot, Stage, Teardown, TimerLinks, Unfinished,
};
use super::timers::{self, Wheel};
use super::upkeep::Upkeep;
use super::work::Work;
use crate::admission::Standing;
use crate::config::{Config, RouteOptions};
use crate::driver::{Input, Socket, Token, token};
use crate::metrics::{Counters, Gauges, Histograms};
use crate::proto::http::Pages;
use crate::proto::ws::deflate::{Deflaters, Inflaters};
use crate::text::repeats::Repeats;

pub(super) struct Core {
    pub id: u16,
    pub config: Arc<Config>,
    /// What is shown where no route is; the same for all shards.
    pub pages: Arc<Pages>,
    pub directory: Arc<Directory>,
    pub slots: Slab<Slot>,
    /// One past the highest slot index ever used.
    pub slots_high: u32,
    pub wheel: Wheel,
    pub pools: Pools,
    pub meter: Meter,
    /// What waits for its turn.
    pub upkeep: Upkeep,
    /// Slots of connections that are here to be rejected.
    pub refused: u32,
    /// Those of them that have not got their answer: they count among `gauges.handshakes`, but not
    /// towards the limit of handshakes.
    pub refused_handshakes: u32,
    pub inflaters: Inflaters,
    pub deflaters: Deflaters,
    /// Channels; `None` where no route leads to them.
    pub hub: Option<Box<HubState>>,
    pub counters: Counters,
    pub histograms: Histograms,
    pub gauges: Gauges,
    /// Slots with output to flush at the end of the turn.
    pub dirty: Vec<u32>,
    /// Paused slots that may go on reading once the shard's outboxes have drained.
    pub throttled: Vec<Token>,
    /// Input that was not looked at yet.
    pub held: HeldInputs,
    /// Connections that have some, or other work begun, and are ready to go on.
    pub unfinished: Rotation,
    /// Effort of this turn.
    pub work: Work,
    /// Connections whose pong is overdue, of which TCP is to be asked.
    pub questioned: Vec<u32>,
    /// What TCP has answered about them, once it has: bytes acknowledged, and the peer's window.
    pub suspects: HashMap<Token, Option<(u64, u32)>>,
    pub journal: Repeats,
    pub draining: bool,
    /// The drain began with few connections: clients may come back at once.
    pub drains_few: bool,
    /// Input is being looked at, and what it leaves behind will be accounted for at its end.
    pub in_input: bool,
    /// When the turn's completions were reaped.
    pub now_ns: u64,
    pub tick: u32,
    /// Slots from this index on have yet to learn of another configuration's times.
    pub refresh_from: Option<u32>,
    /// When another configuration last lowered how long connections may stay.
    pub lowered_tick: Option<u32>,
    generation: u32,
    random: u64,
    ping_key: std::hash::RandomState,
}

/// Why an accepted connection is here.
pub(super) struct Arrival {
    pub socket: Socket,
    pub listener: u8,
    pub peer: Option<SocketAddr>,
    pub accepted_us: u32,
}

impl Core {
    /// Drops the tokens of connections that have ended from the list of those that are paused: the
    /// list is read only when the pressure has ended.
    pub(super) fn trim_throttled(&mut self) {
        if self.throttled.len() > self.slots.len() {
            let mut throttled = std::mem::take(&mut self.throttled);
            throttled.retain(|token| self.find(*token).is_some());
            self.throttled = throttled;
        }
    }

    pub(super) fn new(
        id: u16,
        config: Arc<Config>,
        directory: Arc<Directory>,
        stopwatch: fn() -> u64,
        now_ns: u64,
        seed: u64,
    ) -> Self {
        let tick = timers::tick_of(now_ns);
        let room = config.limits.connections_per_shard_max as usize + 64;
        let pools =
            Pools::new(config.engine.buffer_bytes as usize, config.engine.pool_bytes_max as usize);
        let histograms = Histograms::new(config.metrics.histograms);
        let inflaters = Inflaters::new(config.inflate_limits(), stopwatch);
        let pages = match directory.hub() {
            Some(_) => crate::web::shared(config.hub.playground),
            None => Arc::new(Pages::new(Vec::new())),
        };
        let hub = directory.hub().map(|shared| HubState::new(id, directory.len(), shared));
        let work = Work::new(&config);
        Self {
            id,
            config,
            pages,
            directory,
            // Reserved at once, touched slot by slot: growing would copy and double.
            slots: Slab::with_capacity(room),
            slots_high: 0,
            wheel: Wheel::new(tick),
            pools,
            meter: Meter::default(),
            upkeep: Upkeep::default(),
            refused: 0,
            refused_handshakes: 0,
            inflaters,
            deflaters: Deflaters::new(stopwatch),
            hub,
            counters: Counters::default(),
            histograms,
            gauges: Gauges::default(),
            dirty: Vec::with_capacity(1024),
            throttled: Vec::new(),
            held: HeldInputs::default(),
            unfinished: Rotation::default(),
            work,
            questioned: Vec::new(),
            suspects: HashMap::new(),
            journal: Repeats::default(),
            draining: false,
            drains_few: false,
            in_input: false,
            now_ns,
            tick,
            refresh_from: None,
            lowered_tick: None,
            generation: 0,
            random: seed | 1,
            ping_key: std::hash::RandomState::new(),
        }
    }

    /// Goes on by another configuration. Connections notice it with what they do next.
    pub(super) fn renew(&mut self, config: Arc<Config>) {
        self.inflaters.set_limits(config.inflate_limits());
        self.work.renew(&config);
        if let (Some(hub), Some(shared)) = (&mut self.hub, self.directory.hub()) {
            hub.renew(shared);
            self.pages = crate::web::shared(config.hub.playground);
        }
        self.directory.set_epoch(self.id, config.epoch);
        if config.lowers_stays(&self.config) {
            self.lowered_tick = Some(self.tick);
        }
        self.config = config;
        self.refresh_from = Some(0);
    }

    pub(super) fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.tick = timers::tick_of(now_ns);
    }

    /// A number below `bound`: xorshift, for spreading timers only.
    pub(super) fn random(&mut self, bound: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32).wrapping_mul(u64::from(bound)) >> 32) as u32
    }

    /// Makes a slot for a connection.
    pub(super) fn insert(&mut self, arrival: &Arrival, standing: Standing) -> u32 {
        self.generation = (self.generation + 1) & token::GENERATION_MASK;
        let partial = None;
        let accepted_us = arrival.accepted_us;
        let stage = if self.config.listeners[usize::from(arrival.listener)].proxy_protocol {
            Stage::Proxy { partial, accepted_us }
        } else {
            Stage::Http { partial, accepted_us }
        };
        let index = self.slots.insert(Slot {
            stage,
            outbox: None,
            bytes_received: 0,
            bytes_sent: 0,
            messages_received: 0,
            messages_sent: 0,
            socket: arrival.socket,
            generation: self.generation,
            timer: TimerLinks { previous: 0, next: 0, tick: timers::UNSET },
            opened_tick: self.tick,
            heard_tick: self.tick,
            message_tick: self.tick,
            stage_tick: self.tick,
            peer: PeerAddress::from(arrival.peer),
            route: 0,
            listener: arrival.listener,
            in_flight: 0,
            armed: Armed::Nothing,
            parked: Parked::No,
            input: Input::Unknown,
            paused: false,
            unfinished: Unfinished::No,
            throttled: false,
            cancel: Cancel::Unasked,
            held: false,
            input_ended: false,
            lending: false,
            dirty: false,
            pinged: false,
            standing,
            teardown: Teardown::Nothing,
        }) as u32;
        self.slots_high = self.slots_high.max(index + 1);
        self.gauges.handshakes += 1;
        let refused = u32::from(matches!(standing, Standing::Refused(_)));
        self.refused += refused;
        self.refused_handshakes += refused;
        self.set_deadline(index);
        index
    }

    /// Frees a slot of which the kernel holds nothing.
    pub(super) fn remove(&mut self, index: u32) {
        self.wheel.unset(&mut self.slots, index);
        if !self.suspects.is_empty() {
            self.suspects.remove(&self.token(index));
        }
        let slot = self.slots.remove(index as usize);
        let address = slot.peer.get().map(|peer| peer.ip());
        let limits = &self.config.limits.admission;
        self.directory.admission().leave(limits, slot.standing, address);
        self.meter.forget(index);
        self.refused -= u32::from(matches!(slot.standing, Standing::Refused(_)));
        assert_eq!(slot.in_flight, 0, "a slot dies only when the kernel holds nothing of it");
        self.gauges.parked -= u64::from(slot.parked == Parked::Yes);
        if let Some(mut outbox) = slot.outbox {
            self.gauges.outbox_bytes -= outbox.clear(&mut self.pools) as u64;
            self.pools.recycle_outbox(outbox);
        }
    }

    pub(super) fn token(&self, index: u32) -> Token {
        Token { slot: index, generation: self.slots[index as usize].generation }
    }

    /// The slot that a completion is about; `None` if it has been freed since.
    pub(super) fn lookup(&mut self, token: Token) -> Option<u32> {
        let found = self.find(token);
        self.counters.stale_completions += u64::from(found.is_none());
        found
    }

    /// The slot of a token, if it has not been freed since.
    pub(super) fn find(&self, token: Token) -> Option<u32> {
        let slot = self.slots.get(token.slot as usize)?;
        (slot.generation == token.generation).then_some(token.slot)
    }

    pub(super) fn route(&self, index: u32) -> &RouteOptions {
        &self.config.route_options[usize::from(self.slots[index as usize].route)]
    }

    /// Queues bytes that are no reply: control frames and HTTP answers.
    pub(super) fn queue(&mut self, index: u32, bytes: &[u8]) {
        let slot = &mut self.slots[index as usize];
        let outbox = slot.outbox.get_or_insert_with(|| {
            let mut outbox = self.pools.outbox();
            outbox.progress_tick = self.tick;
            outbox
        });
        outbox.copy_alone(bytes);
        self.gauges.outbox_bytes += bytes.len() as u64;
    }

    /// Queues the rest of a reply to input of `at_ns`, before all that came after it.
    pub(super) fn queue_first(&mut self, index: u32, bytes: &[u8], at_ns: u64) {
        let slot = &mut self.slots[index as usize];
        let outbox = slot.outbox.get_or_insert_with(|| {
            let mut outbox = self.pools.outbox();
            outbox.progress_tick = self.tick;
            outbox
        });
        outbox.put_first(&mut self.pools, bytes, at_ns);
        self.gauges.outbox_bytes += bytes.len() as u64;
    }

    /// A ping that says when it left; the tag keeps a client from inventing times.
    pub(super) fn ping_payload(&self, index: u32) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.now_ns.to_be_bytes());
        payload[8..].copy_from_slice(&self.ping_tag(index, self.now_ns).to_be_bytes());
        payload
    }

    fn ping_tag(&self, index: u32, at_ns: u64) -> u64 {
        let token = self.token(index);
        self.ping_key.hash_one((at_ns, token.slot, token.generation))
    }

    /// Looks at a pong as long as a ping of ours: records the round trip if it answers one.
    pub(super) fn pong(&mut self, index: u32, payload: [u8; 16]) {
        let Some((at, tag)) = payload.split_first_chunk::<8>() else { return };
        let at_ns = u64::from_be_bytes(*at);
        if self.slots[index as usize].pinged && tag == self.ping_tag(index, at_ns).to_be_bytes() {
            self.counters.pongs_received += 1;
            let took_ns = self.now_ns.saturating_sub(at_ns);
            self.histograms.rtt.record(took_ns);
            if let Some(hub) = &mut self.hub {
                hub.note_rtt(index, took_ns);
            }
            self.schedule_ping(index);
        }
    }

    /// What a partial request or message of this slot holds.
    pub(super) fn partial_bytes(slot: &Slot) -> usize {
        match &slot.stage {
            Stage::Proxy { partial, .. } | Stage::Http { partial, .. } => {
                partial.as_ref().map_or(0, |partial| partial.bytes.capacity())
            }
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.partial_bytes(),
            _ => 0,
        }
    }
}

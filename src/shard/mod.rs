//! One core, one thread, one ring: the only place where driver, protocol and sessions meet.
//!
//! A shard runs in turns. A turn submits the operations queued by the previous one and waits; then
//! it reaps completions and applies each to its slot, reads mail, fires timers, does some deferred
//! work, continues held input, runs the hub, and flushes every slot that has something to send.
//! Nothing but the wait blocks. Shards share only the [`Directory`] (mailboxes, loads, congested
//! channels) and the tables of [`admission`](crate::admission).
//!
//! Budgets: a turn handles at most `turn_completions_max` completions, spends a bounded effort on
//! input, of which each connection gets a share (`connections/work.rs`), fires at most
//! `turn_timers_max` timers, and does some of the deferred work (`connections/deferred.rs`). So a
//! burst delays other connections by one turn at most, and one message, however large, is processed
//! over many turns.

mod accept;
mod connections;
pub mod decisions;
mod dispatch;
mod drain;
pub mod forwarded;
mod gateway;
pub mod hub;
mod layers;
pub mod mail;
mod operators;
pub mod portable;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use slab::Slab;

use crate::config::Config;
use crate::driver::{Driver, Token, Wait, host};
use crate::metrics::Snapshot;
use connections::{Arrival, Connections, TICK_NS, UNSET};
use drain::Drain;
use gateway::Gateway;
use hub::{Hub, HubOutput, Looks};
use layers::Layers;
use mail::{Directory, Mail};

/// Memory of an idle connection (bytes).
pub const SLOT_BYTES: u64 = connections::SLOT_BYTES;
/// Connections that are accepted beyond the limit, in order to reject them with an answer.
pub const SURPLUS_MAX: u32 = 64;
/// A turn is late if it begins this much after its wait should have ended.
const LATE_NS: u64 = 250_000_000;
/// After this many turns since a late one, timers fire again even if input remains.
const LATE_TURNS_MAX: u32 = 4096;
/// Interval at which unused memory is returned (ticks).
const HOUSEKEEPING_TICKS: u32 = 20;
/// Housekeepings after the last activity: the allocator keeps what was freed shortly before one.
const HOUSEKEEPINGS_AFTER: u8 = 3;
/// The token of sockets without a slot.
const ORPHAN: Token = Token { slot: u32::MAX, generation: 0 };

/// Whether a shard continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// Every connection is closed; the caller drops the shard.
    Finished,
}

/// Returns whether an application has links, and so may send records.
fn has_gateway(config: &Config) -> bool {
    config.backends.iter().any(|backend| backend.links.is_some())
}

/// A connection handed over to this shard whose socket has not arrived: listener, peer, accept time
/// (µs).
type Expected = (u8, Option<SocketAddr>, u32);

/// One shard.
pub struct Shard<D: Driver> {
    driver: D,
    connections: Connections,
    layers: Layers,
    /// For each listener: how many accepts are to be armed.
    owed: Vec<u32>,
    /// No accepts are armed until this tick, because one failed.
    resting_until: Option<u32>,
    /// The listeners are closed, and not opened again.
    stopped: bool,
    /// Connections being handed to another shard: that shard, and the key of the handover.
    passing: Slab<(Arrival, u16, u64)>,
    handovers: u64,
    /// Failed accepts are not logged again before this tick.
    warn_tick: u32,
    /// Handovers to this shard, by key.
    arrivals: HashMap<u64, Expected>,
    drain: Option<Drain>,
    looks: Looks,
    fired: Vec<u32>,
    housekeeping_tick: u32,
    /// Housekeepings that are still due.
    housekeepings: u8,
    /// A bound ended some work of the last turn early; the next turn does not wait.
    cut: bool,
    turn_ended_ns: u64,
    turn_began_ns: u64,
    /// Turns since the last late one; `None` if there was none, or all input that arrived before it
    /// was processed.
    late_turns: Option<u32>,
}

impl<D: Driver> Shard<D> {
    /// Makes shard `id` with its driver and its share of the listening sockets, in the order of
    /// the configuration's listeners.
    ///
    /// # Errors
    /// When the driver cannot use a listener.
    pub fn new(
        mut driver: D,
        id: u16,
        config: Arc<Config>,
        directory: Arc<Directory>,
        listeners: Vec<OwnedFd>,
        seed: u64,
    ) -> io::Result<Self> {
        let now_ns = driver.now_ns();
        directory.set_bell(id, driver.bell());
        let make_hub = |shared| Hub::new(id, directory.len(), shared, driver.bell());
        let hub = directory.hub().map(make_hub);
        let gateway = has_gateway(&config).then(|| Gateway::new(id, directory.clone()));
        let mut connections = Connections::new::<D>(id, config, directory, now_ns, seed);
        let accepts = connections.config().engine.accepts_per_listener;
        let owed = vec![accepts; listeners.len()];
        for (index, socket) in listeners.into_iter().enumerate() {
            driver.listen(index as u16, socket)?;
        }
        connections.set_now(now_ns);
        let housekeeping_tick = connections.tick() + HOUSEKEEPING_TICKS;
        let mut shard = Self {
            driver,
            connections,
            layers: Layers { hub, gateway },
            owed,
            resting_until: None,
            stopped: false,
            passing: Slab::new(),
            handovers: 0,
            warn_tick: 0,
            arrivals: HashMap::new(),
            drain: None,
            looks: Looks::default(),
            fired: Vec::new(),
            housekeeping_tick,
            housekeepings: 0,
            // The first turn must not wait: mail may have been posted before the bell was set.
            cut: true,
            turn_ended_ns: now_ns,
            turn_began_ns: now_ns,
            late_turns: None,
        };
        shard.owe_accepts();
        Ok(shard)
    }

    /// Returns the driver, for simulations.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Runs turns until the shard is finished.
    ///
    /// # Errors
    /// The driver has failed.
    pub fn run(&mut self) -> io::Result<()> {
        while self.run_turn()? == Life::Running {}
        Ok(())
    }

    /// Runs one turn: submits, waits, and handles what has arrived.
    ///
    /// # Errors
    /// The driver has failed.
    pub fn run_turn(&mut self) -> io::Result<Life> {
        let wait = self.next_wait();
        self.driver.submit(wait)?;
        let now_ns = self.driver.now_ns();
        self.note_lateness(wait, now_ns);
        self.connections.set_now(now_ns);
        self.connections.work_mut().begin_turn();
        if let Some(hub) = &mut self.layers.hub {
            hub.set_clock(&mut self.connections, self.driver.unix_ms());
        }
        if let Some(gateway) = &mut self.layers.gateway {
            gateway.set_clock(self.driver.unix_ms());
        }
        let waited = now_ns.saturating_sub(self.turn_ended_ns);
        let has_deferred_sends = self.connections.has_output();
        let handled = self.handle_completions()?;
        if self.connections.directory().begin_reading(self.connections.id()) {
            self.read_mail();
        }
        if self.may_judge(handled) {
            self.fire_timers();
        }
        let Self { driver, connections, layers, .. } = self;
        self.cut |= connections.run_deferred(driver, layers);
        if connections.is_refreshing() {
            self.cut |= connections.refresh_deadlines(layers);
        }
        let is_hub_turn_long = layers.hub.is_some() && connections.work().is_half_spent();
        if (has_deferred_sends || is_hub_turn_long || connections.has_unfinished())
            && connections.has_output()
        {
            // The rest of the turn may take long: send short output before it.
            connections.flush_short(driver, layers);
            driver.submit(Wait::No)?;
        }
        self.cut |= connections.serve_unfinished(driver, layers);
        if connections.has_waiting_handshakes() {
            self.cut |= connections.serve_handshakes(driver, layers);
        }
        if self.drain.is_some() {
            self.continue_drain();
        }
        self.turn_hub();
        let Self { driver, connections, layers, .. } = self;
        self.cut |= layers.turn_gateway(driver, connections);
        let Self { driver, connections, layers, .. } = self;
        connections.receive_starved(driver);
        self.cut |= connections.receive_bulk(driver);
        connections.resume_throttled(driver);
        self.cut |= connections.flush_output(driver, layers);
        if let Some(gateway) = &mut layers.gateway {
            gateway.flush_links();
        }
        self.cut |= host::return_excess();
        let (id, open) = (connections.id(), connections.open_count() as u32);
        connections.directory().set_connections(id, connections.len() as u32, open);
        self.record_turn(handled, waited, now_ns);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Ok(if self.is_finished() { Life::Finished } else { Life::Running })
    }

    /// Checks the invariants between turns, which `connections/mod.rs` and `hub/mod.rs` list.
    ///
    /// # Panics
    /// When an invariant is violated, which is a bug.
    pub fn check_invariants(&self) {
        self.connections.check_invariants();
        if let Some(hub) = &self.layers.hub {
            hub.check_invariants(&self.connections);
        }
        if let Some(gateway) = &self.layers.gateway {
            gateway.check_invariants(&self.connections);
        }
    }

    /// Handles completions within the turn's bounds; returns their number.
    fn handle_completions(&mut self) -> io::Result<u32> {
        let most = self.connections.config().engine.turn_completions_max;
        let (mut handled, mut before) = (0, 0);
        self.cut = false;
        while handled < most && !self.cut {
            if let Some(completion) = self.driver.next() {
                handled += 1;
                self.dispatch(completion);
                self.cut = self.connections.work().is_turn_spent();
            } else if self.connections.has_deferred() && self.driver.may_have_more(handled - before)
            {
                // Some of the work was only deferred, and more completions may be queued behind:
                // reap them in this turn.
                before = handled;
                self.cut |= self.connections.flush_output(&mut self.driver, &mut self.layers);
                self.driver.submit(Wait::No)?;
                let now_ns = self.driver.now_ns();
                self.connections.set_now(now_ns);
            } else {
                break;
            }
        }
        self.cut |= handled == most;
        Ok(handled)
    }

    /// Detects a late turn: the process was stopped, or the machine suspended, and input that
    /// clients have sent meanwhile may not have been received yet.
    fn note_lateness(&mut self, wait: Wait, now_ns: u64) {
        let expected_ns = match wait {
            Wait::No => self.turn_began_ns,
            Wait::Until(until_ns) => until_ns.max(self.turn_began_ns),
            Wait::Forever => now_ns,
        };
        if now_ns.saturating_sub(expected_ns) > LATE_NS {
            self.late_turns = Some(0);
        }
        self.turn_began_ns = now_ns;
    }

    /// Returns whether timers may fire. After a late turn they must wait until all input that had
    /// arrived is processed: otherwise clients would be closed as silent although they sent.
    fn may_judge(&mut self, handled: u32) -> bool {
        let Some(turns) = &mut self.late_turns else { return true };
        *turns += 1;
        let is_caught_up =
            !self.driver.may_have_more(handled) && !self.cut && self.connections.is_caught_up();
        if is_caught_up || *turns > LATE_TURNS_MAX {
            self.late_turns = None;
            return true;
        }
        self.cut = true;
        false
    }

    /// Returns how long the next turn may wait.
    pub fn next_wait(&self) -> Wait {
        let connections = &self.connections;
        if self.cut || connections.has_unfinished() || connections.has_deferred() {
            return Wait::No;
        }
        let next = [
            connections.next_timer_tick(),
            (self.housekeepings > 0).then_some(self.housekeeping_tick),
            self.layers.hub.as_ref().and_then(|hub| hub.next_tick(connections.tick())),
            self.layers.gateway.as_ref().and_then(|gateway| gateway.next_tick(connections.tick())),
            self.resting_until,
            self.drain_tick(),
        ];
        let next = next.map(|tick| tick.unwrap_or(UNSET)).into_iter().fold(UNSET, u32::min);
        if next == UNSET { Wait::Forever } else { Wait::Until(u64::from(next) * TICK_NS) }
    }

    fn record_turn(&mut self, handled: u32, waited_ns: u64, began_ns: u64) {
        if handled > 0 {
            self.housekeepings = HOUSEKEEPINGS_AFTER;
        }
        let connections = &mut self.connections;
        connections.counters_mut().turns_cut += u64::from(self.cut);
        if connections.histograms().is_on() {
            let ended_ns = self.driver.now_ns();
            let busy_ns = ended_ns.saturating_sub(began_ns);
            let histograms = connections.histograms_mut();
            histograms.wait.record(waited_ns);
            histograms.turn.record(busy_ns);
            if handled > 0 {
                histograms.batch.record(u64::from(handled));
            }
            connections.add_turn_time(busy_ns, waited_ns);
            self.turn_ended_ns = ended_ns;
        }
    }

    /// Runs the hub's turn, and delivers its output: mail to other shards, and changed connections.
    fn turn_hub(&mut self) {
        let Self { driver, connections, layers: Layers { hub: Some(hub), .. }, .. } = self else {
            return;
        };
        if hub.is_idle(connections.tick()) {
            return;
        }
        self.cut |= hub.run_turn(connections);
        let HubOutput { posts, touched, looks } = hub.output();
        for (shard, mails) in posts.drain(..) {
            if connections.directory().post_silently(shard, Mail::HubBatch(mails)) {
                driver.doorbell(shard);
            }
        }
        for look in looks.drain(..) {
            self.looks.request_tcp_state(connections, driver, look);
        }
        for index in touched.drain(..) {
            if connections.contains(index) {
                connections.reconcile(driver, index);
            }
        }
    }

    fn fire_timers(&mut self) {
        let tick = self.connections.tick();
        if self.resting_until.is_some_and(|until| tick >= until) {
            self.resting_until = None;
            self.owe_accepts();
        }
        let Self { driver, connections, layers, fired, .. } = self;
        self.cut |= connections.fire_timers(driver, layers, fired);
        connections.question_suspects(driver);
        if tick >= self.housekeeping_tick {
            self.housekeeping_tick = tick + HOUSEKEEPING_TICKS;
            self.housekeepings = self.housekeepings.saturating_sub(1);
            if !self.cut {
                driver.trim();
            }
            connections.trim();
            if host::return_memory() {
                self.housekeepings = self.housekeepings.max(1);
            }
        }
    }

    fn read_mail(&mut self) {
        while let Some(mail) = self.connections.directory().next_mail(self.connections.id()) {
            match mail {
                Mail::Handover { key, listener, peer, accepted_us } => {
                    let earlier = self.arrivals.insert(key, (listener, peer, accepted_us));
                    assert!(earlier.is_none(), "every handover has a key of its own");
                }
                Mail::HandoverFailed { key } => {
                    self.arrivals.remove(&key);
                }
                Mail::Snapshot(mut numbers, reply) => {
                    self.exchange_numbers(&mut numbers);
                    if let Err(unread) = reply.send(numbers) {
                        // The reader is gone: put its histograms back.
                        self.connections.histograms_mut().add(&unread.histograms);
                    }
                }
                Mail::Hub(mail) => {
                    let Self { driver, connections, layers, looks, .. } = self;
                    if let Some(look) = layers.take_mail(connections, *mail) {
                        looks.request_tcp_state(connections, driver, look);
                    }
                }
                Mail::HubBatch(mails) => {
                    if let Some(hub) = &mut self.layers.hub {
                        mails.into_iter().for_each(|mail| hub.post_here(mail));
                    }
                }
                Mail::Decided { token, reply } => {
                    let Self { driver, connections, layers, .. } = self;
                    connections.take_decision(driver, layers, token, *reply);
                }
                Mail::Forwarded { token, answer } => {
                    let Self { driver, connections, layers, .. } = self;
                    connections.send_forwarded_answer(driver, layers, token, &answer);
                }
                Mail::Link(mail) => {
                    if let Some(gateway) = &mut self.layers.gateway {
                        gateway.take_mail(*mail);
                    }
                }
                Mail::Renew(config) => self.apply_config(config),
                Mail::Drain => self.begin_drain(),
                Mail::Stop => self.close_all(),
            }
        }
    }

    /// Switches to another configuration.
    fn apply_config(&mut self, config: Arc<Config>) {
        let shared = self.connections.directory().hub();
        if let (Some(hub), Some(shared)) = (&mut self.layers.hub, shared) {
            hub.apply_config(shared);
        }
        if has_gateway(&config) && self.layers.gateway.is_none() {
            let directory = self.connections.directory().clone();
            self.layers.gateway = Some(Gateway::new(self.connections.id(), directory));
        }
        self.connections.apply_config(config);
    }

    /// Returns the number of replies of the connect backend that were ignored, because their
    /// connection had ended or was decided already.
    pub fn late_replies(&self) -> u64 {
        self.connections.late_replies()
    }

    /// Returns the effort of the last turn, and the limit of a turn, which may be exceeded by one
    /// connection's share: see `connections/work.rs`.
    pub fn turn_effort(&self) -> (u64, u64) {
        (self.connections.work().spent_effort(), self.connections.work().turn_max())
    }

    /// Returns the shard's current metrics; histograms contain what was recorded since they were
    /// last exchanged.
    pub fn snapshot(&self) -> Snapshot {
        let histograms = self.connections.histograms().clone();
        let mut numbers = Snapshot { histograms, ..Snapshot::default() };
        self.fill_numbers(&mut numbers);
        numbers
    }

    /// Fills in the shard's counters and gauges, and swaps its histograms for those of `numbers`,
    /// which must be empty. Allocates nothing if `numbers` was filled before.
    pub fn exchange_numbers(&mut self, numbers: &mut Snapshot) {
        std::mem::swap(self.connections.histograms_mut(), &mut numbers.histograms);
        self.fill_numbers(numbers);
    }

    /// Fills in everything but the histograms.
    fn fill_numbers(&self, numbers: &mut Snapshot) {
        let mut gauges = self.connections.gauges();
        self.connections.fill_counters(numbers);
        if let Some(hub) = &self.layers.hub {
            hub.fill_counters(&mut numbers.counters);
            gauges = hub.fill_gauges(&self.connections, gauges);
        }
        if let Some(gateway) = &self.layers.gateway {
            gauges.gateway_sessions = gateway.len().into();
            gauges.session_bytes += gateway.bytes();
        }
        numbers.gauges = gauges;
        numbers.drivers.clear();
        numbers.drivers.push((self.connections.id(), gauges, self.driver.counters()));
    }
}

//! One core, one thread, one ring: the only place where driver, protocol and sessions meet.
//!
//! A shard lives in turns. A turn submits what the last one wanted and waits; then it reaps
//! completions (a bounded number), lets each change its slot, reads mail, fires timers, does some
//! deferred work, continues held input, lets the hub work, and flushes every slot that has
//! something to send. Nothing in it blocks. Shared with other shards are the [`Directory`]
//! (mailboxes, loads, congested channels) and the tables of [`admission`](crate::admission).
//!
//! Budgets: a turn handles at most `turn_completions_max` completions, a bounded effort for the
//! input of all connections and a share of it for each (`connections/work.rs`), `turn_timers_max`
//! timers, and some of the deferred work (`connections/deferred.rs`). So a burst delays the
//! others by one turn, not by all of itself, and one message, however large, is processed over many
//! turns.

mod accept;
pub mod connect;
mod connections;
mod dispatch;
mod drain;
pub mod events;
pub mod hub;
pub mod mail;
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
use connections::{Arrival, Connections, TICK_NS};
use drain::Drain;
use hub::{Hub, HubOutput, Looks};
use mail::{Directory, Mail};

/// What an idle connection costs (bytes).
pub const SLOT_BYTES: u64 = connections::SLOT_BYTES;
/// Connections that are accepted beyond the limit, in order to reject them with an answer.
pub const SURPLUS_MAX: u32 = 64;
/// A turn that begins so much later than it was to is late.
const LATE_NS: u64 = 250_000_000;
/// After so many turns timers fire again, whatever remains to be received.
const LATE_TURNS_MAX: u32 = 4096;
/// Between two looks at what can be given back (ticks).
const HOUSEKEEPING_TICKS: u32 = 20;
/// The token of a socket that never got a slot.
const ORPHAN: Token = Token { slot: u32::MAX, generation: 0 };

/// Whether a shard continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// Every connection is closed and the shard is to be dropped.
    Finished,
}

/// What is known of a connection whose socket has yet to arrive: listener, peer, time of accept.
type Expected = (u8, Option<SocketAddr>, u32);

/// One shard.
pub struct Shard<D: Driver> {
    driver: D,
    connections: Connections,
    /// Channels; `None` where no route leads to them.
    hub: Option<Box<Hub>>,
    /// Accepts that each listener lacks of those that should be armed.
    owed: Vec<u32>,
    /// Accepting rests until this tick.
    resting_until: Option<u32>,
    /// Listeners are closed for good.
    stopped: bool,
    /// Connections on their way to another shard, which, and under which key.
    passing: Slab<(Arrival, u16, u64)>,
    handovers: u64,
    /// Until then nothing more is said of failing accepts.
    warn_tick: u32,
    arrivals: HashMap<u64, Expected>,
    drain: Option<Drain>,
    looks: Looks,
    fired: Vec<u32>,
    housekeeping_tick: u32,
    /// Something happened since the last housekeeping.
    active: bool,
    /// The last turn stopped at a bound.
    cut: bool,
    turn_ended_ns: u64,
    turn_began_ns: u64,
    /// Turns since one came late; `None`: none did, or all that came meanwhile was looked at.
    late_turns: Option<u32>,
}

impl<D: Driver> Shard<D> {
    /// Makes shard `id` over its driver and its share of the listening sockets, in the order of
    /// the configuration's listeners.
    ///
    /// # Errors
    /// When the driver refuses a listener.
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
            hub,
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
            active: false,
            // The first turn does not wait: mail may have come before there was a bell.
            cut: true,
            turn_ended_ns: now_ns,
            turn_began_ns: now_ns,
            late_turns: None,
        };
        shard.owe_accepts();
        Ok(shard)
    }

    /// The driver, for a simulation to look at.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Turns until the shard is finished.
    ///
    /// # Errors
    /// The driver has failed.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? == Life::Running {}
        Ok(())
    }

    /// Submits, waits, and works through what has come.
    ///
    /// # Errors
    /// The driver has failed.
    pub fn turn(&mut self) -> io::Result<Life> {
        let wait = self.wait();
        self.driver.submit(wait)?;
        let now_ns = self.driver.now_ns();
        self.note_lateness(wait, now_ns);
        self.connections.set_now(now_ns);
        self.connections.work_mut().begin_turn();
        if let Some(hub) = &mut self.hub {
            hub.set_clock(&mut self.connections, self.driver.unix_ms());
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
        let Self { driver, connections, hub, .. } = self;
        self.cut |= connections.run_deferred(driver, hub);
        self.cut |= connections.refresh_deadlines(hub);
        let is_hub_turn_long = hub.is_some() && connections.work().is_half_spent();
        if (has_deferred_sends || is_hub_turn_long || connections.has_unfinished())
            && connections.has_output()
        {
            // The rest of the turn may be long, and what can leave now need not wait for it.
            connections.flush_short(driver, hub);
            driver.submit(Wait::No)?;
        }
        self.cut |= connections.serve_unfinished(driver, hub);
        self.continue_drain();
        self.turn_hub();
        let Self { driver, connections, hub, .. } = self;
        connections.receive_starved(driver);
        self.cut |= connections.receive_bulk(driver);
        connections.resume_throttled(driver);
        self.cut |= connections.flush(driver, hub);
        self.cut |= host::return_excess();
        let (id, open) = (connections.id(), connections.open_count() as u32);
        connections.directory().set_connections(id, connections.len() as u32, open);
        self.record(handled, waited, now_ns);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Ok(if self.is_finished() { Life::Finished } else { Life::Running })
    }

    /// Checks what always holds between turns; `connections/mod.rs` and `hub/mod.rs` list it.
    ///
    /// # Panics
    /// When something does not hold, which is a bug.
    pub fn check_invariants(&self) {
        self.connections.check_invariants();
        if let Some(hub) = &self.hub {
            hub.check_invariants(&self.connections);
        }
    }

    /// Works through what the kernel has finished, within the turn's bounds; returns how much it
    /// was.
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
                // There may be more behind those that will be dealt with later.
                before = handled;
                self.cut |= self.connections.flush(&mut self.driver, &mut self.hub);
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

    /// Notes whether the turn begins much later than it was to: the process was stopped, or the
    /// machine suspended, and what clients have sent meanwhile may not have been received yet.
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

    /// Whether timers may fire: after a late turn only once everything that had come was looked at,
    /// or silence would be judged that was none.
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

    /// How long the next turn may wait.
    pub fn wait(&self) -> Wait {
        let connections = &self.connections;
        if self.cut || connections.has_unfinished() || connections.has_deferred() {
            return Wait::No;
        }
        let next = [
            connections.next_timer_tick(),
            self.active.then_some(self.housekeeping_tick),
            self.hub.as_ref().and_then(|hub| hub.next_tick(connections.tick())),
            self.resting_until,
            self.drain_tick(),
        ]
        .into_iter()
        .flatten()
        .min();
        match next {
            Some(tick) => Wait::Until(u64::from(tick) * TICK_NS),
            None => Wait::Forever,
        }
    }

    fn record(&mut self, handled: u32, waited_ns: u64, began_ns: u64) {
        self.active |= handled > 0;
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

    /// Channels: requests, fan-out, and mail to other shards.
    fn turn_hub(&mut self) {
        let Self { driver, connections, hub: Some(hub), .. } = self else { return };
        self.cut |= hub.turn(connections);
        let HubOutput { posts, touched, looks } = hub.take_output();
        for (shard, mails) in posts {
            if connections.directory().post_silently(shard, Mail::HubBatch(mails)) {
                driver.doorbell(shard);
            }
        }
        for look in looks {
            self.looks.begin(connections, driver, look);
        }
        for index in touched {
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
        let Self { driver, connections, hub, fired, .. } = self;
        self.cut |= connections.fire_timers(driver, hub, fired);
        connections.question_suspects(driver);
        if tick >= self.housekeeping_tick {
            self.housekeeping_tick = tick + HOUSEKEEPING_TICKS;
            self.active = false;
            if !self.cut {
                driver.trim();
            }
            connections.trim();
            self.active |= host::return_memory();
        }
    }

    fn read_mail(&mut self) {
        while let Some(mail) = self.connections.directory().read(self.connections.id()) {
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
                        // Whoever asked has gone: what was taken out goes back in.
                        self.connections.histograms_mut().add(&unread.histograms);
                    }
                }
                Mail::Hub(mail) => {
                    if let Some(hub) = &mut self.hub {
                        hub.post_here(*mail);
                    }
                }
                Mail::HubBatch(mails) => {
                    if let Some(hub) = &mut self.hub {
                        mails.into_iter().for_each(|mail| hub.post_here(mail));
                    }
                }
                Mail::Decided { token, reply } => {
                    let Self { driver, connections, hub, .. } = self;
                    connections.take_decision(driver, hub, token, *reply);
                }
                Mail::Renew(config) => self.renew(config),
                Mail::Drain => self.begin_drain(),
                Mail::Stop => self.stop(),
            }
        }
    }

    /// Adopts another configuration.
    fn renew(&mut self, config: Arc<Config>) {
        let shared = self.connections.directory().hub();
        if let (Some(hub), Some(shared)) = (&mut self.hub, shared) {
            hub.renew(shared);
        }
        self.connections.renew(config);
    }

    /// Replies of the connect backend that came for connections which wait for none: they have
    /// ended, or were decided already.
    pub fn late_replies(&self) -> u64 {
        self.connections.late_replies()
    }

    /// Effort of the last turn, and the most that a turn may take, give or take a connection's
    /// share: see `connections/work.rs`.
    pub fn effort(&self) -> (u64, u64) {
        (self.connections.work().spent(), self.connections.work().turn_max())
    }

    /// The shard's numbers at this moment; its histograms since they were last exchanged.
    pub fn snapshot(&self) -> Snapshot {
        let histograms = self.connections.histograms().clone();
        let mut numbers = Snapshot { histograms, ..Snapshot::default() };
        self.fill_numbers(&mut numbers);
        numbers
    }

    /// Fills in the shard's numbers, and gives its histograms away for those of `numbers`, which
    /// must be empty. Copies next to nothing and allocates nothing where `numbers` has been
    /// through it before.
    pub fn exchange_numbers(&mut self, numbers: &mut Snapshot) {
        std::mem::swap(self.connections.histograms_mut(), &mut numbers.histograms);
        self.fill_numbers(numbers);
    }

    /// All but the histograms.
    fn fill_numbers(&self, numbers: &mut Snapshot) {
        let mut gauges = self.connections.gauges();
        self.connections.fill_counters(numbers);
        if let Some(hub) = &self.hub {
            hub.fill_counters(&mut numbers.counters);
            gauges = hub.fill_gauges(&self.connections, gauges);
        }
        numbers.gauges = gauges;
        numbers.drivers.clear();
        numbers.drivers.push((self.connections.id(), gauges, self.driver.counters()));
    }
}

//! One core, one thread, one ring: the only place where driver, protocol and sessions meet.
//!
//! A shard lives in turns. A turn submits what the last one wanted and waits; then it reaps
//! completions (a bounded number), lets each change its slot, reads mail, fires timers, does some
//! of what could wait, and flushes every slot that has something to send. Nothing in it blocks, and
//! nothing is shared with other shards but mailboxes and a load number each.
//!
//! Budgets: a turn handles at most `turn_completions_max` completions, a bounded effort for the
//! input of all connections and a share of it for each (`work.rs`), `turn_timers_max` timers, and
//! some ends of connections and wakes of parked ones (`upkeep.rs`). So a burst delays the others by
//! one turn, not by all of itself, and one message, however large, is looked at over many turns.

mod accept;
mod closing;
mod compression;
mod core;
mod deadlines;
mod dispatch;
mod drain;
mod handshake;
mod held;
pub mod hub;
mod input;
mod journal;
pub mod mailbox;
mod meter;
mod outbox;
pub mod portable;
mod reading;
mod replies;
mod rotation;
mod settle;
mod slot;
mod streams;
mod timers;
mod upkeep;
mod work;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use slab::Slab;

use self::core::{Arrival, Core};
use crate::config::Config;
use crate::driver::{Driver, Token, Wait, host};
use crate::metrics::{Gauges, Snapshot};
use drain::Drain;
use hub::{Aftermath, Looks};
use mailbox::{Directory, Mail};
use rotation::Rotation;

/// What an idle connection costs (bytes).
pub const SLOT_BYTES: u64 = size_of::<slot::Slot>() as u64;
/// Connections taken in beyond the limit, only to be told that there is no room.
pub const SURPLUS_MAX: u32 = 64;
/// With so many completions at once, the kernel may have left some: it does the deferred work of
/// twenty in one call (`IO_LOCAL_TW_DEFAULT_MAX`).
const REPORTED_AT_ONCE: u32 = 16;
/// A turn that begins so much later than it was to is late.
const LATE_NS: u64 = 250_000_000;
/// After so many turns timers fire again, whatever is left to be received.
const LATE_TURNS_MAX: u32 = 4096;
/// Between two looks at what can be given back (ticks).
const HOUSEKEEPING_TICKS: u32 = 20;
/// The token of a socket that never got a slot.
const ORPHAN: Token = Token { slot: u32::MAX, generation: 0 };

/// Whether a shard goes on.
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
    core: Core,
    /// Connections whose receive waits for buffers.
    starved: Vec<Token>,
    /// Connections that fill whole buffers.
    streams: Rotation,
    /// Accepts that each listener lacks of those that are to stand ready.
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
        let mut core = Core::new(id, config, directory, D::stopwatch(), now_ns, seed);
        let owed = vec![core.config.engine.accepts_per_listener; listeners.len()];
        for (index, socket) in listeners.into_iter().enumerate() {
            driver.listen(index as u16, socket)?;
        }
        core.set_now(now_ns);
        let housekeeping_tick = core.tick + HOUSEKEEPING_TICKS;
        let mut shard = Self {
            driver,
            core,
            starved: Vec::new(),
            streams: Rotation::default(),
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

    /// Turns until the shard is finished.
    ///
    /// # Errors
    /// When the driver can go on no longer.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? == Life::Running {}
        Ok(())
    }

    /// Submits, waits, and works through what has come.
    ///
    /// # Errors
    /// When the driver can go on no longer.
    pub fn turn(&mut self) -> io::Result<Life> {
        let wait = self.wait();
        self.driver.submit(wait)?;
        let now_ns = self.driver.now_ns();
        self.note_lateness(wait, now_ns);
        self.core.set_now(now_ns);
        self.core.work.begin_turn();
        self.core.hub_set_clock(|| self.driver.unix_ms());
        let waited = now_ns.saturating_sub(self.turn_ended_ns);
        let has_deferred_sends = !self.core.dirty.is_empty();
        let handled = self.handle_completions()?;
        if self.core.directory.begin_reading(self.core.id) {
            self.read_mail();
        }
        if self.may_judge(handled) {
            self.fire_timers();
        }
        self.do_chores();
        let is_hub_turn_long = self.core.hub.is_some() && self.core.work.is_half_spent();
        if has_deferred_sends || is_hub_turn_long || !self.core.unfinished.is_empty() {
            // The rest of the turn may be long, and what can leave now need not wait for it.
            self.send_ahead()?;
        }
        self.serve_unfinished();
        self.drain_on();
        self.turn_hub();
        self.feed_starved();
        self.feed_streams();
        self.feed_throttled();
        self.flush();
        self.cut |= host::return_excess();
        let (slots, open) = (self.core.slots.len() as u32, self.core.gauges.open as u32);
        self.core.directory.set_connections(self.core.id, slots, open);
        self.record(handled, waited, now_ns);
        Ok(if self.is_finished() { Life::Finished } else { Life::Running })
    }

    /// Works through what the kernel has finished, within the turn's bounds; returns how much it
    /// was.
    fn handle_completions(&mut self) -> io::Result<u32> {
        let most = self.core.config.engine.turn_completions_max;
        let (mut handled, mut before) = (0, 0);
        self.cut = false;
        while handled < most && !self.cut {
            if let Some(completion) = self.driver.next() {
                handled += 1;
                self.dispatch(completion);
                self.cut = self.core.work.is_turn_spent();
            } else if !self.core.upkeep.is_empty() && handled - before >= REPORTED_AT_ONCE {
                // There may be more behind those that will be dealt with later.
                before = handled;
                self.flush();
                self.driver.submit(Wait::No)?;
                let now_ns = self.driver.now_ns();
                self.core.set_now(now_ns);
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
        let is_caught_up = handled < REPORTED_AT_ONCE
            && !self.cut
            && self.core.upkeep.is_empty()
            && self.core.unfinished.is_empty()
            && self.starved.is_empty()
            && self.streams.is_empty();
        if is_caught_up || *turns > LATE_TURNS_MAX {
            self.late_turns = None;
            return true;
        }
        self.cut = true;
        false
    }

    /// How long the next turn may wait.
    fn wait(&self) -> Wait {
        let has_work = !self.core.unfinished.is_empty() || !self.core.upkeep.is_empty();
        if self.cut || has_work {
            return Wait::No;
        }
        let housekeeping = self.active.then_some(self.housekeeping_tick);
        let mail = self.core.hub_awaits_room().then_some(self.core.tick + 1);
        let next = [
            self.core.wheel.next_tick(),
            housekeeping,
            mail,
            self.core.hub_due_tick(),
            self.resting_until,
            self.drain_tick(),
        ]
        .into_iter()
        .flatten()
        .min();
        match next {
            Some(tick) => Wait::Until(u64::from(tick) * timers::TICK_NS),
            None => Wait::Forever,
        }
    }

    fn record(&mut self, handled: u32, waited_ns: u64, began_ns: u64) {
        self.active |= handled > 0;
        self.core.counters.turns_cut += u64::from(self.cut);
        let histograms = &mut self.core.histograms;
        if histograms.is_on() {
            let ended_ns = self.driver.now_ns();
            histograms.wait.record(waited_ns);
            let busy_ns = ended_ns.saturating_sub(began_ns);
            histograms.turn.record(busy_ns);
            self.core.gauges.busy_ns += busy_ns;
            self.core.gauges.idle_ns += waited_ns;
            if handled > 0 {
                histograms.batch.record(u64::from(handled));
            }
            self.turn_ended_ns = ended_ns;
        }
    }

    /// Channels: requests, fan-out, and mail to other shards.
    fn turn_hub(&mut self) {
        if self.core.hub.is_none() {
            return;
        }
        self.cut |= self.core.hub_turn();
        let Aftermath { posts, touched, looks } = self.core.hub_aftermath();
        for (shard, mail) in posts {
            if self.core.directory.post_silently(shard, Mail::Hub(Box::new(mail))) {
                self.driver.doorbell(shard);
            }
        }
        for look in looks {
            self.measure(look);
        }
        for index in touched {
            if self.core.slots.contains(index as usize) {
                self.settle(index);
            }
        }
    }

    fn fire_timers(&mut self) {
        let tick = self.core.tick;
        if self.resting_until.is_some_and(|until| tick >= until) {
            self.resting_until = None;
            self.owe_accepts();
        }
        let mut fired = std::mem::take(&mut self.fired);
        let core = &mut self.core;
        let most = core.config.engine.turn_timers_max as usize;
        self.cut |= core.wheel.expire(&mut core.slots, tick, most, &mut fired);
        for index in fired.drain(..) {
            self.core.fire(index);
            self.settle(index);
        }
        self.fired = fired;
        self.question_suspects();
        if tick >= self.housekeeping_tick {
            self.housekeeping_tick = tick + HOUSEKEEPING_TICKS;
            self.active = false;
            if !self.cut {
                self.driver.trim();
            }
            self.core.upkeep.trim();
            self.core.trim_throttled();
            self.core.pools.trim();
            self.active |= host::return_memory();
            self.core.held.trim();
            self.core.inflaters.trim();
            self.core.deflaters.trim();
            self.core.summarize_rejections();
        }
    }

    /// Asks TCP about connections whose pong is overdue.
    fn question_suspects(&mut self) {
        for index in std::mem::take(&mut self.core.questioned) {
            let token = self.core.token(index);
            let slot = &mut self.core.slots[index as usize];
            if matches!(slot.stage, slot::Stage::Open(_)) {
                slot.in_flight += 1;
                self.driver.measure(slot.socket, token);
            }
        }
    }

    fn read_mail(&mut self) {
        while let Some(mail) = self.core.directory.read(self.core.id) {
            match mail {
                Mail::Handover { key, listener, peer, accepted_us } => {
                    let earlier = self.arrivals.insert(key, (listener, peer, accepted_us));
                    assert!(earlier.is_none(), "every handover has a key of its own");
                }
                Mail::HandoverFailed { key } => {
                    self.arrivals.remove(&key);
                }
                Mail::Snapshot(mut numbers, reply) => {
                    self.exchange(&mut numbers);
                    if let Err(unread) = reply.send(numbers) {
                        // Whoever asked has gone: what was taken out goes back in.
                        self.core.histograms.add(&unread.histograms);
                    }
                }
                Mail::Hub(mail) => self.core.hub_mail(*mail),
                Mail::Renew(config) => self.core.renew(config),
                Mail::Drain => self.begin_drain(),
                Mail::Stop => self.stop(),
            }
        }
    }

    /// Effort of the last turn, and the most that a turn may take, give or take a connection's
    /// share: see `work.rs`.
    pub fn effort(&self) -> (u64, u64) {
        (self.core.work.spent(), self.core.work.turn_max())
    }

    /// The shard's numbers at this moment; its histograms since they were last exchanged.
    pub fn snapshot(&self) -> Snapshot {
        let mut numbers =
            Snapshot { histograms: self.core.histograms.clone(), ..Snapshot::default() };
        self.fill(&mut numbers);
        numbers
    }

    /// Fills in the shard's numbers, and gives its histograms away for those of `numbers`, which
    /// must be empty. Copies next to nothing and allocates nothing where `numbers` has been
    /// through it before.
    pub fn exchange(&mut self, numbers: &mut Snapshot) {
        std::mem::swap(&mut self.core.histograms, &mut numbers.histograms);
        self.fill(numbers);
    }

    /// All but the histograms.
    fn fill(&self, numbers: &mut Snapshot) {
        let core = &self.core;
        let (slots, upkeep) = (core.slots.len() as u64, core.upkeep.len() as u64);
        let held_bytes = core.held.bytes() as u64;
        let gauges = Gauges { slots, upkeep, held_bytes, ..core.gauges };
        let gauges = core.hub_gauges(core.compression_gauges(gauges));
        numbers.counters.clone_from(&core.counters);
        core.fill_compression(numbers);
        core.fill_hub(numbers);
        numbers.gauges = gauges;
        numbers.drivers.clear();
        numbers.drivers.push((core.id, gauges, self.driver.counters()));
    }
}

//! Shards, clients and the clock of one simulated run, and the laws.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use seawall::backend::hook_line::HookLine;
use seawall::backend::queue::EventQueues;
use seawall::config::{Config, file::File};
use seawall::driver::Wait;
use seawall::driver::sim::{Faults, Network, Sim};
use seawall::metrics::Snapshot;
use seawall::session::SeawallV1;
use seawall::session::protocol::Protocols;
use seawall::shard::mail::MakeLog;
use seawall::shard::mail::{Directory, Mail};
use seawall::shard::{Life, Shard};

use crate::client::Client;
use crate::hub::delayed::Broker;

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    directory: Arc<Directory>,
    shards: Vec<Option<Shard<Sim>>>,
    /// What the shards that have ended knew at their end.
    past: Option<Snapshot>,
    /// How many times a connection was told as plain data.
    pub(crate) told: u64,
    turns: u32,
    /// What logs of the shards wait for, where they are late.
    pub(crate) broker: Option<Broker>,
}

/// The simulated driver only counts listeners; any descriptor stands for one.
pub(crate) fn listener() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

impl World {
    pub(crate) fn new(
        seed: u64,
        shards: u16,
        faults: Faults,
        change: impl FnOnce(&mut File),
    ) -> Self {
        let mut file = File { shards, ..File::default() };
        change(&mut file);
        let config = Arc::new(Config::validate(&file, 20_000, 1).unwrap());
        let directory = Directory::new(usize::from(shards));
        Self::build(seed, faults, &config, directory, 8)
    }

    /// The same with channels, over a log of the test's.
    pub(crate) fn with_hub(
        seed: u64,
        shards: u16,
        faults: Faults,
        make_log: MakeLog,
        change: impl FnOnce(&mut File),
    ) -> Self {
        Self::with_crowd(seed, shards, faults, make_log, 8, change)
    }

    /// The same with this many receive buffers per shard, for more connections than are common.
    pub(crate) fn with_crowd(
        seed: u64,
        shards: u16,
        faults: Faults,
        make_log: MakeLog,
        buffers: u16,
        change: impl FnOnce(&mut File),
    ) -> Self {
        let protocols = Protocols::new(&SeawallV1);
        Self::with_protocols(seed, shards, faults, (make_log, protocols), buffers, change)
    }

    /// The same for clients that speak these protocols.
    pub(crate) fn with_protocols(
        seed: u64,
        shards: u16,
        faults: Faults,
        (make_log, protocols): (MakeLog, Protocols),
        buffers: u16,
        change: impl FnOnce(&mut File),
    ) -> Self {
        let mut file = File { shards, ..File::default() };
        change(&mut file);
        let config = Arc::new(Config::validate(&file, 200_000, 1).unwrap());
        let directory = Directory::new(usize::from(shards));
        let admission = directory.admission().clone();
        if let Some(hub) = seawall::server::make_hub_with(&config, admission, make_log, protocols) {
            directory.set_hub(hub);
        }
        Self::build(seed, faults, &config, directory, buffers)
    }

    fn build(
        seed: u64,
        faults: Faults,
        config: &Arc<Config>,
        directory: Arc<Directory>,
        buffers: u16,
    ) -> Self {
        let shards = config.shards;
        let network = Network::new(seed, shards, faults);
        let make = |id: u16| {
            // Small buffers cut most messages to pieces; large ones bring many of them whole.
            let buffer_bytes = if seed.is_multiple_of(2) { 1024 } else { 8192 };
            let driver = network.new_driver(id, buffers, buffer_bytes);
            let (config, directory) = (config.clone(), directory.clone());
            Some(Shard::new(driver, id, config, directory, vec![listener()], seed).unwrap())
        };
        let shards = (0..shards).map(make).collect();
        Self {
            seed,
            network: network.clone(),
            clients: Vec::new(),
            directory,
            shards,
            past: None,
            turns: 0,
            told: 0,
            broker: None,
        }
    }

    /// How long a shard waits now.
    pub(crate) fn wait(&self, shard: usize) -> Wait {
        self.shards[shard].as_ref().expect("it runs").next_wait()
    }

    /// Whether a shard runs and its wait is over.
    pub(crate) fn is_awake(&self, shard: usize) -> bool {
        self.shards[shard].as_ref().is_some_and(|one| one.driver().is_awake(one.next_wait()))
    }

    /// One turn of every shard whose wait is over.
    pub(crate) fn turn_shards(&mut self) {
        (0..self.shards.len()).for_each(|shard| self.turn_shard(shard));
    }

    /// Every third world has a connection told as plain data, written as JSON, read, and revived
    /// before every turn: nothing may come of that.
    fn serialize_and_restore(&mut self, shard: usize) {
        let Some(running) = self.shards[shard].as_mut().filter(|_| self.seed % 3 == 1) else {
            return;
        };
        self.turns += 1;
        let index = self.turns.wrapping_mul(0x9E37_79B9) >> 8;
        let told =
            running.serialize_and_restore(index % (self.clients.len() as u32 + 1), |state| {
                let text = serde_json::to_string(&state).unwrap();
                serde_json::from_str(&text).unwrap()
            });
        self.told += u64::from(told.is_ok());
    }

    /// Turns a shard, unless it waits: as in the kernel, only its time, a completion or its
    /// doorbell ends a wait.
    fn turn_shard(&mut self, shard: usize) {
        if !self.is_awake(shard) {
            return;
        }
        self.serialize_and_restore(shard);
        if let Some(running) = &mut self.shards[shard]
            && running.run_turn().unwrap() == Life::Finished
        {
            let last = running.snapshot();
            match &mut self.past {
                Some(past) => past.merge(&last),
                None => self.past = Some(last),
            }
            self.shards[shard] = None;
            self.directory.close_mailbox(shard as u16);
        }
    }

    /// Another configuration for the channels of all shards, as a reload brings it.
    pub(crate) fn reload(&self, change: impl FnOnce(&mut File)) {
        let mut file = File { shards: self.shards.len() as u16, ..File::default() };
        change(&mut file);
        let config = Arc::new(Config::validate(&file, 200_000, 1).unwrap());
        let hub = self.directory.hub().expect("there are channels");
        self.directory.set_hub(seawall::server::renew_hub(&hub, &config));
        for shard in 0..self.shards.len() as u16 {
            self.post(shard, Mail::Renew(config.clone()));
        }
    }

    /// Sets where questions to applications go.
    pub(crate) fn set_hooks(&self, hooks: HookLine) {
        self.directory.set_hooks(hooks);
    }

    /// The links to applications, and the way to shards.
    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What happens in the shards.
    pub(crate) fn events(&self) -> &Arc<EventQueues> {
        self.directory.events()
    }

    /// Replies of a backend that nothing waited for, of the shards that run.
    pub(crate) fn late_replies(&self) -> u64 {
        self.shards.iter().flatten().map(Shard::late_replies).sum()
    }

    /// Leaves mail for a shard.
    pub(crate) fn post(&self, shard: u16, mail: Mail) {
        self.directory.post(shard, mail);
    }

    /// Clients act, shards turn, a little time passes.
    pub(crate) fn step(&mut self) {
        for client in &mut self.clients {
            client.act(&self.network, self.seed);
        }
        if let Some(broker) = &self.broker {
            broker.step();
        }
        // Shards do not keep step with each other.
        for shard in 0..self.shards.len() {
            for _ in 0..self.network.random_below(4) {
                self.turn_shard(shard);
            }
        }
        self.network.advance_clock(self.network.random_below(10_000_000));
    }

    /// Exchanges every shard's histograms, as a reading of the control thread does.
    pub(crate) fn exchange(&mut self) -> Vec<Snapshot> {
        let shards = self.shards.iter_mut().flatten();
        shards
            .map(|shard| {
                let mut numbers = Snapshot::new(true);
                shard.exchange_numbers(&mut numbers);
                numbers
            })
            .collect()
    }

    /// Steps until every client has reached its end.
    pub(crate) fn run_clients(&mut self) {
        for _ in 0..60_000 {
            if self.clients.iter().all(Client::is_done) {
                return;
            }
            self.step();
        }
        let stuck: Vec<_> = self.clients.iter().filter(|client| !client.is_done()).collect();
        panic!("seed {}: {} clients never came to an end: {stuck:#?}", self.seed, stuck.len());
    }

    /// Some steps in which what was decided comes about.
    pub(crate) fn rest(&mut self) {
        (0..50).for_each(|_| self.step());
    }

    /// Drains every shard to its end.
    pub(crate) fn drain(&mut self) {
        self.end(|| Mail::Drain, 0);
    }

    /// Drops everything.
    pub(crate) fn stop(&mut self) {
        self.end(|| Mail::Stop, 0);
    }

    /// Drains while this much time passes with every step.
    pub(crate) fn drain_slowly(&mut self, ns: u64) {
        self.end(|| Mail::Drain, ns);
    }

    fn end(&mut self, mail: fn() -> Mail, ns: u64) {
        for shard in 0..self.shards.len() as u16 {
            self.directory.post(shard, mail());
        }
        for _ in 0..60_000 {
            if self.shards.iter().all(Option::is_none) {
                return;
            }
            self.network.advance_clock(ns);
            self.step();
        }
        panic!("seed {}: a shard did not end", self.seed);
    }

    /// Effort of the first shard's last turn, and the most that a turn may take.
    pub(crate) fn effort(&self) -> (u64, u64) {
        self.shards[0].as_ref().expect("it runs").turn_effort()
    }

    pub(crate) fn totals(&self) -> Snapshot {
        let mut parts = self.shards.iter().flatten().map(Shard::snapshot);
        let mut whole = self.past.clone().or_else(|| parts.next()).unwrap();
        parts.for_each(|part| whole.merge(&part));
        whole
    }

    /// After a drain nothing is left, everything is accounted for, and no client was cheated.
    pub(crate) fn check_laws(&self, cut_short: bool) {
        self.check_accounts();
        for client in &self.clients {
            client.check(self.seed, cut_short);
        }
    }

    /// The laws but for what clients were given.
    pub(crate) fn check_accounts(&self) {
        let seed = self.seed;
        let Snapshot { counters, histograms, gauges, drivers } = self.totals();
        assert_eq!(self.network.open_sockets(), 0, "seed {seed}: every socket is closed");
        assert_eq!(gauges.handshakes, 0, "seed {seed}: no handshake is under way");
        let retold = seed % 3 != 1 || self.turns < 200 || self.told > 0;
        assert!(retold, "seed {seed}: a connection could be serialized");
        let counted = self.directory.admission().connections();
        assert_eq!(counted, 0, "seed {seed}: every admission count is zero");
        assert_eq!(gauges.slots, 0, "seed {seed}: no slot lives");
        assert_eq!(gauges.open, 0, "seed {seed}: no WebSocket is open");
        assert_eq!(gauges.parked, 0, "seed {seed}: no connection is parked");
        assert_eq!(gauges.outbox_bytes, 0, "seed {seed}: outboxes are accounted for");
        assert_eq!(gauges.partial_bytes, 0, "seed {seed}: nothing partial is held");
        assert_eq!(gauges.inflaters_leased, 0, "seed {seed}: every inflater came back");
        let contexts = (gauges.contexts, gauges.context_bytes);
        assert_eq!(contexts, (0, 0), "seed {seed}: no context outlives its connection");
        assert_eq!(counters.opened, counters.closed_total(), "seed {seed}: opened = closed");
        assert_eq!(counters.stale_completions, 0, "seed {seed}: no completion outlived its slot");
        assert_eq!(counters.taken_over, counters.handed_over, "seed {seed}: none got lost between");
        let moved = self.network.traffic();
        assert_eq!(counters.bytes_received, moved.bytes_received, "seed {seed}: bytes received");
        assert_eq!(counters.bytes_sent, moved.bytes_sent, "seed {seed}: bytes sent");
        assert_eq!(moved.leases_given, moved.leases_returned, "seed {seed}: leases come back");
        if histograms.is_on() {
            let opened = histograms.accept_to_open.histogram().len();
            assert_eq!(opened, counters.opened, "seed {seed}: every opening is timed");
            let trips = histograms.rtt.histogram().len();
            assert_eq!(trips, counters.pongs_received, "seed {seed}: every round trip is timed");
            let answered = histograms.turnaround.histogram().len();
            assert!(answered <= counters.messages_sent, "seed {seed}: no reply is timed twice");
        } else {
            let empty = histograms.all().all(|histogram| histogram.is_empty());
            assert!(empty, "seed {seed}: nothing is recorded when it is not to be");
        }
        for (shard, _, driver) in drivers {
            assert_eq!(driver.buffers_lent, 0, "seed {seed}: shard {shard} holds no lease");
        }
    }
}

//! The engine on Redis or Valkey: tasks on the [outer thread](crate::outer) hold the connections.
//!
//! For each instance, a task (`instance.rs`) connects, sends commands in batches, and subscribes.
//! It never waits for a shard: events are queued for each shard, and publications past a bound are
//! dropped, because the engine disconnects subscribers that read slowly. The shard's log then
//! notices the hole.
//!
//! Considered and rejected: a connection for each shard (64 shards on 200 nodes are too many for
//! one engine, and rings would need TLS and discovery); the control thread (it runs at low
//! priority, and answers scrapes); a connection that reconnects by itself (subscriptions would have
//! holes that nothing reports).

mod bus;
mod connect;
mod examine;
mod instance;
mod port;
mod roster_scripts;
mod scripts;
mod serve;
mod sweep;
mod topics;
mod wire;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as queues;
use tokio::sync::watch;

pub use self::bus::{Bus, Heartbeat, REVOCATIONS_AT_ONCE};
use self::connect::LinkError;
pub use self::examine::{InstanceReport, examine_instance};
use self::instance::Instance;
pub use self::port::OuterNumbers;
use self::port::{ShardPort, Shared};
pub use self::sweep::LifeSigns;
use super::command::EnginePort;
use super::layout::{Incarnation, Layout};
use super::settings::ClusterSettings;
use crate::driver::Bell;
use crate::metrics::Histograms;
use crate::outer::OuterThread;

/// How long a start waits for the first attempt to connect to each instance.
const FIRST_ATTEMPT: Duration = Duration::from_secs(3);

/// The way to the running tasks. They end when this and all ports are dropped.
pub struct Outer {
    shared: Arc<Shared>,
    bus: Arc<Bus>,
}

impl Outer {
    /// Starts the tasks for this many shards. `origin`: a random number of the process; `node`:
    /// its number in connection ids.
    ///
    /// # Errors
    /// When an instance can never be used, with the reason and the remedy: it is too old, is a
    /// replica, is part of a Redis Cluster, or rejects the password. An instance that cannot be
    /// reached is not an error: it is tried again for ever.
    pub fn start(
        thread: &OuterThread,
        settings: &Arc<ClusterSettings>,
        layout: &Arc<Layout>,
        (shards, origin, node): (usize, u64, u32),
    ) -> Result<Self, String> {
        let (bus, end) = Bus::new(layout, node);
        let mut end = Some(end);
        let mut queues_in = Vec::new();
        let (senders, mut receivers): (Vec<_>, Vec<_>) =
            settings.urls.iter().map(|_| queues::unbounded_channel()).unzip();
        let shared = Arc::new(Shared::new(senders, shards, settings.in_flight_bytes_max));
        for (index, commands) in receivers.drain(..).enumerate() {
            let (attempted, first) = mpsc::channel();
            queues_in.push(first);
            let world = (settings.clone(), layout.clone(), Arc::downgrade(&shared));
            let instance = Instance::new(index, world, (origin, end.take()), (commands, attempted));
            thread.spawn(move || instance.run());
        }
        for first in queues_in {
            match first.recv_timeout(FIRST_ATTEMPT) {
                Ok(Err(LinkError::Unusable(reason))) => return Err(reason),
                // Unreachable instances have been logged, and slow ones are waited for.
                Ok(Ok(()) | Err(LinkError::Unreachable(_))) | Err(_) => {}
            }
        }
        Ok(Self { shared, bus: Arc::new(bus) })
    }

    /// Returns the way of a shard's log to the engine. `bell` wakes the shard.
    pub fn port(&self, shard: u16, bell: Arc<dyn Bell>) -> Box<dyn EnginePort> {
        Box::new(ShardPort::new(self.shared.clone(), shard, bell))
    }

    /// Returns the way to other nodes.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Returns whether all instances have been connected at the same time, now or before.
    pub fn was_ready(&self) -> bool {
        self.shared.was_ready()
    }

    /// Returns whether all instances are connected, to be watched.
    pub fn watch_connected(&self) -> watch::Receiver<bool> {
        self.shared.watch_connected()
    }

    /// Records durations from now on. `epoch`: the start of the shards' clock. Call it once.
    pub fn keep_times(&self, epoch: Instant) {
        self.shared.keep_times(epoch);
    }

    /// Takes the durations recorded since the last call; `None`: none are recorded.
    pub fn take_times(&self) -> Option<Histograms> {
        self.shared.take_times()
    }

    /// Returns the present incarnation of this node.
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation()
    }

    /// Sets what heartbeats have shown of all nodes. `None`: it is not known.
    pub fn set_life_signs(&self, signs: Option<LifeSigns>) {
        self.shared.set_life_signs(signs);
    }

    /// Returns the state of the connections.
    pub fn numbers(&self) -> OuterNumbers {
        self.shared.numbers()
    }
}

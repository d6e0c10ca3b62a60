//! The shards together: listeners are bound, threads pinned, drivers made, and all of them joined.
//!
//! Starting is generic over the engine ([`DriverFactory`]); which one it is, the caller decides. A
//! shard's driver is made on the shard's own thread: the one that uses it. All drivers exist
//! before the first shard turns, so that each can reach each.

mod collector;
mod engine;
mod hub;

use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::mpsc as events;

use crate::config::Config;
use crate::driver::listener::{self, Address};
use crate::driver::{DriverFactory, EngineFacts, host};
use crate::metrics::Snapshot;
use crate::shard::Shard;
use crate::shard::mail::{Directory, Mail};

/// The server cannot start; the text tells cause and cure.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

pub use collector::Collector;
pub use engine::uring_factory;
pub use hub::{hub_of, hub_renewed, hub_with};

/// A shard has ended.
pub struct Ended {
    pub shard: u16,
    /// On purpose, or with the reason why not.
    pub result: Result<(), String>,
    /// What it knew at its end, histograms since they were last read; `None` after a panic.
    pub last: Option<Box<Snapshot>>,
}

/// What is known of the running server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where it listens, with the ports that were really bound.
    pub listening: Vec<Address>,
    /// The congestion control of each listener; `None` for Unix sockets.
    pub congestion: Vec<Option<String>>,
    /// What moves the bytes.
    pub engine: EngineFacts,
    /// Files this process may have open.
    pub open_files: u64,
    pub started: Instant,
}

/// The running shards.
pub struct Server {
    pub facts: Facts,
    config: Arc<ArcSwap<Config>>,
    directory: Arc<Directory>,
    threads: Vec<JoinHandle<()>>,
    ended: events::UnboundedReceiver<Ended>,
}

/// The listeners are bound; nothing runs yet.
pub struct Bound {
    config: Arc<Config>,
    listening: Vec<Address>,
    congestion: Vec<Option<String>>,
    /// The sockets of each shard.
    shares: Vec<Vec<OwnedFd>>,
}

/// Every shard has its driver, and waits. Dropped, all of them end.
pub struct Waiting {
    go: Vec<mpsc::Sender<()>>,
    server: Server,
}

impl Bound {
    /// Starts a thread for each shard, which makes its driver and waits.
    ///
    /// # Errors
    /// When a thread or a driver cannot be made; nothing is left running then.
    pub fn start<F: DriverFactory>(self, factory: &F) -> Result<Waiting, StartError> {
        let Self { config, listening, congestion, shares } = self;
        let directory = Directory::new(shares.len());
        if let Some(hub) = hub_of(&config, directory.admission().clone()) {
            directory.set_hub(hub);
        }
        let starting = Starting {
            config: config.clone(),
            directory: directory.clone(),
            factory: factory.clone(),
        };
        let (ready, when_ready) = mpsc::channel();
        let (ending, ended) = events::unbounded_channel();
        let cores = host::cores();
        let mut threads = Vec::with_capacity(shares.len());
        let mut signals = Vec::with_capacity(shares.len());
        for (shard, share) in shares.into_iter().enumerate() {
            let (starting, ready, ending) = (starting.clone(), ready.clone(), ending.clone());
            let (go, gone) = mpsc::channel();
            signals.push(go);
            let core = config.engine.pin.then(|| cores[shard % cores.len()]);
            let thread = std::thread::Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(move || {
                    starting.run(shard as u16, core, share, &ready, &gone, &ending);
                })
                .map_err(|e| {
                    StartError(format!("cannot start the thread of shard {shard}: {e}"))
                })?;
            threads.push(thread);
        }
        drop(ready);
        for _ in &threads {
            match when_ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StartError(error)),
                Err(_) => return Err(StartError("a shard ended while it started".into())),
            }
        }
        let open_files = host::raise_open_files();
        let (engine, started) = (factory.facts(), factory.epoch());
        let facts = Facts { listening, congestion, engine, open_files, started };
        let config = Arc::new(ArcSwap::new(config));
        Ok(Waiting { go: signals, server: Server { facts, config, directory, threads, ended } })
    }
}

impl Waiting {
    /// The engine that runs, with what its drivers were granted.
    pub fn engine(&self) -> &EngineFacts {
        &self.server.facts.engine
    }

    /// Lets clients in.
    pub fn serve(self) -> Server {
        for go in self.go {
            // A shard that is gone by now reports its own end.
            let _ = go.send(());
        }
        self.server
    }
}

impl Server {
    /// Binds the listeners. `owner`: user and group of Unix sockets' files.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn bind(config: Arc<Config>, owner: Option<(u32, u32)>) -> Result<Bound, StartError> {
        let failed = |error: &dyn fmt::Display| StartError(error.to_string());
        let shards = usize::from(config.shards);
        let mut shares: Vec<Vec<OwnedFd>> = (0..shards).map(|_| Vec::new()).collect();
        let mut listening = Vec::new();
        let mut congestion = Vec::new();
        for one in &config.listeners {
            let options = listener::Options { owner, ..one.options.clone() };
            let (address, sockets) =
                listener::listen(&one.address, &options, shards).map_err(|e| failed(&e))?;
            listening.push(address);
            congestion.push(sockets.first().and_then(listener::congestion_in_force));
            shares.iter_mut().zip(sockets).for_each(|(share, socket)| share.push(socket));
        }
        Ok(Bound { config, listening, congestion, shares })
    }

    /// What it runs by now.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The same, for who looks again and again.
    pub fn live_config(&self) -> Arc<ArcSwap<Config>> {
        self.config.clone()
    }

    /// A way to the shards for the control thread.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// Waits for the next shard to end; `None` once all have.
    pub async fn ended(&mut self) -> Option<Ended> {
        self.ended.recv().await
    }

    /// Tells every shard.
    pub fn broadcast(&self, mail: impl Fn() -> Mail) {
        (0..self.directory.len() as u16).for_each(|shard| self.directory.post(shard, mail()));
    }

    /// Goes on by another configuration, which was fitted to the one in force.
    pub fn renew(&self, config: Config) {
        let config = Arc::new(config);
        if let Some(hub) = self.directory.hub() {
            self.directory.set_hub(hub_renewed(&hub, &config));
        }
        self.config.store(config.clone());
        self.broadcast(|| Mail::Renew(config.clone()));
    }

    /// Waits until all threads are gone. To be called after all shards have ended.
    pub fn join(self) {
        for thread in self.threads {
            // A panic was reported as the shard's end already.
            let _ = thread.join();
        }
    }
}

/// What a shard's thread needs to begin.
#[derive(Clone)]
struct Starting<F> {
    config: Arc<Config>,
    directory: Arc<Directory>,
    factory: F,
}

impl<F: DriverFactory> Starting<F> {
    fn run(
        self,
        id: u16,
        core: Option<usize>,
        listeners: Vec<OwnedFd>,
        ready: &mpsc::Sender<Result<(), String>>,
        go: &mpsc::Receiver<()>,
        ending: &events::UnboundedSender<Ended>,
    ) {
        if let Some(core) = core
            && let Err(error) = host::pin_to(core)
        {
            tracing::warn!(shard = id, core, %error, "cannot pin the shard, it will wander");
        }
        let directory = self.directory.clone();
        let making = || self.factory.make(id).map_err(|error| error.to_string());
        let made = catch_unwind(AssertUnwindSafe(making)).unwrap_or_else(|panic| {
            let (name, panic) = (self.factory.facts().name, panic_text(&*panic));
            Err(format!("{name}: {panic}. This is a bug in Seawall"))
        });
        let report = made.as_ref().map(|_| ()).map_err(Clone::clone);
        // Without receiver or signal the start has failed elsewhere, and this thread just ends.
        if ready.send(report).is_err() || go.recv().is_err() {
            return;
        }
        let Ok(driver) = made else { return };
        let seed = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ self.factory.epoch().elapsed().as_nanos() as u64;
        let mut last = None;
        let body = AssertUnwindSafe(|| {
            let config = self.config.clone();
            let mut shard = Shard::new(driver, id, config, directory, listeners, seed)?;
            let result = shard.run();
            let mut numbers = Box::new(Snapshot::new(self.config.metrics.histograms));
            shard.exchange(&mut numbers);
            last = Some(numbers);
            result
        });
        let result = match catch_unwind(body) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the kernel refused to go on: {error}")),
            Err(panic) => Err(format!("internal error: {}", panic_text(&*panic))),
        };
        self.directory.close(id);
        // Nobody is left to hear it only when the process is ending anyway.
        let _ = ending.send(Ended { shard: id, result, last });
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

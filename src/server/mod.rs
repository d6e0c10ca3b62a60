//! Starts and stops shards: binds listeners, pins threads, makes drivers, joins all of them.
//!
//! Starting is generic over the engine ([`DriverFactory`]), of which [`EngineChoice`] takes one. A
//! shard's driver is made on the shard's own thread, the only one that may use it. All drivers
//! exist before the first shard turns, so that each shard can reach every other.

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

use crate::backend::events::EventFlow;
use crate::backend::hooking::HookFlow;
use crate::backend::links::LinkFlow;
use crate::cluster::redis::Outer;
use crate::config::Config;
use crate::driver::listener::{self, Address};
use crate::driver::{DriverFactory, EngineFacts, host};
use crate::metrics::Snapshot;
use crate::outer::OuterThread;
use crate::shard::Shard;
use crate::shard::mail::{Directory, Mail};

/// The server cannot start; the message states the reason and the remedy.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

pub use collector::Collector;
pub use engine::{Engine, EngineChoice, EngineError};
use hub::make_hub;
pub use hub::{make_hub_with, renew_hub};

/// The end of a shard.
pub struct Ended {
    pub shard: u16,
    /// `Ok` after a drain or stop; otherwise the reason.
    pub result: Result<(), String>,
    /// Its recordings since the last reading; `None` after a panic.
    pub last: Option<Box<Snapshot>>,
}

/// Facts about the running server.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Bound addresses, with the ports that the kernel chose.
    pub listening: Vec<Address>,
    /// Congestion control of each listener; `None` for Unix sockets.
    pub congestion: Vec<Option<String>>,
    /// The engine of all shards.
    pub engine: EngineFacts,
    /// Limit of open files.
    pub open_files: u64,
    pub started: Instant,
}

/// The running shards.
pub struct Server {
    pub facts: Facts,
    config: Arc<ArcSwap<Config>>,
    directory: Arc<Directory>,
    outer: Option<Arc<Outer>>,
    events: Option<Arc<EventFlow>>,
    hooks: Option<Arc<HookFlow>>,
    links: Option<Arc<LinkFlow>>,
    threads: Vec<JoinHandle<()>>,
    ended: events::UnboundedReceiver<Ended>,
}

/// Bound listeners, before any thread runs.
pub struct Bound {
    config: Arc<Config>,
    listening: Vec<Address>,
    congestion: Vec<Option<String>>,
    /// Listening sockets, by shard.
    shares: Vec<Vec<OwnedFd>>,
}

/// Every shard has its driver, and waits to serve. Its drop ends all of them.
pub struct Waiting {
    go: Vec<mpsc::Sender<()>>,
    server: Server,
}

impl Bound {
    /// Starts a thread for each shard, which makes its driver and waits.
    ///
    /// # Errors
    /// When a thread or a driver cannot be made; then all threads end.
    pub fn start(self, engine: &Engine) -> Result<Waiting, StartError> {
        match engine {
            Engine::Uring(factory) => self.start_on(factory),
            Engine::Epoll(factory) => self.start_on(factory),
        }
    }

    /// The same on any engine.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_on<F: DriverFactory>(self, factory: &F) -> Result<Waiting, StartError> {
        let Self { config, listening, congestion, shares } = self;
        let directory = Directory::new(shares.len());
        let needs_outer = config.cluster.is_some() || !config.backends.is_empty();
        let outer_thread = needs_outer.then(OuterThread::start).transpose().map_err(StartError)?;
        let admission = directory.admission().clone();
        let made = make_hub(&config, admission, outer_thread.as_ref()).map_err(StartError)?;
        let (hub, outer) = made;
        if let Some(hub) = hub {
            directory.set_hub(hub);
        }
        let backends = outer_thread.as_ref().filter(|_| !config.backends.is_empty());
        let flows = backends.map(|thread| Flows::start(thread, &config, &directory)).transpose()?;
        let Flows { events, hooks, links } = flows.unwrap_or_default();
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
            // There may be more shards than cores.
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
        // From here on only shards hold senders: a closed channel means that a shard ended.
        drop(ready);
        for _ in &threads {
            match when_ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StartError(error)),
                Err(_) => return Err(StartError("a shard ended during its start".into())),
            }
        }
        let open_files = host::raise_open_files();
        let (engine, started) = (factory.facts(), factory.epoch());
        let facts = Facts { listening, congestion, engine, open_files, started };
        let config = Arc::new(ArcSwap::new(config));
        Ok(Waiting {
            go: signals,
            server: Server {
                facts,
                config,
                directory,
                outer,
                events,
                hooks,
                links,
                threads,
                ended,
            },
        })
    }
}

impl Waiting {
    /// The running engine, with the sizes that its drivers were granted.
    pub fn engine(&self) -> &EngineFacts {
        &self.server.facts.engine
    }

    /// Starts accepting clients.
    pub fn serve(self) -> Server {
        for go in self.go {
            // A shard that has ended reports that itself.
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

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The configuration in force, for repeated readers.
    pub fn live_config(&self) -> Arc<ArcSwap<Config>> {
        self.config.clone()
    }

    /// The events on their way to applications; `None`: none wants any.
    pub fn events(&self) -> Option<&Arc<EventFlow>> {
        self.events.as_ref()
    }

    /// The questions on their way to applications; `None`: none is asked.
    pub fn hooks(&self) -> Option<&Arc<HookFlow>> {
        self.hooks.as_ref()
    }

    /// The links to applications; `None`: there are no applications.
    pub fn links(&self) -> Option<&Arc<LinkFlow>> {
        self.links.as_ref()
    }

    /// The way to the cluster's engine and to other nodes; `None`: this node is alone.
    pub fn outer(&self) -> Option<Arc<Outer>> {
        self.outer.clone()
    }

    /// The directory by which the control thread reaches shards.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// Waits for the next shard to end; `None` once all have.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        self.ended.recv().await
    }

    /// Posts mail to every shard.
    pub fn broadcast(&self, mail: impl Fn() -> Mail) {
        (0..self.directory.len() as u16).for_each(|shard| self.directory.post(shard, mail()));
    }

    /// Applies a configuration that was fitted to the one in force.
    pub fn renew(&self, config: Config) {
        let config = Arc::new(config);
        if let Some(hub) = self.directory.hub() {
            self.directory.set_hub(renew_hub(&hub, &config));
        }
        if let Some(events) = &self.events {
            events.renew(&config.backends);
        }
        if let Some(hooks) = &self.hooks {
            hooks.renew(&config.backends);
        }
        if let Some(links) = &self.links {
            links.renew(&config.backends, config.limits.ws.message_bytes_max);
        }
        self.config.store(config.clone());
        self.broadcast(|| Mail::Renew(config.clone()));
    }

    /// Joins all threads. Call it after all shards have ended.
    pub fn join(self) {
        for thread in self.threads {
            // A panic was reported as the shard's end already.
            let _ = thread.join();
        }
    }
}

/// What is exchanged with applications.
#[derive(Default)]
struct Flows {
    events: Option<Arc<EventFlow>>,
    hooks: Option<Arc<HookFlow>>,
    links: Option<Arc<LinkFlow>>,
}

impl Flows {
    fn start(
        thread: &OuterThread,
        config: &Config,
        directory: &Arc<Directory>,
    ) -> Result<Self, StartError> {
        let (backends, hub) = (&config.backends, directory.hub());
        let node = hub.as_ref().map_or_else(hub::make_node, |hub| hub.realm.node);
        let events = match hub {
            Some(_) => EventFlow::start(thread, directory.events(), node, backends),
            None => Ok(None),
        };
        let replies = Arc::downgrade(directory);
        let hooks = HookFlow::start(thread, node, backends, replies, directory.links().clone())
            .map_err(StartError)?;
        directory.set_hooks(hooks.line());
        let (table, posts) = (directory.links().clone(), Arc::downgrade(directory));
        let bytes_max = config.limits.ws.message_bytes_max;
        let links = LinkFlow::start(thread, node, backends, bytes_max, table, posts);
        let links = links.map_err(StartError)?;
        Ok(Self { events: events.map_err(StartError)?, hooks: Some(hooks), links: Some(links) })
    }
}

/// Everything a shard's thread needs to start.
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
            tracing::warn!(shard = id, core, %error, "failed to pin shard; running unpinned");
        }
        let directory = self.directory.clone();
        let making = || self.factory.make(id).map_err(|error| error.to_string());
        let made = catch_unwind(AssertUnwindSafe(making)).unwrap_or_else(|panic| {
            let (name, panic) = (self.factory.facts().name, panic_text(&*panic));
            Err(format!("{name}: {panic}. This is a bug in Seawall"))
        });
        let report = made.as_ref().map(|_| ()).map_err(Clone::clone);
        // If a channel is closed, the start failed elsewhere: just end this thread.
        if ready.send(report).is_err() || go.recv().is_err() {
            return;
        }
        let Ok(driver) = made else { return };
        // Seeds differ by shard and by start; jitter needs no cryptographic randomness.
        let seed = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ self.factory.epoch().elapsed().as_nanos() as u64;
        let mut last = None;
        let body = AssertUnwindSafe(|| {
            let config = self.config.clone();
            let mut shard = Shard::new(driver, id, config, directory, listeners, seed)?;
            let result = shard.run();
            let mut numbers = Box::new(Snapshot::new(self.config.metrics.histograms));
            shard.exchange_numbers(&mut numbers);
            last = Some(numbers);
            result
        });
        let result = match catch_unwind(body) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("fatal kernel error: {error}")),
            Err(panic) => Err(format!("internal error: {}", panic_text(&*panic))),
        };
        self.directory.close_mailbox(id);
        // Fails only when the process is ending.
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

//! Keeps the links of all applications: a task on the outer thread, and its handle.
//!
//! It resolves the names of an application's URLs again and again, and spreads the links over their
//! addresses. An address that fails for long gets a single link, which notices when that is over.
//! Each link has a slot, a task that dials and dials again. Where the application drains
//! a link, another slot takes over its place, and the old one ends with its link. An address that
//! is gone, or a URL that a reload has removed, gets its links drained, then closed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::accepted::{AcceptedSocket, keep_accepted};
use super::commands::{CommandLine, LinkCommand};
use super::dial::Dialing;
use super::numbers::{LinkCounters, RoundTrips};
use super::slot::{FailureLog, LinkRegister, Slot};
use super::table::{BackendLink, LinkPosts, LinkTable};
use super::targets::{Target, spread_over_working};
use super::task::LinkContext;
use crate::backend::client::tls_config;
use crate::backend::settings::{BackendSettings, LinkSettings, LinkUrl};
use crate::metrics::{LinkGauges, Recorder};
use crate::outer::OuterThread;

/// How often names are resolved, and how long that may take.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(10);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest limit of records' bodies: those that are JSON must fit.
pub(super) const BODY_BYTES_MIN: usize = 64 * 1024;

enum Order {
    Renew(Vec<Arc<BackendSettings>>, usize),
    Drain,
    /// Open a link on a socket that the application has dialed.
    Accept {
        backend: usize,
        socket: AcceptedSocket,
    },
    /// Send what is queued, and close all links.
    Finish(oneshot::Sender<()>),
}

/// What is known of an application outside the task.
struct Counted {
    name: String,
    /// Whether it has links; a reload may change that.
    is_linked: AtomicBool,
    counters: Arc<LinkCounters>,
}

/// The handle of the task, which ends with this.
pub struct LinkFlow {
    orders: mpsc::UnboundedSender<Order>,
    table: Arc<LinkTable>,
    round_trips: Arc<RoundTrips>,
    commands: Arc<CommandLine>,
    /// In the order of the configuration.
    applications: Vec<Counted>,
}

impl LinkFlow {
    /// Starts the task. `node` identifies this node to applications; `message_bytes_max`: the
    /// longest message of a route.
    ///
    /// # Errors
    /// When the host's authorities cannot be used.
    pub fn start(
        thread: &OuterThread,
        node: u32,
        backends: &[Arc<BackendSettings>],
        message_bytes_max: usize,
        table: Arc<LinkTable>,
        posts: Weak<dyn LinkPosts>,
    ) -> Result<Arc<Self>, String> {
        let mut applications = Vec::new();
        let mut secured = Vec::new();
        for settings in backends {
            let failed = |error| format!("backend {}: {error}", settings.name);
            secured.push((settings.clone(), Arc::new(tls_config(settings).map_err(failed)?)));
            applications.push(Counted {
                name: settings.name.clone(),
                is_linked: AtomicBool::new(settings.links.is_some()),
                counters: Arc::default(),
            });
        }
        let counters: Vec<_> = applications.iter().map(|one| one.counters.clone()).collect();
        let round_trips = Arc::<RoundTrips>::default();
        let commands = Arc::<CommandLine>::default();
        let passed = commands.clone();
        let (orders, ordered) = mpsc::unbounded_channel();
        let (shared, times) = (table.clone(), round_trips.clone());
        thread.spawn(move || {
            let context = LinkContext {
                table: shared,
                posts,
                node: format!("{node:08x}"),
                round_trips: times,
                commands: passed,
            };
            Linking::new(context, secured, counters, message_bytes_max).run(ordered)
        });
        Ok(Arc::new(Self { orders, table, round_trips, commands, applications }))
    }

    /// Applies the settings of a reload: of the same applications, in the same order. Links that
    /// are open keep the limits that they were opened with.
    pub fn renew(&self, backends: &[Arc<BackendSettings>], message_bytes_max: usize) {
        for (counted, settings) in self.applications.iter().zip(backends) {
            counted.is_linked.store(settings.links.is_some(), Ordering::Relaxed);
        }
        // Fails only when the process is ending.
        let _ = self.orders.send(Order::Renew(backends.to_vec(), message_bytes_max));
    }

    /// Returns the end that takes the commands of applications. It can be taken once.
    pub(crate) fn open_commands(&self) -> mpsc::UnboundedReceiver<LinkCommand> {
        self.commands.open()
    }

    /// Opens a link on a WebSocket that an application has dialed.
    pub fn accept(&self, backend: usize, socket: AcceptedSocket) {
        // Fails only when the process is ending.
        let _ = self.orders.send(Order::Accept { backend, socket });
    }

    /// Informs applications that there will be no new sessions.
    pub fn drain(&self) {
        // Fails only when the process is ending.
        let _ = self.orders.send(Order::Drain);
    }

    /// Sends what is queued, for a limited time, and closes all links.
    pub async fn finish(&self, timeout: Duration) {
        let (done, finished) = oneshot::channel();
        if self.orders.send(Order::Finish(done)).is_ok()
            && tokio::time::timeout(timeout, finished).await.is_err()
        {
            for LinkGauges { backend, queue_bytes, .. } in self.numbers() {
                tracing::warn!(backend, queue_bytes, "ending although a backend lacks records");
            }
        }
    }

    /// Returns the numbers of each application that has links.
    pub fn numbers(&self) -> Vec<LinkGauges> {
        let all = self.applications.iter().enumerate();
        let linked = all.filter(|(_, one)| one.is_linked.load(Ordering::Relaxed));
        linked.map(|(at, one)| one.counters.gauges(&one.name, at as u8, &self.table)).collect()
    }

    /// Keeps the times from pings to pongs from now on.
    pub fn keep_times(&self) {
        self.round_trips.keep();
    }

    /// Takes these times since the last call; `None`: they are not kept.
    pub fn take_times(&self) -> Option<Recorder> {
        self.round_trips.take()
    }

    /// Returns the memory of records on their way to applications and to shards, and of messages
    /// that are not acknowledged (bytes).
    pub fn bytes(&self) -> u64 {
        let held = |link: &Arc<BackendLink>| link.queue_bytes() + link.unacked_bytes();
        let queued: usize = self.table.links().iter().map(held).sum();
        (queued + self.table.inbound_bytes()) as u64
    }
}

/// An application.
struct Application {
    backend: u8,
    settings: Arc<BackendSettings>,
    /// What slots dial with; `None`: it has no links.
    dialing: Option<Rc<RefCell<Dialing>>>,
    counters: Arc<LinkCounters>,
    tls: Arc<ClientConfig>,
    /// The addresses of each URL, as far as they are known.
    resolved: Vec<(LinkUrl, Vec<SocketAddr>)>,
    /// URLs that are being resolved.
    resolving: Vec<LinkUrl>,
    slots: Vec<Rc<Slot>>,
    log: Rc<FailureLog>,
}

impl Application {
    fn links(&self) -> Option<&LinkSettings> {
        self.settings.links.as_ref()
    }

    /// Applies settings; returns whether open links have a shorter limit of records than messages
    /// may have now.
    fn renew(
        &mut self,
        settings: &Arc<BackendSettings>,
        node: &str,
        message_bytes_max: usize,
    ) -> bool {
        match tls_config(settings) {
            Ok(tls) => self.tls = Arc::new(tls),
            Err(error) => {
                let backend = &settings.name;
                tracing::error!(backend, %error, "cannot apply the settings of a backend");
                return false;
            }
        }
        self.settings = settings.clone();
        let record_bytes_max = message_bytes_max.max(BODY_BYTES_MIN);
        let before = self.dialing.as_ref().map(|dialing| dialing.borrow().record_bytes_max);
        let has_grown = before.is_some_and(|before| before < record_bytes_max);
        let dialing = settings.links.as_ref().map(|links| Dialing {
            node: node.to_owned(),
            settings: links.clone(),
            tls: self.tls.clone(),
            record_bytes_max,
            counters: self.counters.clone(),
        });
        match (&self.dialing, dialing) {
            (Some(old), Some(new)) => *old.borrow_mut() = new,
            (_, new) => self.dialing = new.map(|new| Rc::new(RefCell::new(new))),
        }
        let urls = self.settings.links.iter().flat_map(|links| &links.urls);
        let known = |url: &LinkUrl| {
            let found = self.resolved.iter().find(|(known, _)| known == url);
            found.map(|(_, addresses)| addresses.clone()).unwrap_or_default()
        };
        self.resolved = urls.map(|url| (url.clone(), known(url))).collect();
        has_grown
    }

    /// Replaces links that were opened with other limits, and those that the application has dialed
    /// if it may not any more.
    fn retire_outdated(&self, register: &LinkRegister, has_grown: bool) {
        if has_grown {
            self.slots.iter().for_each(|slot| slot.retire(self.links()));
        }
        if has_grown || self.links().is_none_or(|links| !links.accepts) {
            register.retire_accepted(self.backend, self.links());
        }
    }

    /// Retires slots whose address is gone, and returns the new ones.
    fn fit_slots(&mut self, node: &str) -> Vec<Rc<Slot>> {
        self.slots.retain(|slot| !slot.has_ended());
        let per_node = self.links().map_or(0, |links| links.per_node);
        let failing = self.slots.iter().filter(|slot| slot.is_failing());
        let failing: Vec<Target> = failing.map(|slot| slot.target.clone()).collect();
        let wanted = spread_over_working(&self.resolved, &failing, per_node, node);
        let mut counts: Vec<u32> = wanted.iter().map(|(_, count)| *count).collect();
        for slot in self.slots.iter().filter(|slot| slot.is_active()) {
            match wanted.iter().position(|(target, _)| *target == slot.target) {
                Some(at) if counts[at] > 0 => counts[at] -= 1,
                _ => slot.retire(self.links()),
            }
        }
        let mut new = Vec::new();
        for ((target, _), count) in wanted.into_iter().zip(counts) {
            for _ in 0..count {
                let left = self.slots.iter().find_map(|slot| slot.hand_over(&target));
                let failures = left.unwrap_or_default();
                new.push(Rc::new(Slot::new(target.clone(), failures)));
            }
        }
        self.slots.extend(new.iter().cloned());
        new
    }
}

/// What resolving a name has given.
struct Resolved {
    backend: usize,
    url: LinkUrl,
    addresses: Result<Vec<SocketAddr>, String>,
}

/// The task.
struct Linking {
    /// In the order of the configuration.
    applications: Vec<Application>,
    register: Rc<LinkRegister>,
    slots: JoinSet<()>,
    resolving: JoinSet<Resolved>,
    finishing: Option<oneshot::Sender<()>>,
}

impl Linking {
    fn new(
        context: LinkContext,
        backends: Vec<(Arc<BackendSettings>, Arc<ClientConfig>)>,
        counters: Vec<Arc<LinkCounters>>,
        message_bytes_max: usize,
    ) -> Self {
        let mut applications = Vec::new();
        for (at, ((settings, tls), counters)) in backends.into_iter().zip(counters).enumerate() {
            let mut one = Application {
                backend: at as u8,
                settings: settings.clone(),
                dialing: None,
                counters,
                tls,
                resolved: Vec::new(),
                resolving: Vec::new(),
                slots: Vec::new(),
                log: Rc::new(FailureLog::new(&settings.name)),
            };
            let _is_new = one.renew(&settings, &context.node, message_bytes_max);
            applications.push(one);
        }
        Self {
            applications,
            register: Rc::new(LinkRegister::new(context)),
            slots: JoinSet::new(),
            resolving: JoinSet::new(),
            finishing: None,
        }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut resolutions = tokio::time::interval(RESOLVE_INTERVAL);
        resolutions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let register = self.register.clone();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(order) => self.carry_out(order),
                },
                _ = resolutions.tick() => self.resolve(),
                Some(resolved) = self.resolving.join_next() => {
                    // A panic of one of these is one of the task: it is not caught.
                    self.take_addresses(resolved.expect("resolving does not panic"));
                }
                Some(ended) = self.slots.join_next() => {
                    ended.expect("links do not panic");
                    self.fit_slots();
                }
                () = register.changed() => self.fit_slots(),
            }
            if register.is_empty()
                && let Some(done) = self.finishing.take()
            {
                // Fails only where it was waited for too long.
                let _ = done.send(());
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Renew(backends, message_bytes_max) => {
                for (one, settings) in self.applications.iter_mut().zip(&backends) {
                    let node = &self.register.context().node;
                    let has_grown = one.renew(settings, node, message_bytes_max);
                    one.retire_outdated(&self.register, has_grown);
                }
                self.resolve();
                self.fit_slots();
            }
            Order::Drain => self.register.drain(),
            Order::Accept { backend, socket } => self.accept(backend, socket),
            Order::Finish(done) => {
                self.finishing = Some(done);
                let slots = self.applications.iter().flat_map(|one| &one.slots);
                slots.for_each(|slot| slot.end());
                self.register.finish();
            }
        }
    }

    fn accept(&mut self, backend: usize, socket: AcceptedSocket) {
        let Some(one) = self.applications.get(backend) else { return };
        let Some(dialing) = one.dialing.as_ref().filter(|_| self.finishing.is_none()) else {
            return;
        };
        let (dialing, log) = (dialing.borrow().clone(), one.log.clone());
        let (register, backend) = (self.register.clone(), one.backend);
        self.slots.spawn_local(async move {
            keep_accepted(&register, backend, &dialing, socket, &log).await;
        });
    }

    /// Resolves the names of all URLs.
    fn resolve(&mut self) {
        for (backend, one) in self.applications.iter_mut().enumerate() {
            for (url, _) in &one.resolved {
                if one.resolving.contains(url) {
                    continue;
                }
                one.resolving.push(url.clone());
                let url = url.clone();
                self.resolving.spawn_local(async move {
                    let addresses = resolve(&url).await;
                    Resolved { backend, url, addresses }
                });
            }
        }
    }

    fn take_addresses(&mut self, resolved: Resolved) {
        let Resolved { backend, url, addresses } = resolved;
        let one = &mut self.applications[backend];
        one.resolving.retain(|other| *other != url);
        match addresses {
            Ok(addresses) => {
                // A reload may have removed the URL meanwhile.
                if let Some((_, known)) = one.resolved.iter_mut().find(|(known, _)| *known == url) {
                    *known = addresses;
                }
            }
            // The addresses that are known stay.
            Err(error) => {
                LinkCounters::add(&one.counters.dial_failures, 1);
                one.log.log_unresolved(&url, &error);
            }
        }
        self.fit_slots();
    }

    /// Starts slots for addresses that lack some.
    fn fit_slots(&mut self) {
        if self.finishing.is_some() || self.register.is_draining() {
            return;
        }
        let node = self.register.context().node.clone();
        for one in &mut self.applications {
            let new = one.fit_slots(&node);
            let Some(dialing) = &one.dialing else { continue };
            for slot in new {
                let (register, log) = (self.register.clone(), one.log.clone());
                let (dialing, backend) = (dialing.clone(), one.backend);
                self.slots.spawn_local(async move {
                    slot.keep(&register, backend, &dialing, &log).await;
                });
            }
        }
    }
}

/// Resolves the name of a URL.
///
/// # Errors
/// It has no address, with the reason.
pub(super) async fn resolve(url: &LinkUrl) -> Result<Vec<SocketAddr>, String> {
    let looking = tokio::net::lookup_host((url.host(), url.port()));
    match tokio::time::timeout(RESOLVE_TIMEOUT, looking).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.collect();
            if addresses.is_empty() {
                return Err("the name has no address".into());
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the resolver in time".into()),
    }
}

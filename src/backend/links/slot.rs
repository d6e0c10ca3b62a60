//! A place for a link to an address: its task dials, runs the link, and dials again. And the
//! register of all open links.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::dial::Dialing;
use super::ending::LinkEnd;
use super::numbers::LinkCounters;
use super::stream::LinkStream;
use super::table::{BackendLink, LinkFacts};
use super::targets::Target;
use super::task::{Greeting, LinkContext, OpenLink};
use crate::backend::settings::{LinkSettings, LinkUrl};

/// The bounds of the time before an address is dialed again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A link that was open for so long has not failed at its start.
const SETTLED: Duration = Duration::from_secs(5);
/// An address that has failed for so long gets no more links than one.
const FAILING_TIME: Duration = Duration::from_secs(10);
/// Failures of an application are logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A place for a link.
pub(super) struct Slot {
    pub(super) target: Target,
    state: Cell<SlotState>,
    /// Wakes the task when the slot is to end.
    ending: Notify,
    open: RefCell<Option<Rc<OpenLink>>>,
    /// Failures in a row.
    failures: Cell<u32>,
    /// When the first of them happened.
    failed: Cell<Option<Instant>>,
    /// Whether the first of them was logged.
    is_logged: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// It dials again and again.
    Active,
    /// The application drains its link; another slot is to take over.
    Left,
    /// It ends with its link.
    Ending,
    Ended,
}

impl Slot {
    pub(super) fn new(target: Target, failures: u32) -> Self {
        Self {
            target,
            state: Cell::new(SlotState::Active),
            ending: Notify::new(),
            open: RefCell::new(None),
            failures: Cell::new(failures),
            failed: Cell::new(None),
            is_logged: Cell::new(false),
        }
    }

    /// Returns whether it keeps a link to its address.
    pub(super) fn is_active(&self) -> bool {
        self.state.get() == SlotState::Active
    }

    /// Returns whether it has failed for long.
    pub(super) fn is_failing(&self) -> bool {
        let has_failed = self.failed.get().is_some_and(|at| at.elapsed() >= FAILING_TIME);
        self.is_active() && has_failed
    }

    /// Returns whether its task has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state.get() == SlotState::Ended
    }

    /// Returns the failures in a row, once, if another slot is to take over this target.
    pub(super) fn hand_over(&self, target: &Target) -> Option<u32> {
        if self.state.get() != SlotState::Left || self.target != *target {
            return None;
        }
        self.state.set(SlotState::Ending);
        Some(self.failures.get())
    }

    /// Dials no more.
    pub(super) fn end(&self) {
        if !self.has_ended() {
            self.state.set(SlotState::Ending);
        }
        self.ending.notify_one();
    }

    /// Dials no more, and moves the sessions of its link away before that ends.
    pub(super) fn retire(&self, settings: Option<&LinkSettings>) {
        self.end();
        if let Some(open) = &*self.open.borrow() {
            retire_link(open, settings);
        }
    }

    /// The task of the slot.
    pub(super) async fn keep(
        &self,
        register: &LinkRegister,
        backend: u8,
        dialing: &RefCell<Dialing>,
        log: &FailureLog,
    ) {
        while self.is_active() {
            let hold_ms = dialing.borrow().settings.hold_ms;
            self.back_off(hold_ms).await;
            if !self.is_active() {
                break;
            }
            let dialing = dialing.borrow().clone();
            let dialed = tokio::select! {
                dialed = dialing.dial(&self.target) => dialed,
                () = self.ending.notified() => break,
            };
            let address = &self.target.address;
            match dialed {
                Ok(_) if !self.is_active() => break,
                Ok((stream, greeting)) => {
                    log.log_open(&self.is_logged, address, &greeting.hello.instance);
                    let open = register.admit(backend, &log.backend, &dialing, &greeting);
                    let end = self.run(register, &open, (stream, greeting)).await;
                    if !end.is_planned() && !open.link.is_draining() {
                        LinkCounters::add(&dialing.counters.lost, 1);
                        log.log_failure(&self.is_logged, address, &end.to_string());
                    }
                }
                Err(failure) => {
                    self.note_failure();
                    LinkCounters::add(&dialing.counters.dial_failures, 1);
                    log.log_failure(&self.is_logged, address, &failure);
                }
            }
        }
        self.state.set(SlotState::Ended);
    }

    async fn run(
        &self,
        register: &LinkRegister,
        open: &Rc<OpenLink>,
        (stream, greeting): (LinkStream, Greeting),
    ) -> LinkEnd {
        let is_settled = Cell::new(false);
        let leave = || {
            if self.is_active() {
                if !is_settled.get() {
                    self.note_failure();
                }
                self.state.set(SlotState::Left);
                register.change();
            }
        };
        self.open.replace(Some(open.clone()));
        let running = register.run(open, (stream, greeting), &leave);
        tokio::pin!(running);
        let end = tokio::select! {
            end = &mut running => end,
            () = tokio::time::sleep(SETTLED) => {
                is_settled.set(true);
                self.settle(register);
                running.await
            }
        };
        self.open.replace(None);
        if !is_settled.get() && self.is_active() {
            self.note_failure();
        }
        end
    }

    fn note_failure(&self) {
        self.failures.set(self.failures.get().saturating_add(1));
        if self.failed.get().is_none() {
            self.failed.set(Some(Instant::now()));
        }
    }

    /// Notes that the link has been open for long.
    fn settle(&self, register: &LinkRegister) {
        // The next one is dialed almost at once.
        self.failures.set(1);
        if self.failed.take().is_some() {
            register.change();
        }
    }

    /// Waits after failures: a random time, so that nodes do not dial all at once; but not so long
    /// that clients are closed although the application is back.
    async fn back_off(&self, hold_ms: u32) {
        let Some(doublings) = self.failures.get().checked_sub(1) else { return };
        let within_hold = (Duration::from_millis(hold_ms.into()) / 4).max(BACKOFF_MIN);
        let most = BACKOFF_MIN.saturating_mul(1 << doublings.min(10)).min(BACKOFF_MAX);
        let most = most.min(within_hold);
        let random = RandomState::new().hash_one(doublings);
        let time = Duration::from_millis(random % (most.as_millis() as u64 + 1));
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.ending.notified() => {}
        }
    }
}

/// Moves the sessions of a link away before it ends.
fn retire_link(open: &OpenLink, settings: Option<&LinkSettings>) {
    let sessions = u64::from(open.link.sessions());
    let most = settings.map_or(Duration::ZERO, |links| {
        let moves_ms = sessions * 1000 / u64::from(links.moves_per_s.max(1));
        Duration::from_millis(u64::from(links.drain_ms) + moves_ms) + links.timeout
    });
    open.retire(most);
}

/// All open links.
pub(super) struct LinkRegister {
    context: Rc<LinkContext>,
    next_id: Cell<u32>,
    open: RefCell<Vec<Rc<OpenLink>>>,
    /// Links that applications have dialed, by their place in the configuration.
    accepted: RefCell<Vec<(u8, Weak<OpenLink>)>>,
    is_draining: Cell<bool>,
    changed: Notify,
}

impl LinkRegister {
    pub(super) fn new(context: LinkContext) -> Self {
        Self {
            context: Rc::new(context),
            next_id: Cell::new(1),
            open: RefCell::default(),
            accepted: RefCell::default(),
            is_draining: Cell::new(false),
            changed: Notify::new(),
        }
    }

    pub(super) fn context(&self) -> &LinkContext {
        &self.context
    }

    /// Waits until links have ended, or drain.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn change(&self) {
        self.changed.notify_one();
    }

    /// Returns whether this node drains.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Returns whether no link is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Informs all applications, also on links that are opened later, that there will be no new
    /// sessions.
    pub(super) fn drain(&self) {
        self.is_draining.set(true);
        self.open.borrow().iter().for_each(|open| open.announce_drain());
    }

    /// Ends all links once what is queued was sent.
    pub(super) fn finish(&self) {
        self.open.borrow().iter().for_each(|open| open.finish());
    }

    /// Notes that an application has dialed a link itself.
    pub(super) fn note_accepted(&self, backend: u8, open: &Rc<OpenLink>) {
        let mut accepted = self.accepted.borrow_mut();
        accepted.retain(|(_, open)| open.strong_count() > 0);
        accepted.push((backend, Rc::downgrade(open)));
    }

    /// Moves the sessions away from the links that an application has dialed, and ends these.
    pub(super) fn retire_accepted(&self, backend: u8, settings: Option<&LinkSettings>) {
        for (of, open) in &*self.accepted.borrow() {
            if let Some(open) = open.upgrade().filter(|_| *of == backend) {
                retire_link(&open, settings);
            }
        }
    }

    /// Registers a link that has said hello.
    pub(super) fn admit(
        &self,
        backend: u8,
        application: &str,
        dialing: &Dialing,
        greeting: &Greeting,
    ) -> Rc<OpenLink> {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        let link = BackendLink::new(LinkFacts {
            id,
            backend,
            application: application.into(),
            instance: greeting.hello.instance.clone(),
            capacity: greeting.hello.capacity,
            queue_bytes_max: dialing.settings.queue_bytes_max,
        });
        let (timeout, bytes_max) = (dialing.settings.timeout, dialing.record_bytes_max);
        let open = OpenLink::new(link, &self.context, &dialing.counters, timeout, bytes_max);
        self.open.borrow_mut().push(open.clone());
        if self.is_draining.get() {
            open.announce_drain();
        }
        open
    }

    /// Runs a link until it ends.
    pub(super) async fn run(
        &self,
        open: &Rc<OpenLink>,
        (stream, greeting): (LinkStream, Greeting),
        drained: &dyn Fn(),
    ) -> LinkEnd {
        let end = open.run(stream, greeting, drained).await;
        self.open.borrow_mut().retain(|other| !Rc::ptr_eq(other, open));
        self.change();
        end
    }
}

/// Logs failures of an application's links, but not each one of many.
pub(super) struct FailureLog {
    pub(super) backend: String,
    logged: Cell<Option<Instant>>,
    was_open: Cell<bool>,
}

impl FailureLog {
    pub(super) fn new(backend: &str) -> Self {
        Self { backend: backend.to_owned(), logged: Cell::new(None), was_open: Cell::new(false) }
    }

    fn may_log(&self) -> bool {
        let may = self.logged.get().is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if may {
            self.logged.set(Some(Instant::now()));
        }
        may
    }

    /// Logs a failure, the first in a row.
    pub(super) fn log_failure(
        &self,
        is_logged: &Cell<bool>,
        address: &dyn fmt::Display,
        failure: &str,
    ) {
        if !is_logged.get() && self.may_log() {
            is_logged.set(true);
            let backend = &self.backend;
            tracing::warn!(backend, %address, failure, "a link to the backend has failed");
        }
    }

    /// Logs the first link, and one that is open after a failure that was logged.
    pub(super) fn log_open(
        &self,
        is_logged: &Cell<bool>,
        address: &dyn fmt::Display,
        instance: &str,
    ) {
        let backend = &self.backend;
        if is_logged.take() {
            tracing::info!(backend, %address, instance, "a link to the backend is open again");
        } else if !self.was_open.get() {
            tracing::info!(backend, %address, instance, "a link to the backend is open");
        }
        self.was_open.set(true);
    }

    /// Logs that a name has no address.
    pub(super) fn log_unresolved(&self, url: &LinkUrl, error: &str) {
        if self.may_log() {
            let (backend, url) = (&self.backend, url.as_str());
            tracing::warn!(backend, url, error, "cannot resolve a name; correct links or the DNS");
        }
    }
}

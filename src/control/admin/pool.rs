//! The connections of the admin address: limits of their number, and of the time that each takes.
//!
//! Deadlines close connections that send no complete request. At the limit of connections a new one
//! evicts the one that has been without a request for longest; a connection with a request in
//! progress is never evicted. If all have one, further connections come from a small reserve, which
//! serves health and metrics only. So no number of clients, with or without a key, makes health and
//! metrics unreachable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Limit from the first byte of a request (for the first one: from the accept) to the end of its
/// head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit without a further request and without the client reading a byte of a response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The maximum number of connections, if the open-files limit allows it.
const CONNECTIONS_MAX: u64 = 256;
/// Reserve beyond those, for health and metrics only.
const RESERVED_MAX: usize = 8;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No byte of its next request has been received.
    Idle,
    /// The head of a request is incomplete.
    Head,
    /// A request is in progress.
    Busy,
}

#[derive(Debug)]
struct Connection {
    phase: Phase,
    /// When the phase began, or when the client last read a byte of a response.
    since: Instant,
    is_reserved: bool,
    /// Aborts its task; set once that runs.
    task: Option<AbortHandle>,
}

impl Connection {
    fn is_overdue(&self, now: Instant) -> bool {
        let timeout = match self.phase {
            Phase::Idle => IDLE_TIMEOUT,
            Phase::Head => HEAD_TIMEOUT,
            // The body's read has a timeout of its own; the rest is the server's own work.
            Phase::Busy => return false,
        };
        now.duration_since(self.since) >= timeout
    }
}

#[derive(Debug, Default)]
struct State {
    /// Keyed by the order of their accepts.
    connections: BTreeMap<u64, Connection>,
    reserved: usize,
    accepted: u64,
    /// Connections closed by a deadline or for another connection.
    evicted: u64,
}

/// All connections of the admin address.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    connections_max: usize,
}

/// A connection's entry in the pool; its drop removes it.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    number: u64,
    /// May read health and metrics only.
    pub(super) is_reserved: bool,
}

impl Pool {
    /// Sizes the pool to a quarter of the open-files limit at most: shards and configuration need
    /// descriptors too.
    pub(super) fn new(open_files: u64) -> Arc<Self> {
        let connections_max = (open_files / 4).clamp(8, CONNECTIONS_MAX) as usize;
        Arc::new(Self { state: Mutex::default(), connections_max })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. At the limit, evicts another one.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        let full = state.connections.len() - state.reserved >= self.connections_max;
        let is_reserved = full && !state.evict_waiting(false);
        if is_reserved && state.reserved >= RESERVED_MAX && !state.evict_waiting(true) {
            // Responses of the reserve are short, so the oldest has had enough time.
            state.evict(|connection| connection.is_reserved);
        }
        state.accepted += 1;
        state.reserved += usize::from(is_reserved);
        let (number, since) = (state.accepted, Instant::now());
        let connection = Connection { phase: Phase::Head, since, is_reserved, task: None };
        state.connections.insert(number, connection);
        Place { pool: self.clone(), number, is_reserved }
    }

    /// Closes the connection that has been without a request for longest, to free a descriptor.
    /// Returns whether there was one.
    pub(super) fn evict_one(&self) -> bool {
        let mut state = self.lock();
        state.evict_waiting(false) || state.evict_waiting(true)
    }

    /// Closes connections past their deadlines.
    pub(super) fn evict_overdue(&self) {
        let now = Instant::now();
        while self.lock().evict(|connection| connection.is_overdue(now)) {}
    }

    /// Returns the number of open connections, and of those closed by a deadline or for another
    /// one.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.connections.len() as u64, state.evicted)
    }
}

impl State {
    fn evict_waiting(&mut self, reserved: bool) -> bool {
        self.evict(|one| one.phase != Phase::Busy && one.is_reserved == reserved)
    }

    /// Closes the oldest connection that `may_go`; its entry is free at once.
    fn evict(&mut self, may_go: impl Fn(&Connection) -> bool) -> bool {
        let candidates = self.connections.iter().filter(|(_, one)| may_go(one));
        let oldest = candidates.min_by_key(|(_, one)| one.since).map(|(number, _)| *number);
        let Some(connection) = oldest.and_then(|oldest| self.remove(oldest)) else { return false };
        self.evicted += 1;
        if let Some(task) = connection.task {
            task.abort();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        debug_assert!(self.reserved >= usize::from(connection.is_reserved), "reserve is counted");
        self.reserved -= usize::from(connection.is_reserved);
        Some(connection)
    }
}

impl Place {
    /// Stores the handle of the connection's task.
    pub(super) fn set_task(&self, task: AbortHandle) {
        self.change(|connection| connection.task = Some(task));
    }

    /// Records that bytes were received.
    pub(super) fn note_received(&self) {
        self.change(|connection| {
            if connection.phase == Phase::Idle {
                connection.set_phase(Phase::Head);
            }
        });
    }

    /// Records that the client has read bytes.
    pub(super) fn note_sent(&self) {
        self.change(|connection| {
            if connection.phase == Phase::Idle {
                connection.since = Instant::now();
            }
        });
    }

    /// Records that a request's head is complete.
    pub(super) fn begin_request(&self) {
        self.change(|connection| connection.set_phase(Phase::Busy));
    }

    /// Records that the response is ready to be sent.
    pub(super) fn end_request(&self) {
        self.change(|connection| connection.set_phase(Phase::Idle));
    }

    /// Leaves the pool: the connection has become a link, which has limits of its own.
    pub(super) fn leave(&self) {
        self.pool.lock().remove(self.number);
    }

    fn change(&self, change: impl FnOnce(&mut Connection)) {
        // An evicted connection has no entry.
        if let Some(connection) = self.pool.lock().connections.get_mut(&self.number) {
            change(connection);
        }
    }
}

impl Connection {
    fn set_phase(&mut self, phase: Phase) {
        (self.phase, self.since) = (phase, Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(pool: &Pool) -> Vec<u64> {
        pool.lock().connections.keys().copied().collect()
    }

    #[test]
    fn the_connection_waiting_longest_is_evicted() {
        let pool = Pool::new(32);
        let places: Vec<_> = (0..8).map(|_| pool.enter()).collect();
        places[0].begin_request();
        places[1].begin_request();
        places[1].end_request();
        let ninth = pool.enter();
        assert!(!ninth.is_reserved);
        assert_eq!(numbers(&pool), [1, 2, 4, 5, 6, 7, 8, 9], "the third waited longest");
        assert_eq!(pool.counts(), (8, 1));
        drop(places);
        assert_eq!(numbers(&pool), [9], "an evicted connection is removed once");
    }

    #[test]
    fn active_requests_are_kept_and_the_reserve_admits_more() {
        let pool = Pool::new(0);
        let busy: Vec<_> = (0..8).map(|_| pool.enter()).collect();
        busy.iter().for_each(Place::begin_request);
        let reserved: Vec<_> = (0..3 * RESERVED_MAX).map(|_| pool.enter()).collect();
        assert!(reserved.iter().all(|place| place.is_reserved));
        let kept = numbers(&pool);
        assert_eq!(kept[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(kept.len(), 8 + RESERVED_MAX);
        busy[3].end_request();
        assert!(!pool.enter().is_reserved);
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_an_active_request_is_never_evicted(
            steps in proptest::collection::vec((0..4u8, any::<prop::sample::Index>()), 0..300),
        ) {
            let pool = Pool::new(64);
            let most = pool.connections_max;
            let mut places = Vec::new();
            let mut busy = std::collections::BTreeSet::new();
            for (step, at) in steps {
                if step == 0 || places.is_empty() {
                    places.push(pool.enter());
                } else {
                    let at = at.index(places.len());
                    let place: &Place = &places[at];
                    match step {
                        1 => {
                            place.begin_request();
                            if !place.is_reserved && numbers(&pool).contains(&place.number) {
                                busy.insert(place.number);
                            }
                        }
                        2 => {
                            place.end_request();
                            busy.remove(&place.number);
                        }
                        _ => {
                            busy.remove(&place.number);
                            places.swap_remove(at);
                        }
                    }
                }
                let held = numbers(&pool);
                prop_assert!(held.len() <= most + RESERVED_MAX);
                prop_assert!(busy.iter().all(|number| held.contains(number)));
                let reserved = pool.lock().connections.values().filter(|c| c.is_reserved).count();
                prop_assert_eq!(pool.lock().reserved, reserved);
                prop_assert!(held.len() - reserved <= most);
            }
            places.clear();
            prop_assert!(numbers(&pool).is_empty());
        }
    }
}

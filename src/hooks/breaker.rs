//! Stops questions to an application that fails: a circuit breaker.
//!
//! Closed, it counts results over a sliding window. If half of enough results are failures, it
//! opens for a while: questions fail at once, so that neither clients nor the application wait for
//! each other. Then it is half open: a few probes decide whether it closes, or opens for longer.
//!
//! Only results of requests that were sent in the present state count: what was sent before says
//! nothing about the application now.

/// The window: buckets of a second.
const BUCKET_MS: u64 = 1000;
const BUCKETS: usize = 10;
/// Results in the window below which it never opens.
const RESULTS_MIN: u32 = 20;
/// How long it is open: doubled with each opening until it closes again, up to the maximum.
const OPEN_MIN_MS: u64 = 1000;
const OPEN_MAX_MS: u64 = 30_000;
/// Random part of that time: so many thousandths less, or more.
const JITTER_PERMILLE: u64 = 200;
/// Probes under way at a time, and successes that close it.
const PROBES: u32 = 3;
/// When to try again while probes decide (ms).
const PROBING_MS: u64 = 1000;

/// The state of a breaker, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Questions are sent.
    Closed,
    /// A few questions are sent as probes.
    HalfOpen,
    /// Questions fail at once.
    Open,
}

/// The permission to send one request; its result comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BreakerPass {
    /// The state in which it was given, counted.
    era: u64,
}

/// Results that arrived within a second.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The second that it counts (monotonic time).
    second: u64,
    results: u32,
    failures: u32,
}

#[derive(Debug)]
enum State {
    Closed { window: [Bucket; BUCKETS] },
    Open { until_ms: u64 },
    HalfOpen { probes: u32, successes: u32 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct HookBreaker {
    state: State,
    /// Changes of the state so far.
    era: u64,
    /// Openings since it was closed.
    in_row: u32,
    openings: u64,
    /// Never 0.
    random: u64,
}

impl HookBreaker {
    /// Makes a closed breaker. Breakers of different seeds open for different times.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: State::closed(),
            era: 0,
            in_row: 0,
            openings: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Returns how often it has opened.
    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    /// Returns when the state changes by itself (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        match self.state {
            State::Open { until_ms } => Some(until_ms),
            _ => None,
        }
    }

    /// Makes it half open when its time has come.
    pub(super) fn advance(&mut self, now_ms: u64) {
        if self.next_due_ms().is_some_and(|until_ms| until_ms <= now_ms) {
            self.change(State::HalfOpen { probes: 0, successes: 0 });
        }
    }

    /// Returns whether a request may be sent.
    pub(super) fn may_send(&self) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { .. } => false,
            State::HalfOpen { probes, .. } => probes < PROBES,
        }
    }

    /// Returns when a question that may not be sent should be asked again (in ms, at least 1).
    pub(super) fn retry_after_ms(&self, now_ms: u64) -> u64 {
        match self.state {
            State::Open { until_ms } => until_ms.saturating_sub(now_ms).max(1),
            _ => PROBING_MS,
        }
    }

    /// Takes the permission to send a request, if there is one.
    pub(super) fn take_pass(&mut self) -> Option<BreakerPass> {
        if !self.may_send() {
            return None;
        }
        if let State::HalfOpen { probes, .. } = &mut self.state {
            *probes += 1;
        }
        Some(BreakerPass { era: self.era })
    }

    /// Returns whether the state has not changed since the permission was given.
    pub(super) fn is_current(&self, pass: BreakerPass) -> bool {
        pass.era == self.era
    }

    /// Records the result of a request. Returns whether that opened the breaker.
    pub(super) fn record(&mut self, now_ms: u64, pass: BreakerPass, is_failure: bool) -> bool {
        if !self.is_current(pass) {
            return false;
        }
        match &mut self.state {
            State::Closed { window } => {
                if count(window, now_ms / BUCKET_MS, is_failure) {
                    self.open(now_ms);
                    return true;
                }
            }
            State::HalfOpen { .. } if is_failure => {
                self.open(now_ms);
                return true;
            }
            State::HalfOpen { probes, successes } => {
                *probes -= 1;
                *successes += 1;
                if *successes == PROBES {
                    self.in_row = 0;
                    self.change(State::closed());
                }
            }
            State::Open { .. } => unreachable!("an open breaker gives no permissions"),
        }
        false
    }

    fn open(&mut self, now_ms: u64) {
        let open_ms = (OPEN_MIN_MS << self.in_row.min(16)).min(OPEN_MAX_MS);
        let permille = 1000 - JITTER_PERMILLE + self.random() % (2 * JITTER_PERMILLE + 1);
        self.in_row += 1;
        self.openings += 1;
        self.change(State::Open { until_ms: now_ms + open_ms * permille / 1000 });
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }

    /// Returns a random number (xorshift): only to spread openings of several nodes.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed { window: [Bucket::default(); BUCKETS] }
    }
}

/// Adds a result to a window; returns whether too many of its results are failures.
fn count(window: &mut [Bucket; BUCKETS], second: u64, is_failure: bool) -> bool {
    let bucket = &mut window[second as usize % BUCKETS];
    if bucket.second != second {
        *bucket = Bucket { second, ..Bucket::default() };
    }
    bucket.results += 1;
    bucket.failures += u32::from(is_failure);
    let present = window.iter().filter(|bucket| bucket.second + BUCKETS as u64 > second);
    let (results, failures) = present.fold((0, 0), |(results, failures), bucket| {
        (results + bucket.results, failures + bucket.failures)
    });
    results >= RESULTS_MIN && failures * 2 >= results
}

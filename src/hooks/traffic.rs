//! What a desk wants of its driver, and what the driver reports back.

use super::answer::HookOutcome;
use super::question::{HookKind, HookTicket};

/// An HTTP request: a question's first, or its repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HookCall(u64);

impl HookCall {
    /// `number`: the question's, below 2^63.
    pub(super) fn new(number: u64, is_repeat: bool) -> Self {
        debug_assert!(number < 1 << 63, "a number has 63 bits");
        Self(number << 1 | u64::from(is_repeat))
    }

    pub(super) fn number(self) -> u64 {
        self.0 >> 1
    }

    pub(super) fn is_repeat(self) -> bool {
        self.0 & 1 == 1
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookResult {
    Response {
        status: u16,
        /// May be cut behind [`HookLimits::answer_bytes_max`] + 1 bytes.
        body: Vec<u8>,
        /// The header `Retry-After`, if it has seconds.
        retry_after_s: Option<u32>,
        /// When it arrived (Unix time, s).
        unix_s: u64,
    },
    /// The application has surely received nothing: the request may be sent once more.
    NotSent,
    /// There is a response, but its body is longer than any bound.
    TooLong,
    /// There is no response; the application may have received the request.
    Broken,
    TimedOut,
}

/// Something for the driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAction {
    /// Send a request, and settle the call with its result.
    Send {
        call: HookCall,
        /// The question's id, unique among all nodes; the same in its repeat.
        id: String,
        /// JSON.
        body: Vec<u8>,
        /// When its result no longer counts (ms).
        deadline_ms: u64,
    },
    /// A question has ended.
    Finish {
        ticket: HookTicket,
        kind: HookKind,
        outcome: HookOutcome,
        /// The time since it was asked (ms).
        waited_ms: u64,
    },
}

/// Bounds of a desk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookLimits {
    /// Requests in flight.
    pub concurrency_max: usize,
    /// Questions that wait to be sent. Equal ones count as one.
    pub waiting_max: usize,
    /// How long a question may take, waiting included (ms).
    pub timeout_ms: u64,
    /// How long an answer may be used again (s), whatever it demands.
    pub cache_s_max: u32,
    /// The longest answer (bytes).
    pub answer_bytes_max: usize,
}

impl Default for HookLimits {
    fn default() -> Self {
        Self {
            concurrency_max: 256,
            waiting_max: 1024,
            timeout_ms: 2000,
            cache_s_max: 300,
            answer_bytes_max: 65_536,
        }
    }
}

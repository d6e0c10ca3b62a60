//! The desk of an application: from questions to requests, and from responses to outcomes.
//!
//! A question is answered from the cache, joins an equal one that is under way, or becomes a call:
//! it is sent, or waits its turn. Times are arguments (monotonic, ms); the driver carries out
//! [`HookAction`]s after each method, and calls [`HookDesk::expire`] when
//! [`HookDesk::next_due_ms`] has come.
//!
//! Invariants: each ticket that is asked and not cancelled ends once, by its deadline. A call that
//! was sent keeps its place until its result or its deadline. All tables are bounded.

mod calls;
mod forgotten;
mod numbers;
mod tickets;

use std::collections::VecDeque;
use std::sync::Arc;

use super::answer::{ConnectAnswer, FailureCause, HookAnswer, HookOutcome};
use super::breaker::HookBreaker;
use super::cache::AnswerCache;
use super::decode::{DecodedAnswer, RawResponse, decode_answer};
use super::encode::{EncodedQuestion, encode_body};
use super::question::{HookKind, HookQuestion, HookTicket};
use super::traffic::{HookAction, HookCall, HookLimits, HookResult};
use crate::auth::OnFailure;
use calls::{DeskCall, DeskCalls, SentCall};
use forgotten::Forgotten;
use numbers::DeskCounts;
pub use numbers::{HookCounts, HookNumbers};
use tickets::{OpenTicket, OpenTickets};

/// Tickets that have not ended: any number of them could join one call.
const TICKETS_MAX: usize = 1 << 18;
/// Memory of a ticket, in the tables that it is in (bytes).
const TICKET_BYTES: usize = 3 * size_of::<HookTicket>() + size_of::<OpenTicket>();
/// Memory of questions that wait (bytes).
const WAITING_BYTES_MAX: usize = 64 << 20;
/// When a client may try again if nothing says more (ms).
const RETRY_MS: u64 = 1000;
/// The bounds of an application's `Retry-After` (s).
const RETRY_S_MAX: u32 = 300;

/// Why a question fails, and when its client may try again (ms).
type Failure = (FailureCause, u64);

/// See the module.
#[derive(Debug)]
pub struct HookDesk {
    limits: HookLimits,
    /// The application's name, for identities.
    application: Arc<str>,
    node: Box<str>,
    instance: u64,
    now_ms: u64,
    tickets: OpenTickets,
    calls: DeskCalls,
    breaker: HookBreaker,
    cache: AnswerCache,
    forgotten: Forgotten,
    counts: DeskCounts,
    actions: VecDeque<HookAction>,
}

impl HookDesk {
    /// Makes the desk of an application. `node` appears in requests and in their ids, so it must be
    /// valid in a header; `instance` is another number after each start.
    pub fn new(limits: HookLimits, application: &str, node: &str, instance: u64) -> Self {
        Self {
            limits,
            application: application.into(),
            node: node.into(),
            instance,
            now_ms: 0,
            tickets: OpenTickets::default(),
            calls: DeskCalls::default(),
            breaker: HookBreaker::new(instance),
            cache: AnswerCache::default(),
            forgotten: Forgotten::default(),
            counts: DeskCounts::default(),
            actions: VecDeque::new(),
        }
    }

    /// Changes the limits. Requests in flight keep their places, and questions their deadlines.
    pub fn set_limits(&mut self, limits: HookLimits) {
        if limits.cache_s_max < self.limits.cache_s_max {
            self.cache.forget_all();
        }
        self.limits = limits;
        self.pump();
        while self.calls.waiting() > self.limits.waiting_max
            && let Some(last) = self.calls.last_waiting()
        {
            self.fail_call(last, (FailureCause::Busy, RETRY_MS));
        }
    }

    /// Asks a question. The ticket must not be one that has not ended.
    pub fn ask(&mut self, now_ms: u64, ticket: HookTicket, question: HookQuestion) {
        self.advance(now_ms);
        if self.tickets.contains(ticket) {
            debug_assert!(false, "{ticket:?} is asked twice");
            return;
        }
        let question = EncodedQuestion::new(question);
        self.counts.of(question.kind).asked += 1;
        let open = OpenTicket {
            kind: question.kind,
            on_failure: question.on_failure,
            asked_ms: self.now_ms,
            deadline_ms: self.now_ms.saturating_add(self.limits.timeout_ms),
            call: 0,
        };
        if let Some(answer) = question.key.and_then(|key| self.cache.get(self.now_ms, &key)) {
            let outcome = HookOutcome::Answered(answer.clone());
            self.counts.of(open.kind).cache_hits += 1;
            self.finish(ticket, open, outcome);
            return;
        }
        match self.admit(question, ticket, open.deadline_ms) {
            Ok(call) => self.tickets.add(ticket, OpenTicket { call, ..open }),
            Err(failure) => self.finish(ticket, open, fail(open, failure)),
        }
        self.pump();
    }

    /// Finds the call for a question, or makes one. Returns its number.
    fn admit(
        &mut self,
        question: EncodedQuestion,
        ticket: HookTicket,
        deadline_ms: u64,
    ) -> Result<u64, Failure> {
        let busy = (FailureCause::Busy, RETRY_MS);
        if self.tickets.len() >= TICKETS_MAX {
            return Err(busy);
        }
        if let Some(number) = self.find_joinable(&question) {
            self.counts.of(question.kind).joined += 1;
            self.calls.join(number, ticket, deadline_ms);
            return Ok(number);
        }
        if !self.breaker.may_send() {
            return Err((FailureCause::Open, self.breaker.retry_after_ms(self.now_ms)));
        }
        let must_wait =
            self.calls.waiting() > 0 || self.calls.in_flight() >= self.limits.concurrency_max;
        let bytes = self.calls.waiting_bytes() + question.fields.len();
        let has_room = self.calls.waiting() < self.limits.waiting_max && bytes <= WAITING_BYTES_MAX;
        if must_wait && !has_room {
            return Err(busy);
        }
        Ok(self.calls.add(question, ticket, deadline_ms))
    }

    /// Finds an equal question whose answer will be as recent as one to this question would be.
    fn find_joinable(&self, question: &EncodedQuestion) -> Option<u64> {
        let key = question.key.as_ref().filter(|_| question.may_join)?;
        let (number, call) = self.calls.find(key)?;
        let is_stale = call.sent.is_some_and(|sending| match question.kind {
            // The answer may be about any user.
            HookKind::Connect => self.forgotten.now() > sending.seen,
            _ => self.forgotten.has_since(sending.seen, question.user.as_deref()),
        });
        (!is_stale).then_some(number)
    }

    /// Takes the result of a request. Of a call that has ended, it is ignored.
    pub fn settle(&mut self, now_ms: u64, call: HookCall, result: HookResult) {
        self.advance(now_ms);
        let Some((number, sending)) = self.calls.find_sent(call) else {
            self.counts.late_answers += u64::from(matches!(result, HookResult::Response { .. }));
            return;
        };
        let is_wanted = self.calls.get(number).is_some_and(|call| !call.tickets.is_empty());
        if result == HookResult::NotSent
            && is_wanted
            && !sending.is_repeat
            && self.breaker.is_current(sending.pass)
        {
            self.send(number, SentCall { is_repeat: true, ..sending });
            return;
        }
        let Some(ended) = self.calls.remove(number) else { return };
        let opened = self.breaker.record(self.now_ms, sending.pass, is_failure(&result));
        match self.decode(ended.question.kind, result) {
            Ok(decoded) => {
                self.keep(&ended.question, sending, &decoded);
                self.end(ended, |_| HookOutcome::Answered(decoded.answer.clone()));
            }
            Err(failure) => self.end_failed(ended, failure),
        }
        self.after_record(opened);
        self.pump();
    }

    fn decode(&self, kind: HookKind, result: HookResult) -> Result<DecodedAnswer, Failure> {
        match result {
            HookResult::Response { status, body, retry_after_s, unix_s } => {
                let response = RawResponse { status, body: &body, unix_s };
                let bytes_max = self.limits.answer_bytes_max;
                decode_answer(kind, response, bytes_max, &self.application).map_err(|cause| {
                    let retry_s = retry_after_s.filter(|_| matches!(status, 429 | 503));
                    let of_header = |s: u32| u64::from(s.clamp(1, RETRY_S_MAX)) * 1000;
                    (cause, retry_s.map_or(RETRY_MS, of_header))
                })
            }
            HookResult::TooLong => Err((FailureCause::Malformed, RETRY_MS)),
            HookResult::NotSent | HookResult::Broken => Err((FailureCause::Unreachable, RETRY_MS)),
            HookResult::TimedOut => Err((FailureCause::TimedOut, RETRY_MS)),
        }
    }

    /// Caches an answer, if it may be used again.
    fn keep(&mut self, question: &EncodedQuestion, sending: SentCall, decoded: &DecodedAnswer) {
        let Some(key) = question.key else { return };
        let user = match &decoded.answer {
            // Without a user, nothing could make it forgotten.
            HookAnswer::Connect(ConnectAnswer::Accept { identity, .. }) => match &identity.user {
                None => return,
                user => user.as_ref(),
            },
            HookAnswer::Connect(ConnectAnswer::Refuse { .. }) => None,
            _ => question.user.as_ref(),
        };
        let cache_s = decoded.cache_s.min(self.limits.cache_s_max);
        if cache_s > 0 && !self.forgotten.has_since(sending.seen, user.map(|user| &**user)) {
            let expires_ms = self.now_ms + u64::from(cache_s) * 1000;
            self.cache.insert(key, decoded.answer.clone(), user.cloned(), expires_ms);
        }
    }

    /// Withdraws a question whose client has left: no outcome follows. Its call is not sent any
    /// more, unless others wait for it. One that was sent keeps its place, and its answer is
    /// cached.
    pub fn cancel(&mut self, ticket: HookTicket) {
        if let Some(open) = self.tickets.remove(ticket) {
            self.counts.of(open.kind).cancelled += 1;
            self.calls.leave(open.call, ticket);
        }
    }

    /// Ends what has expired.
    pub fn expire(&mut self, now_ms: u64) {
        self.advance(now_ms);
        self.pump();
    }

    /// Returns when to call [`Self::expire`] (ms).
    pub fn next_due_ms(&self) -> Option<u64> {
        let due = [
            self.tickets.next_due_ms(),
            self.calls.next_due_ms(),
            self.breaker.next_due_ms(),
            self.cache.next_due_ms(),
        ];
        due.into_iter().flatten().min()
    }

    /// Returns the next thing for the driver to do.
    pub fn next_action(&mut self) -> Option<HookAction> {
        self.actions.pop_front()
    }

    /// Forgets a user's cached answers. Answers to requests in flight are not cached for it.
    pub fn forget_user(&mut self, user: &str) {
        self.cache.forget_user(user);
        if self.calls.in_flight() > 0 {
            self.forgotten.add_user(user);
        }
    }

    /// Forgets all cached answers. Answers to requests in flight are not cached.
    pub fn forget_all(&mut self) {
        self.cache.forget_all();
        self.forgotten.add_all();
    }

    /// Returns the numbers for metrics.
    pub fn numbers(&self) -> HookNumbers {
        HookNumbers {
            in_flight: self.calls.in_flight(),
            waiting: self.calls.waiting(),
            open: self.tickets.len(),
            cache_entries: self.cache.len(),
            cache_bytes: self.cache.bytes(),
            held_bytes: self.calls.bytes() + self.tickets.len() * TICKET_BYTES,
            breaker: self.breaker.state(),
            breaker_openings: self.breaker.openings(),
            late_answers: self.counts.late_answers,
            kinds: self.counts.kinds,
        }
    }

    /// Moves the time forward. The caller pumps afterwards.
    fn advance(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.breaker.advance(self.now_ms);
        self.cache.expire(self.now_ms);
        while let Some((ticket, open)) = self.tickets.pop_due(self.now_ms) {
            self.calls.leave(open.call, ticket);
            let outcome = fail(open, (FailureCause::TimedOut, RETRY_MS));
            self.finish(ticket, open, outcome);
        }
        while let Some(number) = self.calls.first_due(self.now_ms) {
            let Some(ended) = self.calls.remove(number) else { break };
            let opened = ended
                .sent
                .is_some_and(|sending| self.breaker.record(self.now_ms, sending.pass, true));
            self.end_failed(ended, (FailureCause::TimedOut, RETRY_MS));
            self.after_record(opened);
        }
    }

    /// Does what follows from the end of a request.
    fn after_record(&mut self, opened: bool) {
        if opened {
            let retry_ms = self.breaker.retry_after_ms(self.now_ms);
            while let Some(number) = self.calls.first_waiting() {
                self.fail_call(number, (FailureCause::Open, retry_ms));
            }
        }
        if self.calls.in_flight() == 0 {
            self.forgotten.clear();
        }
    }

    /// Sends what waits, within the limits.
    fn pump(&mut self) {
        while self.calls.in_flight() < self.limits.concurrency_max
            && let Some(number) = self.calls.first_waiting()
            && let Some(pass) = self.breaker.take_pass()
        {
            let seen = self.forgotten.now();
            self.send(number, SentCall { is_repeat: false, pass, seen });
        }
    }

    fn send(&mut self, number: u64, sending: SentCall) {
        let Some(call) = self.calls.send(number, sending) else { return };
        let id = format!("{}.{:016x}.hook.{number}", self.node, self.instance);
        let question = &call.question;
        self.counts.of(question.kind).repeats += u64::from(sending.is_repeat);
        self.actions.push_back(HookAction::Send {
            call: HookCall::new(number, sending.is_repeat),
            body: encode_body(question.kind, &self.node, &id, &question.fields),
            id,
            deadline_ms: call.deadline_ms,
        });
    }

    fn fail_call(&mut self, number: u64, failure: Failure) {
        if let Some(ended) = self.calls.remove(number) {
            self.end_failed(ended, failure);
        }
    }

    fn end_failed(&mut self, call: DeskCall, failure: Failure) {
        self.end(call, |open| fail(open, failure));
    }

    fn end(&mut self, call: DeskCall, outcome: impl Fn(OpenTicket) -> HookOutcome) {
        for ticket in call.tickets {
            if let Some(open) = self.tickets.remove(ticket) {
                self.finish(ticket, open, outcome(open));
            }
        }
    }

    /// Reports the end of a ticket, which is no longer in the table.
    fn finish(&mut self, ticket: HookTicket, open: OpenTicket, outcome: HookOutcome) {
        self.counts.finish(open.kind, &outcome);
        let waited_ms = self.now_ms - open.asked_ms;
        self.actions.push_back(HookAction::Finish { ticket, kind: open.kind, outcome, waited_ms });
    }
}

/// Returns the outcome of a question without an answer.
fn fail(open: OpenTicket, (cause, retry_ms): Failure) -> HookOutcome {
    match open.on_failure {
        OnFailure::Allow => HookOutcome::Allowed,
        OnFailure::Reject => {
            let retry_after_ms = u32::try_from(retry_ms).unwrap_or(u32::MAX);
            HookOutcome::Failed { kind: open.kind, cause, retry_after_ms }
        }
    }
}

/// Returns whether a result means that the application cannot serve questions now. Other responses
/// may fail a question, but show that it is alive.
fn is_failure(result: &HookResult) -> bool {
    match result {
        HookResult::Response { status, .. } => matches!(status, 408 | 429 | 500..=599),
        HookResult::TooLong => false,
        HookResult::NotSent | HookResult::Broken | HookResult::TimedOut => true,
    }
}

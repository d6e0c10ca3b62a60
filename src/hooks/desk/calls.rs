//! The calls of a desk: questions that wait to be sent, or have been sent. Equal questions join one
//! call.
//!
//! Calls have numbers that grow, and are sent in that order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::hooks::breaker::BreakerPass;
use crate::hooks::cache::AnswerKey;
use crate::hooks::encode::EncodedQuestion;
use crate::hooks::question::HookTicket;
use crate::hooks::traffic::HookCall;

/// A call that has been sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentCall {
    pub(super) is_repeat: bool,
    pub(super) pass: BreakerPass,
    /// What had been forgotten before: see `forgotten`.
    pub(super) seen: u64,
}

/// A question, and the tickets that get its answer.
#[derive(Debug)]
pub(super) struct DeskCall {
    pub(super) question: EncodedQuestion,
    /// A call that waits has some; one that was sent may have lost them all.
    pub(super) tickets: BTreeSet<HookTicket>,
    /// When the last of its tickets expires (ms); once it was sent, the deadline that was sent.
    pub(super) deadline_ms: u64,
    /// `None`: it waits.
    pub(super) sent: Option<SentCall>,
}

/// Returns the memory of a question in the tables, and of the body that is made of it (bytes).
fn question_bytes(question: &EncodedQuestion) -> usize {
    size_of::<DeskCall>() + 2 * question.fields.len()
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DeskCalls {
    table: BTreeMap<u64, DeskCall>,
    waiting: BTreeSet<u64>,
    waiting_bytes: usize,
    /// Memory of all questions, and of the bodies under way (bytes).
    bytes: usize,
    /// Deadlines of calls that have been sent, with their numbers.
    deadlines: BTreeSet<(u64, u64)>,
    /// The call that an equal question joins.
    by_key: HashMap<AnswerKey, u64>,
    next_number: u64,
}

impl DeskCalls {
    pub(super) fn in_flight(&self) -> usize {
        self.table.len() - self.waiting.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the memory of questions that wait (bytes).
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the memory of all questions, and of the bodies under way (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, number: u64) -> Option<&DeskCall> {
        self.table.get(&number)
    }

    /// Adds a question that waits. Equal questions join it from now on.
    pub(super) fn add(
        &mut self,
        question: EncodedQuestion,
        ticket: HookTicket,
        deadline_ms: u64,
    ) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        if let Some(key) = question.key {
            self.by_key.insert(key, number);
        }
        self.waiting.insert(number);
        self.waiting_bytes += question.fields.len();
        self.bytes += question_bytes(&question);
        let tickets = BTreeSet::from([ticket]);
        self.table.insert(number, DeskCall { question, tickets, deadline_ms, sent: None });
        number
    }

    /// Returns the call that an equal question may join.
    pub(super) fn find(&self, key: &AnswerKey) -> Option<(u64, &DeskCall)> {
        let number = *self.by_key.get(key)?;
        Some((number, self.table.get(&number)?))
    }

    pub(super) fn join(&mut self, number: u64, ticket: HookTicket, deadline_ms: u64) {
        let Some(call) = self.table.get_mut(&number) else { return };
        call.tickets.insert(ticket);
        if call.sent.is_none() {
            call.deadline_ms = call.deadline_ms.max(deadline_ms);
        }
    }

    /// Removes a ticket from its call, and the call if it waits for nothing else.
    pub(super) fn leave(&mut self, number: u64, ticket: HookTicket) {
        let Some(call) = self.table.get_mut(&number) else { return };
        call.tickets.remove(&ticket);
        if call.tickets.is_empty() && call.sent.is_none() {
            self.remove(number);
        }
    }

    /// Returns the call that has waited longest.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.waiting.first().copied()
    }

    /// Returns the call that has waited shortest.
    pub(super) fn last_waiting(&self) -> Option<u64> {
        self.waiting.last().copied()
    }

    /// Notes that a call is being sent.
    pub(super) fn send(&mut self, number: u64, sending: SentCall) -> Option<&DeskCall> {
        let call = self.table.get_mut(&number)?;
        if self.waiting.remove(&number) {
            self.waiting_bytes -= call.question.fields.len();
            self.deadlines.insert((call.deadline_ms, number));
        }
        call.sent = Some(sending);
        Some(call)
    }

    /// Returns the number of a call that has been sent and not settled.
    pub(super) fn find_sent(&self, call: HookCall) -> Option<(u64, SentCall)> {
        let number = call.number();
        let sending = self.table.get(&number)?.sent?;
        (sending.is_repeat == call.is_repeat()).then_some((number, sending))
    }

    /// Removes a call.
    pub(super) fn remove(&mut self, number: u64) -> Option<DeskCall> {
        let call = self.table.remove(&number)?;
        self.bytes -= question_bytes(&call.question);
        if self.waiting.remove(&number) {
            self.waiting_bytes -= call.question.fields.len();
        }
        self.deadlines.remove(&(call.deadline_ms, number));
        if let Some(key) = call.question.key
            && self.by_key.get(&key) == Some(&number)
        {
            self.by_key.remove(&key);
        }
        Some(call)
    }

    /// Returns a sent call whose deadline has passed.
    pub(super) fn first_due(&self, now_ms: u64) -> Option<u64> {
        let (deadline_ms, number) = *self.deadlines.first()?;
        (deadline_ms <= now_ms).then_some(number)
    }

    /// Returns the first deadline of a sent call (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }
}

//! The tickets of a desk that have not ended.

use std::collections::{BTreeSet, HashMap};

use crate::auth::OnFailure;
use crate::hooks::question::{HookKind, HookTicket};

/// A ticket's question.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenTicket {
    pub(super) kind: HookKind,
    pub(super) on_failure: OnFailure,
    pub(super) asked_ms: u64,
    pub(super) deadline_ms: u64,
    /// The number of its call.
    pub(super) call: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OpenTickets {
    table: HashMap<HookTicket, OpenTicket>,
    deadlines: BTreeSet<(u64, HookTicket)>,
}

impl OpenTickets {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn contains(&self, ticket: HookTicket) -> bool {
        self.table.contains_key(&ticket)
    }

    /// Adds a ticket that is not there.
    pub(super) fn add(&mut self, ticket: HookTicket, open: OpenTicket) {
        self.deadlines.insert((open.deadline_ms, ticket));
        let former = self.table.insert(ticket, open);
        debug_assert!(former.is_none(), "a ticket is asked once");
    }

    pub(super) fn remove(&mut self, ticket: HookTicket) -> Option<OpenTicket> {
        let open = self.table.remove(&ticket)?;
        self.deadlines.remove(&(open.deadline_ms, ticket));
        Some(open)
    }

    /// Removes and returns a ticket whose deadline has passed.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<(HookTicket, OpenTicket)> {
        let (deadline_ms, ticket) = *self.deadlines.first()?;
        let open = (deadline_ms <= now_ms).then(|| self.remove(ticket))??;
        Some((ticket, open))
    }

    /// Returns the first deadline (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }
}

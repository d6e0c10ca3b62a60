//! Sessions whose connection has closed while messages were unacknowledged, which are handled at
//! least once all the same, or while they were between links.
//!
//! They are bounded in bytes, and each has a deadline: how long an application may take to
//! acknowledge, how long it may take to confirm that it has finished on a link, or how long a
//! session waits for another link.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use super::entry::{GatewayEntry, SessionPhase};
use crate::backend::links::BackendLink;
use crate::driver::Token;
use crate::hub::ConnectionId;
use crate::session::gateway::{AckBeyondLast, SpareQueues};
use crate::shard::connections::{Connections, UNSET};

/// How long an application may take to acknowledge the messages of a closed connection.
pub(super) const ACK_MS_MAX: u32 = 300_000;
/// The bound on all of them in one shard.
const BYTES_MAX: usize = 64 << 20;

/// One session.
#[derive(Debug)]
pub(super) struct DepartedEntry {
    pub(super) entry: Box<GatewayEntry>,
    pub(super) connection: ConnectionId,
    /// What the application is sent once it has the messages.
    pub(super) code: u32,
    pub(super) backend: u8,
    /// The route's path, if the entry has none of its own.
    pub(super) path: Box<str>,
    pub(super) address: Option<IpAddr>,
    /// The deadline (tick).
    pub(super) until: u32,
}

impl DepartedEntry {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.path.len() + self.entry.bytes()
    }

    /// Returns whether it is on no link, or leaves or has lost its link, so that its end is still
    /// to be reported.
    pub(super) fn is_between_links(&self) -> bool {
        self.entry.phase() == SessionPhase::Leaving
            || self.entry.link.as_ref().is_none_or(|link| link.is_closed())
    }

    /// Returns whether it has to move although nothing was waited for: its link is lost, or was.
    pub(super) fn has_no_link(&self) -> bool {
        self.entry.link.as_ref().is_none_or(|link| link.is_closed())
    }
}

/// All such sessions of a shard. See the module.
///
/// Invariants: `bytes` is the sum over all; no deadline is before `next_due`.
#[derive(Debug)]
pub(super) struct Departed {
    by_token: BTreeMap<Token, DepartedEntry>,
    bytes: usize,
    next_due: u32,
}

impl Default for Departed {
    fn default() -> Self {
        Self { by_token: BTreeMap::new(), bytes: 0, next_due: UNSET }
    }
}

/// What became of a record for such a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DepartedStep {
    Taken,
    /// It is on another link.
    Fenced,
    /// There is no such session.
    Unknown,
}

impl Departed {
    /// Adds a session.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn insert(&mut self, token: Token, one: DepartedEntry) -> Result<(), DepartedEntry> {
        if self.bytes + one.bytes() > BYTES_MAX {
            return Err(one);
        }
        self.put_back(token, one);
        Ok(())
    }

    /// Puts back what was taken, with another link or deadline.
    pub(super) fn put_back(&mut self, token: Token, one: DepartedEntry) {
        self.bytes += one.bytes();
        self.next_due = self.next_due.min(one.until);
        let earlier = self.by_token.insert(token, one);
        assert!(earlier.is_none(), "a connection closes once");
    }

    /// Removes and returns a session.
    pub(super) fn take(&mut self, token: Token) -> Option<DepartedEntry> {
        let one = self.by_token.remove(&token)?;
        self.bytes -= one.bytes();
        if self.by_token.is_empty() {
            self.next_due = UNSET;
        }
        Some(one)
    }

    fn step(&self, token: Token, link: &Arc<BackendLink>) -> DepartedStep {
        match self.by_token.get(&token) {
            None => DepartedStep::Unknown,
            Some(one) if one.entry.is_on(link) => DepartedStep::Taken,
            Some(_) => DepartedStep::Fenced,
        }
    }

    /// Applies an acknowledgement.
    ///
    /// # Errors
    /// A message with this number was not sent.
    pub(super) fn acknowledge(
        &mut self,
        token: Token,
        link: &Arc<BackendLink>,
        number: u32,
        spare: &mut SpareQueues,
    ) -> Result<DepartedStep, AckBeyondLast> {
        let step = self.step(token, link);
        if step == DepartedStep::Taken
            && let Some(mut one) = self.take(token)
        {
            let acknowledged = one.entry.up.acknowledge(number, spare);
            link.remove_unacked(*acknowledged.as_ref().unwrap_or(&0));
            if one.entry.up.is_acknowledged() && !one.is_between_links() {
                one.entry.leave_counts();
            } else {
                self.put_back(token, one);
            }
            acknowledged?;
        }
        Ok(step)
    }

    /// Ends a session with which the application is done.
    pub(super) fn end(&mut self, token: Token, link: &Arc<BackendLink>) -> DepartedStep {
        let step = self.step(token, link);
        if step == DepartedStep::Taken
            && let Some(one) = self.take(token)
        {
            one.entry.leave_counts();
        }
        step
    }

    /// Returns whether a session was asked to leave this link.
    pub(super) fn is_leaving(&self, token: Token, link: &Arc<BackendLink>) -> bool {
        let is_leaving = |one: &DepartedEntry| one.entry.phase() == SessionPhase::Leaving;
        self.by_token.get(&token).is_some_and(|one| one.entry.is_on(link) && is_leaving(one))
    }

    /// Returns the next session after this one, in the order of tokens.
    pub(super) fn next_after(&self, after: Option<Token>) -> Option<(Token, &DepartedEntry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_token.range((from, Bound::Unbounded)).next().map(|(token, one)| (*token, one))
    }

    /// Brings the deadline of a session forward.
    pub(super) fn limit(&mut self, token: Token, until: u32) {
        if let Some(one) = self.by_token.get_mut(&token) {
            one.until = one.until.min(until);
            self.next_due = self.next_due.min(one.until);
        }
    }

    /// Returns a tick before which no deadline is.
    pub(super) fn next_due(&self) -> Option<u32> {
        (self.next_due != UNSET).then_some(self.next_due)
    }

    /// Returns the sessions whose deadline has passed.
    pub(super) fn due(&mut self, tick: u32) -> Vec<Token> {
        if tick < self.next_due {
            return Vec::new();
        }
        let others = self.by_token.values().map(|one| one.until).filter(|until| *until > tick);
        self.next_due = others.min().unwrap_or(UNSET);
        let is_due = self.by_token.iter().filter(|(_, one)| one.until <= tick);
        is_due.map(|(token, _)| *token).collect()
    }

    /// Returns the memory of all of them (bytes).
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks the invariants.
    pub(super) fn check_invariants(&self) {
        let sum: usize = self.by_token.values().map(DepartedEntry::bytes).sum();
        assert_eq!(sum, self.bytes, "the bytes of closed connections");
        for one in self.by_token.values() {
            assert!(one.until >= self.next_due, "no deadline is missed");
            let is_needed = !one.entry.up.is_acknowledged() || one.is_between_links();
            assert!(is_needed, "only what something is awaited for is kept");
        }
    }
}

/// Drops a session of a closed connection, with the messages that are not acknowledged.
pub(super) fn give_up(connections: &mut Connections, entry: &GatewayEntry) {
    entry.leave_counts();
    let lost = entry.up.unacknowledged().count() as u64;
    connections.counters_mut().gateway_messages_lost += lost;
}

//! Moves idle sessions to links that have fewer, after a link has said hello.
//!
//! A session without unacknowledged messages leaves a link that has clearly more than its share, in
//! the way in which it leaves one that drains: its client notices nothing.

use std::sync::Arc;

use super::entry::SessionPhase;
use super::pace::Pace;
use super::{Gateway, link_settings};
use crate::backend::links::BackendLink;
use crate::shard::connections::Connections;

/// Sessions that are visited in a tick.
const VISITED_PER_TICK: usize = 1_024;
/// A link has more than its share if it is above that by a tenth and this many sessions.
const SLACK: u64 = 2;

/// The progress of moving sessions to new links.
#[derive(Debug, Default)]
pub(super) struct Rebalance {
    /// Whether links may differ.
    is_active: bool,
    cursor: usize,
    tick: u32,
    pace: Pace,
    /// Sessions visited since the last one moved.
    visited: usize,
}

impl Rebalance {
    /// Starts after a change of links.
    pub(super) fn request(&mut self) {
        (self.is_active, self.visited) = (true, 0);
    }

    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }
}

impl Gateway {
    /// Moves sessions from links with more than their share, by a tick's share.
    pub(super) fn continue_rebalance(&mut self, connections: &mut Connections) {
        let tick = connections.tick();
        if !self.rebalance.is_active || self.rebalance.tick == tick {
            return;
        }
        self.rebalance.tick = tick;
        let links = self.directory.links().links();
        for _ in 0..VISITED_PER_TICK.min(self.sessions.len()) {
            let index = self.rebalance.cursor % self.sessions.len();
            self.rebalance.cursor = index + 1;
            self.rebalance.visited += 1;
            if !self.leave_if_overloaded(connections, index as u32, &links) {
                break;
            }
        }
        if self.rebalance.visited >= self.sessions.len() {
            // None of all sessions has to move: the links have their shares.
            self.rebalance.is_active = false;
        }
    }

    /// Has a session leave its link if that has more than its share; returns false if no more moves
    /// are allowed in this tick.
    fn leave_if_overloaded(
        &mut self,
        connections: &mut Connections,
        index: u32,
        links: &[Arc<BackendLink>],
    ) -> bool {
        let Some(entry) = self.entry(index) else { return true };
        let may_move = entry.phase() == SessionPhase::Open
            && !entry.must_leave()
            && entry.up.is_acknowledged()
            && entry.link.as_ref().is_some_and(|link| is_overloaded(link, links));
        if !may_move {
            return true;
        }
        let Some(settings) = link_settings(connections, index) else { return true };
        // By the user, a session would come back to the same instance.
        if settings.rebalance_per_s == 0 || settings.by_user {
            return true;
        }
        let (tick, per_second) = (connections.tick(), settings.rebalance_per_s);
        if !self.rebalance.pace.take(tick, per_second, self.directory.len()) {
            (self.rebalance.cursor, self.rebalance.visited) =
                (self.rebalance.cursor - 1, self.rebalance.visited - 1);
            return false;
        }
        self.rebalance.visited = 0;
        self.leave_link(connections, index);
        true
    }
}

/// Returns whether a link has clearly more than its share of the sessions of its application.
fn is_overloaded(link: &BackendLink, links: &[Arc<BackendLink>]) -> bool {
    // One that drains is left anyway.
    if link.is_draining() || link.is_closed() {
        return false;
    }
    let facts = link.facts();
    let of_backend = || {
        let open = links.iter().filter(|one| !one.is_draining() && !one.is_closed());
        open.filter(|one| one.facts().backend == facts.backend)
    };
    let sessions: u64 = of_backend().map(|one| u64::from(one.sessions())).sum();
    let capacity: u64 = of_backend().map(|one| u64::from(one.facts().capacity)).sum();
    let share = sessions * u64::from(facts.capacity) / capacity.max(1);
    u64::from(link.sessions()) > share + share / 10 + SLACK
}

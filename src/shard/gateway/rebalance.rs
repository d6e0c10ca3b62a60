//! Moves idle sessions to links that have fewer, after a link has said hello.
//!
//! A session without unacknowledged messages leaves a link that has clearly more than its share, in
//! the way in which it leaves one that drains: its client notices nothing.

use super::entry::SessionPhase;
use super::{Gateway, link_settings};
use crate::backend::links::BackendLink;
use crate::shard::connections::{Connections, TICK_MS};
use std::sync::Arc;

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
    /// Thousandths of a move that are still allowed.
    credit: u64,
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
        let may_move = entry.phase == SessionPhase::Open
            && !entry.must_leave
            && entry.up.is_acknowledged()
            && entry.link.as_ref().is_some_and(|link| is_overloaded(link, links));
        if !may_move {
            return true;
        }
        let per_second = link_settings(connections, index).map_or(0, |own| own.rebalance_per_s);
        if per_second == 0 {
            return true;
        }
        let per_tick = u64::from(per_second) * TICK_MS / self.directory.len().max(1) as u64;
        let rebalance = &mut self.rebalance;
        if rebalance.credit < 1000 {
            // Once a tick; what is not used does not add up.
            rebalance.credit = (rebalance.credit + per_tick).min(per_tick.max(1000));
            if rebalance.credit < 1000 {
                rebalance.cursor -= 1;
                rebalance.visited -= 1;
                return false;
            }
        }
        rebalance.credit -= 1000;
        rebalance.visited = 0;
        let has_more = rebalance.credit >= 1000;
        self.leave_link(connections, index);
        has_more
    }
}

/// Returns whether a link has clearly more than its share of the sessions of its application.
fn is_overloaded(link: &BackendLink, links: &[Arc<BackendLink>]) -> bool {
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

//! Checks of the gateway's invariants between turns.

use super::Gateway;
use super::entry::SessionPhase;
use crate::shard::connections::Connections;

impl Gateway {
    /// Checks the invariants of this module.
    ///
    /// # Panics
    /// When an invariant is violated, which is a bug.
    pub(in crate::shard) fn check_invariants(&self, connections: &Connections) {
        let mut count = 0;
        for (index, entry) in self.sessions.iter().enumerate() {
            let Some(entry) = entry else { continue };
            count += 1;
            assert!(connections.is_open(index as u32), "a session belongs to an open connection");
            let is_held = entry.phase() == SessionPhase::Held;
            assert_eq!(entry.link.is_none(), is_held, "a session without a link is held");
        }
        assert_eq!(count, self.session_count);
        let extra: usize = self.sessions.iter().flatten().map(|one| one.extra_bytes()).sum();
        assert_eq!(extra, self.extra_bytes, "the memory of what few sessions have");
        assert!(self.closings.is_empty(), "connections are closed in the turn that decides it");
        self.departed.check_invariants();
    }
}

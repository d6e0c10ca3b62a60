//! The invariants of a shard's connections between turns.

use std::collections::HashSet;

use super::Connections;
use super::stage::Stage;
use crate::driver::Token;

impl Connections {
    /// Checks the invariants in the contract of [`Connections`], in time linear in the number of
    /// connections.
    ///
    /// # Panics
    ///
    /// When an invariant is violated, which is a bug.
    pub(in crate::shard) fn check_invariants(&self) {
        let (mut handshakes, mut open, mut parked) = (0, 0, 0);
        let (mut rejected, mut rejected_handshakes) = (0, 0);
        let (mut queued_bytes, mut partial_bytes, mut held_bytes) = (0, 0, 0);
        let throttled: HashSet<Token> = self.throttled.iter().copied().collect();
        let mut dirty = 0;
        for (at, slot) in &self.slots {
            let index = at as u32;
            slot.check_invariants();
            assert!(index < self.slots_high);
            handshakes += u64::from(slot.stage().is_handshake());
            open += u64::from(slot.stage().is_websocket());
            parked += u64::from(slot.receiving().is_parked());
            rejected += u32::from(slot.is_rejected());
            let is_handshake = slot.stage().is_handshake();
            rejected_handshakes += u32::from(slot.is_rejected() && is_handshake);
            queued_bytes += slot.queued_bytes() as u64;
            let partial = self.partial_bytes(index);
            partial_bytes += partial as u64;
            assert_eq!(self.partials.bytes_of(index), partial, "partial memory is counted");
            let held = self.held.len(index);
            held_bytes += held;
            assert!(held == 0 || slot.receiving().is_unfinished(), "held input is unfinished");
            dirty += usize::from(slot.is_dirty());
            self.check_output(index);
            let is_listed = throttled.contains(&self.token(index));
            assert!(
                !slot.receiving().is_throttled() || is_listed,
                "throttled connections are listed"
            );
            // A sending connection is checked again when the send has completed, and throttled ones
            // resume together when all outboxes have drained far enough.
            let can_continue = slot.receiving().is_unfinished()
                && self.is_ready(index)
                && !slot.is_sending()
                && !slot.is_dirty();
            let is_listed = slot.receiving().is_queued() || slot.receiving().is_throttled();
            assert!(!can_continue || is_listed, "a connection that can continue is queued");
        }
        let is_marked = |index: &u32| self.slot(*index).is_dirty();
        assert!(self.dirty.iter().all(is_marked), "connections queued for the flush are marked");
        assert_eq!(self.dirty.len(), dirty, "marked connections are queued once");
        assert_eq!((self.gauges.handshakes, self.gauges.open), (handshakes, open));
        assert_eq!(self.gauges.parked, parked);
        assert_eq!((self.rejected, self.rejected_handshakes), (rejected, rejected_handshakes));
        assert_eq!(self.pools.queued_bytes(), queued_bytes, "the sum over all outboxes");
        assert_eq!((self.partials.bytes(), self.held.bytes()), (partial_bytes, held_bytes));
    }

    /// Checks that output that can be sent is queued for the flush.
    fn check_output(&self, index: u32) {
        let slot = self.slot(index);
        let has_output = slot.outbox().is_some() || slot.is_owing();
        let may_leave = has_output
            && !slot.is_sending()
            && !slot.is_lending()
            && !matches!(slot.stage(), Stage::Ending);
        assert!(!may_leave || slot.is_dirty(), "output is queued for the flush");
        assert!(
            !slot.readiness().has_backlog() || self.is_open(index),
            "only sessions have backlogs"
        );
    }
}

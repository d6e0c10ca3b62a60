//! The seats of a channel that has a limited number of them.
//!
//! A client that resumes while its old connection still lives takes over that connection's seat, so
//! that it is never rejected because of itself. The old connection is a member without a seat until
//! it leaves.

use std::collections::{HashMap, HashSet};

use super::connection_id::ConnectionId;

/// Memory of an entry (bytes).
const ENTRY_BYTES: usize = 2 * size_of::<ConnectionId>() + size_of::<usize>();

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// Members with a seat, and whose seat that was.
    held: HashMap<ConnectionId, Option<ConnectionId>>,
    /// Members whose seats were taken over.
    without: HashSet<ConnectionId>,
}

impl Seats {
    /// Seats a member, which may continue another one. Returns false if all `seats_max` are taken
    /// among `members`.
    pub(super) fn take_seat(
        &mut self,
        id: ConnectionId,
        continues: Option<ConnectionId>,
        members: u32,
        seats_max: u32,
    ) -> bool {
        let from = continues.filter(|old| self.held.remove(old).is_some());
        let taken = members.saturating_sub(self.without.len() as u32);
        if from.is_none() && taken >= seats_max {
            return false;
        }
        self.without.extend(from);
        self.held.insert(id, from);
        true
    }

    /// A member has left. If the one whose seat it had is still there, that one has it again.
    pub(super) fn leave_seat(&mut self, id: ConnectionId) {
        if self.without.remove(&id) {
            return;
        }
        if let Some(Some(old)) = self.held.remove(&id)
            && self.without.remove(&old)
        {
            self.held.insert(old, None);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.without.is_empty()
    }

    /// Memory (bytes).
    pub(super) fn bytes(&self) -> usize {
        (self.held.len() + self.without.len()) * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(serial: u32) -> ConnectionId {
        ConnectionId { node: 1, shard: 0, session: 0, serial }
    }

    #[test]
    fn a_seat_is_taken_over_once() {
        let mut seats = Seats::default();
        assert!(seats.take_seat(id(1), None, 0, 1));
        assert!(!seats.take_seat(id(2), None, 1, 1));
        assert!(!seats.take_seat(id(2), Some(id(9)), 1, 1), "there is no such seat");
        assert!(seats.take_seat(id(3), Some(id(1)), 1, 1));
        assert!(!seats.take_seat(id(4), Some(id(1)), 2, 1), "it was taken over");
        assert!(seats.take_seat(id(5), Some(id(3)), 2, 1), "a chain of cut lines");
        seats.leave_seat(id(1));
        seats.leave_seat(id(3));
        assert!(!seats.take_seat(id(6), None, 1, 1));
        seats.leave_seat(id(5));
        assert!(seats.is_empty() && seats.bytes() == 0);
    }

    proptest! {
        /// However members come, continue each other and go: when no one is being replaced, there
        /// are no more than there are seats.
        #[test]
        fn there_are_never_more_members_than_seats(
            steps in proptest::collection::vec((any::<bool>(), any::<usize>()), 0..200),
        ) {
            let mut seats = Seats::default();
            let (mut members, mut ever) = (Vec::new(), vec![id(0)]);
            for (n, (comes, at)) in steps.into_iter().enumerate() {
                if comes {
                    let new = id(n as u32 + 1);
                    let old = ever[at % ever.len()];
                    let count = members.len() as u32;
                    if seats.take_seat(new, Some(old), count, 3) {
                        members.push(new);
                    } else {
                        prop_assert!(count >= 3 && seats.held.len() == 3);
                    }
                    ever.push(new);
                } else if !members.is_empty() {
                    seats.leave_seat(members.swap_remove(at % members.len()));
                }
                prop_assert!(seats.held.len() <= 3);
                prop_assert_eq!(seats.held.len() + seats.without.len(), members.len());
            }
            members.drain(..).for_each(|one| seats.leave_seat(one));
            prop_assert!(seats.is_empty());
        }
    }
}

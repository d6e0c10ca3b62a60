//! Pending calls of backends that subscribe connections.

use slab::Slab;

use crate::session::hub::Outcome;
use crate::shard::mail::{CountReply, Reached};

/// Pending calls. Each is answered once all of its connections have an outcome.
#[derive(Default)]
pub(super) struct Calls(Slab<Call>);

struct Call {
    /// The number of pending outcomes, plus one while connections are still being added.
    waiting: u32,
    reached: Reached,
    reply: Option<CountReply>,
}

impl Calls {
    /// Begins a call; connections are added to it until [`Self::finish_asking`].
    pub(super) fn begin_call(&mut self, reply: Option<CountReply>) -> u32 {
        self.0.insert(Call { waiting: 1, reached: Reached::default(), reply }) as u32
    }

    /// Adds a connection, whose outcome is recorded later.
    pub(super) fn add_asked(&mut self, call: u32) {
        let own = &mut self.0[call as usize];
        debug_assert!(own.waiting > 0, "connections are added until `finish_asking`");
        own.waiting += 1;
    }

    /// Ends adding connections, which counts as one outcome: without it, a call whose connections
    /// have their outcomes at once would end before all of them are added.
    pub(super) fn finish_asking(&mut self, call: u32) {
        self.record_outcome(call, Outcome::Ended);
    }

    /// Records the outcome of one connection; the last one sends the reply.
    pub(super) fn record_outcome(&mut self, call: u32, outcome: Outcome) {
        let own = &mut self.0[call as usize];
        assert!(own.waiting > 0, "each connection has one outcome");
        own.waiting -= 1;
        match outcome {
            Outcome::Subscribed => own.reached.count += 1,
            Outcome::Refused(refused) => own.reached.refused = Some(refused),
            Outcome::Ended => {}
        }
        if own.waiting > 0 {
            return;
        }
        let Call { reached, reply, .. } = self.0.remove(call as usize);
        if let Some(reply) = reply {
            // The requester may be gone: ignore the error.
            let _ = reply.send(reached);
        }
    }
}

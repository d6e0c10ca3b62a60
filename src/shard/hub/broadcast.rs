//! Actions on all connections of the shard, and notices of the state of the cluster's engine.

use super::Hub;
use crate::hub::Event;
use crate::shard::connections::Connections;
use crate::shard::mail::{Act, CountReply, Reached};

/// An action on all connections of the shard, some in each turn.
pub(super) struct Broadcast {
    pub(super) act: Act,
    pub(super) next_key: usize,
    pub(super) reached: u64,
    pub(super) reply: Option<CountReply>,
}

impl Hub {
    /// Continues the oldest action on all connections, by a turn's share.
    pub(super) fn continue_broadcast(&mut self, connections: &mut Connections) {
        let budget = connections.config().engine.turn_fanout_max as usize;
        let Some(mut one) = self.broadcasts.pop_front() else { return };
        let end = self.sessions.keys_end().min(one.next_key + budget);
        for key in one.next_key..end {
            let Some(index) = self.sessions.slot_of(key as u32) else { continue };
            one.reached += u64::from(self.act_on(connections, index, &one.act));
        }
        one.next_key = end;
        if end < self.sessions.keys_end() {
            return self.broadcasts.push_front(one);
        }
        let Broadcast { reached, reply, .. } = one;
        if let Some(reply) = reply {
            // The requester may be gone: ignore the error.
            let _ = reply.send(Reached { count: reached, refused: None });
        }
    }

    /// Sends a connection the state of the engine, unless it has it; returns whether it was sent.
    pub(super) fn send_engine_notice(&mut self, connections: &mut Connections, index: u32) -> bool {
        let state = self.engine;
        let Some(entry) = self.entry_mut(index).filter(|entry| entry.engine != state) else {
            return false;
        };
        entry.engine = state;
        self.queue_event(connections, index, &Event::Engine(state))
    }
}

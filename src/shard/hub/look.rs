//! One connection in full, for an operator: what the shard knows, and what TCP does, which takes
//! an operation of the driver.

use std::collections::HashMap;

use super::mail::{ConnectionInfo, LookReply};
use crate::driver::{Driver, TcpInfo, Token};
use crate::hub::ConnectionId;
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::slot::Teardown;

/// A connection that was described, for whom.
pub(in crate::shard) struct Look {
    index: u32,
    described: (Box<ConnectionInfo>, LookReply),
}

/// Those whose answer is on its way.
pub(in crate::shard) type Looks = HashMap<Token, Vec<(Box<ConnectionInfo>, LookReply)>>;

impl Core {
    pub(super) fn look(&mut self, id: ConnectionId, reply: LookReply) {
        let index = self.slot_of(id);
        let found = index.and_then(|index| Some((index, self.describe(index)?)));
        match (found, &mut self.hub) {
            (Some((index, info)), Some(hub)) => {
                hub.looks.push(Look { index, described: (Box::new(info), reply) });
            }
            // Nobody waits any more if this fails.
            _ => drop(reply.send(None)),
        }
    }
}

impl<D: Driver> Shard<D> {
    /// Asks TCP, once for all who look at the connection meanwhile.
    pub(in crate::shard) fn measure(&mut self, look: Look) {
        let Look { index, described } = look;
        // It may have ended within the turn; the answer is of before.
        let Some(slot) =
            self.core.slots.get(index as usize).filter(|slot| slot.teardown != Teardown::Socket)
        else {
            return drop(described.1.send(Some(described.0)));
        };
        let (socket, token) = (slot.socket, self.core.token(index));
        let waiting = self.looks.entry(token).or_default();
        waiting.push(described);
        if waiting.len() == 1 {
            self.core.slots[index as usize].in_flight += 1;
            self.driver.measure(socket, token);
        }
    }

    pub(in crate::shard) fn looked(&mut self, token: Token, result: Result<TcpInfo, i32>) {
        for (mut info, reply) in self.looks.remove(&token).into_iter().flatten() {
            match result {
                Ok(tcp) => info.tcp = Some(tcp),
                Err(errno) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    info.tcp_error = Some(format!("TCP does not tell: {error}"));
                }
            }
            // Nobody waits any more if this fails.
            drop(reply.send(Some(info)));
        }
    }
}

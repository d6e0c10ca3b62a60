//! The state of a connection as plain data.
//!
//! It allows another process or driver to take over connections without closing them. Times are
//! serialized as ages; indexes into this shard's tables are omitted. A connection that cannot be
//! serialized now, or ever, returns the reason: a takeover waits, or closes it with 1012. The
//! socket, operations armed on it, and the connection's counts in admission are not part of the
//! state: the new owner makes them again.
//!
//! `tests/simulation` serializes and restores connections at random in all its scenarios, which
//! must not change anything.

use serde::{Deserialize, Serialize};

use super::Shard;
pub use super::connections::NotSerializable;
use super::connections::SlotState;
use super::hub::HubState;
use crate::driver::Driver;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnectionState {
    slot: SlotState,
    /// `Some` if the connection has a session of the hub.
    hub: Option<HubState>,
}

impl<D: Driver> Shard<D> {
    /// Serializes a connection, and restores it from the state that `through` returns: the way that
    /// it would take to another process.
    ///
    /// # Errors
    /// With the reason, if it cannot be serialized now.
    pub fn serialize_and_restore(
        &mut self,
        index: u32,
        through: impl FnOnce(ConnectionState) -> ConnectionState,
    ) -> Result<(), NotSerializable> {
        let state = through(self.serialize(index)?);
        self.connections.restore(index, &state.slot);
        if let (Some(hub), Some(state)) = (&mut self.layers.hub, &state.hub) {
            let is_restored = hub.restore(&mut self.connections, index, state);
            assert!(is_restored, "what was serialized can be restored");
        }
        debug_assert_eq!(
            self.serialize(index).as_ref(),
            Ok(&state),
            "restoring a state and serializing it again is identity"
        );
        Ok(())
    }

    fn serialize(&self, index: u32) -> Result<ConnectionState, NotSerializable> {
        if self.layers.gateway.as_ref().is_some_and(|gateway| gateway.has_session(index)) {
            return Err(NotSerializable::Linked);
        }
        let slot = self.connections.serialize(index)?;
        let now_ns = self.connections.now_ns();
        let hub = match &self.layers.hub {
            Some(hub) => hub.serialize(index, now_ns)?,
            None => None,
        };
        Ok(ConnectionState { slot, hub })
    }
}

//! A connection as plain data: all that it is, named in one place.
//!
//! It is for taking connections over without closing them, by a new process or another driver:
//! times are serialized as ages, places in this shard's tables not at all. What cannot be
//! serialized now, or ever, says why; a takeover waits for it, or closes with 1012. What the kernel
//! holds (the socket, what is armed on it) and how a connection is counted by admission is the
//! shard's, and made again.
//!
//! `tests/simulation` serializes and restores connections in the middle of all its scenarios, and
//! nothing may come of it.

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
    /// Of a connection that has a session of the hub.
    hub: Option<HubState>,
}

impl<D: Driver> Shard<D> {
    /// Serializes a connection, and restores it from what `through` makes of that: the way it would
    /// go to another process.
    ///
    /// # Errors
    /// Why it cannot be serialized now.
    pub fn serialize_and_restore(
        &mut self,
        index: u32,
        through: impl FnOnce(ConnectionState) -> ConnectionState,
    ) -> Result<(), NotSerializable> {
        let state = through(self.serialize(index)?);
        self.connections.restore(index, &state.slot);
        if let (Some(hub), Some(state)) = (&mut self.hub, &state.hub) {
            let is_restored = hub.restore(&mut self.connections, index, state);
            assert!(is_restored, "what was serialized can be restored");
        }
        debug_assert_eq!(
            self.serialize(index).as_ref(),
            Ok(&state),
            "what was serialized is what it is"
        );
        Ok(())
    }

    fn serialize(&self, index: u32) -> Result<ConnectionState, NotSerializable> {
        let slot = self.connections.serialize(index)?;
        let now_ns = self.connections.now_ns();
        let hub = match &self.hub {
            Some(hub) => hub.serialize(index, now_ns)?,
            None => None,
        };
        Ok(ConnectionState { slot, hub })
    }
}

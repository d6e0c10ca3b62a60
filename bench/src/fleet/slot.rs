//! What a connection costs the generator: kept small, since a run may hold a million of them.

use crate::client::{Connection, Outgoing};
use crate::fleet::Ending;

/// One place for a connection; it is used again after the connection's end.
pub(super) struct Slot {
    pub(super) connection: Connection,
    pub(super) outgoing: Option<Outgoing>,
    /// When the stage was entered.
    pub(super) since_ns: u64,
    pub(super) ending: Option<Box<Ending>>,
    pub(super) outgoing_sent: u32,
    pub(super) generation: u32,
    /// Operations whose last completion is still to come.
    pub(super) in_flight: u32,
    pub(super) receiving: bool,
    /// Nothing is read but what the load asks for.
    pub(super) metered: bool,
    /// Nothing can be sent any more, while something may still be read.
    pub(super) cut: bool,
}

/// A million connections fit into 160 MB on this side; a load may add a few bytes to each.
const _: () = assert!(size_of::<Slot>() <= 152);

impl Default for Slot {
    fn default() -> Self {
        Self {
            connection: Connection::free(),
            outgoing: None,
            since_ns: 0,
            ending: None,
            outgoing_sent: 0,
            generation: 0,
            in_flight: 0,
            receiving: false,
            metered: false,
            cut: false,
        }
    }
}

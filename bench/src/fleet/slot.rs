//! A slot's memory in the generator: kept small, because a run may hold a million of them.

use crate::client::{Connection, Outgoing};
use crate::fleet::Ending;
use crate::tls::Tls;

/// The place of one connection; reused after the connection's end.
pub(super) struct Slot {
    pub(super) connection: Connection,
    pub(super) outgoing: Option<Outgoing>,
    /// Over `wss://`, from the connect on.
    pub(super) tls: Option<Box<Tls>>,
    /// When the stage was entered.
    pub(super) since_ns: u64,
    pub(super) ending: Option<Box<Ending>>,
    pub(super) outgoing_sent: u32,
    pub(super) generation: u32,
    /// Operations whose last completion is pending.
    pub(super) in_flight: u32,
    pub(super) receiving: bool,
    /// Only bytes that the load requests are read.
    pub(super) metered: bool,
    /// Sending is over; bytes may still be received.
    pub(super) cut: bool,
}

/// A million connections fit into 160 MB on this side; a load may add a few bytes per connection.
const _: () = assert!(size_of::<Slot>() <= 160);

impl Default for Slot {
    fn default() -> Self {
        Self {
            connection: Connection::free(),
            outgoing: None,
            tls: None,
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

//! What runs on an open connection. A session sees messages and answers through an [`Outlet`]; it
//! knows nothing of sockets, buffers or turns.

mod echo;
pub mod hub;
pub mod protocol;
mod seawall;

pub use seawall::SeawallV1;

use crate::proto::ws::{DataKind, Payload};

/// Where a session's words go.
pub trait Outlet {
    /// Queues a message as an answer to the one being looked at.
    fn reply(&mut self, kind: DataKind, payload: Payload<'_>);
}

/// A session, chosen by the connection's route. It costs nothing while the connection is idle.
#[derive(Clone, Copy, Debug)]
pub enum Session {
    /// Each message comes back with its opcode.
    Echo,
}

impl Session {
    /// Looks at one message.
    pub fn message(self, kind: DataKind, payload: Payload<'_>, outlet: &mut impl Outlet) {
        match self {
            Session::Echo => echo::message(kind, payload, outlet),
        }
    }
}

//! What runs on an open connection. A session sees messages and answers through an [`Outlet`]; it
//! knows nothing of sockets, buffers or turns.

pub mod echo;
pub mod hub;
pub mod protocol;
mod seawall;

pub use seawall::{SeawallV1, fuzz};

use crate::proto::ws::{DataKind, Payload};

/// Queues replies to the message that is being processed.
pub trait Outlet {
    /// Queues a reply.
    fn reply(&mut self, kind: DataKind, payload: Payload<'_>);
}

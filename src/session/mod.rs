//! The protocols that run on an open connection. A session reads messages and queues replies
//! through an [`Outlet`]; it has no access to sockets, buffers or turns.

pub mod echo;
pub mod gateway;
pub mod hub;
pub mod protocol;
pub mod pusher;
mod seawall;

pub use seawall::{SeawallV1, fuzz};

use crate::proto::ws::{DataKind, Payload};

/// Queues replies to the message that is being processed.
pub trait Outlet {
    /// Queues a reply.
    fn reply(&mut self, kind: DataKind, payload: Payload<'_>);
}

//! The echo: each message comes back with its opcode. No greeting, no framing of its own, for load
//! tests and for checking a path through proxies.

use super::Outlet;
use crate::proto::ws::{DataKind, Payload};

/// Answers a message.
pub fn reply(kind: DataKind, payload: Payload<'_>, outlet: &mut impl Outlet) {
    outlet.reply(kind, payload);
}

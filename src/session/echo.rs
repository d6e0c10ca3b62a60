//! The echo protocol: sends each message back with its opcode. It has no greeting and no framing of
//! its own; it serves load tests and checks of a path through proxies.

use super::Outlet;
use crate::proto::ws::{DataKind, Payload};

/// Sends a message back.
pub fn reply(kind: DataKind, payload: Payload<'_>, outlet: &mut impl Outlet) {
    outlet.reply(kind, payload);
}

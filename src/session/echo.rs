//! The echo: no greeting, no framing of its own, for load tests and for checking a path through
//! proxies.

use super::Outlet;
use crate::proto::ws::{DataKind, Payload};

pub(super) fn message(kind: DataKind, payload: Payload<'_>, outlet: &mut impl Outlet) {
    outlet.reply(kind, payload);
}

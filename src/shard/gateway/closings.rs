//! The ends of connections that the gateway decides on. They are carried out above it, because the
//! hub takes part in the end of a member.

use std::borrow::Cow;

use super::Gateway;
use crate::proto::ws::CloseCode;
use crate::shard::connections::{Connections, Goodbye};
use crate::shard::layers::Layers;

/// A connection to be closed.
#[derive(Debug)]
pub(super) struct Closing {
    index: u32,
    how: ClosingKind,
}

#[derive(Debug)]
enum ClosingKind {
    With {
        code: CloseCode,
        reason: Cow<'static, str>,
        /// The session is over for the application already.
        is_by_application: bool,
    },
    SlowConsumer,
}

impl Gateway {
    /// Has a connection closed.
    pub(in crate::shard) fn close_later(
        &mut self,
        index: u32,
        code: CloseCode,
        reason: impl Into<Cow<'static, str>>,
    ) {
        let (reason, is_by_application) = (reason.into(), false);
        let how = ClosingKind::With { code, reason, is_by_application };
        self.closings.push(Closing { index, how });
    }

    /// Has a connection closed whose session is over for the application already.
    pub(super) fn close_for_application(&mut self, index: u32, code: CloseCode, reason: String) {
        let (reason, is_by_application) = (reason.into(), true);
        let how = ClosingKind::With { code, reason, is_by_application };
        self.closings.push(Closing { index, how });
    }

    /// Has the connection of a slow consumer closed.
    pub(super) fn close_slow(&mut self, index: u32) {
        self.closings.push(Closing { index, how: ClosingKind::SlowConsumer });
    }
}

impl Layers {
    /// Closes the connections that the gateway wants closed. Must follow each call of it.
    pub(in crate::shard) fn run_closings(&mut self, connections: &mut Connections) {
        loop {
            let Some(gateway) = &mut self.gateway else { return };
            if gateway.closings.is_empty() {
                return;
            }
            for Closing { index, how } in std::mem::take(&mut gateway.closings) {
                self.run_closing(connections, index, &how);
            }
        }
    }

    fn run_closing(&mut self, connections: &mut Connections, index: u32, how: &ClosingKind) {
        let Some(gateway) = self.gateway.as_mut().filter(|own| own.has_session(index)) else {
            return;
        };
        gateway.touched.push(index);
        match how {
            ClosingKind::With { code, reason, is_by_application } => {
                gateway.is_closed_by_application = *is_by_application;
                let goodbye = Goodbye { code: *code, reason, retry_after_ms: 0 };
                connections.close(self, index, goodbye);
                if let Some(gateway) = &mut self.gateway {
                    gateway.is_closed_by_application = false;
                }
            }
            ClosingKind::SlowConsumer => connections.close_slow_consumer(self, index),
        }
    }
}

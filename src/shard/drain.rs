//! The drain: closes connections, spread over a window. Listeners stay open and answer 503, because
//! closing a listener resets the connections in its queue.
//!
//! A connection in the middle of a message may finish it until half of the time between the window
//! and the deadline has passed; the other half is for the closing handshakes.

use super::Shard;
use super::connections::{Goodbye, ticks};
use crate::driver::Driver;
use crate::proto::http;
use crate::proto::ws::CloseCode;
use crate::tls::HandshakeFailure;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    began_tick: u32,
    window_ticks: u32,
    deadline_tick: u32,
    /// Connections in the middle of a message are not closed before this tick.
    patience_tick: u32,
    /// The slots of these connections. If another connection has reused such a slot, that one is
    /// drained.
    unfinished: Vec<u32>,
    /// Slots below this are drained, or in `unfinished`.
    slots_begun: u32,
    /// The number of slots that existed when the drain began.
    slots: u32,
}

impl<D: Driver> Shard<D> {
    /// Begins the drain, unless it has begun.
    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        let connections = &mut self.connections;
        let options = &connections.config().drain;
        let few = connections.open_count() <= u64::from(options.at_once_connections);
        let window_ms = if few { 0 } else { options.window_ms };
        debug_assert!(options.window_ms <= options.deadline_ms, "validated");
        let tick = connections.tick();
        self.drain = Some(Drain {
            began_tick: tick,
            window_ticks: ticks(window_ms),
            deadline_tick: tick + ticks(options.deadline_ms),
            patience_tick: tick + ticks(window_ms.midpoint(options.deadline_ms)),
            unfinished: Vec::new(),
            slots_begun: 0,
            slots: connections.slots_high(),
        });
        connections.begin_draining(few);
        self.continue_drain();
    }

    /// Returns the tick at which the drain continues.
    pub(super) fn drain_tick(&self) -> Option<u32> {
        (self.drain.is_some() && !self.stopped).then_some(self.connections.tick() + 1)
    }

    /// Closes as many connections as the elapsed share of the window requires.
    pub(super) fn continue_drain(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let tick = self.connections.tick();
        if self.stopped {
            return;
        }
        if tick >= drain.deadline_tick {
            return self.close_all();
        }
        let passed = tick - drain.began_tick;
        let due = if passed >= drain.window_ticks {
            drain.slots
        } else {
            (u64::from(drain.slots) * u64::from(passed) / u64::from(drain.window_ticks)) as u32
        };
        let from = drain.slots_begun;
        drain.slots_begun = due.max(from);
        let waited = std::mem::take(&mut drain.unfinished);
        let patient = tick < drain.patience_tick;
        for index in waited.into_iter().chain(from..due) {
            if patient && self.connections.has_unfinished_message(index) {
                self.drain.as_mut().expect("it was just looked at").unfinished.push(index);
            } else if self.connections.contains(index) {
                let goodbye = Goodbye {
                    code: CloseCode::GOING_AWAY,
                    reason: "server is going away",
                    retry_after_ms: self.connections.retry_after_drain_ms(),
                };
                self.connections.close(&mut self.layers, index, goodbye);
                self.connections.reject_asking(&mut self.layers, index, http::DRAINING);
                // A handshake has a shorter deadline during a drain.
                self.connections.set_deadline(index);
                self.connections.reconcile(&mut self.driver, index);
            }
        }
        // While another shard has open connections, this one keeps its listeners: the kernel would
        // reset this shard's share of new clients instead of having them answered with 503.
        if self.connections.is_empty() && self.connections.directory().is_quiet() {
            self.close_all();
        }
    }

    /// Drops the remaining connections, and closes the listeners.
    pub(super) fn close_all(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            for listener in 0..self.owed.len() {
                self.driver.stop_listening(listener as u16);
            }
        }
        self.connections.begin_draining(false);
        for index in self.connections.indices() {
            self.connections.note_tls_failure(index, HandshakeFailure::Aborted);
            self.connections.abort(&mut self.layers, index, CloseCode::GOING_AWAY);
            self.connections.reconcile(&mut self.driver, index);
        }
    }

    /// Returns whether nothing remains to be done or completed.
    pub(super) fn is_finished(&self) -> bool {
        self.stopped
            && self.connections.is_empty()
            && self.passing.is_empty()
            && !self.driver.is_listening()
    }
}

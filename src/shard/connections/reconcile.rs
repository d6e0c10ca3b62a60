//! Reconciles a connection's desired state with its operations in flight.
//!
//! [`Connections::reconcile`] must follow everything that may have changed a connection. It
//! compares the state of its slot with the operations in flight and requests the difference, so
//! that no transition has to remember which operations it must start or cancel.

use super::deferred::DeferredTask;
use super::receiving::ReceiveStep;
use super::stage::Stage;
use super::{Connections, Sessions};
use crate::driver::{Driver, Received, TcpInfo, Token};

impl Connections {
    /// Requests the operations that the connection's state requires. See the module.
    #[inline]
    pub(in crate::shard) fn reconcile(&mut self, driver: &mut impl Driver, index: u32) {
        if !self.slots[index as usize].is_open() && self.reconcile_end(driver, index) {
            return;
        }
        let slot = &mut self.slots[index as usize];
        let has_output = match slot.outbox() {
            Some(outbox) => !outbox.is_sending(),
            None => slot.readiness().has_backlog() || !slot.has_sent_all(),
        };
        if has_output && slot.mark_dirty() {
            self.dirty.push(index);
        }
        if slot.is_steady() {
            return;
        }
        let stage = slot.receive_stage();
        let step = slot.receiving_mut().next_step(stage);
        if step != ReceiveStep::Nothing {
            self.start_operation(driver, index, step);
        }
    }

    /// Reconciles a connection that is ending; returns whether nothing else is to be done.
    fn reconcile_end(&mut self, driver: &mut impl Driver, index: u32) -> bool {
        let slot = self.slot(index);
        if slot.has_sent_all() {
            match slot.stage() {
                Stage::Finishing => self.end_connection(index),
                Stage::Lingering { .. } if slot.receiving().has_ended() => {
                    self.end_connection(index);
                }
                _ => {}
            }
        }
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        let socket = slot.socket();
        if matches!(slot.stage(), Stage::Ending) {
            if !slot.is_in_flight() {
                if slot.begin_close() {
                    driver.close(socket, token);
                }
            } else if slot.is_cancellable() && slot.receiving_mut().request_cancel() {
                // Whatever has completed in the meantime is checked again by the next
                // reconciliation.
                slot.begin_operation();
                driver.cancel_all(socket, token);
            }
            return true;
        }
        if matches!(slot.stage(), Stage::Lingering { .. })
            && slot.has_sent_all()
            && slot.begin_shutdown()
        {
            slot.begin_operation();
            // All output is sent; now the time for the peer's FIN begins.
            slot.set_stage_tick(self.tick);
            driver.shutdown(socket, token);
            self.set_deadline(index);
        }
        false
    }

    /// Starts the operation that [`Receiving::next_step`](super::receiving::Receiving::next_step)
    /// has decided on and marked as armed.
    fn start_operation(&mut self, driver: &mut impl Driver, index: u32, step: ReceiveStep) {
        if step == ReceiveStep::AwaitTurn {
            return self.queue_bulk_receive(index);
        }
        let token = self.token(index);
        let slot = self.slot_mut(index);
        let socket = slot.socket();
        slot.begin_operation();
        match step {
            ReceiveStep::Cancel => driver.cancel_receive(socket, token),
            ReceiveStep::Once(input) => driver.receive_once(socket, token, input),
            ReceiveStep::Watch => driver.watch(socket, token),
            ReceiveStep::Stream => driver.receive(socket, token),
            ReceiveStep::Nothing | ReceiveStep::AwaitTurn => unreachable!("dealt with above"),
        }
    }

    /// Counts the end of an operation; returns the connection's slot.
    #[inline]
    pub(super) fn complete_operation(&mut self, token: Token) -> Option<u32> {
        let index = self.find_or_count_stale(token)?;
        self.slot_mut(index).end_operation();
        Some(index)
    }

    /// Handles a completion of a receive: input, or its end; `is_armed`: the receive continues.
    pub(in crate::shard) fn complete_receive(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        token: Token,
        is_armed: bool,
        what: Received,
    ) {
        let found =
            if is_armed { self.find_or_count_stale(token) } else { self.complete_operation(token) };
        let Some(index) = found else {
            if let Received::Data(lease) = what {
                driver.release(lease);
            }
            return;
        };
        if !is_armed {
            self.slot_mut(index).receiving_mut().complete_armed();
        }
        match what {
            Received::Data(lease) => {
                let is_woken = self.wake_parked(index);
                let may_lend = driver.may_lend();
                match self.receive_wire_bytes(sessions, index, driver.bytes(&lease), may_lend) {
                    Some(reply) => self.send_in_place(driver, index, lease, reply),
                    None => driver.release(lease),
                }
                // Every other stage began with a timer of its own.
                if is_woken && self.is_open(index) {
                    self.set_deadline(index);
                }
            }
            Received::Readable { ended } => self.defer_wake(index, ended),
            Received::End => self.note_end(sessions, index, DeferredTask::Finish),
            Received::Starved => {
                self.counters.receive_starvations += 1;
                self.slot_mut(index).receiving_mut().mark_starved();
                self.starved.push(token);
            }
            Received::Cancelled => {}
            Received::Failed(_) => self.note_end(sessions, index, DeferredTask::Drop),
        }
        self.reconcile(driver, index);
    }

    /// Handles the completion of a cancellation.
    pub(in crate::shard) fn complete_cancel(
        &mut self,
        driver: &mut impl Driver,
        token: Token,
        found: bool,
    ) {
        if let Some(index) = self.complete_operation(token) {
            self.slot_mut(index).receiving_mut().complete_cancel(found);
            self.reconcile(driver, index);
        }
    }

    /// Handles the completed shutdown of the writing side.
    pub(in crate::shard) fn complete_shutdown(&mut self, driver: &mut impl Driver, token: Token) {
        if let Some(index) = self.complete_operation(token) {
            self.reconcile(driver, index);
        }
    }

    /// Handles the completed close of the socket: frees the slot. Returns false if there is none.
    pub(in crate::shard) fn complete_close(&mut self, token: Token) -> bool {
        let found = self.complete_operation(token);
        if let Some(index) = found {
            self.remove(index);
        }
        found.is_some()
    }

    /// Handles the state of TCP. Returns whether the connection still exists.
    pub(in crate::shard) fn complete_measure(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        token: Token,
        result: Result<TcpInfo, i32>,
    ) -> bool {
        let Some(index) = self.complete_operation(token) else { return false };
        self.conclude_liveness(sessions, index, result);
        self.reconcile(driver, index);
        true
    }
}

//! Dispatches each completion to the code that handles it.

use super::{ORPHAN, Shard};
use crate::driver::{Completion, Driver};

impl<D: Driver> Shard<D> {
    #[inline]
    pub(super) fn dispatch(&mut self, completion: Completion) {
        let Self { driver, connections, layers, .. } = self;
        match completion {
            Completion::Received { token, armed, what } => {
                connections.complete_receive(driver, layers, token, armed, what);
            }
            Completion::Sent { batch, result } => {
                connections.complete_send(driver, layers, batch, result);
            }
            Completion::LoanSent { loan, result } => {
                connections.complete_loan(driver, layers, loan, result);
            }
            Completion::Accepted { listener, socket, peer } => {
                self.take_accepted(listener, socket, peer);
            }
            Completion::AcceptFailed { listener, errno } => self.accept_failed(listener, errno),
            Completion::CancelRan { token, found } => {
                connections.complete_cancel(driver, token, found);
            }
            Completion::ShutDown { token } => connections.complete_shutdown(driver, token),
            Completion::Closed { token } => {
                if token != ORPHAN && connections.complete_close(token) {
                    self.owe_accepts();
                }
            }
            Completion::Arrived { key, socket } => self.take_handover(key, socket),
            Completion::Passed { token, result } => self.complete_handover(token, result),
            Completion::Measured { token, result } => {
                if connections.complete_measure(driver, layers, token, result) {
                    self.looks.complete_looks(token, result);
                }
            }
            // No operation of a shard makes these yet.
            Completion::Duplicated { .. } | Completion::Adopted { .. } => {
                connections.counters_mut().stale_completions += 1;
            }
            Completion::Doorbell => {}
        }
    }
}

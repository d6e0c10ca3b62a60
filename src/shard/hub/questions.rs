//! Passes questions of sessions to applications, and the outcomes to the sessions.

use super::Hub;
use crate::backend::hook_line::HookOrder;
use crate::driver::Token;
use crate::hooks::{FailureCause, HookOutcome};
use crate::session::hub::{Effects, SessionQuestion};
use crate::shard::connections::Connections;
use crate::shard::mail::HubMail;

/// When a client may repeat a request that was not passed on, because too many were.
const BUSY_RETRY_AFTER_MS: u32 = 1_000;

impl Hub {
    /// Passes on what a session asks. A question that cannot be passed on has its outcome by mail,
    /// as any other.
    pub(super) fn ask_questions(
        &mut self,
        connections: &Connections,
        index: u32,
        effects: &mut Effects,
    ) {
        for SessionQuestion { request, backend, question } in effects.questions.drain(..) {
            let ticket = connections.hook_ticket(index, request);
            let failure = |cause| HookOutcome::unasked(&question, cause, BUSY_RETRY_AFTER_MS);
            let unknown = failure(FailureCause::NoApplication);
            let busy = failure(FailureCause::Busy);
            let backend = backend.or(connections.route(index).application);
            let outcome = match connections.hooks().zip(backend) {
                None => Some(unknown),
                Some((hooks, backend)) => {
                    let order = HookOrder::Ask { backend, ticket, question };
                    (!hooks.send(order)).then_some(busy)
                }
            };
            if let Some(outcome) = outcome {
                self.post_here(HubMail::Decided { token: ticket.token, request, outcome });
            }
        }
    }

    /// Applies an outcome, unless the connection has closed.
    pub(super) fn take_outcome(
        &mut self,
        connections: &mut Connections,
        token: Token,
        request: u32,
        outcome: HookOutcome,
    ) {
        let Some(index) = connections.find(token).filter(|index| self.entry(*index).is_some())
        else {
            return connections.count_late_reply();
        };
        self.with_session(connections, index, |session, call| {
            session.take_outcome(call, request, outcome);
        });
        self.touched.push(index);
    }
}

/// Cancels the questions that a session no longer waits for.
pub(super) fn cancel_questions(connections: &Connections, index: u32, effects: &mut Effects) {
    for request in effects.cancelled.drain(..) {
        let Some(hooks) = connections.hooks() else { continue };
        let ticket = connections.hook_ticket(index, request);
        // Fails only when the process is ending.
        let _ = hooks.send(HookOrder::Cancel { ticket });
    }
}

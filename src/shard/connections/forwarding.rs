//! Requests that the control thread answers: those of the HTTP API of apps, which come to the same
//! address as the apps' clients.
//!
//! The stage `Forwarding` follows `Http`. It receives the body, whose length was announced, sends
//! the request to the control thread, and ends with the answer, after which the connection lingers.
//! The deadline of the handshake applies to all of that. What is received beyond the body is
//! discarded: each connection carries one request.

use std::net::IpAddr;

use super::stage::{ForwardingState, Stage};
use super::{Connections, Sessions};
use crate::driver::{Driver, Token};
use crate::proto::http::{self, ForwardTerms, Refusal};
use crate::proto::ws::CloseCode;
use crate::shard::forwarded::ForwardedRequest;

const BUSY: &str = "too many requests await an answer; retry later";
const NO_SERVICE: &str = "requests of apps are not answered while the server ends; retry later";
const LATE: &str = "the request, or its answer, was not complete within the handshake deadline; \
                    send the whole request at once";

impl Connections {
    /// Begins to receive the body of a request that the control thread answers.
    pub(super) fn begin_forwarding(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        client: Option<IpAddr>,
        (head, body, terms): (&[u8], &[u8], ForwardTerms),
    ) {
        let tick = self.tick;
        let forwarding = ForwardingState {
            head: head.into(),
            client,
            body: Vec::new(),
            body_bytes: terms.body_bytes,
            is_sent: false,
            discarded: 0,
        };
        self.slot_mut(index).enter_stage(Stage::Forwarding(Box::new(forwarding)), tick);
        self.set_deadline(index);
        if terms.expects_continue && body.is_empty() {
            self.queue_bytes(index, http::CONTINUE);
        }
        self.receive_body(sessions, index, body);
    }

    /// Receives bytes of the body; when it is complete, sends the request.
    pub(super) fn receive_body(&mut self, sessions: &mut impl Sessions, index: u32, bytes: &[u8]) {
        let token = self.token(index);
        let (shard, linger_bytes_max) = (self.id, self.config.limits.linger_bytes_max);
        let Stage::Forwarding(forwarding) = self.slot_mut(index).stage_mut() else { return };
        if forwarding.is_sent {
            forwarding.discarded += bytes.len() as u64;
            if forwarding.discarded > linger_bytes_max {
                self.abort(sessions, index, CloseCode::ABNORMAL);
            }
            return;
        }
        let missing = forwarding.body_bytes - forwarding.body.len();
        forwarding.body.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        if bytes.len() < missing {
            return;
        }
        forwarding.is_sent = true;
        let (head, body) =
            (std::mem::take(&mut forwarding.head), std::mem::take(&mut forwarding.body));
        let client = forwarding.client;
        let is_accepted = self.directory.requests().map(|requests| {
            let bytes = head.len() + body.len();
            requests.send_request(bytes, |room| ForwardedRequest {
                shard,
                token,
                client,
                head,
                body,
                room,
            })
        });
        match is_accepted {
            Some(true) => {}
            Some(false) => self.reject(sessions, index, Refusal::Unavailable, BUSY),
            None => self.reject(sessions, index, Refusal::Unavailable, NO_SERVICE),
        }
    }

    /// Sends the answer of the control thread, if the connection still awaits it.
    pub(in crate::shard) fn send_forwarded_answer(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        token: Token,
        answer: &[u8],
    ) {
        let Some(index) = self.find(token) else { return };
        if !matches!(self.slot(index).stage(), Stage::Forwarding(forwarding) if forwarding.is_sent)
        {
            return;
        }
        self.counters.answered += 1;
        self.queue_bytes(index, answer);
        self.leave(sessions, index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
        self.reconcile(driver, index);
    }

    /// Rejects a request whose body is received, because of a limit.
    pub(super) fn reject_forwarding(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        message: &str,
    ) {
        if matches!(self.slot(index).stage(), Stage::Forwarding(_)) {
            self.reject(sessions, index, Refusal::Unavailable, message);
        }
    }

    /// Rejects a request that was not complete, or not answered, in time.
    pub(super) fn give_up_forwarding(&mut self, sessions: &mut impl Sessions, index: u32) {
        self.counters.handshake_timeouts += 1;
        self.reject(sessions, index, Refusal::Timeout, LATE);
    }
}

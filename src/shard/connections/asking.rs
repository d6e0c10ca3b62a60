//! Upgrades that await the decision of an application ([`crate::shard::decisions`]).
//!
//! The stage `Asking` follows `Http` and precedes `Open`. The connection still counts as a
//! handshake, and ends with the handshake's deadline (503 with `Retry-After`, because the request
//! was valid and may succeed later). The stage ends exactly once: with the 101, with an error, or
//! without either if the peer disconnects first. A reply that arrives after that, or for a slot
//! that has been reused, is ignored and counted.
//!
//! Input that the client sends early is held, up to the size limit of a request's head; above it,
//! nothing more is received before the decision. The head itself goes to the application.
//!
//! The address is counted before the question is sent, so an address over its limit causes no
//! question. The route, and the user, whom the reply may name, are counted when the reply has
//! arrived.

use std::net::IpAddr;
use std::sync::Arc;

use super::closing::Rejected;
use super::handshake::Terms;
use super::journal::request_path;
use super::stage::{Asking, Stage};
use super::work::HANDSHAKE_EFFORT;
use super::{Connections, Sessions};
use crate::admission::Denied;
use crate::auth::Identity;
use crate::backend::hook_line::HookOrder;
use crate::driver::{Driver, Token};
use crate::hooks::{HookKind, HookTicket};
use crate::hub::ChannelName;
use crate::proto::http::{self, Availability, Decision, Refusal, Upgrade};
use crate::shard::decisions::ConnectReply;

/// `Retry-After` if the configuration or a right changed between the request and the decision.
const RELOADED_RETRY_AFTER_S: u32 = 1;

/// A request's head, and the bytes that arrived behind it.
#[derive(Clone, Copy)]
pub(super) struct RequestBytes<'r> {
    pub(super) head: &'r [u8],
    pub(super) early: &'r [u8],
}

impl Connections {
    /// Sends a question about an upgrade to the application, with the request's head; holds early
    /// input.
    pub(super) fn begin_asking(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        upgrade: Upgrade<'static>,
        client: Option<IpAddr>,
        request: RequestBytes<'_>,
    ) {
        let RequestBytes { head, early } = request;
        let route = upgrade.route;
        self.enter_asking(sessions, index, upgrade, head, early);
        if let Stage::Asking(asking) = self.slot_mut(index).stage_mut() {
            asking.is_open = true;
        }
        let ticket = self.hook_ticket(index, 0);
        let backend = self.config.route_options[route].application;
        let is_sent = self.directory.hooks().zip(backend).is_some_and(|(hooks, backend)| {
            let head = head.into();
            hooks.send(HookOrder::Connect { backend, ticket, head, address: client })
        });
        if !is_sent {
            self.close_question(index);
            self.reject_asking(sessions, index, "too many connections await a decision; retry");
        }
    }

    /// Enters the stage in which an upgrade is decided, and holds early input.
    pub(super) fn enter_asking(
        &mut self,
        sessions: &impl Sessions,
        index: u32,
        upgrade: Upgrade<'static>,
        head: &[u8],
        early: &[u8],
    ) {
        let &Stage::Http { accepted_us, .. } = self.slot(index).stage() else {
            unreachable!("a request ends the stage of HTTP");
        };
        let tick = self.tick;
        let asking = Asking {
            upgrade,
            path: request_path(head).into(),
            accepted_us,
            asked_ns: self.now_ns,
            asked_unix_ms: sessions
                .realm()
                .map_or(0, |realm| realm.issue_time_ms(sessions.unix_ms())),
            is_open: false,
            opening: None,
            config: self.config.clone(),
            early: Vec::new(),
        };
        self.slot_mut(index).enter_stage(Stage::Asking(Box::new(asking)), tick);
        self.hold_early(index, early);
    }

    /// Returns the ticket of a connection's question.
    pub(in crate::shard) fn hook_ticket(&self, index: u32, request: u32) -> HookTicket {
        HookTicket { shard: self.id, token: self.token(index), request }
    }

    /// Records how long a question took.
    pub(in crate::shard) fn record_hook(&mut self, kind: HookKind, waited_ns: u64) {
        let recorder = match kind {
            HookKind::Connect => &mut self.histograms.connect_hook,
            HookKind::Subscribe => &mut self.histograms.subscribe_hook,
            HookKind::Publish => &mut self.histograms.publish_hook,
            HookKind::Call => &mut self.histograms.call_hook,
        };
        recorder.record(waited_ns);
    }

    /// Cancels the question about an upgrade, because the connection ends without its outcome.
    pub(super) fn cancel_asking(&self, index: u32) {
        let Stage::Asking(asking) = self.slot(index).stage() else { return };
        let Some(hooks) = self.directory.hooks().filter(|_| asking.is_open) else { return };
        // Fails only when the process is ending.
        let _ = hooks.send(HookOrder::Cancel { ticket: self.hook_ticket(index, 0) });
    }

    fn close_question(&mut self, index: u32) {
        if let Stage::Asking(asking) = self.slot_mut(index).stage_mut() {
            asking.is_open = false;
        }
    }

    /// Holds input received before the decision; above the limit nothing more is received.
    pub(super) fn hold_early(&mut self, index: u32, bytes: &[u8]) {
        let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else { return };
        asking.early.extend_from_slice(bytes);
        if asking.is_full() {
            self.pause_receiving(index);
        }
    }

    /// Applies a reply of the backend.
    pub(in crate::shard) fn take_decision(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        token: Token,
        reply: ConnectReply,
    ) {
        let found = self.find(token);
        let asked = found.and_then(|index| match self.slot(index).stage() {
            Stage::Asking(asking) => Some((index, asking.asked_ns)),
            _ => None,
        });
        let Some((index, asked_ns)) = asked else {
            return self.count_late_reply();
        };
        self.close_question(index);
        let waited_ns = self.now_ns.saturating_sub(asked_ns);
        self.record_hook(HookKind::Connect, waited_ns);
        self.work.spend(HANDSHAKE_EFFORT);
        match reply {
            ConnectReply::Accept { identity, subscribe } => {
                self.accept_upgrade(sessions, index, Some(identity), &subscribe);
            }
            ConnectReply::AcceptLinked { identity } => {
                self.accept_upgrade(sessions, index, identity, &[]);
            }
            ConnectReply::Reject { refusal, message, retry_after_s } => {
                let (message, reason) = (message.as_str(), refusal.code());
                let is_too_many = refusal == Refusal::TooManyRequests;
                let usual_s = is_too_many.then_some(self.config.limits.retry_after_s);
                let retry_after_s = retry_after_s.or(usual_s);
                let rejected = Rejected { refusal, message, retry_after_s, reason };
                self.reject_as(sessions, index, &rejected);
            }
        }
        self.reconcile(driver, index);
    }

    fn is_asking(&self, index: u32) -> bool {
        matches!(self.slot(index).stage(), Stage::Asking(_))
    }

    /// Upgrades the connection, if the checks made before the question still hold.
    pub(super) fn accept_upgrade(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        identity: Option<Arc<Identity>>,
        subscribe: &[ChannelName],
    ) {
        let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else { return };
        let (mut upgrade, config) = (asking.upgrade.clone(), asking.config.clone());
        let asked_ms = asking.asked_unix_ms;
        let user = identity.as_ref().and_then(|own| own.user.as_deref());
        let is_revoked = user.zip(sessions.realm());
        let is_revoked =
            is_revoked.is_some_and(|(user, realm)| realm.is_user_revoked(user, asked_ms));
        let entered = if is_revoked {
            // The answer may be older than the `disconnect`.
            Err(unavailable("the user was disconnected meanwhile; retry", RELOADED_RETRY_AFTER_S))
        } else if Arc::ptr_eq(&config, &self.config) {
            self.enter_decided(sessions, index, upgrade.route, identity.clone())
        } else {
            // Its route, and the options negotiated for it, may not be allowed any more.
            let message = "the configuration changed during the handshake; reconnect";
            Err(unavailable(message, RELOADED_RETRY_AFTER_S))
        };
        if let Err(rejected) = entered {
            return self.reject_as(sessions, index, &rejected);
        }
        // Other connections may have used up the memory that was free when the request was decided.
        upgrade.compression = upgrade.compression.within(self.context_room_bytes());
        let (route, compression) = (upgrade.route, upgrade.compression);
        let protocol = sessions.choose_protocol(upgrade.subprotocol.as_deref());
        let mut answer = self.pools.take_answer();
        http::encode(&Decision::Upgrade(upgrade), &mut answer);
        self.queue_bytes(index, &answer);
        self.pools.recycle_answer(answer);
        let early = self.take_early(index);
        let path = match self.slot_mut(index).stage_mut() {
            Stage::Asking(asking) => {
                let (path, opening) = (std::mem::take(&mut asking.path), asking.opening.take());
                self.opened = opening;
                path
            }
            _ => Box::default(),
        };
        let terms = Terms { route, compression, protocol };
        self.note_opening_path(route, || path.into());
        self.open_websocket(sessions, index, terms, identity);
        if self.slot(index).stage().is_websocket() {
            sessions.subscribe_opened(self, index, subscribe);
        }
        if !early.is_empty() && self.slot(index).stage().is_websocket() {
            self.hold_input(sessions, index, &early);
            self.reconsider(index);
        }
    }

    /// Removes and returns the input received before the decision.
    fn take_early(&mut self, index: u32) -> Vec<u8> {
        let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else { return Vec::new() };
        let early = std::mem::take(&mut asking.early);
        self.partials.set_bytes(index, 0);
        early
    }

    /// Counts a client that the backend has accepted.
    fn enter_decided(
        &mut self,
        sessions: &impl Sessions,
        index: u32,
        route: usize,
        identity: Option<Arc<Identity>>,
    ) -> Result<(), Rejected<'static>> {
        if let Availability::Draining { retry_after_s } = self.availability(index) {
            return Err(unavailable(http::DRAINING, retry_after_s));
        }
        let gate = self.handshake(sessions, index).with_identity(identity);
        let entered = gate.enter_decided(route);
        let (findings, _) = gate.into_parts();
        self.count_findings(index, &findings, entered.is_err());
        entered.map_err(|denial| Rejected {
            refusal: denial.refusal,
            message: denial.message,
            retry_after_s: Some(denial.retry_after_s),
            reason: findings.denied.map_or(denial.refusal.code(), Denied::name),
        })
    }

    /// Rejects an upgrade because the backend has not replied in time.
    pub(super) fn give_up_asking(&mut self, sessions: &mut impl Sessions, index: u32) {
        self.counters.handshake_timeouts += 1;
        let message = "the upgrade was not decided within the handshake deadline; retry later";
        self.reject_asking(sessions, index, message);
    }

    /// Rejects an upgrade that awaits a decision with 503; otherwise does nothing.
    pub(in crate::shard) fn reject_asking(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        message: &str,
    ) {
        if self.is_asking(index) {
            let retry_after_s = if self.is_draining {
                self.drain_retry_after_s()
            } else {
                self.config.limits.retry_after_s
            };
            self.reject_as(sessions, index, &unavailable(message, retry_after_s));
        }
    }
}

fn unavailable(message: &str, retry_after_s: u32) -> Rejected<'_> {
    let refusal = Refusal::Unavailable;
    Rejected { refusal, message, retry_after_s: Some(retry_after_s), reason: refusal.code() }
}

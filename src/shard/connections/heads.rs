//! Receives heads, whole or in pieces: the PROXY header and the request. Opens the WebSocket.

use std::net::IpAddr;
use std::sync::Arc;

use super::asking::RequestBytes;
use super::handshake::{Terms, Verdict};
use super::journal::{Particulars, RejectedRequest, request_path};
use super::peer::PeerAddress;
use super::slot::Clocks;
use super::stage::{Partial, Stage};
use super::transport::Transport;
use super::work::{HANDSHAKE_EFFORT, TOKEN_EFFORT};
use super::{Connections, Sessions};
use crate::auth::Identity;
use crate::config::HandlerName;
use crate::proto::http::{self, ChallengePages, Head, Refusal};
use crate::proto::proxy::{self, ProxyHeader};
use crate::proto::ws::CloseCode;
use crate::tls::challenges::Challenges;

/// The result of one step through a head.
enum HeadStep {
    /// The head is incomplete; its stage begins at `start`.
    Unfinished { start: usize },
    /// The head has ended, and the last `rest` bytes behind it are unprocessed.
    Done { rest: usize },
}

/// Pages for the authority that certificates are ordered from.
#[derive(Debug)]
struct ChallengesOfProcess;

impl ChallengePages for ChallengesOfProcess {
    fn find(&self, token: &str) -> Option<Arc<str>> {
        Challenges::of_process().page(token)
    }
}

/// A decided request: the bytes consumed, the client's address, the decision, and the identity of
/// the token.
type DecidedRequest = (usize, Option<IpAddr>, Verdict, Option<Arc<Identity>>);

impl Connections {
    /// Collects a head from these bytes, or from earlier ones and these. Returns the number of
    /// bytes behind its end that are unprocessed.
    pub(super) fn collect_head(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
    ) -> usize {
        let (Stage::Proxy { partial, .. } | Stage::Http { partial, .. }) =
            self.slot_mut(index).stage_mut()
        else {
            return 0;
        };
        let Some(mut held) = partial.take() else {
            let mut scanned = 0;
            return match self.advance_head(sessions, index, bytes, &mut scanned) {
                HeadStep::Done { rest } => rest,
                HeadStep::Unfinished { start } => {
                    let partial = Box::new(Partial { bytes: bytes[start..].to_vec(), scanned });
                    self.hold_head(index, partial);
                    0
                }
            };
        };
        held.bytes.extend_from_slice(bytes);
        let Partial { bytes: joined, scanned } = &mut *held;
        match self.advance_head(sessions, index, joined, scanned) {
            // The head ended in the current bytes, so all bytes behind it are among them.
            HeadStep::Done { rest } => rest,
            HeadStep::Unfinished { start } => {
                held.bytes.drain(..start);
                self.hold_head(index, held);
                0
            }
        }
    }

    fn hold_head(&mut self, index: u32, held: Box<Partial>) {
        if let Stage::Proxy { partial, .. } | Stage::Http { partial, .. } =
            self.slot_mut(index).stage_mut()
        {
            *partial = Some(held);
        }
    }

    /// Processes the stages that receive heads.
    fn advance_head(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        scanned: &mut usize,
    ) -> HeadStep {
        let mut start = 0;
        if let &Stage::Proxy { accepted_us, .. } = self.slot(index).stage() {
            match self.proxy_header(index, bytes) {
                Ok(ProxyHeader::Partial) => return HeadStep::Unfinished { start: 0 },
                Ok(ProxyHeader::Complete { consumed, source }) => {
                    let tick = self.tick;
                    let slot = self.slot_mut(index);
                    if source.is_some() {
                        slot.set_peer(PeerAddress::from(source));
                    }
                    slot.enter_stage(Stage::Http { partial: None, accepted_us }, tick);
                    self.begin_tls(index);
                    start = consumed;
                    *scanned = 0;
                    // The next bytes are the request, or TLS records that contain it.
                    if start == bytes.len() || self.is_in_tls_handshake(index) {
                        return HeadStep::Done { rest: bytes.len() - start };
                    }
                }
                Err(()) => {
                    self.counters.proxy_errors += 1;
                    self.log_rejection(index, "proxy_header", |_| Particulars::default());
                    self.abort(sessions, index, CloseCode::ABNORMAL);
                    return HeadStep::Done { rest: 0 };
                }
            }
        }
        match self.decide_request(sessions, index, &mut bytes[start..], scanned) {
            Some(rest) => HeadStep::Done { rest },
            None => HeadStep::Unfinished { start },
        }
    }

    /// Parses a PROXY header, which is accepted only from a trusted peer; peers of Unix sockets are
    /// local, and so trusted.
    fn proxy_header(&self, index: u32, bytes: &[u8]) -> Result<ProxyHeader, ()> {
        let slot = self.slot(index);
        let listener = &self.config.listeners[usize::from(slot.listener())];
        let trusted = slot
            .peer()
            .get()
            .is_none_or(|peer| listener.trusted.iter().any(|net| net.contains(&peer.ip())));
        if !trusted {
            return Err(());
        }
        proxy::parse(bytes).map_err(|_| ())
    }

    /// Decides a request, and applies the decision. Returns the number of unprocessed bytes behind
    /// it; `None` if the request is incomplete.
    fn decide_request(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        scanned: &mut usize,
    ) -> Option<usize> {
        let mut answer = self.pools.take_answer();
        let gate = self.handshake(sessions, index);
        let slot = self.slot(index);
        let peer = slot.peer().get().map(|peer| peer.ip());
        let listener = &self.config.listeners[usize::from(slot.listener())];
        let context = http::Context {
            gate: Some(&gate),
            routes: &self.config.routes,
            pages: &self.pages,
            limits: &self.config.limits.http,
            forwarding: listener.forwarding.as_ref(),
            challenges: self.config.acme.as_ref().map(|_| &ChallengesOfProcess as _),
            redirect_port: listener.redirect_port,
            peer,
            is_tls: slot.transport() != Transport::Plain,
            same_origin: self.same_origin(index),
            availability: self.availability(index),
            context_room_bytes: self.context_room_bytes(),
            forwards: self.config.forward_rule(),
        };
        let decided = match http::receive(bytes, scanned, &context) {
            Head::Partial => None,
            Head::Complete { consumed, client, decision } => {
                http::encode(&decision, &mut answer);
                Some((consumed, client, Verdict::from_decision(decision, sessions)))
            }
        };
        let (findings, standing) = gate.into_parts();
        let has_token = findings.identity.is_some() || findings.failure.is_some();
        self.work.spend(HANDSHAKE_EFFORT + if has_token { TOKEN_EFFORT } else { 0 });
        self.slot_mut(index).set_standing(standing);
        if let Some((_, client, _)) = decided {
            self.set_client(index, client, peer);
        }
        let is_rejected = matches!(decided, Some((.., Verdict::Answer(Some(_)))));
        self.count_findings(index, &findings, is_rejected);
        if let Some((.., Verdict::Answer(Some(refusal)))) = decided {
            let denied = findings.denied;
            let request = RejectedRequest { refusal, denied, head: bytes, answer: &answer };
            self.log_rejected_request(index, &request);
        }
        if !answer.is_empty() {
            self.queue_bytes(index, &answer);
        }
        self.pools.recycle_answer(answer);
        let (consumed, client, verdict) = decided?;
        let identity = findings.identity;
        Some(self.apply_verdict(sessions, index, bytes, (consumed, client, verdict, identity)))
    }

    /// Applies the decision on a request, of which this many bytes were consumed. Returns the
    /// number of unprocessed bytes behind it.
    fn apply_verdict(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        (consumed, client, verdict, identity): DecidedRequest,
    ) -> usize {
        match verdict {
            Verdict::Upgrade(terms) => {
                self.note_opening_path(terms.route, || request_path(&bytes[..consumed]));
                self.note_opened_target(terms.route, &bytes[..consumed]);
                self.open_websocket(sessions, index, terms, identity);
                if consumed < bytes.len() {
                    let rest = &mut bytes[consumed..];
                    return self.process_frames(sessions, index, rest, false).rest;
                }
            }
            Verdict::Pending(upgrade) => {
                let (head, early) = bytes.split_at(consumed);
                let request = RequestBytes { head, early };
                if self.config.route_options[upgrade.route].handler == HandlerName::Gateway {
                    let request = (client, request);
                    self.begin_opening(sessions, index, *upgrade, identity, request);
                } else {
                    self.begin_asking(sessions, index, *upgrade, client, request);
                }
            }
            Verdict::Forward(terms) => {
                let (head, body) = bytes.split_at(consumed);
                self.begin_forwarding(sessions, index, client, (head, body, terms));
            }
            Verdict::Answer(refusal) => self.leave_answered(sessions, index, refusal),
        }
        0
    }

    /// Lingers after an answer, so that the peer receives it before the connection is closed.
    fn leave_answered(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        refusal: Option<Refusal>,
    ) {
        match refusal {
            Some(refusal) => self.counters.count_refusal(refusal),
            None => self.counters.answered += 1,
        }
        self.leave(sessions, index, Stage::Lingering { discarded: 0 }, CloseCode::ABNORMAL);
    }

    /// Opens the WebSocket. Consumes the HTTP stage, so that nothing of HTTP can be written after
    /// the 101.
    ///
    /// `identity`: the one of the request's token, or the one returned by the backend.
    pub(super) fn open_websocket(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        terms: Terms,
        identity: Option<Arc<Identity>>,
    ) {
        let Terms { route, compression, protocol } = terms;
        let accepted_us = match self.slot(index).stage() {
            Stage::Http { accepted_us, .. } => *accepted_us,
            Stage::Asking(asking) => asking.accepted_us,
            _ => return,
        };
        let receiver = self.open_receiver(route, compression);
        let tick = self.tick;
        let slot = self.slot_mut(index);
        slot.enter_stage(Stage::Open(receiver), tick);
        slot.set_route(route);
        slot.set_clocks(Clocks { opened_tick: tick, message_tick: tick, ..slot.clocks() });
        slot.set_pinged(false);
        self.gauges.handshakes -= 1;
        let took_us = ((self.now_ns / 1000) as u32).wrapping_sub(accepted_us);
        self.histograms.accept_to_open.record(u64::from(took_us.max(1)) * 1000);
        self.counters.opened += 1;
        self.gauges.open += 1;
        self.schedule_first_ping(index);
        self.open_parked(index);
        self.set_deadline(index);
        sessions.open_session(self, index, identity, protocol);
    }

    /// Stores the client's address, if a trusted proxy has named one.
    fn set_client(&mut self, index: u32, client: Option<IpAddr>, peer: Option<IpAddr>) {
        if client.is_some() && client != peer {
            let slot = self.slot_mut(index);
            slot.set_peer(slot.peer().with_ip(client));
        }
    }
}

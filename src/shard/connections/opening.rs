//! Handshakes of clients whose messages go to an application over a link.
//!
//! The record `open` goes out before the upgrade. With `accept = "backend"` the upgrade then awaits
//! `accept` or `reject` in the stage `Asking`; otherwise it follows at once. If the link is lost
//! meanwhile, `open` goes to another one. A handshake that ends without a session is reported with
//! `close`, except after `reject`.
//!
//! These records are queued one by one; those of open sessions leave once a turn, and so after
//! them.

use std::net::IpAddr;
use std::sync::Arc;

use super::asking::RequestBytes;
use super::link_opening::LinkOpening;
use super::stage::Stage;
use super::{Connections, Sessions};
use crate::auth::Identity;
use crate::backend::HandshakeView;
use crate::backend::links::{BackendLink, Choice, hash_text};
use crate::config::AcceptRule;
use crate::driver::{Driver, Token};
use crate::hooks::join_headers;
use crate::hub::ConnectionId;
use crate::link::{
    AcceptBody, BodyError, LinkRecord, LinkSession, OpenBody, OpenRequest, RecordKind, RejectBody,
    decode_accept, decode_reject, encode_open,
};
use crate::proto::http::{Refusal, Upgrade};
use crate::proto::ws::CloseCode;
use crate::shard::decisions::ConnectReply;

/// Distinguishes the ids of connections with a link from those of the hub's sessions.
pub(in crate::shard) const LINKED: u32 = 1 << 31;
/// Handshakes that are listed before those that have ended are removed from the list.
const LISTED_MIN: usize = 64;
const BUSY: &str = "the application does not read what is sent to it; retry later";
const NO_LINK: &str = "no application is connected for this path; retry later";

/// Whether a record about a handshake found one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum OpeningStep {
    Taken,
    /// No handshake awaits it from this link.
    NotAwaited,
}

impl Connections {
    /// Opens a session with an application for a valid request.
    pub(super) fn begin_opening(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        upgrade: Upgrade<'static>,
        identity: Option<Arc<Identity>>,
        (client, request): (Option<IpAddr>, RequestBytes<'_>),
    ) {
        let RequestBytes { head, early } = request;
        let route = self.config.route_options[upgrade.route];
        self.enter_asking(sessions, index, upgrade, head, early);
        let Some(link) = self.choose_link(route.application, identity.as_deref(), None) else {
            return self.reject_asking(sessions, index, NO_LINK);
        };
        if link.is_full() {
            return self.reject_asking(sessions, index, BUSY);
        }
        let opening = self.make_opening(sessions, index, link, identity, (client, head));
        self.send_open(index, &opening);
        let identity = opening.identity.clone();
        if let Stage::Asking(asking) = self.slot_mut(index).stage_mut() {
            asking.opening = Some(Box::new(opening));
        }
        if route.accept == AcceptRule::AtOnce {
            return self.accept_upgrade(sessions, index, identity, &[]);
        }
        if self.openings.len() > LISTED_MIN.max(2 * self.gauges.handshakes as usize) {
            let mut openings = std::mem::take(&mut self.openings);
            openings.retain(|token| self.opening(*token).is_some());
            self.openings = openings;
        }
        self.openings.push(self.token(index));
    }

    /// Makes the session of a request, and describes it for the application.
    fn make_opening(
        &mut self,
        sessions: &impl Sessions,
        index: u32,
        link: Arc<BackendLink>,
        identity: Option<Arc<Identity>>,
        (address, head): (Option<IpAddr>, &[u8]),
    ) -> LinkOpening {
        let Stage::Asking(asking) = self.slot(index).stage() else {
            unreachable!("the stage was just entered");
        };
        let route = asking.upgrade.route;
        // Otherwise the application chooses one when it accepts.
        let is_open = self.config.route_options[route].accept == AcceptRule::AtOnce;
        let chosen = asking.upgrade.subprotocol.as_deref().filter(|_| is_open);
        let subprotocol: Option<Box<str>> = chosen.map(Into::into);
        let backend = usize::from(link.facts().backend);
        let headers = self.config.backends.get(backend).and_then(|one| one.links.as_ref());
        let headers = headers.map_or(&[][..], |links| &links.headers);
        let mut view = HandshakeView::new(head, headers);
        let routes = self.config.routes.as_slice();
        let allowed = &routes[route].subprotocols;
        if !allowed.is_empty() {
            view.subprotocols.retain(|name| allowed.iter().any(|one| **one == **name));
        }
        let (path, query) = view.path_and_query();
        let headers = join_headers(&view.headers);
        self.link_serial = self.link_serial.wrapping_add(1);
        let connection = ConnectionId {
            node: sessions.realm().map_or(0, |realm| realm.node),
            shard: self.id,
            session: index | LINKED,
            serial: self.link_serial,
        };
        let request = OpenRequest { query, headers: &headers, subprotocols: &view.subprotocols };
        let body = encode_open(&OpenBody {
            connection: Some(connection),
            user: identity.as_ref().and_then(|own| own.user.as_deref()),
            info: identity.as_ref().and_then(|own| own.info.as_deref()),
            address,
            path,
            request: Some(request),
            subprotocol: subprotocol.as_deref(),
            ..OpenBody::default()
        });
        let path = (*routes[route].path != *path).then(|| path.into());
        link.enter();
        LinkOpening {
            link,
            connection,
            identity,
            path,
            subprotocol,
            state: None,
            body,
            offered: view.subprotocols,
        }
    }

    /// Chooses a link for a session of this user; `except`: the link that it leaves.
    pub(in crate::shard) fn choose_link(
        &mut self,
        backend: Option<u8>,
        identity: Option<&Identity>,
        except: Option<u32>,
    ) -> Option<Arc<BackendLink>> {
        let backend = backend?;
        let settings = self.config.backends.get(usize::from(backend))?.links.as_ref()?;
        let user = identity.and_then(|own| own.user.as_deref());
        let affinity = user.filter(|_| settings.by_user).map(hash_text);
        // Without a user, a session belongs to any instance.
        let random = [self.random_below(u32::MAX), self.random_below(u32::MAX)];
        self.directory.links().choose(&Choice { backend, random, affinity, except })
    }

    /// Returns the client's address.
    pub(in crate::shard) fn peer_ip(&self, index: u32) -> Option<IpAddr> {
        self.slot(index).peer().get().map(|peer| peer.ip())
    }

    /// Returns the id of a connection in records.
    pub(in crate::shard) fn session_id(&self, index: u32) -> LinkSession {
        LinkSession { shard: self.id, token: self.token(index) }
    }

    fn send_open(&self, index: u32, opening: &LinkOpening) {
        let session = self.session_id(index);
        opening.link.send_record(&LinkRecord::new(RecordKind::Open, session, 0, &opening.body));
    }

    /// Returns the handshake of a token, if it awaits an application behind a link.
    fn opening(&self, token: Token) -> Option<(u32, &LinkOpening)> {
        let index = self.find(token)?;
        let Stage::Asking(asking) = self.slot(index).stage() else { return None };
        Some((index, asking.opening.as_deref()?))
    }

    /// Returns the same, if it was opened on this link.
    fn opening_on(&self, link: &Arc<BackendLink>, token: Token) -> Option<(u32, &LinkOpening)> {
        self.opening(token).filter(|(_, opening)| Arc::ptr_eq(&opening.link, link))
    }

    /// Reports the end of a handshake to the application, if it knows of it.
    pub(super) fn cancel_opening(&mut self, index: u32) {
        let session = self.session_id(index);
        let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else { return };
        let Some(opening) = asking.opening.take() else { return };
        let code = u32::from(CloseCode::ABNORMAL.get());
        opening.link.send_record(&LinkRecord::new(RecordKind::Close, session, code, b""));
        opening.link.leave();
    }

    /// Returns the session that is being opened, for the layer of sessions.
    pub(in crate::shard) fn take_opened(&mut self) -> Option<Box<LinkOpening>> {
        self.opened.take()
    }

    /// Applies an `accept` that arrived on a link.
    ///
    /// # Errors
    /// The record is wrong, and the handshake still awaits one.
    pub(in crate::shard) fn take_accept(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        (link, token): (&Arc<BackendLink>, Token),
        body: &[u8],
    ) -> Result<OpeningStep, BodyError> {
        let Some((index, opening)) = self.opening_on(link, token) else {
            return Ok(OpeningStep::NotAwaited);
        };
        let unix_s = sessions.unix_ms() / 1000;
        let accept = decode_accept(body, unix_s, &link.facts().application)?;
        let identity = accept.identity_after(opening.identity.as_ref());
        let AcceptBody { subprotocol, state, .. } = accept;
        if subprotocol.as_ref().is_some_and(|name| !opening.offered.contains(name)) {
            return Err(BodyError("accept: `subprotocol` must be one that the client offers"));
        }
        let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else {
            unreachable!("it has an opening");
        };
        asking.upgrade.subprotocol = subprotocol.clone().map(|name| String::from(name).into());
        if let Some(opening) = &mut asking.opening {
            (opening.subprotocol, opening.state) = (subprotocol, state);
        }
        self.take_decision(driver, sessions, token, ConnectReply::AcceptLinked { identity });
        Ok(OpeningStep::Taken)
    }

    /// Applies a `reject` that arrived on a link.
    ///
    /// # Errors
    /// The record is wrong, and the handshake still awaits one.
    pub(in crate::shard) fn take_reject(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        (link, token): (&Arc<BackendLink>, Token),
        body: &[u8],
    ) -> Result<OpeningStep, BodyError> {
        let Some((index, _)) = self.opening_on(link, token) else {
            return Ok(OpeningStep::NotAwaited);
        };
        let RejectBody { status, message } = decode_reject(body)?;
        let refusal = match status {
            401 => Refusal::Unauthorized,
            403 => Refusal::Forbidden,
            429 => Refusal::TooManyRequests,
            _ => Refusal::Unavailable,
        };
        let usual_s = self.config.limits.retry_after_s;
        let retry_after_s = (refusal == Refusal::Unavailable).then_some(usual_s);
        if let Stage::Asking(asking) = self.slot_mut(index).stage_mut() {
            // The application expects nothing more of the session.
            asking.opening = None;
        }
        link.leave();
        let reply = ConnectReply::Reject { refusal, message: message.into(), retry_after_s };
        self.take_decision(driver, sessions, token, reply);
        Ok(OpeningStep::Taken)
    }

    /// Rejects a handshake that an application has answered wrongly.
    pub(in crate::shard) fn reject_opening(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        token: Token,
    ) {
        let Some((index, _)) = self.opening(token) else { return };
        let message = "the application has answered in a wrong format; retry later";
        self.reject_asking(sessions, index, message);
        self.reconcile(driver, index);
    }

    /// Opens the handshakes on other links that were opened on one that is lost.
    pub(in crate::shard) fn reopen_lost(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) {
        let mut openings = std::mem::take(&mut self.openings);
        openings.retain(|token| self.opening(*token).is_some());
        for token in &openings {
            let Some((index, opening)) = self.opening(*token) else { continue };
            if !opening.link.is_closed() {
                continue;
            }
            let (backend, identity) = (opening.link.facts().backend, opening.identity.clone());
            let Some(link) = self.choose_link(Some(backend), identity.as_deref(), None) else {
                self.reject_asking(sessions, index, NO_LINK);
                self.reconcile(driver, index);
                continue;
            };
            let Stage::Asking(asking) = self.slot_mut(index).stage_mut() else { continue };
            let Some(opening) = &mut asking.opening else { continue };
            opening.link.leave();
            link.enter();
            opening.link = link;
            if let Some((_, opening)) = self.opening(*token) {
                self.send_open(index, opening);
            }
        }
        debug_assert!(self.openings.is_empty(), "reopening begins no handshake");
        self.openings = openings;
    }
}

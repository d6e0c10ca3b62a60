//! Authentication and admission before the upgrade.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Connections, Sessions};
use crate::admission::{Admission, Denied, Shortage, Standing};
use crate::auth::Identity;
use crate::config::{Config, ConnectRule, HandlerName};
use crate::hub::ProtocolId;
use crate::proto::http::{
    Availability, Compression, Decision, Denial, Entry, ForwardTerms, Gate, Refusal, SameOrigin,
    TokenFault, Upgrade,
};
use crate::session::hub::Realm;

/// The terms of a granted upgrade.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) route: usize,
    pub(super) compression: Compression,
    pub(super) protocol: ProtocolId,
}

/// The consequence of a decision for the connection, once the answer is written.
pub(super) enum Verdict {
    Upgrade(Terms),
    /// Boxed because it is rare.
    Pending(Box<Upgrade<'static>>),
    Forward(ForwardTerms),
    /// Contains the reason if the request was rejected.
    Answer(Option<Refusal>),
}

impl Verdict {
    /// Converts a decision. `sessions` provides the client protocols.
    pub(super) fn from_decision(decision: Decision<'_>, sessions: &impl Sessions) -> Self {
        match decision {
            Decision::Upgrade(Upgrade { route, compression, subprotocol, .. }) => {
                let protocol = sessions.choose_protocol(subprotocol.as_deref());
                Self::Upgrade(Terms { route, compression, protocol })
            }
            Decision::Pending(upgrade) => Self::Pending(Box::new(upgrade.into_owned())),
            Decision::Forward(terms) => Self::Forward(terms),
            Decision::Answer(response) => Self::Answer(response.refusal()),
        }
    }
}

/// The checks of one request.
#[derive(Debug)]
pub(super) struct Handshake<'h> {
    /// `None` if no route uses the hub.
    realm: Option<&'h Realm>,
    config: &'h Config,
    admission: &'h Admission,
    unix_ms: u64,
    now_ns: u64,
    findings: RefCell<Findings>,
    standing: Cell<Standing>,
}

/// The findings of the checks.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The identity in the token.
    pub(super) identity: Option<Arc<Identity>>,
    /// What is wrong with the token.
    pub(super) failure: Option<&'static str>,
    /// The limit that was reached.
    pub(super) denied: Option<Denied>,
}

impl Handshake<'_> {
    /// Returns the findings, and how the connection is counted now.
    pub(super) fn into_parts(self) -> (Findings, Standing) {
        (self.findings.into_inner(), self.standing.get())
    }

    /// Records the limit that rejects the client, and returns the answer.
    fn record_denial(&self, denied: Denied) -> Denial {
        self.findings.borrow_mut().denied = Some(denied);
        denied.denial(self.config.limits.retry_after_s)
    }

    /// Returns whether the application behind the route has to decide on the client, because
    /// nothing has identified it yet.
    fn is_to_be_asked(&self, route: usize) -> bool {
        self.config.route_options[route].connect == ConnectRule::Backend
            && self.findings.borrow().identity.is_none()
    }

    /// Makes the same checks for a client that the backend has identified.
    pub(super) fn with_identity(self, identity: Option<Arc<Identity>>) -> Self {
        self.findings.borrow_mut().identity = identity;
        self
    }

    /// Counts a client whose upgrade was decided by the backend; its address is counted already.
    pub(super) fn enter_decided(&self, route: usize) -> Result<(), Denial> {
        self.count_client(None, route).map_err(|denied| self.record_denial(denied))
    }

    /// Counts a client by its address and by its route: by both, or by neither.
    fn count_client(&self, client: Option<IpAddr>, route: usize) -> Result<(), Denied> {
        let limits = &self.config.limits.admission;
        let waited = self.count_address(client)?;
        let options = &self.config.route_options[route];
        if !self.admission.enter_route(route, options.counter, options.connections_max) {
            if waited {
                self.admission.leave(limits, self.standing.replace(Standing::Waiting), client);
            }
            return Err(Denied::RouteFull);
        }
        Ok(())
    }

    /// Counts the client by its address; returns whether it was not counted before.
    fn count_address(&self, client: Option<IpAddr>) -> Result<bool, Denied> {
        let limits = &self.config.limits.admission;
        if self.admission.shortage() >= Shortage::Connections {
            return Err(Denied::Memory);
        }
        let findings = self.findings.borrow();
        let user = findings.identity.as_ref().and_then(|identity| identity.user.as_deref());
        let per_user = limits.connections_per_user_max;
        if user.is_some_and(|user| !self.admission.has_room_for(user, per_user)) {
            return Err(Denied::UserFull);
        }
        let waited = self.standing.get() == Standing::Waiting;
        if waited {
            self.standing.set(self.admission.enter(limits, client, self.now_ns)?);
        }
        Ok(waited)
    }
}

impl Gate for Handshake<'_> {
    fn takes_query(&self) -> bool {
        self.realm.is_some() && self.config.auth.token_query
    }

    fn check(&self, route: usize, token: Option<&str>) -> Result<(), TokenFault> {
        let handler = self.config.route_options[route].handler;
        let takes_tokens = matches!(handler, HandlerName::Hub | HandlerName::Gateway);
        let verifier = self.realm.and_then(|realm| realm.verifier.as_ref());
        // Without keys no client can be identified: all are anonymous.
        let (true, Some(token), Some(verifier)) = (takes_tokens, token, verifier) else {
            return Ok(());
        };
        let mut findings = self.findings.borrow_mut();
        match verifier.verify(token, self.unix_ms / 1000) {
            Ok(identity) => {
                findings.identity = Some(Arc::new(identity));
                Ok(())
            }
            Err(fault) => {
                findings.failure = Some(fault.kind());
                let retry_after_s = self.config.limits.retry_after_s;
                Err(TokenFault {
                    message: format!("token: {fault}"),
                    retry_after_s: fault.is_temporary().then_some(retry_after_s),
                })
            }
        }
    }

    fn takes_ticket(&self, route: usize) -> bool {
        self.is_to_be_asked(route)
    }

    fn present_ticket(&self, route: usize, ticket: &str) {
        let options = &self.config.route_options[route];
        let application =
            options.application.and_then(|at| self.config.backends.get(usize::from(at)));
        let identity = self.realm.zip(application).and_then(|(realm, application)| {
            realm.identify_by_ticket(ticket, &application.name, self.unix_ms / 1000)
        });
        self.findings.borrow_mut().identity = identity;
    }

    fn enter_request(&self, client: Option<IpAddr>) -> Result<(), Denial> {
        self.count_address(client).map(drop).map_err(|denied| self.record_denial(denied))
    }

    fn enter(&self, client: Option<IpAddr>, route: usize) -> Result<Entry, Denial> {
        let is_linked = self.config.route_options[route].handler == HandlerName::Gateway;
        let entered = if is_linked || self.is_to_be_asked(route) {
            self.count_address(client).map(|_| Entry::Pending)
        } else {
            self.count_client(client, route).map(|()| Entry::Granted)
        };
        entered.map_err(|denied| self.record_denial(denied))
    }
}

impl Connections {
    /// Prepares the checks for a request of this slot.
    pub(super) fn handshake<'h>(
        &'h self,
        sessions: &'h impl Sessions,
        index: u32,
    ) -> Handshake<'h> {
        Handshake {
            realm: sessions.realm(),
            config: &self.config,
            admission: self.directory.admission(),
            unix_ms: sessions.unix_ms(),
            now_ns: self.now_ns,
            findings: RefCell::default(),
            standing: Cell::new(self.slot(index).standing()),
        }
    }

    /// Returns which hosts count as the same origin for this slot's listener. Without keys, pages
    /// are trusted only if their host is this one, and the listener is on loopback.
    pub(super) fn same_origin(&self, index: u32) -> SameOrigin {
        let listener = &self.config.listeners[usize::from(self.slot(index).listener())];
        if listener.is_loopback() && !self.config.auth.keys_configured {
            SameOrigin::Loopback
        } else {
            SameOrigin::AnyHost
        }
    }

    /// Returns whether the connection of this slot may be upgraded, as far as that is known before
    /// its request.
    pub(super) fn availability(&self, index: u32) -> Availability {
        if self.is_draining {
            return Availability::Draining { retry_after_s: self.drain_retry_after_s() };
        }
        match self.slot(index).standing() {
            Standing::Refused(denied) => {
                Availability::Denied(denied.denial(self.config.limits.retry_after_s))
            }
            _ => Availability::Ready,
        }
    }

    /// Counts the findings of a handshake.
    pub(super) fn count_findings(&mut self, index: u32, findings: &Findings, refused: bool) {
        if let Some(kind) = findings.failure {
            self.counters.count_auth_failure(kind);
        }
        let standing = self.slot(index).standing();
        let denied = match standing {
            Standing::Refused(denied) if refused && !self.is_draining => Some(denied),
            _ => findings.denied,
        };
        if let Some(denied) = denied {
            self.counters.count_denial(denied);
        }
    }
}

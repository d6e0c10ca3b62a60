//! The last questions before an upgrade: whose token it is, and whether there is room.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Connections, Sessions};
use crate::admission::{Admission, Denied, Shortage, Standing};
use crate::auth::Identity;
use crate::config::{Config, HandlerName};
use crate::proto::http::{Availability, Denial, Gate, SameOrigin, TokenFault};
use crate::session::hub::Realm;

/// The check of one request.
#[derive(Debug)]
pub(super) struct Handshake<'h> {
    /// `None` where no route leads to channels.
    realm: Option<&'h Realm>,
    config: &'h Config,
    admission: &'h Admission,
    unix_s: u64,
    now_ns: u64,
    findings: RefCell<Findings>,
    standing: Cell<Standing>,
}

/// What is known after the decision.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Who the token names.
    pub(super) identity: Option<Arc<Identity>>,
    /// What is wrong with the token.
    pub(super) failure: Option<&'static str>,
    /// Why there is no room.
    pub(super) denied: Option<Denied>,
}

impl Handshake<'_> {
    /// What was found, and how the connection is counted now.
    pub(super) fn into_parts(self) -> (Findings, Standing) {
        (self.findings.into_inner(), self.standing.get())
    }

    fn deny(&self, denied: Denied) -> Denial {
        self.findings.borrow_mut().denied = Some(denied);
        denied.denial(self.config.limits.retry_after_s)
    }

    fn count(&self, client: Option<IpAddr>, route: usize) -> Result<(), Denied> {
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
        let options = &self.config.route_options[route];
        if !self.admission.enter_route(route, options.counter, options.connections_max) {
            if waited {
                self.admission.leave(limits, self.standing.replace(Standing::Waiting), client);
            }
            return Err(Denied::RouteFull);
        }
        Ok(())
    }
}

impl Gate for Handshake<'_> {
    fn takes_query(&self) -> bool {
        self.realm.is_some() && self.config.auth.token_query
    }

    fn check(&self, route: usize, token: Option<&str>) -> Result<(), TokenFault> {
        let is_hub = self.config.route_options[route].handler == HandlerName::Hub;
        let verifier = self.realm.and_then(|realm| realm.verifier.as_ref());
        // Without keys nobody can be told apart: anonymous mode.
        let (true, Some(token), Some(verifier)) = (is_hub, token, verifier) else {
            return Ok(());
        };
        let mut findings = self.findings.borrow_mut();
        match verifier.verify(token, self.unix_s) {
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

    fn enter(&self, client: Option<IpAddr>, route: usize) -> Result<(), Denial> {
        self.count(client, route).map_err(|denied| self.deny(denied))
    }
}

impl Connections {
    /// For the request of this slot.
    pub(super) fn handshake<'h>(
        &'h self,
        sessions: &'h impl Sessions,
        index: u32,
    ) -> Handshake<'h> {
        Handshake {
            realm: sessions.realm(),
            config: &self.config,
            admission: self.directory.admission(),
            unix_s: sessions.unix_s(),
            now_ns: self.now_ns,
            findings: RefCell::default(),
            standing: Cell::new(self.slot(index).standing()),
        }
    }

    /// Which hosts the pages of this slot's listener may have. Without keys, those on this host are
    /// trusted who reach a loopback listener, and web pages that are shown here are not among them.
    pub(super) fn same_origin(&self, index: u32) -> SameOrigin {
        let listener = &self.config.listeners[usize::from(self.slot(index).listener())];
        if listener.is_loopback() && !self.config.auth.keys_configured {
            SameOrigin::Loopback
        } else {
            SameOrigin::AnyHost
        }
    }

    /// Whether the connection of this slot may be upgraded, as far as that is known before its
    /// request.
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

    /// Counts what a handshake has found.
    pub(super) fn note(&mut self, index: u32, findings: &Findings, refused: bool) {
        if let Some(kind) = findings.failure {
            self.counters.auth_failure(kind);
        }
        let standing = self.slot(index).standing();
        let denied = match standing {
            Standing::Refused(denied) if refused && !self.is_draining => Some(denied),
            _ => findings.denied,
        };
        if let Some(denied) = denied {
            self.counters.deny(denied);
        }
    }
}

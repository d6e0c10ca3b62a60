//! Tokens that come with the handshake: checked before the upgrade, so that a bad one is answered
//! with a status.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::HubState;
use crate::auth::Identity;
use crate::config::{Config, HandlerName};
use crate::proto::http::Gate;
use crate::session::hub::Realm;

/// The check of one request.
#[derive(Debug)]
pub(in crate::shard) struct Handshake<'h> {
    realm: &'h Realm,
    config: &'h Config,
    now_s: u64,
    admitted: RefCell<Option<Arc<Identity>>>,
    failure: Cell<Option<&'static str>>,
}

impl Handshake<'_> {
    /// Who was admitted, and why somebody was not.
    pub(in crate::shard) fn into_parts(self) -> (Option<Arc<Identity>>, Option<&'static str>) {
        (self.admitted.into_inner(), self.failure.get())
    }
}

impl Gate for Handshake<'_> {
    fn takes_query(&self) -> bool {
        self.config.auth.token_query
    }

    fn check(&self, route: usize, token: Option<&str>) -> Result<(), String> {
        let is_hub = self.config.route_options[route].handler == HandlerName::Hub;
        // Without keys nobody can be told apart: anonymous mode.
        let (true, Some(token), Some(verifier)) = (is_hub, token, &self.realm.verifier) else {
            return Ok(());
        };
        match verifier.verify(token, self.now_s) {
            Ok(identity) => {
                self.admitted.replace(Some(Arc::new(identity)));
                Ok(())
            }
            Err(fault) => {
                self.failure.set(Some(fault.kind()));
                Err(format!("token: {fault}"))
            }
        }
    }
}

impl HubState {
    /// For one request.
    pub(in crate::shard) fn gate<'h>(&'h self, config: &'h Config) -> Handshake<'h> {
        Handshake {
            realm: &self.shared.realm,
            config,
            now_s: self.unix_ms / 1000,
            admitted: RefCell::new(None),
            failure: Cell::new(None),
        }
    }
}

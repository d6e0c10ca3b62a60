//! Opens sessions of clients of apps, which speak the Pusher protocol.

use super::Hub;
use crate::auth::Identity;
use crate::session::pusher::{self, ConnectFault};
use crate::shard::connections::Connections;
use std::sync::Arc;

impl Hub {
    /// Opens the session of a connection to a route for apps. A request that is not allowed is
    /// rejected by the first message and a close code, because browsers hide any status.
    pub(in crate::shard) fn open_app_session(&mut self, connections: &mut Connections, index: u32) {
        let target = connections.take_opened_target().unwrap_or_default();
        let path = connections.route_path(index);
        let found = self.find_app(&target, path, connections.is_encrypted(index));
        let (identity, fault) = match found {
            Ok(identity) => (identity, None),
            Err(fault) => (Arc::default(), Some(fault)),
        };
        let protocol = self.shared.realm.protocols.find_by_route().unwrap_or_default();
        let timeout_s = identity.app.as_ref().map_or(0, |app| app.options.activity_timeout_s);
        self.insert_session(connections, index, Some(identity), protocol);
        self.with_session(connections, index, |session, call| match fault {
            None => session.send_welcome(call, timeout_s),
            Some(ConnectFault { code, message }) => call.effects.close = Some((code, message)),
        });
        self.reschedule(connections, index);
    }

    /// Returns the identity of clients of the app that a request is for, and counts a connection of
    /// it.
    fn find_app(
        &self,
        target: &str,
        route: &str,
        is_encrypted: bool,
    ) -> Result<Arc<Identity>, ConnectFault> {
        let key = pusher::read_target(target, route)?;
        let identity = self.shared.realm.apps.identify(key);
        let identity = identity.ok_or_else(|| pusher::unknown_key(key))?;
        let app = identity.app.as_ref().expect("identities of apps have one");
        if app.options.tls_only && !is_encrypted {
            let message = "The app requires TLS: connect with wss://".into();
            return Err(ConnectFault { code: pusher::TLS_ONLY, message });
        }
        if !app.enter() {
            let message = "The app has as many connections as it may have; retry later".into();
            return Err(ConnectFault { code: pusher::OVER_CAPACITY, message });
        }
        Ok(identity.clone())
    }
}

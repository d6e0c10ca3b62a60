//! A session of an application that is being opened, as data.

use std::sync::Arc;

use crate::auth::Identity;
use crate::backend::links::BackendLink;
use crate::hub::ConnectionId;

/// A client's connection on its way to a session of an application.
#[derive(Debug)]
pub(in crate::shard) struct LinkOpening {
    pub(in crate::shard) link: Arc<BackendLink>,
    pub(in crate::shard) connection: ConnectionId,
    /// The identity of the token, until the application names another.
    pub(in crate::shard) identity: Option<Arc<Identity>>,
    /// The path, where the route does not determine it.
    pub(in crate::shard) path: Option<Box<str>>,
    pub(in crate::shard) subprotocol: Option<Box<str>>,
    /// JSON that the application keeps with the session.
    pub(in crate::shard) state: Option<Box<str>>,
    /// The body of `open`.
    pub(super) body: Vec<u8>,
    /// The subprotocols that the client offers.
    pub(super) offered: Vec<Box<str>>,
}

//! A session of an application: what the gateway keeps for a client's connection.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::auth::Identity;
use crate::backend::links::BackendLink;
use crate::hub::ConnectionId;
use crate::session::gateway::UpState;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionPhase {
    /// On its link.
    Open,
    /// The application was asked to finish on its link, from where the session moves.
    Leaving,
    /// No link is there for it: the client is not read from.
    Held,
}

/// A message whose sending the application wants to know of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) number: u32,
    /// The bytes that the connection has sent once the message is sent; `None`: only an empty
    /// outbox shows that, because bytes change on their way (TLS, compression).
    pub(super) position: Option<u64>,
}

/// What few sessions have.
#[derive(Debug, Default)]
pub(super) struct EntryExtra {
    /// The path of the handshake, where the route does not determine it.
    pub(super) path: Option<Box<str>>,
    pub(super) subprotocol: Option<Box<str>>,
    /// JSON that the application keeps with the session.
    pub(super) state: Option<Box<str>>,
    pub(super) receipts: VecDeque<Receipt>,
}

/// A session. A server may have very many idle ones.
#[derive(Debug)]
pub(super) struct GatewayEntry {
    /// `None` while it is held.
    pub(super) link: Option<Arc<BackendLink>>,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) up: UpState,
    pub(super) extra: Option<Box<EntryExtra>>,
    /// The last part of its connection's id.
    pub(super) serial: u32,
    /// The generation of its connection's slot.
    pub(super) generation: u32,
    pub(super) phase: SessionPhase,
    /// It moves as soon as all its messages are acknowledged.
    pub(super) must_leave: bool,
    /// The application was notified that the client reads slowly.
    pub(super) is_slow: bool,
    /// It counts towards the limit of its user.
    pub(super) is_counted: bool,
    /// Its readiness waits for room in the queue of its link.
    pub(super) awaits_room: bool,
}

const _: () = assert!(size_of::<GatewayEntry>() <= 56);

impl GatewayEntry {
    /// Returns whether messages go to its link.
    pub(super) fn is_open(&self) -> bool {
        self.phase == SessionPhase::Open
    }

    /// Returns whether it is on this link, so that the application there may send to the client.
    pub(super) fn is_on(&self, link: &Arc<BackendLink>) -> bool {
        self.link.as_ref().is_some_and(|own| Arc::ptr_eq(own, link))
    }

    /// Removes the session from the counts of its link.
    pub(super) fn leave_counts(&self) {
        if let Some(link) = &self.link {
            link.remove_unacked(self.up.bytes());
            link.leave();
        }
    }

    /// Returns the user, if the client is identified.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.user.as_ref()
    }

    /// Returns what few sessions have; makes it if there is none.
    pub(super) fn extra_mut(&mut self) -> &mut EntryExtra {
        self.extra.get_or_insert_default()
    }

    /// Returns whether something is to be reported once the client's queue has drained.
    pub(super) fn awaits_drain(&self) -> bool {
        self.is_slow || self.extra.as_ref().is_some_and(|extra| !extra.receipts.is_empty())
    }
}

/// A session whose connection has closed while messages were unacknowledged, which are handled at
/// least once all the same, or while it was between links.
#[derive(Debug)]
pub(super) struct DepartedEntry {
    pub(super) entry: Box<GatewayEntry>,
    pub(super) connection: ConnectionId,
    /// What the application is sent once it has the messages.
    pub(super) code: u32,
    pub(super) backend: u8,
    /// The route's path, if the entry has none of its own.
    pub(super) path: Box<str>,
    pub(super) address: Option<std::net::IpAddr>,
    /// When it is given up without a link, or without the application's confirmation (tick).
    pub(super) until: u32,
}

impl DepartedEntry {
    /// Returns the bytes counted for it.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.entry.up.bytes()
    }

    /// Returns whether it is on no link, or leaves or has lost its link, so that its end is still
    /// to be reported. What that needs may never come.
    pub(super) fn is_between_links(&self) -> bool {
        self.entry.phase == SessionPhase::Leaving
            || self.entry.link.as_ref().is_none_or(|link| link.is_closed())
    }
}

//! A session of an application: what the gateway keeps for a client's connection.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::auth::Identity;
use crate::backend::links::BackendLink;
use crate::session::gateway::UpState;
use crate::shard::connections::{Flags, LinkOpening, UNSET};

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
    /// The deadline of the phase, or of leaving its link (tick); [`UNSET`] if there is none.
    pub(super) phase_due: u32,
    phase: SessionPhase,
    flags: Flags,
}

const _: () = assert!(size_of::<GatewayEntry>() <= 56);

/// It moves as soon as all its messages are acknowledged.
const MUST_LEAVE: u8 = 0;
/// The application was notified that the client reads slowly.
const SLOW: u8 = 1;
/// It counts towards the limit of its user.
const COUNTED: u8 = 2;
/// Its readiness waits for room in the queue of its link.
const AWAITS_ROOM: u8 = 3;
/// It has a session in the hub, as a member of channels.
const MEMBER: u8 = 4;

impl GatewayEntry {
    /// Makes the session of a connection that was just opened.
    pub(super) fn new(
        opening: LinkOpening,
        identity: Option<Arc<Identity>>,
        generation: u32,
    ) -> Self {
        let LinkOpening { link, connection, path, subprotocol, state, .. } = opening;
        let has_extra = path.is_some() || subprotocol.is_some() || state.is_some();
        let extra = EntryExtra { path, subprotocol, state, ..EntryExtra::default() };
        Self {
            link: Some(link),
            identity,
            up: UpState::default(),
            extra: has_extra.then(|| Box::new(extra)),
            serial: connection.serial,
            generation,
            phase_due: UNSET,
            phase: SessionPhase::Open,
            flags: Flags::default(),
        }
    }

    pub(super) fn phase(&self) -> SessionPhase {
        self.phase
    }

    /// Moves to another phase, with its deadline.
    pub(super) fn enter_phase(&mut self, phase: SessionPhase, due: u32) {
        (self.phase, self.phase_due) = (phase, due);
        self.set_must_leave(false);
    }

    pub(super) fn must_leave(&self) -> bool {
        self.flags.has(MUST_LEAVE)
    }

    pub(super) fn set_must_leave(&mut self, must_leave: bool) {
        self.flags.set(MUST_LEAVE, must_leave);
    }

    pub(super) fn is_slow(&self) -> bool {
        self.flags.has(SLOW)
    }

    /// Sets whether the application was notified; returns what was set.
    pub(super) fn replace_slow(&mut self, is_slow: bool) -> bool {
        self.flags.replace(SLOW, is_slow)
    }

    /// Sets whether it counts for its user; returns what was set.
    pub(super) fn replace_counted(&mut self, is_counted: bool) -> bool {
        self.flags.replace(COUNTED, is_counted)
    }

    /// Sets whether it waits for room; returns what was set.
    pub(super) fn replace_awaits_room(&mut self, awaits_room: bool) -> bool {
        self.flags.replace(AWAITS_ROOM, awaits_room)
    }

    pub(super) fn is_member(&self) -> bool {
        self.flags.has(MEMBER)
    }

    /// Sets whether it has a session in the hub.
    pub(super) fn set_member(&mut self, is_member: bool) {
        self.flags.set(MEMBER, is_member);
    }

    /// Returns the memory of the session (bytes).
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.extra_bytes() + self.up.memory_bytes()
    }

    /// Returns the memory of what few sessions have (bytes).
    pub(super) fn extra_bytes(&self) -> usize {
        let Some(extra) = self.extra.as_deref() else { return 0 };
        let texts = [&extra.path, &extra.subprotocol, &extra.state];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        size_of::<EntryExtra>() + texts
    }

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
        self.is_slow() || self.extra.as_ref().is_some_and(|extra| !extra.receipts.is_empty())
    }
}

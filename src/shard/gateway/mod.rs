//! The gateway: clients whose messages go to an application over a few links, and back.
//!
//! A session belongs to a connection of a gateway route, and is on one link at a time. What clients
//! send is numbered, kept until the application acknowledges it, and queued for the link once a
//! turn; what the application sends arrives by mail, in whole records ([`crate::link`]).
//!
//! A session moves to another link when its link is lost, or when the application drains it: the
//! client notices neither. Records from a link that a session is not on are ignored and counted:
//! that is the fence. A session without a link is held: its client is not read from.
//!
//! # Contract
//!
//! No field is visible outside this module. Invariants, which [`Gateway::check_invariants`] checks
//! between turns in debug builds and in the simulation:
//!
//! - A session has a link unless it is held, and a connection that is open.
//! - A link's counts of sessions and unacknowledged bytes are the sums over its sessions.
//! - Messages leave in the order of their numbers; after a move, from the first that is not
//!   acknowledged.
//!
//! - Between turns, no connection waits to be closed.
//!
//! Files: `entry` (a session), `layer` (calls of connections), `outbound` (records to links),
//! `inbound` (records of links), `moves` and `rebalance` (between links, at a `pace`), `departed`
//! (of closed connections), `membership` (of channels), `closings`, `commands` (of operators).
//!
//! Rejected: sessions on the outer thread. Each message would take a lock or a queue of its own,
//! and a thread that waits for one application would hold up the others.

mod closings;
mod commands;
mod departed;
mod entry;
mod inbound;
mod invariants;
mod layer;
mod membership;
mod moves;
mod outbound;
mod pace;
mod rebalance;

use std::collections::VecDeque;
use std::sync::Arc;

use super::connections::{Connections, SessionReadiness};
use super::mail::Directory;
use crate::backend::LinkSettings;
use crate::backend::links::{BackendLink, LinkMail};
use crate::driver::Token;
use crate::session::gateway::{SpareQueues, UpLimits};
use closings::Closing;
use commands::Disconnecting;
use departed::Departed;
use entry::{GatewayEntry, Receipt};
use moves::Sweep;
use outbound::Outgoing;
use rebalance::Rebalance;

/// The sessions of applications behind links, of one shard. See the module.
pub(super) struct Gateway {
    id: u16,
    /// The node's part of connection ids.
    node: u32,
    directory: Arc<Directory>,
    /// By the slot of the connection.
    sessions: Vec<Option<Box<GatewayEntry>>>,
    session_count: u32,
    /// The memory of what few sessions have.
    extra_bytes: usize,
    departed: Departed,
    /// The session that ends now is over for the application already.
    is_closed_by_application: bool,
    spare: SpareQueues,
    /// The turn's records, by link.
    outgoing: Outgoing,
    /// Records of links that are not processed yet.
    inbox: VecDeque<Inbound>,
    /// A link was lost: handshakes that were opened on it are to be opened elsewhere.
    has_lost_links: bool,
    /// Sessions that wait for room in the queue of their link.
    awaiting_room: Vec<Token>,
    /// Links have room again.
    has_room: bool,
    /// Of the sessions that waited, those that are still to be checked.
    waking: Vec<Token>,
    sweep: Sweep,
    rebalance: Rebalance,
    /// Users whose connections are being closed.
    disconnecting: VecDeque<Disconnecting>,
    /// The next session whose key is to be reviewed.
    review_cursor: Option<usize>,
    /// Connections to be closed.
    closings: Vec<Closing>,
    /// Members of channels that were moved to another link, whose application is to learn of them.
    moved_members: Vec<u32>,
    /// Connections that changed, and are to be reconciled.
    touched: Vec<u32>,
    unix_ms: u64,
}

/// Records of a link.
struct Inbound {
    link: Arc<BackendLink>,
    records: Vec<u8>,
    /// The bytes that are processed.
    start: usize,
    /// The sessions of the next record, a `many`, that have its message already.
    many_sessions: usize,
}

impl Gateway {
    /// Makes the gateway of a shard.
    pub(super) fn new(id: u16, directory: Arc<Directory>) -> Box<Self> {
        let node = directory.hub().map_or(0, |hub| hub.realm.node);
        Box::new(Self {
            id,
            node,
            directory,
            sessions: Vec::new(),
            session_count: 0,
            extra_bytes: 0,
            departed: Departed::default(),
            is_closed_by_application: false,
            spare: SpareQueues::default(),
            outgoing: Outgoing::default(),
            inbox: VecDeque::new(),
            has_lost_links: false,
            awaiting_room: Vec::new(),
            has_room: false,
            waking: Vec::new(),
            sweep: Sweep::default(),
            rebalance: Rebalance::default(),
            disconnecting: VecDeque::new(),
            review_cursor: None,
            closings: Vec::new(),
            moved_members: Vec::new(),
            touched: Vec::new(),
            unix_ms: 0,
        })
    }

    /// Sets the time of the turn (Unix, ms).
    pub(super) fn set_clock(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Takes mail of the links' tasks.
    pub(super) fn take_mail(&mut self, mail: LinkMail) {
        match mail {
            LinkMail::Records { link, records } => {
                self.inbox.push_back(Inbound { link, records, start: 0, many_sessions: 0 });
            }
            LinkMail::Room => self.has_room = true,
            LinkMail::Ready => {
                self.sweep.request();
                self.rebalance.request();
            }
            LinkMail::Draining => self.sweep.request(),
            LinkMail::Lost { .. } => {
                self.has_lost_links = true;
                // Room in the queue of a lost link is never reported.
                self.has_room = true;
                self.sweep.request();
            }
        }
    }

    /// Returns whether a connection has a session here.
    pub(super) fn has_session(&self, index: u32) -> bool {
        self.entry(index).is_some()
    }

    /// Returns the number of sessions.
    pub(super) fn len(&self) -> u32 {
        self.session_count
    }

    /// Returns the memory of sessions, also of closed connections (bytes). That of unacknowledged
    /// messages is counted with their links.
    pub(super) fn bytes(&self) -> u64 {
        let per_session = size_of::<GatewayEntry>() * self.session_count as usize;
        let places = self.sessions.len() * size_of::<usize>();
        let waiting = self.awaiting_room.capacity() * size_of::<Token>();
        let own = places + per_session + self.extra_bytes + waiting;
        (own + self.outgoing.bytes() + self.departed.bytes()) as u64
    }

    /// Returns whether records of a lost link are to be processed: its sessions must not move
    /// before, because these records arrived while they were on it.
    fn awaits_records(&self) -> bool {
        self.inbox.iter().any(|inbound| inbound.link.is_closed())
    }

    fn entry(&self, index: u32) -> Option<&GatewayEntry> {
        self.sessions.get(index as usize)?.as_deref()
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut GatewayEntry> {
        self.sessions.get_mut(index as usize)?.as_deref_mut()
    }

    /// Returns the entry, and the spare queues.
    fn entry_and_spare(&mut self, index: u32) -> Option<(&mut GatewayEntry, &mut SpareQueues)> {
        let entry = self.sessions.get_mut(index as usize)?.as_deref_mut()?;
        Some((entry, &mut self.spare))
    }

    fn insert(&mut self, index: u32, entry: GatewayEntry) {
        let at = index as usize;
        if self.sessions.len() <= at {
            self.sessions.resize_with(at + 1, || None);
        }
        let earlier = self.sessions[at].replace(Box::new(entry));
        assert!(earlier.is_none(), "the session of an earlier connection has ended");
        self.session_count += 1;
        self.extra_bytes += self.entry(index).map_or(0, GatewayEntry::extra_bytes);
    }

    /// Keeps JSON of the application with a session.
    fn set_state(&mut self, index: u32, state: Box<str>) {
        let Some(entry) = self.entry_mut(index) else { return };
        let before = entry.extra_bytes();
        entry.extra_mut().state = Some(state);
        let after = entry.extra_bytes();
        self.extra_bytes = self.extra_bytes - before + after;
    }

    /// Adds what the application wants to know once a message is sent.
    fn push_receipt(&mut self, index: u32, receipt: Receipt) {
        let Some(entry) = self.entry_mut(index) else { return };
        let before = entry.extra_bytes();
        entry.extra_mut().receipts.push_back(receipt);
        let after = entry.extra_bytes();
        self.extra_bytes = self.extra_bytes - before + after;
    }

    fn remove(&mut self, index: u32) -> Option<Box<GatewayEntry>> {
        let entry = self.sessions.get_mut(index as usize)?.take()?;
        self.session_count -= 1;
        self.extra_bytes -= entry.extra_bytes();
        Some(entry)
    }

    /// Sets whether the client of a session is read from, and whether something waits for its queue
    /// to drain.
    fn report_readiness(&mut self, connections: &mut Connections, index: u32) {
        let token = connections.token(index);
        let limits = link_settings(connections, index).map_or(NO_LIMITS, up_limits);
        let Some(entry) = self.entry_mut(index) else {
            return connections.set_readiness(index, SessionReadiness::default());
        };
        let lacks_room = entry.link.as_ref().is_some_and(|link| link.is_full());
        let is_waiting = !entry.is_open() || entry.up.is_full(limits);
        let readiness =
            SessionReadiness::new(is_waiting || lacks_room, false, entry.awaits_drain())
                .with_publications(connections.readiness(index).has_publications());
        if lacks_room && !entry.replace_awaits_room(true) {
            self.awaiting_room.push(token);
        }
        if connections.readiness(index) != readiness {
            connections.set_readiness(index, readiness);
            self.touched.push(index);
        }
    }
}

/// Without settings there is no link, and a session is held.
const NO_LIMITS: UpLimits = UpLimits { messages_max: 1, bytes_max: 1 };

fn up_limits(settings: &LinkSettings) -> UpLimits {
    UpLimits { messages_max: settings.unacked_messages_max, bytes_max: settings.unacked_bytes_max }
}

/// Returns the settings of the links of a connection's route.
fn link_settings(connections: &Connections, index: u32) -> Option<&LinkSettings> {
    let backend = connections.route(index).application?;
    connections.config().backends.get(usize::from(backend))?.links.as_ref()
}

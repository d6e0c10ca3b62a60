//! The interface between hub sessions and client protocols. A session reads [`Command`]s and
//! answers with [`Reply`]s; the hub sends [`Event`](crate::hub::Event)s to clients directly, past
//! the session. A [`ClientProtocol`] only encodes and decodes these three. Rights, limits, order
//! and recovery belong to the session and the hub, and are the same for every protocol.

mod command;
mod content;
mod reply;

pub use command::{AppCommand, ClientRequest, Command, REQUEST_ID_BYTES_MAX, ResumePoint, Text};
pub use reply::{FreshGrant, Reply, ResumedAt, ResumedChannel, WelcomeLimits};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use content::ContentAlone;

use crate::hub::{EventEncoder, PROTOCOLS_MAX, ProtocolEncoder, ProtocolId, Storing};
use crate::proto::ws::CloseCode;

/// How a frame is divided into requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// The frame holds JSON objects, one after another; each is a request.
    #[default]
    JsonObjects,
    /// The whole frame is one request.
    WholeFrame,
}

/// A client protocol of the hub.
///
/// Requests and replies are text messages: a connection that sends a binary one is closed (1003).
/// Events may be binary.
pub trait ClientProtocol: EventEncoder {
    /// Returns the name by which clients choose the protocol (RFC 6455, section 1.9). `None`:
    /// clients get it by the route that they connect to; at most one protocol has no name.
    fn subprotocol(&self) -> Option<&'static str>;

    /// Returns how frames of the protocol are divided into requests.
    fn framing(&self) -> Framing;

    /// Reads one request. A malformed request is returned with an error as its command, so that it
    /// is rejected: see [`ClientRequest::command`].
    fn read_request<'f>(&self, request: &'f str) -> ClientRequest<'f>;

    /// Reads the request that starts at the first byte of the rest of a frame, and returns it with
    /// its length (bytes). An optional shortcut for frames of JSON objects. `None`: the caller
    /// searches for the end of the object and calls [`Self::read_request`]. Both paths must give
    /// the same result.
    fn read_plain_request<'f>(&self, _frame: &'f [u8]) -> Option<(ClientRequest<'f>, usize)> {
        None
    }

    /// Encodes a reply as the payload of a text message, in UTF-8. `None`: the protocol has no
    /// encoding for this reply.
    fn encode_reply(&self, reply: &Reply<'_>) -> Option<Vec<u8>>;

    /// Returns the close code that clients receive for one of the server's own.
    fn wire_code(&self, code: CloseCode) -> CloseCode {
        code
    }
}

/// The client protocols of a process, at least one. A client that chooses none uses the first.
///
/// Behind them is [`ProtocolId::CONTENT`], for members behind links.
#[derive(Clone, Debug)]
pub struct Protocols {
    /// By id; beyond the client protocols all are [`ContentAlone`].
    all: [&'static dyn ClientProtocol; PROTOCOLS_MAX],
    /// The number of client protocols.
    count: usize,
    /// There are members behind links, or were.
    has_links: Arc<AtomicBool>,
}

impl Protocols {
    /// Creates the list with one protocol; messages are stored in its encoding.
    pub fn new(stored: &'static dyn ClientProtocol) -> Self {
        let mut all: [&'static dyn ClientProtocol; PROTOCOLS_MAX] = [&ContentAlone; PROTOCOLS_MAX];
        all[ProtocolId::STORED.index()] = stored;
        Self { all, count: 1, has_links: Arc::default() }
    }

    /// Notes that there is a member behind a link: from now on, publications are accounted for with
    /// one more encoding.
    pub fn note_link(&self) {
        self.has_links.store(true, Relaxed);
    }

    /// Adds a protocol.
    ///
    /// # Panics
    /// The list is full ([`PROTOCOLS_MAX`]), or contains the subprotocol already.
    pub fn add(&mut self, protocol: &'static dyn ClientProtocol) {
        let most = ProtocolId::CONTENT.index();
        assert!(self.count < most, "publications have encodings for so many protocols");
        let is_known = self.find_by_name(protocol.subprotocol()).is_some();
        assert!(!is_known, "a subprotocol names one protocol");
        self.all[self.count] = protocol;
        self.count += 1;
    }

    /// Returns the protocol that a client has chosen by its subprotocol; the first one otherwise.
    pub fn choose(&self, subprotocol: Option<&str>) -> ProtocolId {
        subprotocol.and_then(|name| self.find(name)).unwrap_or(ProtocolId::STORED)
    }

    /// Returns the protocol with this subprotocol.
    pub fn find(&self, subprotocol: &str) -> Option<ProtocolId> {
        self.find_by_name(Some(subprotocol))
    }

    /// Returns the protocol that clients get by their route.
    pub fn find_by_route(&self) -> Option<ProtocolId> {
        self.find_by_name(None)
    }

    /// Returns the protocol with this subprotocol, or the one without any.
    pub fn find_by_name(&self, subprotocol: Option<&str>) -> Option<ProtocolId> {
        let chosen = &self.all[..self.count];
        ProtocolId::new(chosen.iter().position(|one| one.subprotocol() == subprotocol)?)
    }

    /// Returns the protocol with this id.
    pub fn get(&self, id: ProtocolId) -> &'static dyn ClientProtocol {
        self.all[id.index()]
    }

    /// Returns the encoder of a protocol's events.
    pub fn encoder(&self, id: ProtocolId) -> ProtocolEncoder {
        ProtocolEncoder { id, encoder: self.get(id) }
    }

    /// Returns how messages are stored: the encoding, and the number of encodings.
    pub fn storing(&self) -> Storing {
        let protocols = (self.count + usize::from(self.has_links.load(Relaxed))) as u8;
        Storing { encoder: self.get(ProtocolId::STORED), protocols }
    }
}

//! The seam between hub sessions and client protocols. A session reads [`Command`]s and answers
//! with [`Reply`]s; the hub sends its client [`Event`](crate::hub::Event)s, past the session. A
//! [`ClientProtocol`] is how these three look on the wire, and nothing else: rights, limits, order
//! and recovery are the session's and the hub's, whatever a client speaks.

mod command;
mod reply;

pub use command::{ClientRequest, Command, REQUEST_ID_BYTES_MAX, ResumePoint, Text};
pub use reply::{FreshGrant, Reply, ResumedAt, ResumedChannel, WelcomeLimits};

use crate::hub::{EventEncoder, PROTOCOLS_MAX, ProtocolEncoder, ProtocolId, Storing};

/// How a frame divides into requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// JSON objects, one behind the other.
    #[default]
    JsonObjects,
    /// One request.
    WholeFrame,
}

/// A protocol that clients of the hub speak.
///
/// Requests and replies are text messages: a connection that sends a binary one is closed (1003).
/// Events may be binary.
pub trait ClientProtocol: EventEncoder {
    /// The name by which clients choose it (RFC 6455, section 1.9).
    fn subprotocol(&self) -> &'static str;

    /// How its frames divide into requests.
    fn framing(&self) -> Framing;

    /// Reads one request. A request that cannot be read is one that is rejected: see
    /// [`ClientRequest::command`].
    fn read_request<'f>(&self, request: &'f str) -> ClientRequest<'f>;

    /// Reads the request that begins with the first byte of the rest of a frame, and returns its
    /// length too: an optional shortcut for frames of JSON objects. `None`: its end is to be
    /// looked for, and [`Self::read_request`] called. Both must lead to the same.
    fn read_plain_request<'f>(&self, _frame: &'f [u8]) -> Option<(ClientRequest<'f>, usize)> {
        None
    }

    /// Encodes a reply as a text message. `None`: the protocol has no such reply.
    fn encode_reply(&self, reply: &Reply<'_>) -> Option<String>;
}

/// The client protocols of a process, at least one. Clients that choose none speak the first.
#[derive(Clone, Debug)]
pub struct Protocols(Vec<&'static dyn ClientProtocol>);

impl Protocols {
    /// One protocol, in whose encoding messages are stored.
    pub fn new(stored: &'static dyn ClientProtocol) -> Self {
        Self(vec![stored])
    }

    /// Adds a protocol.
    ///
    /// # Panics
    /// There are [`PROTOCOLS_MAX`] already, or one with the same subprotocol.
    pub fn add(&mut self, protocol: &'static dyn ClientProtocol) {
        assert!(self.0.len() < PROTOCOLS_MAX, "publications have encodings for so many protocols");
        assert!(self.find(protocol.subprotocol()).is_none(), "a subprotocol names one protocol");
        self.0.push(protocol);
    }

    /// The protocol that a client has chosen by its subprotocol; the first one otherwise.
    pub fn choose(&self, subprotocol: Option<&str>) -> ProtocolId {
        subprotocol.and_then(|name| self.find(name)).unwrap_or(ProtocolId::STORED)
    }

    /// The protocol that a subprotocol names.
    pub fn find(&self, subprotocol: &str) -> Option<ProtocolId> {
        ProtocolId::new(self.0.iter().position(|one| one.subprotocol() == subprotocol)?)
    }

    /// A protocol by its id.
    ///
    /// # Panics
    /// The id is not of these protocols.
    pub fn get(&self, id: ProtocolId) -> &'static dyn ClientProtocol {
        self.0[id.index()]
    }

    /// How a protocol encodes events.
    pub fn encoder(&self, id: ProtocolId) -> ProtocolEncoder {
        ProtocolEncoder { id, encoder: self.get(id) }
    }

    /// How messages are stored.
    pub fn storing(&self) -> Storing {
        Storing { encoder: self.get(ProtocolId::STORED), protocols: self.0.len() as u8 }
    }
}

//! Records: a header of 20 bytes, and a body.
//!
//! ```text
//! u32 body bytes | u8 kind | u8 flags | 10 bytes session | u32 number      (big-endian)
//! ```
//!
//! A message of a link is a sequence of whole records. Records of unknown kinds are skipped, and
//! unknown flags are ignored, so that later versions may add some.

use std::fmt;

use crate::driver::Token;

/// The subprotocol of links.
pub const LINK_SUBPROTOCOL: &str = "seawall.link.v1";
/// The version in `hello`.
pub const LINK_VERSION: u32 = 1;
/// The length of a record's header.
pub const HEADER_BYTES: usize = 20;
/// The length of a session's id.
pub const SESSION_BYTES: usize = 10;
/// The longest reason of a close (RFC 6455, section 5.5: a control frame has 125 bytes, of which
/// the code takes two).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    Hello = 1,
    Open = 2,
    Accept = 3,
    Reject = 4,
    Text = 5,
    Binary = 6,
    Ack = 7,
    Sent = 8,
    Slow = 9,
    Ready = 10,
    Close = 11,
    State = 12,
    Many = 13,
    Ask = 14,
    Answer = 15,
    Command = 16,
    Result = 17,
    Drain = 18,
    Ping = 19,
    Pong = 20,
    Join = 21,
    Leave = 22,
    Joined = 23,
    Left = 24,
}

impl RecordKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::Hello,
        Self::Open,
        Self::Accept,
        Self::Reject,
        Self::Text,
        Self::Binary,
        Self::Ack,
        Self::Sent,
        Self::Slow,
        Self::Ready,
        Self::Close,
        Self::State,
        Self::Many,
        Self::Ask,
        Self::Answer,
        Self::Command,
        Self::Result,
        Self::Drain,
        Self::Ping,
        Self::Pong,
        Self::Join,
        Self::Leave,
        Self::Joined,
        Self::Left,
    ];

    /// Returns its name in the document.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; RecordKind::ALL.len()] = [
            "hello", "open", "accept", "reject", "text", "binary", "ack", "sent", "slow", "ready",
            "close", "state", "many", "ask", "answer", "command", "result", "drain", "ping",
            "pong", "join", "leave", "joined", "left",
        ];
        NAMES[self as usize - 1]
    }

    /// Returns the kind with this number; `None` if this version knows none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// The flags of a record.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordFlags(u8);

impl RecordFlags {
    /// The session was on another link before, or moves to another one.
    pub const MOVED: Self = Self(1);
    /// The message was sent before, on another link.
    pub const REDELIVERED: Self = Self(2);
    /// A `sent` is to follow.
    pub const RECEIPT: Self = Self(4);
    /// The payload of a `many` is binary.
    pub const BINARY: Self = Self(8);

    /// Returns the names of the flags that are set.
    pub fn names(self) -> Vec<&'static str> {
        let names = [
            (Self::MOVED, "moved"),
            (Self::REDELIVERED, "redelivered"),
            (Self::RECEIPT, "receipt"),
            (Self::BINARY, "binary"),
        ];
        let set = names.into_iter().filter(|(flag, _)| self.contains(*flag));
        set.map(|(_, name)| name).collect()
    }

    /// Returns whether all of these flags are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl fmt::Debug for RecordFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// A client's connection, as records name it: unique among the open connections of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkSession {
    pub shard: u16,
    pub token: Token,
}

impl LinkSession {
    /// In records about the link itself.
    pub const NONE: Self = Self { shard: 0, token: Token { slot: 0, generation: 0 } };

    /// Returns the bytes in a record.
    pub fn encode(self) -> [u8; SESSION_BYTES] {
        let mut bytes = [0; SESSION_BYTES];
        bytes[..2].copy_from_slice(&self.shard.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.token.slot.to_be_bytes());
        bytes[6..].copy_from_slice(&self.token.generation.to_be_bytes());
        bytes
    }

    /// Reverses [`Self::encode`]. Any bytes are an id, though mostly of no connection.
    pub fn decode(bytes: [u8; SESSION_BYTES]) -> Self {
        let [shard @ .., s0, s1, s2, s3, g0, g1, g2, g3] = bytes;
        let token = Token {
            slot: u32::from_be_bytes([s0, s1, s2, s3]),
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
        };
        Self { shard: u16::from_be_bytes(shard), token }
    }
}

/// A record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LinkRecord<'m> {
    /// The kind's number, which may be unknown.
    pub kind: u8,
    pub flags: RecordFlags,
    pub session: LinkSession,
    pub number: u32,
    pub body: &'m [u8],
}

impl<'m> LinkRecord<'m> {
    /// Makes a record without flags.
    pub fn new(kind: RecordKind, session: LinkSession, number: u32, body: &'m [u8]) -> Self {
        Self { kind: kind as u8, flags: RecordFlags::default(), session, number, body }
    }

    /// Sets flags.
    #[must_use]
    pub fn with(mut self, flags: RecordFlags) -> Self {
        self.flags.0 |= flags.0;
        self
    }

    /// Returns the kind; `None` if it is unknown, so that the record is to be skipped.
    pub fn known_kind(&self) -> Option<RecordKind> {
        RecordKind::from_number(self.kind)
    }

    /// Returns its length on the wire.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

impl fmt::Debug for LinkRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut record = f.debug_struct("LinkRecord");
        match self.known_kind() {
            Some(kind) => record.field("kind", &kind),
            None => record.field("kind", &self.kind),
        };
        record.field("flags", &self.flags).field("session", &self.session);
        record.field("number", &self.number).field("body_bytes", &self.body.len()).finish()
    }
}

/// Why a message of a link cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// It ends within a header.
    TruncatedHeader,
    /// It ends within a body.
    TruncatedBody,
    /// The body is longer than the limit.
    BodyTooLong,
}

impl WireError {
    /// Returns the reason for the peer.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TruncatedHeader => "a message ends within the header of a record",
            Self::TruncatedBody => "a message ends within the body of a record",
            Self::BodyTooLong => "the body of a record is longer than limits.record_bytes_max",
        }
    }
}

/// Appends a record.
///
/// # Panics
/// When the body has 4 GiB or more.
pub fn append_record(out: &mut Vec<u8>, record: &LinkRecord<'_>) {
    let len = u32::try_from(record.body.len()).expect("bodies are bounded by the message limit");
    out.reserve(record.wire_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[record.kind, record.flags.0]);
    out.extend_from_slice(&record.session.encode());
    out.extend_from_slice(&record.number.to_be_bytes());
    out.extend_from_slice(record.body);
}

/// The records of a message. Ends at the first error.
#[derive(Clone, Debug)]
pub struct Records<'m> {
    rest: &'m [u8],
    body_bytes_max: usize,
}

impl<'m> Records<'m> {
    /// Reads records with bodies up to a length.
    pub fn new(message: &'m [u8], body_bytes_max: usize) -> Self {
        Self { rest: message, body_bytes_max }
    }
}

impl<'m> Iterator for Records<'m> {
    type Item = Result<LinkRecord<'m>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = std::mem::take(&mut self.rest);
        if message.is_empty() {
            return None;
        }
        let Some((header, rest)) = message.split_first_chunk::<HEADER_BYTES>() else {
            return Some(Err(WireError::TruncatedHeader));
        };
        let [l0, l1, l2, l3, kind, flags, session @ .., n0, n1, n2, n3] = *header;
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if len > self.body_bytes_max {
            return Some(Err(WireError::BodyTooLong));
        }
        let Some((body, rest)) = rest.split_at_checked(len) else {
            return Some(Err(WireError::TruncatedBody));
        };
        self.rest = rest;
        Some(Ok(LinkRecord {
            kind,
            flags: RecordFlags(flags),
            session: LinkSession::decode(session),
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            body,
        }))
    }
}

/// Splits the body of a `many` into its sessions and the payload; `None` if it is too short for
/// this many sessions.
pub fn sessions_of_many(
    body: &[u8],
    count: u32,
) -> Option<(impl Iterator<Item = LinkSession> + '_, &[u8])> {
    let bytes = (count as usize).checked_mul(SESSION_BYTES)?;
    let (ids, payload) = body.split_at_checked(bytes)?;
    let (ids, _) = ids.as_chunks::<SESSION_BYTES>();
    Some((ids.iter().map(|id| LinkSession::decode(*id)), payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = (u8, u8, [u8; SESSION_BYTES], u32, Vec<u8>)> {
        (any::<u8>(), any::<u8>(), any::<[u8; SESSION_BYTES]>(), any::<u32>(), any::<Vec<u8>>())
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_appended(
            parts in prop::collection::vec(any_record(), 0..5),
        ) {
            let mut message = Vec::new();
            let as_record = |(kind, flags, session, number, body)| LinkRecord {
                kind,
                flags: RecordFlags(flags),
                session: LinkSession::decode(session),
                number,
                body,
            };
            let parts = parts.iter().map(|(kind, flags, session, number, body)| {
                (*kind, *flags, *session, *number, &**body)
            });
            let written: Vec<_> = parts.map(as_record).collect();
            written.iter().for_each(|record| append_record(&mut message, record));
            let read: Result<Vec<_>, _> = Records::new(&message, usize::MAX).collect();
            prop_assert_eq!(read.as_ref().map(Vec::as_slice), Ok(written.as_slice()));
            let total: usize = written.iter().map(LinkRecord::wire_bytes).sum();
            prop_assert_eq!(total, message.len());
            for cut in 0..message.len() {
                let read: Vec<_> = Records::new(&message[..cut], usize::MAX).collect();
                let whole = read.iter().take_while(|record| record.is_ok()).count();
                prop_assert!(read.len() <= whole + 1, "reading ends at the first error");
                let bytes: usize = written[..whole].iter().map(LinkRecord::wire_bytes).sum();
                prop_assert_eq!(read.len() == whole, bytes == cut, "a cut record is an error");
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_or_rejected(bytes in any::<Vec<u8>>(), count in any::<u32>()) {
            let read: usize = Records::new(&bytes, 64)
                .map_while(Result::ok)
                .map(|record| record.wire_bytes())
                .sum();
            prop_assert!(read <= bytes.len());
            if let Some((sessions, payload)) = sessions_of_many(&bytes, count) {
                let sessions: Vec<_> = sessions.collect();
                prop_assert_eq!(sessions.len() * SESSION_BYTES + payload.len(), bytes.len());
                prop_assert_eq!(sessions.len(), count as usize);
            }
        }
    }

    #[test]
    fn kinds_have_the_numbers_of_the_document() {
        for (at, kind) in RecordKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at + 1);
            assert_eq!(RecordKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!((RecordKind::from_number(0), RecordKind::from_number(25)), (None, None));
    }

    #[test]
    fn a_body_beyond_the_limit_is_rejected_before_it_arrives() {
        let mut message = Vec::new();
        let record = LinkRecord::new(RecordKind::Text, LinkSession::NONE, 1, b"12345");
        append_record(&mut message, &record);
        let read = |most| Records::new(&message, most).next();
        assert_eq!(read(4), Some(Err(WireError::BodyTooLong)));
        assert_eq!(read(5), Some(Ok(record)));
    }
}

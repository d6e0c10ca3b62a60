//! One publication: encoded once for each client protocol, and shared by every receiver on every
//! shard and by the history.
//!
//! A message is encoded for the first protocol as soon as it has its place, and its content is
//! stored within that encoding: a history of encodings beside contents would take nearly twice the
//! memory. Encodings for other protocols, and those of joins and leaves, are made when they are
//! first needed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::ChannelName;
use super::connection_id::ConnectionId;
use super::event::{ChannelMessage, Encoding, Event, EventEncoder, PROTOCOLS_MAX, Sender};
use super::position::Position;
use super::presence::MemberInfo;
use crate::proto::ws::deflate::SharedMessage;

/// What a join or leave counts for in queues, besides the text of its member (bytes).
const NEWS_BYTES: usize = 64;

/// A message that has no place in its channel yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// JSON without raw line ends.
    pub content: Box<str>,
    /// `None` for what a backend publishes.
    pub from: Option<Arc<Sender>>,
    /// The connection that does not receive it.
    pub exclude: Option<ConnectionId>,
    /// When it was accepted: Unix time (ms), and by the shards' clock (ns).
    pub time_ms: u64,
    pub accepted_ns: u64,
    /// The protocol `ProtocolId::STORED`.
    pub encoder: &'static dyn EventEncoder,
}

/// Where the content of a message is.
#[derive(Debug)]
enum Content {
    /// In the payload for the protocol `ProtocolId::STORED`.
    Stored { start: u32, end: u32 },
    /// Apart, because that protocol changes it.
    Apart(Box<str>),
}

#[derive(Debug)]
enum Subject {
    Message { from: Option<Arc<Sender>>, content: Content },
    Join(Arc<MemberInfo>),
    Leave(Arc<MemberInfo>),
}

/// An encoding, once it was needed; `None` in it: the protocol has no such event.
type Form = OnceLock<Option<SharedMessage>>;

/// Something to be sent to many: a message, or news about a channel's members.
#[derive(Debug)]
pub struct Publication {
    /// `None` for what is addressed to connections.
    pub channel: Option<ChannelName>,
    /// `None` for what has no place in the history.
    pub position: Option<Position>,
    pub exclude: Option<ConnectionId>,
    /// Unix time (ms).
    pub time_ms: u64,
    /// When it was accepted, by the shards' clock (ns).
    pub accepted_ns: u64,
    /// The offset of its predecessor.
    prev: u64,
    subject: Subject,
    stored: Form,
    others: OnceLock<Box<[Form; PROTOCOLS_MAX - 1]>>,
}

impl Publication {
    /// Gives a draft its place. `prev` is its predecessor's offset, where that is not one less.
    pub fn new(
        channel: &ChannelName,
        position: Position,
        prev: Option<u64>,
        draft: Draft,
    ) -> Arc<Self> {
        Self::from_draft(Some(channel), Some(position), prev, draft)
    }

    /// A message to connections, without a channel.
    pub fn direct(draft: Draft) -> Arc<Self> {
        Self::from_draft(None, None, None, draft)
    }

    /// A message with or without a channel and a position.
    pub fn from_draft(
        channel: Option<&ChannelName>,
        position: Option<Position>,
        prev: Option<u64>,
        draft: Draft,
    ) -> Arc<Self> {
        let Draft { content, from, exclude, time_ms, accepted_ns, encoder } = draft;
        let encoded = encoder.encode_event(&Event::Message(ChannelMessage {
            channel,
            position,
            prev,
            content: &content,
            from: from.as_deref(),
            time_ms,
        }));
        let within = encoded.as_ref().and_then(|encoded| encoded.content.clone());
        let content = match within.and_then(narrow) {
            Some((start, end)) => Content::Stored { start, end },
            None => Content::Apart(content),
        };
        let stored = encoded.map(|encoded| SharedMessage::new(encoded.kind, &encoded.payload));
        Arc::new(Self {
            channel: channel.cloned(),
            position,
            exclude,
            time_ms,
            accepted_ns,
            prev: prev.unwrap_or(position.map_or(0, |own| own.offset.saturating_sub(1))),
            subject: Subject::Message { from, content },
            stored: Form::from(stored),
            others: OnceLock::new(),
        })
    }

    /// A member has joined a channel.
    pub fn join(channel: &ChannelName, member: Arc<MemberInfo>) -> Arc<Self> {
        Self::news(channel, Subject::Join(member))
    }

    /// A member has left a channel.
    pub fn leave(channel: &ChannelName, member: Arc<MemberInfo>) -> Arc<Self> {
        Self::news(channel, Subject::Leave(member))
    }

    fn news(channel: &ChannelName, subject: Subject) -> Arc<Self> {
        Arc::new(Self {
            channel: Some(channel.clone()),
            position: None,
            exclude: None,
            time_ms: 0,
            accepted_ns: 0,
            prev: 0,
            subject,
            stored: Form::new(),
            others: OnceLock::new(),
        })
    }

    /// What it is about, as data.
    pub fn event(&self) -> Event<'_> {
        match (&self.subject, &self.channel) {
            (Subject::Join(member), Some(channel)) => Event::Join { channel, member },
            (Subject::Leave(member), Some(channel)) => Event::Leave { channel, member },
            (Subject::Message { .. }, _) => Event::Message(self.message()),
            (Subject::Join(_) | Subject::Leave(_), None) => {
                unreachable!("joins and leaves are made with their channel")
            }
        }
    }

    /// The message; of a join or leave, one without content.
    pub fn message(&self) -> ChannelMessage<'_> {
        let (from, content) = match &self.subject {
            Subject::Message { from, content } => (from.as_deref(), self.content(content)),
            Subject::Join(_) | Subject::Leave(_) => (None, "null"),
        };
        let expected = self.offset().saturating_sub(1);
        ChannelMessage {
            channel: self.channel.as_ref(),
            position: self.position,
            prev: (self.prev != expected).then_some(self.prev),
            content,
            from,
            time_ms: self.time_ms,
        }
    }

    fn content<'p>(&'p self, content: &'p Content) -> &'p str {
        match content {
            Content::Apart(content) => content,
            Content::Stored { start, end } => {
                let stored = self.stored.get().and_then(Option::as_ref);
                let bytes = stored.map_or(&[][..], |stored| stored.payload());
                let content = bytes.get(*start as usize..*end as usize).unwrap_or_default();
                debug_assert!(!content.is_empty(), "a content has at least one byte");
                std::str::from_utf8(content).unwrap_or_default()
            }
        }
    }

    /// The message for the clients of a protocol, encoded when it is first needed. `None`: the
    /// protocol has no such event.
    pub fn encoded(&self, encoding: Encoding) -> Option<&SharedMessage> {
        let form = match encoding.id.index().checked_sub(1) {
            None => &self.stored,
            Some(other) => &self.others.get_or_init(Box::default)[other],
        };
        let make = || {
            let encoded = encoding.encoder.encode_event(&self.event())?;
            Some(SharedMessage::new(encoded.kind, &encoded.payload))
        };
        form.get_or_init(make).as_ref()
    }

    /// Its offset; 0 for what has none.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }

    /// What it counts for in queues (bytes): the same for its whole life, and at least what it
    /// takes on the wire for the protocol `ProtocolId::STORED`.
    pub fn bytes(&self) -> usize {
        match &self.subject {
            Subject::Join(member) | Subject::Leave(member) => {
                member.text_bytes() as usize + NEWS_BYTES
            }
            Subject::Message { content, .. } => {
                let stored = self.stored.get().and_then(Option::as_ref);
                let stored = stored.map_or(0, |stored| stored.plain().len());
                match content {
                    Content::Stored { .. } => stored,
                    Content::Apart(content) => stored + content.len(),
                }
            }
        }
    }

    /// What it costs while it is kept (bytes): a compressed copy beside the plain one included.
    pub fn cost_bytes(&self) -> u64 {
        let bytes = self.bytes() as u64;
        size_of::<Self>() as u64 + 32 + bytes + bytes / 2
    }
}

/// A range of a payload in half the memory; payloads are far below 4 GiB.
fn narrow(range: Range<usize>) -> Option<(u32, u32)> {
    Some((u32::try_from(range.start).ok()?, u32::try_from(range.end).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::{Plain, Reversed};
    use crate::hub::{Epoch, MemberKey, ProtocolId};

    const ID: ConnectionId = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };

    fn draft(content: &str, encoder: &'static dyn EventEncoder) -> Draft {
        let from = Some(Arc::new(Sender { user: Some("ann".into()), connection: ID }));
        let content = content.into();
        Draft { content, from, exclude: Some(ID), time_ms: 5, accepted_ns: 6, encoder }
    }

    fn other() -> Encoding {
        Encoding { id: ProtocolId::new(1).unwrap(), encoder: &Reversed }
    }

    #[test]
    fn content_is_stored_once_where_the_first_protocol_keeps_it() {
        let channel = ChannelName::new("a");
        let position = Position { epoch: Epoch(9), offset: 7 };
        let long = "1".repeat(1000);
        let [kept, changed] = [&Plain as &'static dyn EventEncoder, &Reversed].map(|encoder| {
            let one = Publication::new(&channel, position, Some(3), draft(&long, encoder));
            let Event::Message(message) = one.event() else { panic!("it is a message") };
            assert_eq!((message.content, message.prev), (&*long, Some(3)));
            assert_eq!(message.from.unwrap().user.as_deref(), Some("ann"));
            one.bytes()
        });
        assert!((1000..1200).contains(&kept), "{kept}");
        assert!(changed > 2000, "{changed}");
    }

    #[test]
    fn each_protocol_has_its_encoding_made_once() {
        let one = Publication::direct(draft("12", &Plain));
        let stored = Encoding { id: ProtocolId::STORED, encoder: &Reversed };
        assert_eq!(one.encoded(stored).unwrap().payload(), b"- 12", "made when it was accepted");
        let first = one.encoded(other()).unwrap();
        assert_eq!(first.payload(), b"21 -");
        assert!(std::ptr::eq(first, one.encoded(other()).unwrap()));
    }

    #[test]
    fn joins_and_leaves_are_encoded_when_needed_and_not_where_there_are_none() {
        let info = None;
        let member = Arc::new(MemberInfo { key: MemberKey::Connection(ID), connection: ID, info });
        let channel = ChannelName::new("a");
        let join = Publication::join(&channel, member.clone());
        assert!(join.encoded(other()).is_none(), "that protocol has no joins");
        let stored = Encoding { id: ProtocolId::STORED, encoder: &Plain };
        assert_eq!(join.encoded(stored).unwrap().payload(), b"join a");
        let leave = Publication::leave(&channel, member);
        assert_eq!(leave.encoded(stored).unwrap().payload(), b"leave a");
        assert!(leave.bytes() > leave.encoded(stored).unwrap().plain().len());
    }
}

//! A publication: encoded once for each client protocol, and shared by all receivers on all shards
//! and by the history.
//!
//! A message is encoded for the first protocol as soon as it has its position, and its content is
//! stored only within that encoding: storing both would nearly double the memory of a history.
//! Encodings for other protocols, and those of joins and leaves, are created when first needed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::ChannelName;
use super::connection_id::ConnectionId;
use super::event::{
    ChannelMessage, Event, PROTOCOLS_MAX, ProtocolEncoder, ProtocolId, Sender, Storing,
};
use super::position::Position;
use super::presence::MemberInfo;
use crate::proto::ws::deflate::SharedMessage;

/// Maximum size of a join or leave, without its channel and its member (bytes).
const NEWS_BYTES: usize = 64;

/// Memory of a reference count (bytes).
const ARC_BYTES: usize = 2 * size_of::<usize>();

/// A message without a position in its channel.
#[derive(Clone, Debug)]
pub struct Draft {
    /// JSON without raw line breaks.
    pub content: Box<str>,
    /// `None` if a backend publishes it.
    pub from: Option<Arc<Sender>>,
    /// The connection that does not receive it.
    pub exclude: Option<ConnectionId>,
    /// The time of acceptance: Unix (ms), and on the shards' clock (ns).
    pub time_ms: u64,
    pub accepted_ns: u64,
    pub storing: Storing,
}

/// The place of a message's content.
#[derive(Debug)]
enum Content {
    /// A range of the payload of the stored encoding.
    Stored { start: u32, end: u32 },
    /// Stored separately, because the stored encoding does not contain it verbatim.
    Apart(Box<str>),
}

#[derive(Debug)]
enum Subject {
    Message { from: Option<Arc<Sender>>, content: Content },
    Join(ChannelName, Arc<MemberInfo>),
    Leave(ChannelName, Arc<MemberInfo>),
    PresenceGap(ChannelName),
}

/// An encoding, created when first needed; `None` if the protocol has no such event.
type Form = OnceLock<Option<SharedMessage>>;

/// The encoding for the protocol [`ProtocolId::STORED`].
#[derive(Debug)]
enum Stored {
    /// Of a message: created together with its position.
    Made(Option<SharedMessage>),
    /// Of a join or leave: created when first needed, if at all.
    Needed(Box<Form>),
}

/// An event for many receivers: a message, a join or a leave.
#[derive(Debug)]
pub struct Publication {
    /// `None` for a message addressed to connections.
    pub channel: Option<ChannelName>,
    /// `None` for an event that is not part of the history.
    pub position: Option<Position>,
    pub exclude: Option<ConnectionId>,
    /// Unix time (ms).
    pub time_ms: u64,
    /// The time of acceptance on the shards' clock (ns).
    pub accepted_ns: u64,
    /// The offset of its predecessor.
    prev: u64,
    subject: Subject,
    /// The number of client protocols in the process.
    protocols: u8,
    /// The encoding for the protocol [`ProtocolId::STORED`]; a message always has it.
    stored: Stored,
    others: OnceLock<Box<[Form; PROTOCOLS_MAX - 1]>>,
}

// A history may hold millions of them.
const _: () = assert!(size_of::<Publication>() <= 184);

impl Publication {
    /// Creates the publication of a draft that got its position. `prev` is the offset of its
    /// predecessor, if that is not the offset before its own.
    pub fn new(
        channel: &ChannelName,
        position: Position,
        prev: Option<u64>,
        draft: Draft,
    ) -> Arc<Self> {
        Self::from_draft(Some(channel), Some(position), prev, draft)
    }

    /// Creates a message to connections, without a channel.
    pub fn new_direct(draft: Draft) -> Arc<Self> {
        Self::from_draft(None, None, None, draft)
    }

    /// Creates a message with or without a channel and a position.
    pub fn from_draft(
        channel: Option<&ChannelName>,
        position: Option<Position>,
        prev: Option<u64>,
        draft: Draft,
    ) -> Arc<Self> {
        let Draft { content, from, exclude, time_ms, accepted_ns, storing } = draft;
        let expected = position.map_or(0, |own| own.offset.saturating_sub(1));
        let prev = prev.unwrap_or(expected);
        let encoded = storing.encoder.encode_event(&Event::Message(ChannelMessage {
            channel,
            position,
            prev: (prev != expected).then_some(prev),
            content: &content,
            from: from.as_deref(),
            time_ms,
        }));
        let range = encoded.as_ref().and_then(|encoded| {
            let range = encoded.content.clone()?;
            let within = encoded.payload.get(range.clone());
            debug_assert_eq!(within, Some(content.as_bytes()), "the range is that of the content");
            // A wrong range must not corrupt content: in that case it is stored separately.
            within.filter(|within| within.len() == content.len()).and_then(|_| narrow_range(range))
        });
        let content = match range {
            Some((start, end)) => Content::Stored { start, end },
            None => Content::Apart(content),
        };
        let stored = encoded.map(|encoded| SharedMessage::new(encoded.kind, encoded.payload));
        Arc::new(Self {
            channel: channel.cloned(),
            position,
            exclude,
            time_ms,
            accepted_ns,
            prev,
            subject: Subject::Message { from, content },
            protocols: storing.protocols,
            stored: Stored::Made(stored),
            others: OnceLock::new(),
        })
    }

    /// Creates the event of a member that has joined.
    pub fn new_join(channel: &ChannelName, member: Arc<MemberInfo>) -> Arc<Self> {
        Self::new_membership(channel, Subject::Join(channel.clone(), member))
    }

    /// Creates the event of a member that has left.
    pub fn new_leave(channel: &ChannelName, member: Arc<MemberInfo>) -> Arc<Self> {
        Self::new_membership(channel, Subject::Leave(channel.clone(), member))
    }

    /// Creates the event that joins or leaves were missed.
    pub fn new_presence_gap(channel: &ChannelName) -> Arc<Self> {
        Self::new_membership(channel, Subject::PresenceGap(channel.clone()))
    }

    fn new_membership(channel: &ChannelName, subject: Subject) -> Arc<Self> {
        Arc::new(Self {
            channel: Some(channel.clone()),
            position: None,
            exclude: None,
            time_ms: 0,
            accepted_ns: 0,
            prev: 0,
            subject,
            protocols: 1,
            stored: Stored::Needed(Box::default()),
            others: OnceLock::new(),
        })
    }

    /// Returns the event.
    pub fn event(&self) -> Event<'_> {
        match &self.subject {
            Subject::Join(channel, member) => Event::Join { channel, member },
            Subject::Leave(channel, member) => Event::Leave { channel, member },
            Subject::PresenceGap(channel) => Event::PresenceGap { channel },
            Subject::Message { from, content } => {
                let expected = self.offset().saturating_sub(1);
                Event::Message(ChannelMessage {
                    channel: self.channel.as_ref(),
                    position: self.position,
                    prev: (self.prev != expected).then_some(self.prev),
                    content: self.content(content),
                    from: from.as_deref(),
                    time_ms: self.time_ms,
                })
            }
        }
    }

    /// Returns the message; `None` for a join or leave.
    pub fn message(&self) -> Option<ChannelMessage<'_>> {
        match self.event() {
            Event::Message(message) => Some(message),
            _ => None,
        }
    }

    fn content<'p>(&'p self, content: &'p Content) -> &'p str {
        match content {
            Content::Apart(content) => content,
            Content::Stored { start, end } => {
                let stored = self.stored_form().expect("the content is stored in it");
                let content = &stored.payload()[*start as usize..*end as usize];
                std::str::from_utf8(content).expect("the content was a text")
            }
        }
    }

    fn stored_form(&self) -> Option<&SharedMessage> {
        match &self.stored {
            Stored::Made(stored) => stored.as_ref(),
            Stored::Needed(form) => form.get()?.as_ref(),
        }
    }

    /// Returns the encoding for the clients of a protocol, and creates it if needed. `None`: the
    /// protocol has no such event.
    ///
    /// Shards that need it at the same time do not wait for each other: each encodes it, and the
    /// first one to finish is kept.
    #[inline]
    pub fn encoded(&self, by: ProtocolEncoder) -> Option<&SharedMessage> {
        if by.id == ProtocolId::STORED
            && let Stored::Made(stored) = &self.stored
        {
            return stored.as_ref();
        }
        self.encoded_now(by)
    }

    /// Creates the encoding, unless another shard has.
    fn encoded_now(&self, by: ProtocolEncoder) -> Option<&SharedMessage> {
        let form = match by.id.index().checked_sub(1) {
            None => match &self.stored {
                Stored::Made(stored) => return stored.as_ref(),
                Stored::Needed(form) => form,
            },
            Some(other) => &self.others.get_or_init(Box::default)[other],
        };
        if form.get().is_none() {
            let encoded = by.encoder.encode_event(&self.event());
            let encoded = encoded.map(|one| SharedMessage::new(one.kind, one.payload));
            // Fails if another shard was faster; its encoding is used then.
            let _ = form.set(encoded);
        }
        form.get()?.as_ref()
    }

    /// Returns its offset; 0 if it has none.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }

    /// Returns its size in queues (bytes): constant for its whole life, and at least the size of
    /// the stored encoding.
    pub fn bytes(&self) -> usize {
        match &self.subject {
            Subject::Join(channel, member) | Subject::Leave(channel, member) => {
                member.encoded_bytes_max() + channel.as_str().len() + NEWS_BYTES
            }
            Subject::PresenceGap(channel) => channel.as_str().len() + NEWS_BYTES,
            Subject::Message { content, .. } => {
                let stored = self.stored_form().map_or(0, |stored| stored.plain().len());
                match content {
                    Content::Stored { .. } => stored,
                    Content::Apart(content) => stored + content.len(),
                }
            }
        }
    }

    /// Returns its memory while it is retained (bytes), assuming a plain and a compressed copy for
    /// each protocol.
    pub fn cost_bytes(&self) -> u64 {
        let bytes = self.bytes();
        let sender = match &self.subject {
            Subject::Message { from: Some(from), .. } => {
                let user = from.user.as_ref().map_or(0, |user| ARC_BYTES + user.len());
                ARC_BYTES + size_of::<Sender>() + user
            }
            _ => 0,
        };
        let encodings = (bytes + bytes / 2) * usize::from(self.protocols);
        (size_of::<Self>() + 2 * ARC_BYTES + sender + encodings) as u64
    }
}

/// Narrows a range to half the memory; payloads are far below 4 GiB. `None`: it does not fit.
fn narrow_range(range: Range<usize>) -> Option<(u32, u32)> {
    Some((u32::try_from(range.start).ok()?, u32::try_from(range.end).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::{Plain, Reversed};
    use crate::hub::{Epoch, EventEncoder, MemberKey};

    const ID: ConnectionId = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };

    fn make_draft(content: &str, encoder: &'static dyn EventEncoder) -> Draft {
        let from = Some(Arc::new(Sender { user: Some("ann".into()), connection: ID }));
        let content = content.into();
        let storing = Storing::with_only(encoder);
        Draft { content, from, exclude: Some(ID), time_ms: 5, accepted_ns: 6, storing }
    }

    fn make_other_encoder() -> ProtocolEncoder {
        ProtocolEncoder { id: ProtocolId::new(1).unwrap(), encoder: &Reversed }
    }

    #[test]
    fn content_is_stored_once_where_the_first_protocol_keeps_it() {
        let channel = ChannelName::new("a");
        let position = Position { epoch: Epoch(9), offset: 7 };
        let long = "1".repeat(1000);
        let [kept, changed] = [&Plain as &'static dyn EventEncoder, &Reversed].map(|encoder| {
            let one = Publication::new(&channel, position, Some(3), make_draft(&long, encoder));
            let message = one.message().expect("it is a message");
            assert_eq!((message.content, message.prev), (&*long, Some(3)));
            assert_eq!(message.from.unwrap().user.as_deref(), Some("ann"));
            one.bytes()
        });
        assert!((1000..1200).contains(&kept), "{kept}");
        assert!(changed > 2000, "{changed}");
    }

    #[test]
    fn the_offset_of_a_predecessor_is_named_where_it_is_not_one_less() {
        let channel = ChannelName::new("a");
        for (offset, prev, named) in
            [(7, Some(6), None), (7, Some(3), Some(3)), (7, None, None), (1, Some(0), None)]
        {
            let position = Position { epoch: Epoch(9), offset };
            let one = Publication::new(&channel, position, prev, make_draft("1", &Plain));
            assert_eq!(one.message().unwrap().prev, named);
        }
    }

    #[test]
    fn each_protocol_has_its_encoding_made_once() {
        let one = Publication::new_direct(make_draft("12", &Plain));
        let stored = ProtocolEncoder { id: ProtocolId::STORED, encoder: &Reversed };
        assert_eq!(one.encoded(stored).unwrap().payload(), b"- 12", "made when it was accepted");
        let first = one.encoded(make_other_encoder()).unwrap();
        assert_eq!(first.payload(), b"21 -");
        assert!(std::ptr::eq(first, one.encoded(make_other_encoder()).unwrap()));
    }

    #[test]
    fn joins_and_leaves_are_encoded_when_needed_and_not_where_there_are_none() {
        let info = None;
        let member = Arc::new(MemberInfo { key: MemberKey::Connection(ID), connection: ID, info });
        let channel = ChannelName::new("a");
        let join = Publication::new_join(&channel, member.clone());
        assert!(join.encoded(make_other_encoder()).is_none(), "that protocol has no joins");
        let stored = ProtocolEncoder { id: ProtocolId::STORED, encoder: &Plain };
        assert_eq!(join.encoded(stored).unwrap().payload(), b"join a");
        let leave = Publication::new_leave(&channel, member);
        assert_eq!(leave.encoded(stored).unwrap().payload(), b"leave a");
        assert!(leave.bytes() > leave.encoded(stored).unwrap().plain().len());
    }
}

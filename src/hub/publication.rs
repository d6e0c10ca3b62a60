//! One publication: encoded once, shared by every receiver on every shard, and by the history.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ChannelName;
use crate::proto::ws::DataKind;
use crate::proto::ws::deflate::SharedMessage;

/// What a channel's offsets count in: a new one begins when its past is lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Epoch {
    /// Reads what [`fmt::Display`] writes; any other text names an epoch that never was.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

/// A place in a channel: of the last message that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: Epoch,
    pub offset: u64,
}

/// A place that a client names: its epoch may be none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    pub epoch: Option<Epoch>,
    pub offset: u64,
}

/// A connection, unique in a cluster: never a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Chosen at random when the process starts.
    pub node: u32,
    pub shard: u16,
    /// Where its shard keeps it.
    pub slot: u32,
    /// Counts the connections of a shard. It may begin again: a slot has another by then.
    pub serial: u32,
}

/// Bytes of a connection's id before they are written as text.
const ID_BYTES: usize = 14;

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; ID_BYTES];
        bytes[..4].copy_from_slice(&self.node.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.shard.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.slot.to_be_bytes());
        bytes[10..].copy_from_slice(&self.serial.to_be_bytes());
        let mut text = [0; ID_BYTES.div_ceil(3) * 4];
        let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        let len = written.map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

impl ConnectionId {
    /// Before and behind all others in their order.
    pub(super) const FIRST: Self = Self { node: 0, shard: 0, slot: 0, serial: 0 };
    pub(super) const LAST: Self =
        Self { node: u32::MAX, shard: u16::MAX, slot: u32::MAX, serial: u32::MAX };

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (node, rest) = bytes.split_first_chunk::<4>()?;
        let (shard, rest) = rest.split_first_chunk::<2>()?;
        let (slot, serial) = rest.split_first_chunk::<4>()?;
        Some(Self {
            node: u32::from_be_bytes(*node),
            shard: u16::from_be_bytes(*shard),
            slot: u32::from_be_bytes(*slot),
            serial: u32::from_be_bytes(serial.try_into().ok()?),
        })
    }
}

/// A message that has no place in its channel yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// JSON without raw line ends.
    pub content: Box<str>,
    /// The sender as a JSON object; `None` for what a backend publishes.
    pub from: Option<Arc<str>>,
    /// Who is not to get it.
    pub exclude: Option<ConnectionId>,
    /// When it was accepted: Unix time (ms), and by the shards' clock (ns).
    pub time_ms: u64,
    pub accepted_ns: u64,
}

/// Something to be sent to many: a message of a channel, or news about its members.
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
    message: SharedMessage,
}

impl Publication {
    /// Gives a draft its place. `prev` is its predecessor's offset, where that is not one less.
    pub fn new(
        channel: &ChannelName,
        position: Position,
        prev: Option<u64>,
        draft: &Draft,
    ) -> Arc<Self> {
        let mut text = Vec::with_capacity(draft.content.len() + channel.as_str().len() + 128);
        // A name needs no escapes: it has no character that JSON knows of.
        let written = write!(
            text,
            r#"{{"type":"message","channel":"{channel}","offset":{}"#,
            position.offset
        );
        debug_assert!(written.is_ok(), "writing to a vector does not fail");
        if let Some(prev) = prev {
            let _ = write!(text, r#","prev":{prev}"#);
        }
        Self::finish(&mut text, draft);
        Arc::new(Self {
            channel: Some(channel.clone()),
            position: Some(position),
            exclude: draft.exclude,
            time_ms: draft.time_ms,
            accepted_ns: draft.accepted_ns,
            message: SharedMessage::new(DataKind::Text, &text),
        })
    }

    /// A message to connections, without a channel.
    pub fn direct(draft: &Draft) -> Arc<Self> {
        let mut text = br#"{"type":"message""#.to_vec();
        Self::finish(&mut text, draft);
        Arc::new(Self {
            channel: None,
            position: None,
            exclude: draft.exclude,
            time_ms: draft.time_ms,
            accepted_ns: draft.accepted_ns,
            message: SharedMessage::new(DataKind::Text, &text),
        })
    }

    /// News about a channel's members, written already.
    pub fn news(channel: &ChannelName, text: &str, accepted_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            channel: Some(channel.clone()),
            position: None,
            exclude: None,
            time_ms: 0,
            accepted_ns,
            message: SharedMessage::new(DataKind::Text, text.as_bytes()),
        })
    }

    /// One that was written elsewhere.
    pub fn written(
        (channel, position): (Option<ChannelName>, Option<Position>),
        exclude: Option<ConnectionId>,
        time_ms: u64,
        accepted_ns: u64,
        text: &str,
    ) -> Arc<Self> {
        let message = SharedMessage::new(DataKind::Text, text.as_bytes());
        Arc::new(Self { channel, position, exclude, time_ms, accepted_ns, message })
    }

    fn finish(text: &mut Vec<u8>, draft: &Draft) {
        text.extend_from_slice(br#","content":"#);
        text.extend_from_slice(draft.content.as_bytes());
        if let Some(from) = &draft.from {
            text.extend_from_slice(br#","from":"#);
            text.extend_from_slice(from.as_bytes());
        }
        let _ = write!(text, r#","time":{}}}"#, draft.time_ms);
    }

    /// The message for receivers of any kind.
    pub fn message(&self) -> &SharedMessage {
        &self.message
    }

    /// The JSON object.
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.message.payload()).unwrap_or_default()
    }

    /// Its offset; 0 for what has none.
    pub fn offset(&self) -> u64 {
        self.position.map_or(0, |position| position.offset)
    }

    /// What it costs while it is kept (bytes): a compressed copy beside the plain one included.
    pub fn cost_bytes(&self) -> u64 {
        let plain = self.message.plain().len() as u64;
        size_of::<Self>() as u64 + 32 + plain + plain / 2
    }
}

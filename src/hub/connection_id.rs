//! The id of a connection.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A connection, unique in a cluster: never a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Chosen at random when the process starts.
    pub node: u32,
    pub shard: u16,
    /// The key of its session there.
    pub session: u32,
    /// Counts the sessions of a shard. It may wrap: the key belongs to another session by then.
    pub serial: u32,
}

/// Bytes of a connection's id before they are written as text.
const ID_BYTES: usize = 14;

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; ID_BYTES.div_ceil(3) * 4];
        let written = URL_SAFE_NO_PAD.encode_slice(self.bytes(), &mut text);
        let len = written.map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

impl ConnectionId {
    /// Before and behind all others in their order.
    pub(super) const FIRST: Self = Self { node: 0, shard: 0, session: 0, serial: 0 };
    pub(super) const LAST: Self =
        Self { node: u32::MAX, shard: u16::MAX, session: u32::MAX, serial: u32::MAX };

    fn bytes(self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
        bytes[..4].copy_from_slice(&self.node.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.shard.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.session.to_be_bytes());
        bytes[10..].copy_from_slice(&self.serial.to_be_bytes());
        bytes
    }

    /// Appends what [`fmt::Display`] writes, without a formatter: each message names its sender.
    pub fn push_to(self, text: &mut String) {
        URL_SAFE_NO_PAD.encode_string(self.bytes(), text);
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (node, rest) = bytes.split_first_chunk::<4>()?;
        let (shard, rest) = rest.split_first_chunk::<2>()?;
        let (session, serial) = rest.split_first_chunk::<4>()?;
        Some(Self {
            node: u32::from_be_bytes(*node),
            shard: u16::from_be_bytes(*shard),
            session: u32::from_be_bytes(*session),
            serial: u32::from_be_bytes(serial.try_into().ok()?),
        })
    }
}

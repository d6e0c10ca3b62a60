//! Connection ids.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A connection id, unique in a cluster. It is public: knowing it grants no rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// Random, chosen when the process starts.
    pub node: u32,
    pub shard: u16,
    /// The key of its session on the shard.
    pub session: u32,
    /// A counter of the shard's sessions. When it wraps, the key belongs to another session.
    pub serial: u32,
}

/// Bytes of an id before its encoding as text.
pub const ID_BYTES: usize = 14;

/// Bytes of the text: base64url without padding.
const TEXT_BYTES: usize = (ID_BYTES * 4).div_ceil(3);

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode_text();
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl ConnectionId {
    /// The first and the last id in their order.
    pub(super) const FIRST: Self = Self { node: 0, shard: 0, session: 0, serial: 0 };
    pub(super) const LAST: Self =
        Self { node: u32::MAX, shard: u16::MAX, session: u32::MAX, serial: u32::MAX };

    /// Returns the id as bytes.
    pub fn bytes(self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
        bytes[..4].copy_from_slice(&self.node.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.shard.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.session.to_be_bytes());
        bytes[10..].copy_from_slice(&self.serial.to_be_bytes());
        bytes
    }

    /// Encodes what [`fmt::Display`] writes.
    fn encode_text(self) -> [u8; TEXT_BYTES] {
        // Two words of whole digits: the first has ten, the second nine, the last of them padded.
        let [node, shard, session, serial] =
            [self.node, self.shard.into(), self.session, self.serial].map(u64::from);
        let first = node << 28 | shard << 12 | session >> 20;
        let second = (session & 0xf_ffff) << 34 | serial << 2;
        let mut text = [0; TEXT_BYTES];
        let (start, end) = text.split_at_mut(10);
        for (digits, mut word) in [(start, first), (end, second)] {
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[(word & 0x3f) as usize];
                word >>= 6;
            }
        }
        text
    }

    /// Appends what [`fmt::Display`] writes. Each message names its sender: a formatter or a
    /// general encoder would take a tenth of the instructions of a publish.
    pub fn push_to(self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.encode_text());
    }

    /// Parses what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).ok()?)
    }

    /// Reads what [`Self::bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_are_written_as_base64_and_read_again(
            node in any::<u32>(),
            shard in any::<u16>(),
            session in any::<u32>(),
            serial in any::<u32>(),
        ) {
            let id = ConnectionId { node, shard, session, serial };
            let expected = URL_SAFE_NO_PAD.encode(id.bytes());
            prop_assert_eq!(id.to_string(), &*expected);
            let mut text = vec![b'x'];
            id.push_to(&mut text);
            prop_assert_eq!(&text[1..], expected.as_bytes());
            prop_assert_eq!(ConnectionId::parse(&expected), Some(id));
        }
    }
}

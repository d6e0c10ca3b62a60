//! A message as nodes exchange it through the engine.
//!
//! The format begins with its version. A node that reads a version it does not know treats the
//! message as lost, so that nodes of adjacent releases may run side by side.

use std::sync::Arc;

use crate::hub::{ConnectionId, Draft, ID_BYTES, Sender, Storing};

const VERSION: u8 = 1;
const HAS_EXCLUDE: u8 = 1;
const HAS_SENDER: u8 = 1 << 1;
const HAS_USER: u8 = 1 << 2;
/// Version, flags, origin, time of acceptance.
const HEAD_BYTES: usize = 2 + 8 + 8;

/// A message without the position and time that the engine assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// A random number of the process that sent it.
    pub origin: u64,
    /// The time of acceptance, on the clock of that process (ns).
    pub accepted_ns: u64,
    pub exclude: Option<ConnectionId>,
    pub from: Option<Arc<Sender>>,
    /// JSON without raw line breaks.
    pub content: Box<str>,
}

impl Envelope {
    /// Encodes a draft of the process with this origin.
    pub fn encode_draft(draft: &Draft, origin: u64) -> Box<[u8]> {
        let user = draft.from.as_ref().and_then(|from| from.user.as_deref());
        let names = 2 * ID_BYTES + 2 + user.map_or(0, str::len);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + names + draft.content.len());
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(draft.exclude.is_some(), HAS_EXCLUDE)
            | flag(draft.from.is_some(), HAS_SENDER)
            | flag(user.is_some(), HAS_USER);
        bytes.extend([VERSION, flags]);
        bytes.extend(origin.to_be_bytes());
        bytes.extend(draft.accepted_ns.to_be_bytes());
        bytes.extend(draft.exclude.iter().flat_map(|id| id.bytes()));
        if let Some(from) = &draft.from {
            bytes.extend(from.connection.bytes());
        }
        if let Some(user) = user {
            // Users come from tokens and certificates, whose size is limited far below this.
            let user = user.as_bytes();
            assert!(user.len() <= u16::MAX.into(), "a user's name is short");
            bytes.extend((user.len() as u16).to_be_bytes());
            bytes.extend(user);
        }
        bytes.extend(draft.content.as_bytes());
        bytes.into()
    }

    /// Decodes an envelope. `None`: it is of another version, or no envelope.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, flags], rest) = bytes.split_first_chunk()?;
        if version != VERSION || flags & !(HAS_EXCLUDE | HAS_SENDER | HAS_USER) != 0 {
            return None;
        }
        let (origin, rest) = rest.split_first_chunk()?;
        let (accepted_ns, mut rest) = rest.split_first_chunk()?;
        let mut take_id = |is_there: bool| -> Option<Option<ConnectionId>> {
            if !is_there {
                return Some(None);
            }
            let (id, after) = rest.split_at_checked(ID_BYTES)?;
            rest = after;
            ConnectionId::from_bytes(id).map(Some)
        };
        let exclude = take_id(flags & HAS_EXCLUDE != 0)?;
        let connection = take_id(flags & HAS_SENDER != 0)?;
        let mut user = None;
        if flags & HAS_USER != 0 {
            let (length, after) = rest.split_first_chunk()?;
            let (name, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
            user = Some(Arc::from(std::str::from_utf8(name).ok()?));
            rest = after;
        }
        let from = connection.map(|connection| Arc::new(Sender { user, connection }));
        Some(Self {
            origin: u64::from_be_bytes(*origin),
            accepted_ns: u64::from_be_bytes(*accepted_ns),
            exclude,
            from,
            content: std::str::from_utf8(rest).ok()?.into(),
        })
    }

    /// Turns it into the draft of a publication. `accepted_ns`: 0 for a delivery that is not timed.
    pub fn into_draft(self, time_ms: u64, accepted_ns: u64, storing: Storing) -> Draft {
        let Self { exclude, from, content, .. } = self;
        Draft { content, from, exclude, time_ms, accepted_ns, storing }
    }
}

/// Reads the time at which the process with this origin accepted the message, on its own clock
/// (ns). `None`: another process did.
pub(super) fn read_own_time(bytes: &[u8], own_origin: u64) -> Option<u64> {
    let (&[version, _], rest) = bytes.split_first_chunk()?;
    let (origin, rest) = rest.split_first_chunk()?;
    let (accepted_ns, _) = rest.split_first_chunk()?;
    let is_own = version == VERSION && u64::from_be_bytes(*origin) == own_origin;
    is_own.then(|| u64::from_be_bytes(*accepted_ns))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::testing::Plain;

    fn make_id(n: u32) -> ConnectionId {
        ConnectionId { node: n, shard: n as u16, session: !n, serial: n / 3 }
    }

    proptest! {
        #[test]
        fn decoding_an_encoded_draft_is_identity(
            content in "\\PC{0,40}",
            user in proptest::option::of("\\PC{0,20}"),
            ids in any::<(Option<u32>, Option<u32>)>(),
            (origin, accepted_ns) in any::<(u64, u64)>(),
        ) {
            let from = ids.0.map(|n| {
                Arc::new(Sender { user: user.as_deref().map(Arc::from), connection: make_id(n) })
            });
            let draft = Draft {
                content: content.into(),
                from,
                exclude: ids.1.map(make_id),
                time_ms: 0,
                accepted_ns,
                storing: Storing::with_only(&Plain),
            };
            let bytes = Envelope::encode_draft(&draft, origin);
            let own = Envelope::decode(&bytes).expect("it was encoded");
            prop_assert_eq!((own.origin, own.accepted_ns), (origin, accepted_ns));
            prop_assert_eq!(&own.content, &draft.content);
            prop_assert_eq!(&own.from, &draft.from);
            prop_assert_eq!(own.exclude, draft.exclude);
            // No prefix that cuts the head makes it panic, nor do other bytes.
            for end in 0..bytes.len() {
                let _ = Envelope::decode(&bytes[..end]);
                let _ = read_own_time(&bytes[..end], origin);
            }
            prop_assert_eq!(read_own_time(&bytes, origin), Some(accepted_ns));
            prop_assert_eq!(read_own_time(&bytes, !origin), None);
        }

        #[test]
        fn other_bytes_are_rejected_without_panic(bytes: Vec<u8>) {
            if bytes.first() != Some(&VERSION) {
                prop_assert_eq!(Envelope::decode(&bytes), None);
            }
            let mut named = bytes;
            named.insert(0, VERSION);
            let _ = Envelope::decode(&named);
        }
    }
}

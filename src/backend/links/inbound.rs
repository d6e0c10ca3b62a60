//! Sorts the records of a message by the shards that they are for. No sockets, no clock.

use crate::link::{
    LinkRecord, LinkSession, RecordKind, Records, SESSION_BYTES, append_record, sessions_of_many,
};

/// The longest opaque body of a ping.
const PING_BYTES_MAX: usize = 125;

/// A record about the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkNotice<'m> {
    /// No new sessions on this link.
    Drain,
    Ping(&'m [u8]),
    Pong(&'m [u8]),
    /// The answer to a question with this number.
    Answer(u32, &'m [u8]),
    /// A command with the application's number for it.
    Command(u32, &'m [u8]),
}

/// Records by shard. The caller takes them after each message.
#[derive(Debug)]
pub(super) struct Sorter {
    body_bytes_max: usize,
    /// Whole records, by shard.
    records: Vec<Vec<u8>>,
    /// Shards that have records, in the order of their first one.
    touched: Vec<u16>,
    /// The sessions of one `many`, by shard; empty between records.
    sessions: Vec<Vec<u8>>,
}

impl Sorter {
    /// Makes a sorter for this number of shards, and bodies up to this length.
    pub(super) fn new(shards: u16, body_bytes_max: usize) -> Self {
        let empty = || vec![Vec::new(); shards.into()];
        Self { body_bytes_max, records: empty(), touched: Vec::new(), sessions: empty() }
    }

    /// Sorts the records of a message; returns their number.
    ///
    /// # Errors
    /// The message is wrong: the reason for the peer. Nothing of it is to be taken then.
    pub(super) fn sort(
        &mut self,
        message: &[u8],
        mut notice: impl FnMut(LinkNotice<'_>),
    ) -> Result<u64, &'static str> {
        let mut count = 0;
        for record in Records::new(message, self.body_bytes_max) {
            let record = record.map_err(crate::link::WireError::reason)?;
            count += 1;
            let Some(kind) = record.known_kind() else { continue };
            match kind {
                RecordKind::Hello => return Err("a second `hello`"),
                RecordKind::Open
                | RecordKind::Sent
                | RecordKind::Slow
                | RecordKind::Ready
                | RecordKind::Ask
                | RecordKind::Result
                | RecordKind::Joined
                | RecordKind::Left => return Err("a record of a kind that only nodes send"),
                RecordKind::Answer => notice(LinkNotice::Answer(record.number, record.body)),
                RecordKind::Command => notice(LinkNotice::Command(record.number, record.body)),
                RecordKind::Drain => notice(LinkNotice::Drain),
                RecordKind::Ping if record.body.len() > PING_BYTES_MAX => {
                    return Err("the body of a `ping` is longer than 125 bytes");
                }
                RecordKind::Ping => notice(LinkNotice::Ping(record.body)),
                RecordKind::Pong => notice(LinkNotice::Pong(record.body)),
                RecordKind::Many => self.split(&record)?,
                RecordKind::Accept
                | RecordKind::Reject
                | RecordKind::Text
                | RecordKind::Binary
                | RecordKind::Ack
                | RecordKind::Close
                | RecordKind::State
                | RecordKind::Join
                | RecordKind::Leave => self.append(record.session.shard, &record)?,
            }
        }
        Ok(count)
    }

    /// Takes the records of the next shard that has any.
    pub(super) fn take(&mut self) -> Option<(u16, Vec<u8>)> {
        let shard = self.touched.pop()?;
        Some((shard, std::mem::take(&mut self.records[usize::from(shard)])))
    }

    fn append(&mut self, shard: u16, record: &LinkRecord<'_>) -> Result<(), &'static str> {
        let records = self.records.get_mut(usize::from(shard)).ok_or(NO_SHARD)?;
        if records.is_empty() {
            self.touched.push(shard);
        }
        append_record(records, record);
        Ok(())
    }

    /// Appends a `many` for each shard that has some of its sessions.
    fn split(&mut self, record: &LinkRecord<'_>) -> Result<(), &'static str> {
        let (sessions, payload) = sessions_of_many(record.body, record.number)
            .ok_or("a `many` is shorter than its list of sessions")?;
        let mut shards = Vec::new();
        for session in sessions {
            let of_shard = self.sessions.get_mut(usize::from(session.shard)).ok_or(NO_SHARD)?;
            if of_shard.is_empty() {
                shards.push(session.shard);
            }
            of_shard.extend_from_slice(&session.encode());
        }
        for shard in shards {
            let mut body = std::mem::take(&mut self.sessions[usize::from(shard)]);
            let number = (body.len() / SESSION_BYTES) as u32;
            body.extend_from_slice(payload);
            let session = LinkSession { shard, ..LinkSession::NONE };
            self.append(shard, &LinkRecord { session, number, body: &body, ..*record })?;
        }
        Ok(())
    }
}

const NO_SHARD: &str = "a session that no node has named";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::driver::Token;
    use crate::link::RecordFlags;
    use proptest::prelude::*;

    const SHARDS: u16 = 3;

    fn session(shard: u16, slot: u32) -> LinkSession {
        LinkSession { shard, token: Token { slot, generation: 7 } }
    }

    fn message(records: &[LinkRecord<'_>]) -> Vec<u8> {
        let mut message = Vec::new();
        records.iter().for_each(|record| append_record(&mut message, record));
        message
    }

    fn sort(message: &[u8]) -> Result<BTreeMap<u16, Vec<u8>>, &'static str> {
        let mut sorter = Sorter::new(SHARDS, 1 << 20);
        sorter.sort(message, |_| ())?;
        Ok(std::iter::from_fn(|| sorter.take()).collect())
    }

    type Delivery = (LinkSession, u8, RecordFlags, Vec<u8>);

    /// What each session gets, in order.
    fn deliveries(message: &[u8]) -> Vec<Delivery> {
        let mut found = Vec::new();
        for record in Records::new(message, 1 << 20) {
            let record = record.unwrap();
            if record.known_kind() == Some(RecordKind::Many) {
                let (sessions, payload) = sessions_of_many(record.body, record.number).unwrap();
                let each = |session| (session, record.kind, record.flags, payload.to_vec());
                found.extend(sessions.map(each));
            } else {
                found.push((record.session, record.kind, record.flags, record.body.to_vec()));
            }
        }
        found
    }

    fn any_session() -> impl Strategy<Value = LinkSession> {
        (0..SHARDS, 0..4_u32).prop_map(|(shard, slot)| session(shard, slot))
    }

    proptest! {
        /// Each session gets the same records in the same order, and only from its own shard.
        #[test]
        fn sorting_changes_nothing_for_a_session(
            parts in prop::collection::vec(
                (prop::collection::vec(any_session(), 0..5), any::<bool>(), any::<Vec<u8>>()),
                0..20,
            ),
        ) {
            let mut whole = Vec::new();
            for (sessions, is_many, payload) in &parts {
                if *is_many {
                    let ids: Vec<u8> = sessions.iter().flat_map(|one| one.encode()).collect();
                    let body = [&ids[..], payload].concat();
                    let count = sessions.len() as u32;
                    let many = LinkRecord::new(RecordKind::Many, LinkSession::NONE, count, &body);
                    append_record(&mut whole, &many.with(RecordFlags::BINARY));
                } else if let Some(session) = sessions.first() {
                    let record = LinkRecord::new(RecordKind::Text, *session, 1, payload);
                    append_record(&mut whole, &record);
                }
            }
            let sorted = sort(&whole).unwrap();
            let all = deliveries(&whole);
            let mut count = 0;
            for (shard, records) in sorted {
                let own: Vec<_> = all.iter().filter(|one| one.0.shard == shard).cloned().collect();
                prop_assert_eq!(deliveries(&records), own.clone());
                count += own.len();
            }
            prop_assert_eq!(count, all.len());
        }
    }

    #[test]
    fn records_about_the_link_are_noticed_and_unknown_ones_skipped() {
        let ping = LinkRecord::new(RecordKind::Ping, LinkSession::NONE, 0, b"abc");
        let later = LinkRecord { kind: 99, ..ping };
        let drain = LinkRecord::new(RecordKind::Drain, LinkSession::NONE, 0, b"");
        let command = LinkRecord::new(RecordKind::Command, LinkSession::NONE, 1, b"{}");
        let bytes = message(&[later, ping, command, drain]);
        let mut sorter = Sorter::new(SHARDS, 100);
        let mut noticed = Vec::new();
        let count = sorter.sort(&bytes, |notice| noticed.push(format!("{notice:?}")));
        assert_eq!((count, sorter.take()), (Ok(4), None));
        assert_eq!(noticed, ["Ping([97, 98, 99])", "Command(1, [123, 125])", "Drain"]);
    }

    #[test]
    fn wrong_messages_are_rejected_with_the_reason() {
        let of = |kind, body| message(&[LinkRecord::new(kind, session(0, 1), 1, body)]);
        let far = LinkRecord::new(RecordKind::Text, session(SHARDS, 1), 1, b"x");
        let many = session(SHARDS, 1).encode();
        let long = [0; PING_BYTES_MAX + 1];
        for (bytes, says) in [
            (of(RecordKind::Hello, b""), "second `hello`"),
            (of(RecordKind::Open, b""), "only nodes send"),
            (of(RecordKind::Sent, b""), "only nodes send"),
            (of(RecordKind::Result, b""), "only nodes send"),
            (of(RecordKind::Joined, b"a"), "only nodes send"),
            (of(RecordKind::Ping, &long), "125"),
            (of(RecordKind::Many, b"short"), "list of sessions"),
            (of(RecordKind::Many, &many), "no node has named"),
            (message(&[far]), "no node has named"),
            (of(RecordKind::Text, b"x")[..20].to_vec(), "within the body"),
            (vec![0; 19], "within the header"),
        ] {
            let reason = sort(&bytes).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        let mut sorter = Sorter::new(SHARDS, 3);
        let reason = sorter.sort(&of(RecordKind::Text, b"1234"), |_| ()).unwrap_err();
        assert!(reason.contains("record_bytes_max"), "{reason}");
    }
}

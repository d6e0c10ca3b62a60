//! Joins queued records into messages, and splits what is too long for one. No sockets, no clock.

use crate::link::HEADER_BYTES;

/// The longest message, unless a single record is longer.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Records that were taken from a link's queue, and not sent yet.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Whole records, of which those before `at` were sent.
    taken: Vec<u8>,
    at: usize,
}

impl Outbound {
    /// Returns the next message: whole records, as many as fit; `None` if there are none. `take`
    /// takes records from the queue.
    pub(super) fn next_message(
        &mut self,
        mut take: impl FnMut() -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            if self.at == self.taken.len() {
                (self.taken, self.at) = (Vec::new(), 0);
                let Some(records) = take() else { break };
                self.taken = records;
            }
            let waiting = &self.taken[self.at..];
            let room = MESSAGE_BYTES_MAX - message.len().min(MESSAGE_BYTES_MAX);
            let mut len = whole_records(waiting, room);
            if len == 0 {
                if !message.is_empty() {
                    break;
                }
                len = record_bytes(waiting);
            }
            if message.is_empty() && len == self.taken.len() {
                // The common case, without a copy.
                message = std::mem::take(&mut self.taken);
                self.at = 0;
            } else {
                message.extend_from_slice(&waiting[..len]);
                self.at += len;
                if self.at < self.taken.len() {
                    break;
                }
            }
        }
        (!message.is_empty()).then_some(message)
    }
}

/// Counts the records of a message.
pub(super) fn count_records(mut message: &[u8]) -> u64 {
    let mut count = 0;
    while !message.is_empty() {
        message = &message[record_bytes(message)..];
        count += 1;
    }
    count
}

/// Returns the length of the first record. Shards queue whole ones.
fn record_bytes(records: &[u8]) -> usize {
    let body = records.first_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
    (HEADER_BYTES + body).min(records.len())
}

/// Returns the length of the first records that fit into `room` together.
fn whole_records(records: &[u8], room: usize) -> usize {
    if records.len() <= room {
        return records.len();
    }
    let mut len = 0;
    loop {
        let next = record_bytes(&records[len..]);
        if next == 0 || len + next > room {
            return len;
        }
        len += next;
    }
}

#[cfg(test)]
mod tests {
    const NONE: LinkSession = LinkSession::NONE;

    use std::collections::VecDeque;

    use super::*;
    use crate::link::{LinkRecord, LinkSession, RecordKind, Records, append_record};
    use proptest::prelude::*;

    proptest! {
        /// Nothing is lost, repeated or reordered; messages are whole records; none is too long
        /// unless it is a single record; and two that fit into one are one.
        #[test]
        fn messages_hold_the_queued_records(
            queued in prop::collection::vec(
                prop::collection::vec(
                    prop_oneof![0..100_usize, 0..100_000_usize, 200_000..600_000_usize], 1..6),
                0..6,
            ),
        ) {
            let mut number = 0;
            let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
            for lens in &queued {
                let mut records = Vec::new();
                for len in lens {
                    number += 1;
                    let body = vec![0; *len];
                    let record = LinkRecord::new(RecordKind::Text, NONE, number, &body);
                    append_record(&mut records, &record);
                }
                queue.push_back(records);
            }
            let all = Vec::from(queue.clone()).concat();
            let mut outbound = Outbound::default();
            let mut messages: Vec<Vec<u8>> = Vec::new();
            while let Some(message) = outbound.next_message(|| queue.pop_front()) {
                let records = Records::new(&message, usize::MAX).collect::<Result<Vec<_>, _>>();
                let records = records.unwrap();
                prop_assert!(message.len() <= MESSAGE_BYTES_MAX || records.len() == 1);
                prop_assert_eq!(count_records(&message), records.len() as u64);
                let first = records[0].wire_bytes();
                if let Some(before) = messages.last() {
                    prop_assert!(before.len() + first > MESSAGE_BYTES_MAX);
                }
                messages.push(message);
            }
            prop_assert!(messages.concat() == all);
        }
    }

    #[test]
    fn a_buffer_that_fits_is_not_copied() {
        let mut records = Vec::new();
        append_record(&mut records, &LinkRecord::new(RecordKind::Ack, LinkSession::NONE, 1, b""));
        let at = records.as_ptr();
        let mut queue = Some(records);
        let message = Outbound::default().next_message(|| queue.take()).unwrap();
        assert_eq!(message.as_ptr(), at);
    }
}

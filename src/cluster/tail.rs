//! The tail of a watched channel: its newest messages, as they were delivered here.
//!
//! Most clients that come back have missed little: what they missed is served from the tail, so a
//! storm of reconnections asks the engine for nothing. A tail ends at the position of the last
//! delivery and has no holes. It is only a copy: whatever makes it doubtful drops it, and reads go
//! to the engine again.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::hub::{HistoryPage, Position, Publication, Range, Retention, Since};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Consecutive offsets.
    messages: VecDeque<Arc<Publication>>,
    bytes: u64,
}

impl Tail {
    /// Adds a message that was delivered, and drops the oldest ones beyond the limit.
    pub(super) fn push(&mut self, publication: &Arc<Publication>, messages_max: u32) {
        let is_next = self.messages.back().is_none_or(|last| {
            let (last, next) = (last.position, publication.position);
            last.zip(next).is_some_and(|(last, next)| {
                last.epoch == next.epoch && last.offset + 1 == next.offset
            })
        });
        if !is_next {
            self.clear();
        }
        self.bytes += publication.cost_bytes();
        self.messages.push_back(publication.clone());
        while self.messages.len() > messages_max as usize {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.messages.pop_front() {
            self.bytes -= first.cost_bytes();
        }
    }

    /// Drops all messages.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Returns the memory that counts for it (bytes).
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the messages of a range up to the position of the last delivery. `None`: it does not
    /// have them all.
    pub(super) fn read(
        &mut self,
        range: &Range,
        position: Position,
        retention: Retention,
        now_ms: u64,
    ) -> Option<HistoryPage> {
        let Since { epoch, offset } = range.since?;
        if epoch != Some(position.epoch) || offset > position.offset || range.reverse {
            return None;
        }
        let mut page = HistoryPage { position, complete: true, messages: Vec::new() };
        if offset == position.offset {
            return Some(page);
        }
        let is_expired =
            |one: &Arc<Publication>| one.time_ms.saturating_add(retention.ttl_ms) < now_ms;
        while self.messages.front().is_some_and(is_expired) {
            self.drop_first();
        }
        let first = self.messages.front()?.position?;
        let last = self.messages.back()?.position?;
        if last != position || first.offset > offset + 1 {
            return None;
        }
        let missed = self.messages.iter().skip((offset + 1 - first.offset) as usize);
        let mut bytes = 0;
        for one in missed {
            bytes += one.cost_bytes();
            if page.messages.len() == range.messages_max as usize || bytes > range.bytes_max {
                page.complete = false;
                break;
            }
            page.messages.push(one.clone());
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::Plain;
    use crate::hub::{ChannelName, Draft, Epoch, Storing};

    const RETENTION: Retention = Retention { messages_max: 100, ttl_ms: 1000 };

    fn make_publication(epoch: u64, offset: u64) -> Arc<Publication> {
        let draft = Draft {
            content: offset.to_string().into(),
            from: None,
            exclude: None,
            time_ms: 100 * offset,
            accepted_ns: 0,
            storing: Storing::with_only(&Plain),
        };
        let position = Position { epoch: Epoch(epoch), offset };
        Publication::new(&ChannelName::new("a"), position, None, draft)
    }

    /// The offsets of a page, and whether it is complete.
    fn read(
        tail: &mut Tail,
        since: (u64, u64),
        last: u64,
        now_ms: u64,
    ) -> Option<(Vec<u64>, bool)> {
        let since = Some(Since { epoch: Some(Epoch(since.0)), offset: since.1 });
        let range = Range { since, messages_max: 3, bytes_max: 1 << 20, reverse: false };
        let position = Position { epoch: Epoch(1), offset: last };
        let page = tail.read(&range, position, RETENTION, now_ms)?;
        Some((page.messages.iter().map(|one| one.offset()).collect(), page.complete))
    }

    #[test]
    fn a_tail_has_what_was_missed_or_nothing() {
        let mut tail = Tail::default();
        (1..=6).for_each(|offset| tail.push(&make_publication(1, offset), 4));
        assert_eq!(read(&mut tail, (1, 4), 6, 0), Some((vec![5, 6], true)));
        assert_eq!(read(&mut tail, (1, 6), 6, 0), Some((vec![], true)));
        assert_eq!(read(&mut tail, (1, 2), 6, 0), Some((vec![3, 4, 5], false)), "three at most");
        assert_eq!(read(&mut tail, (1, 1), 6, 0), None, "the second one was dropped");
        assert_eq!(read(&mut tail, (2, 4), 6, 0), None, "another epoch");
        assert_eq!(read(&mut tail, (1, 7), 6, 0), None, "a position of the future");
        assert_eq!(read(&mut tail, (1, 4), 7, 0), None, "it does not end at the position");
        // The message of offset 4 has expired.
        assert_eq!(read(&mut tail, (1, 4), 6, 1401), Some((vec![5, 6], true)));
        assert_eq!(read(&mut tail, (1, 3), 6, 1401), None);
        tail.push(&make_publication(1, 8), 4);
        assert_eq!(read(&mut tail, (1, 6), 8, 0), None, "a hole");
        assert_eq!(tail.bytes(), make_publication(1, 8).cost_bytes());
        tail.clear();
        assert_eq!(tail.bytes(), 0);
    }
}

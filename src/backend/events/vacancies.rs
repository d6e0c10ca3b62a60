//! Channels that have lost their last member: reported only if that lasts, because members mostly
//! come back.

use std::collections::{BTreeMap, HashMap};

use crate::hub::ChannelName;

/// When a channel is reported (ms), and a number.
type Place = (u64, u64);

/// The channels that are without members for less than the delay.
#[derive(Debug, Default)]
pub(super) struct Vacancies {
    /// The place of each channel in `due`.
    channels: HashMap<ChannelName, Place>,
    /// Each with the time since when it is vacant (Unix, ms).
    due: BTreeMap<Place, (u64, ChannelName)>,
    next_number: u64,
    /// Bytes of the names.
    name_bytes: usize,
}

impl Vacancies {
    /// Notes a channel that has lost its last member, to be reported at `due_ms`.
    pub(super) fn note_vacated(&mut self, channel: ChannelName, due_ms: u64, unix_ms: u64) {
        self.note_occupied(&channel);
        self.next_number += 1;
        let place = (due_ms, self.next_number);
        self.name_bytes += channel.as_str().len();
        self.channels.insert(channel.clone(), place);
        self.due.insert(place, (unix_ms, channel));
    }

    /// Notes a channel that has a member. Returns false if it was vacant for less than the delay:
    /// then neither is reported.
    pub(super) fn note_occupied(&mut self, channel: &ChannelName) -> bool {
        let Some(place) = self.channels.remove(channel) else { return true };
        self.name_bytes -= channel.as_str().len();
        self.due.remove(&place);
        false
    }

    /// Returns when the next channel is to be reported (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Takes a channel that is to be reported, and since when it is vacant (Unix, ms). `at_once`:
    /// also one whose delay has not passed.
    pub(super) fn take_due(&mut self, now_ms: u64, at_once: bool) -> Option<(ChannelName, u64)> {
        let first = self.due.first_entry()?;
        if !at_once && first.key().0 > now_ms {
            return None;
        }
        let (unix_ms, channel) = first.remove();
        self.name_bytes -= channel.as_str().len();
        self.channels.remove(&channel);
        Some((channel, unix_ms))
    }

    /// Returns the memory of the channels (bytes).
    pub(super) fn bytes(&self) -> usize {
        let one = size_of::<(ChannelName, Place)>() + size_of::<(Place, (u64, ChannelName))>();
        self.channels.len() * 2 * one + self.name_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_reported_only_if_it_stays_vacant() {
        let (mut vacancies, a, b) =
            (Vacancies::default(), ChannelName::new("a"), ChannelName::new("b"));
        assert!(vacancies.note_occupied(&a), "it was not vacant");
        vacancies.note_vacated(a.clone(), 100, 7);
        vacancies.note_vacated(b.clone(), 110, 8);
        assert_eq!(vacancies.take_due(99, false), None);
        assert!(!vacancies.note_occupied(&a), "neither is reported");
        assert_eq!(vacancies.next_due_ms(), Some(110));
        vacancies.note_vacated(a.clone(), 120, 9);
        assert_eq!(vacancies.take_due(110, false), Some((b, 8)));
        assert!(vacancies.note_occupied(&ChannelName::new("b")), "it was reported");
        assert_eq!(vacancies.take_due(110, false), None);
        // The delay may have become shorter.
        vacancies.note_vacated(ChannelName::new("c"), 111, 10);
        assert_eq!(vacancies.take_due(111, false), Some((ChannelName::new("c"), 10)));
        assert_eq!(vacancies.take_due(111, true), Some((a, 9)), "at the end of the server");
        assert_eq!((vacancies.next_due_ms(), vacancies.bytes()), (None, 0));
    }
}

//! The messages of a client on their way to an application: numbered, kept until they are
//! acknowledged, and sent again if the link is lost.
//!
//! Numbers begin at 1, and continue over all links that the session is on. The acknowledgement is
//! the credit: at the bound of messages or bytes ([`UpLimits`]) the client is not read from, though
//! one message always fits. Numbers wrap around after 2^32 messages.
//!
//! An idle session has 16 bytes here: the queue exists only while messages are unacknowledged.

use std::collections::VecDeque;

use crate::proto::ws::DataKind;

/// Bounds on unacknowledged messages.
#[derive(Clone, Copy, Debug)]
pub struct UpLimits {
    pub messages_max: u32,
    pub bytes_max: u32,
}

/// A message that the application has not acknowledged.
#[derive(Debug)]
pub struct UnackedMessage {
    pub kind: DataKind,
    pub payload: Box<[u8]>,
}

/// The unacknowledged messages of one session.
#[derive(Debug, Default)]
pub struct UnackedQueue {
    messages: VecDeque<UnackedMessage>,
    bytes: usize,
}

/// Emptied queues, to be used again.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes are what is used again")]
pub struct SpareQueues(Vec<Box<UnackedQueue>>);

impl SpareQueues {
    fn put_back(&mut self, queue: Box<UnackedQueue>) {
        debug_assert!(queue.messages.is_empty(), "it is emptied first");
        if self.0.len() < SPARE_MAX {
            self.0.push(queue);
        }
    }
}

/// The state of a session's messages. See the module.
///
/// Invariants: the queue has the messages from `acked + 1` to `last`, and exists only if there are
/// any.
#[derive(Debug, Default)]
pub struct UpState {
    /// The number of the last message; 0: there was none.
    last: u32,
    /// The number up to which messages are acknowledged.
    acked: u32,
    queue: Option<Box<UnackedQueue>>,
}

/// An acknowledgement of a message that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckBeyondLast;

impl UpState {
    /// Numbers and keeps a message; returns its number.
    pub fn push(&mut self, kind: DataKind, payload: &[u8], spare: &mut SpareQueues) -> u32 {
        let queue = self.queue.get_or_insert_with(|| spare.0.pop().unwrap_or_default());
        queue.bytes += payload.len();
        queue.messages.push_back(UnackedMessage { kind, payload: payload.into() });
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Removes the messages up to a number; returns their bytes. Less than what is acknowledged
    /// already changes nothing.
    ///
    /// # Errors
    /// A message with this number was not sent.
    pub fn acknowledge(
        &mut self,
        number: u32,
        spare: &mut SpareQueues,
    ) -> Result<usize, AckBeyondLast> {
        let unacked = self.last.wrapping_sub(self.acked);
        let handled = number.wrapping_sub(self.acked);
        if handled > unacked {
            // Numbers are compared around the circle: the half behind is the past.
            return if handled > u32::MAX / 2 { Ok(0) } else { Err(AckBeyondLast) };
        }
        let Some(queue) = &mut self.queue else { return Ok(0) };
        let bytes = queue.messages.drain(..handled as usize).map(|one| one.payload.len()).sum();
        queue.bytes -= bytes;
        self.acked = number;
        if queue.messages.is_empty() {
            self.queue.take().into_iter().for_each(|queue| spare.put_back(queue));
        }
        Ok(bytes)
    }

    /// Removes all messages: nothing will acknowledge them.
    pub fn drop_unacknowledged(&mut self, spare: &mut SpareQueues) {
        let dropped = self.acknowledge(self.last, spare);
        debug_assert!(dropped.is_ok(), "the last message was sent");
    }

    /// Returns whether no further message fits.
    pub fn is_full(&self, limits: UpLimits) -> bool {
        self.last.wrapping_sub(self.acked) >= limits.messages_max
            || self.bytes() >= limits.bytes_max as usize
    }

    /// Returns whether every message is acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.queue.is_none()
    }

    /// Returns the bytes of unacknowledged messages.
    pub fn bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Returns the memory of unacknowledged messages (bytes).
    pub fn memory_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| {
            let places = queue.messages.len() * size_of::<UnackedMessage>();
            size_of::<UnackedQueue>() + places + queue.bytes
        })
    }

    /// Returns the number up to which messages are acknowledged.
    pub fn acknowledged(&self) -> u32 {
        self.acked
    }

    /// Returns the unacknowledged messages with their numbers, in order.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (u32, &UnackedMessage)> {
        let messages = self.queue.iter().flat_map(|queue| queue.messages.iter());
        messages.zip(1..).map(|(message, at)| (self.acked.wrapping_add(at), message))
    }
}

/// Emptied queues that are kept.
const SPARE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: UpLimits = UpLimits { messages_max: 4, bytes_max: 100 };

    fn state_at(number: u32) -> UpState {
        UpState { last: number, acked: number, queue: None }
    }

    proptest! {
        #[test]
        fn messages_are_kept_until_they_are_acknowledged(
            start in prop_oneof![Just(0), Just(u32::MAX - 5)],
            steps in prop::collection::vec((any::<bool>(), 0_u32..8, 0_usize..60), 0..60),
        ) {
            let (mut state, mut spare) = (state_at(start), SpareQueues::default());
            let mut model: VecDeque<(u32, usize)> = VecDeque::new();
            let (mut last, mut acked) = (start, start);
            for (is_push, ahead, len) in steps {
                if is_push {
                    last = last.wrapping_add(1);
                    let payload = vec![last as u8; len];
                    prop_assert_eq!(state.push(DataKind::Text, &payload, &mut spare), last);
                    model.push_back((last, len));
                } else {
                    let number = acked.wrapping_add(ahead);
                    let result = state.acknowledge(number, &mut spare);
                    if ahead as usize <= model.len() {
                        let bytes: usize = model.drain(..ahead as usize).map(|(_, len)| len).sum();
                        prop_assert_eq!(result, Ok(bytes));
                        acked = number;
                    } else {
                        prop_assert_eq!(result, Err(AckBeyondLast));
                    }
                    prop_assert_eq!(state.acknowledge(acked.wrapping_sub(1), &mut spare), Ok(0));
                }
                let kept: Vec<_> =
                    state.unacknowledged().map(|(at, one)| (at, one.payload.len())).collect();
                prop_assert_eq!(&kept, &Vec::from(model.clone()));
                let bytes: usize = model.iter().map(|(_, len)| len).sum();
                prop_assert_eq!((state.bytes(), state.acknowledged()), (bytes, acked));
                prop_assert_eq!(state.is_acknowledged(), model.is_empty());
                prop_assert_eq!(state.is_full(LIMITS), model.len() >= 4 || bytes >= 100);
            }
        }
    }

    #[test]
    fn an_idle_session_has_no_queue() {
        assert_eq!(size_of::<UpState>(), 16);
        let (mut state, mut spare) = (UpState::default(), SpareQueues::default());
        state.push(DataKind::Binary, &[0; 100], &mut spare);
        assert!(state.is_full(LIMITS), "one message always fits");
        assert_eq!(state.acknowledge(1, &mut spare), Ok(100));
        assert!(state.queue.is_none() && spare.0.len() == 1);
    }
}

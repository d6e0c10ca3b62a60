//! The topics that a node subscribes to at an instance.
//!
//! Changes are sent in their order, one command at a time, each for many topics. So a confirmation
//! belongs to the last command sent, and a topic that is left and subscribed again is not confirmed
//! by its earlier subscription.

use std::collections::{HashMap, VecDeque};

use crate::hub::ChannelName;

/// Topics in one command. Larger commands would delay publications that are queued behind their
/// confirmations.
const TOPICS_MAX: usize = 512;

#[derive(Debug)]
struct Topic {
    channel: ChannelName,
    shard: u16,
    token: u64,
    /// Its subscription was sent on the present connection.
    is_sent: bool,
    /// Identifies its change.
    serial: u64,
}

/// A command to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe(Vec<Vec<u8>>),
    Unsubscribe(Vec<Vec<u8>>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: HashMap<Vec<u8>, Topic>,
    /// Changes that are not sent yet: of an outdated one, the subscription was cancelled.
    changes: VecDeque<Waiting>,
    /// The number of outdated ones.
    outdated: usize,
    serial: u64,
}

#[derive(Debug)]
struct Waiting {
    topic: Vec<u8>,
    /// Of the subscription; `None`: unsubscribe.
    serial: Option<u64>,
}

/// The receiver of a topic's publications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TopicReceiver {
    pub(super) channel: ChannelName,
    pub(super) shard: u16,
    pub(super) token: u64,
}

impl Topics {
    pub(super) fn subscribe(&mut self, topic: Vec<u8>, receiver: TopicReceiver) {
        let TopicReceiver { channel, shard, token } = receiver;
        self.serial += 1;
        let serial = self.serial;
        let own = Topic { channel, shard, token, is_sent: false, serial };
        self.topics.insert(topic.clone(), own);
        self.changes.push_back(Waiting { topic, serial: Some(serial) });
    }

    pub(super) fn unsubscribe(&mut self, topic: Vec<u8>) {
        let Some(own) = self.topics.remove(&topic) else { return };
        if own.is_sent {
            return self.changes.push_back(Waiting { topic, serial: None });
        }
        // A subscription that was not sent is cancelled: otherwise a later one of the same topic
        // would be confirmed by it.
        self.outdated += 1;
        if self.outdated > TOPICS_MAX.max(self.changes.len() / 2) {
            let topics = &self.topics;
            self.changes.retain(|change| is_valid(topics, change));
            self.outdated = 0;
        }
    }

    /// Begins again on another connection, which has no subscriptions.
    pub(super) fn restart(&mut self) {
        let change = |(topic, own): (&Vec<u8>, &mut Topic)| {
            own.is_sent = false;
            Waiting { topic: topic.clone(), serial: Some(own.serial) }
        };
        self.changes = self.topics.iter_mut().map(change).collect();
        self.outdated = 0;
    }

    /// Returns whether there are topics.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Returns the next command. The caller sends it, and waits for its confirmation.
    pub(super) fn next_change(&mut self) -> Option<Change> {
        let mut kind = None;
        let mut topics = Vec::new();
        while topics.len() < TOPICS_MAX
            && let Some(change) = self.changes.front()
        {
            let subscribes = change.serial.is_some();
            let is_valid = is_valid(&self.topics, change);
            if is_valid && *kind.get_or_insert(subscribes) != subscribes {
                break;
            }
            let Some(Waiting { topic, .. }) = self.changes.pop_front() else { break };
            if !is_valid {
                self.outdated -= 1;
                continue;
            }
            if let Some(own) = self.topics.get_mut(&topic).filter(|_| subscribes) {
                own.is_sent = true;
            }
            topics.push(topic);
        }
        Some(if kind? { Change::Subscribe(topics) } else { Change::Unsubscribe(topics) })
    }

    /// Returns the receiver of a topic whose subscription was sent. `None`: it was left, or has yet
    /// to be subscribed again.
    pub(super) fn find(&self, topic: &[u8]) -> Option<TopicReceiver> {
        let Topic { channel, shard, token, .. } =
            self.topics.get(topic).filter(|own| own.is_sent)?;
        Some(TopicReceiver { channel: channel.clone(), shard: *shard, token: *token })
    }
}

/// Whether a change is still to be sent.
fn is_valid(topics: &HashMap<Vec<u8>, Topic>, change: &Waiting) -> bool {
    let Some(serial) = change.serial else { return true };
    topics.get(&change.topic).is_some_and(|own| own.serial == serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_receiver(token: u64) -> TopicReceiver {
        TopicReceiver { channel: ChannelName::new("a"), shard: 0, token }
    }

    #[test]
    fn changes_keep_their_order_and_are_sent_together() {
        let mut topics = Topics::default();
        topics.subscribe(b"a".to_vec(), make_receiver(1));
        topics.subscribe(b"b".to_vec(), make_receiver(2));
        assert_eq!(topics.find(b"b"), None, "not sent yet");
        let all = [b"a".to_vec(), b"b".to_vec()].to_vec();
        assert_eq!(topics.next_change(), Some(Change::Subscribe(all)));
        assert_eq!(topics.find(b"b"), Some(make_receiver(2)));
        topics.unsubscribe(b"a".to_vec());
        topics.unsubscribe(b"never".to_vec());
        topics.subscribe(b"a".to_vec(), make_receiver(3));
        assert_eq!(topics.next_change(), Some(Change::Unsubscribe(vec![b"a".to_vec()])));
        assert_eq!(topics.next_change(), Some(Change::Subscribe(vec![b"a".to_vec()])));
        assert_eq!(topics.find(b"a"), Some(make_receiver(3)));
        assert_eq!(topics.next_change(), None);
    }

    #[test]
    fn an_earlier_subscription_does_not_confirm_a_later_one() {
        let mut topics = Topics::default();
        topics.subscribe(b"a".to_vec(), make_receiver(1));
        topics.next_change();
        topics.unsubscribe(b"a".to_vec());
        topics.subscribe(b"a".to_vec(), make_receiver(2));
        assert_eq!(topics.find(b"a"), None, "the confirmation that comes now is the first one's");
    }

    #[test]
    fn a_subscription_that_was_not_sent_is_cancelled() {
        let mut topics = Topics::default();
        topics.subscribe(b"a".to_vec(), make_receiver(1));
        topics.unsubscribe(b"a".to_vec());
        topics.subscribe(b"a".to_vec(), make_receiver(2));
        assert_eq!(topics.next_change(), Some(Change::Subscribe(vec![b"a".to_vec()])));
        assert_eq!(topics.find(b"a"), Some(make_receiver(2)));
        assert_eq!(topics.next_change(), None);
    }

    #[test]
    fn cancelled_subscriptions_take_no_memory() {
        let mut topics = Topics::default();
        for n in 0..10 * TOPICS_MAX as u64 {
            topics.subscribe(b"a".to_vec(), make_receiver(n));
            topics.unsubscribe(b"a".to_vec());
        }
        assert!(topics.changes.len() <= 2 * TOPICS_MAX, "{}", topics.changes.len());
        topics.subscribe(b"a".to_vec(), make_receiver(7));
        assert_eq!(topics.next_change(), Some(Change::Subscribe(vec![b"a".to_vec()])));
        assert_eq!((topics.next_change(), topics.outdated), (None, 0));
        topics.unsubscribe(b"a".to_vec());
        topics.restart();
        assert_eq!((topics.next_change(), topics.is_empty()), (None, true));
    }

    #[test]
    fn another_connection_subscribes_to_all() {
        let mut topics = Topics::default();
        for n in 0..TOPICS_MAX as u64 + 3 {
            topics.subscribe(n.to_string().into_bytes(), make_receiver(n));
        }
        topics.next_change();
        topics.unsubscribe(b"0".to_vec());
        topics.restart();
        let mut sent = Vec::new();
        while let Some(change) = topics.next_change() {
            let Change::Subscribe(topics) = change else { panic!("nothing is left: {change:?}") };
            sent.push(topics.len());
        }
        assert_eq!(sent, [TOPICS_MAX, 2]);
    }
}

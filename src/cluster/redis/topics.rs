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
    /// Changes that are not sent yet; true: subscribe.
    changes: VecDeque<(bool, Vec<u8>)>,
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
        let own = Topic { channel, shard, token, is_sent: false };
        self.topics.insert(topic.clone(), own);
        self.changes.push_back((true, topic));
    }

    pub(super) fn unsubscribe(&mut self, topic: Vec<u8>) {
        let Some(own) = self.topics.remove(&topic) else { return };
        if own.is_sent {
            return self.changes.push_back((false, topic));
        }
        // A subscription that was not sent is cancelled: otherwise a later one of the same topic
        // would be confirmed by it.
        self.changes.retain(|(subscribes, other)| !subscribes || *other != topic);
    }

    /// Begins again on another connection, which has no subscriptions.
    pub(super) fn restart(&mut self) {
        self.topics.values_mut().for_each(|topic| topic.is_sent = false);
        self.changes = self.topics.keys().map(|topic| (true, topic.clone())).collect();
    }

    /// Returns the next command. The caller sends it, and waits for its confirmation.
    pub(super) fn next_change(&mut self) -> Option<Change> {
        let &(subscribes, _) = self.changes.front()?;
        let mut topics = Vec::new();
        while topics.len() < TOPICS_MAX
            && let Some((_, topic)) = self.changes.pop_front_if(|(kind, _)| *kind == subscribes)
        {
            if let Some(own) = self.topics.get_mut(&topic).filter(|_| subscribes) {
                own.is_sent = true;
            }
            topics.push(topic);
        }
        Some(if subscribes { Change::Subscribe(topics) } else { Change::Unsubscribe(topics) })
    }

    /// Returns the receiver of a topic whose subscription was sent. `None`: it was left, or has yet
    /// to be subscribed again.
    pub(super) fn find(&self, topic: &[u8]) -> Option<TopicReceiver> {
        let Topic { channel, shard, token, .. } =
            self.topics.get(topic).filter(|own| own.is_sent)?;
        Some(TopicReceiver { channel: channel.clone(), shard: *shard, token: *token })
    }
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

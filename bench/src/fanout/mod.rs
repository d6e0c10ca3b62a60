//! `fanout`: publishers, subscribers, and the time from each publish to its deliveries.
//!
//! Each publisher numbers its messages per channel, and each message carries its intended time. So
//! a subscriber knows which message comes next, and lost, duplicate and reordered messages are
//! counted independently of the server's own numbers.
//!
//! Publishers have a ring and a thread of their own ([`Publishers`]), or use HTTP from threads
//! ([`api`]); a [`Press`] schedules both. They share the [`Board`] with [`Subscribers`].

pub mod api;
pub mod dialect;
mod press;
mod publishers;
mod subscribers;
pub mod tag;

pub use dialect::Dialect;
pub use press::{Press, Pressed};
pub use publishers::Publishers;
pub use subscribers::{Share, Subscribed, Subscribers};

use std::sync::atomic::{AtomicU64, Ordering};

/// The pace of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// This many messages per second of all publishers.
    Open { rate: u64 },
    /// Each publisher has at most `depth` unacknowledged batches, and the whole run at most
    /// `window` messages that some subscriber has not received; 0 = no such limit.
    Closed { depth: u32, window: u64 },
}

/// Parameters of a run.
#[derive(Debug, Clone, Copy)]
pub struct FanoutPlan {
    pub dialect: Dialect,
    pub publishers: u32,
    pub subscribers: u32,
    pub channels: u32,
    pub pace: Pace,
    /// Content bytes of a message.
    pub size: u32,
    /// Messages per batch.
    pub batch: u32,
    pub warmup_ns: u64,
    pub duration_ns: u64,
    /// Publishers use HTTP, and are not bound to the channel of a path.
    pub http: bool,
    /// Each publisher keeps to one channel nevertheless.
    pub own_channel: bool,
}

impl FanoutPlan {
    /// Whether each publisher has one channel; else all channels in turn.
    fn is_bound(&self) -> bool {
        self.own_channel || (self.dialect.is_bound() && !self.http)
    }

    /// The channel of a publisher's message number `index`.
    fn channel_of(&self, publisher: u32, index: u64) -> u32 {
        let step = if self.is_bound() { 0 } else { index };
        ((u64::from(publisher) + step) % u64::from(self.channels)) as u32
    }

    /// Which of this publisher's messages on its channel that is.
    fn number_of(&self, index: u64) -> u32 {
        (if self.is_bound() { index } else { index / u64::from(self.channels) }) as u32
    }

    /// Streams that a subscriber may receive: one for each publisher of its channel.
    pub fn streams(&self) -> usize {
        let publishers = self.publishers as usize;
        if self.is_bound() { publishers.div_ceil(self.channels as usize) } else { publishers }
    }

    fn stream_of(&self, publisher: u32) -> usize {
        (if self.is_bound() { publisher / self.channels } else { publisher }) as usize
    }

    /// How many of a publisher's first `sent` messages were for a channel.
    pub fn sent_to(&self, channel: u32, publisher: u32, sent: u64) -> u64 {
        let channels = self.channels;
        let first = u64::from((channel + channels - publisher % channels) % channels);
        if self.is_bound() {
            return if first == 0 { sent } else { 0 };
        }
        sent.saturating_sub(first).div_ceil(u64::from(channels))
    }

    /// The publisher of a stream of a channel's subscribers; `None` if there is none.
    pub fn publisher_of(&self, channel: u32, stream: usize) -> Option<u32> {
        let stream = stream as u32;
        let publisher = if self.is_bound() { stream * self.channels + channel } else { stream };
        Some(publisher).filter(|publisher| *publisher < self.publishers)
    }

    /// Subscribers of a channel: they are distributed over channels in turn.
    fn members_of(&self, channel: u32) -> u64 {
        let (all, channels) = (self.subscribers, self.channels);
        u64::from(all / channels + u32::from(channel < all % channels))
    }
}

/// State shared by publishers and subscribers.
#[derive(Debug, Default)]
pub struct Board {
    /// Messages handed to the server, or about to be.
    pub published: AtomicU64,
    /// Deliveries that these must cause.
    pub expected: AtomicU64,
}

impl Board {
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dialect: Dialect, publishers: u32, channels: u32) -> FanoutPlan {
        FanoutPlan {
            dialect,
            publishers,
            subscribers: 25,
            channels,
            pace: Pace::Open { rate: 1 },
            size: 40,
            batch: 1,
            warmup_ns: 0,
            duration_ns: 0,
            http: false,
            own_channel: false,
        }
    }

    #[test]
    fn numbers_count_without_gap_and_sums_are_known() {
        for (dialect, publishers, channels) in [
            (Dialect::Seawall, 3, 7),
            (Dialect::Seawall, 7, 3),
            (Dialect::Seawall, 1, 1),
            (Dialect::Plain, 7, 3),
        ] {
            let plan = plan(dialect, publishers, channels);
            for publisher in 0..publishers {
                for sent in [0, 1, 6, 20, 21, 22] {
                    let mut counts = vec![0; channels as usize];
                    for index in 0..sent {
                        let count = &mut counts[plan.channel_of(publisher, index) as usize];
                        assert_eq!(plan.number_of(index), *count, "{publisher} {index}");
                        *count += 1;
                    }
                    for channel in 0..channels {
                        let found = plan.sent_to(channel, publisher, sent);
                        let counted = u64::from(counts[channel as usize]);
                        assert_eq!(found, counted, "{dialect:?} {publisher} {channel} {sent}");
                        if counted > 0 {
                            let stream = plan.stream_of(publisher);
                            assert!(stream < plan.streams());
                            assert_eq!(plan.publisher_of(channel, stream), Some(publisher));
                        }
                    }
                }
            }
            assert_eq!((0..channels).map(|c| plan.members_of(c)).sum::<u64>(), 25);
        }
    }
}

//! Events of shards, for a consumer on another thread.
//!
//! Each shard has a queue that is bounded in events and in bytes. A shard never waits for the
//! consumer: an event that does not fit is counted by kind, and the counts take its place in the
//! queue. Without a consumer an event costs one test of a flag.
//!
//! Invariant: events of a shard are in order, and every event that happened while a consumer was
//! attached is either delivered or counted in exactly one loss, which precedes later events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;

use crate::driver::{Bell, Token};
use crate::hub::ChannelName;
use crate::proto::ws::CloseCode;

const KINDS: usize = 4;
/// The value of a count that was delivered, and must not be increased any more.
const CLOSED: u64 = u64::MAX;

/// An event of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// A WebSocket was opened.
    Connected {
        token: Token,
        /// The index of its route.
        route: usize,
        address: Option<SocketAddr>,
        /// The user named by its token or by the connect backend.
        user: Option<Arc<str>>,
    },
    /// A WebSocket has ended.
    Disconnected {
        token: Token,
        code: CloseCode,
        duration_ms: u64,
        bytes_received: u64,
        /// Bytes that the kernel has accepted; the client may not have received all of them.
        bytes_sent: u64,
    },
    /// A channel has its first member.
    ChannelOccupied { channel: ChannelName },
    /// A channel has lost its last member.
    ChannelVacated { channel: ChannelName },
    /// Events at this place in the order did not fit.
    Lost(EventCounts),
}

/// Numbers of events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    pub connected: u64,
    pub disconnected: u64,
    pub channel_occupied: u64,
    pub channel_vacated: u64,
}

impl ShardEvent {
    /// Returns the index of its kind in [`Losses`]; `None` for a loss itself.
    fn kind(&self) -> Option<usize> {
        match self {
            Self::Connected { .. } => Some(0),
            Self::Disconnected { .. } => Some(1),
            Self::ChannelOccupied { .. } => Some(2),
            Self::ChannelVacated { .. } => Some(3),
            Self::Lost(_) => None,
        }
    }

    /// Returns its memory while it is queued (bytes).
    fn bytes(&self) -> usize {
        let own = size_of::<Queued>();
        own + match self {
            Self::Connected { user, .. } => user.as_ref().map_or(0, |user| user.len()),
            Self::ChannelOccupied { channel } | Self::ChannelVacated { channel } => {
                channel.as_str().len()
            }
            Self::Disconnected { .. } | Self::Lost(_) => 0,
        }
    }
}

/// Bounds of each shard's queue. Losses are not counted: there is at most one between two events.
#[derive(Clone, Copy, Debug)]
pub struct EventBounds {
    pub events_max: usize,
    pub bytes_max: usize,
}

/// Counts of events that did not fit, by kind.
#[derive(Debug, Default)]
struct Losses([AtomicU64; KINDS]);

impl Losses {
    /// Counts one more event; returns false if the counts were delivered already.
    fn count_loss(&self, kind: usize) -> bool {
        let more = |count| (count != CLOSED).then(|| count + 1);
        self.0[kind].fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Returns the counts, and closes them.
    fn close_counts(&self) -> EventCounts {
        let mut counts = self.0.iter().map(|count| count.swap(CLOSED, Ordering::AcqRel));
        let mut next = || counts.next().unwrap_or_default();
        EventCounts {
            connected: next(),
            disconnected: next(),
            channel_occupied: next(),
            channel_vacated: next(),
        }
    }
}

#[derive(Debug)]
enum Queued {
    Event(ShardEvent),
    Losses(Arc<Losses>),
}

/// The queue of one shard.
#[derive(Debug, Default)]
struct EventQueue {
    queued: SegQueue<Queued>,
    /// The number of events, without losses.
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl EventQueue {
    fn pop(&self) -> Option<ShardEvent> {
        match self.queued.pop()? {
            Queued::Losses(losses) => Some(ShardEvent::Lost(losses.close_counts())),
            Queued::Event(event) => {
                self.events.fetch_sub(1, Ordering::Relaxed);
                self.bytes.fetch_sub(event.bytes(), Ordering::Relaxed);
                Some(event)
            }
        }
    }

    fn clear(&self) {
        while self.pop().is_some() {}
    }
}

struct Attachment {
    bounds: EventBounds,
    bell: Arc<dyn Bell>,
}

/// The queues of all shards.
pub struct EventQueues {
    queues: Vec<EventQueue>,
    is_attached: AtomicBool,
    attachment: ArcSwapOption<Attachment>,
    /// The bell was rung since the consumer last took events.
    is_announced: AtomicBool,
}

impl EventQueues {
    pub(super) fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            queues: (0..shards).map(|_| EventQueue::default()).collect(),
            is_attached: AtomicBool::new(false),
            attachment: ArcSwapOption::empty(),
            is_announced: AtomicBool::new(false),
        })
    }

    /// Attaches a consumer, whose bell rings when events are queued. `None` if one is attached.
    pub fn attach(self: &Arc<Self>, bounds: EventBounds, bell: Arc<dyn Bell>) -> Option<Events> {
        let attachment = Some(Arc::new(Attachment { bounds, bell }));
        let free = None::<Arc<Attachment>>;
        if self.attachment.compare_and_swap(&free, attachment).is_some() {
            return None;
        }
        // A shard may have queued events after the previous consumer detached.
        self.queues.iter().for_each(EventQueue::clear);
        self.is_announced.store(false, Ordering::Release);
        self.is_attached.store(true, Ordering::Release);
        Some(Events(self.clone()))
    }

    /// Returns the bytes in a shard's queue.
    pub fn queued_bytes(&self, shard: u16) -> usize {
        self.queues[usize::from(shard)].bytes.load(Ordering::Relaxed)
    }
}

/// The consumer's side; its drop detaches the consumer.
pub struct Events(Arc<EventQueues>);

impl Events {
    /// Removes and returns the events in a shard's queue, in order.
    pub fn take(&mut self, shard: u16) -> Vec<ShardEvent> {
        self.0.is_announced.swap(false, Ordering::AcqRel);
        let queue = &self.0.queues[usize::from(shard)];
        // Events queued from here on ring the bell again.
        let most = queue.queued.len();
        std::iter::from_fn(|| queue.pop()).take(most).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.0.is_attached.store(false, Ordering::Release);
        self.0.queues.iter().for_each(EventQueue::clear);
        self.0.attachment.store(None);
    }
}

/// A shard's side.
pub(super) struct EventSender {
    queues: Arc<EventQueues>,
    shard: u16,
    /// The loss at the end of the queue, if no event follows it yet.
    losses: Option<Arc<Losses>>,
}

impl EventSender {
    pub(super) fn new(queues: Arc<EventQueues>, shard: u16) -> Self {
        Self { queues, shard, losses: None }
    }

    /// Returns whether a consumer is attached.
    #[inline]
    pub(super) fn is_attached(&self) -> bool {
        self.queues.is_attached.load(Ordering::Acquire)
    }

    /// Queues an event; it is made only if a consumer is attached.
    #[inline]
    pub(super) fn send(&mut self, event: impl FnOnce() -> ShardEvent) {
        if self.is_attached() {
            self.queue_event(event());
        }
    }

    #[cold]
    fn queue_event(&mut self, event: ShardEvent) {
        let attachment = self.queues.attachment.load();
        let (Some(attachment), Some(kind)) = (&*attachment, event.kind()) else { return };
        let EventBounds { events_max, bytes_max } = attachment.bounds;
        let queue = &self.queues.queues[usize::from(self.shard)];
        let bytes = event.bytes();
        let has_room = queue.events.load(Ordering::Relaxed) < events_max
            && queue.bytes.load(Ordering::Relaxed) + bytes <= bytes_max;
        if has_room {
            queue.events.fetch_add(1, Ordering::Relaxed);
            queue.bytes.fetch_add(bytes, Ordering::Relaxed);
            queue.queued.push(Queued::Event(event));
            self.losses = None;
        } else if !self.losses.as_ref().is_some_and(|losses| losses.count_loss(kind)) {
            let losses = Arc::new(Losses::default());
            losses.count_loss(kind);
            queue.queued.push(Queued::Losses(losses.clone()));
            self.losses = Some(losses);
        }
        if !self.queues.is_announced.swap(true, Ordering::AcqRel) {
            attachment.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Rings(AtomicUsize);

    impl Bell for Rings {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const BOUNDS: EventBounds = EventBounds { events_max: 3, bytes_max: 1 << 20 };

    fn disconnected(slot: u32) -> ShardEvent {
        let token = Token { slot, generation: 0 };
        let code = CloseCode::GOING_AWAY;
        ShardEvent::Disconnected { token, code, duration_ms: 0, bytes_received: 0, bytes_sent: 0 }
    }

    fn occupied(name: &str) -> ShardEvent {
        ShardEvent::ChannelOccupied { channel: ChannelName::new(name) }
    }

    #[test]
    fn without_a_consumer_no_event_is_made() {
        let queues = EventQueues::new(1);
        let mut sender = EventSender::new(queues.clone(), 0);
        sender.send(|| panic!("there is no consumer"));
        let bell = Arc::new(Rings::default());
        let events = queues.attach(BOUNDS, bell.clone()).unwrap();
        assert!(queues.attach(BOUNDS, bell).is_none(), "there is one consumer");
        sender.send(|| disconnected(1));
        assert!(queues.queued_bytes(0) > 0);
        drop(events);
        assert_eq!(queues.queued_bytes(0), 0);
        sender.send(|| panic!("there is none any more"));
        let mut events = queues.attach(BOUNDS, Arc::new(Rings::default())).unwrap();
        assert_eq!(events.take(0), [], "nothing is left of the time before");
    }

    #[test]
    fn what_does_not_fit_is_counted_where_it_would_have_been() {
        let (queues, bell) = (EventQueues::new(2), Arc::new(Rings::default()));
        let mut events = queues.attach(BOUNDS, bell.clone()).unwrap();
        let mut sender = EventSender::new(queues.clone(), 0);
        (0..5).for_each(|slot| sender.send(|| disconnected(slot)));
        sender.send(|| occupied("a"));
        assert_eq!(bell.0.load(Ordering::Relaxed), 1, "once until the consumer looks");
        let lost = EventCounts { disconnected: 2, channel_occupied: 1, ..EventCounts::default() };
        let first = [disconnected(0), disconnected(1), disconnected(2), ShardEvent::Lost(lost)];
        assert_eq!((events.take(1), events.take(0)), (vec![], first.to_vec()));
        sender.send(|| occupied("b"));
        assert_eq!(bell.0.load(Ordering::Relaxed), 2);
        assert_eq!(events.take(0), [occupied("b")]);
        // Counts that were taken are not added to.
        (0..4).for_each(|slot| sender.send(|| disconnected(slot)));
        let lost = ShardEvent::Lost(EventCounts { disconnected: 1, ..EventCounts::default() });
        assert_eq!(events.take(0).last(), Some(&lost));
        assert_eq!(queues.queued_bytes(0), 0);
    }

    #[test]
    fn long_names_count_in_bytes() {
        let queues = EventQueues::new(1);
        let bounds = EventBounds { events_max: 100, bytes_max: 2 * size_of::<Queued>() + 10 };
        let mut events = queues.attach(bounds, Arc::new(Rings::default())).unwrap();
        let mut sender = EventSender::new(queues.clone(), 0);
        ["12345", "123456", "12345"].iter().for_each(|name| sender.send(|| occupied(name)));
        let lost = EventCounts { channel_occupied: 1, ..EventCounts::default() };
        assert_eq!(events.take(0), [occupied("12345"), ShardEvent::Lost(lost), occupied("12345")]);
    }

    /// A shard sends as fast as it can; the consumer gets each event, or a count of it.
    #[test]
    fn nothing_is_lost_without_being_counted() {
        const SENT: u32 = 200_000;
        let queues = EventQueues::new(1);
        let mut events = queues.attach(BOUNDS, Arc::new(Rings::default())).unwrap();
        let mut sender = EventSender::new(queues, 0);
        let shard = std::thread::spawn(move || {
            (0..SENT).for_each(|slot| sender.send(|| disconnected(slot)));
        });
        let (mut next, mut losses) = (0, 0);
        while next < SENT {
            let is_over = shard.is_finished();
            let taken = events.take(0);
            assert!(!is_over || !taken.is_empty(), "{next} of {SENT} are accounted for");
            for event in taken {
                match event {
                    ShardEvent::Disconnected { token, .. } => {
                        assert_eq!(token.slot, next, "in order, losses in between");
                        next += 1;
                    }
                    ShardEvent::Lost(counts) => {
                        losses += 1;
                        next += counts.disconnected as u32;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        shard.join().unwrap();
        assert_eq!(next, SENT);
        assert!(losses > 0, "the queue was full at times");
    }
}

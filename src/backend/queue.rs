//! Events of shards, for a consumer on another thread.
//!
//! Each shard has a queue that is bounded in events and in bytes. A shard never waits for the
//! consumer: an event that does not fit is counted by kind, and the counts take its place in the
//! queue. Without a consumer an event costs one test of a flag.
//!
//! Invariant: events of a shard are in order, and every event that happened while a consumer was
//! attached is either delivered or counted in exactly one loss, which precedes later events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;

use crate::driver::{Bell, Token};
use crate::events::{BACKENDS_MAX, EventKind, EventTarget};
use crate::hub::{ChannelName, ConnectionId, MemberInfo, Position, Sender};
use crate::proto::ws::CloseCode;

const KINDS: usize = EventKind::ALL.len();
/// The value of a count that was delivered, and must not be increased any more.
const CLOSED: u64 = u64::MAX;

/// An event of a shard, or the loss of some.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardEvent {
    Happened {
        /// The index of the backend that wants it.
        backend: u8,
        /// Unix time (ms).
        time_ms: u64,
        event: Happening,
    },
    /// Events at this place in the order did not fit.
    Lost(EventCounts),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A WebSocket was opened.
    Connected {
        client: EventClient,
        /// The path that it asked for, without the query.
        path: Box<str>,
    },
    /// A WebSocket has ended.
    Disconnected {
        client: EventClient,
        code: CloseCode,
        duration_ms: u64,
        bytes_received: u64,
        /// Bytes that the kernel has accepted; the client may not have received all of them.
        bytes_sent: u64,
    },
    /// A connection has become a member of a channel.
    Subscribed { connection: ConnectionId, user: Option<EventUser>, channel: ChannelName },
    /// A connection is a member no longer.
    Unsubscribed { connection: ConnectionId, user: Option<EventUser>, channel: ChannelName },
    /// A channel has its first member.
    ChannelOccupied { channel: ChannelName },
    /// A channel has lost its last member.
    ChannelVacated { channel: ChannelName },
    /// A user, or a client without one, is listed in a channel from now on.
    MemberAdded { channel: ChannelName, member: Arc<MemberInfo> },
    /// It is listed no longer.
    MemberRemoved { channel: ChannelName, member: Arc<MemberInfo> },
    /// A message has its position in a channel.
    Published {
        channel: ChannelName,
        position: Position,
        /// JSON.
        content: Box<str>,
        /// `None`: it was published by a call of the API.
        from: Option<Arc<Sender>>,
    },
    /// A client of an app has sent an event to the other members of a channel.
    ClientEvent {
        channel: ChannelName,
        /// JSON (see `session::pusher`).
        content: Box<str>,
        from: Arc<Sender>,
    },
    /// A client has become a member of a channel with a cache, which is empty.
    CacheMiss { channel: ChannelName },
    /// A node of the cluster has ended without a drain.
    NodeLost {
        node: u32,
        /// Names the time of its life in which it was lost.
        incarnation: Box<str>,
    },
}

/// The client of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventClient {
    pub token: Token,
    pub connection: ConnectionId,
    pub address: Option<SocketAddr>,
    pub user: Option<EventUser>,
}

/// The user of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventUser {
    pub name: Arc<str>,
    /// Whether the connection had the user from its start. If not, its first events name none.
    pub since_open: bool,
}

/// Numbers of events, by backend and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventCounts(pub BTreeMap<(u8, EventKind), u64>);

impl Happening {
    /// Returns its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Connected { .. } => EventKind::Connected,
            Self::Disconnected { .. } => EventKind::Disconnected,
            Self::Subscribed { .. } => EventKind::Subscribed,
            Self::Unsubscribed { .. } => EventKind::Unsubscribed,
            Self::ChannelOccupied { .. } => EventKind::ChannelOccupied,
            Self::ChannelVacated { .. } => EventKind::ChannelVacated,
            Self::MemberAdded { .. } => EventKind::MemberAdded,
            Self::MemberRemoved { .. } => EventKind::MemberRemoved,
            Self::Published { .. } => EventKind::Published,
            Self::ClientEvent { .. } => EventKind::ClientEvent,
            Self::CacheMiss { .. } => EventKind::CacheMiss,
            Self::NodeLost { .. } => EventKind::NodeLost,
        }
    }

    /// Returns its memory while it is queued (bytes).
    fn bytes(&self) -> usize {
        let user = |user: &Option<EventUser>| user.as_ref().map_or(0, |user| user.name.len());
        size_of::<Queued>()
            + match self {
                Self::Connected { client, path } => user(&client.user) + path.len(),
                Self::Disconnected { client, .. } => user(&client.user),
                Self::Subscribed { user: own, channel, .. }
                | Self::Unsubscribed { user: own, channel, .. } => {
                    user(own) + channel.as_str().len()
                }
                Self::ChannelOccupied { channel }
                | Self::ChannelVacated { channel }
                | Self::CacheMiss { channel } => channel.as_str().len(),
                Self::MemberAdded { channel, member } | Self::MemberRemoved { channel, member } => {
                    channel.as_str().len() + member.encoded_bytes_max()
                }
                Self::Published { channel, content, .. }
                | Self::ClientEvent { channel, content, .. } => {
                    channel.as_str().len() + content.len()
                }
                Self::NodeLost { incarnation, .. } => incarnation.len(),
            }
    }
}

/// Bounds of each shard's queue. Losses are not counted: there is at most one between two events.
#[derive(Clone, Copy, Debug)]
pub struct EventBounds {
    pub events_max: usize,
    pub bytes_max: usize,
}

/// Counts of events that did not fit, by backend and kind.
#[derive(Debug)]
struct Losses([[AtomicU64; KINDS]; BACKENDS_MAX]);

impl Losses {
    fn new() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))))
    }

    /// Counts one more event; returns false if the counts were delivered already.
    fn count_loss(&self, backend: u8, kind: EventKind) -> bool {
        let more = |count| (count != CLOSED).then(|| count + 1);
        let count = &self.0[usize::from(backend)][kind as usize];
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Returns the counts, and closes them.
    fn close_counts(&self) -> EventCounts {
        let close = |(backend, counts): (usize, &[AtomicU64; KINDS])| {
            let closed = counts.iter().map(|count| count.swap(CLOSED, Ordering::AcqRel));
            let named = EventKind::ALL.into_iter().zip(closed);
            named.map(move |(kind, count)| ((backend as u8, kind), count)).collect::<Vec<_>>()
        };
        let all = self.0.iter().enumerate().flat_map(close);
        EventCounts(all.filter(|(_, count)| *count > 0).collect())
    }
}

#[derive(Debug)]
enum Queued {
    Event { backend: u8, time_ms: u64, event: Happening },
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
            Queued::Event { backend, time_ms, event } => {
                self.events.fetch_sub(1, Ordering::Relaxed);
                self.bytes.fetch_sub(event.bytes(), Ordering::Relaxed);
                Some(ShardEvent::Happened { backend, time_ms, event })
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
    pub fn new(shards: usize) -> Arc<Self> {
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

    /// Returns the number of shards.
    pub fn shard_count(&self) -> u16 {
        self.queues.len() as u16
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
pub struct EventSender {
    queues: Arc<EventQueues>,
    shard: u16,
    /// The time of the shard's turn (Unix, ms).
    unix_ms: u64,
    /// The loss at the end of the queue, if no event follows it yet.
    losses: Option<Arc<Losses>>,
}

impl EventSender {
    pub fn new(queues: Arc<EventQueues>, shard: u16) -> Self {
        Self { queues, shard, unix_ms: 0, losses: None }
    }

    /// Sets the time of events from now on (Unix, ms).
    pub fn set_time(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// Returns whether a consumer is attached.
    #[inline]
    pub fn is_attached(&self) -> bool {
        self.queues.is_attached.load(Ordering::Acquire)
    }

    /// Returns whether an event of this kind is wanted, so that it has to be made.
    #[inline]
    pub fn is_wanted(&self, target: EventTarget, kind: EventKind) -> bool {
        target.wants(kind) && self.is_attached()
    }

    /// Queues an event for a backend.
    #[cold]
    pub fn send(&mut self, backend: u8, event: Happening) {
        let attachment = self.queues.attachment.load();
        let (Some(attachment), kind) = (&*attachment, event.kind()) else { return };
        let EventBounds { events_max, bytes_max } = attachment.bounds;
        let queue = &self.queues.queues[usize::from(self.shard)];
        let bytes = event.bytes();
        let has_room = queue.events.load(Ordering::Relaxed) < events_max
            && queue.bytes.load(Ordering::Relaxed) + bytes <= bytes_max;
        if has_room {
            queue.events.fetch_add(1, Ordering::Relaxed);
            queue.bytes.fetch_add(bytes, Ordering::Relaxed);
            queue.queued.push(Queued::Event { backend, time_ms: self.unix_ms, event });
            self.losses = None;
        } else if !self.losses.as_ref().is_some_and(|losses| losses.count_loss(backend, kind)) {
            let losses = Arc::new(Losses::new());
            losses.count_loss(backend, kind);
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

    fn disconnected(serial: u32) -> Happening {
        let connection = ConnectionId { node: 1, shard: 0, session: 0, serial };
        let token = Token { slot: 0, generation: 0 };
        let client = EventClient { token, connection, address: None, user: None };
        let code = CloseCode::GOING_AWAY;
        let (duration_ms, bytes_received, bytes_sent) = (0, 0, 0);
        Happening::Disconnected { client, code, duration_ms, bytes_received, bytes_sent }
    }

    fn occupied(name: &str) -> Happening {
        Happening::ChannelOccupied { channel: ChannelName::new(name) }
    }

    fn happened(event: Happening) -> ShardEvent {
        ShardEvent::Happened { backend: 2, time_ms: 0, event }
    }

    fn lost(counts: &[(EventKind, u64)]) -> ShardEvent {
        let counts = counts.iter().map(|(kind, count)| ((2, *kind), *count));
        ShardEvent::Lost(EventCounts(counts.collect()))
    }

    #[test]
    fn without_a_consumer_no_event_is_queued() {
        let queues = EventQueues::new(1);
        let mut sender = EventSender::new(queues.clone(), 0);
        let kinds = [EventKind::Disconnected].into_iter().collect();
        let target = EventTarget { backend: 2, kinds };
        assert!(!sender.is_wanted(target, EventKind::Disconnected), "there is no consumer");
        let bell = Arc::new(Rings::default());
        let events = queues.attach(BOUNDS, bell.clone()).unwrap();
        assert!(queues.attach(BOUNDS, bell).is_none(), "there is one consumer");
        assert!(sender.is_wanted(target, EventKind::Disconnected));
        assert!(!sender.is_wanted(target, EventKind::Connected), "it wants another kind");
        sender.send(2, disconnected(1));
        assert!(queues.queued_bytes(0) > 0);
        drop(events);
        assert_eq!(queues.queued_bytes(0), 0);
        assert!(!sender.is_wanted(target, EventKind::Disconnected));
        sender.send(2, disconnected(2));
        let mut events = queues.attach(BOUNDS, Arc::new(Rings::default())).unwrap();
        assert_eq!(events.take(0), [], "nothing remains of the time before");
    }

    #[test]
    fn what_does_not_fit_is_counted_where_it_would_have_been() {
        let (queues, bell) = (EventQueues::new(2), Arc::new(Rings::default()));
        let mut events = queues.attach(BOUNDS, bell.clone()).unwrap();
        let mut sender = EventSender::new(queues.clone(), 0);
        (0..5).for_each(|serial| sender.send(2, disconnected(serial)));
        sender.send(2, occupied("a"));
        assert_eq!(bell.0.load(Ordering::Relaxed), 1, "once until the consumer looks");
        let expected = [
            happened(disconnected(0)),
            happened(disconnected(1)),
            happened(disconnected(2)),
            lost(&[(EventKind::Disconnected, 2), (EventKind::ChannelOccupied, 1)]),
        ];
        assert_eq!((events.take(1), events.take(0)), (vec![], expected.to_vec()));
        sender.send(2, occupied("b"));
        assert_eq!(bell.0.load(Ordering::Relaxed), 2);
        assert_eq!(events.take(0), [happened(occupied("b"))]);
        // Counts that were taken are not added to.
        (0..4).for_each(|serial| sender.send(2, disconnected(serial)));
        assert_eq!(events.take(0).last(), Some(&lost(&[(EventKind::Disconnected, 1)])));
        assert_eq!(queues.queued_bytes(0), 0);
    }

    #[test]
    fn long_names_count_in_bytes() {
        let queues = EventQueues::new(1);
        let bounds = EventBounds { events_max: 100, bytes_max: 2 * size_of::<Queued>() + 10 };
        let mut events = queues.attach(bounds, Arc::new(Rings::default())).unwrap();
        let mut sender = EventSender::new(queues.clone(), 0);
        ["12345", "123456", "12345"].iter().for_each(|name| sender.send(2, occupied(name)));
        let expected = [
            happened(occupied("12345")),
            lost(&[(EventKind::ChannelOccupied, 1)]),
            happened(occupied("12345")),
        ];
        assert_eq!(events.take(0), expected);
    }

    /// A shard sends as fast as it can; the consumer gets each event, or a count of it.
    #[test]
    fn nothing_is_lost_without_being_counted() {
        const SENT: u32 = 200_000;
        let queues = EventQueues::new(1);
        let mut events = queues.attach(BOUNDS, Arc::new(Rings::default())).unwrap();
        let mut sender = EventSender::new(queues, 0);
        let shard = std::thread::spawn(move || {
            (0..SENT).for_each(|serial| sender.send(2, disconnected(serial)));
        });
        let (mut next, mut losses) = (0, 0);
        while next < SENT {
            let is_over = shard.is_finished();
            let taken = events.take(0);
            assert!(!is_over || !taken.is_empty(), "{next} of {SENT} are accounted for");
            for event in taken {
                match event {
                    ShardEvent::Happened {
                        event: Happening::Disconnected { client, .. }, ..
                    } => {
                        assert_eq!(client.connection.serial, next, "in order");
                        next += 1;
                    }
                    ShardEvent::Lost(counts) => {
                        losses += 1;
                        next += counts.0[&(2, EventKind::Disconnected)] as u32;
                    }
                    other @ ShardEvent::Happened { .. } => panic!("{other:?}"),
                }
            }
        }
        shard.join().unwrap();
        assert_eq!(next, SENT);
        assert!(losses > 0, "the queue was full at times");
    }
}

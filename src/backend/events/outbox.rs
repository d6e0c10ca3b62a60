//! The events that wait for an application: pure, without sockets or clocks.
//!
//! Events are in [`LANES`] lanes, by user or connection, or by channel: each lane is sent in
//! batches, one at a time, so its order holds. A batch that fails is sent again unchanged, after a
//! random wait that grows, until the first attempt is too long ago. After a batch was dropped, its
//! lane pauses likewise.
//!
//! The memory of all lanes is bounded. Beyond the bound, the oldest event of the least important
//! class is dropped: first published messages, last the events of connections. Whatever is dropped
//! is counted by kind, and the counts take the place of the dropped events, as `events_lost`.
//!
//! Invariants: events of a lane are delivered in order; each event is delivered at least once, or
//! counted in one loss; `bytes` is the sum over everything that waits.

use std::collections::BTreeMap;

use crate::events::EventKind;

/// The number of lanes.
pub(super) const LANES: usize = 8;
/// Bounds of a batch; a single longer event is a batch by itself.
const BATCH_EVENTS_MAX: usize = 500;
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;
/// How long the first event of a batch waits for others.
const GATHER_MS: u64 = 100;
/// Waits before a batch is sent again: random, up to a bound that doubles.
const RETRY_MIN_MS: u64 = 500;
const RETRY_MAX_MS: u64 = 60_000;
/// Memory of an event beside its text (bytes).
const ENTRY_BYTES: usize = 128;
const CLASSES: usize = 3;

/// Returns the class of a kind: the lowest one is dropped first.
fn class_of(kind: EventKind) -> usize {
    match kind {
        EventKind::Published | EventKind::ClientEvent => 0,
        EventKind::Connected | EventKind::Disconnected => 2,
        _ => 1,
    }
}

/// Numbers of lost events by kind.
pub(super) type LostCounts = BTreeMap<EventKind, u64>;

/// Something that waits at its place in a lane.
#[derive(Debug)]
enum Entry {
    Event { kind: EventKind, json: Box<str>, since_ms: u64 },
    Lost { counts: LostCounts, since_ms: u64 },
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Event { json, .. } => json.len() + ENTRY_BYTES,
            Self::Lost { .. } => ENTRY_BYTES,
        }
    }

    fn since_ms(&self) -> u64 {
        match self {
            Self::Event { since_ms, .. } | Self::Lost { since_ms, .. } => *since_ms,
        }
    }
}

/// A part of a batch, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An event as JSON.
    Event(Box<str>),
    /// Events were lost at this place. The number is unique among all reports of losses.
    Lost { number: u64, counts: LostCounts },
}

impl Part {
    /// Returns an event as JSON; `None`: it is a loss.
    pub(super) fn event(&self) -> Option<&str> {
        match self {
            Self::Event(json) => Some(json),
            Self::Lost { .. } => None,
        }
    }
}

/// What was taken to be sent. It is the caller's until [`EventOutbox::settle`].
#[derive(Debug)]
pub(super) struct EventBatch {
    pub(super) lane: usize,
    /// Unique among the batches of the lane; the same in each attempt.
    pub(super) number: u64,
    pub(super) parts: Vec<Part>,
}

/// The result of an attempt to send a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Accepted,
    /// Send it again, after at least this time (ms).
    Failed {
        retry_after_ms: u64,
    },
    /// It will never be accepted.
    Rejected,
}

/// What follows from [`EventOutbox::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The batch is done, or lost.
    Done,
    /// Send it again at this time (ms).
    RetryAt(u64),
}

/// The batch of a lane that was taken.
#[derive(Debug)]
struct InFlight {
    counts: LostCounts,
    /// The losses that it reports.
    reported: LostCounts,
    bytes: usize,
    since_ms: u64,
    first_sent_ms: u64,
    attempts: u32,
}

#[derive(Debug, Default)]
struct Lane {
    /// By their numbers, which grow.
    waiting: BTreeMap<u64, Entry>,
    bytes: usize,
    events: usize,
    in_flight: Option<InFlight>,
    batches: u64,
    /// Batches dropped in a row, and the end of the pause after them.
    drops: u32,
    paused_until_ms: u64,
}

/// Totals since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OutboxCounts {
    pub(super) accepted: LostCounts,
    pub(super) lost: LostCounts,
    pub(super) retries: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct EventOutbox {
    batch_bytes_max: usize,
    bytes_max: usize,
    retry_for_ms: u64,
    lanes: [Lane; LANES],
    /// The lanes of waiting events, by class and number.
    order: [BTreeMap<u64, u8>; CLASSES],
    next_number: u64,
    /// Reports of losses so far.
    losses: u64,
    bytes: usize,
    counts: OutboxCounts,
}

/// Chooses a wait after this many failures in a row (ms).
fn choose_wait_ms(failures: u32, random: u64) -> u64 {
    let most = RETRY_MIN_MS.saturating_mul(2 << failures.min(16)).min(RETRY_MAX_MS);
    RETRY_MIN_MS + random % (most - RETRY_MIN_MS + 1)
}

fn add(counts: &mut LostCounts, others: &LostCounts) {
    for (kind, count) in others {
        *counts.entry(*kind).or_default() += count;
    }
}

impl EventOutbox {
    /// Makes an empty outbox; `batch_bytes_max`: the bound of a batch.
    pub(super) fn new(batch_bytes_max: usize, bytes_max: usize, retry_for_ms: u64) -> Self {
        Self {
            batch_bytes_max,
            bytes_max,
            retry_for_ms,
            lanes: Default::default(),
            order: Default::default(),
            next_number: 0,
            losses: 0,
            bytes: 0,
            counts: OutboxCounts::default(),
        }
    }

    /// Changes the bounds.
    pub(super) fn set_bounds(&mut self, bytes_max: usize, retry_for_ms: u64) {
        (self.bytes_max, self.retry_for_ms) = (bytes_max, retry_for_ms);
        self.drop_excess();
    }

    /// Returns the bytes that wait, or are under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of events that wait, without those that are under way.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.events).sum()
    }

    /// Returns the totals.
    pub(super) fn counts(&self) -> &OutboxCounts {
        &self.counts
    }

    /// Returns since when the oldest event waits, or is under way (ms).
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        let of_lane = |lane: &Lane| {
            let waiting = lane.waiting.values().next().map(Entry::since_ms);
            lane.in_flight.as_ref().map(|sent| sent.since_ms).or(waiting)
        };
        self.lanes.iter().filter_map(of_lane).min()
    }

    /// Appends an event to a lane; its number in the lane is passed to `encode`.
    pub(super) fn push(
        &mut self,
        now_ms: u64,
        lane: usize,
        kind: EventKind,
        encode: impl FnOnce(u64) -> String,
    ) {
        let number = self.take_number();
        let json = encode(number).into_boxed_str();
        self.insert(lane, number, Entry::Event { kind, json, since_ms: now_ms });
        self.order[class_of(kind)].insert(number, lane as u8);
        self.lanes[lane].events += 1;
        self.drop_excess();
    }

    /// Appends a loss of events that never reached a lane. One lane reports it, so that the sum
    /// over all reports is the number of lost events.
    pub(super) fn push_loss(&mut self, now_ms: u64, counts: &LostCounts) {
        add(&mut self.counts.lost, counts);
        self.note_loss(now_ms, 0, counts);
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn insert(&mut self, lane: usize, number: u64, entry: Entry) {
        let bytes = entry.bytes();
        self.lanes[lane].waiting.insert(number, entry);
        self.lanes[lane].bytes += bytes;
        self.bytes += bytes;
    }

    fn remove(&mut self, lane: usize, number: u64) -> Option<Entry> {
        let entry = self.lanes[lane].waiting.remove(&number)?;
        self.lanes[lane].bytes -= entry.bytes();
        self.bytes -= entry.bytes();
        if let Entry::Event { kind, .. } = &entry {
            self.lanes[lane].events -= 1;
            self.order[class_of(*kind)].remove(&number);
        }
        Some(entry)
    }

    /// Reports a loss at the end of a lane.
    fn note_loss(&mut self, now_ms: u64, lane: usize, counts: &LostCounts) {
        if let Some((_, Entry::Lost { counts: own, .. })) =
            self.lanes[lane].waiting.iter_mut().next_back()
        {
            return add(own, counts);
        }
        let number = self.take_number();
        self.insert(lane, number, Entry::Lost { counts: counts.clone(), since_ms: now_ms });
    }

    /// Drops events while they exceed the bound.
    fn drop_excess(&mut self) {
        while self.bytes > self.bytes_max {
            let first = self.order.iter().find_map(|class| class.first_key_value());
            let Some((&number, &lane)) = first else { return };
            self.drop_event(usize::from(lane), number);
        }
    }

    /// Replaces an event by a loss, merged with the losses next to it.
    fn drop_event(&mut self, lane: usize, number: u64) {
        let Some(Entry::Event { kind, since_ms, .. }) = self.remove(lane, number) else { return };
        *self.counts.lost.entry(kind).or_default() += 1;
        let mut counts = LostCounts::from([(kind, 1)]);
        let waiting = &self.lanes[lane].waiting;
        let before = waiting.range(..number).next_back();
        let after = waiting.range(number..).next();
        let is_loss = |entry: Option<(&u64, &Entry)>| {
            entry.filter(|(_, one)| matches!(one, Entry::Lost { .. })).map(|(at, _)| *at)
        };
        let mut since_ms = since_ms;
        for neighbour in [is_loss(before), is_loss(after)].into_iter().flatten() {
            if let Some(Entry::Lost { counts: own, since_ms: earlier }) =
                self.remove(lane, neighbour)
            {
                add(&mut counts, &own);
                since_ms = since_ms.min(earlier);
            }
        }
        self.insert(lane, number, Entry::Lost { counts, since_ms });
    }

    /// Returns when a lane has a batch to be taken (ms): once it is full, or has waited for others.
    fn due_ms(&self, lane: usize) -> Option<u64> {
        let own = &self.lanes[lane];
        if own.in_flight.is_some() {
            return None;
        }
        let since_ms = own.waiting.values().next()?.since_ms();
        let is_full = own.waiting.len() >= BATCH_EVENTS_MAX || own.bytes >= self.batch_bytes_max;
        let gathered_ms = if is_full { since_ms } else { since_ms + GATHER_MS };
        Some(gathered_ms.max(own.paused_until_ms))
    }

    /// Returns when the next batch can be taken (ms).
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        (0..LANES).filter_map(|lane| self.due_ms(lane)).min()
    }

    /// Takes a batch that is due. `at_once`: without waiting for others, because the server ends.
    pub(super) fn take_batch(&mut self, now_ms: u64, at_once: bool) -> Option<EventBatch> {
        let is_due = |lane: &usize| {
            let due_ms = self.due_ms(*lane);
            let paused_until_ms = self.lanes[*lane].paused_until_ms;
            due_ms.is_some_and(|due_ms| due_ms <= now_ms || at_once && paused_until_ms <= now_ms)
        };
        let lane = (0..LANES).find(is_due)?;
        let mut parts = Vec::new();
        let mut sent = InFlight {
            counts: LostCounts::new(),
            reported: LostCounts::new(),
            bytes: 0,
            since_ms: now_ms,
            first_sent_ms: now_ms,
            attempts: 0,
        };
        while parts.len() < BATCH_EVENTS_MAX {
            let Some((&number, next)) = self.lanes[lane].waiting.first_key_value() else { break };
            if !parts.is_empty() && sent.bytes + next.bytes() > self.batch_bytes_max {
                break;
            }
            let Some(entry) = self.remove(lane, number) else { break };
            sent.bytes += entry.bytes();
            sent.since_ms = sent.since_ms.min(entry.since_ms());
            parts.push(match entry {
                Entry::Event { kind, json, .. } => {
                    *sent.counts.entry(kind).or_default() += 1;
                    Part::Event(json)
                }
                Entry::Lost { counts, .. } => {
                    add(&mut sent.reported, &counts);
                    self.losses += 1;
                    Part::Lost { number: self.losses, counts }
                }
            });
        }
        self.bytes += sent.bytes;
        let own = &mut self.lanes[lane];
        own.in_flight = Some(sent);
        own.batches += 1;
        Some(EventBatch { lane, number: own.batches, parts })
    }

    /// Ends an attempt to send a lane's batch. `random`: any number.
    pub(super) fn settle(
        &mut self,
        now_ms: u64,
        lane: usize,
        delivery: Delivery,
        random: u64,
    ) -> Settled {
        let own = &mut self.lanes[lane];
        let Some(sent) = &mut own.in_flight else { return Settled::Done };
        let is_too_old = now_ms.saturating_sub(sent.first_sent_ms) >= self.retry_for_ms;
        if let Delivery::Failed { retry_after_ms } = delivery
            && !is_too_old
        {
            let wait_ms = choose_wait_ms(sent.attempts, random);
            sent.attempts += 1;
            self.counts.retries += 1;
            return Settled::RetryAt(now_ms + wait_ms.max(retry_after_ms.min(RETRY_MAX_MS)));
        }
        let Some(InFlight { mut counts, reported, bytes, .. }) = own.in_flight.take() else {
            return Settled::Done;
        };
        self.bytes -= bytes;
        if delivery == Delivery::Accepted {
            own.drops = 0;
            add(&mut self.counts.accepted, &counts);
        } else {
            own.paused_until_ms = now_ms + choose_wait_ms(own.drops, random);
            own.drops += 1;
            add(&mut self.counts.lost, &counts);
            // The losses that it reported have to be reported again.
            add(&mut counts, &reported);
            self.precede(lane, now_ms, counts);
        }
        Settled::Done
    }

    /// Reports a loss before everything that waits in a lane.
    fn precede(&mut self, lane: usize, since_ms: u64, mut counts: LostCounts) {
        let first = self.lanes[lane].waiting.first_key_value();
        let number = match first {
            Some((&number, Entry::Lost { .. })) => {
                if let Some(Entry::Lost { counts: own, .. }) = self.remove(lane, number) {
                    add(&mut counts, &own);
                }
                number
            }
            // Numbers of a lane are those of all lanes, so the one before is free or another's.
            Some((&number, _)) => number - 1,
            None => self.take_number(),
        };
        self.insert(lane, number, Entry::Lost { counts, since_ms });
    }
}

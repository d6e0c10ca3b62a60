//! Random events, applications and times: each event is accepted in its order, or counted once in
//! a loss that precedes what follows it.

use std::collections::{BTreeMap, BTreeSet};

use super::encode::{EventSource, encode_batch, encode_event, lane_key};
use super::outbox::{
    BATCH_BYTES_MAX, Delivery, EventBatch, EventOutbox, LANES, LostCounts, Part, Settled,
};
use crate::backend::queue::{EventUser, Happening};
use crate::events::EventKind;
use crate::hub::{ChannelName, ConnectionId, Epoch, MemberInfo, MemberKey, Position, Sender};
use std::sync::Arc;

/// A small generator of random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }
}

const KINDS: [EventKind; 4] =
    [EventKind::Published, EventKind::MemberAdded, EventKind::Subscribed, EventKind::Connected];
const RETRY_FOR_MS: u64 = 20_000;

/// What an application has accepted of one lane.
#[derive(Default)]
struct Received {
    numbers: Vec<u64>,
    lost: u64,
    attempts: u64,
}

struct World {
    random: Random,
    outbox: EventOutbox,
    bytes_max: usize,
    now_ms: u64,
    pushed: [Vec<u64>; LANES],
    received: [Received; LANES],
    /// Batches that were sent, or wait to be sent again, with the time of that.
    sent: BTreeMap<usize, (EventBatch, Option<u64>)>,
    retried: u64,
    /// The numbers of the reports of losses that were accepted.
    losses: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    Varies,
    Rejects,
}

impl World {
    fn new(seed: u64) -> Self {
        let bytes_max = [4_000, 40_000, 1 << 20][(seed % 3) as usize];
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            outbox: EventOutbox::new(BATCH_BYTES_MAX, bytes_max, RETRY_FOR_MS),
            bytes_max,
            now_ms: 0,
            pushed: Default::default(),
            received: Default::default(),
            sent: BTreeMap::new(),
            retried: 0,
            losses: BTreeSet::new(),
        }
    }

    fn push(&mut self) {
        let lane = self.random.below(LANES as u64) as usize;
        let kind = KINDS[self.random.below(4) as usize];
        let length = self.random.below(300) as usize;
        let mut pushed = 0;
        self.outbox.push(self.now_ms, lane, kind, |number| {
            pushed = number;
            format!("{number} {:length$}", "")
        });
        self.pushed[lane].push(pushed);
        let in_flight: usize = self.sent.values().map(|(batch, _)| batch_bytes(batch)).sum();
        assert!(self.outbox.bytes() <= self.bytes_max.max(in_flight + 1000) + LANES * 128);
    }

    /// Sends what is due, and ends some attempts.
    fn step(&mut self, mood: Mood) {
        while let Some(batch) = self.outbox.take_batch(self.now_ms, false) {
            assert!(!batch.parts.is_empty() && batch.parts.len() <= 500);
            assert!(batch.parts.len() == 1 || batch_bytes(&batch) <= 256 * 1024);
            let earlier = self.sent.insert(batch.lane, (batch, None));
            assert!(earlier.is_none(), "a lane has one batch under way");
        }
        for lane in self.sent.keys().copied().collect::<Vec<_>>() {
            let (batch, due_ms) = self.sent.get_mut(&lane).unwrap();
            if due_ms.is_some_and(|due_ms| due_ms > self.now_ms) {
                continue;
            }
            *due_ms = None;
            self.received[lane].attempts += 1;
            let delivery = match self.random.below(10) {
                _ if mood == Mood::Works => Delivery::Accepted,
                _ if mood == Mood::Rejects => Delivery::Rejected,
                0 => continue,
                1 => Delivery::Rejected,
                2..=5 => Delivery::Accepted,
                _ => Delivery::Failed { retry_after_ms: self.random.below(5000) },
            };
            if delivery == Delivery::Accepted {
                let received = &mut self.received[lane];
                for part in &batch.parts {
                    match part {
                        Part::Event(json) => {
                            let number = json.split(' ').next().unwrap().parse().unwrap();
                            received.numbers.push(number);
                        }
                        Part::Lost { number, counts } => {
                            assert!(self.losses.insert(*number), "each report has its own id");
                            received.lost += counts.values().sum::<u64>();
                        }
                    }
                }
            }
            let random = self.random.next();
            match self.outbox.settle(self.now_ms, lane, delivery, random) {
                Settled::Done => {
                    self.sent.remove(&lane);
                }
                Settled::RetryAt(at_ms) => {
                    let wait_ms = at_ms - self.now_ms;
                    assert!((500..=60_000).contains(&wait_ms), "{wait_ms} ms");
                    self.sent.get_mut(&lane).unwrap().1 = Some(at_ms);
                    self.retried += 1;
                }
            }
        }
    }
}

fn batch_bytes(batch: &EventBatch) -> usize {
    let bytes = |part: &Part| 128 + if let Part::Event(json) = part { json.len() } else { 0 };
    batch.parts.iter().map(bytes).sum()
}

#[test]
fn every_event_is_accepted_in_order_or_counted_as_lost() {
    let (mut lost, mut retried) = (0, 0);
    let seeds = std::env::var("SEAWALL_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 1..=seeds.unwrap_or(300) {
        let mut world = World::new(seed);
        for _ in 0..400 {
            (0..world.random.below(6)).for_each(|_| world.push());
            world.now_ms += world.random.below(400);
            world.step(Mood::Varies);
        }
        let before: u64 = world.received.iter().map(|one| one.attempts).sum();
        for _ in 0..100 {
            world.now_ms += 100;
            world.step(Mood::Rejects);
        }
        let attempts = world.received.iter().map(|one| one.attempts).sum::<u64>() - before;
        // Ten seconds with at least half a second between attempts, after those under way.
        assert!(attempts <= LANES as u64 * 22, "seed {seed}: {attempts} attempts");
        while world.outbox.oldest_ms().is_some() {
            world.now_ms += 100;
            world.step(Mood::Works);
        }
        assert_eq!((world.outbox.bytes(), world.outbox.waiting()), (0, 0), "seed {seed}");
        let mut reported = 0;
        for (pushed, received) in world.pushed.iter().zip(&world.received) {
            let is_ordered = received.numbers.windows(2).all(|two| two[0] < two[1]);
            assert!(is_ordered, "seed {seed}: in order, each once");
            assert!(received.numbers.iter().all(|number| pushed.contains(number)), "seed {seed}");
            let missing = (pushed.len() - received.numbers.len()) as u64;
            assert_eq!(received.lost, missing, "seed {seed}: each lane reports its losses");
            reported += missing;
        }
        let counts = world.outbox.counts();
        assert_eq!(counts.lost.values().sum::<u64>(), reported, "seed {seed}");
        assert_eq!(counts.retries, world.retried, "seed {seed}");
        let accepted: usize = world.received.iter().map(|one| one.numbers.len()).sum();
        assert_eq!(counts.accepted.values().sum::<u64>(), accepted as u64, "seed {seed}");
        (lost, retried) = (lost + reported, retried + world.retried);
    }
    assert!(lost > 0 && retried > 0, "the bound was exceeded, and batches failed");
}

#[test]
fn published_messages_are_dropped_before_the_events_of_connections() {
    let mut outbox = EventOutbox::new(BATCH_BYTES_MAX, 10_000, RETRY_FOR_MS);
    let push = |outbox: &mut EventOutbox, kind, lane| {
        outbox.push(0, lane, kind, |number| format!("{number} {:100}", ""));
    };
    (0..20).for_each(|_| push(&mut outbox, EventKind::Connected, 0));
    (0..20).for_each(|_| push(&mut outbox, EventKind::Published, 0));
    (0..20).for_each(|_| push(&mut outbox, EventKind::Subscribed, 1));
    let lost = &outbox.counts().lost;
    assert!(lost[&EventKind::Published] > 15 && lost.len() == 1, "{lost:?}");
    (0..60).for_each(|_| push(&mut outbox, EventKind::Disconnected, 2));
    let lost = &outbox.counts().lost;
    assert_eq!((lost[&EventKind::Published], lost[&EventKind::Subscribed]), (20, 20), "{lost:?}");
    let batch = outbox.take_batch(100, false).unwrap();
    let Some(Part::Lost { counts, .. }) = batch.parts.last() else { panic!("{batch:?}") };
    assert_eq!(counts[&EventKind::Published], 20, "next to the losses before it");
}

#[test]
fn a_batch_that_fails_for_too_long_is_reported_with_the_losses_that_it_reported() {
    let mut outbox = EventOutbox::new(BATCH_BYTES_MAX, 1 << 20, 1000);
    outbox.push_loss(0, &LostCounts::from([(EventKind::Connected, 3)]));
    outbox.push(0, 0, EventKind::Published, |_| "{}".into());
    assert!(outbox.take_batch(99, false).is_none(), "it waits for others");
    assert_eq!(outbox.take_batch(100, false).unwrap().parts.len(), 2);
    outbox.push(200, 0, EventKind::Subscribed, |_| "{}".into());
    let failed = Delivery::Failed { retry_after_ms: 0 };
    assert!(matches!(outbox.settle(200, 0, failed, 0), Settled::RetryAt(700)));
    assert!(matches!(outbox.settle(1000, 0, failed, 0), Settled::RetryAt(1500)));
    assert_eq!(outbox.settle(1100, 0, failed, 0), Settled::Done, "a second after the first");
    assert!(outbox.take_batch(1599, true).is_none(), "the lane pauses after a drop");
    let batch = outbox.take_batch(1600, false).unwrap();
    let expected = LostCounts::from([(EventKind::Connected, 3), (EventKind::Published, 1)]);
    let [Part::Lost { counts, .. }, Part::Event(_)] = &batch.parts[..] else {
        panic!("the loss precedes what follows it: {batch:?}");
    };
    assert_eq!(counts, &expected);
    assert_eq!(outbox.counts().lost, expected);
}

#[test]
fn events_are_valid_json_whatever_they_contain() {
    let connection = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };
    let user = |since_open| Some(EventUser { name: "a\"\n".into(), since_open });
    let channel = ChannelName::new("c\u{1}\\");
    let member = Arc::new(MemberInfo {
        key: MemberKey::User("u\"".into()),
        connection,
        info: Some(r#"{"name":"x"}"#.into()),
    });
    let published = Happening::Published {
        channel: channel.clone(),
        position: Position { epoch: Epoch(7), offset: 9 },
        content: r#"{"a":[1,2]}"#.into(),
        from: Some(Arc::new(Sender { user: Some("u".into()), connection })),
    };
    let early = Happening::Subscribed { connection, user: user(true), channel: channel.clone() };
    let late = Happening::Subscribed { connection, user: user(false), channel: channel.clone() };
    assert_ne!(lane_key(&early), lane_key(&late), "a late user does not change the lane");
    let added = Happening::MemberAdded { channel, member };
    let source = EventSource { node: 0xab, incarnation: 5 };
    let events = [published, early, late, added];
    let mut parts: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(at, event)| {
            let id = source.event_id(3, at as u64, event);
            Part::Event(encode_event(&id, 1000, event).into())
        })
        .collect();
    let counts = LostCounts::from([(EventKind::Published, 2)]);
    parts.push(Part::Lost { number: 4, counts });
    let body = encode_batch(&source, 3, &parts, 2000);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["node"], "000000ab");
    let events = body["events"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!(events[0]["content"], serde_json::json!({"a": [1, 2]}));
    assert_eq!(events[0]["offset"], 9);
    assert_eq!(events[1]["user"], "a\"\n");
    assert_eq!(events[3]["member"]["info"]["name"], "x");
    assert_eq!(events[4]["type"], "events_lost");
    assert_eq!(events[4]["counts"]["published"], 2);
    let ids: BTreeSet<_> = events.iter().map(|one| one["id"].as_str()).collect();
    assert_eq!(ids.len(), 5, "ids are unique");
}

//! A log that loses a channel's past under its members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{
    ChannelName, Done, Draft, Epoch, HistoryBudget, KeyScope, Log, Loss, MemoryLog, Opening, Range,
    Retention,
};
use serde_json::{Value, json};

use super::crowd::{connect, objects, until};
use crate::world::World;

/// Forgets its channel on request.
struct Forgetful {
    inner: MemoryLog,
    channel: Option<(ChannelName, u32, Retention)>,
    is_watched: bool,
    forget: Arc<AtomicBool>,
}

impl Log for Forgetful {
    fn open(
        &mut self,
        name: &ChannelName,
        key: u32,
        retention: Retention,
        first: Epoch,
    ) -> Opening {
        self.channel = Some((name.clone(), key, retention));
        self.inner.open(name, key, retention, first)
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.inner.retain(channel, retention);
    }

    fn close(&mut self, channel: u32) {
        self.inner.close(channel);
    }

    fn set_watched(&mut self, channel: u32, is_watched: bool) {
        self.is_watched = is_watched;
        self.inner.set_watched(channel, is_watched);
    }

    fn loss_on_close(&self, channel: u32) -> Loss {
        self.inner.loss_on_close(channel)
    }

    fn set_time(&mut self, now_ms: u64) {
        self.inner.set_time(now_ms);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.next_expiry_ms()
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>) {
        self.inner.append(ticket, channel, draft, key);
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        self.inner.read(ticket, channel, range);
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        self.inner.trim(ticket, channel);
    }

    fn expire_messages(&mut self, now_ms: u64, channels_max: usize) {
        self.inner.expire_messages(now_ms, channels_max);
    }

    fn next(&mut self) -> Option<Done> {
        if let Some(done) = self.inner.next() {
            return Some(done);
        }
        let (name, key, retention) = self.channel.clone()?;
        if !self.forget.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.inner.close(0);
        assert_eq!(self.inner.open(&name, key, retention, Epoch(0)).channel, 0);
        self.inner.set_watched(0, self.is_watched);
        self.inner.read(0, 0, Range { since: None, messages_max: 0, bytes_max: 0, reverse: false });
        match self.inner.next() {
            Some(Done::Page { page, .. }) => {
                Some(Done::EpochChanged { key, position: page.position })
            }
            other => panic!("a page was asked for: {other:?}"),
        }
    }

    fn kept_messages(&self) -> (u64, u64) {
        self.inner.kept_messages()
    }
}

#[test]
fn members_are_told_first_when_the_past_is_lost() {
    let forget = Arc::new(AtomicBool::new(false));
    let received = forget.clone();
    let make_log = Arc::new(move |_: u16, _| -> Box<dyn Log> {
        let inner = MemoryLog::new(HistoryBudget::new(1 << 20));
        Box::new(Forgetful { inner, channel: None, is_watched: false, forget: received.clone() })
    });
    let mut world = World::with_hub(1, 2, Faults::default(), make_log, |_| {});
    let subscribe = json!({"type": "subscribe", "channel": "a"});
    let members: Vec<_> = (0..3).map(|n| connect(&world, n % 2, &[&subscribe])).collect();
    until(&mut world, "all are members", |world| world.totals().gauges.channel_members == 3);
    let publishes = |world: &mut World, until_deliveries: u64| {
        let publish = json!({"type": "publish", "channel": "a", "content": 1});
        let publisher = connect(world, 0, &[&publish, &publish]);
        until(world, "all is delivered", |world| {
            world.totals().counters.deliveries == until_deliveries
        });
        publisher
    };
    let first = publishes(&mut world, 6);
    forget.store(true, Ordering::Relaxed);
    let second = publishes(&mut world, 12);
    (0..20).for_each(|_| world.turn_shards());
    for member in &members {
        let received = objects(member);
        let old = &received[1]["epoch"];
        let places = received[2..].iter().map(|one| (one["type"].as_str(), one["offset"].as_u64()));
        let places: Vec<_> = places.map(|(kind, at)| (kind.unwrap(), at.unwrap())).collect();
        // The log looks for its past once what it was asked before is done.
        let gap = received.iter().find(|one| one["type"] == "gap").expect("they receive a gap");
        assert_eq!((&gap["reason"], &gap["channel"]), (&json!("epoch"), &json!("a")));
        assert!(gap["epoch"].is_string() && gap["epoch"] != *old, "{gap}");
        let at = places.iter().position(|(kind, _)| *kind == "gap").unwrap();
        let offsets = |part: &[(&str, u64)]| part.iter().map(|(_, at)| *at).collect::<Vec<_>>();
        let before = offsets(&places[..at]);
        let after = offsets(&places[at + 1..]);
        assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>());
        assert_eq!(after, (1..=after.len() as u64).collect::<Vec<_>>());
        assert_eq!((places[at].1, before.len() + after.len()), (0, 4));
        // Whoever comes back from the old epoch is not recovered.
        let since = json!({"epoch": old, "offset": 2});
        let again = json!({"type": "subscribe", "channel": "a", "since": since});
        let back = connect(&world, 0, &[&again]);
        (0..50).for_each(|_| world.turn_shards());
        let answer: Value = objects(&back).remove(1);
        assert_eq!((&answer["recovered"], &answer["epoch"]), (&json!(false), &gap["epoch"]));
        back.send_reset();
    }
    members.iter().chain([&first, &second]).for_each(Peer::send_reset);
    (0..50).for_each(|_| world.turn_shards());
    world.drain();
    world.check_laws(true);
}

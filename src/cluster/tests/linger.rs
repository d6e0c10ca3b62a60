//! Channels that stay subscribed for some time after their last member.

use super::{LINGER_MS, RETENTION, make_log};
use crate::cluster::ClusterLog;
use crate::cluster::model::{ModelEngine, ModelFaults};
use crate::hub::testing::Plain;
use crate::hub::{ChannelName, Done, Draft, Epoch, HistoryPage, Log, Range, Since, Storing};

pub(super) const START_MS: u64 = 1_000_000;

/// A node and the engine.
pub(super) struct Bench {
    pub(super) engine: ModelEngine,
    pub(super) log: ClusterLog,
    tickets: u64,
}

fn show(done: &Done) -> String {
    match done {
        Done::Appended { position, .. } => format!("appended {}", position.offset),
        Done::Delivered { publication, .. } => format!("delivered {}", publication.offset()),
        Done::Page { page, .. } => format!("page {}", page.position.offset),
        other => format!("{other:?}"),
    }
}

impl Bench {
    pub(super) fn new(channels: u32) -> Self {
        let engine = ModelEngine::new(1, ModelFaults::default());
        let mut log = make_log(&engine, 1);
        log.set_time(START_MS);
        engine.set_time(START_MS);
        for channel in 0..channels {
            let name = ChannelName::new(&channel.to_string());
            log.open(&name, channel, RETENTION, Epoch(0));
        }
        Self { engine, log, tickets: 0 }
    }

    /// Lets the engine complete everything. Returns what the home learns.
    pub(super) fn finish(&mut self) -> Vec<Done> {
        let mut all = Vec::new();
        loop {
            all.extend(std::iter::from_fn(|| self.log.next()));
            if self.engine.is_quiet() {
                return all;
            }
            self.engine.step();
        }
    }

    pub(super) fn publish(&mut self, channel: u32) -> Vec<String> {
        self.tickets += 1;
        let draft = Draft {
            content: "x".into(),
            from: None,
            exclude: None,
            time_ms: 0,
            accepted_ns: 0,
            storing: Storing::with_only(&Plain),
        };
        self.log.append(self.tickets, channel, draft, None);
        self.finish().iter().map(show).collect()
    }

    /// Asks for what follows a position, or for the position.
    fn recover(&mut self, channel: u32, since: Option<Since>) {
        self.tickets += 1;
        let messages_max = if since.is_some() { 100 } else { 0 };
        let range = Range { since, messages_max, bytes_max: 1 << 20, reverse: false };
        self.log.recover(self.tickets, channel, range);
    }

    /// The page that is there without a call of the engine.
    fn take_page(&mut self) -> HistoryPage {
        match self.log.next() {
            Some(Done::Page { page, .. }) => page,
            other => panic!("a page is expected, not {other:?}"),
        }
    }
}

#[test]
fn a_member_that_returns_soon_needs_no_call_of_the_engine() {
    let mut bench = Bench::new(1);
    bench.log.set_watched(0, true);
    bench.recover(0, None);
    bench.finish();
    assert_eq!(bench.publish(0).len(), 2, "it is acknowledged and delivered");
    bench.recover(0, None);
    let left_at = bench.take_page().position;
    bench.log.set_watched(0, false);
    assert_eq!(bench.publish(0), ["appended 2"], "nothing is delivered");
    assert_eq!(bench.engine.subscriptions(0), 1);
    bench.log.set_watched(0, true);
    let since = Since { epoch: Some(left_at.epoch), offset: left_at.offset };
    bench.recover(0, Some(since));
    let page = bench.take_page();
    assert!(page.complete && page.messages.len() == 1 && page.position.offset == 2);
    assert!(bench.engine.is_quiet(), "nothing was sent");
    let stats = bench.log.stats();
    assert_eq!((stats.tail_reads, stats.engine_reads), (1, 0));
    assert_eq!(bench.publish(0).len(), 2, "it is delivered again");
    bench.log.expire_messages(START_MS + 2 * LINGER_MS, 10);
    bench.finish();
    assert_eq!(bench.engine.subscriptions(0), 1, "it does not linger any more");
}

#[test]
fn a_subscription_ends_after_its_time_or_above_the_limit() {
    let mut bench = Bench::new(4);
    (0..4).for_each(|channel| bench.log.set_watched(channel, true));
    bench.finish();
    for channel in 0..4 {
        bench.log.set_watched(channel, false);
        bench.log.set_time(START_MS + u64::from(channel));
    }
    bench.finish();
    assert_eq!(bench.engine.subscriptions(0), 2, "two may linger");
    bench.log.set_watched(3, true);
    bench.recover(3, None);
    assert_eq!(bench.take_page().position.offset, 0, "the latest ones do");
    let due_ms = bench.log.next_expiry_ms().expect("one lingers");
    assert!((START_MS + LINGER_MS..START_MS + LINGER_MS + 500).contains(&due_ms));
    bench.log.expire_messages(due_ms, 10);
    bench.finish();
    assert_eq!(bench.engine.subscriptions(0), 1, "the watched one");
}

#[test]
fn a_lost_subscription_does_not_linger() {
    let mut bench = Bench::new(2);
    (0..2).for_each(|channel| bench.log.set_watched(channel, true));
    bench.finish();
    bench.log.set_watched(0, false);
    bench.engine.cut(0);
    bench.finish();
    assert_eq!(bench.engine.subscriptions(0), 1);
    bench.log.close(0);
    bench.finish();
    assert_eq!(bench.engine.subscriptions(0), 1, "the other one is watched");
}

#[test]
fn a_clock_that_is_set_back_ends_lingering_no_later() {
    let mut bench = Bench::new(1);
    bench.log.set_watched(0, true);
    bench.finish();
    bench.log.set_watched(0, false);
    let hour_ms = 3_600_000;
    bench.log.set_time(START_MS.saturating_sub(hour_ms));
    let due_ms = bench.log.next_expiry_ms().expect("it lingers");
    assert!(due_ms <= START_MS.saturating_sub(hour_ms) + LINGER_MS + 250);
}

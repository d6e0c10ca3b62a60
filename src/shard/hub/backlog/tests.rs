//! The backlog against one that scans a plain list.

use super::*;
use crate::hub::{ConnectionId, Draft, Epoch, MemberInfo, MemberKey, Storing};
use crate::session::SeawallV1;
use proptest::prelude::*;

fn message(channel: &ChannelName, offset: u64) -> Arc<Publication> {
    let draft = Draft {
        content: "1".into(),
        from: None,
        exclude: None,
        time_ms: 0,
        accepted_ns: 0,
        storing: Storing::with_only(&SeawallV1),
    };
    Publication::new(channel, position(offset), None, draft)
}

fn position(offset: u64) -> Position {
    Position { epoch: Epoch(1), offset }
}

fn member() -> Arc<MemberInfo> {
    let connection = ConnectionId { node: 1, shard: 0, session: 0, serial: 0 };
    Arc::new(MemberInfo { key: MemberKey::Connection(connection), connection, info: None })
}

fn describe(item: &Item) -> String {
    match item {
        Item::Message(one) => format!("{}{}", one.channel.as_ref().unwrap(), one.offset()),
        Item::Missed(one) => format!("missed {}", one.offset()),
        Item::Gap(channel, position) => format!("gap {channel}{}", position.offset),
        Item::Notice(_, Notice::Epoch(position)) => format!("epoch {}", position.offset),
        Item::Notice(_, Notice::Lagging(position)) => format!("lagging {}", position.offset),
    }
}

fn drain(backlog: &mut Backlog) -> Vec<String> {
    std::iter::from_fn(|| backlog.pop()).map(|item| describe(&item)).collect()
}

fn names() -> [ChannelName; 3] {
    ["a", "b", "c"].map(ChannelName::new)
}

#[test]
fn a_gap_takes_the_place_of_the_dropped_messages() {
    let [a, b, _] = names();
    let mut backlog = Backlog::default();
    backlog.push(Item::Missed(message(&a, 1)));
    for offset in 2..5 {
        backlog.push(Item::Message(message(&a, offset)));
        backlog.push(Item::Message(message(&b, offset)));
    }
    assert!(backlog.drop_oldest(|one| *one == a) && backlog.drop_oldest(|one| *one == a));
    assert_eq!(backlog.keep_newest(&b), 2);
    assert_eq!(drain(&mut backlog), ["missed 1", "gap a3", "gap b3", "a4", "b4"]);
    assert_eq!(backlog.bytes(), 0);
}

#[test]
fn newest_message_stays_behind_one_gap_in_any_company() {
    let [a, b, _] = names();
    let mut backlog = Backlog::default();
    for offset in 1..5 {
        backlog.push(Item::Message(message(&a, offset)));
        backlog.push(Item::Message(message(&b, offset)));
    }
    assert!(backlog.drop_oldest(|one| *one == a));
    assert_eq!((backlog.keep_newest(&a), backlog.keep_newest(&a)), (2, 0));
    assert_eq!(drain(&mut backlog), ["gap a3", "b1", "b2", "b3", "a4", "b4"]);
    assert_eq!(backlog.bytes(), 0);
}

#[test]
fn notice_separates_the_gaps_on_its_sides() {
    let [a, ..] = names();
    let mut backlog = Backlog::default();
    backlog.push(Item::Message(message(&a, 1)));
    backlog.push(Item::Notice(a.clone(), Notice::Epoch(position(1))));
    backlog.push(Item::Message(message(&a, 2)));
    assert!(backlog.drop_oldest(|_| true) && backlog.drop_oldest(|_| true));
    assert_eq!(drain(&mut backlog), ["gap a1", "epoch 1", "gap a2"]);
}

#[test]
fn dropping_for_ever_keeps_the_queue_short() {
    let [a, ..] = names();
    let mut backlog = Backlog::default();
    for offset in 1..100_000 {
        backlog.push(Item::Message(message(&a, offset)));
        if offset > 100 {
            assert!(backlog.drop_oldest(|_| true));
        }
    }
    assert!(backlog.items.len() < 400, "{} entries", backlog.items.len());
    assert_eq!(backlog.pop().map(|item| describe(&item)), Some("gap a99899".into()));
}

#[derive(Clone, Debug)]
enum Step {
    Message(usize),
    News(usize),
    Missed(usize),
    Notice(usize),
    Pop,
    DropOldest,
    KeepNewest(usize),
    Purge(usize),
    PurgeNews(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize).prop_map(Step::Message),
        1 => (0..3usize).prop_map(Step::News),
        1 => (0..3usize).prop_map(Step::Missed),
        1 => (0..3usize).prop_map(Step::Notice),
        3 => Just(Step::Pop),
        4 => Just(Step::DropOldest),
        1 => (0..3usize).prop_map(Step::KeepNewest),
        1 => (0..3usize).prop_map(Step::Purge),
        1 => (0..3usize).prop_map(Step::PurgeNews),
    ]
}

/// The same policy by scanning a plain list.
#[derive(Default)]
struct Naive(Vec<Item>);

impl Naive {
    fn drop_at(&mut self, at: usize) {
        let channel = self.0[at].channel().unwrap().clone();
        let position = self.0[at].live_position().unwrap();
        let earlier = self.0[..at]
            .iter_mut()
            .rev()
            .find(|item| item.channel() == Some(&channel) && !is_news(item));
        if let Some(Item::Gap(_, until)) = earlier {
            *until = position;
            self.0.remove(at);
        } else {
            self.0[at] = Item::Gap(channel, position);
        }
    }

    fn drop_oldest(&mut self, may_drop: impl Fn(&ChannelName) -> bool) -> bool {
        let found = self.0.iter().position(|item| {
            item.live_position().is_some() && item.channel().is_some_and(&may_drop)
        });
        found.is_some_and(|at| {
            self.drop_at(at);
            true
        })
    }

    fn keep_newest(&mut self, channel: &ChannelName) -> u32 {
        let live = |item: &Item| item.live_position().is_some() && item.channel() == Some(channel);
        let mut dropped = 0;
        while self.0.iter().filter(|item| live(item)).count() > 1 {
            let at = self.0.iter().position(live).unwrap();
            self.drop_at(at);
            dropped += 1;
        }
        dropped
    }
}

fn is_news(item: &Item) -> bool {
    matches!(item, Item::Message(one) if one.position.is_none())
}

fn item(step: &Step, names: &[ChannelName], offset: u64) -> Option<Item> {
    Some(match step {
        Step::Message(one) => Item::Message(message(&names[*one], offset)),
        Step::News(one) => Item::Message(Publication::new_join(&names[*one], member())),
        Step::Missed(one) => Item::Missed(message(&names[*one], offset)),
        Step::Notice(one) => Item::Notice(names[*one].clone(), Notice::Lagging(position(offset))),
        _ => return None,
    })
}

proptest! {
    #[test]
    fn index_and_scan_agree(steps in prop::collection::vec(step(), 1..120)) {
        let names = names();
        let (mut backlog, mut naive) = (Backlog::default(), Naive::default());
        for (offset, step) in steps.iter().enumerate() {
            let offset = offset as u64 + 1;
            if let (Some(one), Some(two)) =
                (item(step, &names, offset), item(step, &names, offset))
            {
                backlog.push(one);
                naive.0.push(two);
            }
            match step {
                Step::Pop => {
                    let popped = backlog.pop().map(|item| describe(&item));
                    let expected =
                        (!naive.0.is_empty()).then(|| describe(&naive.0.remove(0)));
                    prop_assert_eq!(popped, expected);
                }
                Step::DropOldest => {
                    // A channel either may be dropped from or not, for the whole run.
                    let may_drop = |one: &ChannelName| *one != names[2];
                    prop_assert_eq!(
                        backlog.drop_oldest(may_drop),
                        naive.drop_oldest(may_drop)
                    );
                }
                Step::KeepNewest(one) => prop_assert_eq!(
                    backlog.keep_newest(&names[*one]),
                    naive.keep_newest(&names[*one])
                ),
                Step::Purge(one) => {
                    backlog.purge(&names[*one]);
                    naive.0.retain(|item| item.channel() != Some(&names[*one]));
                }
                Step::PurgeNews(one) => {
                    backlog.purge_news(&names[*one]);
                    let is_own = |item: &Item| item.channel() == Some(&names[*one]);
                    naive.0.retain(|item| !(is_own(item) && is_news(item)));
                }
                _ => {}
            }
            let queued: Vec<_> = backlog.items().map(describe).collect();
            prop_assert_eq!(queued, naive.0.iter().map(describe).collect::<Vec<_>>());
            prop_assert_eq!(backlog.bytes(), naive.0.iter().map(Item::bytes).sum::<usize>());
            prop_assert_eq!(
                backlog.size().missed_bytes,
                naive.0.iter().map(Item::missed_bytes).sum::<usize>()
            );
        }
    }
}

//! The laws of a home's tables: bounded, accounted for, and empty in time without anything else
//! happening.

mod failures;
mod positions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::hub::Storing;
use crate::hub::presence::{MemberInfo, MemberKey};
use crate::hub::testing::Plain;
use crate::hub::{ApiReply, ConnectionId, Draft, HistoryBudget, KeyScope, MemoryLog};

/// How long messages and unused channels are kept.
const TTL_MS: u64 = 1000;
const TURN_MS: u64 = 50;

fn home(channels_max: usize) -> Home {
    let options = HomeOptions {
        channel_ttl_ms: TTL_MS,
        channels_max,
        recover_messages_max: 100,
        recover_bytes_max: 1 << 20,
        presence_page_max: 10,
        history_page_max: 10,
        keys_max: 1000,
        key_ttl_ms: TTL_MS,
    };
    Home::new(options, Box::new(MemoryLog::new(HistoryBudget::new(1 << 30))))
}

/// Asks as a backend and returns the answer.
fn ask(home: &mut Home, channel: &str, verb: Verb, now_ms: u64) -> Answer {
    let answer = Arc::new(Mutex::new(None));
    let slot = answer.clone();
    let reply = ApiReply(Box::new(move |answer| *slot.lock().unwrap() = Some(answer)));
    request(home, channel, Origin::Api(reply), verb, now_ms);
    let answer = answer.lock().unwrap().take();
    answer.expect("the log in memory answers at once")
}

fn request(home: &mut Home, channel: &str, from: Origin, verb: Verb, now_ms: u64) {
    let retention = Retention { messages_max: 3, ttl_ms: TTL_MS };
    let channel = ChannelName::new(channel);
    home.handle_request(Request { from, channel, retention, verb }, now_ms);
    while home.process_completions(1) {}
}

fn publish(key: Option<&str>, time_ms: u64) -> Verb {
    let draft = Draft {
        content: "1".into(),
        from: None,
        exclude: None,
        time_ms,
        accepted_ns: time_ms,
        storing: Storing::with_only(&Plain),
    };
    let key = key.map(|key| Box::new(KeyScope { owner: "o".into(), key: key.into() }));
    Verb::Publish { draft: Box::new(draft), key }
}

/// Subscribes as a connection that is not listed.
fn subscribe(since: Option<Since>) -> Verb {
    Verb::Subscribe(Box::new(Subscribe {
        since,
        watch: false,
        restart: None,
        member: None,
        replaces: None,
        members_max: 0,
    }))
}

fn history(since: Option<Since>) -> Verb {
    Verb::History { since, limit: 10, reverse: false }
}

/// Whether no table holds anything.
fn is_empty(home: &Home) -> bool {
    let gauges = home.gauges();
    let HomeGauges { channels, members, history_messages, history_bytes, keys, .. } = gauges;
    channels + members + history_messages + history_bytes + keys == 0
        && (home.name_bytes, home.shard_count_bytes, home.seat_bytes, home.presence_bytes)
            == (0, 0, 0, 0)
        && home.unused.bytes() == 0
}

#[test]
fn no_rate_of_new_channels_outruns_their_expiry() {
    for each_turn in [10_u64, 2000] {
        let mut home = home(usize::MAX);
        let (mut now_ms, mut made, mut most) = (1_000_000, 0, 0);
        for _ in 0..60 {
            for _ in 0..each_turn {
                made += 1;
                request(
                    &mut home,
                    &format!("c{made}"),
                    Origin::Api(ApiReply(Box::new(drop))),
                    publish(None, now_ms),
                    now_ms,
                );
            }
            home.take_out();
            // The shard calls it once a turn.
            home.expire_channels(now_ms, 256);
            most = most.max(home.len() as u64);
            now_ms += TURN_MS;
        }
        // What is made within the time to live, a step of deadlines and a turn.
        assert!(
            most <= each_turn * ((TTL_MS + TTL_MS / 4 + 250) / TURN_MS + 2),
            "{most} at {each_turn} a turn"
        );
        while home.expire_channels(now_ms + TTL_MS + TTL_MS / 4 + 250, 256) {}
        assert!(is_empty(&home), "{:?}", home.gauges());
        assert_eq!(home.stats().channels_forgotten, made);
    }
}

#[test]
fn a_read_never_shows_what_is_past_its_age() {
    let mut home = home(10);
    let now_ms = 5_000_000;
    let Answer::Published { position, .. } = ask(&mut home, "a", publish(None, now_ms), now_ms)
    else {
        panic!("it is published");
    };
    let read = |home: &mut Home, since, now_ms| match ask(home, "a", history(since), now_ms) {
        Answer::History { messages, .. } => messages.len(),
        other => panic!("{other:?}"),
    };
    let since = Some(Since { epoch: Some(position.epoch), offset: 0 });
    for (wait_ms, found) in [(TTL_MS, 1), (TTL_MS + 1, 0)] {
        assert_eq!(read(&mut home, None, now_ms + wait_ms), found, "{wait_ms} ms later");
        assert_eq!(read(&mut home, since, now_ms + wait_ms), found, "{wait_ms} ms later");
    }
    assert_eq!(home.gauges().history_messages, 0, "it is freed as well");
}

/// The same for members that come back: what is past its age is lost to them.
#[test]
fn no_recovery_brings_what_is_past_its_age() {
    for (wait_ms, found) in [(TTL_MS, 1), (TTL_MS + 1, 0)] {
        let mut home = home(10);
        let now_ms = 5_000_000;
        let Answer::Published { position, .. } = ask(&mut home, "a", publish(None, now_ms), now_ms)
        else {
            panic!("it is published");
        };
        let (from, _) = member(1);
        let since = Some(Since { epoch: Some(position.epoch), offset: 0 });
        let verb = subscribe(since);
        request(&mut home, "a", from, verb, now_ms + wait_ms);
        let answers = home.take_out().find_map(|(_, out)| match out {
            Out::Answer { answer: Answer::Subscribed(joined), .. } => {
                Some((joined.recovered, joined.missed.len()))
            }
            _ => None,
        });
        assert_eq!(answers, Some((found == 1, found)), "{wait_ms} ms later");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish { keyed: bool },
    Join,
    Leave,
    Read,
    Trim,
    Wait(u64),
    Expire,
}

fn step() -> impl Strategy<Value = (Step, u8)> {
    let step = prop_oneof![
        any::<bool>().prop_map(|keyed| Step::Publish { keyed }),
        Just(Step::Join),
        Just(Step::Leave),
        Just(Step::Read),
        Just(Step::Trim),
        (1..700_u64).prop_map(Step::Wait),
        Just(Step::Expire),
    ];
    (step, 0..20_u8)
}

fn member(channel: u8) -> (Origin, Arc<MemberInfo>) {
    let connection = ConnectionId { node: 1, shard: u16::from(channel % 3), session: 4, serial: 5 };
    let key = MemberKey::Connection(connection);
    let info = MemberInfo { key, connection, info: Some("{}".into()) };
    (Origin::Session { id: connection, request: 0 }, Arc::new(info))
}

/// Whether the member was admitted; otherwise it was refused with `limit`.
fn is_admitted(home: &mut Home) -> bool {
    let answers = home.take_out().find_map(|(_, out)| match out {
        Out::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    match answers {
        Some(Answer::Subscribed { .. }) => true,
        Some(Answer::Refused(Refused { code: Code::Limit, .. })) => false,
        other => panic!("a subscription is answered: {other:?}"),
    }
}

const CHANNELS_MAX: usize = 6;

/// A home, and what its tables must hold.
struct Model {
    home: Home,
    members: BTreeMap<u8, Arc<MemberInfo>>,
    now_ms: u64,
}

impl Model {
    /// Takes a step and checks its answer; `n` is its number.
    fn take(&mut self, n: usize, step: Step, channel: u8) -> Result<(), TestCaseError> {
        let Self { home, members, now_ms } = self;
        let name = format!("c{channel}");
        let had_room = members.len() < CHANNELS_MAX || members.contains_key(&channel);
        match step {
            Step::Publish { keyed } => {
                let key = n.to_string();
                let verb = publish(keyed.then_some(&key), *now_ms);
                let answer = ask(home, &name, verb, *now_ms);
                let published = matches!(answer, Answer::Published { .. });
                prop_assert_eq!(published, had_room, "{:?}", answer);
            }
            Step::Join => {
                if !members.contains_key(&channel) {
                    let admitted = self.join(channel);
                    prop_assert_eq!(admitted, had_room);
                }
            }
            Step::Leave => self.leave(channel),
            Step::Read => {
                let before = home.len();
                let answer = ask(home, &name, history(None), *now_ms);
                let is_history = matches!(answer, Answer::History { .. });
                prop_assert!(is_history);
                prop_assert_eq!(home.len(), before, "a read opens no channel");
            }
            Step::Trim => {
                let before = home.len();
                let answer = ask(home, &name, Verb::Trim, *now_ms);
                let is_trimmed = matches!(answer, Answer::Trimmed { .. });
                prop_assert!(is_trimmed);
                prop_assert_eq!(home.len(), before);
            }
            Step::Wait(ms) => *now_ms += ms,
            Step::Expire => {
                home.expire_channels(*now_ms, 2);
            }
        }
        self.home.take_out();
        Ok(())
    }

    fn join(&mut self, channel: u8) -> bool {
        let (from, info) = member(channel);
        let subscribe = Subscribe {
            since: None,
            watch: true,
            restart: None,
            member: Some(info.clone()),
            replaces: None,
            members_max: 0,
        };
        self.home.take_out();
        let verb = Verb::Subscribe(Box::new(subscribe));
        request(&mut self.home, &format!("c{channel}"), from, verb, self.now_ms);
        let admitted = is_admitted(&mut self.home);
        if admitted {
            self.members.insert(channel, info);
        }
        admitted
    }

    fn leave(&mut self, channel: u8) {
        let Some(info) = self.members.remove(&channel) else { return };
        let verb = Verb::Leave { watch: true, member: Some(info) };
        let (from, _) = member(channel);
        request(&mut self.home, &format!("c{channel}"), from, verb, self.now_ms);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Self { home, members, .. } = self;
        let gauges = home.gauges();
        prop_assert!(home.len() <= CHANNELS_MAX);
        prop_assert_eq!(gauges.members, members.len() as u64);
        let holds = home.len() > members.len() || gauges.history_messages + gauges.keys > 0;
        prop_assert!(!holds || home.next_due_ms().is_some(), "an idle shard would not wake");
        prop_assert!(gauges.presence_bytes > 0 || members.is_empty());
        Ok(())
    }
}

proptest! {
    #[test]
    fn tables_stay_within_their_bounds_and_empty_by_themselves(
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let home = home(CHANNELS_MAX);
        let mut model = Model { home, members: BTreeMap::new(), now_ms: 9_000_000 };
        for (n, (step, channel)) in steps.into_iter().enumerate() {
            model.take(n, step, channel)?;
            model.check()?;
        }
        (0..20).for_each(|channel| model.leave(channel));
        // Nothing but its own deadlines.
        let Model { mut home, mut now_ms, .. } = model;
        let mut wakes = 0;
        while let Some(due_ms) = home.next_due_ms() {
            now_ms = now_ms.max(due_ms);
            home.expire_channels(now_ms, 1);
            wakes += 1;
            prop_assert!(wakes < 1000, "deadlines come again and again");
        }
        prop_assert!(is_empty(&home), "{:?}", home.gauges());
    }
}

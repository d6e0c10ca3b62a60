//! The scripts in real engines, and the model that the simulations use, do the same.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use seawall::cluster::model::{ModelEngine, ModelFaults};
use seawall::cluster::redis::Outer;
use seawall::cluster::{
    Action, AppendKey, ClusterSettings, EngineCommand, EngineEvent, EnginePort, EngineUrl, Layout,
    OnFailover, RosterChange,
};
use seawall::driver::Bell;
use seawall::hub::{
    ChannelName, ConnectionId, Epoch, MemberInfo, MemberKey, Range, Retention, RosterRange, Since,
    SoughtMember,
};

use crate::engine::{Engine, KINDS};

/// Wakes a thread that waits for an event.
#[derive(Default)]
struct Rung(Mutex<bool>, Condvar);

impl Bell for Rung {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

impl Rung {
    fn await_ring(&self) {
        let rung = self.0.lock().unwrap();
        let long = Duration::from_mins(2);
        let (mut rung, timeout) = self.1.wait_timeout_while(rung, long, |rung| !*rung).unwrap();
        assert!(!timeout.timed_out(), "no event");
        *rung = false;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        channel: u8,
        size: u16,
        kept: u32,
        key: Option<(u8, u8)>,
    },
    Read {
        channel: u8,
        since: Option<(bool, u64)>,
        messages_max: u32,
        bytes_max: u64,
        reverse: bool,
    },
    Trim {
        channel: u8,
    },
    Change {
        channel: u8,
        changes: Vec<RosterChange>,
    },
    Members {
        channel: u8,
        range: RosterRange,
    },
    Seat {
        channel: u8,
        id: u8,
        replaces: Option<u8>,
    },
}

fn make_id(serial: u8) -> ConnectionId {
    ConnectionId { node: 1, shard: 2, session: 3, serial: serial.into() }
}

/// Five users, one with a name that needs care, and five clients without a user.
fn make_key(n: u8) -> MemberKey {
    match n {
        0 => MemberKey::User("connection:\n%z \u{0}".into()),
        1..5 => MemberKey::User(format!("u{n}").into()),
        _ => MemberKey::Connection(make_id(n)),
    }
}

/// Changes of members, reads of their lists, and requests for seats.
fn roster_steps() -> impl Strategy<Value = Step> {
    let replaces = proptest::option::weighted(0.3, 0..10u8);
    let member = (0..10u8, 0..10u8, any::<bool>()).prop_map(|(key, connection, has_info)| {
        let info = has_info.then(|| Arc::from(format!("{{\"n n\":{connection}}}")));
        Arc::new(MemberInfo { key: make_key(key), connection: make_id(connection), info })
    });
    let list = (member.clone(), replaces.clone()).prop_map(|(member, replaces)| {
        let has_user = matches!(member.key, MemberKey::User(_));
        let replaces = replaces.filter(|_| !has_user).map(make_id);
        RosterChange::List { member, replaces }
    });
    let change = prop_oneof![
        4 => list,
        1 => member.prop_map(|member| RosterChange::Relist { member }),
        3 => (0..10u8).prop_map(|n| RosterChange::Unlist { key: make_key(n) }),
        1 => (0..10u8).prop_map(|n| RosterChange::Seat { id: make_id(n) }),
        1 => (0..10u8).prop_map(|n| RosterChange::Unseat { id: make_id(n) }),
    ];
    let changes = proptest::collection::vec(change, 1..6);
    let sought = proptest::option::of((0..10u8, replaces.clone()));
    let bytes_max = prop_oneof![0..400u64, Just(1 << 20)];
    let after = proptest::option::of(0..10u8);
    let members = (0..3u8, after, 0..6u32, bytes_max, sought).prop_map(
        |(channel, after, members_max, bytes_max, sought)| {
            let after = after.map(|n| make_key(n).cursor().into());
            let sought = sought.map(|(key, replaces)| SoughtMember {
                key: make_key(key),
                replaces: replaces.map(make_id),
            });
            Step::Members { channel, range: RosterRange { after, members_max, bytes_max, sought } }
        },
    );
    prop_oneof![
        5 => (0..3u8, changes).prop_map(|(channel, changes)| Step::Change { channel, changes }),
        3 => members,
        2 => (0..3u8, 0..10u8, replaces)
            .prop_map(|(channel, id, replaces)| Step::Seat { channel, id, replaces }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let channel = 0..3u8;
    let kept = prop_oneof![Just(0), Just(3), Just(200)];
    let key = proptest::option::weighted(0.3, (0..4u8, 0..2u8));
    let append = (channel.clone(), 0..200u16, kept, key)
        .prop_map(|(channel, size, kept, key)| Step::Append { channel, size, kept, key });
    let since = proptest::option::of((prop::bool::weighted(0.8), 0..150u64));
    let messages_max = prop_oneof![Just(0), 1..10u32, Just(1000)];
    let bytes_max = prop_oneof![0..2000u64, Just(1 << 20)];
    let read = (channel.clone(), since, messages_max, bytes_max, any::<bool>()).prop_map(
        |(channel, since, messages_max, bytes_max, reverse)| Step::Read {
            channel,
            since,
            messages_max,
            bytes_max,
            reverse,
        },
    );
    let trim = channel.prop_map(|channel| Step::Trim { channel });
    let step = prop_oneof![6 => append, 4 => read, 1 => trim, 8 => roster_steps()];
    proptest::collection::vec(step, 1..200)
}

/// Runs steps on an engine and on the model, and compares the events.
fn compare(port: &mut dyn EnginePort, bell: &Rung, layout: &Layout, run: u64, steps: &[Step]) {
    let model = ModelEngine::new(1, ModelFaults::default());
    let mut epochs = vec![None; 3];
    for (at, step) in steps.iter().enumerate() {
        let token = at as u64;
        let fresh = Epoch(run << 32 | token);
        let (channel, make_action) = make_action(step, fresh, &epochs);
        let name = ChannelName::new(&format!("{run}:{channel}"));
        let place = layout.place_of(name.as_str());
        let command =
            || EngineCommand { token, channel: name.clone(), place, action: make_action() };
        let mut expected = model.execute(command());
        assert!(port.submit(command()));
        let mut found = loop {
            match port.next_event() {
                Some(event) => break event,
                None => bell.await_ring(),
            }
        };
        for event in [&mut expected, &mut found] {
            // The model has a clock of its own.
            if let EngineEvent::Page { page, .. } = event {
                page.messages.iter_mut().for_each(|one| one.time_ms = 0);
                epochs[usize::from(channel)] = Some(page.position.epoch);
            }
            // Revisions of the engine begin with a time.
            if let EngineEvent::Members { page, .. } = event {
                page.revision = 0;
            }
        }
        assert_eq!(found, expected, "step {at}: {step:?}");
    }
}

/// The channel of a step, and what makes its action.
fn make_action<'s>(
    step: &'s Step,
    fresh: Epoch,
    epochs: &[Option<Epoch>],
) -> (u8, Box<dyn Fn() -> Action + 's>) {
    const TTL_MS: u64 = 3_600_000;
    match *step {
        Step::Append { channel, size, kept, key } => {
            let retention = Retention { messages_max: kept, ttl_ms: TTL_MS };
            let make_key = move |(key, content): (u8, u8)| AppendKey {
                // Keys are hashed together with their channel.
                digest: *[fresh.0 >> 32, u64::from(key * 3 + channel)]
                    .map(u64::to_be_bytes)
                    .as_flattened()
                    .first_chunk()
                    .expect("two numbers have sixteen bytes"),
                content: [content; 16],
                ttl_ms: TTL_MS,
            };
            let make = move || {
                let envelope = vec![b'x'; size.into()].into();
                Action::Append { envelope, retention, fresh, key: key.map(make_key) }
            };
            (channel, Box::new(make))
        }
        Step::Read { channel, since, messages_max, bytes_max, reverse } => {
            let epoch = epochs[usize::from(channel)];
            let since = since.map(|(is_known, offset)| Since {
                epoch: if is_known { epoch } else { Some(Epoch(7)) },
                offset,
            });
            // The engine counts the digits of the time, which the model's clock has fewer of.
            let bytes_max = if bytes_max < 1 << 20 { 0 } else { bytes_max };
            let range = Range { since, messages_max, bytes_max, reverse };
            let retention = Retention { messages_max: 1000, ttl_ms: TTL_MS };
            let is_watched = channel == 0;
            (channel, Box::new(move || Action::Read { range, retention, fresh, is_watched }))
        }
        Step::Trim { channel } => (channel, Box::new(move || Action::Trim { fresh })),
        Step::Change { channel, ref changes } => {
            (channel, Box::new(move || Action::Change { changes: changes.clone() }))
        }
        Step::Members { channel, ref range } => {
            (channel, Box::new(move || Action::Members { range: range.clone() }))
        }
        Step::Seat { channel, id, replaces } => {
            let (id, replaces) = (make_id(id), replaces.map(make_id));
            (channel, Box::new(move || Action::Seat { id, replaces, seats_max: 4 }))
        }
    }
}

#[test]
fn scripts_do_as_the_model_does() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let url = engine.url();
        let port = url.rsplit_once(':').unwrap().1.parse().unwrap();
        let url = EngineUrl { host: "127.0.0.1".into(), port, tls: false };
        let layout = Arc::new(Layout::new("test", &[url.name()]));
        let second = Duration::from_secs(1);
        let settings = Arc::new(ClusterSettings {
            urls: vec![url],
            prefix: "test".into(),
            user: String::new(),
            password: None,
            ca: None,
            heartbeat: second,
            node_ttl: 10 * second,
            command_timeout: 60 * second,
            subscribe_timeout: 60 * second,
            position_ttl: 3600 * second,
            interest_linger: Duration::ZERO,
            resubscribe_spread: Duration::ZERO,
            epoch_gaps_per_s: 1,
            in_flight_bytes_max: 1 << 30,
            tail_messages_max: 0,
            tail_bytes_max: 0,
            on_failover: OnFailover::NewEpoch,
        });
        let thread = seawall::outer::OuterThread::start().expect("a thread starts");
        let outer =
            Outer::start(&thread, &settings, &layout, (1, 7, 7)).expect("the engine is there");
        let bell = Arc::new(Rung::default());
        let mut port = outer.port(0, bell.clone());
        let runs = std::cell::Cell::new(0);
        let seen = std::cell::RefCell::new(HashSet::new());
        let port = std::cell::RefCell::new(&mut port);
        let config =
            ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = TestRunner::new(config);
        let result = runner.run(&steps(), |steps| {
            runs.set(runs.get() + 1);
            seen.borrow_mut().insert(steps.len());
            compare(&mut ***port.borrow_mut(), &bell, &layout, runs.get(), &steps);
            Ok(())
        });
        result.unwrap();
        assert!(seen.borrow().len() > 5, "runs differ");
    }
}

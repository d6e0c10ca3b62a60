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
    OnFailover,
};
use seawall::driver::Bell;
use seawall::hub::{ChannelName, Epoch, Range, Retention, Since};

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
    proptest::collection::vec(prop_oneof![6 => append, 4 => read, 1 => trim], 1..150)
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
            command_timeout: 60 * second,
            subscribe_timeout: 60 * second,
            position_ttl: 3600 * second,
            in_flight_bytes_max: 1 << 30,
            on_failover: OnFailover::NewEpoch,
        });
        let outer = Outer::start(&settings, &layout, (1, 7, 7)).expect("the engine is there");
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

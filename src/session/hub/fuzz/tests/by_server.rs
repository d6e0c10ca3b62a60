//! A backend and a client subscribe and unsubscribe in any order, while the home replies late: the
//! last request wins, and each call gets one reply, which is true.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::hub::{ChannelName, MemberInfo, MemberKey, Origin, Retention, Subscribe, Verb};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    BackendSubscribes,
    BackendUnsubscribes,
    ClientSubscribes,
    ClientUnsubscribes,
    ClientRestarts,
    /// The home replies to the oldest request.
    Answer,
    /// Another connection takes one of the channel's two member slots, or leaves it.
    OtherComes,
    OtherLeaves,
    Disconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::BackendSubscribes),
        4 => Just(Step::BackendUnsubscribes),
        2 => Just(Step::ClientSubscribes),
        2 => Just(Step::ClientUnsubscribes),
        1 => Just(Step::ClientRestarts),
        6 => Just(Step::Answer),
        2 => Just(Step::OtherComes),
        2 => Just(Step::OtherLeaves),
    ]
}

const CHANNEL: &str = "room";

/// The expected state after all replies.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Unsubscribed,
    /// The state that the reply to this call states.
    As(u32),
    /// The client's own request decides.
    Open,
}

struct Orders {
    world: World,
    calls: u32,
    others: u32,
    ends: Ends,
    position: serde_json::Value,
}

impl Orders {
    fn new() -> Self {
        let position = serde_json::json!({"epoch": "0", "offset": 0});
        let (calls, others) = (0, 0);
        let world = World::new(false, false, true);
        Self { world, calls, others, ends: Ends::Unsubscribed, position }
    }

    fn other(&mut self, comes: bool) {
        if comes == (self.others == 2) || (!comes && self.others == 0) {
            return;
        }
        let serial = if comes { self.others } else { self.others - 1 } + 100;
        let id = ConnectionId { node: 5, shard: 0, session: 9, serial };
        let key = MemberKey::Connection(id);
        let member = Some(Arc::new(MemberInfo { key, connection: id, info: None }));
        let verb = if comes {
            let (since, watch, restart, replaces) = (None, false, None, None);
            let members_max = 2;
            let subscribe = Subscribe { since, watch, restart, member, replaces, members_max };
            Verb::Subscribe(Box::new(subscribe))
        } else {
            Verb::Leave { watch: false, member }
        };
        let channel = ChannelName::new(CHANNEL);
        let retention = Retention { messages_max: 5, ttl_ms: 1_000_000 };
        let from = Origin::Session { id, request: 0 };
        self.world.home.handle_request(Request { from, channel, retention, verb }, NOW_MS);
        self.world.home.process_completions(usize::MAX);
        // Replies to the other connections do not count.
        let own = |out: &Out| !matches!(out, Out::Answer { id, .. } if id.session == 9);
        let out: Vec<_> = self.world.home.take_out().map(|(_, out)| out).collect();
        let refused = out.iter().any(|out| match out {
            Out::Answer { id, answer: Answer::Refused(_), .. } => id.session == 9,
            _ => false,
        });
        out.into_iter().filter(own).for_each(|out| self.world.hear(out));
        match comes {
            true if !refused => self.others += 1,
            true => {}
            false => self.others -= 1,
        }
    }

    fn client(&mut self, object: &serde_json::Value) {
        // A request that waits in the session has not been executed yet: it counts later.
        if !self.world.session.has_requests() && !self.world.session.is_waiting() {
            self.ends = Ends::Open;
            ask(&mut self.world, object);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::BackendSubscribes => {
                self.calls += 1;
                let number = self.calls;
                self.world.act(|session, call| {
                    session.subscribe_by_server(call, CHANNEL, u64::MAX, number);
                });
                if !self.world.session.has_requests() {
                    self.ends = Ends::As(number);
                }
            }
            Step::BackendUnsubscribes => {
                let is_known = self.world.session.find(CHANNEL).is_some();
                let mut ended = false;
                self.world.act(|session, call| {
                    ended = session.unsubscribe_by_server(call, CHANNEL);
                });
                assert!(is_known || !ended);
                if !self.world.session.has_requests() {
                    self.ends = Ends::Unsubscribed;
                }
            }
            Step::ClientSubscribes => {
                self.client(&serde_json::json!({"type": "subscribe", "channel": CHANNEL}));
            }
            Step::ClientUnsubscribes => {
                self.client(&serde_json::json!({"type": "unsubscribe", "channel": CHANNEL}));
            }
            Step::ClientRestarts => {
                let since = self.position.clone();
                let object = serde_json::json!({
                    "type": "subscribe", "channel": CHANNEL, "since": since
                });
                self.client(&object);
            }
            Step::Answer => drop(self.world.answer(1)),
            Step::OtherComes => self.other(true),
            Step::OtherLeaves => self.other(false),
            Step::Disconnect => {
                self.world.act(HubSession::end_all);
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let answered: Vec<u32> = self.world.outcomes.iter().map(|(number, _)| *number).collect();
        let once: HashSet<u32> = answered.iter().copied().collect();
        prop_assert_eq!(answered.len(), once.len(), "each is answered once");
        prop_assert_eq!(once.len(), self.calls as usize);
        let live = self.world.session.find(CHANNEL).is_some();
        let count = u64::from(self.others) + u64::from(live);
        prop_assert_eq!(self.world.home.gauges().members, count);
        match self.ends {
            Ends::Unsubscribed => prop_assert!(!live),
            Ends::As(number) => {
                let found = self.world.outcomes.iter().find(|(one, _)| *one == number);
                let (_, outcome) = found.expect("it was answered");
                prop_assert_eq!(live, *outcome == Outcome::Subscribed, "{:?}", outcome);
            }
            Ends::Open => {}
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_was_asked_last_counts_and_every_call_has_one_true_answer(
        steps in proptest::collection::vec(step(), 0..40),
        cut in any::<bool>(),
    ) {
        let mut orders = Orders::new();
        steps.into_iter().for_each(|step| orders.take(step));
        if cut {
            orders.take(Step::Disconnect);
            let asked: HashSet<u32> = (1..=orders.calls).collect();
            let outcomes = &orders.world.outcomes;
            let answered: HashSet<u32> = outcomes.iter().map(|(number, _)| *number).collect();
            prop_assert_eq!(answered, asked, "no call waits for a connection that is gone");
            return Ok(());
        }
        orders.world.answer_all();
        orders.check()?;
        orders.world.act(HubSession::end_all);
        orders.world.answer_all();
        prop_assert_eq!(orders.world.home.gauges().members, u64::from(orders.others));
    }
}

/// In one batch: the calls get their replies before the home's.
#[test]
fn a_backend_that_subscribes_and_unsubscribes_at_once_leaves_no_subscription() {
    use Step::{BackendSubscribes as On, BackendUnsubscribes as Off};
    for (steps, is_live) in [
        (vec![On, Off], false),
        (vec![On, Off, Off], false),
        (vec![On, Off, On], true),
        (vec![On, On, Off], false),
        (vec![Step::ClientSubscribes, Off], false),
        (vec![Step::ClientSubscribes, Off, On], true),
    ] {
        let mut orders = Orders::new();
        steps.iter().for_each(|step| orders.take(*step));
        orders.world.answer_all();
        orders.check().unwrap();
        assert_eq!(orders.world.session.find(CHANNEL).is_some(), is_live, "{steps:?}");
        let is_good = |(_, outcome): &(u32, Outcome)| *outcome == Outcome::Subscribed;
        assert!(orders.world.outcomes.iter().all(is_good), "{steps:?}");
    }
}

#[test]
fn a_call_hears_that_the_channel_is_full() {
    let mut orders = Orders::new();
    orders.take(Step::OtherComes);
    orders.take(Step::OtherComes);
    let replies = orders.world.replies;
    orders.take(Step::BackendSubscribes);
    orders.world.answer_all();
    let [(1, Outcome::Refused(refused))] = &orders.world.outcomes[..] else {
        panic!("{:?}", orders.world.outcomes)
    };
    assert_eq!(refused.code, crate::hub::Code::Limit);
    assert_eq!(orders.world.replies, replies, "the client has not asked");
}

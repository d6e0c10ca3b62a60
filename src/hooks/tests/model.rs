//! Any use of a desk, whose application answers late, twice, wrongly or not at all, against a model
//! that remembers everything.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::{UNIX_S, asker, ticket};
use crate::auth::OnFailure;
use crate::auth::{ChannelGrant, Identity};
use crate::hooks::answer::{
    CallAnswer, ConnectAnswer, HookAnswer, HookOutcome, PublishAnswer, SubscribeAnswer,
};
use crate::hooks::breaker::BreakerState;
use crate::hooks::desk::HookDesk;
use crate::hooks::question::{ConnectQuestion, HookKind, HookQuestion};
use crate::hooks::traffic::{HookAction, HookCall, HookLimits, HookResult};
use crate::hub::{ChannelName, ConnectionId};

const USERS: [Option<&str>; 3] = [Some("ann"), Some("bob"), None];

#[derive(Clone, Debug)]
enum Reply {
    /// Valid, for a user, to be kept for so long (s).
    Accept(usize, u32),
    Refuse(u32),
    Malformed,
    Oversized,
    Status(u16),
    NotSent,
    Broken,
    TimedOut,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        kind: HookKind,
        user: usize,
        channel: u8,
        allow: bool,
    },
    /// Settles one of the requests that were ever sent; the newest have the lowest places.
    Settle {
        place: usize,
        reply: Reply,
    },
    SettleUnknown(u64),
    /// Lets time pass that the desk learns of from the next question or result.
    Drift(u64),
    Cancel(usize),
    Pass(u64),
    Limit(HookLimits),
    ForgetUser(usize),
    ForgetAll,
}

fn any_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        6 => (0..3_usize, 0..12_u32).prop_map(|(user, cache_s)| Reply::Accept(user, cache_s)),
        1 => (0..5_u32).prop_map(Reply::Refuse),
        1 => Just(Reply::Malformed),
        1 => Just(Reply::Oversized),
        1 => prop::sample::select(vec![204, 302, 404, 429, 500, 503]).prop_map(Reply::Status),
        2 => Just(Reply::NotSent),
        2 => Just(Reply::Broken),
        1 => Just(Reply::TimedOut),
    ]
}

fn any_limits() -> impl Strategy<Value = HookLimits> {
    (0..6_usize, 0..6_usize, 1..3000_u64, 0..10_u32).prop_map(
        |(concurrency_max, waiting_max, timeout_ms, cache_s_max)| HookLimits {
            concurrency_max,
            waiting_max,
            timeout_ms,
            cache_s_max,
            answer_bytes_max: 200,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let ask = (prop::sample::select(HookKind::ALL.to_vec()), 0..3_usize, 0..3_u8, any::<bool>());
    prop_oneof![
        8 => ask.prop_map(|(kind, user, channel, allow)| Step::Ask { kind, user, channel, allow }),
        8 => (0..12_usize, any_reply()).prop_map(|(place, reply)| Step::Settle { place, reply }),
        1 => any::<u64>().prop_map(|number| Step::SettleUnknown(number >> 1)),
        2 => (0..10_usize).prop_map(Step::Cancel),
        3 => (0..800_u64).prop_map(Step::Pass),
        1 => (0..20_000_u64).prop_map(Step::Pass),
        2 => (0..800_u64).prop_map(Step::Drift),
        1 => any_limits().prop_map(Step::Limit),
        1 => (0..2_usize).prop_map(Step::ForgetUser),
        1 => Just(Step::ForgetAll),
    ]
}

struct OpenQuestion {
    key: String,
    allow: bool,
    deadline_ms: u64,
}

struct Flight {
    call: HookCall,
    body: Vec<u8>,
    kind: HookKind,
    key: String,
    user: Option<String>,
    deadline_ms: u64,
    /// When it was sent: the step, the state of the breaker, and its openings.
    step: usize,
    state: BreakerState,
    openings: u64,
    is_repeat: bool,
}

struct CachedReply {
    number: usize,
    expires_ms: u64,
    user: Option<String>,
}

struct Model {
    desk: HookDesk,
    limits: HookLimits,
    now_ms: u64,
    drift_ms: u64,
    step: usize,
    open: BTreeMap<u32, OpenQuestion>,
    ended: BTreeSet<u32>,
    /// Requests in flight, by their ids.
    flights: BTreeMap<String, Flight>,
    sent: Vec<HookCall>,
    cache: BTreeMap<String, CachedReply>,
    /// When users were forgotten; `None`: all of them.
    forgotten: Vec<(usize, Option<String>)>,
}

/// Returns what makes a question equal to others, and its user.
fn key_of(body: &[u8]) -> (HookKind, String, Option<String>) {
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let kind = HookKind::ALL.into_iter().find(|kind| body["type"] == kind.name()).unwrap();
    let key = match kind {
        HookKind::Connect => format!("connect {}", body["path"]),
        HookKind::Subscribe if body["user"].is_string() => {
            format!("subscribe {} {}", body["user"], body["channel"])
        }
        _ => {
            let connection = ConnectionId::parse(&text("connection").unwrap()).unwrap();
            format!("alone {}", connection.serial)
        }
    };
    (kind, key, text("user"))
}

/// Returns the number that the application put into a valid answer.
fn number_of(answer: &HookAnswer) -> usize {
    let of_time = |expires_s: u64| (expires_s - UNIX_S - 1000) as usize;
    match answer {
        HookAnswer::Connect(ConnectAnswer::Accept { identity, .. }) => {
            let Identity { expires_s, .. } = &**identity;
            of_time(expires_s.unwrap())
        }
        HookAnswer::Subscribe(SubscribeAnswer::Grant(ChannelGrant { expires_s, .. })) => {
            of_time(*expires_s)
        }
        HookAnswer::Connect(ConnectAnswer::Refuse { message, .. }) => message.parse().unwrap(),
        HookAnswer::Publish(PublishAnswer::Replace(content))
        | HookAnswer::Call(CallAnswer::Content(content)) => content.parse().unwrap(),
        HookAnswer::Subscribe(SubscribeAnswer::Error(error))
        | HookAnswer::Publish(PublishAnswer::Error(error))
        | HookAnswer::Call(CallAnswer::Error(error)) => error.message.parse().unwrap(),
        HookAnswer::Publish(PublishAnswer::Accept) => panic!("answers have numbers here"),
    }
}

impl Reply {
    fn result(&self, kind: HookKind, number: usize) -> HookResult {
        let response = |status, body: String| HookResult::Response {
            status,
            body: body.into_bytes(),
            retry_after_s: None,
            unix_s: UNIX_S,
        };
        let expires_s = 1000 + number;
        match (self, kind) {
            (Self::Accept(user, cache_s), HookKind::Connect) => {
                let user = USERS[*user].map_or("null".to_owned(), |user| format!("\"{user}\""));
                let rest = format!(r#""expires_in_s":{expires_s},"cache_s":{cache_s}"#);
                response(200, format!(r#"{{"user":{user},{rest}}}"#))
            }
            (Self::Accept(_, cache_s), HookKind::Subscribe) => {
                response(200, format!(r#"{{"expires_in_s":{expires_s},"cache_s":{cache_s}}}"#))
            }
            (Self::Accept(..), _) => response(200, format!(r#"{{"content":{number}}}"#)),
            (Self::Refuse(cache_s), HookKind::Connect) => {
                let refuse = format!(r#"{{"status":403,"message":"{number}"}}"#);
                response(200, format!(r#"{{"refuse":{refuse},"cache_s":{cache_s}}}"#))
            }
            (Self::Refuse(cache_s), _) => {
                let error = format!(r#"{{"code":"no","message":"{number}"}}"#);
                response(200, format!(r#"{{"error":{error},"cache_s":{cache_s}}}"#))
            }
            (Self::Malformed, _) => response(200, r#"{"cache_s":-1,"error":5}"#.to_owned()),
            (Self::Oversized, _) => response(200, format!("{{{}}}", " ".repeat(200))),
            // An accept for a publish, without a number.
            (Self::Status(204), HookKind::Publish) => response(404, String::new()),
            (Self::Status(status), _) => response(*status, String::new()),
            (Self::NotSent, _) => HookResult::NotSent,
            (Self::Broken, _) => HookResult::Broken,
            (Self::TimedOut, _) => HookResult::TimedOut,
        }
    }

    /// Returns how long the answer is kept (s), and for which user.
    fn keeping(&self, flight: &Flight) -> Option<(u32, Option<String>)> {
        let is_connect = flight.kind == HookKind::Connect;
        match (self, flight.kind) {
            (_, HookKind::Publish | HookKind::Call) => None,
            _ if flight.key.starts_with("alone") => None,
            // Without a user, nothing could make it forgotten.
            (Self::Accept(user, cache_s), _) if is_connect => {
                USERS[*user].map(|user| (*cache_s, Some(user.to_owned())))
            }
            (Self::Accept(_, cache_s), _) => Some((*cache_s, flight.user.clone())),
            (Self::Refuse(cache_s), _) if is_connect => Some(((*cache_s).min(2), None)),
            (Self::Refuse(cache_s), _) => Some(((*cache_s).min(2), flight.user.clone())),
            _ => None,
        }
    }
}

impl Model {
    fn new(limits: HookLimits, seed: u64) -> Self {
        let desk = HookDesk::new(limits, "app", "n", seed);
        Self {
            desk,
            limits,
            now_ms: 0,
            drift_ms: 0,
            step: 0,
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            flights: BTreeMap::new(),
            sent: Vec::new(),
            cache: BTreeMap::new(),
            forgotten: Vec::new(),
        }
    }

    fn run(&mut self, step: &Step) {
        self.step += 1;
        match step {
            Step::Ask { kind, user, channel, allow } => self.ask(*kind, *user, *channel, *allow),
            Step::Settle { place, reply } => {
                if let Some(at) = self.sent.len().checked_sub(place + 1) {
                    self.settle(self.sent[at], reply);
                }
            }
            Step::SettleUnknown(number) => {
                let call = HookCall::new(number >> 1, number & 1 == 1);
                self.settle(call, &Reply::Accept(0, 5));
            }
            Step::Drift(ms) => self.drift_ms += ms,
            Step::Cancel(place) => self.cancel(*place),
            Step::Pass(ms) => {
                self.pass(*ms);
                self.desk.expire(self.now_ms);
                self.drain(None);
                let due_ms = self.desk.next_due_ms();
                assert!(due_ms.is_none_or(|due_ms| due_ms > self.now_ms), "all has expired");
            }
            Step::Limit(limits) => {
                if limits.cache_s_max < self.limits.cache_s_max {
                    self.cache.clear();
                }
                self.limits = *limits;
                self.desk.set_limits(*limits);
                self.drain(None);
            }
            Step::ForgetUser(user) => {
                let user = USERS[*user].unwrap();
                self.desk.forget_user(user);
                self.cache.retain(|_, cached| cached.user.as_deref() != Some(user));
                self.forgotten.push((self.step, Some(user.to_owned())));
            }
            Step::ForgetAll => {
                self.desk.forget_all();
                self.cache.clear();
                self.forgotten.push((self.step, None));
            }
        }
        self.check();
    }

    /// Time passes, before the next use of the desk.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms + std::mem::take(&mut self.drift_ms);
        let now_ms = self.now_ms;
        self.flights.retain(|_, flight| flight.deadline_ms > now_ms);
        self.cache.retain(|_, cached| cached.expires_ms > now_ms);
    }

    fn ask(&mut self, kind: HookKind, user: usize, channel: u8, allow: bool) {
        self.pass(0);
        let number = self.step as u32;
        let mut asker = asker(USERS[user]);
        asker.connection.serial = number;
        let name = ChannelName::new(&format!("c{channel}"));
        let (key, question) = match kind {
            HookKind::Connect => {
                let target = format!("/{channel}").into();
                let question = ConnectQuestion { target, address: None, headers: Vec::new() };
                (format!("connect \"/{channel}\""), HookQuestion::Connect(question))
            }
            HookKind::Subscribe => {
                let key = USERS[user].map(|user| format!("subscribe \"{user}\" \"{name}\""));
                (key.unwrap_or_default(), HookQuestion::Subscribe { asker, channel: name })
            }
            HookKind::Publish => {
                let on_failure = if allow { OnFailure::Allow } else { OnFailure::Reject };
                let (channel, content, key) = (name, "1".into(), None);
                let publish = HookQuestion::Publish { asker, channel, content, key, on_failure };
                (String::new(), publish)
            }
            HookKind::Call => {
                let call = HookQuestion::Call { asker, method: "m".into(), content: "1".into() };
                (String::new(), call)
            }
        };
        let key = if key.is_empty() { format!("alone {number}") } else { key };
        let deadline_ms = self.now_ms + self.limits.timeout_ms;
        let allow = allow && kind == HookKind::Publish;
        let cached = self.cache.get(&key).map(|cached| cached.number);
        self.open.insert(number, OpenQuestion { key: key.clone(), allow, deadline_ms });
        self.desk.ask(self.now_ms, ticket(number), question);
        self.drain(cached.map(|answer| (key, answer)).as_ref());
        if cached.is_some() {
            assert!(self.ended.contains(&number), "the cache has the answer");
        }
    }

    fn settle(&mut self, call: HookCall, reply: &Reply) {
        self.pass(0);
        let id = self.flights.iter().find(|(_, flight)| flight.call == call);
        let Some((id, flight)) = id.map(|(id, flight)| (id.clone(), flight)) else {
            self.desk.settle(self.now_ms, call, reply.result(HookKind::Call, self.step));
            self.drain(None);
            return;
        };
        let answer = matches!(reply, Reply::Accept(..) | Reply::Refuse(_));
        let expected = answer.then(|| (flight.key.clone(), self.step));
        if let Some((cache_s, user)) = reply.keeping(flight) {
            let is_forgotten = self.forgotten.iter().any(|(step, forgotten)| {
                *step > flight.step && (forgotten.is_none() || *forgotten == user)
            });
            let cache_s = u64::from(cache_s.min(self.limits.cache_s_max));
            if cache_s > 0 && !is_forgotten {
                let expires_ms = self.now_ms + cache_s * 1000;
                let cached = CachedReply { number: self.step, expires_ms, user };
                self.cache.insert(flight.key.clone(), cached);
            }
        }
        let result = reply.result(flight.kind, self.step);
        if result == HookResult::NotSent && !flight.is_repeat {
            // It is gone, unless its repeat follows.
            self.desk.settle(self.now_ms, call, result);
            let repeated = self.drain(None);
            if !repeated.contains(&id) {
                self.flights.remove(&id);
            }
        } else {
            self.flights.remove(&id);
            self.desk.settle(self.now_ms, call, result);
            self.drain(expected.as_ref());
        }
    }

    fn cancel(&mut self, place: usize) {
        let chosen = match self.open.keys().nth(place) {
            Some(number) => *number,
            None => self.ended.iter().nth(place).copied().unwrap_or(99_999),
        };
        self.desk.cancel(ticket(chosen));
        if self.open.remove(&chosen).is_some() {
            self.ended.insert(chosen);
        }
        self.drain(None);
    }

    /// Checks what the desk wants. `answer`: the only one that may end questions now, by its key
    /// and number. Returns the ids of repeats.
    fn drain(&mut self, answer: Option<&(String, usize)>) -> Vec<String> {
        let mut repeated = Vec::new();
        while let Some(action) = self.desk.next_action() {
            match action {
                HookAction::Send { call, id, body, deadline_ms } => {
                    assert!(deadline_ms > self.now_ms || deadline_ms == u64::MAX);
                    if let Some(flight) = self.flights.get_mut(&id) {
                        assert!(!flight.is_repeat && flight.body == body && flight.call != call);
                        assert_eq!(flight.deadline_ms, deadline_ms);
                        (flight.is_repeat, flight.call) = (true, call);
                        repeated.push(id);
                    } else {
                        self.take_off(call, id, body, deadline_ms);
                    }
                    self.sent.push(call);
                }
                HookAction::Finish { ticket, outcome, .. } => {
                    let open = self.open.remove(&ticket.request);
                    let open = open.unwrap_or_else(|| panic!("{ticket:?} is not open"));
                    assert!(self.ended.insert(ticket.request));
                    match outcome {
                        HookOutcome::Answered(given) => {
                            let given = &(open.key, number_of(&given));
                            assert_eq!(Some(given), answer, "no other answer is valid");
                        }
                        HookOutcome::Allowed => assert!(open.allow),
                        HookOutcome::Failed { retry_after_ms, .. } => {
                            assert!(!open.allow && retry_after_ms > 0);
                        }
                    }
                }
            }
        }
        repeated
    }

    fn take_off(&mut self, call: HookCall, id: String, body: Vec<u8>, deadline_ms: u64) {
        assert!(!self.sent.contains(&call), "calls differ");
        let (kind, key, user) = key_of(&body);
        assert!(self.open.values().any(|open| open.key == key), "a client waits for it");
        let numbers = self.desk.numbers();
        assert!(numbers.in_flight <= self.limits.concurrency_max);
        assert_ne!(numbers.breaker, BreakerState::Open, "nothing is sent while it is open");
        let (state, openings) = (numbers.breaker, numbers.breaker_openings);
        let step = self.step;
        let is_repeat = false;
        self.flights.insert(
            id,
            Flight { call, body, kind, key, user, deadline_ms, step, state, openings, is_repeat },
        );
    }

    fn check(&self) {
        let numbers = self.desk.numbers();
        assert_eq!(numbers.in_flight, self.flights.len());
        assert_eq!(numbers.open, self.open.len());
        assert!(numbers.waiting <= self.limits.waiting_max);
        for (number, open) in &self.open {
            assert!(open.deadline_ms > self.now_ms, "{number} has not ended");
            let in_flight = || self.flights.values().any(|flight| flight.key == open.key);
            assert!(numbers.waiting > 0 || in_flight(), "{number} waits for nothing");
            assert!(self.desk.next_due_ms().unwrap() <= open.deadline_ms);
        }
        if numbers.breaker == BreakerState::Open {
            assert_eq!(numbers.waiting, 0, "what waited has failed");
            assert!(self.desk.next_due_ms().is_some());
        }
        if numbers.breaker == BreakerState::HalfOpen {
            let is_probe = |flight: &&Flight| {
                flight.state == BreakerState::HalfOpen
                    && flight.openings == numbers.breaker_openings
            };
            assert!(self.flights.values().filter(is_probe).count() <= 3);
        }
        let asked: u64 = numbers.kinds.iter().map(|counts| counts.asked).sum();
        let ended = numbers.kinds.iter().map(|counts| {
            let failed: u64 = counts.failed.iter().sum();
            counts.answered + counts.refused + counts.allowed + failed + counts.cancelled
        });
        assert_eq!(asked, ended.sum::<u64>() + numbers.open as u64);
        assert_eq!(asked as usize, self.open.len() + self.ended.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_question_ends_once_with_an_answer_that_is_valid(
        limits in any_limits(),
        seed: u64,
        steps in prop::collection::vec(any_step(), 0..250),
    ) {
        let mut model = Model::new(limits, seed);
        for step in &steps {
            model.run(step);
        }
        model.run(&Step::Pass(3000));
        let numbers = model.desk.numbers();
        prop_assert_eq!((numbers.open, numbers.in_flight, numbers.waiting), (0, 0, 0));
        model.run(&Step::Pass(60_000));
        let numbers = model.desk.numbers();
        prop_assert_eq!((numbers.cache_entries, numbers.cache_bytes), (0, 0));
        prop_assert_eq!(model.desk.next_due_ms(), None);
    }
}

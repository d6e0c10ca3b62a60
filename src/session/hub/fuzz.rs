//! The fuzz target of the JSON protocol: feeds arbitrary frames and asserts invariants.
//!
//! A session talks to a home, as on a shard. The home replies at once, or only after all frames.
//! For any input, the session sends only JSON objects of one line each, and one reply for each
//! request, and no member is left after it has ended.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use super::Budget;
use super::answers::{JoinAnswer, MemberIndexes};
use super::cutter::{Cut, Cutter};
use super::realm::{Realm, SessionLimits};
use super::review::REVIEW_ALL;
use super::state::NONE;
use super::{Call, Effects, HubSession, MemberReport, Outcome, SessionQuestion};
use crate::admission::limiter::RateBounds;
use crate::auth::{
    Access, ChannelGrant, Expected, Key, Namespace, Namespaces, Pattern, Rights, Sealer,
    SigningKey, SlowReader, Verifier,
};
use crate::hooks::{
    CallAnswer, FailureCause, HookAnswer, HookError, HookOutcome, HookQuestion, PublishAnswer,
    SubscribeAnswer,
};
use crate::hub::{
    Answer, ConnectionId, HistoryBudget, Home, HomeOptions, MemoryLog, Out, ProtocolId, Request,
    Subscribed,
};
use crate::proto::ws::Payload;

const SECRET: &[u8] = b"a secret of the fuzzer, long enough";
const NOW_MS: u64 = 1_800_000_000_000;
/// Placeholders in frames, replaced by secrets that a fuzzer cannot guess.
const WORDS: [&str; 2] = ["TICKET", "TOKEN"];
/// Types of replies; each request gets exactly one.
const REPLIES: [&str; 10] = [
    "pong",
    "authenticated",
    "subscribed",
    "unsubscribed",
    "published",
    "presence",
    "history",
    "resumed",
    "result",
    "error",
];

/// The fields of a message that are checked.
#[derive(serde::Deserialize)]
struct Spoken {
    #[serde(rename = "type")]
    kind: String,
    ticket: Option<String>,
}

struct World {
    realm: Arc<Realm>,
    home: Home,
    session: HubSession,
    effects: Effects,
    waiting: Vec<Request>,
    questions: Vec<SessionQuestion>,
    /// Homes reply only after all frames.
    late: bool,
    now_ms: u64,
    closed: bool,
    replies: usize,
    ticket: String,
    members: u32,
    /// Outcomes of subscriptions requested by backends.
    outcomes: Vec<(u32, Outcome)>,
    /// The same, of a client behind a link.
    reports: Vec<MemberReport>,
    protocol: ProtocolId,
}

/// Runs frames, separated by zero bytes, behind a byte of choices.
pub fn protocol(data: &[u8]) {
    let Some((choice, frames)) = data.split_first() else { return };
    let mut world = World::new(choice & 1 != 0, choice & 2 != 0, choice & 4 != 0);
    let mut requests = 0;
    for frame in frames.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(frame) else { continue };
        let text = text.replace(WORDS[0], &world.ticket).replace(WORDS[1], token());
        requests += count_requests(&text);
        world.act(|session, call| session.receive_text(call, Payload::Owned(text.into_bytes())));
        if choice & 8 != 0 {
            world.review();
        }
        if !world.late {
            world.answer_all();
        }
        if world.closed {
            break;
        }
    }
    world.answer_all();
    let session = &world.session;
    assert!(world.closed || session.pending.is_none(), "all is answered: {session:?}");
    // With keys, a new token may end subscriptions, which is reported by no reply.
    if !world.closed && world.realm.verifier.is_none() {
        assert_eq!(world.replies, requests, "each request has one reply");
    }
    world.act(HubSession::end_all);
    world.answer_all();
    assert_eq!(world.home.gauges().members, 0, "no member outlives its connection");
}

/// Returns the range of the first object of a frame.
pub(in crate::session) fn first_object(frame: &[u8]) -> Option<Range<usize>> {
    match Cutter::default().next(frame, usize::MAX, u32::MAX) {
        Cut::Object(range) => Some(range),
        _ => None,
    }
}

/// Counts the replies that a frame gets: one for each object, and one for a syntax error.
fn count_requests(text: &str) -> usize {
    let mut cutter = Cutter::default();
    let next = || match cutter.next(text.as_bytes(), usize::MAX, u32::MAX) {
        Cut::End => None,
        cut => Some(cut),
    };
    std::iter::from_fn(next).count()
}

/// Returns an outcome that depends on the question's number.
fn decide(request: u32, question: &HookQuestion) -> HookOutcome {
    let error = || HookError { code: "no".into(), message: "\"no\"".into() };
    let (kind, cause) = (question.kind(), FailureCause::TimedOut);
    if request % 4 == 3 {
        return HookOutcome::Failed { kind, cause, retry_after_ms: 1 };
    }
    let is_yes = request.is_multiple_of(2);
    HookOutcome::Answered(match question {
        HookQuestion::Connect(_) => unreachable!("sessions do not ask about upgrades"),
        HookQuestion::Subscribe { .. } if is_yes => {
            let expires_s = NOW_MS / 1000 + 1;
            HookAnswer::Subscribe(SubscribeAnswer::Grant(ChannelGrant {
                rights: Rights::ALL,
                expires_s,
                key: None,
            }))
        }
        HookQuestion::Subscribe { .. } => HookAnswer::Subscribe(SubscribeAnswer::Error(error())),
        HookQuestion::Publish { content, .. } if is_yes => {
            HookAnswer::Publish(PublishAnswer::Replace(content.clone()))
        }
        HookQuestion::Publish { .. } => HookAnswer::Publish(PublishAnswer::Error(error())),
        HookQuestion::Call { content, .. } if is_yes => {
            HookAnswer::Call(CallAnswer::Content(content.clone()))
        }
        HookQuestion::Call { .. } => HookAnswer::Call(CallAnswer::Error(error())),
    })
}

impl World {
    fn new(keys: bool, anonymous: bool, late: bool) -> Self {
        let realm = realm(keys, anonymous);
        let id = ConnectionId { node: realm.node, shard: 0, session: 3, serial: 7 };
        let session = HubSession::new(id, None, &realm, NOW_MS);
        let options = HomeOptions {
            channel_ttl_ms: 1000,
            channels_max: 16,
            recover_messages_max: 5,
            recover_bytes_max: 1000,
            presence_page_max: 5,
            history_page_max: 5,
            keys_max: 10,
            key_ttl_ms: 1000,
        };
        let log = Box::new(MemoryLog::new(HistoryBudget::new(100_000)));
        let mut world = Self {
            realm,
            home: Home::new(options, log),
            session,
            effects: Effects::default(),
            waiting: Vec::new(),
            questions: Vec::new(),
            late,
            now_ms: NOW_MS,
            closed: false,
            replies: 0,
            ticket: String::new(),
            members: 0,
            outcomes: Vec::new(),
            reports: Vec::new(),
            protocol: ProtocolId::STORED,
        };
        world.act(|session, call| session.send_welcome(call, 25));
        world
    }

    /// Calls the session and processes the effects.
    fn act(&mut self, act: impl FnOnce(&mut HubSession, &mut Call<'_>)) {
        let effects = &mut self.effects;
        // A small budget, so that frames are processed in parts.
        let budget = Budget { requests_max: 3, reply_bytes_max: 500 };
        let (realm, protocol, now_ms) = (&*self.realm, self.protocol, self.now_ms);
        let mut call = Call { realm, protocol, now_ms, now_ns: 1, budget, effects };
        act(&mut self.session, &mut call);
        let mut effects = std::mem::take(&mut self.effects);
        effects.says.drain(..).for_each(|said| self.said(&said));
        self.waiting.append(&mut effects.asks);
        self.questions.append(&mut effects.questions);
        for cancelled in effects.cancelled.drain(..) {
            self.questions.retain(|one| one.request != cancelled);
        }
        self.outcomes.append(&mut effects.outcomes);
        self.reports.append(&mut effects.memberships);
        self.closed |= effects.close.is_some();
        if self.session.has_requests() && !self.session.is_waiting() && !self.closed {
            self.act(HubSession::resume_requests);
        }
    }

    fn said(&mut self, text: &[u8]) {
        let text = std::str::from_utf8(text).expect("replies are text");
        assert!(!text.contains(['\n', '\r']), "on one line: {text}");
        // Content is passed on verbatim and may hold numbers that no Rust type can represent.
        let object: Spoken = serde_json::from_str(text).expect("JSON");
        self.replies += usize::from(REPLIES.contains(&&*object.kind));
        if let Some(ticket) = object.ticket {
            self.ticket = ticket;
        }
    }

    /// Reviews the session, one subscription at a time. Without a change of rights this has no
    /// effect.
    fn review(&mut self) {
        let mut next = Some(REVIEW_ALL);
        while let Some(below) = next {
            self.act(|session, call| next = session.review_subscriptions(call, below, 1));
        }
    }

    /// Lets the home reply until no request is left.
    fn answer_all(&mut self) {
        while self.answer(usize::MAX) || self.decide_all() {}
    }

    /// Lets the application answer, the last question first, and each twice; returns whether there
    /// was any.
    fn decide_all(&mut self) -> bool {
        let questions = std::mem::take(&mut self.questions);
        let is_asked = !questions.is_empty();
        for SessionQuestion { request, question, .. } in questions.into_iter().rev() {
            let outcome = decide(request, &question);
            for _ in 0..2 {
                self.act(|session, call| session.take_outcome(call, request, outcome.clone()));
            }
        }
        is_asked
    }

    /// Lets the home reply to at most this many requests; returns whether there was any.
    fn answer(&mut self, requests_max: usize) -> bool {
        let count = requests_max.min(self.waiting.len());
        for request in self.waiting.drain(..count).collect::<Vec<_>>() {
            self.home.handle_request(request, self.now_ms);
        }
        self.home.process_completions(usize::MAX);
        let out: Vec<_> = self.home.take_out().collect();
        let is_heard = !out.is_empty() || !self.waiting.is_empty();
        for (_, out) in out {
            self.hear(out);
        }
        is_heard
    }

    fn hear(&mut self, out: Out) {
        match out {
            Out::Answer { request, channel, answer, .. } => match &answer {
                Answer::Subscribed(joined) => {
                    let Subscribed { position, recovered, presence, watch, member, .. } = &**joined;
                    if self.session.find_pending_subscription(request, channel.as_str()).is_none() {
                        let (watch, member) = (*watch, member.clone());
                        return self.act(|session, call| {
                            session.send_leave(call, channel, watch, member);
                        });
                    }
                    self.members += 1;
                    let watcher_index = if *watch { self.members } else { NONE };
                    let member_indexes =
                        MemberIndexes { local: 0, member_index: self.members, watcher_index };
                    let (position, recovered) = (*position, *recovered);
                    let presence = presence.as_ref();
                    let by = JoinAnswer {
                        channel: &channel,
                        member_indexes,
                        position,
                        recovered,
                        presence,
                    };
                    self.act(|session, call| session.complete_subscribe(call, request, &by));
                }
                answer => {
                    self.act(|session, call| session.handle_reply(call, request, &channel, answer));
                }
            },
            Out::Publish(publication) | Out::News(publication) => {
                let encoded = publication.encoded(self.realm.protocols.encoder(ProtocolId::STORED));
                let text = std::str::from_utf8(encoded.expect("an event").payload()).unwrap();
                assert!(!text.contains(['\n', '\r']), "on one line: {text}");
                serde_json::from_str::<&RawValue>(text).expect("JSON");
            }
            Out::EpochChanged { .. } | Out::Gap { .. } => {}
        }
    }
}

/// Creates a realm without keys, for tests of the layers above sessions.
#[cfg(test)]
pub(crate) fn open_realm() -> Arc<Realm> {
    realm(false, true)
}

/// Creates a realm. Its parts are created once and shared, because keys are slow to make.
fn realm(keys: bool, anonymous: bool) -> Arc<Realm> {
    static REALMS: [OnceLock<Arc<Realm>>; 4] = [const { OnceLock::new() }; 4];
    let made = || {
        let limits = SessionLimits {
            channels_max: 3,
            requests_max: 4,
            auth_timeout_ms: 1000,
            ticket_ttl_s: 1000,
            presence_page_max: 5,
            history_page_max: 5,
            message_bytes_max: 10_000,
            request_bytes_max: 5_000,
            rates: RateBounds::default(),
        };
        let verifier = keys.then(|| {
            let key = Key::from_secret("", SECRET);
            Arc::new(Verifier::new(vec![key], false, Expected::default()))
        });
        let list = vec![
            namespace("*", Access::Anyone),
            namespace("token:*", Access::Token),
            namespace("user:*", Access::Authenticated),
            namespace("asked:*", Access::Backend),
        ];
        let namespaces = Namespaces::new(list, namespace("*", Access::Token));
        let sealer = Arc::new(Sealer::new(&[[1; 32]]));
        Arc::new(Realm::new(5, namespaces, verifier, anonymous, sealer, limits, Arc::default()))
    };
    REALMS[usize::from(keys) * 2 + usize::from(anonymous)].get_or_init(made).clone()
}

fn namespace(pattern: &str, access: Access) -> Namespace {
    Namespace {
        pattern: Pattern::new(pattern).expect("a pattern"),
        subscribe: access,
        publish: access,
        history_messages: 5,
        history_ttl_s: 1000,
        presence: true,
        slow_reader: SlowReader::default(),
        members_max: 2,
        message_bytes_max: 1000,
        rate: 0,
        events: crate::events::EventTarget::default(),
        on_failure: crate::auth::OnFailure::default(),
    }
}

/// Returns a token with few rights.
fn token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let claims = serde_json::json!({
            "sub": "ann",
            "exp": NOW_MS / 1000 + 1000,
            "info": {"name": "Ann"},
            "channels": ["token:a"],
        });
        SigningKey::from_secret("", SECRET).sign(&claims).expect("claims can be signed")
    })
}

#[cfg(test)]
mod tests;

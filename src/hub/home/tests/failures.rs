//! A log that fails: every request is answered, once, and nothing of it is kept.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::hub::Epoch;
use crate::hub::log::Done;

/// What becomes of commands: `None`: they are carried out.
type Outcome = Rc<Cell<Option<fn(u64) -> Done>>>;

/// A log in memory that fails on demand.
struct FailingLog {
    inner: MemoryLog,
    outcome: Outcome,
    failed: VecDeque<Done>,
}

impl FailingLog {
    /// Whether a command fails.
    fn fails(&mut self, ticket: u64) -> bool {
        let failed = self.outcome.get().map(|outcome| outcome(ticket));
        let fails = failed.is_some();
        self.failed.extend(failed);
        fails
    }
}

impl Log for FailingLog {
    fn open(&mut self, name: &ChannelName, key: u32, retention: Retention, first: Epoch) -> u32 {
        self.inner.open(name, key, retention, first)
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.inner.retain(channel, retention);
    }

    fn close(&mut self, channel: u32) {
        self.inner.close(channel);
    }

    fn has_messages(&self, channel: u32) -> bool {
        self.inner.has_messages(channel)
    }

    fn set_time(&mut self, now_ms: u64) {
        self.inner.set_time(now_ms);
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft) {
        if !self.fails(ticket) {
            self.inner.append(ticket, channel, draft);
        }
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        if !self.fails(ticket) {
            self.inner.read(ticket, channel, range);
        }
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        if !self.fails(ticket) {
            self.inner.trim(ticket, channel);
        }
    }

    fn expire(&mut self, now_ms: u64, channels_max: usize) {
        self.inner.expire(now_ms, channels_max);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.next_expiry_ms()
    }

    fn next(&mut self) -> Option<Done> {
        self.failed.pop_front().or_else(|| self.inner.next())
    }

    fn kept(&self) -> (u64, u64) {
        self.inner.kept()
    }
}

fn failed(ticket: u64) -> Done {
    Done::Failed { ticket, retry_after_ms: Some(700) }
}

fn too_large(ticket: u64) -> Done {
    Done::Refused { ticket, refused: Refused::new(Code::TooLarge, "the broker takes 1 MB") }
}

fn failing_home() -> (Home, Outcome) {
    let outcome = Outcome::default();
    let inner = MemoryLog::new(HistoryBudget::new(1 << 30));
    let log = FailingLog { inner, outcome: outcome.clone(), failed: VecDeque::new() };
    (Home::new(home(10).options, Box::new(log)), outcome)
}

fn refusal(answer: Answer) -> (Code, Option<u32>) {
    match answer {
        Answer::Refused(refused) => (refused.code, refused.retry_after_ms),
        other => panic!("the log failed: {other:?}"),
    }
}

const NOW_MS: u64 = 2_000_000;

/// Deadlines alone bring a home to its end, unless something is pending for ever.
fn check_end(mut home: Home) {
    let mut now_ms = NOW_MS;
    while let Some(due_ms) = home.next_due_ms() {
        now_ms = now_ms.max(due_ms);
        home.expire(now_ms, 100);
    }
    assert!(is_empty(&home) && home.waiting.is_empty(), "{:?}", home.gauges());
}

#[test]
fn every_command_is_answered_with_what_the_log_says() {
    let cases: [(fn(u64) -> Done, _); 2] =
        [(failed, (Code::Unavailable, Some(700))), (too_large, (Code::TooLarge, None))];
    for (outcome, answered) in cases {
        let (mut home, log) = failing_home();
        ask(&mut home, "a", publish(None, NOW_MS), NOW_MS);
        ask(&mut home, "b", history(None), NOW_MS);
        log.set(Some(outcome));
        for (channel, verb) in [
            ("a", publish(None, NOW_MS)),
            ("a", publish(Some("k"), NOW_MS)),
            ("a", history(None)),
            ("a", Verb::Trim),
            ("b", Verb::Describe),
        ] {
            let text = format!("{verb:?}");
            let answer = ask(&mut home, channel, verb, NOW_MS);
            assert_eq!(refusal(answer), answered, "{text}");
        }
        check_end(home);
    }
}

#[test]
fn a_key_whose_publish_has_failed_is_free_again() {
    let (mut home, log) = failing_home();
    log.set(Some(failed));
    let answers = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..3 {
        let answers = answers.clone();
        let reply = ApiReply(Box::new(move |answer| answers.lock().unwrap().push(answer)));
        let (from, channel) = (Origin::Api(reply), ChannelName::new("a"));
        let retention = Retention { messages_max: 3, ttl_ms: TTL_MS };
        let verb = publish(Some("k"), NOW_MS);
        home.request(Request { from, channel, retention, verb }, NOW_MS);
    }
    while home.work(1) {}
    let answered: Vec<_> = answers.lock().unwrap().drain(..).map(refusal).collect();
    assert_eq!(
        answered,
        [(Code::Unavailable, Some(700)); 3],
        "each once, those that waited as well"
    );
    assert_eq!(home.gauges().keys, 0);
    log.set(None);
    for (key, is_repeated) in [("k", false), ("k", true), ("l", false)] {
        let answer = ask(&mut home, "a", publish(Some(key), NOW_MS), NOW_MS);
        let Answer::Published { duplicate, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(duplicate, is_repeated, "{key}");
    }
    check_end(home);
}

#[test]
fn a_subscription_that_has_failed_leaves_no_member() {
    let (mut home, log) = failing_home();
    let (_, info) = member(0);
    let verb = |restart: Option<bool>| {
        Verb::Subscribe(Subscribe {
            since: restart.map(|_| Since { epoch: None, offset: 3 }),
            watch: true,
            restart,
            member: Some(info.clone()),
            replaces: None,
            members_max: 1,
        })
    };
    let take = |home: &mut Home| {
        let answers = home.take_out().filter_map(|(_, out)| match out {
            Out::Answer { answer, .. } => Some(answer),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    for channel in ["a", "b"] {
        log.set(Some(failed));
        request(&mut home, channel, member(0).0, verb(None), NOW_MS);
        assert_eq!(take(&mut home).into_iter().map(refusal).count(), 1);
        assert_eq!(home.gauges().members, 0);
        log.set(None);
        request(&mut home, channel, member(0).0, verb(None), NOW_MS);
        assert!(matches!(take(&mut home)[..], [Answer::Subscribed { .. }]));
        // One that restarts has left its shard already.
        log.set(Some(failed));
        request(&mut home, channel, member(0).0, verb(Some(true)), NOW_MS);
        assert_eq!(take(&mut home).into_iter().map(refusal).count(), 1);
        assert_eq!((home.gauges().members, home.gauges().presence_bytes), (0, 0));
        log.set(None);
        let verb = Verb::Presence { after: None, limit: 10 };
        let answer = ask(&mut home, channel, verb, NOW_MS);
        assert!(matches!(answer, Answer::Presence(PresencePage { count: 0, .. })), "{answer:?}");
    }
    check_end(home);
}

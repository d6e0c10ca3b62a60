//! A log that fails: every request is answered, once, and nothing of it is kept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::hub::Epoch;
use crate::hub::log::{Done, KeyUsage, Loss, Opening};

/// What becomes of commands: `None`: they are carried out.
type Outcome = Rc<Cell<Option<fn(u64) -> Done>>>;

type OpenOutcome = Rc<Cell<Option<fn(u32) -> Done>>>;

/// A log in memory that fails on demand.
struct FailingLog {
    inner: MemoryLog,
    outcome: Outcome,
    /// What becomes of channels that are opened; `None`: they are open at once.
    opened: OpenOutcome,
    failed: VecDeque<Done>,
    /// What was asked about deliveries.
    watched: Rc<RefCell<Vec<bool>>>,
    /// Messages that others publish before the next read.
    elsewhere: Rc<Cell<u64>>,
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
    fn open(
        &mut self,
        name: &ChannelName,
        key: u32,
        retention: Retention,
        first: Epoch,
    ) -> Opening {
        let opening = self.inner.open(name, key, retention, first);
        let Some(opened) = self.opened.get() else { return opening };
        let done = opened(key);
        if matches!(done, Done::OpenFailed { .. }) {
            self.inner.close(opening.channel);
        }
        self.failed.push_back(done);
        Opening { is_open: false, ..opening }
    }

    fn retain(&mut self, channel: u32, retention: Retention) {
        self.inner.retain(channel, retention);
    }

    fn close(&mut self, channel: u32) {
        self.inner.close(channel);
    }

    fn set_watched(&mut self, channel: u32, is_watched: bool) {
        self.watched.borrow_mut().push(is_watched);
        self.inner.set_watched(channel, is_watched);
    }

    fn loss_on_close(&self, channel: u32) -> Loss {
        self.inner.loss_on_close(channel)
    }

    fn set_time(&mut self, now_ms: u64) {
        self.inner.set_time(now_ms);
    }

    fn append(&mut self, ticket: u64, channel: u32, draft: Draft, key: Option<KeyScope>) {
        if !self.fails(ticket) {
            self.inner.append(ticket, channel, draft, key);
        }
    }

    fn read(&mut self, ticket: u64, channel: u32, range: Range) {
        for _ in 0..self.elsewhere.take() {
            let Verb::Publish { draft, .. } = publish(None, NOW_MS) else { unreachable!() };
            self.inner.append(0, channel, *draft, None);
            let done = self.inner.next();
            assert!(matches!(done, Some(Done::Appended { ticket: 0, .. })));
        }
        if !self.fails(ticket) {
            self.inner.read(ticket, channel, range);
        }
    }

    fn trim(&mut self, ticket: u64, channel: u32) {
        if !self.fails(ticket) {
            self.inner.trim(ticket, channel);
        }
    }

    fn expire_messages(&mut self, now_ms: u64, channels_max: usize) {
        self.inner.expire_messages(now_ms, channels_max);
    }

    fn set_key_bounds(&mut self, keys_max: usize, ttl_ms: u64) {
        self.inner.set_key_bounds(keys_max, ttl_ms);
    }

    fn keys(&self) -> KeyUsage {
        self.inner.keys()
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.next_expiry_ms()
    }

    fn next(&mut self) -> Option<Done> {
        self.failed.pop_front().or_else(|| self.inner.next())
    }

    fn kept_messages(&self) -> (u64, u64) {
        self.inner.kept_messages()
    }
}

fn failed(ticket: u64) -> Done {
    Done::Failed { ticket, retry_after_ms: Some(700) }
}

fn too_large(ticket: u64) -> Done {
    Done::Refused { ticket, refused: Refused::new(Code::TooLarge, "the broker takes 1 MB") }
}

/// A home, and what becomes of its commands and openings.
fn failing_home() -> (Home, FailingLog) {
    let log = || FailingLog {
        inner: MemoryLog::new(HistoryBudget::new(1 << 30)),
        outcome: Outcome::default(),
        opened: OpenOutcome::default(),
        failed: VecDeque::new(),
        watched: Rc::default(),
        elsewhere: Rc::default(),
    };
    let log_of_home = log();
    let (outcome, opened) = (log_of_home.outcome.clone(), log_of_home.opened.clone());
    let (watched, elsewhere) = (log_of_home.watched.clone(), log_of_home.elsewhere.clone());
    let home = Home::new(home(10).options, Box::new(log_of_home));
    (home, FailingLog { outcome, opened, watched, elsewhere, ..log() })
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
        home.expire_channels(now_ms, 100);
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
        log.outcome.set(Some(outcome));
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
    log.outcome.set(Some(failed));
    let answers = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..3 {
        let answers = answers.clone();
        let reply = ApiReply(Box::new(move |answer| answers.lock().unwrap().push(answer)));
        let (from, channel) = (Origin::Api(reply), ChannelName::new("a"));
        let retention = Retention { messages_max: 3, ttl_ms: TTL_MS };
        let verb = publish(Some("k"), NOW_MS);
        home.handle_request(Request { from, channel, retention, verb }, NOW_MS);
    }
    while home.process_completions(1) {}
    let answered: Vec<_> = answers.lock().unwrap().drain(..).map(refusal).collect();
    assert_eq!(
        answered,
        [(Code::Unavailable, Some(700)); 3],
        "each once, those that waited as well"
    );
    assert_eq!(home.gauges().keys, 0);
    log.outcome.set(None);
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
        Verb::Subscribe(Box::new(Subscribe {
            since: restart.map(|_| Since { epoch: None, offset: 3 }),
            watch: true,
            restart,
            member: Some(info.clone()),
            replaces: None,
            members_max: 1,
        }))
    };
    let take = |home: &mut Home| {
        let answers = home.take_out().filter_map(|(_, out)| match out {
            Out::Answer { answer, .. } => Some(answer),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    for channel in ["a", "b"] {
        log.outcome.set(Some(failed));
        request(&mut home, channel, member(0).0, verb(None), NOW_MS);
        assert_eq!(take(&mut home).into_iter().map(refusal).count(), 1);
        assert_eq!(home.gauges().members, 0);
        log.outcome.set(None);
        request(&mut home, channel, member(0).0, verb(None), NOW_MS);
        assert!(matches!(take(&mut home)[..], [Answer::Subscribed { .. }]));
        // One that restarts has left its shard already.
        log.outcome.set(Some(failed));
        request(&mut home, channel, member(0).0, verb(Some(true)), NOW_MS);
        assert_eq!(take(&mut home).into_iter().map(refusal).count(), 1);
        assert_eq!((home.gauges().members, home.gauges().presence_bytes), (0, 0));
        log.outcome.set(None);
        let verb = Verb::Presence { after: None, limit: 10 };
        let answer = ask(&mut home, channel, verb, NOW_MS);
        assert!(matches!(&answer, Answer::Presence(page) if page.count == 0), "{answer:?}");
    }
    check_end(home);
}

#[test]
fn requests_wait_in_order_until_their_channel_is_open() {
    let (mut home, log) = failing_home();
    let outcomes: [fn(u32) -> Done; 2] = [
        |channel| Done::OpenFailed { key: channel, retry_after_ms: None },
        |channel| Done::Opened { key: channel },
    ];
    for (outcome, is_opened) in outcomes.into_iter().zip([false, true]) {
        log.opened.set(Some(outcome));
        let answers = Arc::new(Mutex::new(Vec::new()));
        for n in 0..3 {
            let answers = answers.clone();
            let note = move |answer| answers.lock().unwrap().push((n, answer));
            let (from, channel) = (Origin::Api(ApiReply(Box::new(note))), ChannelName::new("a"));
            let retention = Retention { messages_max: 3, ttl_ms: TTL_MS };
            let verb = if n == 1 { history(None) } else { publish(None, NOW_MS) };
            home.handle_request(Request { from, channel, retention, verb }, NOW_MS);
            assert_eq!((home.len(), home.unused.first()), (1, None), "it is in use");
        }
        while home.process_completions(1) {}
        let answered: Vec<_> = answers.lock().unwrap().drain(..).collect();
        let offsets = answered.into_iter().map(|(n, answer)| match answer {
            Answer::Published { position, .. } => (n, Some(position.offset)),
            Answer::History { position, messages } => {
                assert_eq!(messages.len() as u64, position.offset);
                (n, Some(position.offset))
            }
            answer => {
                assert_eq!(refusal(answer), (Code::Unavailable, None));
                (n, None)
            }
        });
        let expected = if is_opened { [Some(1), Some(1), Some(2)] } else { [None; 3] };
        assert!(offsets.eq((0..).zip(expected)));
        assert_eq!(home.len(), usize::from(is_opened));
    }
    check_end(home);
}

/// What happens to a channel without members is not heard of here.
#[test]
fn a_position_holds_only_while_there_are_members() {
    let (mut home, log) = failing_home();
    let described = |home: &mut Home| match ask(home, "a", Verb::Describe, NOW_MS) {
        Answer::Described { position, .. } => position.offset,
        other => panic!("{other:?}"),
    };
    let joined = |home: &mut Home| {
        home.take_out();
        request(home, "a", member(0).0, subscribe(None), NOW_MS);
        let position = home.take_out().find_map(|(_, out)| match out {
            Out::Answer { answer: Answer::Subscribed(joined), .. } => Some(joined.position),
            _ => None,
        });
        position.expect("it is a member").offset
    };
    for round in 0..3 {
        let before = 4 * round;
        ask(&mut home, "a", publish(None, NOW_MS), NOW_MS);
        assert!(log.watched.take().is_empty(), "a publish needs no deliveries");
        assert_eq!(described(&mut home), before + 1);
        log.elsewhere.set(2);
        assert_eq!(described(&mut home), before + 3);
        log.elsewhere.set(1);
        assert_eq!(joined(&mut home), before + 4);
        assert_eq!((log.watched.take(), described(&mut home)), (vec![true], before + 4));
        let leave = Verb::Leave { watch: false, member: None };
        request(&mut home, "a", member(0).0, leave, NOW_MS);
        assert_eq!(log.watched.take(), [false]);
    }
    // Nor is one that could not join to be delivered anything.
    log.outcome.set(Some(failed));
    request(&mut home, "a", member(0).0, subscribe(None), NOW_MS);
    assert_eq!(log.watched.take(), [true, false]);
    check_end(home);
}

//! Tests of the desk when the application fails: repeats, statuses, and the breaker.

use super::{Rig, UNIX_S, call, connect, content, ok, publish, response, subscribe};
use crate::auth::OnFailure;
use crate::hooks::answer::{FailureCause, HookOutcome};
use crate::hooks::breaker::BreakerState;
use crate::hooks::question::HookKind;
use crate::hooks::traffic::{HookLimits, HookResult};

/// Returns the cause, and when to try again (ms).
fn failure(outcome: &HookOutcome) -> (FailureCause, u32) {
    match outcome {
        HookOutcome::Failed { cause, retry_after_ms, .. } => (*cause, *retry_after_ms),
        outcome => panic!("failed: {outcome:?}"),
    }
}

/// Opens the breaker.
fn break_down(rig: &mut Rig) {
    for number in 1000..1020 {
        rig.ask(number, call("m"));
        rig.settle(rig.sent.len() - 1, HookResult::Broken);
    }
    assert_eq!(rig.desk.numbers().breaker, BreakerState::Open);
    rig.take_ended();
}

#[test]
fn what_surely_did_not_arrive_is_sent_once_more() {
    let mut rig = Rig::new(HookLimits::default());
    rig.ask(1, call("m"));
    rig.settle(0, HookResult::NotSent);
    rig.settle(0, HookResult::NotSent);
    assert_eq!(rig.sent.len(), 2);
    let (first, repeat) = (rig.sent[0].clone(), rig.sent[1].clone());
    assert_ne!(first.call, repeat.call);
    assert_eq!((first.id, first.body, first.deadline_ms), (repeat.id, repeat.body, 7000));
    rig.settle(0, ok("{}"));
    assert_eq!(rig.take_ended(), [], "the first one has ended");
    rig.settle(1, ok("{}"));
    assert_eq!(rig.take_outcome(), content("null"));

    rig.ask(2, call("m"));
    rig.settle(2, HookResult::NotSent);
    rig.settle(3, HookResult::NotSent);
    assert_eq!(failure(&rig.take_outcome()), (FailureCause::Unreachable, 1000));
    rig.ask(3, call("m"));
    rig.cancel(3);
    rig.settle(4, HookResult::NotSent);
    assert_eq!((rig.sent.len(), rig.desk.numbers().in_flight), (5, 0), "it is not wanted");
    assert_eq!(rig.desk.numbers().kinds[3].repeats, 2);
}

#[test]
fn failures_have_causes_and_times() {
    let mut rig = Rig::new(HookLimits { answer_bytes_max: 10, ..HookLimits::default() });
    let with_retry = |status, seconds| HookResult::Response {
        status,
        body: Vec::new(),
        retry_after_s: Some(seconds),
        unix_s: UNIX_S,
    };
    let cases = [
        (HookResult::Broken, FailureCause::Unreachable, 1000),
        (HookResult::TimedOut, FailureCause::TimedOut, 1000),
        (response(500, ""), FailureCause::Status, 1000),
        (ok("[]"), FailureCause::Malformed, 1000),
        (ok("{         }"), FailureCause::Malformed, 1000),
        (with_retry(503, 7), FailureCause::Status, 7000),
        (with_retry(429, 0), FailureCause::Status, 1000),
        (with_retry(429, 301), FailureCause::Status, 300_000),
        (with_retry(500, 7), FailureCause::Status, 1000),
    ];
    for (number, (result, cause, retry_ms)) in cases.into_iter().enumerate() {
        rig.ask(number as u32, call("m"));
        rig.settle(number, result.clone());
        assert_eq!(failure(&rig.take_outcome()), (cause, retry_ms), "{result:?}");
    }
    rig.ask(50, publish("1", OnFailure::Allow));
    rig.settle(9, HookResult::Broken);
    assert_eq!(rig.take_outcome(), HookOutcome::Allowed);
    let numbers = rig.desk.numbers();
    assert_eq!(numbers.kinds[3].failed, [0, 0, 0, 1, 1, 5, 2]);
    assert_eq!(numbers.kinds[2].allowed, 1);
}

#[test]
fn an_open_breaker_fails_what_comes() {
    let mut rig = Rig::new(HookLimits { concurrency_max: 20, ..HookLimits::default() });
    rig.ask(1, subscribe(Some("ann"), "cached"));
    rig.settle(0, ok(r#"{"cache_s":100}"#));
    rig.take_ended();
    for number in 10..30 {
        rig.ask(number, call("m"));
    }
    rig.ask(30, call("waits"));
    rig.ask(31, publish("1", OnFailure::Allow));
    for at in 1..19 {
        rig.settle(at, HookResult::Broken);
        rig.ask(100 + at as u32, connect("/under way"));
    }
    assert_eq!(rig.desk.numbers().breaker, BreakerState::Closed);
    rig.take_ended();
    rig.settle(19, HookResult::Broken);
    // 19 of 20: one result was a success.
    assert_eq!(rig.desk.numbers().breaker, BreakerState::Open);
    assert_eq!(rig.desk.numbers().breaker_openings, 1);
    rig.take_ended();
    let sent = rig.sent.len();
    rig.ask(40, call("m"));
    let (cause, retry_ms) = failure(&rig.take_outcome());
    assert_eq!(cause, FailureCause::Open);
    assert!((800..=1200).contains(&retry_ms), "{retry_ms}");
    rig.ask(41, publish("1", OnFailure::Allow));
    assert_eq!(rig.take_outcome(), HookOutcome::Allowed);
    rig.ask(42, subscribe(Some("ann"), "cached"));
    assert!(matches!(rig.take_outcome(), HookOutcome::Answered(_)));
    rig.ask(43, connect("/under way"));
    assert_eq!((rig.take_ended(), rig.sent.len()), (vec![], sent), "it joins the one under way");
}

#[test]
fn questions_that_wait_fail_when_the_breaker_opens() {
    let mut rig = Rig::new(HookLimits { concurrency_max: 20, ..HookLimits::default() });
    for number in 0..20 {
        rig.ask(number, call("m"));
    }
    rig.ask(20, call("waits"));
    rig.ask(21, publish("1", OnFailure::Allow));
    rig.pass(1999);
    assert_eq!(rig.take_ended(), []);
    // All time out at once: what waited since then as well.
    rig.ask(22, subscribe(Some("ann"), "c"));
    rig.pass(1);
    let ended = rig.take_ended();
    let outcome = |number| &ended.iter().find(|(found, _)| *found == number).unwrap().1;
    assert_eq!(failure(outcome(20)).0, FailureCause::TimedOut);
    assert_eq!(outcome(21), &HookOutcome::Allowed);
    assert_eq!(failure(outcome(22)).0, FailureCause::Open);
    assert_eq!((ended.len(), rig.sent.len()), (23, 20));
}

#[test]
fn probes_close_the_breaker() {
    let mut rig = Rig::new(HookLimits::default());
    rig.ask(1, call("before"));
    break_down(&mut rig);
    let due_ms = rig.desk.next_due_ms().unwrap();
    rig.pass(due_ms - rig.now_ms);
    assert_eq!(rig.desk.numbers().breaker, BreakerState::HalfOpen);
    let first = rig.sent.len();
    for number in 2..6 {
        rig.ask(number, call("m"));
    }
    assert_eq!(rig.sent.len() - first, 3);
    assert_eq!(failure(&rig.take_outcome()).0, FailureCause::Open);
    rig.settle(0, ok("{}"));
    assert_eq!(rig.take_outcome(), content("null"), "an answer of before is an answer");
    assert_eq!(rig.desk.numbers().breaker, BreakerState::HalfOpen);
    for at in first..first + 3 {
        rig.settle(at, ok("[]"));
    }
    assert_eq!(rig.desk.numbers().breaker, BreakerState::Closed, "it is alive");
    assert_eq!(rig.desk.numbers().breaker_openings, 1);
}

#[test]
fn a_request_of_another_state_is_not_repeated() {
    let mut rig = Rig::new(HookLimits::default());
    rig.ask(1, call("before"));
    break_down(&mut rig);
    let sent = rig.sent.len();
    rig.settle(0, HookResult::NotSent);
    assert_eq!(failure(&rig.take_outcome()).0, FailureCause::Unreachable);
    assert_eq!(rig.sent.len(), sent);
}

#[test]
fn statuses_of_a_working_application_do_not_open_the_breaker() {
    let count = |status: u16, number: u32| {
        let mut rig = Rig::new(HookLimits::default());
        for number in 0..number {
            rig.ask(number, call("m"));
            rig.settle(number as usize, response(status, ""));
        }
        rig.desk.numbers().breaker
    };
    for status in [200, 302, 400, 401, 404] {
        assert_eq!(count(status, 50), BreakerState::Closed, "{status}");
    }
    for status in [408, 429, 500, 503, 599] {
        assert_eq!(count(status, 19), BreakerState::Closed, "{status}");
        assert_eq!(count(status, 20), BreakerState::Open, "{status}");
    }
}

#[test]
fn kinds_of_failures_are_those_of_their_questions() {
    let mut rig =
        Rig::new(HookLimits { waiting_max: 0, concurrency_max: 0, ..HookLimits::default() });
    let questions =
        [connect("/"), subscribe(None, "c"), publish("1", OnFailure::Reject), call("m")];
    for (question, expected) in questions.into_iter().zip(HookKind::ALL) {
        rig.ask(1, question);
        let outcome = rig.take_outcome();
        assert!(matches!(outcome, HookOutcome::Failed { kind, .. } if kind == expected));
    }
}

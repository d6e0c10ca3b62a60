//! Tests of the desk: requests, equal questions, the cache, deadlines and cancellation.

use super::{Rig, call, connect, content, ok, publish, response, subscribe, ticket};
use crate::auth::OnFailure;
use crate::hooks::answer::{FailureCause, HookOutcome};
use crate::hooks::desk::HookDesk;
use crate::hooks::question::HookKind;
use crate::hooks::traffic::{HookAction, HookCall, HookLimits, HookResult};

fn rig() -> Rig {
    Rig::new(HookLimits::default())
}

fn assert_answered(outcome: &HookOutcome) {
    assert!(matches!(outcome, HookOutcome::Answered(_)), "{outcome:?}");
}

#[test]
fn a_question_is_sent_and_its_answer_ends_it() {
    let mut desk = HookDesk::new(HookLimits::default(), "app", "n1", 0xab);
    desk.ask(5000, ticket(1), call("m"));
    let Some(HookAction::Send { call: sent, id, body, deadline_ms }) = desk.next_action() else {
        panic!("it is sent");
    };
    assert_eq!(id, "n1.00000000000000ab.hook.0");
    assert!(body.starts_with(br#"{"type":"call","node":"n1","id":"n1.00000000000000ab.hook.0","#));
    assert_eq!((deadline_ms, desk.next_due_ms()), (7000, Some(7000)));
    assert_eq!(desk.next_action(), None);
    desk.settle(5300, sent, ok(r#"{"content":[1]}"#));
    let expected = HookAction::Finish {
        ticket: ticket(1),
        kind: HookKind::Call,
        outcome: content("[1]"),
        waited_ms: 300,
    };
    assert_eq!(desk.next_action(), Some(expected));
    assert_eq!((desk.next_action(), desk.next_due_ms()), (None, None));
}

#[test]
fn results_of_no_call_are_ignored() {
    let mut rig = rig();
    rig.ask(1, call("m"));
    rig.desk.settle(rig.now_ms, HookCall::new(7, false), ok("{}"));
    rig.desk.settle(rig.now_ms, HookCall::new(0, true), ok("{}"));
    rig.settle(0, ok("{}"));
    rig.settle(0, ok("{}"));
    rig.settle(0, HookResult::Broken);
    assert_eq!(rig.take_ended(), [(1, content("null"))]);
    assert_eq!(rig.desk.numbers().late_answers, 3);
}

#[test]
fn requests_wait_in_their_order_within_the_limits() {
    let limits = HookLimits { concurrency_max: 2, waiting_max: 2, ..HookLimits::default() };
    let mut rig = Rig::new(limits);
    for number in 0..5 {
        rig.ask(number, call(&format!("m{number}")));
    }
    assert_eq!((rig.sent.len(), rig.desk.numbers().waiting), (2, 2));
    let busy = HookOutcome::Failed {
        kind: HookKind::Call,
        cause: FailureCause::Busy,
        retry_after_ms: 1000,
    };
    assert_eq!(rig.take_ended(), [(4, busy.clone())]);
    rig.settle(1, ok("{}"));
    assert!(rig.sent[2].body.contains("\"m2\""));
    rig.pass(100);
    assert_eq!(rig.sent[2].deadline_ms, 7000, "waiting counts");
    rig.cancel(3);
    rig.ask(5, call("m5"));
    rig.ask(6, call("m6"));
    rig.take_ended();
    rig.desk.set_limits(HookLimits { waiting_max: 1, ..limits });
    rig.drain();
    assert_eq!(rig.take_ended(), [(6, busy)], "the newest gives way");
    rig.desk.set_limits(HookLimits { concurrency_max: 3, ..limits });
    rig.drain();
    assert!(rig.sent[3].body.contains("\"m5\""));
}

#[test]
fn equal_questions_share_a_request_and_leave_it_alone() {
    let mut rig = rig();
    rig.ask(1, subscribe(Some("ann"), "c"));
    rig.pass(500);
    rig.ask(2, subscribe(Some("ann"), "c"));
    rig.ask(3, subscribe(Some("ann"), "c"));
    rig.ask(4, subscribe(None, "c"));
    rig.ask(5, subscribe(None, "c"));
    assert_eq!(rig.sent.len(), 3, "users that are not known share nothing");
    rig.cancel(2);
    rig.settle(0, ok("{}"));
    let ended = rig.take_ended();
    assert_eq!(ended.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    ended.iter().for_each(|(_, outcome)| assert_answered(outcome));
    rig.ask(6, subscribe(Some("ann"), "c"));
    assert_eq!(rig.sent.len(), 4, "nothing was cached");
    assert_eq!(rig.desk.numbers().kinds[1].joined, 2);
}

#[test]
fn answers_are_used_again_until_they_expire() {
    let mut rig = rig();
    rig.ask(1, connect("/a"));
    rig.settle(0, ok(r#"{"user":"ann","cache_s":10}"#));
    assert_answered(&rig.take_outcome());
    rig.pass(9999);
    rig.ask(2, connect("/a"));
    assert_answered(&rig.take_outcome());
    rig.ask(3, connect("/b"));
    assert_eq!(rig.sent.len(), 2);
    rig.pass(1);
    rig.ask(4, connect("/a"));
    assert_eq!(rig.sent.len(), 3);
    let numbers = rig.desk.numbers();
    assert_eq!((numbers.kinds[0].cache_hits, numbers.kinds[0].answered), (1, 2));
    rig.settle(2, ok(r#"{"refuse":{"status":403},"cache_s":10}"#));
    rig.pass(1999);
    rig.ask(5, connect("/a"));
    rig.pass(1);
    rig.ask(6, connect("/a"));
    assert_eq!(rig.sent.len(), 4, "a refusal is kept for two seconds");
    assert_eq!(rig.desk.numbers().kinds[0].refused, 2);
}

#[test]
fn the_cache_obeys_the_limit_and_goes_away_by_itself() {
    let limits = HookLimits { cache_s_max: 5, ..HookLimits::default() };
    let mut rig = Rig::new(limits);
    rig.ask(1, connect("/a"));
    rig.settle(0, ok(r#"{"user":"ann","cache_s":10}"#));
    assert_eq!(rig.desk.numbers().cache_entries, 1);
    let due_ms = rig.desk.next_due_ms().unwrap();
    assert_eq!(due_ms, 10_000);
    rig.pass(5000);
    assert_eq!((rig.desk.numbers().cache_entries, rig.desk.next_due_ms()), (0, None));
    rig.ask(2, connect("/a"));
    rig.settle(1, ok(r#"{"cache_s":10}"#));
    rig.desk.set_limits(HookLimits { cache_s_max: 0, ..limits });
    assert_eq!(rig.desk.numbers().cache_entries, 0);
}

#[test]
fn a_forgotten_user_is_asked_about_again() {
    let mut rig = rig();
    let ann = || subscribe(Some("ann"), "c");
    let cached = ok(r#"{"cache_s":100}"#);
    rig.ask(1, ann());
    rig.settle(0, cached.clone());
    rig.ask(2, connect("/"));
    rig.settle(1, ok(r#"{"user":"ann","cache_s":100}"#));
    rig.ask(3, subscribe(Some("bob"), "c"));
    rig.settle(2, cached.clone());
    rig.desk.forget_user("ann");
    assert_eq!(rig.desk.numbers().cache_entries, 1);

    rig.ask(4, ann());
    rig.ask(5, connect("/"));
    rig.ask(6, subscribe(Some("bob"), "d"));
    rig.desk.forget_user("ann");
    rig.ask(7, ann());
    rig.ask(8, connect("/"));
    rig.ask(9, subscribe(Some("bob"), "d"));
    assert_eq!(rig.sent.len(), 8, "requests of before are not joined, except for others");
    rig.take_ended();
    rig.settle(3, cached.clone());
    rig.settle(4, ok(r#"{"user":"ann","cache_s":100}"#));
    assert_eq!(rig.desk.numbers().cache_entries, 1, "answers of before are not kept");
    rig.settle(5, cached.clone());
    assert_eq!(rig.desk.numbers().cache_entries, 2);
    rig.settle(6, cached.clone());
    rig.settle(7, ok(r#"{"user":"ann","cache_s":100}"#));
    assert_eq!((rig.desk.numbers().cache_entries, rig.take_ended().len()), (4, 6));

    rig.ask(10, subscribe(Some("eve"), "c"));
    rig.desk.forget_all();
    rig.settle(8, cached);
    assert_eq!(rig.desk.numbers().cache_entries, 0);
}

#[test]
fn too_many_forgotten_users_are_all_users() {
    let mut rig = rig();
    rig.ask(1, subscribe(Some("ann"), "c"));
    for number in 0..5000 {
        rig.desk.forget_user(&format!("user {number}"));
    }
    rig.settle(0, ok(r#"{"cache_s":100}"#));
    assert_eq!(rig.desk.numbers().cache_entries, 0);
    rig.ask(2, subscribe(Some("ann"), "c"));
    rig.settle(1, ok(r#"{"cache_s":100}"#));
    assert_eq!(rig.desk.numbers().cache_entries, 1);
}

#[test]
fn a_question_ends_at_its_deadline_waiting_or_sent() {
    let limits = HookLimits { concurrency_max: 1, ..HookLimits::default() };
    let mut rig = Rig::new(limits);
    rig.ask(1, call("a"));
    rig.pass(1);
    rig.ask(2, call("b"));
    rig.ask(3, publish("1", OnFailure::Allow));
    rig.pass(1998);
    assert_eq!(rig.take_ended(), []);
    rig.pass(1);
    let timed_out = HookOutcome::Failed {
        kind: HookKind::Call,
        cause: FailureCause::TimedOut,
        retry_after_ms: 1000,
    };
    assert_eq!(rig.take_ended(), [(1, timed_out.clone())]);
    assert_eq!(rig.sent.len(), 2, "its place is free");
    rig.settle(0, ok("{}"));
    assert_eq!((rig.take_ended(), rig.desk.numbers().late_answers), (vec![], 1));
    // Without `expire`: the answer is late all the same.
    rig.now_ms += 1;
    rig.settle(1, ok("{}"));
    assert_eq!(rig.take_ended(), [(2, timed_out), (3, HookOutcome::Allowed)]);
    assert_eq!(rig.sent.len(), 2, "what has expired is not sent");
    assert_eq!(rig.desk.next_due_ms(), None);
}

#[test]
fn a_question_that_its_client_left_is_not_sent_but_its_answer_is_kept() {
    let limits = HookLimits { concurrency_max: 1, ..HookLimits::default() };
    let mut rig = Rig::new(limits);
    rig.ask(1, subscribe(Some("ann"), "a"));
    rig.ask(2, call("b"));
    rig.ask(3, call("c"));
    rig.cancel(1);
    rig.cancel(2);
    rig.cancel(2);
    rig.ask(4, subscribe(Some("ann"), "a"));
    rig.cancel(4);
    assert_eq!(rig.desk.numbers().in_flight, 1);
    rig.settle(0, ok(r#"{"cache_s":100}"#));
    assert!(rig.sent[1].body.contains("\"c\""));
    assert_eq!((rig.take_ended(), rig.desk.numbers().cache_entries), (vec![], 1));
    rig.ask(5, subscribe(Some("ann"), "a"));
    assert_answered(&rig.take_outcome());
    assert_eq!(rig.desk.numbers().kinds[1].cancelled, 2);
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    let limits = HookLimits { concurrency_max: 1, ..HookLimits::default() };
    let mut rig = Rig::new(limits);
    let large = format!("\"{}\"", "c".repeat(16 << 20));
    rig.ask(0, publish("1", OnFailure::Reject));
    for number in 1..5 {
        rig.ask(number, publish(&large, OnFailure::Reject));
    }
    assert_eq!(rig.desk.numbers().waiting, 3);
    assert_eq!(rig.take_ended().len(), 1);
    rig.settle(0, response(200, ""));
    rig.ask(5, publish(&large, OnFailure::Reject));
    assert_eq!(rig.desk.numbers().waiting, 3, "what was sent has made room");
}

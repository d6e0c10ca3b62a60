//! Requests that an application decides on.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn asking_world() -> World {
    World::new(false, true, true)
}

fn subscribe() -> serde_json::Value {
    json!({"type": "subscribe", "id": 1, "channel": "asked:a"})
}

fn grant() -> HookOutcome {
    let expires_s = NOW_MS / 1000 + 1;
    let grant = ChannelGrant { rights: Rights::ALL, expires_s, key: None };
    HookOutcome::Answered(HookAnswer::Subscribe(SubscribeAnswer::Grant(grant)))
}

/// Applies an outcome to the oldest question.
fn decide_next(world: &mut World, outcome: &HookOutcome) {
    let SessionQuestion { request, .. } = world.questions.remove(0);
    world.act(|session, call| session.take_outcome(call, request, outcome.clone()));
}

#[test]
fn a_grant_of_the_application_lasts_as_long_as_it_says() {
    let mut world = asking_world();
    ask(&mut world, &subscribe());
    assert_eq!((world.questions.len(), world.waiting.len()), (1, 0));
    decide_next(&mut world, &grant());
    world.answer_all();
    assert_eq!((world.home.gauges().members, world.replies), (1, 1));
    // With the right, the application is not asked again.
    ask(&mut world, &json!({"type": "history", "channel": "asked:a"}));
    ask(&mut world, &json!({"type": "subscribe", "channel": "asked:a"}));
    assert!(world.questions.is_empty());
    world.now_ms += 20_000;
    world.act(HubSession::handle_deadline);
    world.answer_all();
    assert_eq!(world.home.gauges().members, 0, "it has expired");
    ask(&mut world, &subscribe());
    assert_eq!(world.questions.len(), 1, "so the application is asked again");
}

#[test]
fn what_a_backend_ends_meanwhile_is_not_granted() {
    let mut world = asking_world();
    ask(&mut world, &subscribe());
    world.act(|session, call| {
        assert!(session.unsubscribe_by_server(call, "asked:a"));
        assert!(!session.unsubscribe_by_server(call, "asked:a"), "it has ended already");
    });
    decide_next(&mut world, &grant());
    world.answer_all();
    assert_eq!((world.home.gauges().members, world.replies), (0, 1), "an error");
    assert!(world.session.pending.is_none());
}

#[test]
fn a_subscription_by_a_backend_meanwhile_stays() {
    let mut world = asking_world();
    ask(&mut world, &subscribe());
    world.act(|session, call| session.subscribe_by_server(call, "asked:a", u64::MAX, 5));
    decide_next(&mut world, &grant());
    world.answer_all();
    assert_eq!(world.home.gauges().members, 1);
    assert_eq!(world.outcomes, [(5, Outcome::Subscribed)]);
    assert_eq!(world.replies, 2, "`subscribed`, and a conflict for the client's request");
}

#[test]
fn a_closed_connection_cancels_its_questions() {
    let mut world = asking_world();
    for object in [
        subscribe(),
        json!({"type": "call", "id": 2, "method": "m"}),
        json!({"type": "publish", "id": 3, "channel": "asked:b", "content": 1}),
    ] {
        ask(&mut world, &object);
    }
    let asked: Vec<_> = world.questions.iter().map(|one| one.request).collect();
    assert_eq!(asked.len(), 3);
    world.act(HubSession::end_all);
    assert!(world.questions.is_empty(), "all are cancelled");
    for request in asked {
        world.act(|session, call| session.take_outcome(call, request, grant()));
    }
    assert!(world.waiting.is_empty(), "late outcomes change nothing");
}

#[test]
fn a_replaced_content_is_checked_as_the_clients_is() {
    let mut world = asking_world();
    for content in ["1".to_owned(), format!("\"{}\"", "x".repeat(20_000))] {
        ask(&mut world, &json!({"type": "publish", "id": 3, "channel": "asked:b", "content": 1}));
        let answer = HookAnswer::Publish(PublishAnswer::Replace(content.into()));
        decide_next(&mut world, &HookOutcome::Answered(answer));
    }
    assert_eq!((world.waiting.len(), world.replies), (1, 1), "the second one is too large");
}

proptest! {
    /// Each request has one reply, whatever is asked and answered, and in which order.
    #[test]
    fn any_requests_about_asked_channels_are_answered(
        choice in any::<u8>(),
        frames in prop::collection::vec(prop::collection::vec(request(), 1..6), 1..6),
    ) {
        let mut data = vec![choice];
        for frame in frames {
            data.extend(frame.concat().into_bytes());
            data.push(0);
        }
        protocol(&data);
    }
}

fn request() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        r#"{"type":"subscribe","id":1,"channel":"asked:a"}"#,
        r#"{"type":"subscribe","channel":"asked:b","presence":true}"#,
        r#"{"type":"unsubscribe","channel":"asked:a"}"#,
        r#"{"type":"publish","channel":"asked:a","content":[1],"key":"k"}"#,
        r#"{"type":"publish","channel":"asked:b","content":null,"echo":false}"#,
        r#"{"type":"history","channel":"asked:a"}"#,
        r#"{"type":"presence","channel":"asked:b"}"#,
        r#"{"type":"call","id":"c","method":"m","content":{"a":1}}"#,
        r#"{"type":"call","method":""}"#,
        r#"{"type":"auth","token":"TOKEN"}"#,
        r#"{"type":"resume","ticket":"TICKET"}"#,
        r#"{"type":"subscribe","channel":"a"}"#,
        r#"{"type":"ping"}"#,
    ]);
    kind.prop_map(str::to_owned)
}

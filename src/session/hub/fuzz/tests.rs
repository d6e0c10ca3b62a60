//! Drives the fuzzer's world with fixed and with random steps.

mod by_server;
mod linked;
mod questions;

use super::*;

#[test]
fn each_word_makes_its_request() {
    let mut world = World::new(true, true, false);
    assert!(world.ticket.len() > 40);
    let auth = format!(r#"{{"type":"auth","token":"{}"}}"#, token());
    world
        .act(|session, call| session.receive_text(call, Payload::Owned(auth.clone().into_bytes())));
    assert_eq!(world.session.user().map(|user| &**user), Some("ann"));
    assert!(!world.closed && world.waiting.is_empty());
    world.act(|session, call| {
        let subscribe = br#"{"type":"subscribe","channel":"token:a"}"#.to_vec();
        session.receive_text(call, Payload::Owned(subscribe));
    });
    assert_eq!(world.waiting.len(), 1);
    world.answer_all();
    assert_eq!((world.home.gauges().members, world.replies), (1, 2));
}

fn channel_token(rights: &[&str]) -> String {
    let end = NOW_MS / 1000 + 10;
    let claims = serde_json::json!({"channel": "token:b", "exp": end, "rights": rights});
    SigningKey::from_secret("", SECRET).sign(&claims).unwrap()
}

fn ask(world: &mut World, object: &serde_json::Value) {
    world.act(|session, call| {
        session.receive_text(call, Payload::Owned(object.to_string().into_bytes()));
    });
}

/// Returns a session with a pending subscription to `token:b` by a channel token.
fn asking() -> World {
    let mut world = World::new(true, false, true);
    ask(&mut world, &serde_json::json!({"type": "auth", "token": token()}));
    let own = channel_token(&["subscribe"]);
    let object = serde_json::json!({"type": "subscribe", "channel": "token:b", "token": own});
    ask(&mut world, &object);
    assert_eq!(world.waiting.len(), 1);
    world
}

#[test]
fn a_grant_that_ends_while_its_home_is_asked_makes_no_member() {
    let mut world = asking();
    world.now_ms += 20_000;
    world.act(HubSession::handle_deadline);
    world.answer_all();
    assert!(world.session.subscriptions.is_empty());
    assert_eq!((world.home.gauges().members, world.replies), (0, 3), "subscribed, and ended");
}

#[test]
fn what_a_backend_takes_back_while_the_home_is_asked_makes_no_member() {
    let mut world = asking();
    world.act(|session, call| assert!(session.unsubscribe_by_server(call, "token:b")));
    world.answer_all();
    assert!(world.session.subscriptions.is_empty());
    assert_eq!((world.home.gauges().members, world.replies), (0, 3));
}

/// Applies the rights of a new realm, as a reload does.
#[test]
fn a_review_ends_what_the_realm_does_not_allow_any_more() {
    let mut world = asking();
    world.answer_all();
    for channel in ["token:a", "a"] {
        let object = serde_json::json!({"type": "subscribe", "channel": channel});
        ask(&mut world, &object);
    }
    world.answer_all();
    world.review();
    assert_eq!(world.session.subscriptions.len(), 3, "nothing has changed");
    let narrow = |realm: &Realm, keys: bool| {
        let list = vec![namespace("*", Access::Server)];
        let namespaces = Namespaces::new(list, namespace("*", Access::Token));
        let verifier = realm.verifier.clone().filter(|_| keys);
        let (sealer, limits) = (realm.sealer.clone(), realm.limits);
        let by = Realm::new(5, namespaces, verifier, false, sealer, limits, Arc::default());
        Arc::new(realm.with_options(by))
    };
    world.realm = narrow(&world.realm, true);
    world.review();
    let left: Vec<_> =
        world.session.subscriptions.iter().map(|one| one.channel.to_string()).collect();
    assert_eq!(left, ["token:b"], "a channel token counts, whatever the namespace says");
    world.answer_all();
    assert_eq!(world.home.gauges().members, 1);
    world.realm = narrow(&world.realm, false);
    world.review();
    assert!(world.closed, "its key was withdrawn");
}

#[test]
fn a_right_to_presence_that_is_lost_ends_joins_and_leaves_only() {
    let mut world = World::new(true, false, true);
    let rights = |rights: &[&str]| {
        let channels = [serde_json::json!({"pattern": "token:b", "rights": rights})];
        let end = NOW_MS / 1000 + 1000;
        let claims = serde_json::json!({"sub": "ann", "exp": end, "channels": channels});
        let token = SigningKey::from_secret("", SECRET).sign(&claims).unwrap();
        serde_json::json!({"type": "auth", "token": token})
    };
    ask(&mut world, &rights(&["subscribe", "presence"]));
    let object = serde_json::json!({"type": "subscribe", "channel": "token:b", "presence": true});
    ask(&mut world, &object);
    world.answer_all();
    assert_ne!(world.session.subscriptions[0].watcher_index, NONE);
    ask(&mut world, &rights(&["subscribe"]));
    world.answer_all();
    assert_eq!(world.session.subscriptions[0].watcher_index, NONE);
    assert!(world.session.subscriptions[0].is_live());
    world.act(HubSession::end_all);
    world.answer_all();
    assert_eq!(world.home.gauges().members, 0);
}

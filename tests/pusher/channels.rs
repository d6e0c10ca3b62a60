//! Channels of apps: subscriptions, presence, events of clients, users and caches.

use serde_json::{Value, json};

use crate::CONFIG;
use crate::api::publish;
use crate::client::AppClient;
use crate::support::raw;
use crate::support::{Raw, Server};

#[track_caller]
fn refused(client: &mut AppClient, channel: &str, kind: &str, status: u16) {
    let message = client.next();
    assert_eq!(message["event"], "pusher:subscription_error", "{message}");
    assert_eq!(message["channel"], channel);
    assert_eq!(message["data"]["type"], kind, "{message}");
    assert_eq!(message["data"]["status"], status);
}

#[test]
fn signatures_open_private_channels() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    assert_eq!(client.subscribe("private-a"), json!({}));
    let good = client.authorization("private-b");
    let of_other_channel = client.authorization("private-c");
    let of_other_app = good.replace("key-1", "key-2");
    for auth in ["", "key-1:00", "key-1", &of_other_channel, &of_other_app] {
        client.ask("private-b", auth, None);
        refused(&mut client, "private-b", "AuthError", 401);
    }
    client.ask("private-encrypted-b", "", None);
    refused(&mut client, "private-encrypted-b", "AuthError", 401);
    client.ask("presence-b", &good, None);
    refused(&mut client, "presence-b", "AuthError", 401);
    client.ask("private-b", &good, None);
    client.expect("pusher_internal:subscription_succeeded");
    client.ask("private-b", &good, None);
    let error = client.expect("pusher:error");
    assert!(error["message"].as_str().unwrap().contains("Existing subscription"), "{error}");
}

#[test]
fn names_of_channels_are_checked() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    let long = "a".repeat(165);
    for channel in ["", "a b", "a:b", "#x", &long] {
        client.ask(channel, "", None);
        let message = client.next();
        assert_eq!(message["event"], "pusher:subscription_error", "{message}");
        assert_eq!(message["data"]["status"], 400);
    }
    client.subscribe(&"a".repeat(164));
}

#[test]
fn channels_of_apps_never_meet() {
    let server = Server::start(CONFIG);
    let (mut one, mut two) = (AppClient::connect(&server, 1), AppClient::connect(&server, 2));
    one.subscribe("shared");
    two.subscribe("shared");
    publish(&server, 1, "shared", "of-1", "{}");
    publish(&server, 2, "shared", "of-2", "{}");
    one.expect("of-1");
    two.expect("of-2");
    one.expect_nothing();
    two.expect_nothing();
}

#[test]
fn members_are_counted_by_user() {
    let server = Server::start(CONFIG);
    let mut ann = AppClient::connect(&server, 1);
    let first = ann.join("presence-room", "ann");
    let alone = json!({"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "ann"}}});
    assert_eq!(first["presence"], alone);
    let mut bob = AppClient::connect(&server, 1);
    let both = bob.join("presence-room", "bob");
    assert_eq!(both["presence"]["count"], 2);
    assert_eq!(both["presence"]["ids"], json!(["ann", "bob"]));
    let added = ann.expect("pusher_internal:member_added");
    assert_eq!(added, json!({"user_id": "bob", "user_info": {"name": "bob"}}));
    // A second connection of a user is no other member.
    let mut second = AppClient::connect(&server, 1);
    assert_eq!(second.join("presence-room", "bob")["presence"]["count"], 2);
    ann.expect_nothing();
    bob.send(&json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-room"}}));
    bob.expect_nothing();
    ann.expect_nothing();
    drop(second);
    assert_eq!(ann.expect("pusher_internal:member_removed"), json!({"user_id": "bob"}));
}

#[test]
fn a_full_presence_channel_rejects() {
    let server = Server::start(&CONFIG.replace("connections_max = 1", ""));
    let (mut one, mut two) = (AppClient::connect(&server, 2), AppClient::connect(&server, 2));
    one.join("presence-a", "ann");
    let data = r#"{"user_id":7}"#;
    let auth = two.authorization(&format!("presence-a:{data}"));
    two.ask("presence-a", &auth, Some(data));
    refused(&mut two, "presence-a", "LimitReached", 4004);
    one.send(&json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-a"}}));
    one.expect_nothing();
    two.ask("presence-a", &auth, Some(data));
    let reply = two.expect("pusher_internal:subscription_succeeded");
    assert_eq!(reply["presence"]["hash"], json!({"7": null}), "numbers are texts");
}

#[test]
fn members_must_have_an_id_and_small_info() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    let long = json!({"user_id": "a", "user_info": "x".repeat(5000)}).to_string();
    for data in ["", "[]", "{}", r#"{"user_id":""}"#, r#"{"user_id":{}}"#, &long] {
        let auth = client.authorization(&format!("presence-a:{data}"));
        client.ask("presence-a", &auth, Some(data));
        refused(&mut client, "presence-a", "InvalidChannel", 400);
    }
}

#[test]
fn events_of_clients_reach_the_other_members() {
    let server = Server::start(CONFIG);
    let (mut ann, mut bob) = (AppClient::connect(&server, 1), AppClient::connect(&server, 1));
    ann.join("presence-a", "ann");
    bob.join("presence-a", "bob");
    ann.expect("pusher_internal:member_added");
    ann.trigger("presence-a", "client-typing", &json!({"at": 5}));
    let message = bob.next();
    let expected = json!({
        "event": "client-typing", "channel": "presence-a", "data": "{\"at\":5}", "user_id": "ann",
    });
    assert_eq!(message, expected);
    ann.expect_nothing();
    ann.subscribe("private-b");
    bob.subscribe("private-b");
    bob.trigger("private-b", "client-x", &json!("text"));
    let expected = json!({"event": "client-x", "channel": "private-b", "data": "text"});
    assert_eq!(ann.next(), expected);
}

#[test]
fn events_of_clients_are_for_members_of_private_channels() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    client.subscribe("public");
    client.subscribe("private-encrypted-a");
    client.subscribe("private-a");
    let large = json!("x".repeat(12_000));
    for (channel, data, code) in [
        ("public", json!({}), 4301),
        ("private-encrypted-a", json!({}), 4301),
        ("private-other", json!({}), 4009),
        ("private-a", large, 4301),
    ] {
        client.trigger(channel, "client-x", &data);
        assert_eq!(client.expect("pusher:error")["code"], code, "{channel}");
    }
    let server = Server::start(&CONFIG.replace("connections_max = 1", ""));
    let mut client = AppClient::connect(&server, 2);
    client.subscribe("private-a");
    client.trigger("private-a", "client-x", &json!({}));
    assert_eq!(client.expect("pusher:error")["code"], 4301, "the app has them disabled");
}

#[test]
fn too_many_events_of_a_client_are_rejected() {
    let server = Server::start(CONFIG);
    let (mut one, mut two) = (AppClient::connect(&server, 1), AppClient::connect(&server, 1));
    one.subscribe("private-a");
    two.subscribe("private-a");
    for number in 0..200 {
        one.trigger("private-a", "client-x", &json!(number));
    }
    assert_eq!(one.expect("pusher:error")["code"], 4301);
    two.expect("client-x");
}

#[test]
fn users_get_their_own_events() {
    let server = Server::start(CONFIG);
    let mut ann = AppClient::connect(&server, 1);
    ann.ask("#server-to-user-ann", "", None);
    refused(&mut ann, "#server-to-user-ann", "AuthError", 401);
    ann.sign_in("ann");
    let reply = ann.expect("pusher:signin_success");
    assert_eq!(reply["user_data"], r#"{"id":"ann"}"#);
    ann.ask("#server-to-user-ann", "", None);
    ann.expect("pusher_internal:subscription_succeeded");
    ann.ask("#server-to-user-bob", "", None);
    refused(&mut ann, "#server-to-user-bob", "AuthError", 401);
    publish(&server, 1, "#server-to-user-ann", "note", "{\"n\":1}");
    let note = ann.next();
    assert_eq!(note["channel"], "#server-to-user-ann");
    assert_eq!(note["data"], "{\"n\":1}");
    // Another user on the same connection.
    ann.sign_in("bob");
    assert_eq!(ann.expect("pusher:error")["code"], 4009);
    assert_eq!(ann.close_code(), 4009);
}

#[test]
fn a_wrong_signature_of_a_user_closes() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    let data = json!({"auth": "key-1:00", "user_data": "{\"id\":\"1\"}"});
    client.send(&json!({"event": "pusher:signin", "data": data}));
    assert_eq!(client.expect("pusher:error")["code"], 4009);
    assert_eq!(client.close_code(), 4009);
}

#[test]
fn a_cache_serves_the_last_event() {
    let server = Server::start(CONFIG);
    let mut first = AppClient::connect(&server, 1);
    for channel in ["cache-a", "private-cache-a", "private-encrypted-cache-a"] {
        first.subscribe(channel);
        let miss = first.next();
        assert_eq!(miss, json!({"event": "pusher:cache_miss", "channel": channel}));
        publish(&server, 1, channel, "price", "1");
        publish(&server, 1, channel, "price", "2");
        assert_eq!(first.expect("price"), 1);
        assert_eq!(first.expect("price"), 2);
        let mut second = AppClient::connect(&server, 1);
        second.subscribe(channel);
        assert_eq!(second.expect("price"), 2);
        second.expect_nothing();
    }
    let mut member = AppClient::connect(&server, 1);
    member.join("presence-cache-a", "ann");
    assert_eq!(member.next()["event"], "pusher:cache_miss");
}

/// Reads messages of a client of another protocol until one of this type.
#[track_caller]
fn await_type(native: &mut Raw, kind: &str) -> Value {
    loop {
        let message: Value = serde_json::from_slice(&native.frame().payload).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

#[test]
fn clients_of_both_protocols_share_channels() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    client.subscribe("news");
    let mut native = Raw::connect(server.address());
    native.send(&raw::request_with("/ws", "Sec-WebSocket-Protocol: seawall.v1\r\n"));
    native.switched();
    native.send(&raw::text(r#"{"type":"subscribe","channel":"1:news"}"#));
    await_type(&mut native, "subscribed");
    publish(&server, 1, "news", "order", "{\"n\":1}");
    assert_eq!(client.expect("order"), json!({"n": 1}));
    let message = await_type(&mut native, "message");
    assert_eq!(message["content"], json!({"event": "order", "data": {"n": 1}}));
    let publish = |channel: &str, content: Value| {
        let request = json!({"type": "publish", "channel": channel, "content": content});
        raw::text(request.to_string())
    };
    native.send(&publish("1:news", json!({"event": "reply", "data": "text"})));
    assert_eq!(client.expect("reply"), "text");
    native.send(&publish("1:news", json!([1, 2])));
    assert_eq!(client.expect("message"), json!([1, 2]));
    // Events of the protocol itself cannot be forged.
    let forged = json!({"event": "pusher_internal:member_removed", "data": {"user_id": "1"}});
    native.send(&publish("1:news", forged.clone()));
    assert_eq!(client.expect("message"), forged);
    // What no `[[channel]]` opens is closed to clients without a signature.
    native.send(&raw::text(r#"{"type":"subscribe","channel":"1:private-a"}"#));
    assert_eq!(await_type(&mut native, "error")["code"], "forbidden");
    native.send(&publish("1:other", json!(1)));
    assert_eq!(await_type(&mut native, "error")["code"], "forbidden");
}

#[test]
fn subscriptions_beyond_the_rate_are_refused_by_name() {
    let server = Server::start(&format!("[rates]\nconnection_subscribes = 1\n{CONFIG}"));
    let mut client = AppClient::connect(&server, 1);
    for number in 0..20 {
        client.ask(&format!("channel-{number}"), "", None);
    }
    let refused = (0..40).map(|_| client.next()).find(|message| {
        message["event"] == "pusher:subscription_error" && message["data"]["type"] == "RateLimited"
    });
    assert!(refused.expect("there are too many")["channel"].is_string());
}

#[test]
fn clients_of_other_protocols_see_users_with_the_app() {
    let opened = "[[channel]]\npattern = \"1:presence-*\"\npresence = true\n";
    let server = Server::start(&format!("{CONFIG}{opened}"));
    let mut client = AppClient::connect(&server, 1);
    client.join("presence-a", "ann");
    let mut native = Raw::connect(server.address());
    native.send(&raw::request_with("/ws", "Sec-WebSocket-Protocol: seawall.v1\r\n"));
    native.switched();
    let subscribe = r#"{"type":"subscribe","channel":"1:presence-a","presence":true}"#;
    native.send(&raw::text(subscribe));
    let members = &await_type(&mut native, "subscribed")["presence"]["members"];
    assert!(members.as_array().unwrap().iter().any(|member| member["user"] == "1:ann"));
    // One without a user is shown by its socket.
    let added = client.expect("pusher_internal:member_added");
    assert!(added["user_id"].as_str().unwrap().contains('.'), "{added}");
}

#[test]
fn signed_rights_outlast_a_reload() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    client.subscribe("private-a");
    server.reload(&CONFIG.replace("secret-2", "secret-two"));
    publish(&server, 1, "private-a", "e", "1");
    client.expect("e");
}

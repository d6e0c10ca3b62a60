//! Connecting: what is wrong with a request is reported by a message and a close code.

use serde_json::json;

use crate::CONFIG;
use crate::client::{AppClient, close_code_of, data_of};
use crate::support::raw::{self, FIN};
use crate::support::{Raw, Server, wait_until};

#[test]
fn faults_of_a_request_are_reported_after_the_upgrade() {
    let server = Server::start(CONFIG);
    for (target, code) in [
        ("/app/unknown?protocol=7", 4001),
        ("/app/key-1/more?protocol=7", 4005),
        ("/app?protocol=7", 4005),
        ("/app/key-1?protocol=x", 4006),
        ("/app/key-1?protocol=99", 4007),
        ("/app/key-1", 4008),
    ] {
        let (mut raw, first) = AppClient::first_message(&server, target);
        assert_eq!(first["event"], "pusher:error", "{target}");
        assert_eq!(data_of(&first)["code"], code, "{target}");
        assert_eq!(close_code_of(&mut raw), code, "{target}");
    }
}

#[test]
fn a_full_app_asks_clients_to_come_back() {
    let server = Server::start(CONFIG);
    let first = AppClient::connect(&server, 2);
    let (mut raw, message) = AppClient::first_message(&server, "/app/key-2?protocol=7");
    assert_eq!(data_of(&message)["code"], 4100);
    assert_eq!(close_code_of(&mut raw), 4100);
    // The other app has room.
    AppClient::connect(&server, 1);
    drop(first);
    wait_until("the place is free again", || {
        let (_, message) = AppClient::first_message(&server, "/app/key-2?protocol=7");
        message["event"] == "pusher:connection_established"
    });
}

#[test]
fn an_app_may_require_tls() {
    let server =
        Server::start(&CONFIG.replace("key = \"key-1\"", "key = \"key-1\"\ntls_only = true"));
    let (mut raw, message) = AppClient::first_message(&server, "/app/key-1?protocol=7");
    assert_eq!(data_of(&message)["code"], 4000);
    assert_eq!(close_code_of(&mut raw), 4000);
}

#[test]
fn a_draining_server_has_clients_reconnect_at_once() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    server.signal("TERM");
    assert_eq!(client.expect("pusher:error")["code"], 4200);
    assert_eq!(client.close_code(), 4200);
}

#[test]
fn messages_that_are_not_understood_leave_the_connection_open() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    for text in ["", "x", "[]", "{}", r#"{"event":1}"#, r#"{"event":"pusher:unknown"}"#] {
        client.send_text(text);
        let error = client.expect("pusher:error");
        assert!(error["code"].is_null(), "{text}: {error}");
    }
    client.send(&json!({"event": "pusher:pong", "data": {}}));
    client.expect_nothing();
}

#[test]
fn binary_messages_and_subprotocols_are_not_for_apps() {
    let server = Server::start(CONFIG);
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with("/app/key-1?protocol=7", ""));
    raw.switched();
    raw.frame();
    raw.send(&raw::frame(FIN | 2, b"x"));
    let error = raw.frame();
    assert!(String::from_utf8_lossy(&error.payload).contains("pusher:error"));
    assert_eq!(close_code_of(&mut raw), 1003);
}

#[test]
fn a_removed_app_closes_its_connections() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    let mut other = AppClient::connect(&server, 2);
    let without = CONFIG.replace("id = \"1\"\nkey = \"key-1\"", "id = \"3\"\nkey = \"key-3\"");
    server.reload(&without);
    assert_eq!(client.expect("pusher:error")["code"], 4003);
    assert_eq!(client.close_code(), 4003);
    other.expect_nothing();
}

#[test]
fn a_reload_changes_nothing_for_members() {
    let server = Server::start(CONFIG);
    let mut ann = AppClient::connect(&server, 1);
    ann.join("presence-a", "ann");
    ann.subscribe("private-a");
    server.reload(&CONFIG.replace("secret = \"secret-2\"", "secret = \"secret-two\""));
    let mut bob = AppClient::connect(&server, 1);
    assert_eq!(bob.join("presence-a", "bob")["presence"]["count"], 2);
    ann.expect("pusher_internal:member_added");
    bob.subscribe("private-a");
    bob.trigger("private-a", "client-x", &json!(1));
    ann.expect("client-x");
    drop(bob);
    ann.expect("pusher_internal:member_removed");
}

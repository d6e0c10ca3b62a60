//! The HTTP API of apps.

use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use crate::CONFIG;
use crate::client::{AppClient, hex, sign};
use crate::support::{Raw, Server, wait_until};

/// A request of an app's backend.
struct Call<'c> {
    app: u32,
    method: &'c str,
    /// Behind `/apps/ID`.
    path: &'c str,
    query: &'c str,
    body: &'c str,
    /// Seconds by which the backend's clock is ahead.
    ahead_s: i64,
}

impl Call<'_> {
    /// Sends the request, signed; returns the status and the body of the answer.
    fn send(&self, server: &Server) -> (u16, Value) {
        let Self { app, method, body, .. } = self;
        let path = format!("/apps/{app}{}", self.path);
        let (status, answer) = request(server, &path, method, &self.signed_query(&path), body);
        (status, serde_json::from_str(&answer).unwrap_or(answer.into()))
    }

    fn signed_query(&self, path: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut params: Vec<String> = vec![
            format!("auth_key=key-{}", self.app),
            format!("auth_timestamp={}", now + self.ahead_s),
            "auth_version=1.0".into(),
        ];
        if !self.body.is_empty() {
            let hash = hex(&Md5::digest(self.body));
            params.push(format!("body_md5={hash}"));
        }
        params.extend(self.query.split('&').filter(|pair| !pair.is_empty()).map(str::to_owned));
        params.sort();
        let query = params.join("&");
        let signature = sign(self.app, &format!("{}\n{path}\n{query}", self.method));
        format!("{query}&auth_signature={signature}")
    }
}

fn request(server: &Server, path: &str, method: &str, query: &str, body: &str) -> (u16, String) {
    // The address of clients; the operators' address answers the same.
    let mut raw = Raw::connect(server.address());
    let length = body.len();
    let request = format!(
        "{method} {path}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    raw.send(request.as_bytes());
    let (status, answer) = raw.answer();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

fn post(server: &Server, app: u32, path: &str, body: &Value) -> (u16, Value) {
    let body = &body.to_string();
    Call { app, method: "POST", path, query: "", body, ahead_s: 0 }.send(server)
}

fn get(server: &Server, path: &str, query: &str) -> (u16, Value) {
    Call { app: 1, method: "GET", path, query, body: "", ahead_s: 0 }.send(server)
}

/// Publishes an event.
#[track_caller]
pub(crate) fn publish(server: &Server, app: u32, channel: &str, event: &str, data: &str) {
    let body = json!({"name": event, "channels": [channel], "data": data});
    assert_eq!(post(server, app, "/events", &body), (200, json!({})));
}

#[test]
fn events_go_to_all_channels_but_not_to_the_excluded_socket() {
    let server = Server::start(CONFIG);
    let (mut one, mut two) = (AppClient::connect(&server, 1), AppClient::connect(&server, 1));
    for client in [&mut one, &mut two] {
        client.subscribe("a");
        client.subscribe("b");
    }
    let body = json!({
        "name": "e", "channels": ["a", "b"], "data": "text", "socket_id": one.socket_id,
    });
    assert_eq!(post(&server, 1, "/events", &body), (200, json!({})));
    // Different channels keep no order between them.
    let mut received = [two.next(), two.next()];
    received.sort_by_key(|message| message["channel"].to_string());
    let expected = |channel: &str| json!({"event": "e", "channel": channel, "data": "text"});
    assert_eq!(received, [expected("a"), expected("b")]);
    one.expect_nothing();
}

#[test]
fn a_batch_is_checked_before_its_first_event() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    client.subscribe("a");
    let event = |name: &str, data: Value| json!({"channel": "a", "name": name, "data": data});
    let mixed = json!({"batch": [event("1", json!("x")), event("", json!("x"))]});
    assert_eq!(post(&server, 1, "/batch_events", &mixed).0, 400);
    client.expect_nothing();
    let mut with_info = event("2", json!({"an": "object"}));
    with_info["info"] = "subscription_count".into();
    let batch = json!({"batch": [event("1", json!("x")), with_info]});
    let (status, answer) = post(&server, 1, "/batch_events", &batch);
    assert_eq!((status, &answer["batch"][1]["subscription_count"]), (200, &json!(1)));
    assert_eq!(client.expect("1"), "x");
    assert_eq!(client.expect("2"), json!({"an": "object"}));
    let many = json!({"batch": vec![event("1", json!("x")); 11]});
    assert_eq!(post(&server, 1, "/batch_events", &many).0, 400);
    assert_eq!(post(&server, 1, "/batch_events", &json!({"batch": []})).0, 400);
}

#[test]
fn wrong_events_are_rejected_with_the_reason() {
    let server = Server::start(CONFIG);
    let long = "x".repeat(10_241);
    let name = "x".repeat(201);
    let many: Vec<String> = (0..101).map(|number| format!("c{number}")).collect();
    for (body, status, says) in [
        (json!({"name": "e", "data": ""}), 400, "1 to 100 channels"),
        (json!({"name": "e", "channels": many, "data": ""}), 400, "1 to 100 channels"),
        (json!({"name": "", "channel": "a", "data": ""}), 400, "1 to 200 characters"),
        (json!({"name": name, "channel": "a", "data": ""}), 400, "1 to 200 characters"),
        (json!({"name": "e", "channel": "a b", "data": ""}), 400, "may only contain"),
        (json!({"name": "e", "channel": "a"}), 400, "missing field `data`"),
        (json!({"name": "e", "channel": "a", "data": long}), 413, "exceeds the allowed maximum"),
        (json!({"name": "e", "channel": "a", "data": "", "socket_id": "x"}), 400, "socket_id"),
        (json!({"name": "e", "channel": "a", "data": "", "info": "x"}), 400, "info may contain"),
        (json!({"name": "e", "channel": "a", "data": "", "info": "user_count"}), 400, "presence"),
        (json!({"name": "pusher:x", "channel": "a", "data": ""}), 400, "the server's own"),
        (json!([]), 400, "invalid body"),
    ] {
        let (found, answer) = post(&server, 1, "/events", &body);
        assert_eq!(found, status, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
    }
    let body = "x".repeat(300_000);
    let call = Call { app: 1, method: "POST", path: "/events", query: "", body: &body, ahead_s: 0 };
    assert_eq!(call.send(&server).0, 413);
}

#[test]
fn only_fresh_requests_with_the_right_signature_are_answered() {
    let server = Server::start(CONFIG);
    let call =
        |app, ahead_s| Call { app, method: "GET", path: "/channels", query: "", body: "", ahead_s };
    assert_eq!(call(1, 0).send(&server).0, 200);
    assert_eq!(call(1, -590).send(&server).0, 200);
    assert_eq!(call(1, -700).send(&server).0, 401);
    assert_eq!(call(1, 700).send(&server).0, 401);
    assert_eq!(call(3, 0).send(&server).0, 404);
    // The query of one app does not open another, and no other path.
    let query = call(1, 0).signed_query("/apps/1/channels");
    assert_eq!(request(&server, "/apps/1/channels", "GET", &query, "").0, 200);
    for (path, method) in [("/apps/2/channels", "GET"), ("/apps/1/connections", "GET")] {
        assert_eq!(request(&server, path, method, &query, "").0, 401, "{path}");
    }
    let more = format!("{query}&filter_by_prefix=a");
    assert_eq!(request(&server, "/apps/1/channels", "GET", &more, "").0, 401);
    assert_eq!(request(&server, "/apps/1/channels", "GET", "", "").0, 401);
}

#[test]
fn channels_and_users_are_described() {
    let server = Server::start(CONFIG);
    let (mut ann, mut bob) = (AppClient::connect(&server, 1), AppClient::connect(&server, 1));
    ann.join("presence-a", "ann");
    bob.join("presence-a", "bob");
    bob.subscribe("private-b");
    bob.subscribe("cache-c");
    publish(&server, 1, "cache-c", "e", "5");
    let all = json!({"cache-c": {}, "presence-a": {}, "private-b": {}});
    assert_eq!(get(&server, "/channels", ""), (200, json!({"channels": all})));
    let (_, found) = get(&server, "/channels", "filter_by_prefix=presence-&info=user_count");
    assert_eq!(found, json!({"channels": {"presence-a": {"user_count": 2}}}));
    assert_eq!(get(&server, "/channels", "info=user_count").0, 400);
    let (_, found) = get(&server, "/channels/presence-a", "info=user_count,subscription_count");
    let expected = json!({"occupied": true, "user_count": 2, "subscription_count": 2});
    assert_eq!(found, expected);
    let (_, found) = get(&server, "/channels/empty", "");
    assert_eq!(found, json!({"occupied": false}));
    let (_, found) = get(&server, "/channels/cache-c", "info=cache");
    assert_eq!(found, json!({"occupied": true, "cache": {"data": "5"}}));
    let (_, found) = get(&server, "/channels/presence-a/users", "");
    assert_eq!(found, json!({"users": [{"id": "ann"}, {"id": "bob"}]}));
    assert_eq!(get(&server, "/channels/private-b/users", "").0, 400);
    assert_eq!(get(&server, "/connections", ""), (200, json!({"connections": 2})));
}

#[test]
fn connections_of_a_user_are_ended() {
    let server = Server::start(CONFIG);
    let (mut ann, mut bob) = (AppClient::connect(&server, 1), AppClient::connect(&server, 1));
    ann.sign_in("ann");
    ann.expect("pusher:signin_success");
    bob.sign_in("bob");
    bob.expect("pusher:signin_success");
    let call = Call {
        app: 1,
        method: "POST",
        path: "/users/ann/terminate_connections",
        query: "",
        body: "{}",
        ahead_s: 0,
    };
    assert_eq!(call.send(&server), (200, json!({})));
    assert_eq!(ann.expect("pusher:error")["code"], 4009);
    assert_eq!(ann.close_code(), 4009);
    bob.expect_nothing();
}

#[test]
fn a_request_may_come_in_pieces_and_to_the_operators_address() {
    let server = Server::start(CONFIG);
    let mut client = AppClient::connect(&server, 1);
    client.subscribe("a");
    let body = json!({"name": "e", "channel": "a", "data": "x".repeat(9_000)}).to_string();
    let path = "/apps/1/events";
    let call = Call { app: 1, method: "POST", path: "/events", query: "", body: &body, ahead_s: 0 };
    let query = call.signed_query(path);
    let length = body.len();
    let request = format!(
        "POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    for address in [server.address(), server.admin()] {
        let mut raw = Raw::connect(address);
        for piece in request.as_bytes().chunks(700) {
            raw.send(piece);
        }
        assert_eq!(raw.answer().0, 200);
        assert_eq!(client.expect("e"), "x".repeat(9_000));
    }
}

#[test]
fn bodies_of_unknown_length_and_other_paths_are_rejected() {
    let server = Server::start(CONFIG);
    for (request, status) in [
        ("POST /apps/1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /apps/1/events HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        ("POST /apps/1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 401),
        ("GET /apps/1/unknown HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("GET /apps/1/channels HTTP/1.1\r\nHost: a\r\n\r\n", 401),
        ("DELETE /apps/1/channels HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ] {
        let mut raw = Raw::connect(server.address());
        raw.send(request.as_bytes());
        assert_eq!(raw.answer().0, status, "{request}");
    }
}

#[test]
fn a_request_that_does_not_end_is_answered_at_the_deadline() {
    let server = Server::start(&format!("[timeouts]\nhandshake_timeout_ms = 300\n{CONFIG}"));
    let mut raw = Raw::connect(server.address());
    raw.send(b"POST /apps/1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
    assert_eq!(raw.answer().0, 408);
    // A peer that ends its side before the body is complete gets no answer.
    let mut raw = Raw::connect(server.address());
    raw.send(b"POST /apps/1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
    raw.half_close();
    assert!(raw.rest().unwrap_or_default().is_empty());
    // One that ends it after the request does.
    let mut raw = Raw::connect(server.address());
    raw.send(b"GET /apps/1/channels HTTP/1.1\r\nHost: a\r\n\r\n");
    raw.half_close();
    assert_eq!(raw.answer().0, 401);
}

#[test]
fn a_client_that_waits_with_its_body_is_asked_for_it() {
    let server = Server::start(CONFIG);
    let body = json!({"name": "e", "channel": "a", "data": "x"}).to_string();
    let path = "/apps/1/events";
    let call = Call { app: 1, method: "POST", path: "/events", query: "", body: &body, ahead_s: 0 };
    let head = format!(
        "POST {path}?{} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        call.signed_query(path),
        body.len()
    );
    let mut raw = Raw::connect(server.address());
    raw.send(head.as_bytes());
    assert_eq!(raw.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send(body.as_bytes());
    assert_eq!(raw.answer().0, 200);
}

#[test]
fn requests_count_towards_the_limit_of_an_address() {
    let limits = "[limits]\nconnections_per_address_max = 1\n";
    let server = Server::start(&format!("{limits}{CONFIG}"));
    let client = AppClient::connect(&server, 1);
    let call = Call { app: 1, method: "GET", path: "/channels", query: "", body: "", ahead_s: 0 };
    assert_eq!(call.send(&server).0, 429);
    drop(client);
    wait_until("the client is gone", || call.send(&server).0 == 200);
}

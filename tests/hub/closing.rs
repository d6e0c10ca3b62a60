//! Every close code, with the goodbye before it.

use std::time::Duration;

use serde_json::json;

use crate::client::{Client, KEYS, OPEN, now_s, post, posted, token};
use crate::support::metrics;
use crate::support::raw::{BINARY, FIN, frame, request_with};
use crate::support::{Raw, Server, wait_until};

#[test]
fn binary_messages_are_refused_with_1003() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.raw.send(&frame(FIN | BINARY, b"{\"type\":\"ping\"}"));
    assert_eq!(client.closed(), 1003);
}

#[test]
fn a_drain_says_goodbye_with_1001_and_when_to_come_back() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("room");
    server.signal("TERM");
    let goodbye = client.expect("goodbye");
    assert_eq!(goodbye["code"], 1001);
    assert!(goodbye["retry_after_ms"].is_u64(), "{goodbye}");
    assert_eq!(client.raw.frame().close_code(), 1001);
}

/// Few clients are back within a second; many are spread over the window after `retry_after_s`.
#[test]
fn the_retry_hint_of_a_drain_depends_on_how_many_clients_there_are() {
    for (at_once, expected_ms, retry_after) in
        [(100, 0..1000, "Retry-After: 1\r\n"), (0, 7000..9000, "Retry-After: 7\r\n")]
    {
        let server = Server::start(&format!(
            "[drain]\nwindow_ms = 2000\nretry_after_s = 7\nat_once_connections = {at_once}\n"
        ));
        let mut clients: Vec<Client> = (0..20).map(|_| Client::open(&server)).collect();
        let handshake = request_with("/ws", "");
        let mut late: Vec<Raw> = (0..4).map(|_| Raw::connect(server.address())).collect();
        for late in &mut late {
            late.send(&handshake[..10]);
        }
        wait_until("all are accepted", || {
            let metrics = server.metrics();
            metrics.get("connections_open") == 20 && metrics.get("handshakes") == 4
        });
        server.signal("TERM");
        wait_until("it drains", || metrics::get(server.admin(), "/readyz").0 == 503);
        for late in &mut late {
            late.send(&handshake[10..]);
            let (status, answer) = late.answer();
            assert_eq!(status, 503, "{answer}");
            assert!(answer.contains(retry_after), "{answer}");
        }
        for client in &mut clients {
            let goodbye = client.expect("goodbye");
            let retry_after_ms = goodbye["retry_after_ms"].as_u64().unwrap();
            assert!(expected_ms.contains(&retry_after_ms), "{goodbye}");
        }
    }
}

#[test]
fn who_brings_no_token_in_time_is_closed_with_4408() {
    let server = Server::start(&format!("{KEYS}{OPEN}[hub]\nauth_timeout_ms = 200\n"));
    let mut late = Client::open(&server);
    let mut known = Client::open(&server);
    known.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
    assert_eq!(late.closed(), 4408);
    known.subscribe("room");
    assert_eq!(server.metrics().get("auth_failures_total{kind=\"timeout\"}"), 1);
}

#[test]
fn a_first_token_that_is_wrong_closes_with_4401_and_an_old_one_with_4410() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let old = token(json!({"sub": "ann", "exp": now_s() - 60}));
    let cases = [("a.b.c", "unauthorized", 4401), (&old, "expired", 4410)];
    for (token, code, close) in cases {
        let mut client = Client::open(&server);
        client.refused(json!({"type": "auth", "token": token}), code);
        assert_eq!(client.closed(), close);
    }
    // With the handshake: refused before the upgrade.
    for token in ["a.b.c", &old] {
        for request in [
            request_with("/ws", &format!("Authorization: Bearer {token}\r\n")),
            request_with(&format!("/ws?token={token}"), ""),
        ] {
            let mut raw = Raw::connect(server.address());
            raw.send(&request);
            let (status, answer) = raw.answer();
            assert_eq!(status, 401, "{answer}");
            assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        }
    }
}

#[test]
fn a_token_that_ends_closes_with_4410_unless_it_is_renewed() {
    let server = Server::start(&format!("{KEYS}{OPEN}[auth]\nleeway_s = 0\n"));
    let short = || token(json!({"sub": "ann", "exp": now_s() + 2}));
    let mut ends = Client::open_with_token(&server, &short());
    let mut stays = Client::open_with_token(&server, &short());
    ends.subscribe("room");
    let renewed =
        stays.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
    assert_eq!((&renewed["user"], &renewed["ticket"].is_string()), (&json!("ann"), &true));
    assert!((3590..=3600).contains(&renewed["expires_in"].as_u64().unwrap()), "{renewed}");
    assert_eq!(ends.closed(), 4410);
    stays.subscribe("room");
    assert_eq!(stays.publish("room", &json!(1))["offset"], 1);
}

#[test]
fn the_api_closes_with_4403_or_as_it_says() {
    let server = Server::start("");
    let mut plain = Client::open(&server);
    let disconnect = |body: serde_json::Value| posted(&server, "/v1/disconnect", &body);
    let id = plain.connection();
    assert_eq!(disconnect(json!({"connection": id})), json!({"disconnected": 1}));
    assert_eq!(plain.closed(), 4403);
    let mut received = Client::open(&server);
    let body = json!({"connection": received.connection(), "code": 4999, "reason": "the room é"});
    disconnect(body);
    let goodbye = received.expect("goodbye");
    assert_eq!((&goodbye["code"], &goodbye["reason"]), (&json!(4999), &json!("the room é")));
    let close = received.raw.frame();
    assert_eq!((close.close_code(), &close.payload[2..]), (4999, "the room é".as_bytes()));
    for code in [0, 999, 1005, 1006, 2999, 5000] {
        let body = json!({"connection": id, "code": code});
        assert_eq!(post(&server, "/v1/disconnect", &body).0, 400, "{code}");
    }
}

#[test]
fn who_resumes_a_connection_that_lives_replaces_it_with_4409() {
    let server = Server::start("");
    let (mut old, mut new) = (Client::open(&server), Client::open(&server));
    let at = old.subscribe("room");
    let positions = json!({"room": {"epoch": at["epoch"], "offset": at["offset"]}});
    let resume = json!({"type": "resume", "ticket": old.ticket(), "positions": positions});
    new.get(resume, "resumed");
    assert_eq!(old.closed(), 4409);
    new.publish("room", &json!(1));
    assert_eq!(new.contents(1), [1]);
}

#[test]
fn who_does_not_read_at_all_is_closed_with_4413() {
    let server = Server::start(
        "[limits]\noutbox_bytes_max = 65_536\n[timeouts]\nsend_timeout_ms = 60_000\n\
         [[listener]]\nsend_buffer_bytes = 16_384\n\
         [[channel]]\npattern = \"*\"\nslow_reader = \"close\"\n",
    );
    let mut slow = Client::open(&server);
    slow.subscribe("room");
    let mut fast = Client::open(&server);
    let content = json!("x".repeat(30_000));
    wait_until("the slow reader is closed", || {
        fast.publish("room", &content);
        server.metrics().get("closed_total{code=\"4413\"}") == 1
    });
    // It gets the code if it reads after all; the goodbye may not have had room.
    slow.raw.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    fast.publish("room", &json!("still there"));
}

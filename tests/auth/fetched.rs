//! Keys from a URL as clients of a server meet them: rotated, withdrawn, or out of reach.

use seawall::auth::SigningKey;
use serde_json::{Value, json};

use crate::key_sets::{Site, set};
use crate::keys::{EC, ED};
use crate::support::raw::{self, CLOSE, FIN, TEXT};
use crate::support::{Raw, Server, wait_until};

fn token(key: &SigningKey) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_secs();
    key.sign(&json!({"sub": "ann", "exp": now + 3600})).unwrap()
}

/// Looks at its keys every second, and as often when a token asks for it.
fn config(site: &Site) -> String {
    format!("[auth]\njwks_url = \"{}\"\njwks_refresh_s = 1\n", site.url())
}

/// The head of the answer to an upgrade with this token.
fn upgrade(server: &Server, token: &str) -> (Raw, String) {
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with("/ws", &format!("Authorization: Bearer {token}\r\n")));
    let head = raw.head();
    (raw, head)
}

fn is_accepted(server: &Server, token: &str) -> bool {
    upgrade(server, token).1.starts_with("HTTP/1.1 101 ")
}

/// The server's fault, which passes.
#[track_caller]
fn is_put_off(server: &Server, token: &str) {
    let (_, head) = upgrade(server, token);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_lowercase().contains("\r\nretry-after: 5\r\n"), "{head}");
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with("/ws", ""));
    raw.switched();
    let object = json!({"type": "auth", "id": 1, "token": token});
    raw.send(&raw::text(object.to_string()));
    let mut codes = Vec::new();
    loop {
        let frame = raw.frame();
        if frame.first == FIN | CLOSE {
            assert_eq!(frame.close_code(), 1013);
            break;
        }
        assert_eq!(frame.first, FIN | TEXT);
        let text = String::from_utf8(frame.payload).unwrap();
        codes.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    let error = codes.iter().find(|object| object["id"] == 1).expect("it is answered");
    assert_eq!(error["code"], "internal", "{error}");
}

#[test]
fn the_first_token_of_a_rotated_key_is_put_off_and_then_accepted() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let server = Server::start(&config(&site));
    assert!(is_accepted(&server, &token(&ED.signing("a"))));
    // As long as no fetch can have brought the key.
    site.answer(500, "");
    let rotated = token(&EC.signing("b"));
    is_put_off(&server, &rotated);
    is_put_off(&server, &rotated);
    site.answer(200, &set(&[ED.jwk("a"), EC.jwk("b")]));
    wait_until("the new key is used", || is_accepted(&server, &rotated));
    let kind = "auth_failures_total{kind=\"key_pending\"}";
    assert!(server.metrics().get(kind) >= 4);
}

#[test]
fn without_any_keys_yet_clients_are_put_off() {
    let site = Site::start(500, "");
    let server = Server::start(&config(&site));
    let token = token(&ED.signing("a"));
    is_put_off(&server, &token);
    site.answer(200, &set(&[ED.jwk("a")]));
    wait_until("the keys have come", || is_accepted(&server, &token));
}

#[test]
fn a_reload_keeps_the_keys_of_the_same_url() {
    let site = Site::start(200, &set(&[ED.jwk("a")]));
    let server = Server::start(&config(&site));
    let token = token(&ED.signing("a"));
    let (mut open, head) = upgrade(&server, &token);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for (status, body) in [(500, String::new()), (200, set(&[])), (200, "[".to_owned())] {
        site.answer(status, &body);
        let said = server.reload(&config(&site));
        assert!(said.contains("configuration reloaded"), "{said}");
        let before = site.requests();
        wait_until("it was fetched", || site.requests() >= before + 2);
        assert!(is_accepted(&server, &token), "{status} {body}");
    }
    assert_eq!(raw_ping(&mut open)["type"], "pong", "it was not closed");
}

/// The answer to a ping, behind what came before it.
fn raw_ping(raw: &mut Raw) -> Value {
    raw.send(&raw::text("{\"type\":\"ping\"}"));
    loop {
        let frame = raw.frame();
        assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
        let text = String::from_utf8(frame.payload).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        if last["type"] != "welcome" {
            return last;
        }
    }
}

#[test]
fn connections_of_a_key_that_its_set_withdraws_are_closed() {
    let site = Site::start(200, &set(&[ED.jwk("a"), EC.jwk("b")]));
    let server = Server::start(&config(&site));
    let (mut ended, head) = upgrade(&server, &token(&ED.signing("a")));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (mut kept, head) = upgrade(&server, &token(&EC.signing("b")));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    site.answer(200, &set(&[EC.jwk("b")]));
    let mut frame = ended.frame();
    while frame.first == FIN | TEXT {
        frame = ended.frame();
    }
    assert_eq!(frame.close_code(), 4410);
    assert_eq!(raw_ping(&mut kept)["type"], "pong");
}

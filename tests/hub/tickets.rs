//! Tickets: what they restore, and every kind that is rejected.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, post, posted, text, token};
use crate::support::{Server, wait_until};

fn resume(ticket: &str) -> Value {
    json!({"type": "resume", "ticket": ticket})
}

#[test]
fn a_ticket_brings_back_who_one_was_and_all_that_was_missed() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut ann = Client::open_as(&server, "ann");
    let mut positions = serde_json::Map::new();
    for channel in ["a", "b", "c"] {
        let at = ann.subscribe(channel);
        positions.insert(channel.into(), json!({"epoch": at["epoch"], "offset": at["offset"]}));
    }
    positions["c"]["epoch"] = "0123456789abcdef".into();
    let mut ticket = ann.ticket();
    ann.reset();
    posted(&server, "/v1/broadcast", &json!({"channels": ["a", "b", "c"], "content": 1}));
    for round in 0..3 {
        let mut back = Client::open(&server);
        let object = json!({"type": "resume", "ticket": ticket, "positions": positions});
        let resumed = back.get(object, "resumed");
        let channels = resumed["channels"].as_object().unwrap();
        assert_eq!(channels.len(), 3);
        for (name, outcome) in channels {
            assert_eq!(outcome["recovered"], name != "c", "{name}: {outcome}");
            assert_eq!(outcome["offset"], 1);
        }
        let mut missed = [0, 1].map(|_| back.expect("message")["channel"].take());
        missed.sort_by_key(ToString::to_string);
        assert_eq!(missed, ["a", "b"], "round {round}");
        back.publish("d", &json!(1));
        let page = back.get(json!({"type": "history", "channel": "d"}), "history");
        assert_eq!(page["messages"][round]["from"]["user"], "ann");
        ticket = text(&resumed, "ticket");
        back.reset();
    }
    assert_eq!(server.metrics().get("resumed_total"), 3);
}

#[test]
fn a_ticket_that_was_edited_is_none() {
    let server = Server::start("");
    let ticket = Client::open(&server).ticket();
    let mut client = Client::open(&server);
    let mut edited: Vec<String> = (0..ticket.len())
        .step_by(7)
        .map(|at| {
            let mut bytes = ticket.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        })
        .collect();
    edited.extend([String::new(), "x".to_owned(), ticket[1..].to_owned(), ticket.clone() + "AAAA"]);
    for wrong in &edited {
        client.refused(resume(wrong), "unauthorized");
    }
    client.get(resume(&ticket), "resumed");
    let failures = server.metrics().get("auth_failures_total{kind=\"ticket\"}");
    assert_eq!(failures, edited.len() as u64);
}

#[test]
fn a_ticket_of_another_server_is_good_only_where_they_share_their_keys() {
    let keys = |byte: &str| format!("[resume]\nkeys = [\"{}\"]\n", byte.repeat(32));
    let (one, same, other) =
        (Server::start(&keys("1a")), Server::start(&keys("1a")), Server::start(&keys("2b")));
    let ticket = Client::open(&one).ticket();
    Client::open(&other).refused(resume(&ticket), "unauthorized");
    let mut there = Client::open(&same);
    there.get(resume(&ticket), "resumed");
    there.subscribe("room");
}

#[test]
fn a_ticket_survives_a_restart_where_there_is_a_state_directory() {
    let name = format!("seawall-state-{}-tickets", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let config = format!("[process]\nstate_dir = \"{}\"\n", folder.display());
    let mut first = Server::start(&config);
    let ticket = {
        let mut client = Client::open(&first);
        client.subscribe("room");
        client.ticket()
    };
    first.signal("TERM");
    assert_eq!(first.wait(Duration::from_secs(30)).code(), Some(0));
    let second = Server::start(&config);
    let mut client = Client::open(&second);
    let resumed = client.get(resume(&ticket), "resumed");
    assert!(resumed["ticket"].is_string(), "{resumed}");
    // A reload keeps the key.
    second.reload(&format!("{config}[rates]\nburst_ms = 1000\n"));
    Client::open(&second).get(resume(&ticket), "resumed");
    // Another server does not know it.
    Client::open(&Server::start("")).refused(resume(&ticket), "unauthorized");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_ticket_expires_and_never_outlives_its_token() {
    let server = Server::start(&format!("{OPEN}[resume]\nttl_s = 1\n"));
    let ticket = Client::open(&server).ticket();
    let mut client = Client::open(&server);
    wait_until("it has expired", || client.ask(resume(&ticket))["code"] == "expired");

    let server = Server::start(&format!("{KEYS}{OPEN}[auth]\nleeway_s = 0\n"));
    let short = token(json!({"sub": "ann", "exp": crate::client::now_s() + 1}));
    let ticket = Client::open_with_token(&server, &short).ticket();
    let mut client = Client::open(&server);
    wait_until("it ends with its token", || {
        if client.ask(resume(&ticket))["code"] == "expired" {
            return true;
        }
        client = Client::open(&server);
        false
    });
}

#[test]
fn who_was_disconnected_has_only_void_tickets() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut ann = Client::open_as(&server, "ann");
    let first = ann.ticket();
    let renewed = json!({"type": "auth", "token": token(json!({"sub": "ann"}))});
    let second = text(&ann.get(renewed, "authenticated"), "ticket");
    let bob = Client::open_as(&server, "bob").ticket();
    let answer = posted(&server, "/v1/disconnect", &json!({"user": "ann"}));
    assert_eq!(answer, json!({"disconnected": 1}));
    assert_eq!(ann.closed(), 4403);
    let mut client = Client::open(&server);
    for ticket in [&first, &second] {
        client.refused(resume(ticket), "unauthorized");
    }
    assert_eq!(server.metrics().get("auth_failures_total{kind=\"ticket_void\"}"), 2);
    client.get(resume(&bob), "resumed");
    // What comes later is good, if only by a moment.
    std::thread::sleep(Duration::from_millis(5));
    let again = Client::open_as(&server, "ann").ticket();
    Client::open(&server).get(resume(&again), "resumed");
    // An anonymous connection, and the ones that resumed it.
    let server = Server::start("");
    let old = Client::open(&server);
    let mut new = Client::open(&server);
    let continued = text(&new.get(resume(&old.ticket()), "resumed"), "ticket");
    let id = new.connection();
    assert_eq!(post(&server, "/v1/disconnect", &json!({"connection": id})).0, 200);
    assert_eq!(new.closed(), 4403);
    for ticket in [&continued, &old.ticket()] {
        Client::open(&server).refused(resume(ticket), "unauthorized");
    }
}

#[test]
fn a_ticket_of_nobody_opens_nothing_where_a_token_is_asked_for() {
    let keys = format!("[resume]\nkeys = [\"{}\"]\n", "1a".repeat(32));
    let anybodys = Server::start(&keys);
    let server = Server::start(&format!("{KEYS}{OPEN}{keys}"));
    let ticket = Client::open(&anybodys).ticket();
    Client::open(&server).refused(resume(&ticket), "unauthorized");
    // Nor one of another user.
    let bobs = Client::open_as(&server, "bob").ticket();
    Client::open_as(&server, "ann").refused(resume(&bobs), "conflict");
}

/// Requests behind a `resume` wait for it.
#[test]
fn a_resume_is_a_barrier() {
    let server = Server::start("");
    let mut old = Client::open(&server);
    let at = old.subscribe("room");
    let positions = json!({"room": {"epoch": at["epoch"], "offset": at["offset"]}});
    let mut new = Client::open(&server);
    let first = json!({"type": "resume", "id": 1, "ticket": old.ticket(), "positions": positions});
    let second = json!({"type": "publish", "id": 2, "channel": "room", "content": "behind"});
    let third = json!({"type": "ping", "id": 3});
    new.send(format!("{first}{second}{third}"));
    let order: Vec<Value> = (0..4)
        .map(|_| {
            let object = new.next();
            if object["type"] == "message" {
                object["content"].clone()
            } else {
                object["id"].clone()
            }
        })
        .collect();
    assert_eq!(order[0], 1, "{order:?}");
    let mut rest = order[1..].to_vec();
    rest.sort_by_key(ToString::to_string);
    assert_eq!(rest, [json!("behind"), json!(2), json!(3)]);
}

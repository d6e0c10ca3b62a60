//! PROTOCOL.md row by row: requests with their fields, limits with their answers, and the codes of
//! the HTTP API. A row that no test here knows fails.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::client::{Client, KEYS, OPEN, call, get, post, posted, token};
use crate::document::{DOCUMENT, fields, quoted, table};
use crate::support::raw::request_with;
use crate::support::scripted::{Scripted, http};
use crate::support::secrets::webhook_secret_file;
use crate::support::{Raw, Server};

/// A field's value that is accepted, in a request of this type.
fn value(kind: &str, field: &str, client: &Client) -> Value {
    match (kind, field) {
        ("auth", "token") => token(json!({"sub": "ann"})).into(),
        ("subscribe", "token") => token(json!({"channel": "room"})).into(),
        (_, "channel") => "room".into(),
        (_, "since") => json!({"epoch": "5f0c2a91d3b7e846", "offset": 1}),
        (_, "presence" | "echo" | "reverse") => true.into(),
        (_, "content") => json!({"a": 1}),
        (_, "key") => "k".into(),
        ("call", "method") => "m".into(),
        (_, "limit") => 10.into(),
        (_, "after") => "".into(),
        (_, "ticket") => client.ticket().into(),
        (_, "positions") => {
            json!({"room": {"epoch": "5f0c2a91d3b7e846", "offset": 1, "presence": true}})
        }
        other => panic!("{other:?} has no value here"),
    }
}

/// An application that answers calls.
fn backend(application: &Scripted) -> String {
    let (url, secret) = (application.hook_url(), webhook_secret_file());
    format!("[[backend]]\nhook_url = {url:?}\nsecret_files = [{secret:?}]\n")
}

/// The fields of a row, and whether they are required.
fn listed(cell: &str) -> Vec<(String, bool)> {
    let parts = cell.split(", ").filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let name = quoted(part).into_iter().next().expect("a field's name");
            (name, !part.ends_with('?'))
        })
        .collect()
}

/// A client that may send this request.
fn ready(server: &Server, kind: &str) -> Client {
    let mut client = Client::open_as(server, "ann");
    if kind == "unsubscribe" {
        client.subscribe("room");
    }
    client
}

#[test]
fn every_request_has_the_fields_of_its_row() {
    let application = Scripted::start(|_| Some(http("200 OK", "", r#"{"content":1}"#)));
    let server = Server::start(&format!("{KEYS}{OPEN}{}", backend(&application)));
    let replies = fields();
    for row in table("Requests") {
        let kind = quoted(&row[0]).into_iter().next().expect("a type");
        let reply = quoted(&row[2]).into_iter().next().expect("a reply");
        let listed = listed(&row[1]);
        let object = |client: &Client, with: &dyn Fn(&str, bool) -> bool| {
            let mut object = Map::from_iter([("type".to_owned(), json!(kind))]);
            for (name, _) in listed.iter().filter(|(name, need)| with(name, *need)) {
                object.insert(name.clone(), value(&kind, name, client));
            }
            Value::Object(object)
        };
        for optional in [false, true] {
            let mut client = ready(&server, &kind);
            let answer = client.get(object(&client, &|_, need| need || optional), &reply);
            for name in answer.as_object().unwrap().keys() {
                let known =
                    matches!(name.as_str(), "type" | "id") || replies[&reply].contains(name);
                assert!(known, "{reply} has an undocumented {name}: {answer}");
            }
        }
        let mut client = ready(&server, &kind);
        for (name, required) in &listed {
            let whole = object(&client, &|_, _| true);
            if *required {
                let without = object(&client, &|one, _| one != name);
                let received = client.refused(without, "bad_request");
                assert!(received.contains(name.as_str()), "{kind} without {name}: {received}");
            }
            let mut wrong = whole.clone();
            wrong[name] = json!([{"no": "such kind"}]);
            if name != "content" {
                client.refused(wrong, "bad_request");
            }
            let twice = whole.to_string().replacen('{', &format!("{{\"{name}\":null,"), 1);
            client.send(twice);
            assert_eq!(client.expect("error")["code"], "bad_request", "{kind}: {name} twice");
        }
        let mut more = object(&client, &|_, need| need);
        more["unknown"] = json!({"a": 1});
        client.get(more, &reply);
    }
}

/// `positions` is an object of channels: one that occurs twice has no single position.
#[test]
fn a_channel_occurs_once_in_positions() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let one = "\"room\":{\"epoch\":\"a\",\"offset\":1}";
    let ticket = client.ticket();
    client.send(format!(
        "{{\"type\":\"resume\",\"ticket\":\"{ticket}\",\"positions\":{{{one},{one}}}}}"
    ));
    let error = client.expect("error");
    assert_eq!(error["code"], "bad_request", "{error}");
    assert!(error["message"].as_str().unwrap().contains("twice"), "{error}");
    client.get(json!({"type": "resume", "ticket": ticket}), "resumed");
}

/// A string of JSON with this many characters.
fn long(length: usize) -> String {
    "x".repeat(length)
}

fn publish(content: &Value) -> Value {
    json!({"type": "publish", "channel": "room", "content": content})
}

/// Refused with the code of the row, while one less is accepted.
#[track_caller]
fn bounded(client: &mut Client, answer: &str, over: Value, most: Value, reply: &str) {
    let code = quoted(answer).into_iter().next().expect("a code");
    client.refused(over, &code);
    client.get(most, reply);
}

fn nested(depth: usize) -> Value {
    serde_json::from_str(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))).unwrap()
}

fn check_size(client: &mut Client, what: &str, answer: &str) {
    let subscribe = |length| json!({"type": "subscribe", "channel": long(length)});
    let keyed =
        |length| json!({"type": "publish", "channel": "a", "content": 1, "key": long(length)});
    match what {
        "bytes of `content`" => {
            let (over, most) = (publish(&long(65_535).into()), publish(&long(65_534).into()));
            bounded(client, answer, over, most, "published");
        }
        "nesting of `content`" => {
            bounded(client, answer, publish(&nested(65)), publish(&nested(64)), "published");
        }
        "`method` of a call" => {
            let call = |length| json!({"type": "call", "method": long(length)});
            let code = quoted(answer).pop_first().unwrap();
            client.refused(call(129), &code);
            client.refused(call(128), "not_found");
        }
        "answer of an application" => {
            let body = format!("{{\"content\":{:?}}}", long(65_536));
            let application = Scripted::start(move |_| Some(http("200 OK", "", &body)));
            let server = Server::start(&backend(&application));
            let code = quoted(answer).pop_first().unwrap();
            Client::open(&server).refused(json!({"type": "call", "method": "m"}), &code);
        }
        "`key`" => bounded(client, answer, keyed(129), keyed(128), "published"),
        "channel name" => bounded(client, answer, subscribe(201), subscribe(200), "subscribed"),
        "`id`" => {
            for (written, accepted) in [
                (format!("\"{}\"", long(64)), true),
                (format!("\"{}\"", long(65)), false),
                (format!("\"{}\"", "\\u00e9".repeat(10)), true),
                (format!("\"{}\"", "\\u00e9".repeat(11)), false),
                (format!("0.{}", "1".repeat(62)), true),
                (format!("0.{}", "1".repeat(63)), false),
            ] {
                client.send(format!("{{\"type\":\"ping\",\"id\":{written}}}"));
                let said = client.next_text();
                assert_eq!(said.contains("pong"), accepted, "{written}: {said}");
                assert!(accepted || said.contains(&*quoted(answer).pop_first().unwrap()), "{said}");
            }
        }
        "token" => {
            let long = token(json!({"sub": "ann", "more": long(13_000)}));
            assert!(long.len() > 16 * 1024, "{}", long.len());
            let most = token(json!({"sub": "ann", "more": self::long(11_000)}));
            let auth = |token: &str| json!({"type": "auth", "token": token});
            bounded(client, answer, auth(&long), auth(&most), "authenticated");
        }
        "channels per connection" => {
            for n in 0..128 {
                client.subscribe(&format!("c{n}"));
            }
            let code = quoted(answer).pop_first().unwrap();
            client.refused(json!({"type": "subscribe", "channel": "room"}), &code);
        }
        other => panic!("no test knows the limit {other}"),
    }
}

fn check_configured(what: &str, answer: &str) {
    let code = quoted(answer).pop_first().unwrap_or_default();
    let channel = |option: &str| format!("[[channel]]\npattern = \"*\"\n{option}\n");
    let flood = |config: &str, object: &Value| {
        let server = Server::start(config);
        let mut client = Client::open(&server);
        let rejected = (0..50).map(|_| client.ask(object.clone())).find(|a| a["type"] == "error");
        assert_eq!(rejected.expect("one is too many")["code"], code, "{what}");
    };
    match what {
        "bytes of one message" => {
            let server = Server::start("[limits]\nmessage_bytes_max = 100_000\n");
            let mut client = Client::open(&server);
            client.send(format!("{{\"type\":\"ping\"}}{}", " ".repeat(100_000 - 15)));
            client.expect("pong");
            client.send(" ".repeat(100_001));
            assert_eq!(format!("close {}", client.closed()), answer);
        }
        "members per channel" => {
            let server = Server::start(&channel("members_max = 1"));
            let mut clients = [0, 1].map(|_| Client::open(&server));
            clients[0].subscribe("room");
            clients[1].refused(json!({"type": "subscribe", "channel": "room"}), &code);
        }
        "requests for `history` and `presence` per second" => {
            for kind in ["history", "presence"] {
                let object = json!({"type": kind, "channel": "room"});
                flood("[rates]\nconnection_reads = 1\n", &object);
            }
        }
        "publishes per second and connection in a channel's section" => {
            flood(&channel("rate = 1"), &publish(&json!(1)));
        }
        "messages, bytes, subscribes, publishes per second" => {
            for rate in ["messages", "bytes", "publishes"] {
                flood(&format!("[rates]\nconnection_{rate} = 1\n"), &publish(&json!(1)));
            }
        }
        "connections per user" => {
            let limit = "[limits]\nconnections_per_user_max = 1\n";
            let server = Server::start(&format!("{KEYS}{OPEN}{limit}"));
            let _first = Client::open_as(&server, "ann");
            let ann = token(json!({"sub": "ann"}));
            let mut raw = Raw::connect(server.address());
            raw.send(&request_with("/ws", &format!("Authorization: Bearer {ann}\r\n")));
            let mut late = Client::open(&server);
            late.send(json!({"type": "auth", "token": ann}).to_string());
            let both = format!("{}, or close {}", raw.answer().0, late.closed());
            assert_eq!(both, answer);
        }
        // No answer shows them: the bounds are checked in the simulation.
        "unanswered requests per connection" | "bytes queued for a client" => {
            assert!(answer.starts_with("not read from"), "{answer}");
        }
        // It takes readers that hold back half of a shard's outboxes: checked in the simulation.
        "bytes of recovered messages queued" => assert_eq!(answer, "`recovered: false`"),
        other => panic!("no test knows the limit {other}"),
    }
}

#[test]
fn every_limit_is_answered_as_its_row_says() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    for row in table("Limits") {
        let (what, answer) = (row[0].as_str(), row[2].as_str());
        let has_default = !row[1].contains("unlimited") && !row[1].contains("_bytes_max` 1 MiB");
        let has_option = row[1].starts_with("`limits.") || row[1].starts_with("`hub.pending");
        if has_default && !has_option {
            check_size(&mut Client::open_as(&server, "ann"), what, answer);
        } else {
            check_configured(what, answer);
        }
    }
}

/// Codes that no call here leads to: a fault of the server, and a limit or rate that calls do not
/// have yet.
const UNREACHED: [&str; 4] = ["internal", "limit", "rate_limited", "expired"];

#[test]
fn every_code_of_the_api_has_its_status() {
    let (_, text) = DOCUMENT.split_once("A call that fails answers").expect("codes are listed");
    let text = text.split_once("\n\n").expect("the paragraph ends").0;
    let mut documented = BTreeSet::new();
    let mut names: Vec<String> = Vec::new();
    for part in text.split('`').skip(1) {
        match part.trim().get(..3).and_then(|start| start.parse::<u16>().ok()) {
            Some(status) => {
                documented.extend(names.drain(..).map(|name| (name, status)));
            }
            None if part.trim_matches([' ', ';', ',', '\n']) == "and" => {}
            None if part.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                names.push(part.to_owned());
            }
            None => names.clear(),
        }
    }
    let keys = "[[api_key]]\nsecret = \"an-api-key-of-20-characters\"\n";
    let (open, closed) =
        (Server::start("[[channel]]\npattern = \"*\"\npresence = false\n"), Server::start(keys));
    let json = "Content-Type: application/json\r\n";
    let long = format!("{json}Content-Length: 17000000\r\n");
    let key = |content: u32| json!({"channel": "a", "content": content, "key": "k"}).to_string();
    posted(&open, "/v1/publish", &json!({"channel": "a", "content": 1, "key": "k"}));
    let mut seen = BTreeSet::new();
    for (server, line, headers, body) in [
        (&open, "POST /v1/publish", json, "{}"),
        (&closed, "GET /v1/node", "", ""),
        (&open, "GET /v1/node", "Origin: http://127.0.0.1\r\n", ""),
        (&open, "GET /v1/channels/never", "", ""),
        (&open, "GET /v1/channels/a/presence", "", ""),
        (&open, "POST /v1/publish", json, &key(2)),
        (&open, "POST /v1/publish", &long, ""),
        (&open, "POST /v1/node", "", "{}"),
        (&open, "POST /v1/channels", "Content-Type: text/plain\r\n", "x"),
        (&open, "POST /v1/publish", "", "{}"),
    ] {
        let answer = call(server, line, headers, body);
        let body: Value = serde_json::from_str(&answer.body).expect("it is JSON");
        let code = body["error"]["code"].as_str().expect("it has a code").to_owned();
        assert!(body["error"]["message"].is_string(), "{body}");
        assert!(documented.contains(&(code.clone(), answer.status)), "{line}: {code}");
        seen.insert(code);
    }
    // A whole body within a minute, and a server that is not short of memory, cannot be had here.
    let elsewhere = ["timeout", "unavailable"];
    let rest = UNREACHED.into_iter().chain(elsewhere).map(str::to_owned);
    let known: BTreeSet<String> = seen.into_iter().chain(rest).collect();
    let documented: BTreeSet<String> = documented.into_iter().map(|(name, _)| name).collect();
    assert_eq!(documented, known);
}

/// Presence is answered alike over WebSocket and HTTP.
#[test]
fn members_of_a_channel_without_presence_are_not_found() {
    let server = Server::start(
        "[[channel]]\npattern = \"*\"\n[[channel]]\npattern = \"bare\"\npresence = false\n",
    );
    let mut client = Client::open(&server);
    client.subscribe("bare");
    client.subscribe("kept");
    let received = client.refused(json!({"type": "presence", "channel": "bare"}), "not_found");
    let (status, answer) = get(&server, "/v1/channels/bare/presence");
    assert_eq!((status, &answer["error"]["message"]), (404, &json!(received)));
    let page = client.get(json!({"type": "presence", "channel": "kept"}), "presence");
    let (_, answer) = get(&server, "/v1/channels/kept/presence");
    assert_eq!((&answer["count"], &answer["members"]), (&page["count"], &page["members"]));
    assert_eq!(post(&server, "/v1/channels/kept/presence", &json!({})).0, 405);
}

//! Every verb and its answers.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, position, text};
use crate::support::raw;
use crate::support::{Raw, Server};

#[test]
fn the_welcome_comes_first_and_says_what_holds() {
    let server = Server::start("");
    let client = Client::open(&server);
    let Value::Object(welcome) = &client.welcome else { panic!("{}", client.welcome) };
    let mut names: Vec<_> = welcome.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["connection", "heartbeat", "limits", "server", "ticket", "type"]);
    assert_eq!(welcome["heartbeat"], 25);
    assert_eq!(welcome["limits"], json!({"message_bytes": 16 << 20, "channels": 128}));
    assert_eq!(welcome["server"], concat!("seawall/", env!("CARGO_PKG_VERSION")));
    assert_ne!(client.connection(), Client::open(&server).connection());
}

#[test]
fn the_subprotocol_is_chosen_where_it_is_offered() {
    let server = Server::start("");
    for (offered, chosen) in [
        ("", None),
        ("Sec-WebSocket-Protocol: seawall.v1\r\n", Some("seawall.v1")),
        ("Sec-WebSocket-Protocol: other, seawall.v1\r\n", Some("seawall.v1")),
        ("Sec-WebSocket-Protocol: other\r\n", None),
    ] {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with("/ws", offered));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let line =
            head.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-protocol"));
        let found = line.and_then(|line| line.split_once(": ")).map(|(_, value)| value);
        assert_eq!(found, chosen, "{offered}");
        // It is spoken all the same.
        assert_eq!(Client::over(raw).ask(json!({"type": "ping"}))["type"], "pong");
    }
}

#[test]
fn a_message_reaches_those_who_subscribed() {
    let server = Server::start("");
    let (mut ann, mut bob) = (Client::open(&server), Client::open(&server));
    let subscribed = ann.subscribe("room");
    let epoch = text(&subscribed, "epoch");
    assert_eq!(
        subscribed,
        json!({"type": "subscribed", "id": subscribed["id"], "channel": "room", "epoch": epoch,
               "offset": 0, "recovered": false})
    );
    let published = bob.publish("room", &json!({"a": 1}));
    assert_eq!(
        published,
        json!({"type": "published", "id": published["id"], "channel": "room", "epoch": epoch,
               "offset": 1})
    );
    let message = ann.expect("message");
    assert!(message["time"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        message,
        json!({"type": "message", "channel": "room", "offset": 1, "content": {"a": 1},
               "from": {"connection": bob.connection()}, "time": message["time"]})
    );
    bob.is_silent("room");
    let left = ann.unsubscribe("room");
    assert_eq!(left, json!({"type": "unsubscribed", "id": left["id"], "channel": "room"}));
    bob.publish("room", &json!(2));
    ann.is_silent("room");
}

#[test]
fn the_sender_gets_its_own_unless_it_wants_no_echo() {
    let server = Server::start("");
    let (mut ann, mut bob) = (Client::open(&server), Client::open(&server));
    ann.subscribe("room");
    bob.subscribe("room");
    let silent = json!({"type": "publish", "channel": "room", "content": 1, "echo": false});
    ann.get(silent, "published");
    let plain = json!({"type": "publish", "channel": "room", "content": 2, "echo": true});
    ann.get(plain, "published");
    ann.publish("room", &json!(3));
    assert_eq!(ann.contents(2), [2, 3]);
    assert_eq!(bob.contents(3), [1, 2, 3]);
}

#[test]
fn a_users_messages_name_the_user() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut ann = Client::open_as(&server, "ann \"é\"");
    ann.subscribe("room");
    ann.publish("room", &json!(null));
    let from = ann.expect("message")["from"].take();
    assert_eq!(from, json!({"user": "ann \"é\"", "connection": ann.connection()}));
}

#[test]
fn content_is_passed_on_byte_for_byte() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("room");
    for content in [
        "1.50e+007",
        "-0",
        "123456789012345678901234567890.10",
        r#""\u00e9\/\ud83e\uddad é🦭""#,
        r#"{"b" :1, "a":[ ],"b":2}"#,
        "[1 ,\t2]",
        "null",
        "\"\u{2028}\"",
    ] {
        client.send(format!(r#"{{"type":"publish","channel":"room","content":{content}}}"#));
        let (one, other) = (client.next_text(), client.next_text());
        let message = if one.contains("\"message\"") { one } else { other };
        assert!(message.contains(&format!("\"content\":{content},")), "{message}");
    }
    client.send("{\"type\":\"publish\",\"channel\":\"room\",\"content\":[1,\r\n2,\n\"a\\nb\"]}");
    let both = [client.next_text(), client.next_text()].concat();
    assert!(both.contains("\"content\":[1,  2, \"a\\nb\"],"), "{both}");
    assert!(!both.contains('\n') && !both.contains('\r'), "{both}");
}

#[test]
fn a_frame_may_hold_several_requests() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.send(
        "{\"type\":\"subscribe\",\"channel\":\"a\",\"id\":1}\n\
         {\"type\":\"publish\",\"channel\":\"a\",\"content\":7,\"id\":2}\
         {\"type\":\"ping\",\"id\":\"three\"}\r\n {\"type\":",
    );
    assert_eq!(client.answer(1)["type"], "subscribed");
    assert_eq!(client.answer(2)["offset"], 1);
    let mut rest = [client.next(), client.next(), client.next()];
    rest.sort_by_key(|one| one["type"].to_string());
    assert_eq!((&rest[0]["code"], &rest[0]["id"]), (&json!("bad_request"), &Value::Null));
    assert_eq!(rest[1]["content"], 7);
    assert_eq!(rest[2], json!({"type": "pong", "id": "three"}));
}

#[test]
fn ids_come_back_as_they_were_written() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    for id in ["0", "-1", "1e3", "0.10", "\"\"", "\"\\u0061\"", &format!("\"{}\"", "i".repeat(64))]
    {
        client.send(format!("{{\"type\":\"ping\",\"id\":{id}}}"));
        assert_eq!(client.next_text(), format!("{{\"type\":\"pong\",\"id\":{id}}}"));
    }
    client.send("{\"type\":\"ping\",\"id\":null}{\"type\":\"ping\"}");
    assert_eq!(client.next_text() + &client.next_text(), "{\"type\":\"pong\"}{\"type\":\"pong\"}");
}

#[test]
fn history_is_read_in_pages_in_either_direction() {
    let server = Server::start("[hub]\nhistory_page_max = 4\n");
    let mut client = Client::open(&server);
    let places: Vec<_> = (1..=6).map(|n| position(&client.publish("room", &json!(n)))).collect();
    let mut read = |more: Value| {
        let mut object = json!({"type": "history", "channel": "room"});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let page = client.get(object, "history");
        assert_eq!(position(&page), places[5], "the channel's position");
        let messages = page["messages"].as_array().unwrap();
        messages.iter().map(|one| one["content"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(read(json!({"limit": 2, "since": places[1]})), [3, 4]);
    assert_eq!(read(json!({"since": places[5]})), [0_u64; 0]);
    assert_eq!(read(json!({"limit": 2, "reverse": true})), [6, 5]);
    assert_eq!(read(json!({"limit": 100, "reverse": true})), [6, 5, 4, 3], "the page's bound");
    assert_eq!(read(json!({})).len(), 4);
    let page = client.get(json!({"type": "history", "channel": "room", "limit": 1}), "history");
    let message = &page["messages"][0];
    assert_eq!(message["from"]["connection"], client.connection());
    assert!(message["time"].is_u64() && message["offset"].is_u64(), "{message}");
}

#[test]
fn replies_of_one_channel_keep_their_order() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let mut frame = String::new();
    for n in 0..200 {
        let publish = json!({"type": "publish", "channel": "a", "content": n, "id": n});
        let _ = write!(frame, "{publish}");
    }
    client.send(frame);
    for n in 0..200 {
        let reply = client.expect("published");
        assert_eq!((&reply["id"], &reply["offset"]), (&json!(n), &json!(n + 1)));
    }
}

#[test]
fn a_channel_can_be_left_and_joined_in_one_breath() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let one = |kind: &str, id: u64| json!({"type": kind, "channel": "a", "id": id}).to_string();
    let frame: String =
        (0..50).flat_map(|n| [one("subscribe", 2 * n), one("unsubscribe", 2 * n + 1)]).collect();
    client.send(frame + &one("subscribe", 100));
    for n in 0..=100 {
        let kind = ["subscribed", "unsubscribed"][n % 2];
        assert_eq!(client.expect(kind)["id"], n);
    }
    client.publish("a", &json!("once"));
    assert_eq!(client.contents(1), ["once"]);
    client.is_silent("a");
}

/// Also where the server has rested before.
#[test]
fn a_messages_time_is_that_of_its_publish() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("room");
    for n in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let before = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        client.publish("room", &json!(n));
        let message = client.expect("message");
        assert!(message["time"].as_u64().unwrap() >= before, "{message} before {before}");
    }
}

#[test]
fn reading_opens_no_channel() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    for n in 0..20 {
        let channel = format!("nobodys:{n}");
        let page = client.get(json!({"type": "history", "channel": channel}), "history");
        assert_eq!((&page["offset"], &page["messages"]), (&json!(0), &json!([])));
        let page = client.get(json!({"type": "presence", "channel": channel}), "presence");
        assert_eq!((&page["count"], &page["members"]), (&json!(0), &json!([])));
        let (status, _) =
            crate::client::delete(&server, &format!("/v1/channels/{channel}/history"));
        assert_eq!(status, 200);
    }
    assert_eq!(server.metrics().get("channels"), 0);
    // One that was published to stays, read or not.
    let there = client.publish("room", &json!(1));
    let page = client.get(json!({"type": "history", "channel": "room"}), "history");
    assert_eq!((&page["epoch"], &page["offset"]), (&there["epoch"], &json!(1)));
    assert_eq!(server.metrics().get("channels"), 1);
}

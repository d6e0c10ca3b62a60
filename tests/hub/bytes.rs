//! Contents and `info` come back byte for byte over every path, or are rejected where they enter;
//! none makes a reply unreadable.

use std::collections::BTreeMap;

use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, call};
use crate::support::Server;

const HISTORY: &str = "[hub]\nhistory_page_max = 1000\n\
    [[channel]]\npattern = \"*\"\nhistory = 1000\npresence = true\n";

/// JSON that every reader takes, but most would write in another way.
const READABLE: [&str; 14] = [
    "12345678901234567890123",
    "0.1000",
    "-0",
    "1E5",
    "1e-400",
    "1.7976931348623157e308",
    "{\"z\":1,\"a\":2}",
    "{\"b\":1,\"a\":2,\"b\":3}",
    "\"\\u0061\\/\\u00e9\\ud83d\\ude00\\u0000\"",
    "[ 1 ,\t2.50,null , true ]",
    "\"\u{7f}\u{9b}\u{202e}\u{2028}é👍\"",
    "{\"\":{\"\\\\\":[{}]}}",
    "\"\\\\ud83d\"",
    "null",
];

/// JSON that strict readers fail on.
const UNREADABLE: [&str; 8] = [
    "\"hello \\ud83d\"",
    "\"x\\uDFFFy\"",
    "{\"\\ud83d\":1}",
    "[\"\\ud83d\\ud83d\\ude00\"]",
    "1e400",
    "{\"a\":[-1E999]}",
    "\"\\ude00\\ud83d\"",
    "[1e999999999999]",
];

/// Random JSON beside [`READABLE`].
fn contents() -> Vec<String> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        prop::sample::select(READABLE.to_vec()).prop_map(str::to_owned),
        any::<f64>()
            .prop_filter("JSON has no others", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
    ];
    let tree = leaf.prop_recursive(4, 16, 4, |inner| {
        let key = any::<String>().prop_map(|text| Value::from(text).to_string());
        let field = (key, inner.clone()).prop_map(|(key, value)| format!("{key} :{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{} ]", all.join(", "))),
            prop::collection::vec(field, 0..4).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    });
    let mut runner = TestRunner::deterministic();
    let random = (0..60).map(|_| tree.new_tree(&mut runner).expect("it can be made").current());
    READABLE.iter().map(|&one| one.to_owned()).chain(random).collect()
}

/// A message with its content as it was written.
#[derive(serde::Deserialize)]
struct Message<'m> {
    #[serde(borrow)]
    content: &'m RawValue,
}

#[derive(serde::Deserialize)]
struct Member<'m> {
    #[serde(borrow)]
    info: Option<&'m RawValue>,
}

#[derive(serde::Deserialize)]
struct Joined<'m> {
    #[serde(borrow)]
    member: Member<'m>,
}

#[derive(serde::Deserialize)]
struct Listed<'m> {
    #[serde(borrow, default)]
    messages: Vec<Message<'m>>,
    #[serde(borrow, default)]
    members: Vec<Member<'m>>,
}

impl Listed<'_> {
    /// The contents in a reply, which a strict reader takes as a whole.
    #[track_caller]
    fn contents(reply: &str) -> Vec<String> {
        serde_json::from_str::<Value>(reply).unwrap_or_else(|error| panic!("{error}: {reply}"));
        let listed: Listed<'_> = serde_json::from_str(reply).unwrap();
        listed.messages.iter().map(|message| message.content.get().to_owned()).collect()
    }

    #[track_caller]
    fn infos(reply: &str) -> Vec<String> {
        serde_json::from_str::<Value>(reply).unwrap_or_else(|error| panic!("{error}: {reply}"));
        let listed: Listed<'_> = serde_json::from_str(reply).unwrap();
        listed.members.iter().filter_map(|one| Some(one.info?.get().to_owned())).collect()
    }
}

fn http(server: &Server, path: &str, body: &str) -> (u16, String) {
    let line = if body.is_empty() { format!("GET {path}") } else { format!("POST {path}") };
    let answer = call(server, &line, "Content-Type: application/json\r\n", body);
    (answer.status, answer.body)
}

#[track_caller]
fn content_of(message: &str) -> String {
    serde_json::from_str::<Value>(message).unwrap_or_else(|error| panic!("{error}: {message}"));
    serde_json::from_str::<Message<'_>>(message).unwrap().content.get().to_owned()
}

#[test]
fn contents_come_back_byte_for_byte_over_every_path() {
    let server = Server::start(HISTORY);
    let mut reader = Client::open(&server);
    reader.subscribe("all");
    let mut writer = Client::open(&server);
    let mut published = Vec::new();
    for content in contents() {
        let publish = format!("{{\"channel\":\"all\",\"content\":{content}}}");
        writer.send(format!("{{\"type\":\"publish\",\"id\":1,{}", &publish[1..]));
        writer.expect("published");
        let batch = format!(
            "{{\"commands\":[{{\"publish\":{publish}}},\
             {{\"broadcast\":{{\"channels\":[\"all\"],\"content\":{content}}}}},\
             {{\"send\":{{\"all\":true,\"content\":{content}}}}}]}}"
        );
        for (path, body) in [("/v1/publish", &publish), ("/v1/batch", &batch)] {
            let (status, reply) = http(&server, path, body);
            assert!(status == 200 && !reply.contains("error"), "{content}: {reply}");
        }
        let received: Vec<_> = (0..5).map(|_| reader.next_text()).collect();
        for message in received {
            assert_eq!(content_of(&message), content);
        }
        writer.expect("message");
        published.extend(std::iter::repeat_n(content, 4));
    }
    let (status, reply) = http(&server, "/v1/channels/all/history?limit=1000", "");
    assert_eq!(status, 200, "{reply}");
    assert_eq!(Listed::contents(&reply), published);
    writer.send("{\"type\":\"history\",\"id\":2,\"channel\":\"all\",\"limit\":1000}");
    assert_eq!(Listed::contents(&writer.next_text()), published);
}

#[test]
fn what_strict_readers_fail_on_is_rejected_where_it_enters() {
    let server = Server::start(HISTORY);
    let mut client = Client::open(&server);
    client.subscribe("room");
    for content in UNREADABLE {
        client.send(format!(
            "{{\"type\":\"publish\",\"id\":1,\"channel\":\"room\",\"content\":{content}}}"
        ));
        let error = client.expect("error");
        assert_eq!((&error["code"], &error["id"]), (&json!("bad_request"), &json!(1)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("surrogate") || message.contains("64-bit float"), "{message}");
        for (path, body) in [
            ("/v1/publish", format!("{{\"channel\":\"room\",\"content\":{content}}}")),
            ("/v1/send", format!("{{\"all\":true,\"content\":{content}}}")),
        ] {
            let (status, reply) = http(&server, path, &body);
            assert!(status == 400 && reply.contains("\"bad_request\""), "{content}: {reply}");
        }
        let body = format!(
            "{{\"commands\":[{{\"publish\":{{\"channel\":\"room\",\"content\":{content}}}}},\
             {{\"publish\":{{\"channel\":\"room\",\"content\":\"fine\"}}}}]}}"
        );
        let (status, reply) = http(&server, "/v1/batch", &body);
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!((status, &reply["results"][0]["error"]["code"]), (200, &json!("bad_request")));
        assert_eq!(client.contents(1), ["fine"], "one command does not spoil the others");
        client.send(format!("{{\"type\":\"ping\",\"id\":{content}}}"));
        let refused = client.expect("error");
        assert_eq!((&refused["code"], &refused["id"]), (&json!("bad_request"), &Value::Null));
    }
    client.is_silent("room");
}

/// A token whose `info` is this text.
fn token_with(user: &str, info: &str) -> String {
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    let claims: BTreeMap<&str, Box<RawValue>> = BTreeMap::from([
        ("sub", raw(&Value::from(user).to_string())),
        ("exp", raw("4000000000")),
        ("info", raw(info)),
    ]);
    seawall::auth::SigningKey::from_secret("", b"0123456789abcdef0123456789abcdef")
        .sign(&claims)
        .unwrap()
}

#[test]
fn info_comes_back_byte_for_byte_or_its_token_is_rejected() {
    let server = Server::start(&format!("{KEYS}{HISTORY}"));
    let mut clients = Vec::new();
    // `null` is no info (RFC 7519 4: a claim may be left out).
    let infos = READABLE.strip_suffix(&["null"]).expect("it is the last one");
    for (n, info) in infos.iter().enumerate() {
        let mut client = Client::open_with_token(&server, &token_with(&format!("u{n:02}"), info));
        client.subscribe("room");
        clients.push(client);
    }
    let (status, reply) = http(&server, "/v1/channels/room/presence?limit=100", "");
    assert_eq!(status, 200, "{reply}");
    assert_eq!(Listed::infos(&reply), infos);
    let mut last = clients.pop().unwrap();
    last.send("{\"type\":\"presence\",\"id\":1,\"channel\":\"room\",\"limit\":100}");
    assert_eq!(Listed::infos(&last.next_text()), infos);
    last.get(json!({"type": "subscribe", "channel": "lobby", "presence": true}), "subscribed");
    for (client, info) in clients.iter_mut().zip(infos) {
        client.subscribe("lobby");
        let join = last.next_text();
        let join: Joined<'_> = serde_json::from_str(&join).unwrap();
        assert_eq!(join.member.info.map(RawValue::get), Some(*info));
    }

    let open = Server::start(&format!("{KEYS}{OPEN}"));
    for info in UNREADABLE {
        let mut anonymous = Client::open(&open);
        let auth = json!({"type": "auth", "token": token_with("ann", info)});
        let answer = anonymous.ask(auth);
        assert_eq!(answer["type"], "error", "{info}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("`info`"), "{answer}");
    }
}

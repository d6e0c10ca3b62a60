//! Every code of an `error`, and that a connection outlives it.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, now_s, token};
use crate::support::Server;

#[test]
fn what_cannot_be_understood_is_a_bad_request() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let publish =
        |content: &str| format!("{{\"type\":\"publish\",\"channel\":\"a\",\"content\":{content}}}");
    let long = "c".repeat(201);
    for text in [
        "",
        " ",
        "x",
        "[]",
        "7",
        "{",
        "{}",
        "{\"type\":\"shout\"}",
        "{\"type\":7}",
        "{\"type\":\"ping\",\"type\":\"ping\"}",
        "{\"type\":\"ping\",\"id\":true}",
        "{\"type\":\"publish\",\"channel\":\"a\"}",
        "{\"type\":\"subscribe\"}",
        "{\"type\":\"subscribe\",\"channel\":\"\"}",
        "{\"type\":\"subscribe\",\"channel\":\"with space\"}",
        "{\"type\":\"subscribe\",\"channel\":\"é\"}",
        "{\"type\":\"unsubscribe\",\"channel\":\"é\"}",
        &format!("{{\"type\":\"subscribe\",\"channel\":\"{long}\"}}"),
        "{\"type\":\"subscribe\",\"channel\":\"a\",\"since\":3}",
        "{\"type\":\"subscribe\",\"channel\":\"a\",\"since\":{\"offset\":3}}",
        "{\"type\":\"history\",\"channel\":\"a\",\"limit\":-1}",
        "{\"type\":\"resume\"}",
        "{\"type\":\"auth\"}",
        "{\"type\":\"auth\",\"token\":\"a.b.c\"}",
        &publish(&deep(65)),
        "{\"type\":\"publish\",\"channel\":\"a\",\"content\":1,\"key\":\"\"}",
        &format!(
            "{{\"type\":\"publish\",\"channel\":\"a\",\"content\":1,\"key\":\"{}\"}}",
            "k".repeat(129)
        ),
    ] {
        client.send(text);
        let error = client.expect("error");
        assert_eq!(error["code"], "bad_request", "{text}: {error}");
        assert!(error["message"].as_str().unwrap().len() > 5, "{error}");
    }
    client.send(publish(&deep(64)));
    assert_eq!(client.next()["type"], "published");
    // What it does not know it does not mind.
    client.send("{\"type\":\"ping\",\"colour\":[{}],\"id\":1}");
    assert_eq!(client.next(), json!({"type": "pong", "id": 1}));
}

#[test]
fn errors_are_counted() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    for text in ["x", "{}", "{\"type\":\"unsubscribe\",\"channel\":\"a\"}"] {
        client.send(text);
        client.expect("error");
    }
    assert_eq!(server.metrics().get("request_errors_total"), 3);
}

#[test]
fn conflicts_and_what_is_not_there() {
    let server = Server::start("[[channel]]\npattern = \"bare\"\npresence = false\n");
    let mut client = Client::open(&server);
    client.refused(json!({"type": "unsubscribe", "channel": "bare"}), "not_found");
    client.subscribe("bare");
    client.refused(json!({"type": "subscribe", "channel": "bare"}), "conflict");
    client.refused(json!({"type": "presence", "channel": "bare"}), "not_found");
    let ticket = client.ticket();
    client.refused(json!({"type": "resume", "ticket": ticket}), "conflict");
    client.refused(json!({"type": "subscribe", "channel": "other"}), "forbidden");
}

#[test]
fn limits_are_told() {
    let server = Server::start(
        "[hub]\nchannels_per_connection_max = 2\n\
         [[channel]]\npattern = \"*\"\n\
         [[channel]]\npattern = \"room:*\"\nmembers_max = 1\nmessage_bytes_max = 10\n\
         [[channel]]\npattern = \"slow:*\"\nrate = 3\n",
    );
    let (mut ann, mut bob) = (Client::open(&server), Client::open(&server));
    ann.subscribe("room:1");
    ann.subscribe("b");
    ann.refused(json!({"type": "subscribe", "channel": "c"}), "limit");
    ann.unsubscribe("b");
    ann.subscribe("c");
    bob.refused(json!({"type": "subscribe", "channel": "room:1"}), "limit");
    ann.unsubscribe("room:1");
    bob.subscribe("room:1");
    let publish = |to: &str, what: &str| json!({"type": "publish", "channel": to, "content": what});
    ann.get(publish("room:1", "12345678"), "published");
    ann.refused(publish("room:1", "123456789"), "too_large");
    for n in 0..3 {
        ann.publish(&format!("slow:{n}"), &json!(n));
    }
    // A slow machine may earn one more meanwhile.
    let refused = (0..50).map(|_| ann.ask(publish("slow:1", ""))).find(|a| a["type"] == "error");
    let refused = refused.expect("more than three a second are too many");
    assert_eq!(refused["code"], "rate_limited", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains('3'), "{refused}");
    bob.publish("slow:1", &json!("another connection's bucket"));
}

const NAMESPACES: &str = "[[channel]]\npattern = \"open:*\"\n\
    [[channel]]\npattern = \"user:*\"\n\
    subscribe = \"authenticated\"\npublish = \"authenticated\"\n\
    [[channel]]\npattern = \"token:*\"\nsubscribe = \"token\"\npublish = \"token\"\n\
    [[channel]]\npattern = \"news:*\"\npublish = \"server\"\n";

#[test]
fn rights_decide() {
    let server = Server::start(&format!("{KEYS}{NAMESPACES}[auth]\nallow_anonymous = true\n"));
    let channels = json!([{"pattern": "token:1", "rights": ["subscribe"]}, "else:*"]);
    let mut anybody = Client::open(&server);
    let mut ann =
        Client::open_with_token(&server, &token(json!({"sub": "ann", "channels": channels})));
    let subscribe = |channel: &str| json!({"type": "subscribe", "channel": channel});
    let publish = |channel: &str| json!({"type": "publish", "channel": channel, "content": 1});
    let table: [(fn(&str) -> Value, &str, &str, &str); 10] = [
        (subscribe, "open:1", "", ""),
        (publish, "open:1", "", ""),
        (subscribe, "user:1", "unauthorized", ""),
        (publish, "user:1", "unauthorized", ""),
        (subscribe, "token:1", "unauthorized", ""),
        (publish, "token:1", "unauthorized", "forbidden"),
        (subscribe, "token:2", "unauthorized", "forbidden"),
        (subscribe, "news:1", "", ""),
        (publish, "news:1", "forbidden", "forbidden"),
        (subscribe, "else:1", "unauthorized", ""),
    ];
    for (verb, channel, anybodys, anns) in table {
        for (client, code) in [(&mut anybody, anybodys), (&mut ann, anns)] {
            let answer = client.ask(verb(channel));
            assert_eq!(answer["code"].as_str().unwrap_or(""), code, "{channel}: {answer}");
        }
    }
    ann.refused(json!({"type": "presence", "channel": "token:1"}), "forbidden");
    ann.refused(json!({"type": "history", "channel": "token:1"}), "forbidden");
    anybody.get(json!({"type": "history", "channel": "open:1"}), "history");
}

#[test]
fn before_its_token_a_client_is_unauthorized() {
    let server = Server::start(&format!("{KEYS}{NAMESPACES}"));
    let mut client = Client::open(&server);
    assert!(client.welcome["ticket"].is_null(), "anonymous clients get no ticket");
    for kind in ["subscribe", "presence", "history"] {
        client.refused(json!({"type": kind, "channel": "open:1"}), "unauthorized");
    }
    client.ask(json!({"type": "ping"}));
    client.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
    client.subscribe("open:1");
    // One that has expired, and one that is another's: it stays who it is.
    let expired = token(json!({"sub": "ann", "exp": now_s() - 60}));
    client.refused(json!({"type": "auth", "token": expired}), "expired");
    client.refused(json!({"type": "auth", "token": "a.b.c"}), "unauthorized");
    let bobs = token(json!({"sub": "bob"}));
    client.refused(json!({"type": "auth", "token": bobs}), "conflict");
    client.publish("open:1", &json!(1));
    assert_eq!(client.expect("message")["from"]["user"], "ann");
}

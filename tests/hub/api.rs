//! Every call of the HTTP API, with good input and with bad.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, call, delete, get, got, position, post, posted, text};
use crate::support::{Server, wait_until};

/// Status and code of a refusal, whose body has the one form that all have.
#[track_caller]
fn refused((status, body): (u16, Value)) -> (u16, String) {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{status}: {body}"));
    assert_eq!((body.as_object().unwrap().len(), error.len()), (1, 2), "{body}");
    assert!(text(&body["error"], "message").len() > 8, "{body}");
    (status, text(&body["error"], "code"))
}

#[track_caller]
fn is_bad(server: &Server, path: &str, body: &Value) {
    assert_eq!(refused(post(server, path, body)), (400, "bad_request".into()), "{path} {body}");
}

#[test]
fn publish() {
    let server = Server::start("[[channel]]\npattern = \"*\"\nmessage_bytes_max = 20\n");
    let mut client = Client::open(&server);
    client.subscribe("room");
    let answer = posted(&server, "/v1/publish", &json!({"channel": "room", "content": {"a": [1]}}));
    let epoch = answer["epoch"].clone();
    assert_eq!(answer, json!({"epoch": epoch, "offset": 1}));
    let message = client.expect("message");
    assert_eq!(
        message,
        json!({"type": "message", "channel": "room", "offset": 1, "content": {"a": [1]},
               "time": message["time"]}),
        "the server's own have no from"
    );
    for body in [
        json!({"content": 1}),
        json!({"channel": "room"}),
        json!({"channel": "with space", "content": 1}),
        json!({"channel": "", "content": 1}),
        json!({"channel": "room", "content": 1, "key": ""}),
        json!({"channel": "room", "content": 1, "key": "k".repeat(129)}),
        json!({"channel": "room", "content": 1, "more": 1}),
        json!({"channel": 1, "content": 1}),
        json!(["room", 1]),
        json!([]),
        json!(null),
    ] {
        is_bad(&server, "/v1/publish", &body);
    }
    let long = json!({"channel": "room", "content": "x".repeat(19)});
    assert_eq!(refused(post(&server, "/v1/publish", &long)), (413, "too_large".into()));
    client.is_silent("room");
}

#[test]
fn broadcast_and_batch_answer_one_by_one() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("a");
    let body = json!({"channels": ["a", "not one", "b", "a"], "content": 1});
    let results = posted(&server, "/v1/broadcast", &body)["results"].take();
    let offsets: Vec<_> = results.as_array().unwrap().iter().map(|one| &one["offset"]).collect();
    assert_eq!(offsets, [&json!(1), &Value::Null, &json!(1), &json!(2)]);
    assert_eq!(results[1]["error"]["code"], "bad_request");
    assert_eq!(client.contents(2), [1, 1]);
    for body in [
        json!({"channels": [], "content": 1}),
        json!({"channels": vec!["a"; 10_001], "content": 1}),
        json!({"channels": "a", "content": 1}),
    ] {
        is_bad(&server, "/v1/broadcast", &body);
    }
    let id = client.connection();
    let commands = json!([
        {"publish": {"channel": "a", "content": 2}},
        {"broadcast": {"channels": ["a", "c"], "content": 3}},
        {"send": {"connection": id, "content": 4}},
        {"send": {"user": "a", "connection": id, "content": 4}},
        {"subscribe": {"connection": id, "channel": "c"}},
        {"unsubscribe": {"connection": id, "channel": "a"}},
        {"publish": {"channel": "é", "content": 2}},
        {"disconnect": {"user": "nobody"}},
    ]);
    let results = posted(&server, "/v1/batch", &json!({"commands": commands}))["results"].take();
    assert_eq!(results[0]["offset"], 3);
    assert_eq!(results[1]["results"][0]["offset"], 4);
    assert_eq!(results[2], json!({"delivered": 1}));
    assert_eq!(results[3]["error"]["code"], "bad_request");
    assert_eq!(results[4], json!({"subscribed": 1}));
    assert_eq!(results[5], json!({"unsubscribed": 1}));
    assert_eq!(results[6]["error"]["code"], "bad_request");
    assert_eq!(results[7], json!({"disconnected": 0}));
    for body in [
        json!({"commands": []}),
        json!({"commands": [{"shout": {}}]}),
        json!({"commands": [{"publish": ["a", 5]}]}),
        json!({"commands": [["publish", {"channel": "a", "content": 5}]]}),
        json!({}),
    ] {
        is_bad(&server, "/v1/batch", &body);
    }
}

#[test]
fn send_reaches_users_connections_or_all() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut anns = [0, 1].map(|_| Client::open_as(&server, "ann"));
    let mut bob = Client::open_as(&server, "bob");
    let send = |body: Value| posted(&server, "/v1/send", &body)["delivered"].take();
    assert_eq!(send(json!({"user": "ann", "content": "ann's"})), 2);
    assert_eq!(send(json!({"connection": bob.connection(), "content": "bob's"})), 1);
    assert_eq!(send(json!({"all": true, "content": "all's"})), 3);
    assert_eq!(send(json!({"user": "nobody", "content": 1})), 0);
    for ann in &mut anns {
        assert_eq!(ann.contents(2), ["ann's", "all's"]);
    }
    let message = bob.expect("message");
    assert!(message["channel"].is_null() && message["offset"].is_null(), "{message}");
    assert_eq!(bob.contents(1), ["all's"]);
    for body in [
        json!({"content": 1}),
        json!({"all": false, "content": 1}),
        json!({"user": "ann", "all": true, "content": 1}),
        json!({"connection": "no id", "content": 1}),
        json!({"user": "ann"}),
    ] {
        is_bad(&server, "/v1/send", &body);
    }
}

/// The answer is that of the channel's home, which may reject some or all.
#[test]
fn a_subscription_is_counted_when_the_home_has_admitted_it() {
    let server = Server::start(&format!(
        "{KEYS}[[channel]]\npattern = \"*\"\n[[channel]]\npattern = \"small:*\"\nmembers_max = 2\n"
    ));
    let mut anns: Vec<_> = (0..3).map(|_| Client::open_as(&server, "ann")).collect();
    let body = json!({"user": "ann", "channel": "small:a"});
    assert_eq!(posted(&server, "/v1/subscribe", &body), json!({"subscribed": 2}));
    assert_eq!(posted(&server, "/v1/subscribe", &body), json!({"subscribed": 2}), "they are");
    let mut bob = Client::open_as(&server, "bob");
    let body = json!({"user": "bob", "channel": "small:a"});
    let (status, answer) = post(&server, "/v1/subscribe", &body);
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("limit")));
    bob.is_silent("small:a");
    let commands = json!({"commands": [{"subscribe": body}, {"unsubscribe": body}]});
    let results = posted(&server, "/v1/batch", &commands)["results"].take();
    assert_eq!(results[0]["error"]["code"], "limit");
    assert_eq!(results[1], json!({"unsubscribed": 0}));
    let body = json!({"user": "nobody", "channel": "small:a"});
    assert_eq!(posted(&server, "/v1/subscribe", &body), json!({"subscribed": 0}));
    let received: usize = anns
        .iter_mut()
        .map(|one| {
            one.send(json!({"type": "ping"}).to_string());
            usize::from(one.next()["type"] == "subscribed")
        })
        .sum();
    assert_eq!(received, 2);
}

#[test]
fn subscribe_and_unsubscribe_on_the_servers_word() {
    let server = Server::start(&format!(
        "{KEYS}[[channel]]\npattern = \"push:*\"\nsubscribe = \"server\"\npublish = \"server\"\n"
    ));
    let mut ann = Client::open_as(&server, "ann");
    ann.refused(json!({"type": "subscribe", "channel": "push:1"}), "forbidden");
    let body = json!({"user": "ann", "channel": "push:1"});
    assert_eq!(posted(&server, "/v1/subscribe", &body), json!({"subscribed": 1}));
    let received = ann.expect("subscribed");
    assert!(received["id"].is_null() && received["grant"].is_string(), "{received}");
    posted(&server, "/v1/publish", &json!({"channel": "push:1", "content": 1}));
    assert_eq!(ann.contents(1), [1]);
    assert_eq!(posted(&server, "/v1/unsubscribe", &body), json!({"unsubscribed": 1}));
    let ended = ann.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["reason"]), (&json!("push:1"), &json!("server")));
    assert_eq!(posted(&server, "/v1/unsubscribe", &body), json!({"unsubscribed": 0}));
    for path in ["/v1/subscribe", "/v1/unsubscribe"] {
        for body in [
            json!({"user": "ann"}),
            json!({"channel": "a"}),
            json!({"user": "ann", "channel": "é"}),
            json!({"user": "ann", "connection": ann.connection(), "channel": "a"}),
        ] {
            is_bad(&server, path, &body);
        }
    }
    for body in [
        json!({}),
        json!({"user": "a", "connection": "b"}),
        json!({"connection": "b"}),
        json!({"user": "a", "reason": "r".repeat(124)}),
    ] {
        is_bad(&server, "/v1/disconnect", &body);
    }
}

#[test]
fn channels_are_listed_and_looked_at() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    for n in 0..5 {
        client.subscribe(&format!("room:{n}"));
    }
    let at = client.publish("other", &json!("kept"));
    let listed = got(&server, "/v1/channels?prefix=room:");
    let expected: Value = (0..5).map(|n| (format!("room:{n}"), json!({"members": 1}))).collect();
    assert_eq!(listed, json!({"channels": expected}));
    let (mut names, mut path) = (Vec::new(), "/v1/channels?limit=2".to_owned());
    loop {
        let page = got(&server, &path);
        names.extend(page["channels"].as_object().unwrap().keys().cloned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/channels?limit=2&after={next}");
    }
    assert_eq!(names.len(), 6);
    assert!(names.is_sorted(), "{names:?}");
    let described = got(&server, "/v1/channels/other");
    assert_eq!(
        described,
        json!({"channel": "other", "epoch": at["epoch"], "offset": 1,
        "members": 0, "users": 0})
    );
    assert_eq!(got(&server, "/v1/channels/room%3A1")["members"], 1);
    assert_eq!(refused(get(&server, "/v1/channels/nothing")), (404, "not_found".into()));
    for path in [
        "/v1/channels?limit=0",
        "/v1/channels?limit=1001",
        "/v1/channels?limit=x",
        "/v1/channels?colour=red",
        "/v1/channels/with%20space",
        "/v1/channels/a/history?limit=0",
        "/v1/channels/a/history?offset=1",
        "/v1/channels/a/history?epoch=x",
        "/v1/channels/a/history?offset=-1&epoch=x",
        "/v1/channels/a/history?reverse=maybe",
        "/v1/channels/a/presence?limit=1000",
        "/v1/channels/%ff",
    ] {
        assert_eq!(refused(get(&server, path)), (400, "bad_request".into()), "{path}");
    }
}

#[test]
fn history_is_read_and_removed() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let places: Vec<_> =
        (1..=5).map(|n| position(&client.publish("a/b", &json!({"n": n, "big": 1e30})))).collect();
    let contents = |query: &str| {
        let page = got(&server, &format!("/v1/channels/a%2Fb/history{query}"));
        assert_eq!(position(&page), places[4]);
        let messages = page["messages"].as_array().unwrap().clone();
        messages.iter().map(|one| one["content"]["n"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(contents(""), [1, 2, 3, 4, 5]);
    assert_eq!(contents("?limit=2&reverse=true"), [5, 4]);
    let since = format!("?epoch={}&offset=3", text(&places[0], "epoch"));
    assert_eq!(contents(&since), [4, 5]);
    assert_eq!(delete(&server, "/v1/channels/a%2Fb/history"), (200, places[4].clone()));
    assert_eq!(contents(""), [0_u64; 0]);
    assert_eq!(client.publish("a/b", &json!(6))["offset"], 6);
}

#[test]
fn connections_are_listed_and_looked_at() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut clients: Vec<_> =
        (0..7).map(|n| Client::open_as(&server, ["ann", "bob"][n % 2])).collect();
    let ids: BTreeSet<_> = clients.iter().map(Client::connection).collect();
    let all = |query: &str| {
        let (mut found, mut after) = (BTreeSet::new(), String::new());
        loop {
            let page = got(&server, &format!("/v1/connections?{query}{after}"));
            for one in page["connections"].as_array().unwrap() {
                assert!(found.insert(text(one, "connection")), "listed once");
            }
            let Some(next) = page["next"].as_str() else { return found };
            after = format!("&after={next}");
        }
    };
    assert_eq!(all("limit=2"), ids);
    assert_eq!(all("limit=1&user=bob").len(), 3);
    assert_eq!(all("address=127.0.0.1"), ids);
    assert_eq!(all("address=127.0.0.2").len(), 0);
    let client = &mut clients[0];
    client.subscribe("a");
    client.subscribe("b");
    client.publish("a", &json!(1));
    client.expect("message");
    let one = got(&server, &format!("/v1/connections/{}", client.connection()));
    let Value::Object(fields) = &one else { panic!("{one}") };
    let local = client.raw.stream.local_addr().unwrap().to_string();
    assert_eq!(
        (&one["user"], &one["address"], &one["path"]),
        (&json!("ann"), &json!(local), &json!("/ws"))
    );
    assert_eq!(
        (&one["subscriptions"], &one["shard"]),
        (&json!(["a", "b"]), &json!(client.shard()))
    );
    assert_eq!(
        (&one["messages_received"], &one["dropped"], &one["queue_bytes"]),
        (&json!(3), &json!(0), &json!(0))
    );
    for name in ["since", "bytes_received", "bytes_sent", "messages_sent"] {
        assert!(fields[name].as_u64().unwrap() > 0, "{name}: {one}");
    }
    for name in ["segment_bytes", "congestion_window", "retransmit_timeout_us"] {
        assert!(one["tcp"][name].as_u64().unwrap() > 0, "{name}: {one}");
    }
    assert!(one["tcp_error"].is_null(), "{one}");
    let listed = got(&server, "/v1/connections");
    assert!(listed["connections"][0]["tcp"].is_null(), "only where it is asked: {listed}");
    let id = client.connection();
    clients.remove(0).close();
    wait_until("it is gone", || get(&server, &format!("/v1/connections/{id}")).0 == 404);
    for path in [
        "/v1/connections/x",
        "/v1/connections?limit=0",
        "/v1/connections?after=x",
        "/v1/connections?address=here",
        "/v1/connections?x=1",
    ] {
        assert_eq!(refused(get(&server, path)), (400, "bad_request".into()), "{path}");
    }
}

#[test]
fn what_runs_here_is_told() {
    let server = Server::start("");
    let node = got(&server, "/v1/node");
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    let memory = got(&server, "/v1/memory");
    assert!(memory["classes"].as_object().unwrap().len() > 4, "{memory}");
    let histograms = got(&server, "/v1/histograms");
    assert!(histograms.is_object() || histograms.is_array());
    assert_eq!(got(&server, "/v1/openapi.json")["openapi"], "3.1.0");
}

#[test]
fn what_is_no_call_is_refused_in_the_same_form() {
    let server = Server::start("");
    let parsed = |line: &str, headers: &str, body: &str| {
        let answer = call(&server, line, headers, body);
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    };
    let json = "Content-Type: application/json\r\n";
    for (line, headers, body, status, code) in [
        ("GET /v1/nothing", "", "", 404, "not_found"),
        ("GET /v1/publish", "", "", 405, "method_not_allowed"),
        ("POST /v1/publish", "", "{}", 415, "unsupported_media_type"),
        ("POST /v1/publish", "Content-Type: text/plain\r\n", "{}", 415, "unsupported_media_type"),
        ("POST /v1/publish", json, "{\"channel\":", 400, "bad_request"),
        ("POST /v1/publish", json, "", 400, "bad_request"),
        ("DELETE /v1/channels/a/history", "", "{}", 415, "unsupported_media_type"),
        ("PUT /v1/publish", "", "", 405, "method_not_allowed"),
        // The method comes before the kind of body.
        ("POST /v1/node", "", "{}", 405, "method_not_allowed"),
        (
            "PUT /v1/channels/a/history",
            "Content-Type: text/plain\r\n",
            "x",
            405,
            "method_not_allowed",
        ),
        ("POST /v1/nothing", "", "{}", 404, "not_found"),
        ("GET /v1/node", "Origin: http://127.0.0.1\r\n", "", 403, "forbidden"),
    ] {
        assert_eq!(refused(parsed(line, headers, body)), (status, code.into()), "{line}");
    }
    let too_long = format!("{json}Content-Length: 17000000\r\n");
    assert_eq!(refused(parsed("POST /v1/publish", &too_long, "")), (413, "too_large".into()));
}

#[test]
fn without_the_hub_there_is_nothing_to_call() {
    let server = Server::start("[[route]]\npath = \"/echo\"\n");
    let publish = json!({"channel": "a", "content": 1});
    assert_eq!(refused(post(&server, "/v1/publish", &publish)), (404, "not_found".into()));
    for path in ["/v1/channels", "/v1/channels/a", "/v1/channels/a/history", "/v1/connections"] {
        assert_eq!(refused(get(&server, path)), (404, "not_found".into()), "{path}");
    }
}

/// More than a shard inspects in one turn.
#[test]
fn very_many_channels_are_listed_once_each_in_order() {
    let server = Server::start("");
    let name = |n: usize| format!("c{n:05}");
    let publish = |n| json!({"publish": {"channel": name(n), "content": n}});
    let commands: Vec<_> = (0..10_000).map(publish).collect();
    posted(&server, "/v1/batch", &json!({"commands": commands}));
    let mut listed = Vec::new();
    let mut query = "?limit=1000".to_owned();
    loop {
        let page = got(&server, &format!("/v1/channels{query}"));
        listed.extend(page["channels"].as_object().unwrap().keys().cloned());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=1000&after={next}");
    }
    listed.sort_unstable();
    assert!(listed.into_iter().eq((0..10_000).map(name)));
    let page = got(&server, "/v1/channels?prefix=c0999&limit=5");
    assert_eq!((page["channels"].as_object().unwrap().len(), &page["next"]), (5, &json!("c09994")));
}

#[test]
fn the_last_round_trip_is_told() {
    let server =
        Server::start("[[route]]\npath = \"/ws\"\nhandler = \"hub\"\nping_interval_ms = 100\n");
    let mut client = Client::open(&server);
    let id = client.connection();
    let received = || got(&server, &format!("/v1/connections/{id}"))["rtt_us"].as_u64();
    wait_until("a ping is answered", || {
        // Asking has the client read, and answer pings.
        client.get(json!({"type": "ping"}), "pong");
        received().is_some()
    });
    assert!(received().is_some_and(|rtt_us| rtt_us > 0));
}

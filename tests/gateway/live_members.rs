//! Clients of gateway routes as members of channels.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::application::{Application, programs};
use crate::live::{Instance, Visitor, start, start_instance, with_each_live};
use crate::live_services::{HUB, ask, join};
use crate::peer::Peer;
use crate::record::{
    CLOSE, COMMAND, JOIN, JOINED, LEAVE, LEFT, MOVED, NO_SESSION, OPEN, RESULT, Record, Session,
};
use crate::support::{Server, metrics, wait_until};

/// A server with a hub route, and a link to a backend that the test scripts.
fn linked(tables: &str) -> (Instance, Server, Peer) {
    let instance = Instance::new();
    let port = instance.port();
    let accepting = std::thread::spawn(move || {
        let link = instance.link();
        (instance, link)
    });
    let tables = format!("accept = \"at_once\"\n{HUB}{tables}");
    let server = start(&[port], "link_timeout_ms = 60_000\n", &tables);
    let (instance, link) = accepting.join().unwrap();
    (instance, server, link)
}

/// A client of the gateway, with its session and its connection.
fn visit(server: &Server, link: &mut Peer) -> (Visitor, Session, Value) {
    let client = Visitor::connect(server, "");
    let opened = link.expect(OPEN);
    (client, opened.session, opened.json()["connection"].clone())
}

#[track_caller]
fn join_channel(link: &mut Peer, session: Session, channel: &str) {
    link.send(&[Record::new(JOIN, session, 7, channel)]);
    assert_eq!(link.next(), Record::new(JOINED, session, 7, channel));
}

/// Expects that a client is not a member of a channel, for this reason.
#[track_caller]
fn expect_left(link: &mut Peer, session: Session, number: u32, (channel, reason): (&str, &str)) {
    let left = link.expect(LEFT);
    assert_eq!((left.session, left.number), (session, number), "{left:?}");
    let body = left.json();
    assert_eq!((&body["channel"], &body["reason"]), (&json!(channel), &json!(reason)), "{body}");
    assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
}

#[track_caller]
fn post(server: &Server, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let headers = format!(
        "Host: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        server.admin(),
        body.len()
    );
    let stream = TcpStream::connect(server.admin()).unwrap();
    let answer = metrics::request(stream, &format!("POST {path}"), &headers, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[track_caller]
fn publish(server: &Server, channel: &str, content: &Value) {
    post(server, "/v1/publish", &json!({"channel": channel, "content": content}));
}

/// Waits until a channel has so many members.
#[track_caller]
fn await_members(server: &Server, channel: &str, count: u64) {
    wait_until("the members are counted", || {
        let (_, described) = metrics::get(server.admin(), &format!("/v1/channels/{channel}"));
        let described: Value = serde_json::from_str(&described).unwrap();
        described["members"] == count
    });
}

#[test]
fn members_get_the_content_of_publications() {
    let (_instance, server, mut link) = linked("");
    let (mut ann, of_ann, _) = visit(&server, &mut link);
    let (mut bob, of_bob, _) = visit(&server, &mut link);
    let (mut other, of_other, _) = visit(&server, &mut link);
    let mut subscriber = join(&server);
    let subscribe = json!({"type": "subscribe", "id": 1, "channel": "news"});
    assert_eq!(ask(&mut subscriber, &subscribe)["type"], "subscribed");
    join_channel(&mut link, of_ann, "news");
    join_channel(&mut link, of_bob, "news");
    join_channel(&mut link, of_other, "others");
    await_members(&server, "news", 3);

    publish(&server, "news", &json!({"n": [1, "x"]}));
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.hear(), r#"{"n":[1,"x"]}"#);
    }
    assert_eq!(subscriber.hear_json()["content"], json!({"n": [1, "x"]}));
    // A record of the link does the same; a string is sent as its characters.
    let command = json!({"publish": {"channel": "news", "content": "say \"hi\"\n"}});
    link.send(&[Record::new(COMMAND, NO_SESSION, 1, command.to_string())]);
    assert_eq!(link.expect(RESULT).number, 1);
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.hear(), "say \"hi\"\n");
    }
    assert_eq!(subscriber.hear_json()["content"], "say \"hi\"\n");
    // A client of the hub reaches them as well.
    let say = json!({"type": "publish", "id": 2, "channel": "news", "content": 3, "echo": false});
    assert_eq!(ask(&mut subscriber, &say)["type"], "published");
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.hear(), "3");
    }

    link.send(&[Record::new(LEAVE, of_ann, 0, "news")]);
    expect_left(&mut link, of_ann, 0, ("news", "server"));
    await_members(&server, "news", 2);
    publish(&server, "news", &json!(4));
    assert_eq!(bob.hear(), "4");
    // Nothing has overtaken what follows.
    for (client, session) in [(&mut ann, of_ann), (&mut other, of_other)] {
        link.send(&[Record::text(session, 0, "last")]);
        assert_eq!(client.hear(), "last");
    }
    drop(bob);
    assert_eq!(link.expect(CLOSE).session, of_bob);
    await_members(&server, "news", 1);
}

#[test]
fn the_libraries_make_clients_members() {
    with_each_live(HUB, |application, server| {
        let (mut ann, mut bob) = (Visitor::connect(server, ""), Visitor::connect(server, ""));
        let mut subscriber = join(server);
        let subscribe = json!({"type": "subscribe", "id": 1, "channel": "news"});
        assert_eq!(ask(&mut subscriber, &subscribe)["type"], "subscribed");
        for client in [&mut ann, &mut bob] {
            client.say("join news");
            let events = application.events_until(|event| event["event"] == "joined");
            assert_eq!(events.last().unwrap()["channels"], json!(["news"]));
        }
        ann.say("join news:*");
        let events = application.events_until(|event| event["event"] == "refused");
        assert_eq!(events.last().unwrap()["code"], "bad_request");
        ann.say("publish news hello all");
        assert_eq!((&*ann.hear(), &*bob.hear()), ("hello all", "hello all"));
        assert_eq!(subscriber.hear_json()["content"], "hello all");
        bob.say("leave news");
        application.events_until(|event| event["event"] == "left" && event["reason"] == "server");
        ann.say("publish news more");
        assert_eq!(ann.hear(), "more");
        bob.say("channels");
        assert_eq!(bob.hear(), "", "nothing was published to it");
    });
}

#[test]
fn a_planned_move_keeps_memberships() {
    for program in programs() {
        println!("with {}", program.display());
        let instances = ["a", "b"].map(|name| start_instance(&program, name, 0));
        let server = start(&instances.each_ref().map(Application::port), "", HUB);
        let mut client = Visitor::connect(&server, "");
        let is_on_first = client.who()["instance"] == "a";
        let [first, second] = &instances;
        let (from, to) = if is_on_first { (first, second) } else { (second, first) };
        client.say("join news");
        from.events_until(|event| event["event"] == "joined");
        client.say("drain");
        from.events_until(|event| event["event"] == "drained");
        client.say("channels");
        assert_eq!(client.hear(), "news");
        to.events_until(|event| event["text"] == "channels");
        client.say("publish news hello");
        assert_eq!(client.hear(), "hello");
    }
}

#[test]
fn what_cannot_be_joined_is_reported_and_the_link_stays() {
    let tables = "[hub]\nchannels_per_connection_max = 2\n\
        [[channel]]\npattern = \"room:*\"\nmembers_max = 1\n";
    let (_instance, server, mut link) = linked(tables);
    let (_ann, of_ann, _) = visit(&server, &mut link);
    let (mut bob, of_bob, _) = visit(&server, &mut link);
    let long = "x".repeat(300);
    for (number, channel) in (1..).zip(["", "no spaces", "room:*", "grüße"]) {
        link.send(&[Record::new(JOIN, of_ann, number, channel)]);
        expect_left(&mut link, of_ann, number, (channel, "bad_request"));
    }
    link.send(&[Record::new(JOIN, of_ann, 9, &long)]);
    expect_left(&mut link, of_ann, 9, (&long[..256], "bad_request"));
    join_channel(&mut link, of_ann, "room:1");
    link.send(&[Record::new(JOIN, of_bob, 1, "room:1")]);
    expect_left(&mut link, of_bob, 1, ("room:1", "limit"));
    // To join twice changes nothing, and is answered.
    join_channel(&mut link, of_ann, "room:1");
    join_channel(&mut link, of_ann, "room:2");
    link.send(&[Record::new(JOIN, of_ann, 2, "room:3")]);
    expect_left(&mut link, of_ann, 2, ("room:3", "limit"));
    // What is not there cannot be left.
    link.send(&[Record::new(LEAVE, of_bob, 0, "room:9"), Record::text(of_bob, 0, "well")]);
    assert_eq!(bob.hear(), "well");
    link.send(&[Record::new(LEAVE, of_ann, 0, "room:1")]);
    expect_left(&mut link, of_ann, 0, ("room:1", "server"));
    // The channel's home learns of it later, if it is on another shard.
    let joined = Record::new(JOINED, of_bob, 7, "room:1");
    wait_until("the place is free", || {
        link.send(&[Record::new(JOIN, of_bob, 7, "room:1")]);
        link.next() == joined
    });
    assert_eq!(server.metrics().get("links_lost_total{backend=\"app\"}"), 0);
}

#[test]
fn a_member_stays_one_on_another_link() {
    let (instance, server, mut link) = linked("");
    let (mut ann, of_ann, connection) = visit(&server, &mut link);
    join_channel(&mut link, of_ann, "a");
    join_channel(&mut link, of_ann, "b");
    drop(link);
    wait_until("the link ends", || server.metrics().get("links_ready{backend=\"app\"}") == 0);
    publish(&server, "a", &json!("while there is no link"));
    assert_eq!(ann.hear(), "while there is no link");
    let mut link = instance.link();
    let opened = link.expect(OPEN);
    assert_eq!((opened.flags, &opened.json()["connection"]), (MOVED, &connection));
    for channel in ["a", "b"] {
        assert_eq!(link.next(), Record::new(JOINED, opened.session, 0, channel));
    }
    publish(&server, "b", &json!(1));
    assert_eq!(ann.hear(), "1");
    link.send(&[Record::new(LEAVE, opened.session, 0, "a")]);
    expect_left(&mut link, opened.session, 0, ("a", "server"));
    drop(ann);
    link.expect(CLOSE);
    await_members(&server, "b", 0);
}

#[test]
fn commands_end_memberships_and_members() {
    let (_instance, server, mut link) = linked("");
    let (mut ann, of_ann, connection) = visit(&server, &mut link);
    // Its user is known only later.
    join_channel(&mut link, of_ann, "a");
    let accept = Record::new(crate::record::ACCEPT, of_ann, 0, r#"{"user":"ann"}"#);
    link.send(&[accept, Record::text(of_ann, 0, "named")]);
    assert_eq!(ann.hear(), "named");
    let unsubscribe = |whom: &str, value: &Value, channel: &str| {
        post(&server, "/v1/unsubscribe", &json!({whom: value, "channel": channel}))
    };
    let user = json!("ann");
    assert_eq!(unsubscribe("user", &user, "b"), json!({"unsubscribed": 0}));
    assert_eq!(unsubscribe("user", &user, "a"), json!({"unsubscribed": 1}));
    expect_left(&mut link, of_ann, 0, ("a", "server"));
    join_channel(&mut link, of_ann, "a");
    assert_eq!(unsubscribe("connection", &connection, "a"), json!({"unsubscribed": 1}));
    expect_left(&mut link, of_ann, 0, ("a", "server"));
    join_channel(&mut link, of_ann, "a");
    let (_, described) = metrics::get(server.admin(), "/v1/connections?user=ann");
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["connections"][0]["subscriptions"], json!(["a"]), "{described}");
    // The application subscribes its clients by records.
    let subscribe = json!({"user": "ann", "channel": "b"});
    assert_eq!(post(&server, "/v1/subscribe", &subscribe), json!({"subscribed": 0}));
    assert_eq!(post(&server, "/v1/disconnect", &json!({"user": "ann"}))["disconnected"], 1);
    assert_eq!(ann.closed().1, 4403);
    link.expect(CLOSE);
    await_members(&server, "a", 0);
}

#[test]
fn a_member_that_does_not_read_is_subject_to_the_policy_of_the_channel() {
    let tables = "[limits]\noutbox_bytes_max = 262_144\n\
        [[channel]]\npattern = \"must:*\"\nslow_reader = \"close\"\n\
        [[channel]]\npattern = \"may:*\"\nslow_reader = \"drop_oldest\"\n";
    let (_instance, server, mut link) = linked(tables);
    let (mut slow, of_slow, _) = visit(&server, &mut link);
    let (mut lossy, of_lossy, _) = visit(&server, &mut link);
    join_channel(&mut link, of_slow, "must:1");
    join_channel(&mut link, of_lossy, "may:1");
    let content = json!("x".repeat(60_000));
    let mut count = 0;
    while server.metrics().get("slow_reader_closes_total") == 0 {
        publish(&server, "must:1", &content);
        count += 1;
        assert!(count < 1_000, "nothing closes the slow reader");
    }
    let close = link.expect(CLOSE);
    assert_eq!((close.session, close.number), (of_slow, 4413));
    assert!(slow.closed().0 < count);
    let dropped = || server.metrics().get("dropped_oldest_total");
    let mut count = 0;
    while dropped() == 0 {
        publish(&server, "may:1", &content);
        count += 1;
        assert!(count < 1_000, "nothing is dropped");
    }
    publish(&server, "may:1", &json!("last"));
    let mut received = 0;
    while lossy.hear() != "last" {
        received += 1;
    }
    assert_eq!(received, count - dropped());
}

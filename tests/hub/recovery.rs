//! Recovery by `since`: all missed messages, or none.

use serde_json::{Value, json};

use crate::client::{Client, delete, got, position, text};
use crate::support::{Server, wait_until};

/// A channel with these contents; returns the place behind each, the first before all of them.
fn filled(client: &mut Client, channel: &str, count: u64) -> Vec<Value> {
    let before = position(&client.subscribe(channel));
    client.unsubscribe(channel);
    let after = (0..count).map(|n| position(&client.publish(channel, &json!(n))));
    std::iter::once(before).chain(after).collect()
}

fn lost(client: &mut Client, channel: &str, since: &Value, stands: &Value) {
    let subscribed = client.subscribe_since(channel, since);
    assert_eq!(subscribed["recovered"], false, "{since}");
    assert_eq!(position(&subscribed), *stands);
    client.is_silent(channel);
}

#[test]
fn what_was_missed_comes_behind_the_reply_in_its_order() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let places = filled(&mut client, "room", 10);
    for from in 0..=10 {
        let subscribed = client.subscribe_since("room", &places[from]);
        assert_eq!(subscribed["recovered"], true, "{from}");
        assert_eq!(position(&subscribed), places[10]);
        let expected: Vec<_> = (from..10).map(|n| json!(n)).collect();
        assert_eq!(client.contents(10 - from), expected);
        client.is_silent("room");
        client.unsubscribe("room");
    }
}

#[test]
fn on_a_channel_that_is_subscribed_it_starts_again_there() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let places = filled(&mut client, "room", 3);
    client.subscribe("room");
    assert_eq!(client.subscribe_since("room", &places[1])["recovered"], true);
    assert_eq!(client.contents(2), [1, 2]);
    client.publish("room", &json!("live"));
    assert_eq!(client.contents(1), ["live"], "it is one member, not two");
    client.unsubscribe("room");
    client.publish("room", &json!("unheard"));
    client.is_silent("room");
}

#[test]
fn recovery_is_never_partial() {
    let server = Server::start(
        "[hub]\nrecover_messages_max = 5\nrecover_bytes_max = 5_000\n\
         [[channel]]\npattern = \"*\"\nhistory = 8\n[[channel]]\npattern = \"none\"\nhistory = 0\n",
    );
    let mut client = Client::open(&server);
    let places = filled(&mut client, "room", 10);
    let last = &places[10];
    // Trimmed away; more than are recovered at once; not there yet; never there.
    lost(&mut client, "room", &places[1], last);
    lost(&mut client, "room", &places[4], last);
    lost(&mut client, "room", &json!({"epoch": last["epoch"], "offset": 11}), last);
    lost(&mut client, "room", &json!({"epoch": last["epoch"], "offset": u64::MAX}), last);
    for epoch in ["", "0000000000000000", "no epoch", "ffffffffffffffff"] {
        lost(&mut client, "room", &json!({"epoch": epoch, "offset": 10}), last);
    }
    assert_eq!(client.subscribe_since("room", &places[5])["recovered"], true);
    assert_eq!(client.contents(5).len(), 5);

    let big = json!("b".repeat(3000));
    let before = position(&client.subscribe("big"));
    client.publish("big", &big);
    client.publish("big", &big);
    let now = position(&client.publish("big", &big));
    client.contents(3);
    lost(&mut client, "big", &before, &now);

    let places = filled(&mut client, "none", 2);
    lost(&mut client, "none", &places[1], &places[2]);
    let same = client.subscribe_since("none", &places[2]);
    assert_eq!(same["recovered"], true, "nothing was missed, and none is needed");
}

/// However the position was read, and although nothing keeps the channel in the server.
#[test]
fn a_position_that_was_read_before_the_first_message_recovers_it() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    for (opened, (channel, way)) in
        [("a", "request"), ("b", "call"), ("c", "removal")].into_iter().enumerate()
    {
        let opened = opened as u64;
        let place = match way {
            "request" => client.get(json!({"type": "history", "channel": channel}), "history"),
            "call" => got(&server, &format!("/v1/channels/{channel}/history")),
            _ => delete(&server, &format!("/v1/channels/{channel}/history")).1,
        };
        assert_eq!(
            (&place["offset"], server.metrics().get("channels")),
            (&json!(0), opened),
            "{way}"
        );
        client.publish(channel, &json!("between"));
        let (epoch, path) = (text(&place, "epoch"), format!("/v1/channels/{channel}/history"));
        let page = got(&server, &format!("{path}?epoch={epoch}&offset=0"));
        assert_eq!(page["messages"][0]["content"], "between", "{way}");
        let page = json!({"type": "history", "channel": channel, "since": position(&place)});
        assert_eq!(client.get(page, "history")["messages"][0]["content"], "between", "{way}");
        let back = client.subscribe_since(channel, &position(&place));
        assert_eq!((&back["recovered"], &back["offset"]), (&json!(true), &json!(1)), "{way}");
        assert_eq!(client.contents(1), ["between"], "{way}");
        client.unsubscribe(channel);
        delete(&server, &path);
    }
}

#[test]
fn trimming_removes_messages_and_never_positions() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let places = filled(&mut client, "room", 3);
    let (status, trimmed) = delete(&server, "/v1/channels/room/history");
    assert_eq!((status, &trimmed), (200, &places[3]));
    lost(&mut client, "room", &places[2], &places[3]);
    assert_eq!(client.subscribe_since("room", &places[3])["recovered"], true);
    assert_eq!(client.publish("room", &json!(3))["offset"], 4);
    assert_eq!(client.contents(1), [3]);
    assert_eq!(client.subscribe_since("room", &places[3])["recovered"], true);
    assert_eq!(client.contents(1), [3]);
}

/// While others publish, members come and go, each from where it was: nothing is lost, nothing
/// comes twice.
#[test]
fn between_the_reply_and_what_follows_nothing_is_lost() {
    let server = Server::start("[[channel]]\npattern = \"*\"\nhistory = 1000\n");
    let address = &server;
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::open(address);
                    (0..300).for_each(|n| drop(client.publish("room", &json!(n))));
                })
            })
            .collect();
        let members: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Client::open(address);
                    let start = position(&client.subscribe("room"));
                    let mut stands = start.clone();
                    let mut rounds = 0;
                    while stands["offset"].as_u64().unwrap() < 600 {
                        let message = client.expect("message");
                        let offset = stands["offset"].as_u64().unwrap() + 1;
                        assert_eq!(message["offset"], offset, "member {number}");
                        stands["offset"] = offset.into();
                        if offset.is_multiple_of(7) {
                            client.reset();
                            client = Client::open(address);
                            let back = client.subscribe_since("room", &stands);
                            assert_eq!(back["recovered"], true, "member {number}: {back}");
                            rounds += 1;
                        }
                    }
                    client.is_silent("room");
                    rounds
                })
            })
            .collect();
        publishers.into_iter().for_each(|one| one.join().unwrap());
        let rounds: u32 = members.into_iter().map(|one| one.join().unwrap()).sum();
        assert!(rounds > 4, "they came back {rounds} times");
    });
    let metrics = server.metrics();
    assert_eq!(metrics.get("dropped_oldest_total"), 0);
}

/// How long a reader was away is not how long a delivery takes.
#[test]
fn recovered_messages_count_as_deliveries_and_are_not_in_their_latency() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    let places = filled(&mut client, "room", 3);
    client.subscribe_since("room", &places[0]);
    client.contents(3);
    let metrics = server.metrics();
    assert_eq!(metrics.get("publish_to_delivery_seconds_count"), 0);
    assert_eq!((metrics.get("recoveries_total"), metrics.get("deliveries_total")), (1, 3));
    client.unsubscribe("room");
    // Nothing was missed, so nothing is recovered.
    assert_eq!(client.subscribe_since("room", &places[3])["recovered"], true);
    assert_eq!(server.metrics().get("recoveries_total"), 1);
    client.publish("room", &json!("live"));
    wait_until("the delivery is measured", || {
        server.metrics().get("publish_to_delivery_seconds_count") == 1
    });
}

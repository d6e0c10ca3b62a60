//! Clients that read more slowly than the application sends, and applications that do not handle
//! what clients send.

use serde_json::json;

use crate::live::{Instance, Visitor, start, with_each_live};
use crate::record::{ACCEPT, ACK, OPEN, Record, Session, TEXT};
use crate::support::wait_until;

#[test]
fn an_application_learns_that_a_client_is_slow_and_ready_again() {
    with_each_live("[limits]\noutbox_bytes_max = 262_144\n", |application, server| {
        let mut client = Visitor::connect(server, "");
        client.say("fill");
        let events = application.events_until(|event| event["event"] == "filled");
        assert!(events.iter().any(|event| event["event"] == "slow"), "{events:?}");
        let count = events.last().unwrap()["count"].as_u64().unwrap();
        for _ in 0..count {
            assert_eq!(client.hear().len(), 65_536);
        }
        application.events_until(|event| event["event"] == "ready");
        client.echo("well");
    });
}

#[test]
fn a_client_that_does_not_read_is_closed_and_others_are_served() {
    with_each_live("", |application, server| {
        let (mut slow, mut other) = (Visitor::connect(server, ""), Visitor::connect(server, ""));
        let connection = slow.who()["connection"].clone();
        // More than the sockets on the way hold, and the queue.
        slow.say("flood 600");
        application.events_until(|event| {
            event["event"] == "close" && event["connection"] == connection && event["code"] == 4413
        });
        other.echo("well");
        let (count, code, _) = slow.closed();
        assert_eq!(code, 4413);
        assert!(count < 600, "{count} messages");
    });
}

/// Expects these messages of a session.
#[track_caller]
fn expect_texts(link: &mut crate::peer::Peer, session: Session, numbers: std::ops::Range<u32>) {
    for number in numbers {
        assert_eq!(link.next(), Record::text(session, number, &number.to_string()));
    }
}

#[test]
fn a_client_whose_messages_are_not_acknowledged_waits_and_others_do_not() {
    let instance = Instance::new();
    let port = instance.port();
    let accepting = std::thread::spawn(move || instance.link());
    let route = "accept = \"at_once\"\nping_interval_ms = 200\npong_timeout_ms = 2000\n";
    let server = start(&[port], "link_timeout_ms = 60_000\n", route);
    let mut link = accepting.join().unwrap();
    let mut waiting = Visitor::connect(&server, "");
    let first = link.expect(OPEN).session;
    (1..=200).for_each(|number| waiting.say(&number.to_string()));
    expect_texts(&mut link, first, 1..65);

    let mut other = Visitor::connect(&server, "");
    let second = link.expect(OPEN).session;
    assert_ne!(first, second);
    for number in 1..=100 {
        other.say(&number.to_string());
        // Nothing of the other session is between these.
        expect_texts(&mut link, second, number..number + 1);
        link.send(&[Record::text(second, 0, "answer"), Record::new(ACK, second, number, "")]);
        assert_eq!(other.hear(), "answer");
    }
    drop(other);
    assert_eq!(link.next().session, second, "its close");

    // Its pongs are not read: no heartbeat ends it meanwhile.
    let started = server.metrics().get("uptime_seconds");
    wait_until("heartbeats are due", || server.metrics().get("uptime_seconds") > started + 5);
    for start in [65, 129, 193] {
        link.send(&[Record::new(ACK, first, start - 1, "")]);
        expect_texts(&mut link, first, start..(start + 64).min(201));
    }
    link.send(&[Record::new(ACK, first, 200, ""), Record::text(first, 0, "all")]);
    assert_eq!(waiting.hear(), "all");
    assert_eq!(server.metrics().get("link_unacknowledged_bytes{backend=\"app\"}"), 0);
}

/// The client is connected before that, and its messages are on their way.
#[test]
fn a_late_accept_names_the_client() {
    let instance = Instance::new();
    let port = instance.port();
    let accepting = std::thread::spawn(move || instance.link());
    let server = start(&[port], "link_timeout_ms = 60_000\n", "accept = \"at_once\"\n");
    let mut link = accepting.join().unwrap();
    let mut client = Visitor::connect(&server, "");
    let session = link.expect(OPEN).session;
    client.say("first");
    assert_eq!(link.expect(TEXT).number, 1);
    link.send(&[
        Record::new(ACCEPT, session, 0, json!({"user": "ann"}).to_string()),
        Record::new(ACK, session, 1, ""),
        Record::text(session, 0, "welcome"),
    ]);
    assert_eq!(client.hear(), "welcome");
    let listed = crate::support::metrics::get(server.admin(), "/v1/connections?user=ann").1;
    assert!(listed.contains("\"user\":\"ann\""), "{listed}");
}

//! Backends that send what they must not: their links end, and no client does.

use tungstenite::Message;

use crate::live::{Instance, Visitor, start};
use crate::peer::encode;
use crate::record::{
    ACCEPT, ACK, CLOSE, HELLO, JOIN, JOINED, MANY, MOVED, NO_SESSION, OPEN, REDELIVERED, REJECT,
    Record, SENT, STATE, Session, TEXT,
};
use crate::support::wait_until;

const PATIENT: &str = "link_timeout_ms = 60_000\n";

/// Connects a client, has the backend send this, and checks that the session is opened again on the
/// next link, with the message that was not acknowledged.
fn expect_end(what: &str, code: u16, wrong: impl Fn(Session) -> Message) {
    println!("{what}");
    let instance = Instance::new();
    let port = instance.port();
    let accepting = std::thread::spawn(move || {
        let link = instance.link();
        (instance, link)
    });
    let server = start(&[port], PATIENT, "accept = \"at_once\"\n");
    let (instance, mut link) = accepting.join().unwrap();
    let mut client = Visitor::connect(&server, "");
    let opened = link.expect(OPEN);
    client.say("hello");
    assert_eq!(link.next(), Record::text(opened.session, 1, "hello"));
    link.send_message(wrong(opened.session));
    let (found, reason) = link.close_code();
    assert_eq!(found, code, "{what}: {reason}");
    assert!(!reason.is_empty(), "{what}");

    let mut link = instance.link();
    let again = link.expect(OPEN);
    assert_eq!((again.flags, again.number), (MOVED, 0), "{what}");
    assert_eq!(again.json()["connection"], opened.json()["connection"]);
    let repeat = Record::text(again.session, 1, "hello").with_flags(REDELIVERED);
    assert_eq!(link.next(), repeat);
    link.send(&[Record::new(ACK, again.session, 1, ""), Record::text(again.session, 0, "welcome")]);
    assert_eq!(client.hear(), "welcome");
    assert_eq!(server.metrics().get("links_lost_total{backend=\"app\"}"), 1, "{what}");
}

#[test]
fn wrong_records_end_the_link_and_no_client() {
    type Wrong = fn(Session) -> Record;
    let cases: [(&str, Wrong); 13] = [
        ("ack of what was not sent", |key| Record::new(ACK, key, 2, "")),
        ("a close code of the protocol", |key| Record::new(CLOSE, key, 1006, "")),
        ("a move that Seawall did not begin", |key| {
            Record::new(CLOSE, key, 0, "").with_flags(MOVED)
        }),
        ("text that is not UTF-8", |key| Record::new(TEXT, key, 0, [0xff])),
        ("a long state", |key| Record::new(STATE, key, 0, format!("\"{}\"", "x".repeat(4096)))),
        ("an accept that is not JSON", |key| Record::new(ACCEPT, key, 0, "{")),
        ("a status that is none", |key| Record::new(REJECT, key, 0, "{\"status\":418}")),
        ("a second hello", |_| Record::new(HELLO, NO_SESSION, 1, "{\"instance\":\"x\"}")),
        ("a record of Seawall's", |key| Record::new(SENT, key, 1, "")),
        ("a channel that is not UTF-8", |key| Record::new(JOIN, key, 1, [0xff])),
        ("a report of Seawall's", |key| Record::new(JOINED, key, 1, "a")),
        ("a session of no node", |_| Record::new(TEXT, [0xff; 10], 0, "x")),
        ("sessions that are not there", |_| Record::new(MANY, NO_SESSION, 7, "x")),
    ];
    for (what, wrong) in cases {
        let message = |key| Message::Binary(encode(&[wrong(key)]));
        expect_end(what, 1002, message);
    }
}

#[test]
fn messages_without_records_end_the_link_and_no_client() {
    expect_end("a text message", 1002, |_| Message::Text("hello".into()));
    expect_end("a part of a record", 1002, |key| {
        Message::Binary(encode(&[Record::text(key, 0, "hello")]).slice(..22))
    });
    expect_end("noise", 1002, |_| Message::Binary(vec![0x5a; 1000].into()));
}

#[test]
fn bytes_that_are_no_frames_end_the_link_and_no_client() {
    let instance = Instance::new();
    let port = instance.port();
    let accepting = std::thread::spawn(move || {
        let link = instance.link();
        (instance, link)
    });
    let server = start(&[port], PATIENT, "accept = \"at_once\"\n");
    let (instance, mut link) = accepting.join().unwrap();
    let mut client = Visitor::connect(&server, "");
    link.expect(OPEN);
    link.send_raw(&[0xff; 4096]);
    wait_until("the link ends", || server.metrics().get("links_lost_total{backend=\"app\"}") == 1);
    let mut link = instance.link();
    let again = link.expect(OPEN);
    assert_eq!(again.flags, MOVED);
    link.send(&[Record::text(again.session, 0, "welcome")]);
    assert_eq!(client.hear(), "welcome");
}

//! Links end: with 1002 for records that are wrong, when nothing arrives, and when asked to.

use serde_json::json;
use tungstenite::Message;

use crate::application::{Application, programs, with_each};
use crate::peer::{Peer, encode, opening, session};
use crate::record::{
    ACCEPT, ACK, ASK, BINARY, CLOSE, HELLO, NO_SESSION, OPEN, RESULT, Record, SENT, STATE, TEXT,
};

/// Ends a link by something wrong, and checks that its session ends and others live.
fn expect_end(application: &Application, what: &str, wrong: Message) {
    let mut other = Peer::connect(application.port());
    let mut peer = Peer::connect(application.port());
    peer.open(session(1), "c1");
    application.expect(&json!({"event": "open"}));
    peer.send_message(wrong);
    let (code, reason) = peer.close_code();
    assert_eq!(code, 1002, "{what}: {reason}");
    assert!(!reason.is_empty(), "{what}");
    application.expect(&json!({"event": "close", "connection": "c1", "moved": true}));
    other.open(session(1), "c2");
    application.expect(&json!({"event": "open"}));
    drop(other);
    application.expect(&json!({"event": "close", "connection": "c2"}));
}

#[test]
fn messages_that_are_not_whole_records_end_the_link() {
    with_each(|application| {
        let whole = encode(&[Record::text(session(1), 1, "nothing")]);
        for length in [1, 19, 20, whole.len() - 1] {
            let part = Message::Binary(whole.slice(..length));
            expect_end(application, &format!("{length} bytes of a record"), part);
        }
        let longer = Message::Binary([&whole[..], b"x"].concat().into());
        let mut peer = Peer::connect(application.port());
        peer.send_message(longer);
        assert_eq!(peer.close_code().0, 1002);
        expect_end(application, "a text message", Message::Text("hello".into()));
    });
}

#[test]
fn wrong_frames_end_the_link() {
    let wrong: [(&str, &[u8]); 8] = [
        ("a continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0]),
        ("a message within another", &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0]),
        ("a reserved bit", &[0xc2, 0x80, 0, 0, 0, 0]),
        ("an unmasked frame", &[0x82, 0x00, 0, 0, 0, 0]),
        ("an unknown opcode", &[0x83, 0x80, 0, 0, 0, 0]),
        ("a ping in fragments", &[0x09, 0x80, 0, 0, 0, 0]),
        ("a long ping", &[0x89, 0xfe, 0, 126, 0, 0, 0, 0]),
        ("a text in fragments", &[0x01, 0x80, 0, 0, 0, 0]),
    ];
    with_each(|application| {
        for (what, bytes) in wrong {
            let mut peer = Peer::connect(application.port());
            peer.send_raw(bytes);
            assert_eq!(peer.close_code().0, 1002, "{what}");
        }
    });
}

#[test]
fn wrong_records_end_the_link() {
    let open = |body: &str| Record::new(OPEN, session(2), 0, body);
    let wrong = [
        ("a second hello", Record::new(HELLO, NO_SESSION, 1, "{}")),
        ("open twice", Record::new(OPEN, session(1), 0, opening("c1", "").to_string())),
        ("open without JSON", open("{")),
        ("open without a connection", open("{}")),
        ("open that is no object", open("[]")),
        ("a message out of sequence", Record::text(session(1), 2, "x")),
        ("a message twice", Record::text(session(1), 0, "x")),
        ("text that is not UTF-8", Record::new(TEXT, session(1), 1, [0xff])),
        ("a receipt for nothing", Record::new(SENT, session(1), 9, "")),
        ("a close code", Record::new(CLOSE, session(1), 999, "")),
        ("a long reason", Record::new(CLOSE, session(1), 1000, [b'x'; 124])),
        ("a question without JSON", Record::new(ASK, session(1), 1, "?")),
        ("a result of no command", Record::new(RESULT, NO_SESSION, 1, "{}")),
        ("a record of backends: accept", Record::new(ACCEPT, session(1), 0, "{}")),
        ("a record of backends: ack", Record::new(ACK, session(1), 0, "")),
        ("a record of backends: state", Record::new(STATE, session(1), 0, "1")),
    ];
    with_each(|application| {
        for (what, record) in &wrong {
            expect_end(application, what, Message::Binary(encode(std::slice::from_ref(record))));
        }
    });
}

#[test]
fn records_of_sessions_that_are_over_are_ignored() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let close = Record::new(CLOSE, session(1), 1000, "");
        let moved = Record::new(CLOSE, session(1), 0, "").with_flags(crate::record::MOVED);
        peer.send(&[
            Record::text(session(1), 7, "x"),
            Record::new(BINARY, session(1), 8, "x"),
            Record::new(SENT, session(1), 8, ""),
            close,
            moved,
        ]);
        peer.open(session(1), "c1");
    });
}

#[test]
fn a_message_longer_than_any_record_ends_the_link() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        let longest = Record::text(session(1), 1, &"x".repeat(1 << 20));
        peer.send(&[longest]);
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::text(session(1), 2, &"x".repeat((1 << 20) + 1))]);
        assert_eq!(peer.close_code().0, 1009);
    });
}

#[test]
fn a_link_without_signs_of_life_ends() {
    let applications = programs().map(|program| Application::start(&program, &[]));
    let mut peers = applications.each_ref().map(|one| Peer::silent(one.port()));
    for peer in &mut peers {
        assert_eq!(peer.close_code().0, 1001);
    }
}

#[test]
fn a_backend_that_stops_ends_its_links() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.open(session(2), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[Record::text(session(1), 1, "stop")]);
        application.expect(&json!({"text": "stop"}));
        assert_eq!(peer.close_code().0, 1001);
        for _ in 0..2 {
            application.expect(&json!({"event": "close", "moved": true}));
        }
    });
}

//! Links are upgraded for those with the token, and begin with hellos.

use serde_json::json;
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::application::{Application, programs, with_each};
use crate::peer::{Peer, SUBPROTOCOL, encode, hello, opening, session};
use crate::record::{ACCEPT, CLOSE, HELLO, NO_SESSION, OPEN, PING, PONG, Record};

#[test]
fn the_token_decides() {
    for program in programs() {
        let application = Application::start(&program, &[("TOKEN", "s3cret")]);
        let upgrade = |authorization: &[(&str, &str)]| {
            let protocol = [("sec-websocket-protocol", SUBPROTOCOL)];
            let fields = [&protocol, authorization].concat();
            Peer::upgrade(application.port(), "/seawall", &fields)
        };
        assert_eq!(upgrade(&[]).err(), Some(401));
        for wrong in ["Bearer s3cre", "Bearer s3cret2", "Bearer ", "s3cret", "Basic s3cret"] {
            assert_eq!(upgrade(&[("authorization", wrong)]).err(), Some(401), "{wrong}");
        }
        upgrade(&[("authorization", "Bearer s3cret")]).unwrap().greet();
    }
}

#[test]
fn other_upgrades_are_rejected() {
    with_each(|application| {
        let upgrade = |path, protocol| {
            let fields = [("sec-websocket-protocol", protocol)];
            Peer::upgrade(application.port(), path, &fields).err()
        };
        assert_eq!(upgrade("/elsewhere", SUBPROTOCOL), Some(404));
        assert_eq!(upgrade("/seawall", "seawall.link.v2"), Some(400));
        assert_eq!(upgrade("/seawall", "other, seawall.link.v1"), None);
        assert_eq!(upgrade("/seawall?a=b", SUBPROTOCOL), None);
        let version = [("sec-websocket-protocol", SUBPROTOCOL), ("sec-websocket-version", "12")];
        assert_eq!(Peer::upgrade(application.port(), "/seawall", &version).err(), Some(426));
    });
}

#[test]
fn records_arrive_however_frames_are_cut() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let open = Record::new(OPEN, session(1), 0, opening("c1", "").to_string());
        let bytes = encode(&[open, Record::text(session(1), 1, "echo all")]);
        let opcodes = [Data::Binary, Data::Continue, Data::Continue];
        for (number, part) in bytes.chunks(bytes.len().div_ceil(3)).enumerate() {
            let opcode = OpCode::Data(opcodes[number]);
            let frame = Frame::message(part.to_vec(), opcode, number == 2);
            peer.send_message(Message::Frame(frame));
            // Control frames may lie between fragments.
            peer.send_message(Message::Ping(vec![7].into()));
        }
        assert_eq!(peer.next(), Record::new(ACCEPT, session(1), 0, "{}"));
        assert_eq!(peer.next().body, b"all");
        peer.expect_ack(session(1), 1);
        // Lengths of two and of eight bytes.
        for (number, length) in [(2, 200), (3, 70_000), (4, 300_000)] {
            let text = format!("echo {}", "x".repeat(length));
            peer.send(&[Record::text(session(1), number, &text)]);
            assert_eq!(peer.next().body.len(), length);
            peer.expect_ack(session(1), number);
        }
    });
}

#[test]
fn pings_of_the_link_are_answered() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.send(&[Record::new(PING, NO_SESSION, 0, [1, 0, 255])]);
        assert_eq!(peer.next(), Record::new(PONG, NO_SESSION, 0, [1, 0, 255]));
    });
}

#[test]
fn kinds_of_the_future_are_skipped() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let unknown = Record::new(200, session(9), 7, "???").with_flags(0xf0);
        let ping = Record::new(PING, NO_SESSION, 0, "x").with_flags(0xf0);
        peer.send(&[unknown, ping]);
        assert_eq!(peer.expect(PONG).body, b"x");
    });
}

#[test]
fn a_first_record_that_is_not_a_hello_of_this_version_ends_the_link() {
    with_each(|application| {
        let mut newer = hello(1 << 20);
        newer.number = 2;
        let limits = Record::new(HELLO, NO_SESSION, 1, json!({"node": "1"}).to_string());
        let close = Record::new(CLOSE, session(1), 1000, "");
        for wrong in [newer, limits, close] {
            let mut peer = Peer::silent(application.port());
            peer.send(std::slice::from_ref(&wrong));
            assert_eq!(peer.close_code().0, 1002, "{wrong:?}");
        }
    });
}

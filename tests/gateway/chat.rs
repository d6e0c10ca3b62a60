//! The examples of the libraries: a chat that survives a deploy.

use serde_json::{Value, json};

use crate::application::{Application, root};
use crate::peer::{Peer, SUBPROTOCOL, opening, session};
use crate::record::{
    ACCEPT, ACK, CLOSE, DRAIN, MANY, MOVED, OPEN, REDELIVERED, REJECT, Record, STATE, TEXT,
};

fn enter(peer: &mut Peer, key: u8, query: &str) {
    let mut body = opening(&format!("c{key}"), query);
    body["path"] = json!("/chat/lobby");
    peer.send(&[Record::new(OPEN, session(key), 0, body.to_string())]);
}

/// The payload of a record to many sessions, or to one, and how many sessions it is for.
fn said(record: &Record) -> (usize, Value) {
    match record.kind {
        TEXT => (1, record.json()),
        MANY => {
            let count = record.number as usize;
            (count, serde_json::from_slice(&record.body[10 * count..]).unwrap())
        }
        other => panic!("kind {other}: {record:?}"),
    }
}

#[test]
fn a_chat_has_rooms_and_survives_a_deploy() {
    for program in ["node/chat.mjs", "python/chat.py"] {
        println!("with {program}");
        let program = root().join("src/web/link").join(program);
        let variables = [("PORT", "0"), ("LINK_TOKEN", "s3cret")];
        let mut application = Application::start(&program, &variables);
        let fields = [("sec-websocket-protocol", SUBPROTOCOL), ("authorization", "Bearer s3cret")];
        let mut peer = Peer::upgrade(application.port(), "/seawall", &fields).unwrap();
        peer.greet_any();
        enter(&mut peer, 1, "");
        assert_eq!(peer.expect(REJECT).json()["status"], 401);
        enter(&mut peer, 1, "name=ann");
        let state = json!({"name": "ann", "room": "lobby"});
        assert_eq!(peer.expect(ACCEPT).json(), json!({"user": "ann", "state": state}));
        assert_eq!(said(&peer.next()), (1, json!({"joined": "ann"})));
        enter(&mut peer, 2, "name=bob");
        // To ann at once, and to bob behind his accept.
        assert_eq!(said(&peer.next()), (1, json!({"joined": "bob"})));
        assert_eq!(peer.next().kind, ACCEPT);
        assert_eq!(said(&peer.next()), (1, json!({"joined": "bob"})));
        peer.send(&[Record::text(session(1), 1, "hello")]);
        let hello = json!({"id": "c1/1", "from": "ann", "text": "hello"});
        assert_eq!(said(&peer.next()), (2, hello));
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::text(session(2), 1, "/room tea")]);
        assert_eq!(said(&peer.next()), (1, json!({"left": "bob"})));
        let state = peer.expect(STATE).json();
        assert_eq!(state, json!({"name": "bob", "room": "tea"}));
        assert_eq!(said(&peer.next()), (1, json!({"joined": "bob"})));
        peer.expect_ack(session(2), 1);

        application.terminate();
        peer.expect(DRAIN);
        for key in [1, 2] {
            let moved = Record::new(CLOSE, session(key), 0, "").with_flags(MOVED);
            peer.send(std::slice::from_ref(&moved));
            assert_eq!(peer.next(), moved);
        }
        assert!(application.succeeds(), "it ends when its sessions have moved");

        // The next version continues where the last one was.
        let application = Application::start(&program, &variables);
        let mut peer = Peer::upgrade(application.port(), "/seawall", &fields).unwrap();
        peer.greet_any();
        let body = json!({"connection": "c2", "address": "1.2.3.4", "path": "/chat/lobby",
            "user": "bob", "state": state});
        let again = Record::text(session(2), 2, "back").with_flags(REDELIVERED);
        let open = Record::new(OPEN, session(2), 1, body.to_string()).with_flags(MOVED);
        peer.send(&[open, again]);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(peer.next());
        }
        seen.retain(|record| record.kind != ACCEPT);
        let back = json!({"id": "c2/2", "from": "bob", "text": "back"});
        assert_eq!(said(&seen[0]), (1, back));
        assert_eq!((seen[1].kind, seen[1].number), (ACK, 2));
    }
}

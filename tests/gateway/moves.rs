//! Sessions move: by a lost link, by Seawall's wish, and by a drain of either side.

use serde_json::json;

use crate::application::with_each;
use crate::peer::{Peer, SUBPROTOCOL, session};
use crate::record::{
    ACCEPT, ACK, CLOSE, DRAIN, MOVED, NO_SESSION, OPEN, REDELIVERED, REJECT, Record, Session, TEXT,
};

/// An open record of a session that was on another link before.
fn moved(key: Session, connection: &str, acked: u32) -> Record {
    let body = json!({"connection": connection, "address": "203.0.113.7", "path": "/game",
        "user": "ann", "state": {"value": 7}});
    Record::new(OPEN, key, acked, body.to_string()).with_flags(MOVED)
}

fn close_moved(key: Session) -> Record {
    Record::new(CLOSE, key, 0, "").with_flags(MOVED)
}

#[test]
fn a_moved_session_continues_with_its_state_and_its_numbers() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.send(&[
            moved(session(1), "c1", 4),
            Record::text(session(1), 5, "echo again").with_flags(REDELIVERED),
            Record::text(session(1), 6, "echo new"),
        ]);
        application.expect(&json!({"event": "open", "connection": "c1", "moved": true,
            "state": {"value": 7}, "user": "ann", "headers": null}));
        application.expect(&json!({"text": "echo again", "redelivered": true, "number": 5}));
        application.expect(&json!({"text": "echo new", "redelivered": false, "number": 6}));
        // It was accepted long ago: there is nothing to accept.
        assert_eq!(peer.next(), Record::text(session(1), 0, "again"));
        assert_eq!(peer.next(), Record::text(session(1), 0, "new"));
        peer.expect_ack(session(1), 6);
    });
}

#[test]
fn a_planned_move_waits_for_the_running_handler_and_drops_the_others() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.open(session(2), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[
            Record::text(session(1), 1, "wait a"),
            Record::text(session(1), 2, "echo unseen"),
        ]);
        application.expect(&json!({"event": "message", "text": "wait a"}));
        peer.send(&[close_moved(session(1)), Record::text(session(2), 1, "open a")]);
        application.expect(&json!({"event": "message", "text": "open a"}));
        application.expect(&json!({"event": "close", "connection": "c1", "moved": true,
            "code": 0}));
        let mut of_first = Vec::new();
        while of_first.last() != Some(&close_moved(session(1))) {
            let record = peer.next();
            of_first.extend((record.session == session(1)).then_some(record));
        }
        assert_eq!(of_first.len(), 2, "{of_first:?}");
        assert_eq!(of_first[0], Record::new(ACK, session(1), 1, ""));
        // It comes back, with what was not acknowledged.
        let again = Record::text(session(1), 2, "echo seen").with_flags(REDELIVERED);
        peer.send(&[moved(session(1), "c1", 1), again]);
        loop {
            let record = peer.next();
            if record.kind == TEXT {
                assert_eq!(record, Record::text(session(1), 0, "seen"));
                break;
            }
        }
    });
}

#[test]
fn a_client_that_leaves_during_a_move_is_over_once() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.open(session(2), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[Record::text(session(1), 1, "wait a")]);
        application.expect(&json!({"text": "wait a"}));
        peer.send(&[close_moved(session(1)), Record::new(CLOSE, session(1), 1001, "")]);
        peer.send(&[Record::text(session(2), 1, "open a")]);
        application.expect(&json!({"text": "open a"}));
        application.expect(&json!({"event": "close", "connection": "c1"}));
        // What it sent was handled; there is nothing to move.
        let both = [peer.next(), peer.next()];
        for key in [session(1), session(2)] {
            assert!(both.contains(&Record::new(ACK, key, 1, "")), "{both:?}");
        }
        peer.send(&[Record::text(session(2), 2, "echo x")]);
        assert_eq!(peer.next(), Record::text(session(2), 0, "x"));
    });
}

/// Seawall keeps them until then, and delivers them again if the link is lost.
#[test]
fn messages_of_a_client_that_has_left_are_handled_and_acknowledged() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.expect(&json!({"event": "open"}));
        peer.send(&[
            Record::text(session(1), 1, "echo a"),
            Record::text(session(1), 2, "throw"),
            Record::text(session(1), 3, "echo c"),
            Record::new(CLOSE, session(1), 1000, ""),
        ]);
        for text in ["echo a", "throw", "echo c"] {
            application.expect(&json!({"text": text}));
        }
        application.expect(&json!({"event": "close", "connection": "c1", "code": 1000}));
        // The first handler may have begun before the close was read.
        let mut record = peer.next();
        while record.kind == TEXT {
            record = peer.next();
        }
        assert_eq!(record, Record::new(ACK, session(1), 3, ""));
        // The same for one whose link was lost after it had left.
        peer.send(&[
            moved(session(2), "c2", 6),
            Record::text(session(2), 7, "d").with_flags(REDELIVERED),
            Record::new(CLOSE, session(2), 1006, ""),
        ]);
        application.expect(&json!({"event": "open", "connection": "c2", "moved": true}));
        application.expect(&json!({"text": "d", "redelivered": true}));
        application.expect(&json!({"event": "close", "connection": "c2", "code": 1006}));
        peer.expect_ack(session(2), 7);
    });
}

#[test]
fn the_end_of_a_link_ends_its_sessions() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let mut other = Peer::connect(application.port());
        peer.open(session(1), "c1");
        other.open(session(1), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[
            Record::text(session(1), 1, "receipt"),
            Record::text(session(1), 2, "wait a"),
            Record::text(session(1), 3, "echo unseen"),
        ]);
        application.expect(&json!({"text": "receipt"}));
        application.expect(&json!({"text": "wait a"}));
        drop(peer);
        application.expect(&json!({"event": "unsent", "connection": "c1"}));
        other.send(&[Record::text(session(1), 1, "open a")]);
        application.expect(&json!({"text": "open a"}));
        application.expect(&json!({"event": "close", "connection": "c1", "moved": true}));
        other.expect_ack(session(1), 1);
        other.send(&[Record::text(session(1), 2, "echo well")]);
        assert_eq!(other.next(), Record::text(session(1), 0, "well"));
    });
}

#[test]
fn a_drain_moves_every_session_and_takes_no_links() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let mut other = Peer::connect(application.port());
        peer.open(session(1), "c1");
        other.open(session(2), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[Record::text(session(1), 1, "drain")]);
        application.expect(&json!({"text": "drain"}));
        assert_eq!(peer.next(), Record::new(DRAIN, NO_SESSION, 0, ""));
        assert_eq!(other.next(), Record::new(DRAIN, NO_SESSION, 0, ""));
        peer.expect_ack(session(1), 1);
        let fields = [("sec-websocket-protocol", SUBPROTOCOL)];
        assert_eq!(Peer::upgrade(application.port(), "/seawall", &fields).err(), Some(503));
        // An open that was under way is served until it moves as well.
        other.open(session(3), "c3");
        application.expect(&json!({"event": "open", "connection": "c3"}));
        peer.send(&[close_moved(session(1))]);
        application.expect(&json!({"event": "close", "connection": "c1", "moved": true}));
        assert_eq!(peer.next(), close_moved(session(1)));
        other.send(&[close_moved(session(2)), Record::new(CLOSE, session(3), 1000, "")]);
        let both = [application.event(), application.event()];
        assert!(both.iter().all(|event| event["event"] == "close"), "{both:?}");
        assert_eq!(other.next(), close_moved(session(2)));
        application.expect(&json!({"event": "drained"}));
    });
}

#[test]
fn a_drain_of_the_node_is_reported() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.send(&[Record::new(DRAIN, NO_SESSION, 0, "")]);
        application.expect(&json!({"event": "drain"}));
    });
}

#[test]
fn a_session_that_was_moved_can_be_rejected_and_accepted_again() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let open = |query: &str| {
            let body = json!({"connection": "c1", "address": "1.2.3.4", "path": "/",
                "query": query});
            Record::new(OPEN, session(1), 0, body.to_string()).with_flags(MOVED)
        };
        peer.send(&[open("reject")]);
        assert_eq!(peer.expect(REJECT).json(), json!({"status": 403, "message": "not you"}));
        peer.send(&[open("throw")]);
        assert_eq!(peer.expect(REJECT).json()["status"], 503);
        // An answer for a moved session sets what it names.
        peer.send(&[open("full")]);
        assert_eq!(peer.expect(ACCEPT).json()["user"], "ann");
    });
}

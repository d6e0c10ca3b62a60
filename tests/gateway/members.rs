//! What the libraries make of channels.

use serde_json::json;

use crate::application::{Application, with_each};
use crate::peer::{Peer, session};
use crate::record::{CLOSE, JOIN, JOINED, LEAVE, LEFT, Record};

/// Has a handler do something: the record that it sends.
#[track_caller]
fn have_done(peer: &mut Peer, application: &Application, number: u32, text: &str) -> Record {
    peer.send(&[Record::text(session(1), number, text)]);
    application.expect(&json!({"event": "message", "text": text}));
    let record = peer.next();
    peer.expect_ack(session(1), number);
    assert_eq!(record.session, session(1));
    record
}

fn left(number: u32, channel: &str, reason: &str) -> Record {
    let body = json!({"channel": channel, "reason": reason, "message": "why"}).to_string();
    Record::new(LEFT, session(1), number, body)
}

#[test]
fn joins_are_answered_and_ends_are_reported() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.event();
        let join = have_done(&mut peer, application, 1, "join a:1");
        assert_eq!((join.kind, join.body_text()), (JOIN, "a:1"));
        peer.send(&[Record::new(JOINED, session(1), join.number, "a:1")]);
        application.expect(&json!({"event": "joined", "channel": "a:1", "channels": ["a:1"]}));

        let join = have_done(&mut peer, application, 2, "join b");
        peer.send(&[left(join.number, "b", "limit")]);
        application.expect(&json!({"event": "refused", "channel": "b", "code": "limit"}));
        // What another instance has asked for concerns the session as well.
        peer.send(&[Record::new(JOINED, session(1), join.number + 9, "c")]);
        peer.send(&[left(join.number + 10, "d", "limit")]);
        let channels = have_done(&mut peer, application, 3, "channels");
        assert_eq!(channels.body_text(), "a:1 c");

        let leave = have_done(&mut peer, application, 4, "leave a:1");
        assert_eq!((leave.kind, leave.body_text()), (LEAVE, "a:1"));
        peer.send(&[left(0, "a:1", "server")]);
        let event = json!({"event": "left", "channel": "a:1", "reason": "server"});
        application.expect(&event);
        assert_eq!(have_done(&mut peer, application, 5, "channels").body_text(), "c");

        have_done(&mut peer, application, 6, "join e");
        peer.send(&[Record::new(CLOSE, session(1), 1001, "")]);
        let events = [application.event(), application.event()];
        let lost = json!({"event": "refused", "connection": "c1", "channel": "e", "code": "lost"});
        assert!(events.contains(&lost), "{events:?}");
    });
}

#[test]
fn a_moved_session_knows_its_channels() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let open = json!({"connection": "c1", "address": "203.0.113.7", "path": "/game"});
        let open = Record::new(crate::record::OPEN, session(1), 0, open.to_string());
        peer.send(&[
            open.with_flags(crate::record::MOVED),
            Record::new(JOINED, session(1), 0, "a"),
            Record::new(JOINED, session(1), 0, "b"),
        ]);
        application.expect(&json!({"event": "open", "moved": true}));
        let channels = have_done(&mut peer, application, 1, "channels");
        assert_eq!(channels.body_text(), "a b");
    });
}

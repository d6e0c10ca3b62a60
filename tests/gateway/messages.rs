//! Messages in both directions: order, acknowledgements, receipts, failing and slow handlers.

use serde_json::json;

use crate::application::with_each;
use crate::peer::{Peer, opening, session};
use crate::record::{
    ACCEPT, ACK, BINARY, CLOSE, IS_BINARY, MANY, NO_SESSION, OPEN, READY, RECEIPT, REJECT, Record,
    SENT, SLOW, STATE, TEXT,
};

#[test]
fn a_client_is_accepted_or_rejected() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let mut open = |number: u8, query: &str| {
            let body = opening(&format!("c{number}"), query).to_string();
            peer.send(&[Record::new(OPEN, session(number), 0, body)]);
            let event = application.expect(&json!({"event": "open", "moved": false}));
            assert_eq!(event["headers"], json!({"cookie": "a=b"}), "{event}");
            assert_eq!(
                (&event["path"], &event["address"]),
                (&json!("/game"), &json!("203.0.113.7"))
            );
            let record = peer.next();
            assert_eq!((record.session, record.number), (session(number), 0));
            record
        };
        let full = open(1, "full");
        let expected = json!({"user": "ann", "info": {"name": "Ann"}, "state": {"from": "open"},
            "subprotocol": "x"});
        assert_eq!((full.kind, full.json()), (ACCEPT, expected));
        let rejected = open(2, "reject");
        let expected = json!({"status": 403, "message": "not you"});
        assert_eq!((rejected.kind, rejected.json()), (REJECT, expected));
        let long = format!("two lines {}", "x".repeat(190));
        assert_eq!(open(5, "long").json(), json!({"status": 429, "message": long}));
        assert_eq!(open(5, "silent").json(), json!({"status": 401}));
        let failed = open(3, "throw");
        assert_eq!((failed.kind, &failed.json()["status"]), (REJECT, &json!(503)));
        application.expect_logged("as asked");
        // What a handler sends before it accepts follows the accept.
        assert_eq!(open(4, "early").kind, ACCEPT);
        assert_eq!(peer.next(), Record::text(session(4), 0, "early"));
        // The rejected sessions are over: their close handlers are not called.
        for number in 1..=4 {
            peer.send(&[Record::new(CLOSE, session(number), 1001, "bye")]);
        }
        for connection in ["c1", "c4"] {
            application.expect(&json!({"event": "close", "connection": connection,
                "code": 1001, "reason": "bye", "moved": false}));
        }
    });
}

#[test]
fn texts_and_binaries_are_handled_and_acknowledged() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.event();
        peer.send(&[Record::text(session(1), 1, "echo grüße 🦭")]);
        application.expect(&json!({"text": "echo grüße 🦭", "binary": false,
            "redelivered": false, "number": 1}));
        assert_eq!(peer.next(), Record::text(session(1), 0, "grüße 🦭"));
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::new(BINARY, session(1), 2, [0, 1, 2])]);
        application.expect(&json!({"text": "\0\u{1}\u{2}", "binary": true, "number": 2}));
        assert_eq!(peer.next(), Record::new(BINARY, session(1), 0, [0, 1, 2]));
        peer.expect_ack(session(1), 2);
        // A byte order mark is part of the text.
        peer.send(&[Record::text(session(1), 3, "\u{feff}"), Record::text(session(1), 4, "")]);
        application.expect(&json!({"text": "\u{feff}", "number": 3}));
        application.expect(&json!({"text": "", "number": 4}));
    });
}

/// Seawall would end the link for these, and with it the sessions of others.
#[test]
fn what_a_handler_must_not_send_is_not_sent() {
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let long = |length: usize| "x".repeat(length);
    let wrong = [
        json!({"user": ""}).to_string(),
        json!({"user": long(257)}).to_string(),
        json!({"user": 1}).to_string(),
        json!({"info": long(1023)}).to_string(),
        json!({"state": long(4095)}).to_string(),
        format!(r#"{{"state":{}}}"#, deep(65)),
        format!(r#"{{"info":{}}}"#, deep(65)),
        r#"{"state":"\ud800"}"#.to_owned(),
        r#"{"user":"\ud800x"}"#.to_owned(),
        json!({"subprotocol": "z"}).to_string(),
        json!({"expires_in_s": 0}).to_string(),
        json!({"expires_in_s": 1.5}).to_string(),
    ];
    let right = [
        json!({"user": long(256), "info": long(1022), "state": long(4094)}).to_string(),
        format!(r#"{{"state":{},"info":{}}}"#, deep(64), deep(64)),
        json!({"state": "[[\\ud800 \" {{", "subprotocol": "y", "expires_in_s": 60}).to_string(),
        json!({"user": null, "info": null, "expires_in_s": null}).to_string(),
    ];
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let mut open = |number, body: &str| {
            let open = opening("c", &format!("accept:{body}"));
            peer.send(&[Record::new(OPEN, session(number), 0, open.to_string())]);
            peer.next()
        };
        for body in &wrong {
            assert_eq!(open(1, body).kind, REJECT, "{body}");
        }
        for (number, body) in (1..).zip(&right) {
            let accepted = open(number, body);
            assert_eq!(accepted.kind, ACCEPT, "{body}");
            let expected: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(accepted.json(), expected);
        }
        for (number, body) in (1..).zip([deep(65), r#""\udfff""#.to_owned(), deep(64)]) {
            peer.send(&[Record::text(session(number), 1, &format!("json {body}"))]);
            assert_eq!(peer.next().kind, if number < 3 { CLOSE } else { STATE }, "{body}");
        }
    });
}

#[test]
fn a_client_that_leaves_while_it_is_judged_is_not_accepted() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let open = |connection: &str, query: &str| {
            Record::new(OPEN, session(1), 0, opening(connection, query).to_string())
        };
        peer.send(&[open("c1", "wait"), Record::new(CLOSE, session(1), 1006, "")]);
        application.expect(&json!({"event": "open", "connection": "c1"}));
        // The session's id is now that of another client.
        peer.open(session(1), "c2");
        application.expect(&json!({"event": "open", "connection": "c2"}));
        peer.send(&[Record::text(session(1), 1, "open open")]);
        application.expect(&json!({"text": "open open"}));
        application.expect(&json!({"event": "close", "connection": "c1", "code": 1006}));
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::text(session(1), 2, "echo x")]);
        assert_eq!(peer.next(), Record::text(session(1), 0, "x"));
    });
}

#[test]
fn messages_of_a_session_wait_for_each_other_and_those_of_others_do_not() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.open(session(2), "c2");
        peer.send(&[
            Record::text(session(1), 1, "wait a"),
            Record::text(session(1), 2, "echo second"),
            Record::text(session(1), 3, "echo third"),
            Record::text(session(2), 1, "echo other"),
        ]);
        assert_eq!(peer.next(), Record::text(session(2), 0, "other"));
        peer.expect_ack(session(2), 1);
        peer.send(&[Record::text(session(2), 2, "open a")]);
        // Acknowledgements are cumulative, and may lie anywhere behind what they acknowledge.
        let (mut texts, mut acked) = (Vec::new(), [1, 0]);
        while acked != [2, 3] {
            let record = peer.next();
            if record.kind == TEXT {
                texts.push(record.body_text().to_owned());
                continue;
            }
            assert_eq!(record.kind, ACK, "{record:?}");
            let of = usize::from(record.session == session(1));
            assert!(record.number > acked[of], "{record:?}");
            acked[of] = record.number;
        }
        assert_eq!(texts, ["second", "third"]);
    });
}

#[test]
fn acknowledgements_and_answers_of_one_turn_leave_together() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        let before = peer.message_count();
        let records: Vec<_> =
            (1..=50).map(|number| Record::text(session(1), number, "echo x")).collect();
        peer.send(&records);
        let (mut texts, mut acked) = (0, 0);
        while acked < 50 {
            let record = peer.next();
            texts += u32::from(record.kind == TEXT);
            acked = if record.kind == ACK { record.number } else { acked };
        }
        assert_eq!(texts, 50, "each reply leaves before its acknowledgement");
        assert!(peer.message_count() - before < 50, "{} messages", peer.message_count() - before);
    });
}

#[test]
fn a_handler_that_fails_closes_its_client() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.open(session(2), "c2");
        for _ in 0..2 {
            application.expect(&json!({"event": "open"}));
        }
        peer.send(&[
            Record::text(session(1), 1, "throw"),
            Record::text(session(1), 2, "echo unseen"),
        ]);
        assert_eq!(peer.next(), Record::new(CLOSE, session(1), 4500, "the application failed"));
        application.expect(&json!({"event": "message", "text": "throw"}));
        application.expect(&json!({"event": "close", "connection": "c1", "code": 4500,
            "moved": false}));
        application.expect_logged("as asked");
        // Without an acknowledgement, and nothing of what followed was handled.
        peer.send(&[Record::text(session(2), 1, "echo well")]);
        assert_eq!(peer.next(), Record::text(session(2), 0, "well"));
        application.expect(&json!({"event": "message", "text": "echo well"}));
    });
}

#[test]
fn a_backend_closes_and_keeps_state() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.event();
        peer.send(&[Record::text(session(1), 1, "state grüße")]);
        let state = peer.expect(STATE);
        assert_eq!((state.session, state.json()), (session(1), json!({"value": "grüße"})));
        peer.expect_ack(session(1), 1);
        // Too long a state fails, as any error of a handler.
        peer.open(session(2), "c2");
        peer.send(&[Record::text(session(2), 1, &format!("state {}", "x".repeat(4096)))]);
        assert_eq!(peer.expect(CLOSE).number, 4500);
        peer.send(&[
            Record::text(session(1), 2, "close 4001 bye"),
            Record::text(session(1), 3, "echo unseen"),
        ]);
        assert_eq!(peer.next(), Record::new(CLOSE, session(1), 4001, "bye"));
        // The session's id may be used again after that.
        peer.open(session(1), "c3");
        // A code that a backend may not use fails as well.
        peer.send(&[Record::text(session(1), 1, "close 1005 bye")]);
        assert_eq!(peer.next().number, 4500);
    });
}

#[test]
fn receipts_resolve_or_are_rejected() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.event();
        peer.send(&[Record::text(session(1), 1, "receipt")]);
        application.event();
        let message = peer.expect(TEXT);
        assert_eq!((message.flags, message.body_text()), (RECEIPT, "with a receipt"));
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::new(SENT, session(1), message.number, "")]);
        application.expect(&json!({"event": "sent", "connection": "c1"}));
        peer.send(&[Record::text(session(1), 2, "receipt")]);
        application.event();
        let second = peer.expect(TEXT);
        assert_ne!(second.number, message.number);
        peer.send(&[Record::new(CLOSE, session(1), 1006, "")]);
        let both = [application.event(), application.event()];
        assert!(both.iter().any(|event| event["event"] == "unsent"), "{both:?}");
        assert!(both.iter().any(|event| event["code"] == 1006), "{both:?}");
        // A receipt for a session that is over is ignored.
        peer.expect_ack(session(1), 2);
        peer.send(&[Record::new(SENT, session(1), second.number, "")]);
        peer.open(session(2), "c2");
    });
}

#[test]
fn slow_clients_are_known() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.event();
        for (number, kind, name, is_slow) in
            [(1, SLOW, "slow", "true"), (2, READY, "ready", "false")]
        {
            peer.send(&[
                Record::new(kind, session(1), 70_000, ""),
                Record::text(session(1), number, "slow"),
            ]);
            let both = [application.event(), application.event()];
            let expected = json!({"event": name, "connection": "c1", "bytes": 70_000});
            assert!(both.contains(&expected), "{both:?}");
            assert_eq!(peer.expect(TEXT).body_text(), is_slow);
            peer.expect_ack(session(1), number);
        }
    });
}

#[test]
fn one_record_reaches_many_sessions() {
    with_each(|application| {
        let (mut one, mut two) =
            (Peer::connect(application.port()), Peer::connect(application.port()));
        one.open(session(1), "c1");
        one.open(session(2), "c2");
        two.open(session(1), "c3");
        let mut expect = |text: &str, flags: u8| {
            one.send(&[Record::text(session(1), if flags == 0 { 1 } else { 2 }, text)]);
            let (first, second) = (one.expect(MANY), two.expect(MANY));
            assert_eq!((first.session, first.flags, first.number), (NO_SESSION, flags, 2));
            let both = [session(1), session(2)].concat();
            assert_eq!(first.body, [&both[..], b"all"].concat());
            assert_eq!((second.flags, second.number), (flags, 1));
            assert_eq!(second.body, [&session(1)[..], b"all"].concat());
            one.expect(ACK);
        };
        expect("many all", 0);
        expect("manybinary all", IS_BINARY);
    });
}

#[test]
fn messages_longer_than_the_limit_fail_and_long_ones_are_records_of_their_own() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        peer.send(&[Record::text(session(1), 1, "length 1048576")]);
        assert_eq!(peer.expect(TEXT).body.len(), 1 << 20);
        peer.expect_ack(session(1), 1);
        peer.send(&[Record::text(session(1), 2, "length 1048577")]);
        assert_eq!(peer.expect(CLOSE).number, 4500);
    });
}

//! Questions of clients to the application, and commands of the application to Seawall.

use serde_json::json;

use crate::application::with_each;
use crate::peer::{Peer, session};
use crate::record::{ANSWER, ASK, COMMAND, NO_SESSION, RESULT, Record};

#[test]
fn questions_are_answered() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        let ask = |key, number, method: &str| {
            let question = json!({"type": "call", "method": method, "content": [1, 2, 3]});
            Record::new(ASK, key, number, question.to_string())
        };
        peer.send(&[ask(session(1), 7, "add")]);
        let answer = peer.expect(ANSWER);
        assert_eq!((answer.session, answer.number), (session(1), 7));
        assert_eq!(answer.json(), json!({"content": {"sum": 6, "connection": "c1"}}));
        // Of a client without a session here: the header is sent back as it came.
        for key in [NO_SESSION, session(9)] {
            peer.send(&[ask(key, 8, "add")]);
            let answer = peer.expect(ANSWER);
            assert_eq!((answer.session, answer.number), (key, 8));
            assert_eq!(answer.json(), json!({"content": {"sum": 6, "connection": null}}));
        }
        peer.send(&[ask(session(1), 9, "throw")]);
        let answer = peer.expect(ANSWER);
        assert_eq!((answer.number, &answer.json()["error"]["code"]), (9, &json!("internal")));
        application.expect_logged("as asked");
    });
}

/// Clients choose the content of their calls.
#[test]
fn a_question_of_any_depth_ends_no_link() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        let depth = 100_000;
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let question = format!(r#"{{"type":"call","method":"add","content":{nested}}}"#);
        peer.send(&[Record::new(ASK, NO_SESSION, 1, question)]);
        assert_eq!(peer.expect(ANSWER).number, 1);
        peer.open(session(1), "c1");
    });
}

#[test]
fn commands_resolve_with_their_results() {
    with_each(|application| {
        let mut peer = Peer::connect(application.port());
        peer.open(session(1), "c1");
        application.expect(&json!({"event": "open"}));
        let mut command = |number: u32| {
            peer.send(&[Record::text(session(1), number, "command news")]);
            application.expect(&json!({"text": "command news"}));
            let command = peer.expect(COMMAND);
            peer.expect_ack(session(1), number);
            assert_eq!(command.session, NO_SESSION);
            assert_eq!(command.json(), json!({"publish": {"channel": "news", "content": 1}}));
            command.number
        };
        let numbers = [1, 2, 3].map(&mut command);
        let result = |number, body: serde_json::Value| {
            Record::new(RESULT, NO_SESSION, number, body.to_string())
        };
        // Answered in another order.
        let error = json!({"error": {"code": "limit", "message": "full"}});
        peer.send(&[result(numbers[1], error)]);
        application.expect(&json!({"event": "failed", "code": "limit"}));
        peer.send(&[result(numbers[0], json!({"offset": 43}))]);
        application.expect(&json!({"event": "result", "result": {"offset": 43}}));
        drop(peer);
        let both = [application.event(), application.event()];
        assert!(both.contains(&json!({"event": "failed", "code": "lost"})), "{both:?}");
    });
}

//! The documents of links: the bytes of the example, and the handlers of the guide.

use serde_json::json;

use crate::application::{Application, root};
use crate::peer::{Peer, SUBPROTOCOL, opening, session};
use crate::record::{
    ACCEPT, ACK, CLOSE, HELLO, JOIN, JOINED, NO_SESSION, OPEN, REJECT, Record, STATE, TEXT,
};

/// The blocks of a document in a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let fence = format!("\n```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.map(|part| part.split("\n```").next().unwrap().to_owned()).collect()
}

/// What a line of the example has before its comment: hexadecimal digits.
fn bytes(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

/// The messages of the example: who sends each, the names of its records, and its bytes.
fn messages() -> Vec<(char, Vec<String>, Vec<u8>)> {
    let all = blocks("src/link/LINK.md", "text");
    let example = all.iter().find(|block| block.starts_with("S> ")).expect("an example");
    let message = |text: &str| {
        let (mut names, mut found) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let (digits, comment) = line.split_once('|').expect("a comment");
            let digits = match digits.split_once("> ") {
                Some((side, digits)) => {
                    assert_eq!(side, &text[..1], "one side sends a message");
                    names.push(comment.trim().to_owned());
                    digits
                }
                None => digits,
            };
            found.extend(bytes(digits));
        }
        (text.chars().next().unwrap(), names, found)
    };
    example.split("\n\n").map(message).collect()
}

#[test]
fn the_example_of_the_format_decodes() {
    let key = [0, 2, 0, 0, 0x0c, 0x11, 0, 0, 0, 5];
    let hello = json!({"node": "01ab23cd", "version": "0.1.0", "limits": {
        "unacked_messages_max": 64, "unacked_bytes_max": 262_144,
        "record_bytes_max": 16_777_216}});
    let open = json!({"connection": "XzwKkQAAAAAABQAAAAE", "address": "203.0.113.7",
        "path": "/game", "query": "a=b", "headers": {"cookie": "s=1"}, "subprotocols": []});
    let expected = [
        ('S', "hello", Record::new(HELLO, NO_SESSION, 1, ""), Some(hello)),
        (
            'B',
            "hello",
            Record::new(HELLO, NO_SESSION, 1, ""),
            Some(json!({"instance": "app-1", "capacity": 100})),
        ),
        ('S', "open", Record::new(OPEN, key, 0, ""), Some(open)),
        ('B', "accept", Record::new(ACCEPT, key, 0, ""), Some(json!({"user": "ann"}))),
        ('S', "text", Record::text(key, 1, "hi"), None),
        ('B', "text", Record::text(key, 0, "grüße, ann"), None),
        ('B', "ack", Record::new(ACK, key, 1, ""), None),
        ('B', "join", Record::new(JOIN, key, 1, "room:1"), None),
        ('S', "joined", Record::new(JOINED, key, 1, "room:1"), None),
        ('S', "close", Record::new(CLOSE, key, 1001, ""), None),
    ];
    let mut found = Vec::new();
    for (side, names, bytes) in messages() {
        let records = Record::decode_all(&bytes);
        assert_eq!(records.len(), names.len(), "a name for each record");
        assert_eq!(records.iter().flat_map(Record::encode).collect::<Vec<_>>(), bytes);
        found.extend(records.into_iter().zip(names).map(|(record, name)| (side, name, record)));
    }
    assert_eq!(found.len(), expected.len());
    for ((side, name, record), (by, named, like, body)) in found.into_iter().zip(expected) {
        assert_eq!((side, name.as_str()), (by, named));
        let Some(body) = body else {
            assert_eq!(record, like);
            continue;
        };
        assert_eq!((record.kind, record.flags, record.number), (like.kind, 0, like.number));
        assert_eq!((record.session, record.json()), (like.session, body));
    }
}

/// The comments beside the bytes show them as ASCII.
#[test]
fn the_comments_of_the_example_are_its_bytes() {
    let all = blocks("src/link/LINK.md", "text");
    let example = all.iter().find(|block| block.starts_with("S> ")).expect("an example");
    let bodies = example.lines().filter_map(|line| line.strip_prefix("   "));
    for line in bodies {
        let (digits, comment) = line.split_once("| ").expect("a comment");
        let is_shown = |byte: &u8| (32..127).contains(byte);
        let shown = bytes(digits);
        let shown = shown.iter().map(|byte| if is_shown(byte) { *byte as char } else { '.' });
        assert_eq!(shown.collect::<String>(), comment, "{line}");
    }
}

#[test]
fn the_handlers_of_the_guide_work() {
    let folder = std::env::temp_dir().join(format!("seawall-guide-{}", std::process::id()));
    let package = folder.join("node_modules/seawall-link");
    std::fs::create_dir_all(&package).unwrap();
    for entry in std::fs::read_dir(root().join("src/web/link/node")).unwrap() {
        let file = entry.unwrap();
        std::fs::copy(file.path(), package.join(file.file_name())).unwrap();
    }
    for language in ["mjs", "py"] {
        println!("with {language}");
        let blocks = blocks("src/link/GATEWAY.md", language);
        assert_eq!(blocks.len(), 1);
        let program = folder.join(format!("guide.{language}"));
        std::fs::write(&program, &blocks[0]).unwrap();
        let variables = [("PORT", "0"), ("LINK_TOKEN", "s3cret")];
        let application = Application::start(&program, &variables);
        let fields = [("sec-websocket-protocol", SUBPROTOCOL), ("authorization", "Bearer s3cret")];
        let mut peer = Peer::upgrade(application.port(), "/seawall", &fields).unwrap();
        peer.greet_any();
        let mut open = opening("c1", "");
        peer.send(&[Record::new(OPEN, session(1), 0, open.to_string())]);
        assert_eq!(peer.expect(REJECT).json(), json!({"status": 401, "message": "sign in first"}));
        open["headers"] = json!({"cookie": "a=b; session=s-ann"});
        peer.send(&[Record::new(OPEN, session(1), 0, open.to_string())]);
        let accepted = json!({"user": "ann", "state": {"score": 0}});
        assert_eq!(peer.expect(ACCEPT).json(), accepted);
        peer.send(&[Record::text(session(1), 1, "30"), Record::text(session(1), 2, "12")]);
        for (score, text) in [(30, "ann: 30"), (42, "ann: 42")] {
            let mut record = peer.next();
            // The first may be acknowledged by itself.
            record = if record.kind == ACK { peer.next() } else { record };
            assert_eq!((record.kind, record.json()), (STATE, json!({"score": score})));
            assert_eq!(peer.expect(TEXT).body_text(), text);
        }
        peer.expect_ack(session(1), 2);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

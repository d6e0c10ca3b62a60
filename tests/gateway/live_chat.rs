//! The chats of the libraries behind a real Seawall.

use serde_json::{Value, json};

use crate::application::{Application, root};
use crate::live::{Visitor, await_links, start};
use crate::support::raw;
use crate::support::{Raw, Server};

fn enter(server: &Server, name: &str) -> Visitor {
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with(&format!("/chat/lobby?name={name}"), ""));
    raw.switched();
    Visitor(raw)
}

/// Hears an event without its id.
#[track_caller]
fn expect(visitor: &mut Visitor, expected: &Value) {
    let mut event = visitor.hear_json();
    event.as_object_mut().unwrap().remove("id");
    assert_eq!(event, *expected);
}

#[test]
fn people_chat_and_a_deploy_is_not_noticed() {
    let route = "[[route]]\npath = \"/chat/lobby\"\nhandler = \"gateway\"\n";
    for program in ["node/chat.mjs", "python/chat.py"] {
        println!("with {program}");
        let program = root().join("src/web/link").join(program);
        let mut old = Application::start(&program, &[("PORT", "0")]);
        let server = start(&[old.port()], "", route);
        let (status, answer) = Visitor::fail(&server, "/chat/lobby");
        assert_eq!(status, 401);
        assert!(answer.contains("add ?name=YOURS to the URL"), "{answer}");
        let mut ann = enter(&server, "ann");
        expect(&mut ann, &json!({"joined": "ann"}));
        let mut bob = enter(&server, "bob");
        for visitor in [&mut ann, &mut bob] {
            expect(visitor, &json!({"joined": "bob"}));
        }
        ann.say("hello");
        for visitor in [&mut ann, &mut bob] {
            expect(visitor, &json!({"from": "ann", "text": "hello"}));
        }
        bob.say("/room tea");
        expect(&mut ann, &json!({"left": "bob"}));
        expect(&mut bob, &json!({"joined": "bob"}));
        ann.say("/room tea");
        for visitor in [&mut ann, &mut bob] {
            expect(visitor, &json!({"joined": "ann"}));
        }

        // The next version listens at another port, which a reload names.
        let new = Application::start(&program, &[("PORT", "0")]);
        let both = crate::live::config(&[old.port(), new.port()], "", route);
        let said = server.reload(&both);
        assert!(said.contains("reloaded"), "{said}");
        await_links(&server, 2);
        old.terminate();
        assert!(old.succeeds(), "it ends when its sessions have moved");
        bob.say("still here?");
        for visitor in [&mut ann, &mut bob] {
            expect(visitor, &json!({"from": "bob", "text": "still here?"}));
        }
        drop(bob);
        expect(&mut ann, &json!({"left": "bob"}));
    }
}

//! What applications do beside messages: receipts, answers to calls, commands, and the ends of
//! clients that operators want.

use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::application::{Application, programs};
use crate::live::{Visitor, await_links, with_each_live};
use crate::support::{Raw, Server, metrics, raw};

pub(crate) const HUB: &str = "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n";

/// A client of the hub.
pub(crate) fn join(server: &Server) -> Visitor {
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with("/ws", ""));
    raw.switched();
    let mut client = Visitor(raw);
    assert_eq!(client.hear_json()["type"], "welcome");
    client
}

#[track_caller]
pub(crate) fn ask(client: &mut Visitor, request: &Value) -> Value {
    client.say(&request.to_string());
    let reply = client.hear_json();
    assert_eq!(reply["id"], request["id"], "{reply}");
    reply
}

#[test]
fn receipts_follow_when_the_bytes_are_sent() {
    with_each_live("", |application, server| {
        let mut client = Visitor::connect(server, "");
        client.say("receipt");
        assert_eq!(client.hear(), "with a receipt");
        application.events_until(|event| event["event"] == "sent");
    });
}

#[test]
fn calls_of_hub_clients_are_answered_over_links() {
    with_each_live(HUB, |application, server| {
        let mut client = join(server);
        let call = json!({"type": "call", "id": 1, "method": "add", "content": [1, 2, 3]});
        let result = json!({"sum": 6, "connection": null});
        assert_eq!(ask(&mut client, &call), json!({"type": "result", "id": 1, "content": result}));
        let error = ask(&mut client, &json!({"type": "call", "id": 2, "method": "throw"}));
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("internal")));
        application.expect_logged("as asked");
    });
}

#[test]
fn commands_reach_subscribers() {
    with_each_live(HUB, |application, server| {
        let mut subscriber = join(server);
        let subscribe = json!({"type": "subscribe", "id": 1, "channel": "news"});
        assert_eq!(ask(&mut subscriber, &subscribe)["type"], "subscribed");
        let mut client = Visitor::connect(server, "");
        client.say("command news");
        let message = subscriber.hear_json();
        assert_eq!(
            (&message["type"], &message["channel"], &message["content"]),
            (&json!("message"), &json!("news"), &json!(1)),
        );
        let events = application.events_until(|event| event["event"] == "result");
        assert_eq!(events.last().unwrap()["result"]["offset"], message["offset"]);
        client.say("command not:\u{7}valid");
        let events = application.events_until(|event| event["event"] == "failed");
        assert_eq!(events.last().unwrap()["code"], "bad_request");
    });
}

#[test]
fn operators_disconnect_users() {
    with_each_live("", |application, server| {
        let (mut ann, mut bob) = (Visitor::connect(server, "ann"), Visitor::connect(server, "ann"));
        assert_eq!(ann.who()["user"], "ann");
        assert_eq!(bob.who()["user"], "ann");
        let listed = metrics::get(server.admin(), "/v1/connections?user=ann").1;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed["connections"].as_array().map(Vec::len), Some(2), "{listed}");
        let mut kick = Command::new(env!("CARGO_BIN_EXE_seawall"));
        kick.args(["kick", "--user", "ann", "--code", "4001", "--reason", "bye"]);
        let kicked = kick.args(["--url", &format!("http://{}", server.admin())]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&kicked.stdout), "2 connections were disconnected\n");
        for client in [&mut ann, &mut bob] {
            assert_eq!(client.closed(), (0, 4001, "bye".to_owned()));
            let events = application.events_until(|event| event["event"] == "close");
            let end = events.last().unwrap();
            assert_eq!((&end["code"], &end["moved"]), (&json!(4001), &json!(false)), "{end}");
        }
        let mut carol = Visitor::connect(server, "ann");
        let connection = carol.who()["connection"].clone();
        let body = json!({"connection": connection}).to_string();
        let headers = format!(
            "Host: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            server.admin(),
            body.len()
        );
        let stream = TcpStream::connect(server.admin()).unwrap();
        let answer = metrics::request(stream, "POST /v1/disconnect", &headers, &body);
        assert_eq!((answer.status, &*answer.body), (200, "{\"disconnected\":1}"));
        assert_eq!(carol.closed().1, 4403);
    });
}

#[test]
fn applications_dial() {
    let config = "[[backend]]\naccept_links = true\n[[backend]]\nname = \"other\"\n\
        accept_links = true\n[[route]]\npath = \"/game\"\nhandler = \"gateway\"\n\
        backend = \"app\"\n[[api_key]]\nname = \"app\"\nsecret = \"0123456789abcdef0123\"\n";
    for program in programs() {
        println!("with {}", program.display());
        let server = Server::start(config);
        let url = format!("ws://{}/v1/link?backend=app", server.admin());
        let variables = [("DIAL", &*url), ("KEY", "0123456789abcdef0123")];
        let _application = Application::start(&program, &variables);
        await_links(&server, 1);
        let mut client = Visitor::connect(&server, "ann");
        client.echo("hello");
        assert_eq!(client.who()["user"], "ann");
    }
}

/// With `accept = "at_once"`, clients are connected before the application knows of them.
#[test]
fn clients_that_are_connected_are_rejected_with_a_close() {
    let route = "accept = \"at_once\"\n";
    with_each_live(route, |application, server| {
        for (query, code, reason) in [
            ("reject", 4403, "not you"),
            ("silent", 4401, ""),
            ("throw", 1013, "the application failed"),
        ] {
            let mut client = Visitor::connect(server, query);
            let (_, found, said) = client.closed();
            assert_eq!(found, code, "{query}");
            assert!(said.starts_with(reason), "{said}");
        }
        // The sessions are over, without more ado.
        let mut client = Visitor::connect(server, "");
        client.echo("well");
        let events = application.events_until(|event| event["text"] == "echo well");
        assert!(events.iter().all(|event| event["event"] != "close"), "{events:?}");
    });
}

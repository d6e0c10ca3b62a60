//! Every row of PROTOCOL.md's close codes, provoked over a socket, and the `goodbye` before it.

use std::collections::BTreeSet;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, now_s, posted, token};
use crate::document::table;
use crate::support::raw::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, close, frame};
use crate::support::{Server, wait_until};

/// What the server said at the end: the last object, and the code and reason of its Close.
struct End {
    goodbye: Option<Value>,
    code: u16,
    reason: String,
}

/// Reads up to the Close.
#[track_caller]
fn end_of(client: &mut Client) -> End {
    let mut last = None;
    loop {
        let frame = client.raw.frame();
        if frame.first == FIN | CLOSE {
            let reason = String::from_utf8(frame.payload[2..].to_vec()).expect("it is UTF-8");
            let code = frame.close_code();
            let is_goodbye = |object: &Value| object["type"] == "goodbye";
            return End { goodbye: last.filter(is_goodbye), code, reason };
        }
        if frame.first == FIN | TEXT {
            last = serde_json::from_slice(&frame.payload).ok();
        }
    }
}

/// How the server parts with a client, and whether it names a time to come back.
struct Case {
    code: u16,
    config: String,
    provoke: fn(&Server, &mut Client),
    waits: bool,
}

fn case(code: u16, config: impl Into<String>, provoke: fn(&Server, &mut Client)) -> Case {
    Case { code, config: config.into(), provoke, waits: false }
}

/// One whose goodbye names a time to come back.
fn waiting(case: Case) -> Case {
    Case { waits: true, ..case }
}

fn send(client: &mut Client, bytes: &[u8]) {
    // The server may have closed before all of it has left.
    let _ = client.raw.stream.write_all(bytes);
}

fn fill_without_reading(server: &Server, client: &mut Client) {
    let content = json!("x".repeat(300_000));
    wait_until("the slow client is closed", || {
        posted(server, "/v1/send", &json!({"connection": client.connection(), "content": content}));
        server.metrics().get("closed_total{code=\"4413\"}") == 1
    });
}

fn fill_with_unfinished_messages(server: &Server, client: &mut Client) {
    let others = std::iter::repeat_with(|| Client::open(server));
    let mut others = others.filter(|other| other.shard() == client.shard());
    let mut other = others.next().expect("the kernel spreads connections");
    other.raw.send(&frame(TEXT, &vec![b' '; 80_000]));
    wait_until("it is held", || server.metrics().get("partial_bytes") > 60_000);
    send(client, &frame(TEXT, &vec![b' '; 80_000]));
    wait_until("one is closed", || server.metrics().get("closed_total{code=\"1013\"}") == 1);
}

fn resume_elsewhere(server: &Server, client: &mut Client) {
    let resume = json!({"type": "resume", "ticket": client.ticket()});
    Client::open(server).get(resume, "resumed");
}

fn present(client: &mut Client, token: &str) {
    client.send(json!({"type": "auth", "token": token}).to_string());
}

fn violations() -> Vec<Case> {
    vec![
        case(1002, "", |_, client| send(client, &frame(FIN | 0x40 | TEXT, b"x"))),
        case(1002, "", |_, client| send(client, &frame(FIN | CONTINUATION, b"x"))),
        case(1002, "", |_, client| send(client, &frame(FIN | CLOSE, &[3]))),
        case(1002, "", |_, client| send(client, &close(1005))),
        case(1003, "", |_, client| send(client, &frame(FIN | BINARY, b"{}"))),
        case(1007, "", |_, client| send(client, &raw::text([0xff, 0xff]))),
        case(1008, "[limits]\nfragments_max = 2\n", |_, client| {
            let rest = [TEXT, CONTINUATION, CONTINUATION].map(|first| frame(first, b" "));
            send(client, &rest.concat());
        }),
        case(1009, "[limits]\nmessage_bytes_max = 1_000_000\n", |_, client| {
            send(client, &raw::text(vec![b' '; 1_000_001]));
        }),
    ]
}

fn by_server() -> Vec<Case> {
    let unfinished = "[limits]\nmessage_bytes_max = 100_000\n\
                      partial_shard_bytes_max = 100_000\n";
    vec![
        case(1000, "", |server, client| {
            let body = json!({"connection": client.connection(), "code": 1000});
            posted(server, "/v1/disconnect", &body);
        }),
        case(1001, "[drain]\nat_once_connections = 100\n", |server, _| server.signal("TERM")),
        case(
            1001,
            "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\nidle_timeout_ms = 100\n",
            |_, _| {},
        ),
        case(
            1001,
            "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\nconnection_age_max_ms = 100\n",
            |_, _| {},
        ),
        waiting(case(1013, unfinished, fill_with_unfinished_messages)),
        case(1013, "[auth]\njwks_url = \"http://127.0.0.1:1/\"\n", |_, client| {
            present(client, &token(json!({"sub": "ann"})));
        }),
        case(4401, format!("{KEYS}{OPEN}"), |_, client| present(client, "a.b.c")),
        case(4403, "", |server, client| {
            posted(server, "/v1/disconnect", &json!({"connection": client.connection()}));
        }),
        case(4408, format!("{KEYS}{OPEN}[hub]\nauth_timeout_ms = 100\n"), |_, _| {}),
        case(4409, "", resume_elsewhere),
        case(4410, format!("{KEYS}{OPEN}"), |_, client| {
            present(client, &token(json!({"sub": "ann", "exp": now_s() - 60})));
        }),
        case(4410, format!("{KEYS}{OPEN}[auth]\nleeway_s = 0\n"), |_, client| {
            present(client, &token(json!({"sub": "ann", "exp": now_s() + 2})));
        }),
    ]
}

fn by_excess() -> Vec<Case> {
    vec![
        waiting(case(
            4413,
            "[limits]\noutbox_bytes_max = 65_536\n[[listener]]\nsend_buffer_bytes = 16_384\n",
            fill_without_reading,
        )),
        waiting(case(
            4429,
            "[rates]\nconnection_messages = 1\nexcess = \"close\"\n",
            |_, client| {
                (0..50).for_each(|_| send(client, &raw::text("{\"type\":\"ping\"}")));
            },
        )),
        waiting(case(
            4429,
            "[rates]\nconnection_messages = 1\nexcess = \"close\"\n",
            |_, client| {
                (0..50).for_each(|_| send(client, &frame(FIN | PING, b"")));
            },
        )),
        waiting(case(
            4429,
            "[rates]\nconnection_publishes = 1\nexcess = \"close\"\n",
            |_, client| {
                let publish = json!({"type": "publish", "channel": "a", "content": 1}).to_string();
                (0..50).for_each(|_| send(client, &raw::text(&publish)));
            },
        )),
        case(
            4429,
            format!("{KEYS}{OPEN}[limits]\nconnections_per_user_max = 1\n"),
            |server, client| {
                let first = Client::open_as(server, "ann");
                present(client, &token(json!({"sub": "ann"})));
                // It stays open.
                std::mem::forget(first);
            },
        ),
    ]
}

#[test]
fn every_close_of_the_server_is_announced() {
    let mut seen = BTreeSet::new();
    for case in violations().into_iter().chain(by_server()).chain(by_excess()) {
        let server = Server::start(&case.config);
        let mut client = Client::open(&server);
        (case.provoke)(&server, &mut client);
        let end = end_of(&mut client);
        let shown = format!("{} by {:?}", case.code, case.config);
        assert_eq!(end.code, case.code, "{shown}: {}", end.reason);
        let goodbye = end.goodbye.unwrap_or_else(|| panic!("no goodbye before {shown}"));
        assert_eq!((&goodbye["code"], &goodbye["reason"]), (&json!(end.code), &json!(end.reason)));
        let wait_ms = goodbye["retry_after_ms"].as_u64().expect("a time");
        assert!(wait_ms > 0 || !case.waits, "{shown}: {goodbye}");
        seen.insert(case.code);
    }
    let documented: BTreeSet<u16> =
        table("Close codes").iter().map(|row| row[0].parse().expect("a number")).collect();
    assert_eq!(seen, documented, "each code of the table was provoked");
}

/// A client that closes is answered with its own code, and nothing is announced to it.
#[test]
fn a_close_of_the_client_is_answered_without_a_goodbye() {
    let server = Server::start("");
    for code in [1000, 1001, 4999] {
        let mut client = Client::open(&server);
        client.subscribe("room");
        send(&mut client, &close(code));
        let end = end_of(&mut client);
        assert_eq!((end.code, end.goodbye, end.reason.as_str()), (code, None, ""));
    }
}

/// A connection without the hub's protocol is only closed.
#[test]
fn an_echo_route_says_no_goodbye() {
    let server = Server::start("");
    let mut raw = crate::support::Raw::open(server.address());
    raw.send(&frame(FIN | CONTINUATION, b"x"));
    assert_eq!(raw.frame().close_code(), 1002);
}

//! What the server says of itself while it runs, for machines.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::support::metrics::request;
use crate::support::process::{command, is_on_epoll};
use crate::support::raw::{CLOSE, FIN, TEXT, close, frame, request_with};
use crate::support::{Raw, Server, wait_until};

/// Every line, the start's facts among them, is an object of its own.
#[test]
fn a_log_of_json_is_json_from_the_first_line() {
    let config = "[log]\nformat = \"json\"\n";
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let (mut command, path) = command(&arguments, config);
    let mut child = command.spawn().expect("the server can be started");
    let lines = BufReader::new(child.stderr.take().expect("its log is piped")).lines();
    let mut facts = Vec::new();
    for line in lines.map_while(Result::ok) {
        let object: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("`{line}` is not JSON: {error}"));
        if let Some(fact) = object["fields"]["fact"].as_str() {
            facts.push((fact.to_owned(), object["fields"].clone()));
        }
        if facts.last().is_some_and(|(fact, _)| fact == "limits") {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    std::fs::remove_file(path).expect("the configuration was written");
    let of = |name: &str, key: &str| -> Value {
        let found = facts.iter().find(|(fact, _)| fact == name);
        let (_, fields) = found.unwrap_or_else(|| panic!("no {name}: {facts:?}"));
        assert!(!fields[key].is_null(), "{name} has no {key}: {fields}");
        fields[key].clone()
    };
    let text = |name: &str, key: &str| of(name, key).as_str().expect("a string").to_owned();
    assert!(text("clients", "url").starts_with("ws://127.0.0.1:"));
    assert!(text("playground", "url").starts_with("http://127.0.0.1:"));
    assert!(text("operators", "url").starts_with("http://127.0.0.1:"));
    assert_eq!(text("hub", "access"), "anonymous");
    assert_eq!(text("tickets", "keys"), "random");
    assert!(!text("engine", "reason").is_empty());
    if !is_on_epoll() {
        assert!(of("engine", "ring_entries").is_u64());
    }
    assert!(of("limits", "connections").is_u64());
}

/// The events of a JSON log with this message.
fn events(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let all = all.map(|mut event| event["fields"].take());
    all.filter(|fields| fields["message"] == message).collect()
}

/// A server with keys that logs JSON.
fn logging(level: &str) -> Server {
    Server::start(&format!(
        "[log]\nformat = \"json\"\nlevel = \"{level}\"\n\
         [[key]]\nsecret = \"0123456789abcdef0123456789abcdef\"\n"
    ))
}

fn ask(server: &Server, target: &str, fields: &str) -> u16 {
    let mut client = Raw::connect(server.address());
    client.send(&request_with(target, fields));
    client.answer().0
}

/// Rejections of each kind.
const EACH: u64 = 30;

/// At `info`, a reason has one line and then a sum; what is logged and left out adds up.
#[test]
fn rejections_are_logged_with_their_reason_and_not_one_by_one() {
    let server = logging("info");
    for _ in 0..EACH {
        assert_eq!(ask(&server, "/none?token=secret", ""), 404);
        assert_eq!(ask(&server, "/ws", "Origin: http://other.example\r\n"), 403);
        assert_eq!(ask(&server, "/ws", "Authorization: Bearer a.b.c\r\n"), 401);
    }
    for (reason, path, code) in
        [("not_found", "/none", 404), ("forbidden", "/ws", 403), ("unauthorized", "/ws", 401)]
    {
        let one = |event: &&Value| event["reason"] == reason;
        wait_until("every rejection is accounted for", || {
            let lines = events(&server, "rejected").iter().filter(one).count() as u64;
            let sums = events(&server, "more were rejected");
            let suppressed = sums.iter().filter(one);
            lines + suppressed.map(|event| event["suppressed"].as_u64().unwrap()).sum::<u64>()
                == EACH
        });
        let lines = events(&server, "rejected");
        let first = lines.iter().find(one).unwrap();
        assert_eq!((&first["path"], &first["code"]), (&json!(path), &json!(code)), "{first}");
        assert_eq!(first["address"], "127.0.0.1", "{first}");
        assert!(!first["detail"].as_str().unwrap().is_empty(), "{first}");
    }
    assert!(!server.log().contains("secret"), "queries are not logged");
}

/// At `debug`, each rejection, each failed authentication and each close has a line.
#[test]
fn debug_logs_each_rejection_and_each_close() {
    let server = logging("debug");
    for _ in 0..10 {
        assert_eq!(ask(&server, "/none", ""), 404);
    }
    for code in [1000, 4000] {
        let mut client = Raw::open(server.address());
        client.send(&close(code));
        assert_eq!(client.frame().close_code(), code);
    }
    let mut client = Raw::connect(server.address());
    client.send(&request_with("/ws", ""));
    client.switched();
    client.send(&frame(FIN | TEXT, br#"{"type":"auth","token":"a.b.c"}"#));
    while client.frame().first & 0x0f != CLOSE {}
    client.send(&close(4401));
    wait_until("all is logged", || {
        let rejected = events(&server, "rejected");
        let of = |reason: &str| rejected.iter().filter(|one| one["reason"] == reason).count();
        let closed = events(&server, "closed");
        let closed = |code: u16| {
            closed.iter().any(|one| one["code"] == code && one["address"] == "127.0.0.1")
        };
        of("not_found") == 10 && of("malformed") == 1 && [1000, 4000, 4401].into_iter().all(closed)
    });
}

/// Rejections at the admin address are logged as those of clients are.
#[test]
fn rejected_admin_requests_are_logged_and_not_one_by_one() {
    for level in ["info", "debug"] {
        let server = logging(level);
        let ask = |path: &str, origin: &str| {
            let stream = std::net::TcpStream::connect(server.admin()).unwrap();
            let lines = format!("Host: {}\r\n{origin}", server.admin());
            request(stream, &format!("GET {path}"), &lines, "").status
        };
        for _ in 0..EACH {
            assert_eq!(ask("/v1/node?key=secret", "Origin: http://a.example\r\n"), 403);
            assert_eq!(ask("/v1/nothing", ""), 404);
        }
        for (reason, path, code) in
            [("forbidden", "/v1/node", 403), ("not_found", "/v1/nothing", 404)]
        {
            let one = |event: &&Value| event["reason"] == reason;
            wait_until("every rejection is accounted for", || {
                let lines = events(&server, "admin request rejected").iter().filter(one).count();
                let sums = events(&server, "more admin requests rejected");
                let left_out =
                    sums.iter().filter(one).map(|one| one["suppressed"].as_u64().unwrap());
                lines as u64 + left_out.sum::<u64>() == EACH
            });
            let lines = events(&server, "admin request rejected");
            let lines: Vec<_> = lines.iter().filter(one).collect();
            let first = lines.first().unwrap();
            let shown = (&first["method"], &first["path"], &first["code"], &first["address"]);
            let expected = (&json!("GET"), &json!(path), &json!(code), &json!("127.0.0.1"));
            assert_eq!(shown, expected, "{first}");
            assert_eq!(lines.len() as u64 == EACH, level == "debug", "{} lines", lines.len());
        }
        assert!(!server.log().contains("secret"), "queries are not logged");
    }
}

/// What acts on a terminal is escaped in a log of JSON, too, and the value is the same.
#[test]
fn a_log_of_json_moves_no_cursor() {
    let server = logging("debug");
    let path = "/\u{9b}2J\u{202e}\u{7f}x";
    let mut client = Raw::connect(server.address());
    let request = String::from_utf8(request_with("PATH", "")).unwrap().replace("PATH", path);
    client.send(request.as_bytes());
    client.answer();
    wait_until("it is logged", || {
        events(&server, "rejected")
            .iter()
            .any(|event| event["path"].as_str().is_some_and(|path| path.contains('\u{202e}')))
    });
    let is_active = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!server.log().contains(is_active), "{:?}", server.log());
}

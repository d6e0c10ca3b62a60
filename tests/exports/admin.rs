//! The admin address: which requests are answered, over which socket, and the description of the
//! node.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde_json::Value;

use super::Folder;
use crate::support::metrics::{Answer, get, request};
use crate::support::process::{command, is_on_epoll};
use crate::support::raw::close;
use crate::support::{Raw, Server, wait_until};

#[track_caller]
fn refused(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).expect("it is JSON");
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(message.contains(words), "{message}");
}

#[test]
fn web_pages_and_foreign_names_are_kept_out() {
    let server = Server::start("");
    let ask = |line: &str, headers: &str, body: &str| {
        let stream = TcpStream::connect(server.admin()).expect("it answers");
        request(stream, line, headers, body)
    };
    let own = format!("Host: {}\r\n", server.admin());
    let with = |more: &str| format!("{own}{more}");
    refused(&ask("GET /metrics", &with("Origin: http://127.0.0.1\r\n"), ""), 403, "Origin");
    refused(&ask("GET /metrics", "Host: evil.example:9100\r\n", ""), 403, "admin.hosts");
    assert_eq!(ask("GET /healthz", "Host: localhost\r\n", "").status, 200);
    refused(&ask("POST /v1/drain", &own, ""), 415, "application/json");
    // A method that the path does not have is rejected first.
    refused(&ask("POST /metrics", &own, ""), 405, "method not allowed");
    let form = with("Content-Type: text/plain\r\nContent-Length: 2\r\n");
    refused(&ask("GET /metrics", &form, "{}"), 415, "application/json");
    let json = with("Content-Type: application/json\r\nContent-Length: 2\r\n");
    let answer = ask("POST /metrics", &json, "{}");
    refused(&answer, 405, "method not allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD");
    refused(&ask("DELETE /v1/node", &json, "{}"), 405, "method not allowed");
    refused(&ask("GET /", &own, ""), 404, "/v1/openapi.json");
    refused(&ask("GET /v1/others", &own, ""), 404, "/v1/openapi.json");
}

#[test]
fn the_node_tells_what_it_runs_on() {
    let server = Server::start("[limits]\nmessage_bytes_max = 70_000\n");
    let mut clients: Vec<Raw> = (0..5).map(|_| Raw::open(server.address())).collect();
    clients.iter_mut().for_each(|client| client.echo("here"));
    let node = || -> Value {
        serde_json::from_str(&get(server.admin(), "/v1/node").1).expect("it is JSON")
    };
    wait_until("all are counted", || node()["connections_open"]["total"] == 5);
    let node = node();
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(node["pid"], server.pid());
    assert_eq!((&node["shards"], &node["draining"]), (&2.into(), &false.into()));
    assert!(node["driver"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    if is_on_epoll() {
        assert_eq!(node["driver"]["name"], "epoll");
        assert!(node["driver"].get("ring_entries").is_none());
    } else {
        assert_eq!(node["driver"]["name"], "io_uring");
        assert!(node["driver"]["features"]["send_vectorized"].is_boolean());
        assert!(node["driver"]["ring_entries"].as_u64() > Some(0));
    }
    assert_eq!(node["limits"]["message_bytes_max"], 70_000);
    assert!(node["limits"]["open_files"].as_u64() > Some(0));
    assert_eq!(node["listeners"][0]["address"], server.address().to_string());
    assert!(node["listeners"][0]["congestion_control"].is_string());
    let paths: Vec<_> = node["routes"].as_array().unwrap().iter().map(|r| &r["path"]).collect();
    assert_eq!(paths, ["/ws", "/echo"]);
    let by_shard = node["connections_open"]["by_shard"].as_array().expect("a list");
    assert_eq!(by_shard.iter().filter_map(Value::as_u64).sum::<u64>(), 5);
    assert!(node["uptime_s"].as_f64() > Some(0.0));
}

#[test]
fn a_hangup_ends_nothing() {
    let server = Server::start("");
    let mut client = Raw::open(server.address());
    server.signal("HUP");
    wait_until("the reload is logged", || server.log().contains("configuration reloaded"));
    client.echo("still here");
    assert_eq!(get(server.admin(), "/readyz").0, 200);
}

fn over(path: &str, line: &str, headers: &str) -> Answer {
    let stream = UnixStream::connect(path).expect("it answers");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    request(stream, line, headers, "")
}

/// The support starts servers with an admin address of TCP, so these are started by hand.
#[test]
fn a_unix_socket_answers_its_user_and_goes_with_the_server() {
    let folder = Folder::new();
    let path = folder.file("admin.sock");
    // The file of a dead server is replaced.
    drop(UnixListener::bind(&path).expect("the folder is ours"));
    let admin = format!("unix:{path}");
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "1", "--admin", &admin];
    let (mut first, config) = command(&arguments, "");
    let mut first = first.spawn().expect("the server can be started");
    wait_until("it answers", || UnixStream::connect(&path).is_ok());
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(over(&path, "GET /healthz", "Host: localhost\r\n").status, 200);
    let metrics = over(&path, "GET /metrics", "Host: localhost\r\n");
    assert!(metrics.status == 200 && metrics.body.contains("seawall_accepted_total 0\n"));
    refused(&over(&path, "GET /metrics", "Host: evil.example\r\n"), 403, "Host");
    refused(&over(&path, "GET /", "Host: localhost\r\nOrigin: null\r\n"), 403, "Origin");

    let (mut second, other) = command(&arguments, "");
    let output = second.output().expect("the server can be started");
    let said = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&path) && said.contains("another process listens there"), "{said}");
    assert_eq!(over(&path, "GET /healthz", "Host: localhost\r\n").status, 200, "unharmed");

    let kill = format!("kill -TERM {}", first.id());
    let killed = std::process::Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.expect("there is a shell").success());
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
    assert!(!std::path::Path::new(&path).exists(), "the file goes with its server");
    [config, other].iter().for_each(|file| std::fs::remove_file(file).expect("it was written"));
}

/// Numbers can be read until the end, and are those of the end.
#[test]
fn a_drain_can_be_watched() {
    let config = "[drain]\nwindow_ms = 20_000\nat_once_connections = 0\n";
    let mut server = Server::start(config);
    let mut client = Raw::open(server.address());
    client.echo("before");
    server.signal("TERM");
    wait_until("it says so", || get(server.admin(), "/readyz").0 == 503);
    let node = get(server.admin(), "/v1/node").1;
    assert!(node.contains("\"draining\":true"), "{node}");
    assert_eq!(get(server.admin(), "/healthz").0, 200);
    assert_eq!(server.metrics().get("turnaround_seconds_count"), 1);
    client.send(&close(1000));
    let _ = client.rest();
    assert_eq!(server.wait(Duration::from_secs(30)).code(), Some(0));
}

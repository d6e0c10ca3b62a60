//! The admin address under clients that send half requests, nothing, or too much: health and
//! metrics answer all the same.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::metrics::{get, request};
use crate::support::{Server, wait_until};

const HALF: &[u8] = b"GET /v1/node HTTP/1.1\r\nHost: 127.0.0.1\r\n";
/// Connections that the admin address holds, where files are not scarce.
const MOST: usize = 256;
const READ_TIMEOUT: Duration = Duration::from_mins(1);

fn start(arguments: &[&str]) -> Server {
    let common = ["--listen", "127.0.0.1:0", "--shards", "1"];
    Server::start_with(&[&common, arguments].concat(), "[[route]]\npath = \"/echo\"\n")
}

fn connect(address: SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the admin address takes connections");
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    // It may have been closed for another one already.
    let _ = stream.write_all(first);
    stream
}

/// Whether the server has closed a connection.
fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server has not closed the connection: {error}"),
    }
    all
}

#[test]
fn half_requests_lock_nobody_out() {
    let server = start(&[]);
    let admin = server.admin();
    let mut half = Vec::new();
    for n in 0..3 * MOST {
        half.push(connect(admin, if n % 2 == 0 { HALF } else { b"" }));
        if n % 64 == 0 {
            for path in ["/healthz", "/readyz", "/metrics", "/v1/node"] {
                assert_eq!(get(admin, path).0, 200, "{path} beside {n} connections");
            }
        }
    }
    let metrics = server.metrics();
    assert!(metrics.get("admin_connections") <= MOST as u64);
    assert!(metrics.get("admin_evictions_total") >= 2 * MOST as u64);
    // The last ones were not evicted: their deadline closes them.
    for stream in half.iter_mut().rev().take(2) {
        assert_eq!(read_to_end(stream), b"");
    }
}

#[test]
fn half_requests_at_a_socket_file_lock_nobody_out() {
    let path = std::env::temp_dir().join(format!("seawall-operators-{}", std::process::id()));
    let address = format!("unix:{}", path.display());
    let server = Server::start_at(
        &address,
        &["--listen", "127.0.0.1:0", "--shards", "1"],
        "[[route]]\npath = \"/echo\"\n",
    );
    let connect = || UnixStream::connect(&path).expect("the admin address takes connections");
    let mut half: Vec<UnixStream> = Vec::new();
    for n in 0..2 * MOST {
        let mut stream = connect();
        let _ = stream.write_all(HALF);
        half.push(stream);
        if n % 64 == 0 {
            let answer = request(connect(), "GET /metrics", "Host: localhost\r\n", "");
            assert_eq!(answer.status, 200, "beside {n} connections");
        }
    }
    drop(server);
}

/// Lowers the number of files that a process may have open.
fn limit_files(server: &Server, most: usize) {
    let pid = server.pid().to_string();
    let limit = format!("--nofile={most}:{most}");
    let status = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("util-linux is installed").success());
}

#[test]
fn without_descriptors_for_more_the_waiting_ones_make_room() {
    let server = start(&[]);
    let admin = server.admin();
    wait_until("the reserve of descriptors is held", || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let target = |entry: std::io::Result<std::fs::DirEntry>| -> Option<PathBuf> {
            std::fs::read_link(entry.ok()?.path()).ok()
        };
        let mut sockets: Vec<_> = links.filter_map(target).collect();
        sockets.sort();
        // The admin listener is open several times.
        sockets
            .windows(4)
            .any(|same| same[0] == same[3] && same[0].to_string_lossy().starts_with("socket:"))
    });
    limit_files(&server, server.descriptors() + 6);
    let mut half = Vec::new();
    for n in 0..100 {
        half.push(connect(admin, HALF));
        if n % 10 == 0 {
            assert_eq!(get(admin, "/healthz").0, 200, "beside {n} connections");
        }
    }
    assert_eq!(get(admin, "/metrics").0, 200);
}

#[test]
fn with_every_connection_in_use_health_and_metrics_come_out_of_the_reserve() {
    let server = start(&[]);
    let admin = server.admin();
    let head = b"POST /v1/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n\
                 Content-Type: application/json\r\nContent-Length: 10\r\n\r\n";
    let mut waiting = Vec::new();
    for _ in 0..MOST {
        let mut stream = connect(admin, head);
        let mut line = [0; 25];
        stream.read_exact(&mut line).expect("the body is asked for");
        assert!(line.starts_with(b"HTTP/1.1 100 "));
        waiting.push(stream);
    }
    for _ in 0..20 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(get(admin, path).0, 200, "{path}");
        }
        let (status, text) = get(admin, "/v1/node");
        assert!(status == 503 && text.contains("/healthz"), "{status}: {text}");
    }
    for stream in &mut waiting {
        stream.write_all(b"{\"chan").expect("no request under way is cut for another");
    }
    drop(waiting);
    wait_until("there is room again", || get(admin, "/v1/node").0 == 200);
}

#[test]
fn a_body_has_the_length_that_the_server_names() {
    let hub = "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n";
    let server = Server::start(hub);
    let post = |headers: &str, body: &str| {
        let stream = connect(server.admin(), b"");
        let headers = format!("Host: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}");
        request(stream, "POST /v1/batch", &headers, body)
    };
    let sized = |mib: usize| {
        let command = r#"{"publish":{"channel":"c","content":"#;
        let content = "x".repeat(60_000);
        let one = format!(r#"{command}"{content}"}}}}"#);
        let commands = vec![one.as_str(); (mib << 20) / one.len()].join(",");
        let body = format!(r#"{{"commands":[{commands}]}}"#);
        post(&format!("Content-Length: {}\r\n", body.len()), &body)
    };
    for mib in [1, 3, 15] {
        let answer = sized(mib);
        assert_eq!(answer.status, 200, "{mib} MiB: {}", answer.body);
    }
    let announced = post("Content-Length: 16777217\r\n", "");
    assert_eq!(announced.status, 413);
    assert!(announced.body.contains("16777216"), "{}", announced.body);
    let broken = post("Transfer-Encoding: chunked\r\n", "zz\r\n");
    assert_eq!(broken.status, 400, "{}", broken.body);
}

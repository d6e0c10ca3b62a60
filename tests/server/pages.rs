//! The pages for browsers arrive whole, and the connection ends with them.

use crate::support::{Raw, Server};

fn get(server: &Server, path: &str, lines: &str) -> (u16, String) {
    let mut client = Raw::connect(server.address());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n").as_bytes());
    client.answer()
}

#[test]
fn pages_arrive_whole_and_are_counted_as_answers() {
    let server = Server::start("");
    let library = include_str!("../../src/web/seawall.js");
    let (status, answer) = get(&server, "/seawall.js", "");
    assert_eq!(status, 200);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, library);
    let etag = head.lines().find(|line| line.starts_with("ETag: ")).unwrap();
    let lines = etag.replace("ETag", "If-None-Match") + "\r\n";
    let (status, answer) = get(&server, "/seawall.js", &lines);
    assert_eq!(status, 304);
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let (status, answer) = get(&server, "/", "");
    assert_eq!(status, 200);
    assert!(answer.ends_with(include_str!("../../src/web/index.html")));
    let (status, _) = get(&server, "/none", "");
    assert_eq!(status, 404);
    assert_eq!(server.metrics().get("answered_total"), 3);
    assert_eq!(server.metrics().get("refused_total{reason=\"not_found\"}"), 1);
}

#[test]
fn a_route_of_the_same_path_wins() {
    let server = Server::start("[[route]]\npath = \"/seawall.js\"\nhandler = \"hub\"\n");
    assert_eq!(get(&server, "/seawall.js", "").0, 426);
    assert_eq!(get(&server, "/seawall.d.ts", "").0, 200);
}

/// Applications behind links get their library there; without a hub, there is nothing to play with.
#[test]
fn with_gateway_routes_alone_there_are_the_libraries() {
    let config = "[[backend]]\nname = \"app\"\nlinks = [\"ws://127.0.0.1:1\"]\n\
        [[route]]\npath = \"/game\"\nhandler = \"gateway\"\nbackend = \"app\"\n";
    let server = Server::start(config);
    let (status, answer) = get(&server, "/link/seawall-link.mjs", "");
    assert_eq!(status, 200);
    assert!(answer.ends_with(include_str!("../../src/web/link/node/seawall-link.mjs")));
    assert_eq!(get(&server, "/link/seawall_link.py", "").0, 200);
    assert_eq!(get(&server, "/seawall.js", "").0, 200);
    assert_eq!(get(&server, "/", "").0, 404);
}

#[test]
fn without_sessions_there_are_no_pages() {
    let server = Server::start("[[route]]\npath = \"/echo\"\n");
    assert_eq!(get(&server, "/", "").0, 404);
    assert_eq!(get(&server, "/seawall.js", "").0, 404);
}

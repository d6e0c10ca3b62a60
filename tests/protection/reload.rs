//! Another configuration while connections are open.

use std::net::TcpStream;

use crate::support::metrics::request;
use crate::support::raw::request_with;
use crate::support::{Raw, Server};
use crate::{hub, said, say};

fn open(server: &Server, path: &str) -> Result<Raw, String> {
    let mut raw = Raw::connect(server.address());
    raw.send(&request_with(path, ""));
    let head = raw.head();
    if head.starts_with("HTTP/1.1 101 ") { Ok(raw) } else { Err(head) }
}

const ROUTES: &str = "[[route]]\npath = \"/a\"\n[[route]]\npath = \"/b\"\n";

#[test]
fn routes_and_limits_change_and_connections_stay() {
    let server = Server::start(ROUTES);
    let mut a = open(&server, "/a").unwrap();
    let mut b = open(&server, "/b").unwrap();
    let said = server.reload(
        "[limits]\nmessage_bytes_max = 10\n[[route]]\npath = \"/new\"\n[[route]]\npath = \"/b\"\n\
         connections_max = 2\n",
    );
    assert!(said.contains("configuration reloaded"), "{said}");
    a.echo("open stays");
    b.echo("open too");
    assert!(open(&server, "/a").err().unwrap().starts_with("HTTP/1.1 404 "));
    open(&server, "/new").unwrap().echo("is there");
    let mut second = open(&server, "/b").unwrap();
    assert!(open(&server, "/b").err().unwrap().starts_with("HTTP/1.1 503 "), "the first counts");
    second.send(&crate::support::raw::text("longer than ten"));
    assert_eq!(second.frame().close_code(), 1009);

    // What was there before has its old place again.
    server.reload(ROUTES);
    open(&server, "/a").unwrap().echo("it is back, with messages of all sizes");
    assert!(open(&server, "/new").is_err());
    a.echo("and still open");
    let node = crate::support::metrics::get(server.admin(), "/v1/node").1;
    let node: serde_json::Value = serde_json::from_str(&node).unwrap();
    let routes = node["routes"].as_array().unwrap();
    let mut paths: Vec<_> = routes.iter().map(|route| route["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/a", "/b"]);
}

#[test]
fn a_bad_file_is_refused_with_its_reason_and_nothing_changes() {
    let server = Server::start(ROUTES);
    let mut a = open(&server, "/a").unwrap();
    for (bad, reason) in [
        ("[limits]\nmesage_bytes_max = 10\n", "message_bytes_max"),
        ("[[route]]\npath = \"b\"\n", "must begin with `/`"),
        ("[limits\n", "line 1"),
        ("[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n", "restart the server"),
    ] {
        let said = server.reload(bad);
        assert!(
            said.contains("configuration rejected") && said.contains(reason),
            "{reason}: {said}"
        );
        open(&server, "/a").unwrap().echo("as before");
    }
    a.echo("still here");
}

#[test]
fn what_takes_a_restart_is_named_and_the_rest_is_taken() {
    let server = Server::start(ROUTES);
    let said = server.reload(
        "shards = 7\n[engine]\nring_entries = 2048\n[limits]\naddress_prefix_v6 = 48\n\
         message_bytes_max = 3\n[[route]]\npath = \"/a\"\n",
    );
    assert!(said.contains("need a restart"), "{said}");
    for key in ["[engine]", "limits.address_prefix_v6"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    // A flag takes precedence over the file.
    assert!(!said.contains("shards"), "{said}");
    let mut a = open(&server, "/a").unwrap();
    a.send(&crate::support::raw::text("long"));
    assert_eq!(a.frame().close_code(), 1009);
}

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn token(secret: &str) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"));
    let key = format!("--key-secret={secret}");
    let output = command.args(["token", "--user", "ann", &key]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn keys_namespaces_and_log_level_change() {
    let mut server = Server::start(&format!(
        "[log]\nlevel = \"debug\"\n[[key]]\nsecret = \"{KEY}\"\n[[api_key]]\nsecret = \"{KEY}\"\n\
         [[channel]]\npattern = \"news\"\nsubscribe = \"authenticated\"\n"
    ));
    let bearer = |secret: &str| format!("Authorization: Bearer {}\r\n", token(secret));
    let mut raw = Raw::connect(server.address());
    let protocol = "Sec-WebSocket-Protocol: seawall.v1\r\n";
    raw.send(&request_with("/ws", &format!("{protocol}{}", bearer(KEY))));
    raw.switched();
    let ticket = said(&mut raw)["ticket"].as_str().unwrap().to_owned();
    say(&mut raw, "{\"type\":\"subscribe\",\"id\":\"1\",\"channel\":\"news\"}");
    let answer = said(&mut raw);
    assert_eq!(answer["type"], "subscribed", "{answer}");

    let other = KEY.replace('0', "9");
    server.reload(&format!(
        "[log]\nlevel = \"info\"\n[[key]]\nsecret = \"{other}\"\n[[api_key]]\n\
         secret = \"{other}\"\n[[channel]]\npattern = \"news\"\n\
         subscribe = \"authenticated\"\npublish = \"server\"\n"
    ));
    let mut old = Raw::connect(server.address());
    old.send(&request_with("/ws", &format!("{protocol}{}", bearer(KEY))));
    assert_eq!(old.answer().0, 401, "the old key is none any more");
    // Nor is what rests on it, although the new key has the same id.
    let mut goodbye = said(&mut raw);
    while goodbye["type"] != "goodbye" {
        goodbye = said(&mut raw);
    }
    assert_eq!(raw.frame().close_code(), 4410);
    let mut new = hub(&server, &bearer(&other));
    say(&mut new, &format!("{{\"type\":\"resume\",\"id\":\"r\",\"ticket\":\"{ticket}\"}}"));
    assert_eq!(said(&mut new)["code"], "unauthorized");
    say(&mut new, "{\"type\":\"publish\",\"id\":\"p\",\"channel\":\"news\",\"content\":1}");
    assert_eq!(said(&mut new)["code"], "forbidden");

    let ask = |secret: &str| {
        let headers = format!("Host: 127.0.0.1\r\nAuthorization: Bearer {secret}\r\n");
        let stream = TcpStream::connect(server.admin()).unwrap();
        request(stream, "GET /v1/node", &headers, "").status
    };
    assert_eq!((ask(KEY), ask(&other)), (401, 200));
    server.signal("TERM");
    assert!(server.wait(std::time::Duration::from_mins(1)).success());
    assert!(!server.log().contains(&other), "secrets are not logged");
}

#[test]
fn channels_that_are_open_keep_as_much_as_is_configured_now() {
    let config = |history: u32| format!("[[channel]]\npattern = \"*\"\nhistory = {history}\n");
    let server = Server::start(&config(2));
    let mut client = hub(&server, "");
    let publish = |client: &mut Raw, count: usize| {
        for _ in 0..count {
            say(client, "{\"type\":\"publish\",\"channel\":\"a\",\"content\":1}");
            assert_eq!(said(client)["type"], "published");
        }
        say(client, "{\"type\":\"history\",\"channel\":\"a\"}");
        said(client)["messages"].as_array().unwrap().len()
    };
    assert_eq!(publish(&mut client, 4), 2);
    server.reload(&config(5));
    assert_eq!(publish(&mut client, 4), 5);
    server.reload(&config(1));
    assert_eq!(publish(&mut client, 0), 1, "it is cut at once");
}

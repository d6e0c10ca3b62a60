//! Authentication stays in force: over reloads of a half-written file, and for web pages whose
//! names were rebound to a loopback address.

use serde_json::json;

use crate::client::{Client, KEYS, OPEN, call, token};
use crate::support::raw::request_with;
use crate::support::{Raw, Server};

const API_KEY: &str = "[[api_key]]\nsecret = \"an-api-key-of-20-characters\"\n";

/// Whether a client without a token may subscribe.
fn is_open(server: &Server) -> bool {
    let answer = Client::open(server).ask(json!({"type": "subscribe", "channel": "private:a"}));
    answer["type"] == "subscribed"
}

/// The status of a call without a key.
fn api(server: &Server) -> u16 {
    let json = "Content-Type: application/json\r\n";
    call(server, "POST /v1/publish", json, "{\"channel\":\"a\",\"content\":1}").status
}

#[test]
fn a_file_that_is_empty_or_half_written_opens_nothing() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let jwks = folder.join(format!("authentication-{}.json", std::process::id()));
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
                               "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]});
    std::fs::write(&jwks, set.to_string()).unwrap();
    let file = format!("[auth]\njwks_file = \"{}\"\n", jwks.display());
    for keys in [KEYS, &file, "[auth]\njwks_url = \"http://127.0.0.1:1/jwks.json\"\n"] {
        let whole = format!("{keys}{API_KEY}");
        let server = Server::start(&whole);
        for (cut, option) in [
            ("", "auth.allow_anonymous"),
            ("[drain]\nwindow_ms = 1000\n", "auth.allow_anonymous"),
            (API_KEY, "auth.allow_anonymous"),
            (keys, "admin.allow_anonymous"),
        ] {
            let said = server.reload(cut);
            assert!(
                said.contains("configuration rejected") && said.contains(option),
                "{cut}: {said}"
            );
            assert!(!is_open(&server), "{cut}");
            assert_eq!(api(&server), 401, "{cut}");
        }
        assert!(server.reload(&whole).contains("configuration reloaded"));
    }
    let server = Server::start(&file);
    std::fs::write(&jwks, "{\"keys\": []}").unwrap();
    let said = server.reload(&file);
    assert!(said.contains("configuration rejected") && said.contains("no usable key"), "{said}");
    std::fs::remove_file(jwks).unwrap();
}

/// Without keys, what is not open is closed by `[[channel]]` sections alone.
#[test]
fn channels_that_were_closed_stay_so_too() {
    let server = Server::start("[[channel]]\npattern = \"private:*\"\nsubscribe = \"server\"\n");
    for cut in ["", "[drain]\nwindow_ms = 1000\n"] {
        let said = server.reload(cut);
        assert!(said.contains("configuration rejected") && said.contains("[[channel]]"), "{said}");
        assert!(!is_open(&server));
    }
    assert!(server.reload(OPEN).contains("configuration reloaded"));
    assert!(is_open(&server));
}

#[test]
fn keys_may_go_where_that_is_meant() {
    let server = Server::start(&format!("{KEYS}{API_KEY}"));
    let anonymous = "[auth]\nallow_anonymous = true\n";
    assert!(server.reload(&format!("{anonymous}{API_KEY}")).contains("configuration reloaded"));
    assert!(is_open(&server));
    assert_eq!(api(&server), 401);
    let said = server.reload(&format!("{anonymous}[admin]\nallow_anonymous = true\n"));
    assert!(said.contains("configuration reloaded"), "{said}");
    assert_eq!(api(&server), 200);
    // And come back.
    assert!(server.reload(&format!("{KEYS}{API_KEY}")).contains("configuration reloaded"));
    assert!(!is_open(&server));
    assert_eq!(api(&server), 401);
}

/// The status of an upgrade by a page of this host.
fn page(server: &Server, path: &str, host: &str, origin: &str) -> (u16, String) {
    let request = String::from_utf8(request_with(path, &format!("Origin: {origin}\r\n"))).unwrap();
    let mut raw = Raw::connect(server.address());
    raw.send(request.replace("Host: test", &format!("Host: {host}")).as_bytes());
    let head = raw.head();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let body = if status == 101 { Vec::new() } else { raw.rest().unwrap_or_default() };
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn without_keys_only_pages_of_loopback_names_are_accepted() {
    let own = |server: &Server, path: &str, host: &str| {
        page(server, path, host, &format!("http://{host}")).0
    };
    let server = Server::start("");
    let port = server.address().port();
    for path in ["/ws", "/echo"] {
        for name in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"]
        {
            let host = format!("{name}:{port}");
            let (status, body) = page(&server, path, &host, &format!("http://{host}"));
            assert_eq!(status, 403, "{host}");
            assert!(body.contains("route.origins") && body.contains("proxy"), "{body}");
        }
        for name in ["127.0.0.1", "localhost", "[::1]", "app.localhost"] {
            assert_eq!(own(&server, path, &format!("{name}:{port}")), 101, "{name}");
        }
        assert_eq!(page(&server, path, "127.0.0.1", "http://evil.example").0, 403);
    }
    // A client that is no browser may name any host.
    let mut raw = Raw::connect(server.address());
    raw.send(&request_with("/ws", ""));
    raw.switched();
    // Listed pages pass, whatever they are reached as.
    let listed = Server::start(
        "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\norigins = [\"https://app.example\"]\n",
    );
    assert_eq!(page(&listed, "/ws", "app.example", "https://app.example").0, 101);
    assert_eq!(page(&listed, "/ws", "evil.example", "http://evil.example").0, 403);
    // With keys, and on addresses that others reach, the page's own host counts.
    let keys = Server::start(&format!("{KEYS}{OPEN}"));
    assert_eq!(own(&keys, "/ws", "app.example"), 101);
    let arguments = ["--listen", "0.0.0.0:0", "--shards", "1"];
    let public = Server::start_with(&arguments, "[auth]\nallow_anonymous = true\n");
    let mut raw = Raw::connect(([127, 0, 0, 1], public.address().port()).into());
    raw.send(&request_with("/ws", "Origin: http://test\r\n"));
    raw.switched();
    // A reload that brings keys, or takes them, counts at once.
    assert!(server.reload(KEYS).contains("configuration reloaded"));
    assert_eq!(own(&server, "/ws", "app.example"), 101);
    let mut client = Client::open(&server);
    client.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
}

//! The pages for browsers: found, compressed, kept by caches, and never in a route's way.
//!
//! What belongs here: single requests to the pages that the server really has. That they arrive
//! whole over a socket is in `server`, what they do in a browser in `clients`.

use std::io::Read;

use flate2::read::GzDecoder;
use seawall::proto::http::{
    Availability, Context, Decision, Head, Limits, Origins, Pages, Refusal, Route, Routes, encode,
    receive,
};
use seawall::web;

const FILES: [(&str, &str, &[u8]); 9] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../src/web/index.html")),
    (
        "/playground.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../src/web/playground.js"),
    ),
    ("/playground.css", "text/css; charset=utf-8", include_bytes!("../src/web/playground.css")),
    ("/seawall.js", "text/javascript; charset=utf-8", include_bytes!("../src/web/seawall.js")),
    (
        "/seawall/base.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../src/web/seawall/base.js"),
    ),
    (
        "/seawall/channel.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../src/web/seawall/channel.js"),
    ),
    ("/seawall.d.ts", "text/plain; charset=utf-8", include_bytes!("../src/web/seawall.d.ts")),
    (
        "/link/seawall-link.mjs",
        "text/javascript; charset=utf-8",
        include_bytes!("../src/web/link/node/seawall-link.mjs"),
    ),
    (
        "/link/seawall_link.py",
        "text/x-python; charset=utf-8",
        include_bytes!("../src/web/link/python/seawall_link.py"),
    ),
];

/// Whether a page is of a library, and not of the playground.
fn is_of_library(path: &str) -> bool {
    path.starts_with("/seawall") || path.starts_with("/link/")
}

/// An answer in parts.
struct Answer {
    status: u16,
    refusal: Option<Refusal>,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn field(&self, name: &str) -> &str {
        self.maybe(name).unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }

    fn maybe(&self, name: &str) -> Option<&str> {
        let found = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.map(str::trim_end)
    }
}

#[track_caller]
fn ask_of(pages: &Pages, routes: Vec<Route>, request: &str) -> Answer {
    let context = Context {
        gate: None,
        routes: &Routes::new(routes),
        pages,
        limits: &Limits { head_bytes_max: 4096, target_bytes_max: 512, headers_max: 32 },
        forwarding: None,
        peer: None,
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: seawall::proto::http::SameOrigin::AnyHost,
        availability: Availability::Ready,
        context_room_bytes: 0,
        forwards: None,
    };
    let mut out = Vec::new();
    let head = receive(request.as_bytes(), &mut 0, &context);
    let Head::Complete { decision: decision @ Decision::Answer(response), .. } = &head else {
        panic!("{request}: {head:?}")
    };
    encode(decision, &mut out);
    let (status, refusal) = (response.status(), response.refusal());
    let end = out.windows(4).position(|four| four == b"\r\n\r\n").expect("a head ends") + 4;
    let body = out.split_off(end);
    let head = String::from_utf8(out).expect("a head is text");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    Answer { status, refusal, head, body }
}

#[track_caller]
fn ask(method: &str, path: &str, lines: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    ask_of(&web::make_pages(true), Vec::new(), &request)
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).expect("it is gzip");
    plain
}

#[test]
fn each_file_is_there_plain_and_as_gzip() {
    for (path, content_type, bytes) in FILES {
        let plain = ask("GET", path, "");
        assert_eq!((plain.status, plain.refusal), (200, None), "{path}");
        assert_eq!(plain.body, bytes, "{path}");
        assert_eq!(plain.maybe("Content-Encoding"), None);
        let gzip = ask("GET", path, "Accept-Encoding: gzip, deflate, br\r\n");
        assert_eq!(gzip.field("Content-Encoding"), "gzip");
        assert_eq!(inflate(&gzip.body), bytes, "{path}");
        assert!(gzip.body.len() * 2 < bytes.len(), "{path}: {}", gzip.body.len());
        assert_ne!(plain.field("ETag"), gzip.field("ETag"), "two forms are two entities");
        for answer in [plain, gzip] {
            assert_eq!(answer.field("Content-Type"), content_type);
            assert_eq!(answer.field("Content-Length"), answer.body.len().to_string());
            assert_eq!(answer.field("Vary"), "Accept-Encoding");
            assert_eq!(answer.field("Cache-Control"), "no-cache");
            assert_eq!(answer.field("X-Content-Type-Options"), "nosniff");
            assert_eq!(answer.field("Connection"), "close");
            assert!(answer.field("ETag").starts_with('"') && answer.field("ETag").ends_with('"'));
        }
    }
    assert_eq!(ask("GET", "/?channel=a&name=b", "").body, FILES[0].2, "the query is the page's");
}

#[test]
fn head_is_get_without_the_body() {
    for lines in ["", "Accept-Encoding: gzip\r\n"] {
        let (get, head) = (ask("GET", "/", lines), ask("HEAD", "/", lines));
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.head, get.head);
    }
}

#[test]
fn who_has_it_is_not_sent_it_again() {
    let plain = ask("GET", "/seawall.js", "").field("ETag").to_owned();
    let gzip = ask("GET", "/seawall.js", "Accept-Encoding: gzip\r\n").field("ETag").to_owned();
    let other = ask("GET", "/", "").field("ETag").to_owned();
    let cases = [
        (format!("If-None-Match: {plain}\r\n"), 304),
        (format!("if-none-match: \"a\", W/{plain} ,\"b\"\r\n"), 304),
        (format!("If-None-Match: \"a\"\r\nIf-None-Match: {plain}\r\n"), 304),
        ("If-None-Match: *\r\n".into(), 304),
        (format!("If-None-Match: {gzip}\r\nAccept-Encoding: gzip\r\n"), 304),
        (format!("If-None-Match: {plain}\r\nAccept-Encoding: gzip\r\n"), 200),
        (format!("If-None-Match: {gzip}\r\n"), 200),
        (format!("If-None-Match: {other}\r\n"), 200),
        ("If-None-Match: \r\n".into(), 200),
    ];
    for (lines, status) in cases {
        for method in ["GET", "HEAD"] {
            let answer = ask(method, "/seawall.js", &lines);
            assert_eq!((answer.status, answer.refusal), (status, None), "{lines}");
            if status == 304 {
                // RFC 9110 15.4.5: what a cache needs, and no body.
                assert!(answer.body.is_empty());
                assert!([&plain, &gzip].contains(&&answer.field("ETag").to_owned()));
                assert_eq!(answer.field("Vary"), "Accept-Encoding");
                assert_eq!(answer.maybe("Content-Length"), None);
            }
        }
    }
}

#[test]
fn gzip_is_sent_to_who_takes_it() {
    let cases = [
        ("", false),
        ("Accept-Encoding: \r\n", false),
        ("Accept-Encoding: br\r\n", false),
        ("Accept-Encoding: br\r\nAccept-Encoding: GZIP\r\n", true),
        ("Accept-Encoding: x-gzip\r\n", true),
        ("Accept-Encoding: gzip;q=0.5, identity;q=1\r\n", true),
        ("Accept-Encoding: gzip; q=0\r\n", false),
        ("Accept-Encoding: gzip;q=0.000, *\r\n", false),
        ("Accept-Encoding: gzip;q=0.001\r\n", true),
        ("Accept-Encoding: *\r\n", true),
        ("Accept-Encoding: *;q=0\r\n", false),
        ("Accept-Encoding: *;q=0, gzip\r\n", true),
        ("Accept-Encoding: gzipped\r\n", false),
    ];
    for (lines, taken) in cases {
        let answer = ask("GET", "/seawall.js", lines);
        assert_eq!(answer.maybe("Content-Encoding").is_some(), taken, "{lines}");
    }
}

#[test]
fn the_playground_is_fenced_and_the_library_is_for_all() {
    for path in ["/", "/playground.js", "/playground.css"] {
        let answer = ask("GET", path, "");
        let policy = answer.field("Content-Security-Policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|one| one == part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.field("Referrer-Policy"), "no-referrer");
        assert_eq!(answer.maybe("Access-Control-Allow-Origin"), None);
    }
    for (path, ..) in FILES.into_iter().filter(|(path, ..)| is_of_library(path)) {
        assert_eq!(ask("GET", path, "").field("Access-Control-Allow-Origin"), "*");
    }
    let page = String::from_utf8(FILES[0].2.to_vec()).expect("a page is text");
    for inline in ["<script>", "<style", " style=", " onclick="] {
        assert!(!page.contains(inline), "the policy forbids {inline}");
    }
}

#[test]
fn what_is_no_page_is_refused() {
    let cases = [
        ("GET", "/playground", "", 404),
        ("GET", "/seawall.js/", "", 404),
        ("GET", "//", "", 404),
        ("GET", "/mod.rs", "", 404),
        ("POST", "/", "", 405),
        ("GET", "/", "Content-Length: 3\r\n", 400),
        ("GET", "/", "Transfer-Encoding: chunked\r\n", 400),
    ];
    for (method, path, lines, status) in cases {
        let answer = ask(method, path, lines);
        assert_eq!(answer.status, status, "{method} {path} {lines}");
        assert!(answer.refusal.is_some());
    }
    assert_eq!(ask("POST", "/", "").field("Allow"), "GET, HEAD");
    let library_only = web::make_pages(false);
    for (path, _, _) in FILES {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = if is_of_library(path) { 200 } else { 404 };
        assert_eq!(ask_of(&library_only, Vec::new(), &request).status, status, "{path}");
    }
}

#[test]
fn a_route_comes_before_a_page() {
    let route = |path: &str, prefix| Route {
        path: path.into(),
        prefix,
        subprotocols: Vec::new(),
        origins: Origins::Any,
        compression: None,
    };
    for (route, taken) in [(route("/", false), "/"), (route("/", true), "/seawall.js")] {
        let request = format!("GET {taken} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = ask_of(&web::make_pages(true), vec![route], &request);
        assert_eq!(answer.refusal, Some(Refusal::UpgradeRequired));
    }
}

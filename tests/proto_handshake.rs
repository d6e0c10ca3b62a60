//! The handshake: which requests are upgraded, answered, refused, and with what.
//!
//! What belongs here: single requests, each tied to its rule. Random input is in
//! `proto_fuzz_bodies`, other implementations are in `proto_oracles`.

use std::sync::LazyLock;

use seawall::proto::http::{
    Availability, Compression, Context, Decision, Denial, HEADERS_MAX, Head, Limits, Origins,
    Pages, Refusal, Route, Routes, Upgrade, encode, receive, refuse,
};

const LIMITS: Limits = Limits { head_bytes_max: 4096, target_bytes_max: 512, headers_max: 32 };
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const UPGRADE: &str = "Host: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

static ROUTES: LazyLock<Routes> = LazyLock::new(routes);
static PAGES: Pages = Pages::NONE;

fn routes() -> Routes {
    let route = |path: &str, prefix, origins| Route {
        path: path.into(),
        prefix,
        subprotocols: vec!["chat".into(), "superchat".into()],
        origins,
        compression: None,
    };
    let list = [
        "https://example.com",
        "http://localhost:8080",
        "HTTPS://A.example:443",
        "https://*.b.example",
        "capacitor://localhost",
    ];
    Routes::new(vec![
        route("/echo", false, Origins::Any),
        route("/same", true, Origins::SameOrigin),
        route("/list", false, Origins::list(&list).expect("they can match")),
        route("/healthz", false, Origins::Any),
        route("/bare", false, Origins::Any),
    ])
}

/// What one request shown whole comes to: the head's verdict and the answer.
fn show_with<'c>(
    request: &[u8],
    limits: &'c Limits,
    availability: Availability,
) -> (Head<'c>, String) {
    let context = Context {
        routes: &ROUTES,
        pages: &PAGES,
        limits,
        forwarding: None,
        peer: None,
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: seawall::proto::http::SameOrigin::AnyHost,
        availability,
        gate: None,
        context_room_bytes: 0,
        forwards: None,
    };
    let head = receive(request, &mut 0, &context);
    let mut out = Vec::new();
    if let Head::Complete { decision, .. } = &head {
        encode(decision, &mut out);
    }
    (head, String::from_utf8(out).expect("answers are text"))
}

fn show(request: impl AsRef<[u8]>) -> (Head<'static>, String) {
    show_with(request.as_ref(), &LIMITS, Availability::Ready)
}

/// The status of the answer, 0 if there is none yet.
fn status(head: &Head<'_>) -> u16 {
    match head {
        Head::Partial
        | Head::Complete { decision: Decision::Pending(_) | Decision::Forward(_), .. } => 0,
        Head::Complete { decision: Decision::Upgrade(_), .. } => 101,
        Head::Complete { decision: Decision::Answer(response), .. } => response.status(),
    }
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n")
}

/// The usual upgrade with one field's line replaced; an empty one takes it out.
fn with(name: &str, line: &str) -> String {
    let fields: String = UPGRADE
        .split_inclusive("\r\n")
        .map(|field| if field.starts_with(&format!("{name}:")) { line } else { field })
        .collect();
    get("/echo", &fields)
}

/// The usual upgrade with lines added.
fn and(lines: &str) -> String {
    get("/echo", &format!("{UPGRADE}{lines}"))
}

fn check(cases: &[(&str, String, u16)]) {
    for (name, request, expected) in cases {
        let (head, answer) = show(request);
        assert_eq!(status(&head), *expected, "{name}: {answer}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{name}: {answer}");
    }
}

#[test]
fn the_sample_of_the_rfc_is_upgraded() {
    let request = and("Sec-WebSocket-Protocol: chat, superchat\r\nOrigin: http://example.com\r\n");
    let (head, answer) = show([request.as_bytes(), b"\x81\x85frames"].concat());
    let decision = Decision::Upgrade(Upgrade {
        route: 0,
        key: *b"dGhlIHNhbXBsZSBub25jZQ==",
        subprotocol: Some("chat".into()),
        compression: Compression::default(),
    });
    assert_eq!(head, Head::Complete { consumed: request.len(), client: None, decision });
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
}

#[test]
fn token_lists_may_be_mixed_and_repeated() {
    let cases = [
        ("connection list", with("Connection", "Connection: keep-alive, Upgrade\r\n"), 101),
        ("connection case", with("Connection", "connection: ,uPGRADE ,\r\n"), 101),
        ("connection lines", with("Connection", "Connection: x\r\nConnection: upgrade\r\n"), 101),
        ("connection first", with("Connection", "Connection: upgrade\r\nConnection: x\r\n"), 101),
        ("upgrade first", with("Upgrade", "Upgrade: websocket\r\nUpgrade: h2c\r\n"), 101),
        ("upgrade case", with("Upgrade", "UPGRADE: WebSocket\r\n"), 101),
        ("upgrade list", with("Upgrade", "Upgrade: h2c, websocket\r\n"), 101),
        ("upgrade lines", with("Upgrade", "Upgrade: h2c\r\nUpgrade:websocket \t\r\n"), 101),
        ("connection lacks it", with("Connection", "Connection: keep-alive\r\n"), 426),
        ("connection has a longer word", with("Connection", "Connection: upgrades\r\n"), 426),
        ("no connection", with("Connection", ""), 426),
        ("upgrade to other", with("Upgrade", "Upgrade: h2c\r\n"), 426),
        ("upgrade with version", with("Upgrade", "Upgrade: websocket/13\r\n"), 426),
        ("no upgrade", with("Upgrade", ""), 426),
    ];
    check(&cases);
}

#[test]
fn singletons_are_single_and_valid() {
    let key = |value: &str| with("Sec-WebSocket-Key", &format!("Sec-WebSocket-Key: {value}\r\n"));
    let version =
        |v: &str| with("Sec-WebSocket-Version", &format!("Sec-WebSocket-Version:{v}\r\n"));
    let host = |value: &str| with("Host", &format!("Host: {value}\r\n"));
    let cases = [
        ("no key", with("Sec-WebSocket-Key", ""), 400),
        ("empty key", key(""), 400),
        ("two keys", and(KEY), 400),
        ("15 bytes", key("AAAAAAAAAAAAAAAAAAAA"), 400),
        ("17 bytes", key("AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("18 bytes", key("AAAAAAAAAAAAAAAAAAAAAAAA"), 400),
        ("no padding", key("AAAAAAAAAAAAAAAAAAAAAA"), 400),
        ("url alphabet", key("AAAAAAAAAAAAAAAAAAAA-_=="), 400),
        ("key with space", key("AAAAAAAAAA AAAAAAAAAAA=="), 400),
        // RFC 6455 4.1 prints one of these as its example.
        ("spare bits", key("AQIDBAUGBwgJCgsMDQ4PEC=="), 101),
        ("all spare bits", key("AAAAAAAAAAAAAAAAAAAAA/=="), 101),
        ("one padding", key("AAAAAAAAAAAAAAAAAAAAAAA=="), 400),
        ("padding inside", key("AAAAAAAAAAAAAAAAAAAAA==="), 400),
        ("key alphabet", key("azAZ09+/AAAAAAAAAAAAAw=="), 101),
        ("no version", with("Sec-WebSocket-Version", ""), 426),
        ("version 8", version("8"), 426),
        ("version 013", version("013"), 426),
        ("version list", version("13, 8"), 426),
        ("two versions", and("Sec-WebSocket-Version: 13\r\n"), 400),
        ("version trimmed", version(" 13\t"), 101),
        ("no host", with("Host", ""), 400),
        ("two hosts", and("Host: example.com\r\n"), 400),
        ("empty host", host(""), 400),
        ("host with port", host("example.com:9000"), 101),
        ("host with empty port", host("example.com:"), 101),
        ("host v6", host("[::1]:9000"), 101),
        ("host v6 unclosed", host("[::1"), 400),
        ("host v6 bare", host("::1"), 400),
        ("host not v6", host("[::g]"), 400),
        ("host with path", host("example.com/x"), 400),
        ("host with user", host("a@example.com"), 400),
        ("host list", host("a, b"), 400),
        ("host port too big", host("a:65536"), 400),
        ("host port not a number", host("a:x"), 400),
        ("host port signed", host("a:+1"), 400),
        ("two origins", and("Origin: http://a\r\nOrigin: http://a\r\n"), 400),
    ];
    check(&cases);
}

#[test]
fn request_lines_are_strict() {
    let line = |line: &str| format!("{line}\r\n{UPGRADE}\r\n");
    let cases = [
        ("post", line("POST /echo HTTP/1.1"), 405),
        ("head", line("HEAD /echo HTTP/1.1"), 405),
        ("lower case method", line("get /echo HTTP/1.1"), 405),
        ("connect", line("CONNECT example.com:80 HTTP/1.1"), 405),
        ("options *", line("OPTIONS * HTTP/1.1"), 405),
        ("get *", line("GET * HTTP/1.1"), 400),
        ("authority form", line("GET example.com:80 HTTP/1.1"), 400),
        ("1.0", line("GET /echo HTTP/1.0"), 400),
        ("2.0", line("GET /echo HTTP/2.0"), 400),
        ("1.2", line("GET /echo HTTP/1.2"), 400),
        ("no version", line("GET /echo"), 400),
        ("lower case version", line("GET /echo http/1.1"), 400),
        ("http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("two spaces", line("GET  /echo HTTP/1.1"), 400),
        ("tab", line("GET\t/echo HTTP/1.1"), 400),
        ("space at the end", line("GET /echo HTTP/1.1 "), 400),
        ("space at the start", line(" GET /echo HTTP/1.1"), 400),
        ("empty line first", line("\r\nGET /echo HTTP/1.1"), 101),
        ("two empty lines first", line("\r\n\r\nGET /echo HTTP/1.1"), 400),
        ("bare line feed first", line("\nGET /echo HTTP/1.1"), 400),
        ("bare carriage return first", line("\rGET /echo HTTP/1.1"), 400),
        ("space behind an empty line", line("\r\n GET /echo HTTP/1.1"), 400),
        ("query", line("GET /echo?a=/../b&c={d} HTTP/1.1"), 101),
        ("fragment", line("GET /echo#x HTTP/1.1"), 400),
        ("absolute", line("GET http://example.com/echo HTTP/1.1"), 101),
        ("absolute wss", line("GET WSS://example.com:443/echo?x HTTP/1.1"), 101),
        ("absolute other", line("GET ftp://example.com/echo HTTP/1.1"), 400),
        ("absolute no host", line("GET http:///echo HTTP/1.1"), 400),
        ("absolute user", line("GET http://u@example.com/echo HTTP/1.1"), 400),
        ("absolute no path", line("GET http://example.com HTTP/1.1"), 404),
        ("unknown path", line("GET /echo/ HTTP/1.1"), 404),
        ("other case", line("GET /Echo HTTP/1.1"), 404),
        ("prefix", line("GET /same/x HTTP/1.1"), 101),
        ("prefix itself", line("GET /same HTTP/1.1"), 101),
        ("within a segment", line("GET /samex HTTP/1.1"), 404),
        ("dots", line("GET /same/../echo HTTP/1.1"), 400),
        ("dot", line("GET /./echo HTTP/1.1"), 400),
        ("encoded dots", line("GET /same/%2E%2e/echo HTTP/1.1"), 400),
        ("mixed dots", line("GET /same/.%2e HTTP/1.1"), 400),
        ("three dots", line("GET /same/... HTTP/1.1"), 101),
        ("dot file", line("GET /same/.a%2e HTTP/1.1"), 101),
        ("bad encoding", line("GET /same/%4 HTTP/1.1"), 400),
        ("bad digits", line("GET /same/%zz HTTP/1.1"), 400),
    ];
    check(&cases);
    let not_ascii = [b"GET /\xc3\xa9 HTTP/1.1\r\n", UPGRADE.as_bytes(), b"\r\n"].concat();
    assert_eq!(status(&show(not_ascii).0), 400);
}

/// What two parsers could read in two ways.
#[test]
fn nothing_is_smuggled() {
    let cases = [
        ("content length", and("Content-Length: 5\r\n"), 400),
        ("content length 0", and("Content-Length: 0\r\n"), 101),
        ("content length 00", and("Content-Length: 00\r\n"), 400),
        ("content length -0", and("Content-Length: -0\r\n"), 400),
        ("content length list", and("Content-Length: 0, 0\r\n"), 400),
        ("content length empty", and("Content-Length:\r\n"), 400),
        ("content length 0 and chunked", and("Content-Length: 0\r\nTransfer-Encoding: x\r\n"), 400),
        ("two lengths", and("Content-Length: 0\r\nContent-Length: 0\r\n"), 400),
        ("chunked", and("Transfer-Encoding: chunked\r\n"), 400),
        ("identity", and("Transfer-Encoding: identity\r\n"), 400),
        ("both", and("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("folded", and("X: a\r\n b\r\n"), 400),
        ("folded by tab", and("X: a\r\n\tb\r\n"), 400),
        ("folded first", format!("GET /echo HTTP/1.1\r\n {UPGRADE}\r\n"), 400),
        ("space before colon", and("Content-Length : 5\r\n"), 400),
        ("tab before colon", and("X\t: y\r\n"), 400),
        ("no colon", and("X\r\n"), 400),
        ("no name", and(": x\r\n"), 400),
        ("bare line feed", and("X: y\n"), 400),
        ("bare line feed in the line", and("X: y\nZ: z\r\n"), 400),
        ("bare line feed at the end", format!("GET /echo HTTP/1.1\r\n{UPGRADE}\n"), 400),
        ("bare line feeds only", "GET /echo HTTP/1.1\nHost: a\n\n".into(), 400),
        ("bare carriage return", and("X: y\rZ: z\r\n"), 400),
        ("two carriage returns", and("X: y\r\r\n"), 400),
        ("nul", and("X: \0\r\n"), 400),
        ("nul in a name", and("X\0: y\r\n"), 400),
        ("control", and("X: \x07\r\n"), 400),
        ("delete", and("X: \x7f\r\n"), 400),
        ("name not a token", and("X(y): z\r\n"), 400),
        ("high bytes are opaque", and("X: \u{fc}\r\n"), 101),
        ("empty value", and("X:\r\n"), 101),
    ];
    check(&cases);
}

#[test]
fn refusals_say_where_and_what() {
    let cases = [
        (and("X: a\r\n b\r\n"), "line 8 of the request starts with white space"),
        (and("X : a\r\n"), "line 7 of the request has white space before the colon"),
        (and("X: a\n"), "line 7 of the request ends in a bare line feed"),
        (and("X: a\rb\r\n"), "line 7 of the request contains a bare carriage return"),
        (and("X: \0\r\n"), "line 7 of the request contains a NUL byte"),
        (and("X\r\n"), "line 7 of the request has no colon"),
        (get("/nowhere", UPGRADE), "no route has the path /nowhere"),
        (get("/echo", "Host: a\r\n"), "this path serves WebSockets only"),
        (with("Connection", ""), "lacks the token Upgrade"),
        (and(KEY), "more than one Sec-WebSocket-Key"),
        ("\u{16}\u{3}\u{1}".into(), "this is TLS"),
        ("SSH-2.0-x\r\n".into(), "set apart by single spaces"),
        ("\r\n\r\nGET / HTTP/1.1\r\n".into(), "at most one empty line"),
        (format!("\r\n{}", and("X : a\r\n")), "line 7 of the request has white space"),
    ];
    for (request, message) in cases {
        let (_, answer) = show(&request);
        assert!(answer.contains(message), "{request}: {answer}");
    }
}

#[test]
fn garbage_is_refused_at_its_first_byte() {
    // One line end may come first (RFC 9112 2.2).
    for byte in (0..=255u8).filter(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
        let (head, _) = show([byte]);
        assert_eq!(status(&head), 400, "{byte}");
    }
    assert_eq!(status(&show("G").0), 0);
    assert_eq!(status(&show("").0), 0);
    for (start, expected) in [("\r", 0), ("\r\n", 0), ("\r\nG", 0), ("\rG", 400), ("\r\n\r", 400)] {
        assert_eq!(status(&show(start).0), expected, "{start:?}");
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let fill = |size: usize| {
        let request = and("X: \r\n");
        let value = format!("X: {}", "x".repeat(size - request.len()));
        request.replace("X: ", &value)
    };
    let cases = [
        ("head at its limit", fill(4096), 101),
        ("head over its limit", fill(4097), 431),
        ("head at its limit with an empty line", format!("\r\n{}", fill(4094)), 101),
        ("head over its limit with an empty line", format!("\r\n{}", fill(4095)), 431),
        ("target at its limit", get(&format!("/echo?{}", "x".repeat(506)), UPGRADE), 101),
        ("target over its limit", get(&format!("/echo?{}", "x".repeat(507)), UPGRADE), 414),
        ("fields at their limit", and(&"X: y\r\n".repeat(27)), 101),
        ("fields over their limit", and(&"X: y\r\n".repeat(28)), 431),
        ("endless target", format!("GET /{}", "x".repeat(600)), 414),
        ("endless method", "G".repeat(600), 414),
        ("endless head", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(1000)), 431),
    ];
    check(&cases);
    let wide = Limits { headers_max: 5000, head_bytes_max: 1 << 20, target_bytes_max: 512 };
    let most = and(&"X: y\r\n".repeat(HEADERS_MAX - 5));
    assert_eq!(status(&show_with(most.as_bytes(), &wide, Availability::Ready).0), 101);
    let over = and(&"X: y\r\n".repeat(HEADERS_MAX - 4));
    assert_eq!(status(&show_with(over.as_bytes(), &wide, Availability::Ready).0), 431);
}

/// A head that arrives byte by byte costs O(n): the second half as much as the first.
#[test]
fn a_trickled_head_costs_no_more_per_byte() {
    let routes = routes();
    let limits = Limits { head_bytes_max: 1 << 20, target_bytes_max: 1 << 17, headers_max: 100 };
    let availability = Availability::Ready;
    let (routes, limits) = (&routes, &limits);
    let context = Context {
        routes,
        pages: &Pages::NONE,
        limits,
        forwarding: None,
        peer: None,
        is_tls: false,
        challenges: None,
        redirect_port: None,
        same_origin: seawall::proto::http::SameOrigin::AnyHost,
        availability,
        gate: None,
        context_room_bytes: 0,
        forwards: None,
    };
    let shapes = [
        format!("GET /{}", "x".repeat(100_000)),
        format!("\r\nGET /{}", "x".repeat(100_000)),
        format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000)),
        format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(16_000)),
    ];
    let start = std::time::Instant::now();
    for request in shapes {
        let mut scanned = 0;
        for end in 1..=request.len() {
            let head = receive(&request.as_bytes()[..end], &mut scanned, &context);
            assert_eq!((head, scanned), (Head::Partial, end));
        }
    }
    // Scanning only new bytes 300,000 times takes milliseconds; scanning all bytes, a minute.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn the_client_orders_the_subprotocols() {
    let cases: [(&str, Option<&str>); 9] = [
        ("superchat, chat", Some("superchat")),
        ("chat, superchat", Some("chat")),
        ("v9, ,superchat", Some("superchat")),
        ("v9", None),
        ("CHAT", None),
        ("", None),
        ("v9\r\nSec-WebSocket-Protocol: chat", Some("chat")),
        ("superchat\r\nSEC-WEBSOCKET-PROTOCOL: chat", Some("superchat")),
        ("chat\r\nX: superchat", Some("chat")),
    ];
    for (offered, chosen) in cases {
        let (head, answer) = show(and(&format!("Sec-WebSocket-Protocol: {offered}\r\n")));
        assert_eq!(status(&head), 101, "{offered}");
        let line = chosen.map(|name| format!("\r\nSec-WebSocket-Protocol: {name}\r\n"));
        match line {
            Some(line) => assert!(answer.contains(&line), "{offered}: {answer}"),
            None => assert!(!answer.contains("Protocol:"), "{offered}: {answer}"),
        }
    }
    let (head, _) = show(and("Sec-WebSocket-Protocol: chat, a b\r\n"));
    assert_eq!(status(&head), 400);
}

#[test]
fn extensions_are_not_answered() {
    let (head, answer) = show(and("Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    assert_eq!(status(&head), 101);
    assert!(!answer.contains("Extensions"), "{answer}");
}

#[test]
fn origins_are_held_against_the_route() {
    let cases = [
        ("/echo", "example.com", "null", 101),
        ("/echo", "example.com", "anything at all", 101),
        ("/same", "example.com", "http://example.com", 101),
        ("/same", "Example.com:443", "https://EXAMPLE.com", 101),
        ("/same", "example.com", "http://example.com:80", 101),
        ("/same", "example.com:9000", "http://example.com:9000", 101),
        ("/same", "[::1]:9000", "http://[::1]:9000", 101),
        ("/same", "example.com:9000", "http://example.com", 403),
        ("/same", "example.com:80", "https://example.com", 403),
        ("/same", "example.com", "http://evil.example.com", 403),
        ("/same", "example.com", "http://example.com.evil", 403),
        ("/same", "example.com", "ftp://example.com", 403),
        ("/same", "example.com", "null", 403),
        ("/same", "example.com", "", 403),
        ("/same", "example.com", "http://example.com/", 403),
        ("/list", "x", "https://example.com", 101),
        ("/list", "x", "https://example.com:443", 101),
        ("/list", "x", "HTTPS://Example.COM", 101),
        ("/list", "x", "https://a.example", 101),
        ("/list", "x", "http://localhost:8080", 101),
        ("/list", "x", "http://localhost", 403),
        ("/list", "x", "http://example.com", 403),
        ("/list", "x", "https://sub.example.com", 403),
        ("/list", "x", "https://pr-7.B.example", 101),
        ("/list", "x", "https://x.y.b.example:443", 101),
        ("/list", "x", "https://b.example", 403),
        ("/list", "x", "https://.b.example", 403),
        ("/list", "x", "https://evilb.example", 403),
        ("/list", "x", "https://pr-7.b.example.evil", 403),
        ("/list", "x", "https://pr-7.b.example:8443", 403),
        ("/list", "x", "http://pr-7.b.example", 403),
        ("/list", "x", "capacitor://localhost", 101),
        ("/list", "x", "capacitor://localhost:1", 403),
        ("/list", "x", "null", 403),
    ];
    for (path, host, origin, expected) in cases {
        let lines = UPGRADE.replace("example.com", host) + &format!("Origin: {origin}\r\n");
        let (head, answer) = show(get(path, &lines));
        assert_eq!(status(&head), expected, "{origin} at {host}{path}: {answer}");
    }
    for path in ["/same", "/list"] {
        assert_eq!(status(&show(get(path, UPGRADE)).0), 101, "no Origin: not from a browser");
    }
    // RFC 9112 3.2.2: the authority of an absolute target replaces Host.
    let lines = format!("{UPGRADE}Origin: http://other.example\r\n");
    assert_eq!(status(&show(get("http://other.example/same", &lines)).0), 101);
    let lines = format!("{UPGRADE}Origin: http://example.com\r\n");
    assert_eq!(status(&show(get("http://other.example/same", &lines)).0), 403);
}

#[test]
fn health_pages_answer_whatever_the_availability() {
    let states = [
        (Availability::Ready, 200, 101),
        (
            Availability::Denied(Denial {
                refusal: Refusal::Unavailable,
                message: "full",
                retry_after_s: 7,
            }),
            200,
            503,
        ),
        (Availability::Draining { retry_after_s: 7 }, 503, 503),
    ];
    for (availability, ready, upgrade) in states {
        let page = |request: &str, expected: u16| {
            let (head, answer) = show_with(request.as_bytes(), &LIMITS, availability);
            assert_eq!(status(&head), expected, "{availability:?} {request}: {answer}");
            let retry = answer.contains("\r\nRetry-After: 7\r\n");
            assert_eq!(retry, expected == 503, "{availability:?} {request}: {answer}");
            answer
        };
        assert!(
            page(&get("/healthz", "Host: a\r\n"), 200).ends_with("\r\n\r\n{\"status\":\"ok\"}")
        );
        page(&get("/readyz", "Host: a\r\nContent-Length: 0\r\n"), ready);
        page("GET /healthz HTTP/1.0\r\n\r\n", 200);
        page("HEAD /readyz HTTP/1.0\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n", ready);
        page(&get("/echo", UPGRADE), upgrade);
        let head = page("HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n", ready);
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Length: 0"), "{head}");
    }
    let cases = [
        ("post", "POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n".into(), 405),
        ("body", get("/healthz", "Host: a\r\nContent-Length: 1\r\n"), 400),
        ("chunked", get("/healthz", "Host: a\r\nTransfer-Encoding: chunked\r\n"), 400),
        ("no host", get("/healthz", ""), 400),
        ("two hosts", get("/readyz", "Host: a\r\nHost: a\r\n"), 400),
        ("not an upgrade", get("/healthz", UPGRADE), 200),
        ("below", get("/healthz/x", UPGRADE), 404),
    ];
    check(&cases);
    assert!(show(&cases[0].1).1.contains("\r\nAllow: GET, HEAD\r\n"));
}

#[test]
fn refusals_are_json_that_closes() {
    for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal.index(), index);
        let mut out = Vec::new();
        refuse(refusal, "a \"quoted\" reason\r\n", Some(3), &mut out);
        let answer = String::from_utf8(out).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let expected = serde_json::json!(
            {"error": {"code": refusal.code(), "message": "a \"quoted\" reason\r\n"}}
        );
        assert_eq!(body, expected);
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status())), "{head}");
        for line in ["Content-Type: application/json", "Cache-Control: no-store", "Retry-After: 3"]
        {
            assert!(head.contains(&format!("\r\n{line}")), "{head}");
        }
        assert!(head.contains("\r\nConnection: close"), "{head}");
    }
    let (_, answer) = show(get("/echo", "Host: a\r\n"));
    for line in ["Connection: close, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
    }
    let (_, answer) = show("DELETE /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.contains("\r\nAllow: GET\r\n"), "{answer}");
    let (_, answer) = show("HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn exact_paths_beat_the_longest_prefix() {
    let route = |path: &str, prefix| Route {
        path: path.into(),
        prefix,
        subprotocols: Vec::new(),
        origins: Origins::Any,
        compression: None,
    };
    let routes = Routes::new(vec![
        route("/a", true),
        route("/a/b/c", true),
        route("/a/b/c", false),
        route("/a/b/", true),
        route("/x/", true),
        route("/x", false),
    ]);
    let cases = [
        ("/a", Some(0)),
        ("/a/", Some(0)),
        ("/a/z", Some(0)),
        ("/ab", None),
        ("/a/b", Some(0)),
        ("/a/b/", Some(3)),
        ("/a/b/z", Some(3)),
        ("/a/b/c", Some(1)),
        ("/a/b/c/d", Some(1)),
        ("/x", Some(5)),
        ("/x/y", Some(4)),
        ("/xy", None),
        ("/", None),
    ];
    for (path, expected) in cases {
        assert_eq!(routes.find(path), expected, "{path}");
    }
    let everything = Routes::new(vec![route("/", true), route("/a", false)]);
    assert_eq!(everything.find("/b/c"), Some(0));
    assert_eq!(everything.find("/a"), Some(1));
    assert_eq!(everything.get(1).map(|route| route.path.as_str()), Some("/a"));
}

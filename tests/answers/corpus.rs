//! Requests for every kind of answer.

use std::net::IpAddr;

use seawall::proto::http::{
    Availability, Context, Denial, Entry, Form, Gate, Limits, Origins, Page, Pages, Refusal, Route,
    Routes, SameOrigin, TokenFault,
};
use seawall::proto::ws::deflate::Policy;

const UPGRADE: &str = "Host: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const LIMITS: Limits = Limits { head_bytes_max: 4096, target_bytes_max: 512, headers_max: 32 };

/// A request and what the server's state makes of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: String,
    availability: Availability,
    gate: Option<Fixed>,
}

impl Case {
    fn new(name: &'static str, request: String) -> Self {
        Self { name, request, availability: Availability::Ready, gate: None }
    }

    fn at(self, availability: Availability) -> Self {
        Self { availability, ..self }
    }

    pub(crate) fn behind(self, gate: Fixed) -> Self {
        Self { gate: Some(gate), ..self }
    }
}

/// A gate that says the same to all.
#[derive(Clone, Debug)]
pub(crate) enum Fixed {
    BadToken,
    NoKeys,
    Full,
    /// It lets all in, later.
    Later,
}

impl Gate for Fixed {
    fn takes_query(&self) -> bool {
        true
    }

    fn check(&self, _: usize, token: Option<&str>) -> Result<(), TokenFault> {
        let retry_after_s = match self {
            Self::BadToken => None,
            Self::NoKeys => Some(7),
            Self::Full | Self::Later => return Ok(()),
        };
        Err(TokenFault { message: format!("token: {token:?} \"is\" wrong"), retry_after_s })
    }

    fn takes_ticket(&self, _: usize) -> bool {
        false
    }

    fn present_ticket(&self, _: usize, _: &str) {}

    fn enter_request(&self, _: Option<IpAddr>) -> Result<(), Denial> {
        Ok(())
    }

    fn enter(&self, _: Option<IpAddr>, _: usize) -> Result<Entry, Denial> {
        if matches!(self, Self::Later) { Ok(Entry::Pending) } else { Err(FULL) }
    }
}

const FULL: Denial =
    Denial { refusal: Refusal::TooManyRequests, message: "too many: wait", retry_after_s: 3 };

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n")
}

/// An upgrade with lines added.
fn upgrade(target: &str, lines: &str) -> String {
    get(target, &format!("{UPGRADE}{lines}"))
}

/// An upgrade without the fields that begin like this.
fn without(name: &str) -> String {
    let fields = UPGRADE.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
    get("/echo", &fields.collect::<String>())
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let host = "Host: a\r\n";
    let draining = Availability::Draining { retry_after_s: 5 };
    let mut cases = upgrades();
    cases.extend([
        Case::new("garbage", "\0".into()),
        Case::new("not a version", "GET / HTTP/2.0\r\n\r\n".into()),
        Case::new("no host", get("/echo", "")),
        Case::new("long target", get(&"/x".repeat(300), host)),
        Case::new("many fields", get("/echo", &"A: b\r\n".repeat(40))),
        Case::new("long head", get("/echo", &format!("A: {}\r\n", "b".repeat(5000)))),
        Case::new("no route", get("/nowhere", host)),
        Case::new("no route, HEAD", "HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Case::new("connect", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into()),
        Case::new("post to a route", "POST /echo HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Case::new("post to a page", "POST /page HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Case::new("HEAD of a route", "HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Case::new("body", get("/echo", "Host: a\r\nContent-Length: 1\r\n")),
        Case::new("no upgrade", get("/echo", host)),
        Case::new("no version", without("Sec-WebSocket-Version")),
        Case::new("no key", without("Sec-WebSocket-Key")),
        Case::new("foreign origin", upgrade("/same", "Origin: http://other.example\r\n")),
        Case::new("draining", upgrade("/echo", "")).at(draining),
        Case::new("full", upgrade("/echo", "")).at(Availability::Denied(FULL)),
        Case::new("bad token", upgrade("/echo?token=x", "")).behind(Fixed::BadToken),
        Case::new("no keys yet", upgrade("/echo?token=x", "")).behind(Fixed::NoKeys),
        Case::new("no room", upgrade("/echo", "")).behind(Fixed::Full),
        Case::new("live", get("/healthz", host)),
        Case::new("live, HEAD", "HEAD /healthz HTTP/1.0\r\n\r\n".into()),
        Case::new("ready", get("/readyz", host)),
        Case::new("not ready", get("/readyz", host)).at(draining),
        Case::new("page", get("/page", host)),
        Case::new("page, HEAD", "HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        Case::new("page, gzip", get("/page", "Host: a\r\nAccept-Encoding: gzip\r\n")),
        Case::new("page, known", get("/page", "Host: a\r\nIf-None-Match: \"plain\"\r\n")),
    ]);
    cases
}

/// Those that are upgraded.
pub(crate) fn upgrades() -> Vec<Case> {
    let offer = |offer: &str| upgrade("/small", &format!("Sec-WebSocket-Extensions: {offer}\r\n"));
    vec![
        Case::new("upgrade", upgrade("/echo", "")),
        Case::new("subprotocol", upgrade("/echo", "Sec-WebSocket-Protocol: superchat, chat\r\n")),
        Case::new("compression", offer("permessage-deflate")),
        Case::new("windows", offer("permessage-deflate; client_max_window_bits")),
        Case::new("a window of ours", offer("permessage-deflate; server_max_window_bits=9")),
        Case::new(
            "all parameters",
            offer(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=10; client_max_window_bits=11",
            ),
        ),
        Case::new("declined", offer("permessage-deflate; unknown")),
    ]
}

/// Routes and pages of the requests.
pub(crate) struct Site {
    routes: Routes,
    pages: Pages,
}

impl Site {
    pub(crate) fn new() -> Self {
        let route = |path: &str, origins, compression| Route {
            path: path.into(),
            prefix: false,
            subprotocols: vec!["chat".into(), "superchat".into()],
            origins,
            compression,
        };
        let routes = Routes::new(vec![
            route("/echo", Origins::Any, None),
            route("/same", Origins::SameOrigin, None),
            route("/small", Origins::Any, Some(Policy { takeover: true, window_bits: 12 })),
        ]);
        let form = |etag: &str, bytes: &[u8]| Form { etag: etag.into(), bytes: bytes.into() };
        let pages = Pages::new(vec![Page {
            path: "/page",
            content_type: "text/plain",
            fields: "Content-Security-Policy: default-src 'self'\r\nX-Frame-Options: DENY\r\n",
            plain: form("\"plain\"", b"a page, in full"),
            gzip: Some(form("\"gzip\"", b"\x1f\x8b...")),
        }]);
        Self { routes, pages }
    }

    /// The circumstances of a case.
    pub(crate) fn context<'c>(&'c self, case: &'c Case) -> Context<'c> {
        Context {
            routes: &self.routes,
            pages: &self.pages,
            limits: &LIMITS,
            forwarding: None,
            peer: None,
            is_tls: false,
            challenges: None,
            redirect_port: None,
            same_origin: SameOrigin::AnyHost,
            availability: case.availability,
            gate: case.gate.as_ref().map(|gate| gate as &dyn Gate),
            context_room_bytes: 1 << 20,
            forwards: None,
        }
    }
}

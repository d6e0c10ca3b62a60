//! A real Seawall between clients and applications.

use std::net::TcpListener;

use serde_json::Value;

use crate::application::{Application, programs};
use crate::dialing::accept;
use crate::peer::Peer;
use crate::support::raw::{self, CLOSE, FIN, PING, PONG, TEXT};
use crate::support::{Raw, Server, wait_until};

/// A server whose route `/game` goes to an application at these ports, with further lines of the
/// backend and tables.
pub(crate) fn config(ports: &[u16], backend: &str, tables: &str) -> String {
    let urls: Vec<String> =
        ports.iter().map(|port| format!("ws://127.0.0.1:{port}/seawall")).collect();
    format!(
        "[[backend]]\nlinks = {urls:?}\nlinks_per_node = {}\n{backend}\n\
         [[route]]\npath = \"/game\"\nhandler = \"gateway\"\n{tables}",
        ports.len()
    )
}

/// Starts a server, and waits until it has a link to each port.
pub(crate) fn start(ports: &[u16], backend: &str, tables: &str) -> Server {
    let server = Server::start(&config(ports, backend, tables));
    await_links(&server, ports.len());
    server
}

/// Waits until so many links are ready.
#[track_caller]
pub(crate) fn await_links(server: &Server, count: usize) {
    wait_until("the links are ready", || {
        server.metrics().get("links_ready{backend=\"app\"}") == count as u64
    });
}

/// Starts an instance of an application of the tests; port 0: a free one.
pub(crate) fn start_instance(program: &std::path::Path, name: &str, port: u16) -> Application {
    Application::start(program, &[("INSTANCE", name), ("PORT", &port.to_string())])
}

/// Runs a test with each library: one instance, and a server with a link to it.
pub(crate) fn with_each_live(tables: &str, test: impl Fn(&Application, &Server)) {
    for program in programs() {
        println!("with {}", program.display());
        let application = start_instance(&program, "a", 0);
        let server = start(&[application.port()], "", tables);
        test(&application, &server);
    }
}

/// A client of a gateway route.
pub(crate) struct Visitor(pub(crate) Raw);

impl Visitor {
    /// Connects with this query.
    #[track_caller]
    pub(crate) fn connect(server: &Server, query: &str) -> Self {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(&format!("/game?{query}"), ""));
        raw.switched();
        Self(raw)
    }

    /// Connects, which is rejected: the status, and the whole answer.
    pub(crate) fn fail(server: &Server, path: &str) -> (u16, String) {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(path, ""));
        raw.answer()
    }

    #[track_caller]
    pub(crate) fn say(&mut self, text: &str) {
        self.0.send(&raw::text(text));
    }

    /// The next text; pings are answered.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        let frame = self.frame();
        assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
        String::from_utf8(frame.payload).unwrap()
    }

    #[track_caller]
    fn frame(&mut self) -> raw::Frame {
        loop {
            let frame = self.0.frame();
            if frame.first != FIN | PING {
                return frame;
            }
            self.0.send(&raw::frame(FIN | PONG, &frame.payload));
        }
    }

    #[track_caller]
    pub(crate) fn hear_json(&mut self) -> Value {
        let text = self.hear();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Sends a text that is to be echoed, and expects it.
    #[track_caller]
    pub(crate) fn echo(&mut self, text: &str) {
        self.say(&format!("echo {text}"));
        assert_eq!(self.hear(), text);
    }

    /// Asks the application what it knows of the session.
    #[track_caller]
    pub(crate) fn who(&mut self) -> Value {
        self.say("who");
        self.hear_json()
    }

    /// Reads up to the Close; returns the messages before it, and its code and reason.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> (usize, u16, String) {
        for count in 0.. {
            let frame = self.frame();
            if frame.first == FIN | CLOSE {
                let reason = String::from_utf8(frame.payload[2..].to_vec()).unwrap();
                return (count, frame.close_code(), reason);
            }
        }
        unreachable!("the stream ends before");
    }
}

/// A backend that a test scripts, record by record.
pub(crate) struct Instance(TcpListener);

impl Instance {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Accepts a link, and exchanges hellos.
    pub(crate) fn link(&self) -> Peer {
        let mut peer = Peer::dialed(accept(&self.0, true).0.expect("an upgrade"));
        peer.greet_as_backend();
        peer
    }
}

/// The numbers of a session's messages that an instance has handled, and whether each was flagged.
pub(crate) fn handled(events: &[Value], connection: &str) -> Vec<(u64, bool)> {
    let own = events
        .iter()
        .filter(|event| event["event"] == "message" && event["connection"] == connection);
    own.map(|event| (event["number"].as_u64().unwrap(), event["redelivered"].as_bool().unwrap()))
        .collect()
}

/// Fails unless all messages up to the last were handled, in order, and those that were handled
/// twice are flagged.
#[track_caller]
pub(crate) fn check_handled(handled: &[(u64, bool)], last: u64) {
    let mut seen = 0;
    let mut before = 0;
    for (number, is_flagged) in handled {
        let is_repeat = *number <= seen && *is_flagged;
        let is_after = *number == before + 1 || (is_repeat && *number <= before);
        assert!(*number == seen + 1 || (is_repeat && is_after), "{number} in {handled:?}");
        (before, seen) = (*number, seen.max(*number));
    }
    assert_eq!(seen, last, "{handled:?}");
}

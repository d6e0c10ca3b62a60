//! The Seawall side of a link, as a test scripts it: tungstenite over a blocking socket.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::client::Response;
use tungstenite::{Bytes, HandshakeError, Message, WebSocket};

use crate::PATIENCE;
use crate::record::{ACCEPT, ACK, HELLO, NO_SESSION, OPEN, PING, Record, Session};

pub(crate) const SUBPROTOCOL: &str = "seawall.link.v1";
/// Unsolicited pongs are signs of life. That of a client is masked, with zeros.
const LIFE_OF_CLIENT: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];
const LIFE_OF_SERVER: &[u8] = &[0x8a, 0];

/// The session of a test's client.
pub(crate) fn session(number: u8) -> Session {
    [number; 10]
}

pub(crate) struct Peer {
    socket: WebSocket<TcpStream>,
    /// A write in progress, which signs of life must not interrupt.
    writing: Arc<Mutex<TcpStream>>,
    waiting: VecDeque<Record>,
    /// How many messages have been received.
    message_count: usize,
    life: &'static [u8],
}

/// Sends signs of life until the peer is dropped.
fn live(stream: &Weak<Mutex<TcpStream>>, life: &[u8]) {
    while let Some(stream) = stream.upgrade() {
        if stream.lock().unwrap().write_all(life).is_err() {
            return;
        }
        drop(stream);
        std::thread::sleep(Duration::from_secs(1));
    }
}

impl Peer {
    fn new(socket: WebSocket<TcpStream>, life: &'static [u8]) -> Self {
        let writing = Arc::new(Mutex::new(socket.get_ref().try_clone().unwrap()));
        Self { socket, writing, waiting: VecDeque::new(), message_count: 0, life }
    }

    /// Wraps a connection that a backend has dialed.
    pub(crate) fn dialed(socket: WebSocket<TcpStream>) -> Self {
        Self::new(socket, LIFE_OF_SERVER)
    }

    /// Upgrades, and says nothing more; the error is a status.
    pub(crate) fn upgrade(port: u16, path: &str, fields: &[(&str, &str)]) -> Result<Self, u16> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request().unwrap();
        for (name, value) in fields {
            let name = tungstenite::http::HeaderName::try_from(*name).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let upgraded: Result<(_, Response), _> = tungstenite::client(request, stream);
        match upgraded {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                assert_eq!(protocol.expect("a subprotocol"), SUBPROTOCOL);
                assert!(!response.headers().contains_key("sec-websocket-extensions"));
                Ok(Self::new(socket, LIFE_OF_CLIENT))
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// A link on which only the handshake has happened.
    pub(crate) fn silent(port: u16) -> Self {
        Self::upgrade(port, "/seawall", &[("sec-websocket-protocol", SUBPROTOCOL)]).unwrap()
    }

    /// A link with both hellos.
    pub(crate) fn connect(port: u16) -> Self {
        let mut peer = Self::silent(port);
        peer.greet();
        peer
    }

    /// Exchanges hellos.
    #[track_caller]
    pub(crate) fn greet(&mut self) {
        assert_eq!(self.greet_any(), json!({"instance": "app-1", "capacity": 100}));
    }

    /// Exchanges hellos; returns that of the backend.
    #[track_caller]
    pub(crate) fn greet_any(&mut self) -> Value {
        self.greet_with(hello(1 << 20))
    }

    /// Exchanges hellos as a backend.
    #[track_caller]
    pub(crate) fn greet_as_backend(&mut self) {
        let hello = json!({"instance": "scripted"}).to_string();
        self.greet_with(Record::new(HELLO, NO_SESSION, 1, hello));
    }

    #[track_caller]
    fn greet_with(&mut self, hello: Record) -> Value {
        let (stream, life) = (Arc::downgrade(&self.writing), self.life);
        std::thread::spawn(move || live(&stream, life));
        self.send(&[hello]);
        let hello = self.expect(HELLO);
        assert_eq!((hello.session, hello.number), (NO_SESSION, 1));
        hello.json()
    }

    /// Sends records in one message.
    pub(crate) fn send(&mut self, records: &[Record]) {
        self.send_message(Message::Binary(encode(records)));
    }

    pub(crate) fn send_message(&mut self, message: Message) {
        let _writing = self.writing.lock().unwrap();
        self.socket.send(message).expect("the link is open");
    }

    /// Sends bytes that need not be frames.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.writing.lock().unwrap().write_all(bytes).expect("the link is open");
    }

    /// The next message that is not a WebSocket pong.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        loop {
            let message = self.socket.read().expect("a message in time");
            if !message.is_pong() {
                self.message_count += 1;
                return message;
            }
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Record {
        while self.waiting.is_empty() {
            match self.message() {
                Message::Binary(bytes) => {
                    let records = Record::decode_all(&bytes);
                    assert!(records.len() == 1 || bytes.len() <= 256 << 10, "joined: {bytes:?}");
                    // Pings need no answer beside the signs of life.
                    self.waiting.extend(records.into_iter().filter(|one| one.kind != PING));
                }
                other => panic!("not a message with records: {other:?}"),
            }
        }
        self.waiting.pop_front().unwrap()
    }

    /// The next record, which has this kind.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: u8) -> Record {
        let record = self.next();
        assert_eq!(record.kind, kind, "{record:?}");
        record
    }

    #[track_caller]
    pub(crate) fn expect_ack(&mut self, session: Session, number: u32) {
        assert_eq!(self.next(), Record::new(ACK, session, number, ""));
    }

    /// Opens a session of a new client, which is accepted without more.
    #[track_caller]
    pub(crate) fn open(&mut self, session: Session, connection: &str) {
        self.send(&[Record::new(OPEN, session, 0, opening(connection, "").to_string())]);
        assert_eq!(self.next(), Record::new(ACCEPT, session, 0, "{}"));
    }

    /// Reads on to the Close frame.
    #[track_caller]
    pub(crate) fn close_code(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.message() {
                let frame = frame.expect("a close frame with a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    pub(crate) fn message_count(&self) -> usize {
        self.message_count
    }
}

pub(crate) fn encode(records: &[Record]) -> Bytes {
    records.iter().flat_map(Record::encode).collect::<Vec<_>>().into()
}

pub(crate) fn hello(record_bytes_max: usize) -> Record {
    let limits = json!({"unacked_messages_max": 64, "unacked_bytes_max": 262_144,
        "record_bytes_max": record_bytes_max});
    let hello = json!({"node": "01ab23cd", "version": "0.1.0", "limits": limits});
    Record::new(HELLO, NO_SESSION, 1, hello.to_string())
}

/// The body of an open record for a new session.
pub(crate) fn opening(connection: &str, query: &str) -> Value {
    json!({"connection": connection, "address": "203.0.113.7", "path": "/game", "query": query,
        "headers": {"cookie": "a=b"}, "subprotocols": ["x", "y"]})
}

//! A client of the JSON protocol and one of the HTTP API, both of few words.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use seawall::auth::SigningKey;
use serde_json::{Value, json};

use crate::support::metrics::{self, Answer};
use crate::support::raw::{self, CLOSE, FIN, PING, PONG, TEXT};
use crate::support::{Frame, Raw, Server};

/// The secret of `[[key]]` in [`KEYS`].
const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Clients need tokens, which this makes verifiable.
pub(crate) const KEYS: &str = "[[key]]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
/// Every channel is anybody's, also where there are keys.
pub(crate) const OPEN: &str = "[[channel]]\npattern = \"*\"\n";

/// Unix time (s).
pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later").as_secs()
}

/// A token with these claims, which ends in an hour unless they say otherwise.
pub(crate) fn token(mut claims: Value) -> String {
    if claims["exp"].is_null() {
        claims["exp"] = (now_s() + 3600).into();
    }
    SigningKey::from_secret("", SECRET.as_bytes()).sign(&claims).expect("claims can be signed")
}

/// A token with these claims as they are written, which ends in an hour.
pub(crate) fn token_of(claims: &str) -> String {
    let claims = format!("{{\"exp\":{},{}", now_s() + 3600, &claims[1..]);
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    let message = format!("{}.{}", encode("{\"alg\":\"HS256\"}"), encode(&claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// A connection to the hub, which has been welcomed.
pub(crate) struct Client {
    pub(crate) raw: Raw,
    pub(crate) welcome: Value,
    /// What came while an answer was awaited.
    waiting: VecDeque<Value>,
    next_id: u64,
}

impl Client {
    pub(crate) fn open(server: &Server) -> Self {
        Self::open_with(server.address(), "/ws", "")
    }

    /// With a token of this user.
    pub(crate) fn open_as(server: &Server, user: &str) -> Self {
        Self::open_with_token(server, &token(json!({"sub": user})))
    }

    pub(crate) fn open_with_token(server: &Server, token: &str) -> Self {
        let lines = format!("Authorization: Bearer {token}\r\n");
        Self::open_with(server.address(), "/ws", &lines)
    }

    /// With this target and these header lines (each with its CRLF).
    pub(crate) fn open_with(address: SocketAddr, target: &str, lines: &str) -> Self {
        let mut raw = Raw::connect(address);
        raw.send(&raw::request_with(target, lines));
        raw.switched();
        Self::over(raw)
    }

    /// On a connection that was upgraded.
    pub(crate) fn over(raw: Raw) -> Self {
        let mut client =
            Self { raw, welcome: Value::Null, waiting: VecDeque::new(), next_id: 1_000 };
        client.welcome = client.next();
        assert_eq!(client.welcome["type"], "welcome");
        client
    }

    pub(crate) fn connection(&self) -> String {
        text(&self.welcome, "connection")
    }

    pub(crate) fn ticket(&self) -> String {
        text(&self.welcome, "ticket")
    }

    /// The shard that has it, as its id tells.
    pub(crate) fn shard(&self) -> u16 {
        let id = URL_SAFE_NO_PAD.decode(self.connection()).expect("an id is base64");
        u16::from_be_bytes([id[4], id[5]])
    }

    /// Sends a frame of text.
    #[track_caller]
    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        self.raw.send(&raw::text(text));
    }

    /// The text of the next frame; pings are answered.
    #[track_caller]
    pub(crate) fn next_text(&mut self) -> String {
        let mut frame = self.raw.frame();
        while frame.first == FIN | PING {
            self.raw.send(&raw::frame(FIN | PONG, &frame.payload));
            frame = self.raw.frame();
        }
        assert_eq!(frame.first, FIN | TEXT, "{frame:?} is text");
        String::from_utf8(frame.payload).expect("it is UTF-8")
    }

    /// The next object.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        if let Some(object) = self.waiting.pop_front() {
            return object;
        }
        let text = self.next_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next object, which must be of this kind.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let object = self.next();
        assert_eq!(object["type"], kind, "{object}");
        object
    }

    /// Asks something; returns its answer. What comes before it waits.
    #[track_caller]
    pub(crate) fn ask(&mut self, mut object: Value) -> Value {
        self.next_id += 1;
        object["id"] = self.next_id.into();
        self.send(object.to_string());
        self.answer(self.next_id)
    }

    /// The answer to this id.
    #[track_caller]
    pub(crate) fn answer(&mut self, id: u64) -> Value {
        let is_it = |object: &Value| object["id"] == id;
        if let Some(at) = self.waiting.iter().position(is_it) {
            return self.waiting.remove(at).expect("it was found");
        }
        let mut before = std::mem::take(&mut self.waiting);
        loop {
            let object = self.next();
            if is_it(&object) {
                self.waiting = before;
                return object;
            }
            before.push_back(object);
        }
    }

    /// Asks something, and expects an answer of this kind.
    #[track_caller]
    pub(crate) fn get(&mut self, object: Value, kind: &str) -> Value {
        let answer = self.ask(object);
        assert_eq!(answer["type"], kind, "{answer}");
        answer
    }

    #[track_caller]
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        self.get(json!({"type": "subscribe", "channel": channel}), "subscribed")
    }

    #[track_caller]
    pub(crate) fn subscribe_since(&mut self, channel: &str, since: &Value) -> Value {
        let object = json!({"type": "subscribe", "channel": channel, "since": since});
        self.get(object, "subscribed")
    }

    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, channel: &str) -> Value {
        self.get(json!({"type": "unsubscribe", "channel": channel}), "unsubscribed")
    }

    /// Returns the position.
    #[track_caller]
    pub(crate) fn publish(&mut self, channel: &str, content: &Value) -> Value {
        let object = json!({"type": "publish", "channel": channel, "content": content});
        self.get(object, "published")
    }

    /// Asks something that is refused with this code; returns the message.
    #[track_caller]
    pub(crate) fn refused(&mut self, object: Value, code: &str) -> String {
        let shown = object.to_string();
        let answer = self.ask(object);
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{shown}");
        text(&answer, "message")
    }

    /// The contents of so many messages, which must be all that comes.
    #[track_caller]
    pub(crate) fn contents(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.expect("message")["content"].take()).collect()
    }

    /// Nothing has come that was not looked at, as far as an answer of the channel's home tells.
    #[track_caller]
    pub(crate) fn is_silent(&mut self, channel: &str) {
        self.get(json!({"type": "history", "channel": channel, "limit": 1}), "history");
        assert!(self.waiting.is_empty(), "{:?}", self.waiting);
    }

    /// Reads up to the Close; returns its code, after its goodbye.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> u16 {
        let mut last = self.waiting.pop_back().unwrap_or_default();
        loop {
            let frame = self.raw.frame();
            if frame.first == FIN | CLOSE {
                let code = frame.close_code();
                assert_eq!(last["type"], "goodbye", "{last}");
                assert_eq!(last["code"], code, "{last}");
                assert!(last["retry_after_ms"].is_u64() && last["reason"].is_string(), "{last}");
                return code;
            }
            last = serde_json::from_slice(&frame.payload).expect("it is JSON");
        }
    }

    /// The client's side of the closing handshake.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.raw.send(&raw::close(1000));
        loop {
            let Frame { first, .. } = self.raw.frame();
            if first == FIN | CLOSE {
                return self.raw.end();
            }
        }
    }

    /// The connection breaks.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.raw.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("an option can be set");
    }
}

/// A string of an object.
#[track_caller]
pub(crate) fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}

/// An object's epoch and offset.
pub(crate) fn position(object: &Value) -> Value {
    json!({"epoch": object["epoch"], "offset": object["offset"]})
}

/// A call of the API, with header lines and a body as they are.
pub(crate) fn call(server: &Server, line: &str, headers: &str, body: &str) -> Answer {
    let address = server.admin();
    let stream = TcpStream::connect(address).expect("the admin address answers");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout can be set");
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    metrics::request(stream, line, &format!("Host: {address}\r\n{length}{headers}"), body)
}

/// Status and body of a call.
#[track_caller]
fn outcome(answer: &Answer) -> (u16, Value) {
    let body = serde_json::from_str(&answer.body);
    (answer.status, body.unwrap_or_else(|error| panic!("{error}: {}", answer.body)))
}

const JSON: &str = "Content-Type: application/json\r\n";

/// A POST with a body of JSON.
#[track_caller]
pub(crate) fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    outcome(&call(server, &format!("POST {path}"), JSON, &body.to_string()))
}

/// A POST that succeeds.
#[track_caller]
pub(crate) fn posted(server: &Server, path: &str, body: &Value) -> Value {
    let (status, answer) = post(server, path, body);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// A GET.
#[track_caller]
pub(crate) fn get(server: &Server, path: &str) -> (u16, Value) {
    outcome(&call(server, &format!("GET {path}"), "", ""))
}

/// A GET that succeeds.
#[track_caller]
pub(crate) fn got(server: &Server, path: &str) -> Value {
    let (status, answer) = get(server, path);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// A DELETE.
#[track_caller]
pub(crate) fn delete(server: &Server, path: &str) -> (u16, Value) {
    outcome(&call(server, &format!("DELETE {path}"), "", ""))
}

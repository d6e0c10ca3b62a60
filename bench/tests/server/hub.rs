//! A hub with faults to order: the JSON protocol, or a plain broadcast, on `tungstenite`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// What the hub does besides its work. Deliveries are counted from 1, over all subscribers.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Script {
    /// Before each delivery of a message to all its subscribers.
    pub(crate) delay_ms: u64,
    /// This delivery is left out.
    pub(crate) lose: Option<usize>,
    /// This delivery comes behind the next one of its subscriber.
    pub(crate) swap: Option<usize>,
    /// This delivery comes twice.
    pub(crate) double: Option<usize>,
    /// This publish is refused.
    pub(crate) refuse: Option<usize>,
    /// What a client sends goes to all others of its path.
    pub(crate) plain: bool,
    /// A resumed subscription does not get what it missed.
    pub(crate) forget: bool,
}

struct Subscriber {
    channel: String,
    id: usize,
    out: Arc<Mutex<Out>>,
}

struct Out {
    socket: WebSocket<TcpStream>,
    held: Option<String>,
}

impl Out {
    fn say(&mut self, text: String) {
        // A client that is gone misses nothing.
        let _ = self.socket.send(Message::text(text));
    }
}

#[derive(Default)]
struct State {
    script: Script,
    subscribers: Mutex<Vec<Subscriber>>,
    /// The messages of each channel.
    history: Mutex<Vec<(String, String)>>,
    connections: AtomicUsize,
    deliveries: AtomicUsize,
    publishes: AtomicUsize,
    requests: AtomicUsize,
    stop: AtomicBool,
}

/// The hub; it stops accepting when dropped.
pub(crate) struct TestHub {
    address: SocketAddr,
    api: SocketAddr,
    state: Arc<State>,
}

impl TestHub {
    pub(crate) fn start(script: Script) -> Self {
        let state = Arc::new(State { script, ..State::default() });
        let address = accept(&state, State::serve);
        let api = accept(&state, |state, stream| {
            let _ = state.answer_api(stream);
        });
        Self { address, api, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    pub(crate) fn api(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Requests that the API has answered.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Acquire)
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        // Wakes the accepts, which then see the flag.
        let _ = (TcpStream::connect(self.address), TcpStream::connect(self.api));
    }
}

/// Serves each connection on a thread of its own.
fn accept(state: &Arc<State>, serve: fn(&State, TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if state.stop.load(Ordering::Acquire) {
                return;
            }
            let (Ok(stream), state) = (stream, Arc::clone(&state)) else { continue };
            let _ = stream.set_nodelay(true);
            std::thread::spawn(move || serve(&state, stream));
        }
    });
    address
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let Ok(writing) = stream.try_clone() else { return };
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let accepted = tungstenite::accept_hdr(stream, |request: &Request, answer: Response| {
            request.uri().path().clone_into(&mut path);
            Ok(answer)
        });
        let Ok(mut socket) = accepted else { return };
        let id = self.connections.fetch_add(1, Ordering::AcqRel);
        let writer = WebSocket::from_raw_socket(writing, Role::Server, None);
        let out = Arc::new(Mutex::new(Out { socket: writer, held: None }));
        if self.script.plain {
            self.subscribe(&path, id, &out);
        } else if path != "/echo" {
            out.lock().unwrap().say(json!({"type": "welcome", "ticket": path}).to_string());
        }
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else { continue };
            if path == "/echo" {
                out.lock().unwrap().say(text.to_string());
                continue;
            }
            if self.script.plain {
                self.publish(&path, &text, Some(id));
                continue;
            }
            for request in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
                self.ask(&request.expect("JSON"), id, &out);
            }
        }
        self.subscribers.lock().unwrap().retain(|subscriber| subscriber.id != id);
    }

    fn subscribe(&self, channel: &str, id: usize, out: &Arc<Mutex<Out>>) {
        let (channel, out) = (channel.to_owned(), Arc::clone(out));
        self.subscribers.lock().unwrap().push(Subscriber { channel, id, out });
    }

    fn ask(&self, request: &Value, id: usize, out: &Arc<Mutex<Out>>) {
        let channel = request["channel"].as_str().unwrap_or_default();
        match request["type"].as_str() {
            Some("subscribe") => {
                self.subscribe(channel, id, out);
                let answer = json!({"type": "subscribed", "channel": channel, "epoch": "e",
                                    "offset": self.offset(channel)});
                out.lock().unwrap().say(answer.to_string());
            }
            Some("publish") => {
                let done = self.publish(channel, &request["content"].to_string(), None);
                let kind = if done { "published" } else { "error" };
                // The type comes first, as in the real one.
                let offset = self.offset(channel);
                let answer =
                    format!(r#"{{"type":"{kind}","channel":"{channel}","offset":{offset}}}"#);
                out.lock().unwrap().say(answer);
            }
            Some("resume") => self.resume(request, id, out),
            _ => {}
        }
    }

    fn resume(&self, request: &Value, id: usize, out: &Arc<Mutex<Out>>) {
        let positions = request["positions"].as_object().expect("positions");
        for (channel, position) in positions {
            // Nothing is published between the history and the subscription.
            let mut subscribers = self.subscribers.lock().unwrap();
            let own = Subscriber { channel: channel.clone(), id, out: Arc::clone(out) };
            subscribers.push(own);
            let place = json!({"epoch": "e", "offset": self.offset(channel),
                               "recovered": !self.script.forget});
            let answer = json!({"type": "resumed", "ticket": "t", "channels": {channel: place}});
            let mut out = out.lock().unwrap();
            out.say(answer.to_string());
            let since = position["offset"].as_u64().expect("an offset") as usize;
            let history = self.history.lock().unwrap();
            let missed = history.iter().filter(|(name, _)| name == channel).skip(since);
            for (_, text) in missed.filter(|_| !self.script.forget) {
                out.say(text.clone());
            }
        }
    }

    fn offset(&self, channel: &str) -> usize {
        self.history.lock().unwrap().iter().filter(|(name, _)| name == channel).count()
    }

    /// Delivers to all but the sender; `false` when the script refuses it.
    fn publish(&self, channel: &str, content: &str, sender: Option<usize>) -> bool {
        if self.script.refuse == Some(self.publishes.fetch_add(1, Ordering::AcqRel) + 1) {
            return false;
        }
        sleep(Duration::from_millis(self.script.delay_ms));
        let subscribers = self.subscribers.lock().unwrap();
        let offset = self.offset(channel) + 1;
        let text = if self.script.plain {
            content.to_owned()
        } else {
            let head = r#"{"type":"message","channel":"#;
            format!(r#"{head}"{channel}","offset":{offset},"content":{content}}}"#)
        };
        self.history.lock().unwrap().push((channel.to_owned(), text.clone()));
        for one in subscribers.iter() {
            if one.channel == channel && Some(one.id) != sender {
                self.deliver(one, &text);
            }
        }
        true
    }

    fn deliver(&self, subscriber: &Subscriber, text: &str) {
        let number = Some(self.deliveries.fetch_add(1, Ordering::AcqRel) + 1);
        let mut out = subscriber.out.lock().unwrap();
        let held = out.held.take();
        if number == self.script.swap {
            out.held = Some(text.to_owned());
        } else if number != self.script.lose {
            out.say(text.to_owned());
        }
        if number == self.script.double {
            out.say(text.to_owned());
        }
        if let Some(held) = held {
            out.say(held);
        }
    }

    /// Answers batches until the client has gone.
    fn answer_api(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let (mut len, mut line) = (0, String::new());
            while reader.read_line(&mut line)? > 0 && line != "\r\n" {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    len = value.trim().parse().map_err(std::io::Error::other)?;
                }
                line.clear();
            }
            if line.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body)?;
            let batch: Value = serde_json::from_slice(&body)?;
            let mut results = Vec::new();
            for command in batch["commands"].as_array().expect("commands") {
                let publish = &command["publish"];
                let channel = publish["channel"].as_str().unwrap_or_default();
                let done = self.publish(channel, &publish["content"].to_string(), None);
                let (good, bad) =
                    (json!({"epoch": "e", "offset": 1}), json!({"error": {"code": "limit"}}));
                results.push(if done { good } else { bad });
            }
            let body = json!({"results": results}).to_string();
            let len = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}")?;
            self.requests.fetch_add(1, Ordering::AcqRel);
        }
    }
}

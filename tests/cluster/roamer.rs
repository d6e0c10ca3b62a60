//! A client that roams between nodes, follows a channel, and checks what it receives.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// The content of each position, as the first client has seen it.
pub(crate) type Truth = Arc<Mutex<HashMap<(String, u64), Value>>>;

/// Where the nodes are at present; `None`: the node is down.
pub(crate) type Addresses = Arc<Mutex<Vec<Option<SocketAddr>>>>;

/// A client in a thread of its own.
pub(crate) struct Roamer {
    ends: Arc<AtomicBool>,
    /// The number of messages received.
    pub(crate) heard: Arc<AtomicU64>,
    thread: JoinHandle<Outcome>,
}

/// What a client has seen.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) recoveries: u64,
    pub(crate) gaps: u64,
    /// The last position.
    pub(crate) last: Option<(String, u64)>,
}

struct Following {
    channel: &'static str,
    truth: Truth,
    heard: Arc<AtomicU64>,
    outcome: Outcome,
}

type Socket = WebSocket<TcpStream>;

fn connect(address: SocketAddr) -> io::Result<Socket> {
    let stream = TcpStream::connect(address)?;
    // A node that is stopped takes connections and does not answer.
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let request = format!("ws://{address}/ws");
    let (socket, _) = tungstenite::client(request, stream).map_err(io::Error::other)?;
    Ok(socket)
}

impl Roamer {
    pub(crate) fn start(
        at: usize,
        channel: &'static str,
        addresses: Addresses,
        truth: Truth,
    ) -> Self {
        let (ends, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (ends.clone(), heard.clone());
        let thread = std::thread::spawn(move || {
            let mut own = Following { channel, truth, heard: count, outcome: Outcome::default() };
            let mut node = at;
            while !flag.load(Ordering::Relaxed) {
                let address = {
                    let addresses = addresses.lock().unwrap();
                    node = (node + 1) % addresses.len();
                    addresses[node]
                };
                match address.map(connect) {
                    // An error ends a connection; the next node is tried.
                    Some(Ok(socket)) => drop(own.follow(socket, &flag)),
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            own.outcome
        });
        Self { ends, heard, thread }
    }

    /// Ends it, and returns what it has seen.
    pub(crate) fn finish(self) -> Outcome {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("it saw no violation")
    }
}

impl Following {
    /// Follows the channel on a connection until that breaks.
    fn follow(&mut self, mut socket: Socket, ends: &AtomicBool) -> tungstenite::Result<()> {
        let mut request = json!({"type": "subscribe", "id": 1, "channel": self.channel});
        if let Some((epoch, offset)) = &self.outcome.last {
            request["since"] = json!({"epoch": epoch, "offset": offset});
        }
        socket.send(Message::text(request.to_string()))?;
        let mut is_joined = false;
        while !ends.load(Ordering::Relaxed) {
            let message = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(tungstenite::Error::Io(error))
                    if is_joined && error.kind() == io::ErrorKind::WouldBlock =>
                {
                    // Quiet, or stopped: another node is tried.
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            for line in message.lines() {
                let object: Value = serde_json::from_str(line).expect("objects are JSON");
                match object["type"].as_str().unwrap_or_default() {
                    "subscribed" => {
                        is_joined = true;
                        self.take_position(&object);
                    }
                    "message" => self.take_message(&object),
                    "gap" => {
                        self.outcome.gaps += 1;
                        self.outcome.last = Some(position_of(&object));
                    }
                    // Such as `unavailable`: another node may do.
                    "error" => return Ok(()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn take_position(&mut self, object: &Value) {
        if object["recovered"] == true {
            // What was missed follows.
            self.outcome.recoveries += 1;
            let (epoch, _) = self.outcome.last.as_ref().expect("only a position is recovered");
            assert_eq!(object["epoch"], *epoch, "{object}");
            return;
        }
        self.outcome.gaps += u64::from(self.outcome.last.is_some());
        self.outcome.last = Some(position_of(object));
    }

    fn take_message(&mut self, object: &Value) {
        let last = self.outcome.last.as_mut().expect("messages follow the subscription");
        let offset = object["offset"].as_u64().expect("a message has an offset");
        assert_eq!(offset, last.1 + 1, "{}: in order, each once: {object}", self.channel);
        last.1 = offset;
        let mut truth = self.truth.lock().unwrap();
        let known = truth.entry(last.clone()).or_insert_with(|| object["content"].clone());
        assert_eq!(*known, object["content"], "{}: one message for each position", self.channel);
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}

fn position_of(object: &Value) -> (String, u64) {
    let epoch = object["epoch"].as_str().expect("a position has an epoch");
    (epoch.to_owned(), object["offset"].as_u64().expect("and an offset"))
}

//! A WebSocket echo server with faults to order, on `tungstenite`: a codec that is not the
//! generator's.

pub(crate) mod hub;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message, WebSocket};

/// What the server does besides echoing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Behaviour {
    /// Before each echo.
    pub(crate) delay_ms: u64,
    /// So long after the first message, answer nothing for so long.
    pub(crate) stall_ms: Option<(u64, u64)>,
    /// Flip the last byte of this message of each connection.
    pub(crate) corrupt_at: Option<usize>,
    /// Close with this code instead of echoing this message of each connection.
    pub(crate) close_at: Option<(usize, u16)>,
    /// Echo nothing from this message of each connection on.
    pub(crate) silent_at: Option<usize>,
    /// Answer 404 to the upgrade.
    pub(crate) refuse: bool,
    /// Answer 503 with `Retry-After: 1` to connections from this number up to that one.
    pub(crate) busy: Option<(usize, usize)>,
    /// Ping every connection once.
    pub(crate) ping: bool,
}

struct State {
    behaviour: Behaviour,
    first_message: OnceLock<Instant>,
    clean_closes: AtomicUsize,
    pongs: AtomicUsize,
    accepted: AtomicUsize,
    /// How many messages of which length came.
    lengths: Mutex<BTreeMap<usize, usize>>,
    stop: AtomicBool,
}

/// The server; it stops accepting when dropped.
pub(crate) struct TestServer {
    address: SocketAddr,
    state: Arc<State>,
}

impl TestServer {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            behaviour,
            first_message: OnceLock::new(),
            clean_closes: AtomicUsize::new(0),
            pongs: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            lengths: Mutex::new(BTreeMap::new()),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/echo", self.address)
    }

    pub(crate) fn clean_closes(&self) -> usize {
        self.state.clean_closes.load(Ordering::Acquire)
    }

    pub(crate) fn lengths(&self) -> BTreeMap<usize, usize> {
        self.state.lengths.lock().expect("no panic meanwhile").clone()
    }

    pub(crate) fn pongs(&self) -> usize {
        self.state.pongs.load(Ordering::Acquire)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
        // Wakes the accept, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let number = self.accepted.fetch_add(1, Ordering::AcqRel);
        let busy = self.behaviour.busy.is_some_and(|(from, to)| (from..to).contains(&number));
        if self.behaviour.refuse || busy {
            let answer: &[u8] = if busy {
                b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            };
            let _ = stream.write_all(answer);
            // The request is read, so that closing does not reset the answer on its way.
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            return;
        }
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        if self.behaviour.ping && socket.send(Message::Ping(Bytes::from_static(b"!"))).is_err() {
            return;
        }
        let mut count = 0;
        while let Ok(message) = socket.read() {
            match message {
                Message::Pong(payload) if payload == b"!"[..] => {
                    self.pongs.fetch_add(1, Ordering::AcqRel);
                }
                Message::Close(Some(frame)) if frame.code == CloseCode::Normal => {
                    self.clean_closes.fetch_add(1, Ordering::AcqRel);
                }
                Message::Text(_) | Message::Binary(_) => {
                    count += 1;
                    let mut lengths = self.lengths.lock().expect("no panic meanwhile");
                    *lengths.entry(message.len()).or_default() += 1;
                    drop(lengths);
                    if self.answer(&mut socket, message, count).is_err() {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn answer(
        &self,
        socket: &mut WebSocket<TcpStream>,
        message: Message,
        count: usize,
    ) -> Result<(), tungstenite::Error> {
        sleep(Duration::from_millis(self.behaviour.delay_ms));
        if let Some((after_ms, for_ms)) = self.behaviour.stall_ms {
            let begin = *self.first_message.get_or_init(Instant::now);
            let from = begin + Duration::from_millis(after_ms);
            let until = from + Duration::from_millis(for_ms);
            if Instant::now() >= from {
                sleep(until.saturating_duration_since(Instant::now()));
            }
        }
        if let Some((_, code)) = self.behaviour.close_at.filter(|(at, _)| *at == count) {
            let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
            return socket.close(Some(frame));
        }
        if self.behaviour.silent_at.is_some_and(|at| count >= at) {
            return Ok(());
        }
        if self.behaviour.corrupt_at != Some(count) {
            return socket.send(message);
        }
        let mut bytes = message.into_data().to_vec();
        // Text stays ASCII: `~` and `}` differ from all that they replace, one of them at least.
        if let Some(last) = bytes.last_mut() {
            *last = if *last == b'~' { b'}' } else { b'~' };
        }
        let text = String::from_utf8(bytes).expect("the tests send text");
        socket.send(Message::text(text))
    }
}

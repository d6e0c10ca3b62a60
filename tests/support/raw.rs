//! A client of raw bytes, with a frame codec of its own: it can do everything wrong on purpose,
//! and sees every byte that comes back.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// The bit that ends a message.
pub(crate) const FIN: u8 = 0x80;

/// How long a read may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as the server sent it.
#[derive(PartialEq, Eq, Clone)]
pub(crate) struct Frame {
    /// FIN, reserved bits and opcode.
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} {}", self.first, shortened(&self.payload))
    }
}

impl Frame {
    pub(crate) fn text(payload: impl AsRef<[u8]>) -> Self {
        Self { first: FIN | TEXT, payload: payload.as_ref().to_vec() }
    }

    /// The code of a Close.
    #[track_caller]
    pub(crate) fn close_code(&self) -> u16 {
        assert_eq!(self.first, FIN | CLOSE, "{self:?} is a Close");
        u16::from_be_bytes(self.payload[..2].try_into().expect("a code has two bytes"))
    }
}

/// A request to upgrade, with further header lines (each with its CRLF).
pub(crate) fn request_with(path: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// The usual request.
pub(crate) fn request() -> Vec<u8> {
    request_with("/echo", "")
}

/// A masked frame; `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(MASKED + len as u8),
        len @ 126..65_536 => {
            bytes.push(MASKED + 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(MASKED + 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A whole text message.
pub(crate) fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_ref())
}

/// A Close with this code.
pub(crate) fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

/// Bytes as a message can hold them.
fn shortened(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]);
    format!("{start} ({} bytes)", bytes.len())
}

/// A connection; keeps received bytes that are not yet read.
pub(crate) struct Raw<S = TcpStream> {
    pub(crate) stream: S,
    received: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("an option can be set");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self::over(stream)
    }

    /// Connected and upgraded.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        raw.upgrade();
        raw
    }

    /// Connected and upgraded, or `None` where the server rejects the connection.
    pub(crate) fn try_open(address: SocketAddr) -> Option<Self> {
        let mut raw = Self::connect(address);
        raw.send(&request());
        raw.head().starts_with("HTTP/1.1 101 ").then_some(raw)
    }

    /// Nothing more will be sent.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("writing can be shut down");
    }
}

impl<S: Read + Write> Raw<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes bytes");
    }

    /// Sends the usual request and expects the 101.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) {
        self.send(&request());
        self.switched();
    }

    /// Expects the 101.
    #[track_caller]
    pub(crate) fn switched(&mut self) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 1.3: {head}");
    }

    /// Receives more; false at the end of the stream.
    fn more(&mut self) -> io::Result<bool> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    #[track_caller]
    fn at_least(&mut self, len: usize) {
        while self.received.len() < len {
            let more = self.more().expect("the server continues");
            assert!(more, "the stream ended early, after {:?}", shortened(&self.received));
        }
    }

    /// The head of an HTTP answer.
    #[track_caller]
    pub(crate) fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.received.split_off(at + 4);
                let head = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(head).expect("a head is text");
            }
            let len = self.received.len();
            self.at_least(len + 1);
        }
    }

    /// The next frame, which must not be masked (RFC 6455 5.1).
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Frame {
        self.at_least(2);
        let (first, short) = (self.received[0], self.received[1]);
        assert_eq!(short & 0x80, 0, "a server masks nothing: {:?}", shortened(&self.received));
        let (start, len) = match short {
            126 => {
                self.at_least(4);
                (4, usize::from(u16::from_be_bytes([self.received[2], self.received[3]])))
            }
            127 => {
                self.at_least(10);
                let len = self.received[2..10].try_into().expect("a long length has 8 bytes");
                (10, u64::from_be_bytes(len) as usize)
            }
            len => (2, usize::from(len)),
        };
        self.at_least(start + len);
        let rest = self.received.split_off(start + len);
        let frame = std::mem::replace(&mut self.received, rest);
        Frame { first, payload: frame[start..].to_vec() }
    }

    /// Sends a text and expects it back.
    #[track_caller]
    pub(crate) fn echo(&mut self, payload: &str) {
        self.send(&text(payload));
        assert_eq!(self.frame(), Frame::text(payload));
    }

    /// Everything up to the end of the stream, or the error that ended it.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.received))
    }

    /// Expects the end of the stream and nothing before it.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        let rest = self.rest().expect("the stream ends without an error");
        assert!(rest.is_empty(), "nothing comes before the end: {:?}", shortened(&rest));
    }

    /// A whole HTTP answer up to the end of the stream: status and all of it.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> (u16, String) {
        let answer = self.rest().expect("the answer ends without an error");
        let answer = String::from_utf8(answer).expect("an answer is text");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), answer)
    }
}

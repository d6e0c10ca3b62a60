//! RFC 6455 frames for a client: builds masked frames and reads unmasked ones.
//!
//! The reader takes bytes in any split and stores no payload: it reports the offset of bytes in
//! their message to a [`Sink`]. It is strict: a lenient generator would measure a different
//! protocol.

use std::fmt;

/// Opcodes of RFC 6455 section 5.2.
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// The bit of a compressed message in the first byte of its first frame (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;

/// The longest payload of a control frame in bytes (RFC 6455 section 5.5).
pub const CONTROL_MAX: usize = 125;

/// Bytes of a client's frame around `payload_len` bytes (RFC 6455 section 5.2).
pub fn masked_header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 6,
        126..=0xFFFF => 8,
        _ => 14,
    }
}

/// Appends a whole masked frame.
pub fn put_masked(out: &mut Vec<u8>, opcode: u8, mask: [u8; 4], payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            out.push(0xFE);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0xFF);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// One masked frame; `opcode` may carry reserved bits.
pub fn masked(opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(masked_header_len(payload.len()) + payload.len());
    put_masked(&mut out, opcode, mask, payload);
    out
}

/// A server's violation of RFC 6455.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    Masked,
    ReservedBits,
    UnknownOpcode(u8),
    FragmentedControl,
    LongControl,
    LongLength,
    StrayContinuation,
    InterleavedMessage,
    ShortClose,
}

impl fmt::Display for WireError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Masked => "a server's frame was masked (5.1)",
            Self::ReservedBits => "a reserved bit was set without an extension (5.2)",
            Self::UnknownOpcode(code) => return write!(out, "opcode {code} is reserved (5.2)"),
            Self::FragmentedControl => "a control frame was fragmented (5.5)",
            Self::LongControl => "a control frame was longer than 125 bytes (5.5)",
            Self::LongLength => "a length was not in its shortest form (5.2)",
            Self::StrayContinuation => "a continuation continued nothing (5.4)",
            Self::InterleavedMessage => "a message began inside another (5.4)",
            Self::ShortClose => "a close frame carried half a code (5.5.1)",
        };
        out.write_str(text)
    }
}

/// A whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub opcode: u8,
    /// Payload bytes as received.
    pub len: u64,
    pub compressed: bool,
}

/// Receives what a reader found, in the order of the bytes.
pub trait Sink {
    /// Bytes of the current message, at `offset` in it; `compressed` by RFC 7692 or plain.
    fn data(&mut self, offset: u64, bytes: &[u8], compressed: bool);
    /// The current message ended.
    fn message(&mut self, message: Message);
    /// A whole control frame.
    fn control(&mut self, opcode: u8, payload: &[u8]);
}

/// Header bytes are collected until the header is complete, then `remaining` counts the payload
/// down.
#[derive(Debug, Default)]
pub struct FrameReader {
    remaining: u64,
    message_len: u64,
    /// Payload of a control frame received in pieces; rare, so it costs an idle connection little.
    control: Option<Box<ControlPart>>,
    header: [u8; 10],
    header_len: u8,
    in_payload: bool,
    opcode: u8,
    fin: bool,
    /// Opcode of the current message; 0 between messages.
    message_opcode: u8,
    /// Whether the current message is compressed.
    compressed: bool,
    /// Whether messages may be compressed.
    deflate: bool,
}

#[derive(Debug)]
struct ControlPart {
    bytes: [u8; CONTROL_MAX],
    len: usize,
}

impl ControlPart {
    fn push(&mut self, more: &[u8]) {
        // The header was checked: a control frame is not longer than this.
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
    }
}

impl FrameReader {
    /// A reader for a connection on which permessage-deflate was agreed, or not.
    pub fn new(deflate: bool) -> Self {
        Self { deflate, ..Self::default() }
    }

    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// When the server violates RFC 6455; bytes after that cannot be trusted.
    pub fn read(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), WireError> {
        loop {
            if !self.in_payload {
                bytes = self.take_header(bytes)?;
                if !self.in_payload {
                    return Ok(());
                }
            }
            let take = bytes.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(take);
            self.remaining -= take as u64;
            self.payload(now, sink);
            if self.in_payload {
                return Ok(());
            }
            bytes = later;
        }
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], WireError> {
        let mut taken = 0;
        while self.header_len < self.header_need() {
            let Some(byte) = bytes.get(taken) else { return Ok(&[]) };
            self.header[usize::from(self.header_len)] = *byte;
            self.header_len += 1;
            taken += 1;
        }
        self.begin_frame()?;
        Ok(&bytes[taken..])
    }

    fn header_need(&self) -> u8 {
        match self.header[1] & 0x7F {
            _ if self.header_len < 2 => 2,
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn begin_frame(&mut self) -> Result<(), WireError> {
        let [first, second, rest @ ..] = self.header;
        self.header_len = 0;
        self.in_payload = true;
        self.opcode = first & 0x0F;
        self.fin = first & 0x80 != 0;
        let (len, least) = match second & 0x7F {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 126),
            127 => (u64::from_be_bytes(rest), 0x1_0000),
            len => (u64::from(len), 0),
        };
        self.remaining = len;
        if second & 0x80 != 0 {
            return Err(WireError::Masked);
        }
        // RFC 7692 section 6: the bit is on the first frame of a message and on no other.
        let begins = matches!(self.opcode, opcode::TEXT | opcode::BINARY);
        let allowed = if self.deflate && begins { RSV1 } else { 0 };
        if first & 0x70 & !allowed != 0 {
            return Err(WireError::ReservedBits);
        }
        if len < least || len > i64::MAX as u64 {
            return Err(WireError::LongLength);
        }
        match self.opcode {
            opcode::CONTINUATION if self.message_opcode == 0 => Err(WireError::StrayContinuation),
            opcode::CONTINUATION => Ok(()),
            opcode::TEXT | opcode::BINARY if self.message_opcode != 0 => {
                Err(WireError::InterleavedMessage)
            }
            opcode::TEXT | opcode::BINARY => {
                self.message_opcode = self.opcode;
                self.compressed = first & RSV1 != 0;
                Ok(())
            }
            opcode::CLOSE | opcode::PING | opcode::PONG => self.check_control(len),
            unknown => Err(WireError::UnknownOpcode(unknown)),
        }
    }

    fn check_control(&self, len: u64) -> Result<(), WireError> {
        match len {
            _ if !self.fin => Err(WireError::FragmentedControl),
            len if len > CONTROL_MAX as u64 => Err(WireError::LongControl),
            1 if self.opcode == opcode::CLOSE => Err(WireError::ShortClose),
            _ => Ok(()),
        }
    }

    fn payload(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let ended = self.remaining == 0;
        self.in_payload = !ended;
        if self.opcode >= opcode::CLOSE {
            if ended && self.control.is_none() {
                sink.control(self.opcode, bytes);
                return;
            }
            let empty = || Box::new(ControlPart { bytes: [0; CONTROL_MAX], len: 0 });
            self.control.get_or_insert_with(empty).push(bytes);
            if let Some(part) = ended.then(|| self.control.take()).flatten() {
                sink.control(self.opcode, &part.bytes[..part.len]);
            }
            return;
        }
        if !bytes.is_empty() {
            sink.data(self.message_len, bytes, self.compressed);
            self.message_len += bytes.len() as u64;
        }
        if ended && self.fin {
            let (opcode, len) = (self.message_opcode, self.message_len);
            sink.message(Message { opcode, len, compressed: self.compressed });
            self.message_opcode = 0;
            self.message_len = 0;
        }
    }
}

/// Messages of a fixed length without framing, for the bare echoes.
#[derive(Debug)]
pub struct RawReader {
    message_len: u64,
    filled: u64,
}

impl RawReader {
    pub fn new(message_len: usize) -> Self {
        assert!(message_len > 0, "a raw message has at least one byte");
        Self { message_len: message_len as u64, filled: 0 }
    }

    pub fn read(&mut self, mut bytes: &[u8], sink: &mut impl Sink) {
        while !bytes.is_empty() {
            let missing = usize::try_from(self.message_len - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            sink.data(self.filled, now, false);
            self.filled += now.len() as u64;
            if self.filled == self.message_len {
                let (opcode, len) = (opcode::BINARY, self.filled);
                sink.message(Message { opcode, len, compressed: false });
                self.filled = 0;
            }
            bytes = later;
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

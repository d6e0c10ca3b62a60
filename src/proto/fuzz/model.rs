//! The naive twin of the receiver: one byte at a time, one rule after the other, no cleverness.
//!
//! Written from RFC 6455, not from the code it checks. Since it sees one byte at a time, what it
//! says cannot depend on how the input is cut, and it refuses at the earliest byte.

use crate::proto::ws::{self, DataKind, ProtocolError, WireEvent};

/// An event with its own copy of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A data message.
    Message(DataKind, Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A Close with its code and reason.
    Close(Option<(u16, String)>),
    /// A violation.
    Failed(ProtocolError),
}

impl From<WireEvent<'_>> for Seen {
    fn from(event: WireEvent<'_>) -> Self {
        match event {
            WireEvent::Message { kind, payload } => Self::Message(kind, payload.into_vec()),
            WireEvent::Ping(payload) => Self::Ping(payload.into_vec()),
            WireEvent::Pong(payload) => Self::Pong(payload.into_vec()),
            WireEvent::Close(None) => Self::Close(None),
            WireEvent::Close(Some(frame)) => {
                Self::Close(Some((frame.code.get(), frame.reason.into_owned())))
            }
            WireEvent::Failed(error) => Self::Failed(error),
        }
    }
}

/// Unmasks byte by byte, straight from RFC 6455 5.3.
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte ^= key[(phase + i) % 4];
    }
}

/// UTF-8 byte by byte, straight from table 3-7 of the Unicode standard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    missing: u8,
    /// What the next continuation byte may be, where it is not 0x80 to 0xbf.
    next: Option<(u8, u8)>,
}

impl Utf8 {
    /// Takes a byte; false if nothing that starts like this is UTF-8.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let (low, high) = self.next.take().unwrap_or((0x80, 0xbf));
            self.missing -= 1;
            return (low..=high).contains(&byte);
        }
        (self.missing, self.next) = match byte {
            0..=0x7f => (0, None),
            0xc2..=0xdf => (1, None),
            0xe0 => (2, Some((0xa0, 0xbf))),
            0xed => (2, Some((0x80, 0x9f))),
            0xe1..=0xef => (2, None),
            0xf0 => (3, Some((0x90, 0xbf))),
            0xf1..=0xf3 => (3, None),
            0xf4 => (3, Some((0x80, 0x8f))),
            _ => return false,
        };
        true
    }

    /// Whether no character is open.
    pub fn is_complete(self) -> bool {
        self.missing == 0
    }
}

/// The naive receiver.
#[derive(Debug, Default)]
pub struct Model {
    header: Vec<u8>,
    /// Payload of the open frame, as far as it came; `None` while a header is read.
    payload: Option<Vec<u8>>,
    length: u64,
    message: Option<(DataKind, Vec<u8>, u32)>,
    text: Utf8,
    ended: bool,
}

impl Model {
    /// Everything that `bytes` mean.
    pub fn events(bytes: &[u8], limits: &ws::Limits) -> Vec<Seen> {
        let mut model = Self::default();
        bytes.iter().filter_map(|&byte| model.push(byte, limits)).collect()
    }

    fn push(&mut self, byte: u8, limits: &ws::Limits) -> Option<Seen> {
        if self.ended {
            return None;
        }
        let seen = match self.step(byte, limits) {
            Ok(seen) => seen?,
            Err(error) => Seen::Failed(error),
        };
        self.ended = matches!(seen, Seen::Close(_) | Seen::Failed(_));
        Some(seen)
    }

    fn step(&mut self, byte: u8, limits: &ws::Limits) -> Result<Option<Seen>, ProtocolError> {
        if self.payload.is_some() {
            return self.payload_byte(byte);
        }
        self.header.push(byte);
        let at = self.header.len() - 1;
        let short = self.header.get(1).map_or(0, |b| b & 127);
        let length_bytes = [(126, 2), (127, 8)].into_iter().find(|l| l.0 == short);
        let length_bytes = length_bytes.map_or(0, |l| l.1);
        match at {
            0 => self.first_byte(byte, limits)?,
            1 => self.second_byte(byte, limits)?,
            2 if short == 127 && byte >= 128 => return Err(ProtocolError::LengthTopBit),
            _ => {}
        }
        if length_bytes > 0 && at == 1 + length_bytes {
            self.length = self.header[2..].iter().fold(0, |all, &b| all * 256 + u64::from(b));
            if self.length < [126, 65536][usize::from(length_bytes == 8)] {
                return Err(ProtocolError::LengthNotMinimal);
            }
            self.check_size(limits)?;
        }
        if at == 1 + length_bytes + 4 {
            self.payload = Some(Vec::new());
            if self.length == 0 {
                return self.frame_end();
            }
        }
        Ok(None)
    }

    fn first_byte(&mut self, byte: u8, limits: &ws::Limits) -> Result<(), ProtocolError> {
        if byte & 0b0111_0000 > 0 {
            return Err(ProtocolError::ReservedBit);
        }
        match byte & 15 {
            0 if self.message.is_none() => return Err(ProtocolError::UnexpectedContinuation),
            1 | 2 if self.message.is_some() => return Err(ProtocolError::ExpectedContinuation),
            8..=10 if byte < 128 => return Err(ProtocolError::FragmentedControl),
            0..=2 | 8..=10 => {}
            _ => return Err(ProtocolError::ReservedOpcode),
        }
        let frames = self.message.as_ref().map_or(0, |message| message.2);
        if matches!(byte & 15, 0) && frames >= limits.fragments_max {
            return Err(ProtocolError::TooManyFragments);
        }
        Ok(())
    }

    fn second_byte(&mut self, byte: u8, limits: &ws::Limits) -> Result<(), ProtocolError> {
        if byte < 128 {
            return Err(ProtocolError::MissingMask);
        }
        if self.header[0] & 8 > 0 && byte & 127 > 125 {
            return Err(ProtocolError::ControlTooLong);
        }
        self.length = u64::from(byte & 127);
        if byte & 127 < 126 { self.check_size(limits) } else { Ok(()) }
    }

    fn check_size(&self, limits: &ws::Limits) -> Result<(), ProtocolError> {
        let held = self.message.as_ref().map_or(0, |message| message.1.len() as u64);
        let data = self.header[0] & 8 == 0;
        if data && held + self.length > limits.message_bytes_max as u64 {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }

    fn payload_byte(&mut self, byte: u8) -> Result<Option<Seen>, ProtocolError> {
        let Some(payload) = &mut self.payload else { return Ok(None) };
        let key = &self.header[self.header.len() - 4..];
        let byte = byte ^ key[payload.len() % 4];
        payload.push(byte);
        let ended = payload.len() as u64 == self.length;
        let open = self.message.as_ref().map(|message| message.0);
        let text = match self.header[0] & 15 {
            0 => open == Some(DataKind::Text),
            opcode => opcode == 1,
        };
        if text && !self.text.push(byte) {
            return Err(ProtocolError::TextNotUtf8);
        }
        if ended { self.frame_end() } else { Ok(None) }
    }

    fn frame_end(&mut self) -> Result<Option<Seen>, ProtocolError> {
        let payload = self.payload.take().unwrap_or_default();
        let first = std::mem::take(&mut self.header)[0];
        match first & 15 {
            8 => return close(&payload).map(|seen| Some(Seen::Close(seen))),
            9 => return Ok(Some(Seen::Ping(payload))),
            10 => return Ok(Some(Seen::Pong(payload))),
            _ => {}
        }
        let kind = if first & 15 == 1 { DataKind::Text } else { DataKind::Binary };
        let (kind, mut bytes, frames) = self.message.take().unwrap_or((kind, Vec::new(), 0));
        bytes.extend(payload);
        if first < 128 {
            self.message = Some((kind, bytes, frames + 1));
            return Ok(None);
        }
        if kind == DataKind::Text && !self.text.is_complete() {
            return Err(ProtocolError::TextNotUtf8);
        }
        Ok(Some(Seen::Message(kind, bytes)))
    }
}

fn close(payload: &[u8]) -> Result<Option<(u16, String)>, ProtocolError> {
    let code = match payload {
        [] => return Ok(None),
        [_] => return Err(ProtocolError::CloseTooShort),
        [high, low, ..] => u16::from(*high) * 256 + u16::from(*low),
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(ProtocolError::CloseCode),
    }
    let mut reason = Utf8::default();
    if !payload[2..].iter().all(|&byte| reason.push(byte)) || !reason.is_complete() {
        return Err(ProtocolError::CloseReasonNotUtf8);
    }
    Ok(Some((code, String::from_utf8_lossy(&payload[2..]).into_owned())))
}

//! One connection as a state machine: bytes in, what they meant out, and what to send next.
//!
//! It knows no ring and no clock. The fleet moves its bytes; the load decides when messages go.

use std::fmt;

use crate::sheet::Sheet;
use crate::upgrade::{Upgrade, UpgradeError};
use crate::wire::{self, FrameReader, RawReader, Sink, WireError, opcode};

/// The mask of control frames; they are rare, and a server may not care which it is.
const CONTROL_MASK: [u8; 4] = [0x5A, 0xC3, 0x3C, 0xA5];

/// What all connections of a run have in common.
pub struct Terms {
    pub upgrade: Upgrade,
    pub sheet: Sheet,
    /// Compare every byte of every echo.
    pub verify: bool,
}

/// Where a connection is in its life; it only moves down this list, then it is `Free` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Free,
    Connecting,
    Upgrading,
    Open,
    /// Our Close frame is on its way; the server's is awaited.
    Closing,
    /// Both Close frames were exchanged; the server ends TCP (RFC 6455 section 7.1.1).
    Closed,
    /// The kernel's last operations are awaited.
    Ending,
    /// The descriptor is being closed.
    Releasing,
}

/// Why a connection was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An operation failed with this errno.
    System(&'static str, i32),
    /// The server ended the connection without a closing handshake.
    Ended(Stage),
    /// The server closed with this code, uninvited.
    ClosedByServer(Option<u16>),
    Refused(UpgradeError),
    Wire(WireError),
    /// An echo differs from what was sent.
    Corrupt(String),
    /// Nothing came for longer than `--timeout` in this stage.
    TimedOut(Stage),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(doing, errno) => {
                write!(out, "{doing}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Ended(stage) => write!(out, "the server ended the connection ({stage:?})"),
            Self::ClosedByServer(Some(code)) => write!(out, "the server closed with {code}"),
            Self::ClosedByServer(None) => out.write_str("the server closed without a code"),
            Self::Refused(error) => error.fmt(out),
            Self::Wire(error) => write!(out, "against RFC 6455: {error}"),
            Self::Corrupt(text) => out.write_str(text),
            Self::TimedOut(stage) => write!(out, "nothing came in time ({stage:?})"),
        }
    }
}

/// What a chunk of bytes meant.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    pub opened: bool,
    pub messages: u32,
    pub pongs: u32,
    /// The closing handshake is complete.
    pub closed: bool,
}

/// What is being sent.
#[derive(Debug)]
pub enum Outgoing {
    Request,
    Messages { variant: u32, count: u32 },
    Control(Vec<u8>),
}

#[derive(Debug)]
enum Reader {
    Frames(FrameReader),
    Raw(RawReader),
}

/// The connection.
#[derive(Debug)]
pub struct Connection {
    pub stage: Stage,
    number: u32,
    reader: Reader,
    /// The upgrade request is still to be sent.
    request_due: bool,
    /// The answer to the upgrade request while it is not whole.
    head: Vec<u8>,
    /// Messages the load asked for and that are not yet given to the kernel.
    owed: u32,
    next_variant: u32,
    /// The variant whose echo comes next.
    echo_variant: u32,
    /// The newest ping's answer: older ones need none (RFC 6455 section 5.5.3).
    pong: Option<Vec<u8>>,
    /// A ping or a close of ours.
    control: Option<Vec<u8>>,
}

impl Connection {
    pub fn free() -> Self {
        Self {
            stage: Stage::Free,
            number: 0,
            reader: Reader::Frames(FrameReader::default()),
            request_due: false,
            head: Vec::new(),
            owed: 0,
            next_variant: 0,
            echo_variant: 0,
            pong: None,
            control: None,
        }
    }

    /// A connection about to connect; `number` picks its key and its first message.
    pub fn connecting(number: u32, terms: &Terms) -> Self {
        let variant = number % terms.sheet.variants();
        let raw = terms.sheet.shape().raw;
        Self {
            stage: Stage::Connecting,
            number,
            reader: if raw {
                Reader::Raw(RawReader::new(terms.sheet.frame_len()))
            } else {
                Reader::Frames(FrameReader::default())
            },
            next_variant: variant,
            echo_variant: variant,
            ..Self::free()
        }
    }

    /// TCP is there; a raw connection is open with it.
    pub fn connected(&mut self) {
        let raw = matches!(self.reader, Reader::Raw(_));
        self.stage = if raw { Stage::Open } else { Stage::Upgrading };
        self.request_due = !raw;
    }

    /// Asks for `count` more messages to be sent.
    pub fn owe(&mut self, count: u32) {
        self.owed += count;
    }

    /// Asks for a ping to be sent.
    pub fn ping(&mut self, payload: &[u8]) {
        self.control = Some(wire::masked(0x80 | opcode::PING, CONTROL_MASK, payload));
    }

    /// Begins the closing handshake: nothing but the Close frame is sent any more.
    pub fn close(&mut self) {
        assert_eq!(self.stage, Stage::Open, "only an open connection can be closed");
        self.stage = Stage::Closing;
        self.owed = 0;
        self.pong = None;
        let payload = 1000_u16.to_be_bytes();
        self.control = Some(wire::masked(0x80 | opcode::CLOSE, CONTROL_MASK, &payload));
    }

    /// Takes what is to be sent next, if anything.
    pub fn next_outgoing(&mut self, sheet: &Sheet) -> Option<Outgoing> {
        match self.stage {
            Stage::Upgrading => {
                return std::mem::take(&mut self.request_due).then_some(Outgoing::Request);
            }
            Stage::Open | Stage::Closing | Stage::Closed => {}
            _ => return None,
        }
        if let Some(frame) = self.pong.take().or_else(|| self.control.take()) {
            return Some(Outgoing::Control(frame));
        }
        if self.owed == 0 {
            return None;
        }
        let (variant, count) = (self.next_variant, self.owed.min(sheet.batch()));
        self.owed -= count;
        self.next_variant = (variant + count) % sheet.variants();
        Some(Outgoing::Messages { variant, count })
    }

    /// The bytes of what is being sent.
    pub fn outgoing_bytes<'a>(&self, outgoing: &'a Outgoing, terms: &'a Terms) -> &'a [u8] {
        match outgoing {
            Outgoing::Request => terms.upgrade.request(self.number),
            Outgoing::Messages { variant, count } => terms.sheet.frames(*variant, *count),
            Outgoing::Control(frame) => frame,
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn receive(&mut self, bytes: &[u8], terms: &Terms) -> Result<Events, Fault> {
        match self.stage {
            Stage::Upgrading => self.receive_head(bytes, terms),
            Stage::Open | Stage::Closing => self.receive_frames(bytes, terms),
            // Data after the server's Close is against section 5.5.1, but it harms nobody.
            _ => Ok(Events::default()),
        }
    }

    fn receive_head(&mut self, bytes: &[u8], terms: &Terms) -> Result<Events, Fault> {
        let held = self.head.len();
        // A head that comes whole, which is nearly all of them, is read where it lies.
        let checked = if held == 0 {
            terms.upgrade.check(self.number, bytes)
        } else {
            self.head.extend_from_slice(bytes);
            terms.upgrade.check(self.number, &self.head)
        };
        let Some(len) = checked.map_err(Fault::Refused)? else {
            if held == 0 {
                self.head.extend_from_slice(bytes);
            }
            return Ok(Events::default());
        };
        self.head = Vec::new();
        self.stage = Stage::Open;
        let mut events = self.receive_frames(&bytes[len - held..], terms)?;
        events.opened = true;
        Ok(events)
    }

    fn receive_frames(&mut self, bytes: &[u8], terms: &Terms) -> Result<Events, Fault> {
        let mut inspector = Inspector {
            sheet: &terms.sheet,
            verify: terms.verify,
            variant: &mut self.echo_variant,
            events: Events::default(),
            pong: &mut self.pong,
            close: None,
            fault: None,
        };
        match &mut self.reader {
            Reader::Raw(reader) => reader.read(bytes, &mut inspector),
            Reader::Frames(reader) => reader.read(bytes, &mut inspector).map_err(Fault::Wire)?,
        }
        let Inspector { mut events, close, fault, .. } = inspector;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some(uninvited) = close {
            if self.stage != Stage::Closing {
                return Err(uninvited);
            }
            self.stage = Stage::Closed;
            events.closed = true;
        }
        Ok(events)
    }
}

/// Hears what the reader finds in one chunk.
struct Inspector<'a> {
    sheet: &'a Sheet,
    verify: bool,
    variant: &'a mut u32,
    events: Events,
    pong: &'a mut Option<Vec<u8>>,
    /// The fault an uninvited Close is.
    close: Option<Fault>,
    fault: Option<Fault>,
}

impl Inspector<'_> {
    fn corrupt(&mut self, what: String) {
        if self.fault.is_none() {
            self.fault = Some(Fault::Corrupt(what));
        }
    }
}

impl Sink for Inspector<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) {
        if !self.verify {
            return;
        }
        let expected = self.sheet.expected(*self.variant);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(expected.len());
        let expected = &expected[start..];
        if expected.get(..bytes.len()) == Some(bytes) {
            return;
        }
        let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        let at = start + same;
        let (sent, got) = (expected.get(same), bytes.get(same));
        self.corrupt(format!("echo differs at byte {at}: sent {sent:?}, received {got:?}"));
    }

    fn message(&mut self, opcode: u8, len: u64) {
        if self.verify {
            let expected = (self.sheet.opcode(), self.sheet.expected(*self.variant).len() as u64);
            if expected != (opcode, len) {
                let (sent, got) = (expected, (opcode, len));
                self.corrupt(format!("echo differs: (opcode, bytes) sent {sent:?}, got {got:?}"));
            }
        }
        *self.variant = (*self.variant + 1) % self.sheet.variants();
        self.events.messages += 1;
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) {
        match opcode {
            opcode::PING => {
                *self.pong = Some(wire::masked(0x80 | opcode::PONG, CONTROL_MASK, payload));
            }
            opcode::PONG => self.events.pongs += 1,
            _ => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                self.close = Some(Fault::ClosedByServer(code));
            }
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

//! One connection as a state machine: takes received bytes, reports messages, and returns bytes to
//! send.
//!
//! It knows no ring and no clock. The fleet moves its bytes; the load decides when to send.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::deflate::Inflater;
pub use crate::fault::Fault;
use crate::sheet::Sheet;
use crate::upgrade::Upgrade;
use crate::wire::{self, FrameReader, Message, RawReader, Sink, opcode};

/// The mask of control frames; they are rare, and any mask is valid.
const CONTROL_MASK: [u8; 4] = [0x5A, 0xC3, 0x3C, 0xA5];

/// Bytes to which a compressed echo may inflate at most.
const INFLATED_MAX: usize = 128 << 20;

/// Settings shared by all connections of a run.
pub struct Terms {
    pub upgrade: Upgrade,
    pub sheet: Sheet,
    /// Compare every byte of every echo.
    pub verify: bool,
    /// Pass whole messages to the load ([`Heard`]).
    pub hear: bool,
    /// Count messages without inflating compressed ones.
    pub count_only: bool,
}

/// The stage of a connection; it only moves down this list, and then to `Free` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Free,
    Connecting,
    Upgrading,
    Open,
    /// Our Close frame is being sent; the server's is awaited.
    Closing,
    /// Both sides have sent Close; the server ends TCP (RFC 6455 section 7.1.1).
    Closed,
    /// Waits for the kernel's last operations.
    Ending,
    /// The descriptor is being closed.
    Releasing,
}

/// What a chunk of bytes contained.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    pub opened: bool,
    pub messages: u32,
    pub pings: u32,
    pub pongs: u32,
    /// Both sides have sent Close.
    pub closed: bool,
}

/// Byte counts of a thread's connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections on which permessage-deflate was agreed.
    pub deflate_agreed: u64,
    /// Payload bytes of the messages sent, and their bytes on the wire without frame headers.
    pub sent_bytes: u64,
    pub sent_wire_bytes: u64,
    /// Compressed messages received, and their bytes on the wire and inflated.
    pub compressed: u64,
    pub compressed_wire_bytes: u64,
    pub compressed_bytes: u64,
    /// All bytes sent and received, handshakes and frame headers included; sends without a
    /// completion ([`crate::fleet::FleetPlan::quiet_sends`]) are missing.
    pub written_bytes: u64,
    pub read_bytes: u64,
}

impl Traffic {
    pub fn add(&mut self, other: &Self) {
        self.deflate_agreed += other.deflate_agreed;
        self.sent_bytes += other.sent_bytes;
        self.sent_wire_bytes += other.sent_wire_bytes;
        self.compressed += other.compressed;
        self.compressed_wire_bytes += other.compressed_wire_bytes;
        self.compressed_bytes += other.compressed_bytes;
        self.written_bytes += other.written_bytes;
        self.read_bytes += other.read_bytes;
    }
}

/// Messages that one chunk of bytes completed, one after the other.
#[derive(Debug, Default)]
pub struct Heard {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Heard {
    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Bytes after the last whole message.
    fn take_rest(&mut self) -> Vec<u8> {
        self.bytes.split_off(self.ends.last().copied().unwrap_or(0))
    }

    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What the connections of a thread share.
#[derive(Default)]
pub struct Tools {
    pub inflater: Inflater,
    pub traffic: Traffic,
    pub heard: Heard,
    /// What was decrypted last, to keep its memory.
    pub plain: Vec<u8>,
}

/// Bytes being sent.
#[derive(Debug)]
pub enum Outgoing {
    Request,
    Messages {
        variant: u32,
        count: u32,
    },
    Frame(Box<[u8]>),
    /// Frames that many connections send, prepared once.
    Shared(Arc<[u8]>),
}

#[derive(Debug)]
enum Reader {
    Frames(FrameReader),
    Raw(RawReader),
}

/// A Close; its code is optional.
#[derive(Debug, Clone, Copy)]
struct CloseCode(Option<u16>);

/// State that most connections never have, or only for a moment: keeps idle ones small.
#[derive(Debug, Default)]
struct Rare {
    /// An incomplete answer to the upgrade request.
    head: Vec<u8>,
    /// The pong for the newest ping: older ones need none (RFC 6455 section 5.5.3).
    pong: Option<Box<[u8]>>,
    /// Frames other than the sheet's: pings, closes, and those of loads.
    frames: VecDeque<Outgoing>,
    /// An incomplete compressed message.
    compressed: Vec<u8>,
    /// An incomplete message for the load.
    unheard: Vec<u8>,
    /// The server's unrequested Close.
    closed_by_server: Option<CloseCode>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.pong.is_none()
            && self.frames.is_empty()
            && self.compressed.is_empty()
            && self.unheard.is_empty()
            && self.closed_by_server.is_none()
    }
}

/// The connection.
#[derive(Debug)]
pub struct Connection {
    reader: Reader,
    rare: Option<Box<Rare>>,
    number: u32,
    /// Messages requested by the load and not yet passed to the kernel.
    owed: u32,
    next_variant: u32,
    /// The variant of the next echo.
    echo_variant: u32,
    pub stage: Stage,
    /// The upgrade request is not yet sent.
    request_due: bool,
    /// Messages are sent compressed.
    deflate: bool,
}

impl Connection {
    pub fn free() -> Self {
        Self {
            reader: Reader::Frames(FrameReader::default()),
            rare: None,
            number: 0,
            owed: 0,
            next_variant: 0,
            echo_variant: 0,
            stage: Stage::Free,
            request_due: false,
            deflate: false,
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

    /// TCP is connected; a raw connection is open with that.
    pub fn connected(&mut self) {
        let raw = matches!(self.reader, Reader::Raw(_));
        self.stage = if raw { Stage::Open } else { Stage::Upgrading };
        self.request_due = !raw;
    }

    /// Requests `count` more messages.
    pub fn request_messages(&mut self, count: u32) {
        self.owed += count;
    }

    /// Requests a ping.
    pub fn queue_ping(&mut self, payload: &[u8]) {
        self.send_frame(wire::masked(0x80 | opcode::PING, CONTROL_MASK, payload).into());
    }

    /// Requests a whole masked frame.
    pub fn send_frame(&mut self, frame: Box<[u8]>) {
        self.rare().frames.push_back(Outgoing::Frame(frame));
    }

    /// Requests prepared bytes: one or more masked frames.
    pub fn send_shared(&mut self, frames: Arc<[u8]>) {
        self.rare().frames.push_back(Outgoing::Shared(frames));
    }

    /// Whether permessage-deflate was agreed.
    pub fn is_deflated(&self) -> bool {
        self.deflate
    }

    /// Starts the closing handshake: only the Close frame is sent from then on.
    pub fn close(&mut self) {
        assert_eq!(self.stage, Stage::Open, "only an open connection can be closed");
        self.stage = Stage::Closing;
        self.say_close(&1000_u16.to_be_bytes());
    }

    fn say_close(&mut self, payload: &[u8]) {
        self.owed = 0;
        let rare = self.rare();
        rare.pong = None;
        rare.frames.clear();
        let frame = wire::masked(0x80 | opcode::CLOSE, CONTROL_MASK, payload).into();
        rare.frames.push_back(Outgoing::Frame(frame));
    }

    /// The fault of an unrequested Close by the server, once both sides have sent Close.
    pub fn verdict(&self) -> Option<Fault> {
        self.rare.as_ref()?.closed_by_server.map(|close| Fault::ClosedByServer(close.0))
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn tidy(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_empty()) {
            self.rare = None;
        }
    }

    /// Takes the next bytes to send, if any.
    pub fn next_outgoing(&mut self, sheet: &Sheet, traffic: &mut Traffic) -> Option<Outgoing> {
        match self.stage {
            Stage::Upgrading => {
                return std::mem::take(&mut self.request_due).then_some(Outgoing::Request);
            }
            Stage::Open | Stage::Closing | Stage::Closed => {}
            _ => return None,
        }
        if let Some(rare) = &mut self.rare {
            let pong = rare.pong.take().map(Outgoing::Frame);
            let frame = pong.or_else(|| rare.frames.pop_front());
            self.tidy();
            if frame.is_some() {
                return frame;
            }
        }
        if self.owed == 0 {
            return None;
        }
        let (variant, count) = (self.next_variant, self.owed.min(sheet.batch()));
        self.owed -= count;
        self.next_variant = (variant + count) % sheet.variants();
        if self.deflate {
            traffic.sent_bytes += sheet.payload_bytes(variant, count);
            traffic.sent_wire_bytes += sheet.wire_payload_bytes(variant, count);
        }
        Some(Outgoing::Messages { variant, count })
    }

    /// The bytes of what is being sent.
    pub fn outgoing_bytes<'a>(&self, outgoing: &'a Outgoing, terms: &'a Terms) -> &'a [u8] {
        match outgoing {
            Outgoing::Request => terms.upgrade.request(self.number),
            Outgoing::Messages { variant, count } => {
                terms.sheet.frames(*variant, *count, self.deflate)
            }
            Outgoing::Frame(frame) => frame,
            Outgoing::Shared(frames) => frames,
        }
    }

    /// Takes bytes from the server.
    ///
    /// # Errors
    /// If the connection must be given up.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        terms: &Terms,
        tools: &mut Tools,
    ) -> Result<Events, Fault> {
        match self.stage {
            Stage::Upgrading => self.receive_head(bytes, terms, tools),
            Stage::Open | Stage::Closing => self.receive_frames(bytes, terms, tools),
            // Data after the server's Close violates section 5.5.1, but is harmless here.
            _ => Ok(Events::default()),
        }
    }

    fn receive_head(
        &mut self,
        bytes: &[u8],
        terms: &Terms,
        tools: &mut Tools,
    ) -> Result<Events, Fault> {
        let held = self.rare.as_ref().map_or(0, |rare| rare.head.len());
        // A complete head, the usual case, is parsed in place.
        let checked = if held == 0 {
            terms.upgrade.check(self.number, bytes)
        } else {
            let number = self.number;
            let head = &mut self.rare().head;
            head.extend_from_slice(bytes);
            terms.upgrade.check(number, head)
        };
        let Some(answer) = checked.map_err(Fault::Refused)? else {
            if held == 0 {
                self.rare().head.extend_from_slice(bytes);
            }
            return Ok(Events::default());
        };
        self.rare = None;
        self.stage = Stage::Open;
        if answer.deflate {
            tools.traffic.deflate_agreed += 1;
            self.deflate = true;
            self.reader = Reader::Frames(FrameReader::new(true));
        }
        let mut events = self.receive_frames(&bytes[answer.len - held..], terms, tools)?;
        events.opened = true;
        Ok(events)
    }

    fn receive_frames(
        &mut self,
        bytes: &[u8],
        terms: &Terms,
        tools: &mut Tools,
    ) -> Result<Events, Fault> {
        if terms.hear
            && let Some(rare) = &mut self.rare
        {
            tools.heard.bytes.append(&mut rare.unheard);
        }
        let mut inspector = Inspector {
            sheet: &terms.sheet,
            verify: terms.verify,
            hear: terms.hear,
            count_only: terms.count_only,
            variant: &mut self.echo_variant,
            events: Events::default(),
            rare: &mut self.rare,
            tools,
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
        if terms.hear {
            let rest = tools.heard.take_rest();
            if !rest.is_empty() {
                self.rare().unheard = rest;
            }
            self.tidy();
        }
        if let Some(code) = close {
            if self.stage == Stage::Open {
                // Unrequested: answer with the same code; the server ends TCP.
                let payload = code.0.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
                self.say_close(&payload);
                self.rare().closed_by_server = Some(code);
            }
            self.stage = Stage::Closed;
            events.closed = true;
        }
        Ok(events)
    }
}

/// Receives what the reader finds in one chunk.
struct Inspector<'a> {
    sheet: &'a Sheet,
    verify: bool,
    hear: bool,
    count_only: bool,
    variant: &'a mut u32,
    events: Events,
    rare: &'a mut Option<Box<Rare>>,
    tools: &'a mut Tools,
    /// The server's Close.
    close: Option<CloseCode>,
    fault: Option<Fault>,
}

impl Inspector<'_> {
    fn corrupt(&mut self, what: String) {
        if self.fault.is_none() {
            self.fault = Some(Fault::Corrupt(what));
        }
    }

    fn compare(&mut self, offset: u64, bytes: &[u8]) {
        if !self.verify {
            return;
        }
        if let Some(what) = difference(self.sheet.expected(*self.variant), offset, bytes) {
            self.corrupt(what);
        }
    }

    /// Inflates the complete message; returns its length.
    fn inflate(&mut self) -> u64 {
        let whole = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.compressed));
        let whole = whole.unwrap_or_default();
        let Tools { inflater, traffic, heard, .. } = &mut *self.tools;
        traffic.compressed += 1;
        traffic.compressed_wire_bytes += whole.len() as u64;
        let (len, wrong) = match inflater.inflate(&whole, INFLATED_MAX) {
            Ok(bytes) => {
                if self.hear {
                    heard.bytes.extend_from_slice(bytes);
                }
                let expected = self.sheet.expected(*self.variant);
                let wrong = self.verify.then(|| difference(expected, 0, bytes)).flatten();
                (bytes.len() as u64, wrong)
            }
            Err(error) => (0, Some(format!("a compressed echo cannot be inflated: {error}"))),
        };
        traffic.compressed_bytes += len;
        if let Some(what) = wrong {
            self.corrupt(what);
        }
        len
    }
}

/// Describes where bytes at `offset` of a message differ from those sent.
fn difference(expected: &[u8], offset: u64, bytes: &[u8]) -> Option<String> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(expected.len());
    let expected = &expected[start..];
    if expected.get(..bytes.len()) == Some(bytes) {
        return None;
    }
    let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    let at = start + same;
    let (sent, got) = (expected.get(same), bytes.get(same));
    Some(format!("echo differs at byte {at}: sent {sent:?}, received {got:?}"))
}

impl Sink for Inspector<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8], compressed: bool) {
        if self.count_only {
            return;
        }
        if compressed {
            self.rare.get_or_insert_default().compressed.extend_from_slice(bytes);
        } else if self.hear {
            self.tools.heard.bytes.extend_from_slice(bytes);
        } else {
            self.compare(offset, bytes);
        }
    }

    fn message(&mut self, message: Message) {
        if self.count_only {
            self.events.messages += 1;
            return;
        }
        let len = if message.compressed { self.inflate() } else { message.len };
        if self.hear {
            self.tools.heard.end();
        }
        if self.verify {
            let expected = (self.sheet.opcode(), self.sheet.expected(*self.variant).len() as u64);
            let got = (message.opcode, len);
            if expected != got {
                let sent = expected;
                self.corrupt(format!("echo differs: (opcode, bytes) sent {sent:?}, got {got:?}"));
            }
        }
        *self.variant = (*self.variant + 1) % self.sheet.variants();
        self.events.messages += 1;
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) {
        match opcode {
            opcode::PING => {
                let pong = wire::masked(0x80 | opcode::PONG, CONTROL_MASK, payload);
                self.rare.get_or_insert_default().pong = Some(pong.into());
                self.events.pings += 1;
            }
            opcode::PONG => self.events.pongs += 1,
            _ => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                self.close = Some(CloseCode(code));
            }
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

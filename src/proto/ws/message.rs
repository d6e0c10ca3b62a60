//! What a receiver holds between two inputs: a split header, a split frame, an open message.
//!
//! All of it lives in one box that exists only while there is something to hold. A message's memory
//! follows the bytes that came, never the length that a header claims: claims are free for a peer,
//! memory is not.

use std::num::NonZeroU32;

use super::deflate::{Inflaters, Inflating};
use super::frame::{
    self, CONTROL_BYTES_MAX, ExpectedFrame, FrameKind, HEADER_BYTES_MAX_CLIENT, Header,
};
use super::{DataKind, Limits, ProtocolError, mask, utf8};

/// What the first bytes of a message may reserve ahead, in bytes, if its header claims as much.
const RESERVE_BYTES_MIN: usize = 256 * 1024;
/// How many times the bytes held a message may reserve ahead, if its header claims as much.
const RESERVE_FACTOR: usize = 16;

/// The state between two inputs; empty only while a receiver works on it.
#[derive(Debug, Default)]
pub(super) struct Partial {
    header: Gathered<HEADER_BYTES_MAX_CLIENT>,
    frame: Option<OpenFrame>,
    control: Gathered<CONTROL_BYTES_MAX>,
    message: Option<OpenMessage>,
}

/// A frame of which the header is known and payload is missing.
#[derive(Debug)]
pub(super) struct OpenFrame {
    pub(super) header: Header,
    pub(super) received_bytes: usize,
}

/// A data message of which a part was received.
#[derive(Debug)]
pub(super) struct OpenMessage {
    pub(super) kind: DataKind,
    pub(super) bytes: Vec<u8>,
    pub(super) fragments: u32,
    text: utf8::Progress,
    /// Where its bytes go if it is compressed.
    pub(super) inflating: Option<Box<Inflating>>,
}

/// What the bytes at hand did to the open frame.
#[derive(Debug)]
pub(super) enum Filled {
    /// It wants more.
    Wanting,
    /// It ended; its message has not.
    Frame,
    /// It ended, and was a control frame.
    Control(FrameKind, Vec<u8>),
    /// It ended, and so did its message.
    Message(DataKind, Vec<u8>),
}

/// What a receiver holds between two inputs.
pub(super) struct Held<'p> {
    pub(super) message: Option<&'p OpenMessage>,
    pub(super) frame: Option<&'p OpenFrame>,
    /// Payload of an open control frame.
    pub(super) control: &'p [u8],
    /// The beginning of a frame's header.
    pub(super) header: &'p [u8],
}

impl Partial {
    /// Whether there is nothing to hold.
    pub(super) fn is_empty(&self) -> bool {
        self.header.len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Everything that is held.
    pub(super) fn held(&self) -> Held<'_> {
        Held {
            message: self.message.as_ref(),
            frame: self.frame.as_ref(),
            control: self.control.held(),
            header: self.header.held(),
        }
    }

    /// Whether a frame waits for payload.
    pub(super) fn has_frame(&self) -> bool {
        self.frame.is_some()
    }

    /// The heap bytes behind this state, itself included.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + self.message.as_ref().map_or(0, |message| {
                let inflating = message.inflating.as_ref();
                message.bytes.capacity() + inflating.map_or(0, |one| one.heap_bytes())
            })
    }

    /// What the next header may say.
    pub(super) fn expect_frame(&self, limits: &Limits, rsv_allowed: u8) -> ExpectedFrame {
        let mut expected = expected_between_messages(limits, rsv_allowed);
        if let Some(message) = &self.message {
            let (most, held) = match &message.inflating {
                Some(inflating) => {
                    let most = frame::compressed_room(limits.message_bytes_max);
                    (most, inflating.received_bytes())
                }
                None => (limits.message_bytes_max, message.bytes.len()),
            };
            expected.continuation = true;
            expected.room_bytes = most.saturating_sub(held);
            expected.fragments_left = expected.fragments_left.saturating_sub(message.fragments);
        }
        expected
    }

    /// The header bytes gathered so far.
    pub(super) fn header_mut(&mut self) -> &mut Gathered<HEADER_BYTES_MAX_CLIENT> {
        &mut self.header
    }

    /// Opens the frame that `header` announces, and its message if it is the first of one.
    /// `context`: of the connection's own inflater, if it has one.
    pub(super) fn open_frame(&mut self, header: Header, context: Option<NonZeroU32>) {
        debug_assert!(self.frame.is_none() && self.header.len == 0);
        let first = match header.kind {
            FrameKind::Text => Some(DataKind::Text),
            FrameKind::Binary => Some(DataKind::Binary),
            FrameKind::Continuation | FrameKind::Close | FrameKind::Ping | FrameKind::Pong => None,
        };
        if let Some(kind) = first {
            debug_assert!(self.message.is_none());
            let inflating = header.compressed.then(|| Box::new(Inflating::new(kind, context)));
            self.message = Some(OpenMessage::new(kind, inflating));
        } else if let Some(message) = self.message.as_mut().filter(|_| !header.kind.is_control()) {
            message.fragments += 1;
        }
        self.frame = Some(OpenFrame { header, received_bytes: 0 });
    }

    /// Takes payload for the open frame out of the front of `input`.
    pub(super) fn fill_payload(
        &mut self,
        input: &mut &mut [u8],
        limits: &Limits,
        inflaters: Option<&mut Inflaters>,
    ) -> Result<Filled, ProtocolError> {
        let Some(frame) = &mut self.frame else { return Ok(Filled::Frame) };
        let header = frame.header;
        let missing = header.payload_len - frame.received_bytes;
        let count = missing.min(input.len());
        let (front, rest) = std::mem::take(input).split_at_mut(count);
        *input = rest;
        let phase = frame.received_bytes;
        frame.received_bytes += front.len();
        let ended = front.len() == missing;
        if ended {
            self.frame = None;
        }
        if header.kind.is_control() {
            mask::unmask(front, header.key, phase);
            self.control.push(front);
            if !ended {
                return Ok(Filled::Wanting);
            }
            return Ok(Filled::Control(header.kind, self.control.take().to_vec()));
        }
        let Some(message) = &mut self.message else { return Ok(Filled::Frame) };
        let mut last = ended && header.fin;
        if let (Some(inflating), Some(inflaters)) = (&mut message.inflating, inflaters) {
            mask::unmask(front, header.key, phase);
            inflating.feed_input(front, last, inflaters, limits.message_bytes_max)?;
            last = inflating.is_whole();
        } else {
            message.reserve_payload(missing, front.len(), limits.message_bytes_max);
            if mask::copy_unmask(&mut message.bytes, front, header.key, phase) {
                message.text.accept_ascii(&message.bytes, front.len());
            }
        }
        self.end_of_input(ended, last)
    }

    /// The open message, if it needs another allowance of its inflater rather than more input.
    fn suspended_inflation(&mut self) -> Option<&mut Inflating> {
        let inflating = self.message.as_mut()?.inflating.as_mut()?;
        inflating.is_suspended().then_some(inflating)
    }

    /// Whether the open message needs another allowance of its inflater rather than more input.
    pub(super) fn is_suspended(&self) -> bool {
        let inflating = self.message.as_ref().and_then(|message| message.inflating.as_ref());
        inflating.is_some_and(|inflating| inflating.is_suspended())
    }

    /// Holds a message whose frame has come whole and whose inflater needs another allowance.
    pub(super) fn hold_suspended(&mut self, kind: DataKind, inflating: Box<Inflating>) {
        debug_assert!(self.message.is_none() && self.frame.is_none());
        self.message = Some(OpenMessage::new(kind, Some(inflating)));
    }

    /// Continues the suspended message.
    pub(super) fn resume_inflation(
        &mut self,
        limits: &Limits,
        inflaters: Option<&mut Inflaters>,
    ) -> Result<Filled, ProtocolError> {
        let (Some(inflating), Some(inflaters)) = (self.suspended_inflation(), inflaters) else {
            return Ok(Filled::Wanting);
        };
        inflating.resume_inflation(inflaters, limits.message_bytes_max)?;
        let last = inflating.is_whole();
        self.end_of_input(false, last)
    }

    /// Gives back what the open message has leased.
    pub(super) fn let_go(&mut self, inflaters: &mut Inflaters) {
        let message = self.message.as_mut();
        if let Some(inflating) = message.and_then(|message| message.inflating.as_mut()) {
            inflating.let_go(inflaters);
        }
    }

    /// Checks the text received so far and says what the input ended.
    fn end_of_input(&mut self, frame: bool, last: bool) -> Result<Filled, ProtocolError> {
        let Some(message) = &mut self.message else { return Ok(Filled::Frame) };
        // What is inflated is checked there.
        if message.kind == DataKind::Text && message.inflating.is_none() {
            let so_far = message.text.check_text(&message.bytes);
            if !so_far || (last && !message.text.is_complete(&message.bytes)) {
                return Err(ProtocolError::TextNotUtf8);
            }
        }
        Ok(match self.message.take_if(|_| last) {
            Some(OpenMessage { kind, inflating: Some(inflating), .. }) => {
                Filled::Message(kind, inflating.into_bytes())
            }
            Some(message) => Filled::Message(message.kind, message.bytes),
            None if frame => Filled::Frame,
            None => Filled::Wanting,
        })
    }
}

/// What a header may say when no message is open.
#[inline]
pub(super) fn expected_between_messages(limits: &Limits, rsv_allowed: u8) -> ExpectedFrame {
    ExpectedFrame {
        continuation: false,
        room_bytes: limits.message_bytes_max,
        fragments_left: limits.fragments_max.max(1),
        rsv_allowed,
    }
}

impl OpenMessage {
    fn new(kind: DataKind, inflating: Option<Box<Inflating>>) -> Self {
        let text = utf8::Progress::default();
        Self { kind, bytes: Vec::new(), fragments: 1, text, inflating }
    }

    /// Makes room for `arrived` bytes, and ahead for what the frame still claims, in proportion to
    /// what is held. Grows at least by doubling, so that many small fragments cost O(n) in all, and
    /// never past the limit on a message.
    fn reserve_payload(&mut self, claimed: usize, arrived: usize, bytes_max: usize) {
        let held = self.bytes.len();
        if arrived == 0 || self.bytes.capacity() - held >= arrived {
            return;
        }
        let ahead = claimed.min(RESERVE_BYTES_MIN.max(held.saturating_mul(RESERVE_FACTOR)));
        let wanted = held.saturating_add(ahead).max(self.bytes.capacity().saturating_mul(2));
        let wanted = wanted.min(bytes_max).max(held + arrived);
        self.bytes.reserve_exact(wanted - held);
    }
}

/// A few bytes gathered from several inputs.
#[derive(Debug)]
pub(super) struct Gathered<const CAPACITY: usize> {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl<const CAPACITY: usize> Default for Gathered<CAPACITY> {
    fn default() -> Self {
        Self { bytes: [0; CAPACITY], len: 0 }
    }
}

impl<const CAPACITY: usize> Gathered<CAPACITY> {
    /// All there are.
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends as many of `more` as fit, and gives all there are then.
    pub(super) fn push(&mut self, more: &[u8]) -> &[u8] {
        let count = more.len().min(CAPACITY - self.len);
        self.bytes[self.len..self.len + count].copy_from_slice(&more[..count]);
        self.len += count;
        &self.bytes[..self.len]
    }

    /// Gives all there are and forgets them.
    pub(super) fn take(&mut self) -> &[u8] {
        let len = std::mem::take(&mut self.len);
        &self.bytes[..len]
    }
}

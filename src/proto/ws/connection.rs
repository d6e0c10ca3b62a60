//! The receiver of one connection: bytes in, events out.
//!
//! The common case is a small frame that lies whole in the input: one header parse, one unmasking
//! where it lies, one check for UTF-8, nothing held and nothing allocated. All else goes through
//! the box of `message`. A receiver ends at the first Close or violation; the rest is discarded.

use super::frame::{self, FrameKind, Header};
use super::message::{self, Filled, Partial};
use super::{DataKind, Event, Limits, Payload, ProtocolError, close, mask, utf8};

/// Turns what a client sends after the handshake into [`Event`]s.
///
/// Between messages it owns no heap. It never holds more than one message, whose memory is in
/// proportion to the bytes received of it, and at most [`Limits::message_bytes_max`].
#[derive(Debug, Default)]
pub struct Receiver {
    /// What spans inputs; exists only while there is something to hold.
    partial: Option<Box<Partial>>,
    /// A Close was received, or the protocol was broken.
    ended: bool,
}

// It sits in the slot of every connection.
const _: () = assert!(size_of::<Receiver>() <= 16);

impl Receiver {
    /// A receiver for a connection just upgraded.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event out of the front of `input`, which moves past what was consumed.
    ///
    /// `None`: all of `input` is consumed and more is needed; or the receiver has seen a Close or a
    /// violation, and discards everything.
    #[inline]
    pub fn next<'i>(&mut self, input: &mut &'i mut [u8], limits: &Limits) -> Option<Event<'i>> {
        if self.partial.is_some() || self.ended {
            return self.next_slowly(input, limits);
        }
        let header = frame::parse(input, &message::expected_between_messages(limits));
        let (header, kind) = match header {
            Ok(Some(header)) if header.fin && header.fits(input.len()) => match header.kind {
                FrameKind::Text => (header, DataKind::Text),
                FrameKind::Binary => (header, DataKind::Binary),
                _ => return self.next_slowly(input, limits),
            },
            _ => return self.next_slowly(input, limits),
        };
        let payload = take_payload(header, input);
        if kind == DataKind::Text && !utf8::is_valid(payload) {
            self.end();
            return Some(Event::Failed(ProtocolError::TextNotUtf8));
        }
        Some(Event::Message { kind, payload: Payload::Borrowed(payload) })
    }

    /// All that is not a message whole in the input.
    #[inline(never)]
    fn next_slowly<'i>(&mut self, input: &mut &'i mut [u8], limits: &Limits) -> Option<Event<'i>> {
        if self.ended {
            *input = &mut [];
            return None;
        }
        let event = match self.advance(input, limits) {
            Ok(event) => event?,
            Err(error) => Event::Failed(error),
        };
        if matches!(event, Event::Close(_) | Event::Failed(_)) {
            self.end();
        }
        Some(event)
    }

    fn end(&mut self) {
        self.ended = true;
        self.partial = None;
    }

    /// Whether nothing is held: no part of a frame, no part of a message.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// The heap bytes held, for accounting.
    pub fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.heap_bytes())
    }

    fn advance<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'i>>, ProtocolError> {
        loop {
            if self.has_frame() {
                match self.fill(input, limits)? {
                    Some(event) => return Ok(Some(event)),
                    None if self.has_frame() => return Ok(None),
                    None => {}
                }
            }
            let Some(header) = self.read_header(input, limits)? else { return Ok(None) };
            let whole_event = header.fin && header.kind != FrameKind::Continuation;
            if whole_event && header.payload_len <= input.len() {
                self.release();
                let header = Header { len: 0, ..header };
                return in_place(header.kind, take_payload(header, input)).map(Some);
            }
            self.partial.get_or_insert_default().open(header);
        }
    }

    fn has_frame(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.has_frame())
    }

    /// Feeds the open frame; gives the event that it ends.
    #[inline(never)]
    fn fill<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'i>>, ProtocolError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let event = match partial.fill(input, limits)? {
            Filled::Wanting | Filled::Frame => return Ok(None),
            Filled::Control(kind, bytes) => control(kind, Payload::Owned(bytes))?,
            Filled::Message(kind, bytes) => Event::Message { kind, payload: Payload::Owned(bytes) },
        };
        self.release();
        Ok(Some(event))
    }

    /// Takes a header out of the front of `input`; keeps the bytes of one that has not ended.
    fn read_header(
        &mut self,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<Option<Header>, ProtocolError> {
        let (expected, held) = match &mut self.partial {
            Some(partial) => (partial.expected(limits), partial.header_mut().len()),
            None => (message::expected_between_messages(limits), 0),
        };
        let header = match &mut self.partial {
            Some(partial) if held > 0 => frame::parse(partial.header_mut().push(input), &expected)?,
            _ => frame::parse(input, &expected)?,
        };
        match header {
            Some(header) => {
                if let Some(partial) = &mut self.partial {
                    partial.header_mut().take();
                }
                *input = &mut std::mem::take(input)[header.len - held..];
            }
            None if input.is_empty() => {}
            None => {
                // What was held has been joined with the input above.
                if held == 0 {
                    self.partial.get_or_insert_default().header_mut().push(input);
                }
                *input = &mut [];
            }
        }
        Ok(header)
    }

    /// Frees the box if nothing is in it.
    fn release(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.is_empty()) {
            self.partial = None;
        }
    }
}

/// Takes a frame off the front of `input`, which holds all of it, and unmasks its payload.
#[inline]
fn take_payload<'i>(header: Header, input: &mut &'i mut [u8]) -> &'i mut [u8] {
    let (frame, rest) = std::mem::take(input).split_at_mut(header.len + header.payload_len);
    *input = rest;
    let payload = &mut frame[header.len..];
    mask::unmask(payload, header.key, 0);
    payload
}

/// The event of a whole frame that is no continuation.
fn in_place(kind: FrameKind, payload: &mut [u8]) -> Result<Event<'_>, ProtocolError> {
    let kind = match kind {
        FrameKind::Text if utf8::is_valid(payload) => DataKind::Text,
        FrameKind::Text => return Err(ProtocolError::TextNotUtf8),
        FrameKind::Binary => DataKind::Binary,
        kind => return control(kind, Payload::Borrowed(payload)),
    };
    Ok(Event::Message { kind, payload: Payload::Borrowed(payload) })
}

/// The event of a whole control frame.
fn control(kind: FrameKind, payload: Payload<'_>) -> Result<Event<'_>, ProtocolError> {
    match kind {
        FrameKind::Ping => Ok(Event::Ping(payload)),
        FrameKind::Pong => Ok(Event::Pong(payload)),
        _ => close::check(payload).map(Event::Close),
    }
}

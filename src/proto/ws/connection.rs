//! The receiver of one connection: bytes in, events out.
//!
//! The common case is a small frame that lies whole in the input: one look at its header, one
//! unmasking where it lies, which also shows whether it is ASCII, nothing held and nothing
//! allocated ([`Receiver::next_plain`]). All else goes through the box of `message`. A receiver
//! ends at the first Close or violation; the rest is discarded.

use std::num::NonZeroU32;

use super::deflate::{Agreed, Deflaters, Inflaters, Sending, close_contexts};
use super::frame::{self, COMPRESSED, FrameKind, Header};
use super::message::{self, Filled, Partial};
use super::{DataKind, Limits, Payload, ProtocolError, WireEvent, close, mask, utf8};

/// Turns what a client sends after the handshake into [`WireEvent`]s.
///
/// Between messages it owns no heap. It never holds more than one message, whose memory is in
/// proportion to the bytes received of it, and at most [`Limits::message_bytes_max`].
#[derive(Debug, Default)]
pub struct Receiver {
    /// What spans inputs; exists only while there is something to hold.
    pub(super) partial: Option<Box<Partial>>,
    /// A Close was received, or the protocol was broken.
    pub(super) ended: bool,
    /// Frames were looked at without an event, as many as may be at once.
    yielded: bool,
    /// The reserved bit that a message may have: [`COMPRESSED`], if that was agreed on.
    rsv_allowed: u8,
    /// Window that we compress with; 0 = nothing was agreed on.
    pub(super) server_bits: u8,
    /// The connection's own contexts, if it has any.
    pub(super) context: Option<NonZeroU32>,
}

/// Frames of one message that are looked at in one call: a message may come in very many.
pub const FRAMES_AT_ONCE: u32 = 64;

// It sits in the slot of every connection.
const _: () = assert!(size_of::<Receiver>() <= 16);

impl Receiver {
    /// A receiver for a connection just upgraded, without compression.
    pub fn new() -> Self {
        Self::default()
    }

    /// A receiver for a connection just upgraded that has agreed on compression. `context`: of
    /// [`super::deflate::open_contexts`]; [`Self::let_go`] must be called at the end.
    pub fn compressed(agreed: Agreed, context: Option<NonZeroU32>) -> Self {
        let server_bits = agreed.server_bits;
        Self { rsv_allowed: COMPRESSED, server_bits, context, ..Self::default() }
    }

    /// How messages to this peer are compressed; `None`: they are not.
    #[inline]
    pub fn sending(&self) -> Option<Sending> {
        (self.server_bits > 0).then_some(Sending { bits: self.server_bits, context: self.context })
    }

    /// Gives back what a message in parts has leased, and closes the connection's own contexts.
    pub fn let_go(&mut self, inflaters: &mut Inflaters, deflaters: &mut Deflaters) {
        if let Some(partial) = &mut self.partial {
            partial.let_go(inflaters);
        }
        if let Some(context) = self.context.take() {
            close_contexts(context, inflaters, deflaters);
        }
    }

    /// [`Self::next_inflated`] for a connection without compression.
    #[inline]
    pub fn next<'i>(&mut self, input: &mut &'i mut [u8], limits: &Limits) -> Option<WireEvent<'i>> {
        debug_assert_eq!(self.rsv_allowed, 0, "compressed messages need inflaters");
        self.next_inflated(input, limits, None)
    }

    /// Takes the next event out of the front of `input`, which moves past what was consumed.
    ///
    /// `None`: all of `input` is consumed and more is needed; or the receiver has seen a Close or a
    /// violation, and discards everything; or it [`Self::is_suspended`] or [`Self::has_yielded`],
    /// and is to be called again with the same input. `inflaters` must be those that the receiver's
    /// contexts are of.
    #[inline]
    pub fn next_inflated<'i: 'e, 'e>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        inflaters: Option<&'e mut Inflaters>,
    ) -> Option<WireEvent<'e>> {
        match self.next_plain(input, limits) {
            Some(Ok((kind, payload))) => {
                Some(WireEvent::Message { kind, payload: Payload::Borrowed(payload) })
            }
            Some(Err(error)) => Some(WireEvent::Failed(error)),
            None => self.next_slowly(input, limits, inflaters),
        }
    }

    /// Takes a message out of the front of `input` if it lies there whole, in one uncompressed
    /// frame of up to 65,535 bytes. `None`: nothing was consumed; [`Self::next_inflated`] finds out
    /// what is there.
    ///
    /// # Errors
    /// A text is not UTF-8. The receiver has ended.
    #[expect(clippy::mut_mut, reason = "the input moves past what was consumed")]
    #[inline]
    pub fn next_plain<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Option<Result<(DataKind, &'i mut [u8]), ProtocolError>> {
        if self.partial.is_some() || self.ended {
            return None;
        }
        let header = frame::parse_plain(input, limits.message_bytes_max)?;
        let (frame, rest) = std::mem::take(input).split_at_mut(header.end);
        *input = rest;
        let payload = &mut frame[header.start..];
        let is_ascii = mask::unmask_whole(payload, header.key);
        if header.kind == DataKind::Text && !is_ascii && !utf8::is_valid(payload) {
            self.ended = true;
            return Some(Err(ProtocolError::TextNotUtf8));
        }
        Some(Ok((header.kind, payload)))
    }

    /// All that is not a plain message whole in the input.
    #[inline(never)]
    fn next_slowly<'i: 'e, 'e>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        mut inflaters: Option<&'e mut Inflaters>,
    ) -> Option<WireEvent<'e>> {
        if self.ended {
            *input = &mut [];
            return None;
        }
        let event = match self.advance_input(input, limits, inflaters.as_deref_mut()) {
            Ok(Some(Step::Event(event))) => event,
            Ok(Some(Step::Inflate(kind, payload))) => {
                match self.inflate_message(kind, payload, limits, inflaters.take()) {
                    Ok(Some(payload)) => WireEvent::Message { kind, payload },
                    Ok(None) => return None,
                    Err(error) => WireEvent::Failed(error),
                }
            }
            Ok(None) => return None,
            Err(error) => WireEvent::Failed(error),
        };
        if matches!(event, WireEvent::Close(_) | WireEvent::Failed(_)) {
            self.ended = true;
            if let (Some(mut partial), Some(inflaters)) = (self.partial.take(), inflaters) {
                partial.let_go(inflaters);
            }
        }
        Some(event)
    }

    /// Inflates a message that lies whole in the input; `None` if the allowance does not suffice.
    fn inflate_message<'e>(
        &mut self,
        kind: DataKind,
        payload: &[u8],
        limits: &Limits,
        inflaters: Option<&'e mut Inflaters>,
    ) -> Result<Option<Payload<'e>>, ProtocolError> {
        // The bit would have been refused.
        let inflaters = inflaters.ok_or(ProtocolError::ReservedBit)?;
        let bytes_max = limits.message_bytes_max;
        match inflaters.inflate_whole(payload, kind, self.context, bytes_max)? {
            Some(suspended) => {
                self.partial.get_or_insert_default().hold_suspended(kind, suspended);
                Ok(None)
            }
            None => Ok(Some(Payload::Inflated(inflaters.whole_message()))),
        }
    }

    /// Whether [`FRAMES_AT_ONCE`] frames have led to no event, and more may follow in the input.
    /// Only inflaters with an allowance make a receiver yield.
    pub fn has_yielded(&self) -> bool {
        self.yielded
    }

    /// Whether a message needs another allowance of the inflaters rather than more input.
    pub fn is_suspended(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.is_suspended())
    }

    /// Whether nothing is held: no part of a frame, no part of a message.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// The heap bytes held, for accounting.
    pub fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.heap_bytes())
    }

    fn advance_input<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        mut inflaters: Option<&mut Inflaters>,
    ) -> Result<Option<Step<'i>>, ProtocolError> {
        // An owner that bounds what is inflated at once wants its turn between frames as well.
        let is_bounded = inflaters.as_ref().is_some_and(|inflaters| inflaters.is_bounded());
        let frames_max = if is_bounded { FRAMES_AT_ONCE } else { u32::MAX };
        self.yielded = false;
        for _ in 0..frames_max {
            let suspended = self.is_suspended();
            if suspended || self.has_frame() {
                let event = if suspended {
                    self.resume_message(limits, inflaters.as_deref_mut())?
                } else {
                    self.feed_frame(input, limits, inflaters.as_deref_mut())?
                };
                match event {
                    Some(event) => return Ok(Some(Step::Event(event))),
                    None if self.is_suspended() => return Ok(None),
                    None if self.has_frame() && input.is_empty() => return Ok(None),
                    None if self.has_frame() => continue,
                    None => {}
                }
            }
            let Some(header) = self.read_header(input, limits)? else { return Ok(None) };
            let whole_event = header.fin && header.kind != FrameKind::Continuation;
            if whole_event && header.payload_len <= input.len() {
                self.free_partial();
                let payload = take_payload(Header { len: 0, ..header }, input);
                let step = match header.kind {
                    FrameKind::Text if header.compressed => Step::Inflate(DataKind::Text, payload),
                    _ if header.compressed => Step::Inflate(DataKind::Binary, payload),
                    kind => Step::Event(in_place(kind, payload)?),
                };
                return Ok(Some(step));
            }
            self.partial.get_or_insert_default().open_frame(header, self.context);
        }
        self.yielded = true;
        Ok(None)
    }

    fn has_frame(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.has_frame())
    }

    /// Continues a suspended message; gives the event that it ends.
    #[inline(never)]
    fn resume_message<'i>(
        &mut self,
        limits: &Limits,
        inflaters: Option<&mut Inflaters>,
    ) -> Result<Option<WireEvent<'i>>, ProtocolError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let filled = partial.resume_inflation(limits, inflaters)?;
        self.event_of(filled)
    }

    /// Feeds the open frame; gives the event that it ends.
    #[inline(never)]
    fn feed_frame<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
        inflaters: Option<&mut Inflaters>,
    ) -> Result<Option<WireEvent<'i>>, ProtocolError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        let filled = partial.fill_payload(input, limits, inflaters)?;
        self.event_of(filled)
    }

    fn event_of<'i>(&mut self, filled: Filled) -> Result<Option<WireEvent<'i>>, ProtocolError> {
        let event = match filled {
            Filled::Wanting | Filled::Frame => return Ok(None),
            Filled::Control(kind, bytes) => control_event(kind, Payload::Owned(bytes))?,
            Filled::Message(kind, bytes) => {
                WireEvent::Message { kind, payload: Payload::Owned(bytes) }
            }
        };
        self.free_partial();
        Ok(Some(event))
    }

    /// Takes a header out of the front of `input`; keeps the bytes of one that has not ended.
    fn read_header(
        &mut self,
        input: &mut &mut [u8],
        limits: &Limits,
    ) -> Result<Option<Header>, ProtocolError> {
        let (expected, held) = match &mut self.partial {
            Some(partial) => {
                (partial.expect_frame(limits, self.rsv_allowed), partial.header_mut().len())
            }
            None => (message::expected_between_messages(limits, self.rsv_allowed), 0),
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
    fn free_partial(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.is_empty()) {
            self.partial = None;
        }
    }
}

/// What a receiver comes to.
enum Step<'i> {
    Event(WireEvent<'i>),
    /// A compressed message lies whole in the input.
    Inflate(DataKind, &'i mut [u8]),
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
fn in_place(kind: FrameKind, payload: &mut [u8]) -> Result<WireEvent<'_>, ProtocolError> {
    let kind = match kind {
        FrameKind::Text if utf8::is_valid(payload) => DataKind::Text,
        FrameKind::Text => return Err(ProtocolError::TextNotUtf8),
        FrameKind::Binary => DataKind::Binary,
        kind => return control_event(kind, Payload::Borrowed(payload)),
    };
    Ok(WireEvent::Message { kind, payload: Payload::Borrowed(payload) })
}

/// The event of a whole control frame.
fn control_event(kind: FrameKind, payload: Payload<'_>) -> Result<WireEvent<'_>, ProtocolError> {
    match kind {
        FrameKind::Ping => Ok(WireEvent::Ping(payload)),
        FrameKind::Pong => Ok(WireEvent::Pong(payload)),
        _ => close::check_close(payload).map(WireEvent::Close),
    }
}

//! What a receiver holds, as the bytes that lead a new one there.
//!
//! So the state needs no format of its own: it is the protocol's, and as long as it is understood
//! a newer version can take over what an older one had read. Bytes of a message come as one
//! fragment, with empty ones behind it for those that were counted.

use super::deflate::Agreed;
use super::frame::{FrameKind, Header};
use super::message::{Held, OpenFrame};
use super::{DataKind, Limits, Receiver, mask};

/// A receiver as plain data.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct ReceiverState {
    /// What was received and is not a whole message yet.
    pub bytes: Vec<u8>,
    /// Window that we compress with, without contexts; 0 = nothing was agreed on.
    pub server_bits: u8,
    /// A Close or a violation was received.
    pub ended: bool,
}

/// Why a receiver cannot be serialized now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplayable {
    /// It has compression contexts of its own, which are the codec's.
    Contexts,
    /// A compressed message has come in part: it can be serialized once that has ended.
    Inflating,
}

fn put_frame(out: &mut Vec<u8>, opcode: u8, fin: bool, key: [u8; 4], len: usize, received: &[u8]) {
    out.push(u8::from(fin) << 7 | opcode);
    match len {
        0..126 => out.push(0x80 | len as u8),
        126..=0xffff => {
            out.push(0x80 | 0x7e);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 0x7f);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(received);
    mask::unmask(&mut out[start..], key, 0);
}

fn opcode(kind: FrameKind) -> u8 {
    match kind {
        FrameKind::Continuation => 0,
        FrameKind::Text => 1,
        FrameKind::Binary => 2,
        FrameKind::Close => 8,
        FrameKind::Ping => 9,
        FrameKind::Pong => 10,
    }
}

/// The bytes that lead to what is held; `None` in the middle of a compressed message. The payload
/// of an open data frame is the end of its message.
fn bytes_of(held: &Held<'_>) -> Option<Vec<u8>> {
    let Held { message, frame, control, header } = *held;
    let mut out = Vec::new();
    let data = frame.filter(|frame| !frame.header.kind.is_control());
    let mut received = control;
    if let Some(message) = message {
        if message.inflating.is_some() {
            return None;
        }
        let of_frame = data.map_or(0, |frame| frame.received_bytes);
        let (ended, open) = message.bytes.split_at(message.bytes.len() - of_frame);
        let is_first = data.is_some() && message.fragments == 1;
        if !is_first {
            let opcode = if message.kind == DataKind::Text { 1 } else { 2 };
            put_frame(&mut out, opcode, false, [0; 4], ended.len(), ended);
            for _ in 1 + u32::from(data.is_some())..message.fragments {
                put_frame(&mut out, 0, false, [0; 4], 0, &[]);
            }
        }
        if data.is_some() {
            received = open;
        }
    }
    if let Some(OpenFrame { header: Header { kind, fin, key, payload_len, .. }, .. }) = frame {
        put_frame(&mut out, opcode(*kind), *fin, *key, *payload_len, received);
    }
    out.extend_from_slice(header);
    Some(out)
}

impl Receiver {
    /// What it holds.
    ///
    /// # Errors
    /// Why it cannot be serialized now.
    pub fn serialize(&self) -> Result<ReceiverState, NotReplayable> {
        if self.context.is_some() {
            return Err(NotReplayable::Contexts);
        }
        let bytes = match &self.partial {
            None => Vec::new(),
            Some(partial) => bytes_of(&partial.held()).ok_or(NotReplayable::Inflating)?,
        };
        Ok(ReceiverState { bytes, server_bits: self.server_bits, ended: self.ended })
    }

    /// A receiver that continues where another one was, also with a message that was begun before a
    /// limit was lowered.
    pub fn restore(state: &ReceiverState) -> Self {
        // The longest message that can be configured, in as many fragments as there are.
        const ANY: Limits = Limits { message_bytes_max: 1 << 30, fragments_max: u32::MAX };
        let mut receiver = match state.server_bits {
            0 => Self::new(),
            server_bits => {
                let (server_takeover, client_takeover, client_bits) = (false, false, 15);
                let agreed = Agreed { server_takeover, client_takeover, server_bits, client_bits };
                Self::compressed(agreed, None)
            }
        };
        let mut bytes = state.bytes.clone();
        let event = receiver.next_inflated(&mut &mut bytes[..], &ANY, None);
        debug_assert!(event.is_none(), "what is held is no whole message: {event:?}");
        receiver.ended |= state.ended;
        receiver
    }
}

//! Frame headers (RFC 6455 5.2): strict reading of the client's, writing of the server's.
//!
//! Reading checks each byte's rules before it looks at the next byte. So a violation is known as
//! early as it can be, and a header that arrives in pieces fails exactly like one that arrives
//! whole. tungstenite's reader is not used: it waits for a whole header, drops the form of the
//! length that the rules are about, and takes 7 ns by itself, where a 20-byte text is read,
//! judged, unmasked, checked and handed out here in 11.5 ns. Its names of opcodes and close codes
//! are.

use super::{DataKind, ProtocolError};
use tungstenite::protocol::frame::coding::OpCode;

/// The longest header that a client sends, in bytes: 2, 8 of length, 4 of mask.
pub const HEADER_BYTES_MAX_CLIENT: usize = 14;
/// The longest header that a server sends, in bytes: 2 and 8 of length, no mask.
pub const HEADER_BYTES_MAX_SERVER: usize = 10;
/// The longest payload of a control frame, in bytes (RFC 6455 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
/// Of the first frame of a message: it is compressed (RFC 7692 6).
pub(super) const COMPRESSED: u8 = 0x40;
const MASKED: u8 = 0x80;

/// What a client's frame is, its opcode having been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl FrameKind {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A client's frame header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: FrameKind,
    pub(super) fin: bool,
    /// The first frame of a compressed message.
    pub(super) compressed: bool,
    pub(super) key: [u8; 4],
    /// The claimed length of the payload, at most the room it was read with.
    pub(super) payload_len: usize,
    /// The bytes that the header itself takes.
    pub(super) len: usize,
}

/// What the open message leaves to the next frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedFrame {
    /// Whether a message is open, so that data must be a continuation.
    pub(super) continuation: bool,
    /// The payload bytes that the next data frame may have.
    pub(super) room_bytes: usize,
    /// The data frames that may still come.
    pub(super) fragments_left: u32,
    /// The reserved bit that the first frame of a message may have: [`COMPRESSED`] or none.
    pub(super) rsv_allowed: u8,
}

/// Reads the header at the front of `bytes`; `None` if it has not ended.
#[inline]
pub(super) fn parse(
    bytes: &[u8],
    expected: &ExpectedFrame,
) -> Result<Option<Header>, ProtocolError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let fin = first & FIN != 0;
    let kind = check_first(first, fin, expected)?;
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    // RFC 6455 5.1: a server must fail the connection on a frame that is not masked.
    if second & MASKED == 0 {
        return Err(ProtocolError::MissingMask);
    }
    let short = usize::from(second & !MASKED);
    if kind.is_control() && short > CONTROL_BYTES_MAX {
        return Err(ProtocolError::ControlTooLong);
    }
    let (payload_len, mask_at) = match short {
        126 => match bytes.get(2..4) {
            Some(word) => (long_length(u64::from(be16(word)), 126)?, 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(word) => (long_length(be64(word), 0x1_0000)?, 10),
            None => return partial_long_length(bytes),
        },
        _ => (short as u64, 2),
    };
    let compressed = first & COMPRESSED != 0;
    if !kind.is_control() && payload_len > expected.room_bytes as u64 {
        let room = if compressed { compressed_room(expected.room_bytes) } else { 0 };
        if payload_len > room as u64 {
            return Err(ProtocolError::MessageTooBig);
        }
    }
    let Some(key) = bytes[mask_at..].first_chunk::<4>() else { return Ok(None) };
    let payload_len = payload_len as usize;
    Ok(Some(Header { kind, fin, compressed, key: *key, payload_len, len: mask_at + 4 }))
}

/// Where the payload of a plain message lies: a data message that is one uncompressed frame, with
/// a header in its shortest form for up to 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainHeader {
    pub(super) kind: DataKind,
    pub(super) key: [u8; 4],
    /// Where the payload begins.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
}

/// Reads the header of a plain message that lies whole at the front of `bytes`; `None`: whatever
/// else it is, [`parse`] reads it. Measured for a message of 20 bytes: 15 instructions, [`parse`]
/// takes 69.
#[inline]
pub(super) fn parse_plain(bytes: &[u8], payload_bytes_max: usize) -> Option<PlainHeader> {
    let [first, second, ..] = *bytes.first_chunk::<6>()?;
    let kind = match first {
        0x81 => DataKind::Text,
        0x82 => DataKind::Binary,
        _ => return None,
    };
    let (len, start) = match second {
        0x80..=0xfd => (usize::from(second & !MASKED), 6),
        0xfe => (usize::from(be16(bytes.get(2..4)?)), 8),
        _ => return None,
    };
    let is_minimal = start == 6 || len >= 126;
    if !is_minimal || len > payload_bytes_max || bytes.len() < start + len {
        return None;
    }
    let key = *bytes[start - 4..].first_chunk::<4>()?;
    Some(PlainHeader { kind, key, start, end: start + len })
}

/// The rules of the first byte: reserved bits, opcode, FIN of controls, place in the message.
#[inline]
fn check_first(first: u8, fin: bool, expected: &ExpectedFrame) -> Result<FrameKind, ProtocolError> {
    let reserved = first & RSV;
    if reserved != 0 && (reserved != expected.rsv_allowed || !matches!(first & 0x0f, 1 | 2)) {
        return Err(ProtocolError::ReservedBit);
    }
    let kind = match first & 0x0f {
        0 => FrameKind::Continuation,
        1 => FrameKind::Text,
        2 => FrameKind::Binary,
        8 => FrameKind::Close,
        9 => FrameKind::Ping,
        10 => FrameKind::Pong,
        _ => return Err(ProtocolError::ReservedOpcode),
    };
    if kind.is_control() {
        return if fin { Ok(kind) } else { Err(ProtocolError::FragmentedControl) };
    }
    match (kind == FrameKind::Continuation, expected.continuation) {
        (true, false) => Err(ProtocolError::UnexpectedContinuation),
        (false, true) => Err(ProtocolError::ExpectedContinuation),
        _ if expected.fragments_left == 0 => Err(ProtocolError::TooManyFragments),
        _ => Ok(kind),
    }
}

/// The compressed bytes of a message that inflates to so many: DEFLATE makes what cannot be
/// compressed a little larger, and each flush of a sender that streams adds five bytes.
pub(super) fn compressed_room(bytes: usize) -> usize {
    bytes + bytes / 8 + 64
}

/// RFC 6455 5.2: the shortest form is mandatory, and the top bit of 64 must be clear.
#[inline]
fn long_length(length: u64, least: u64) -> Result<u64, ProtocolError> {
    if length >> 63 != 0 {
        Err(ProtocolError::LengthTopBit)
    } else if length < least {
        Err(ProtocolError::LengthNotMinimal)
    } else {
        Ok(length)
    }
}

/// A 64-bit length of which bytes are missing: only its top bit can be judged.
fn partial_long_length(bytes: &[u8]) -> Result<Option<Header>, ProtocolError> {
    match bytes.get(2) {
        Some(byte) if byte & 0x80 != 0 => Err(ProtocolError::LengthTopBit),
        _ => Ok(None),
    }
}

fn be16(word: &[u8]) -> u16 {
    u16::from_be_bytes([word[0], word[1]])
}

fn be64(word: &[u8]) -> u64 {
    word.iter().fold(0, |length, &byte| length << 8 | u64::from(byte))
}

/// The header of a server's frame: FIN set, reserved bits clear, no mask (RFC 6455 5.2).
///
/// Gives the bytes and how many of them count. `payload_len` is in bytes and takes its shortest
/// form.
#[inline]
pub fn frame_header(opcode: OpCode, payload_len: usize) -> ([u8; HEADER_BYTES_MAX_SERVER], usize) {
    let mut bytes = [0; HEADER_BYTES_MAX_SERVER];
    bytes[0] = FIN | (u8::from(opcode) & 0x0f);
    let len = match payload_len {
        0..126 => {
            bytes[1] = payload_len as u8;
            2
        }
        126..0x1_0000 => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    (bytes, len)
}

/// The header of a frame that is a whole compressed message (RFC 7692 6); otherwise as
/// [`frame_header`].
#[inline]
pub fn compressed_frame_header(
    kind: DataKind,
    payload_len: usize,
) -> ([u8; HEADER_BYTES_MAX_SERVER], usize) {
    let (mut bytes, len) = frame_header(kind.opcode(), payload_len);
    bytes[0] |= COMPRESSED;
    (bytes, len)
}

/// Appends an uncompressed message to `out`, as one frame.
#[inline]
pub fn append_message(out: &mut Vec<u8>, kind: DataKind, payload: &[u8]) {
    let opcode = match kind {
        DataKind::Text => 1,
        DataKind::Binary => 2,
    };
    match payload.len() {
        len @ 0..126 => out.extend_from_slice(&[FIN | opcode, len as u8]),
        _ => {
            let (header, len) = frame_header(kind.opcode(), payload.len());
            out.extend_from_slice(&header[..len]);
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a whole server frame to `out`. A control frame's payload must be at most 125 bytes.
#[inline]
pub fn append_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    debug_assert!(
        !matches!(opcode, OpCode::Control(_)) || payload.len() <= CONTROL_BYTES_MAX,
        "control frame of {} bytes",
        payload.len()
    );
    let (header, len) = frame_header(opcode, payload.len());
    out.reserve(len + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(payload);
}

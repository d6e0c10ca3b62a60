//! Close frames (RFC 6455 5.5.1, 7.4): checking the peer's, writing ours.

use super::frame::CONTROL_BYTES_MAX;
use super::{CloseFrame, Payload, ProtocolError, append_frame};
use std::borrow::Cow;
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

/// The longest reason of a Close, in bytes: a control payload less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Checks an unmasked Close payload and takes it apart.
pub(super) fn check(payload: Payload<'_>) -> Result<Option<CloseFrame<'_>>, ProtocolError> {
    let code = match *payload.as_slice() {
        [] => return Ok(None),
        [_] => return Err(ProtocolError::CloseTooShort),
        [high, low, ..] => u16::from_be_bytes([high, low]),
    };
    if !is_allowed(code) {
        return Err(ProtocolError::CloseCode);
    }
    let reason = match payload {
        Payload::Borrowed(bytes) | Payload::Inflated(bytes) => {
            std::str::from_utf8(&bytes[2..]).map(Cow::Borrowed)
        }
        Payload::Owned(bytes) => std::str::from_utf8(&bytes[2..]).map(|r| Cow::Owned(r.into())),
    };
    match reason {
        Ok(reason) => Ok(Some(CloseFrame { code, reason })),
        Err(_) => Err(ProtocolError::CloseReasonNotUtf8),
    }
}

/// Whether a close code may appear on the wire: those that RFC 6455 7.4.1 defines for it, those
/// that IANA registered since (1012 to 1014), and the ranges for libraries and applications
/// (7.4.2).
fn is_allowed(code: u16) -> bool {
    // 1014 "bad gateway" is registered, but unknown to tungstenite.
    code == 1014 || CloseCode::from(code).is_allowed()
}

/// Appends a Close with `code` and `reason` to `out`; the reason is cut to 123 bytes between two
/// characters (RFC 6455 5.5).
pub fn append_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    debug_assert!(is_allowed(code), "close code {code} may not be sent");
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    append_frame(out, OpCode::Control(Control::Close), &payload[..2 + reason.len()]);
}

/// The code with which a received Close is answered: its own (RFC 6455 5.5.1), and 1000 if it gave
/// none.
pub fn reply_code(received: Option<u16>) -> u16 {
    received.filter(|&code| is_allowed(code)).unwrap_or(1000)
}

//! Close frames (RFC 6455 5.5.1, 7.4): checking the peer's, writing ours.

use std::borrow::Cow;

use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::frame::CONTROL_BYTES_MAX;
use super::{CloseCode, CloseFrame, Payload, ProtocolError, append_frame};

/// The longest reason of a Close, in bytes: a control payload less the code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Checks an unmasked Close payload and takes it apart.
pub(super) fn check_close(payload: Payload<'_>) -> Result<Option<CloseFrame<'_>>, ProtocolError> {
    let code = match *payload.as_slice() {
        [] => return Ok(None),
        [_] => return Err(ProtocolError::CloseTooShort),
        [high, low, ..] => CloseCode::new(u16::from_be_bytes([high, low])),
    };
    if !code.is_sendable() {
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

/// Appends a Close with `code` and `reason` to `out`; the reason is cut to 123 bytes between two
/// characters (RFC 6455 5.5).
pub fn append_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    debug_assert!(code.is_sendable(), "close code {code} may not be sent");
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let mut payload = [0; CONTROL_BYTES_MAX];
    payload[..2].copy_from_slice(&code.get().to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    append_frame(out, OpCode::Control(Control::Close), &payload[..2 + reason.len()]);
}

/// The code with which a received Close is answered: its own (RFC 6455 5.5.1), and 1000 if it gave
/// none.
pub fn reply_code(received: Option<CloseCode>) -> CloseCode {
    received.filter(|code| code.is_sendable()).unwrap_or(CloseCode::NORMAL)
}

//! What a peer can do wrong after the handshake, as a closed list.
//!
//! Each kind knows its close code (RFC 6455 7.4.1), the reason sent along with
//! it, and the name under which it is counted.

use super::CloseCode;
use std::fmt;

/// A violation of RFC 6455 or of a limit by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolError {
    /// A reserved bit that no extension agreed on gives a meaning here (5.2).
    ReservedBit,
    /// An opcode that RFC 6455 leaves undefined (5.2).
    ReservedOpcode,
    /// A control frame without FIN (5.5).
    FragmentedControl,
    /// A control frame with more than 125 bytes of payload (5.5).
    ControlTooLong,
    /// A frame from a client without a mask (5.1).
    MissingMask,
    /// A length not in its shortest form (5.2).
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (5.2).
    LengthTopBit,
    /// A continuation frame when no message is open (5.4).
    UnexpectedContinuation,
    /// A new message before the open one ended (5.4).
    ExpectedContinuation,
    /// A message over the limit of bytes.
    MessageTooBig,
    /// A message in more frames than the limit.
    TooManyFragments,
    /// Text that is not UTF-8 (8.1).
    TextNotUtf8,
    /// A Close with a payload of one byte (5.5.1).
    CloseTooShort,
    /// A close code that may not appear on the wire (7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (5.5.1).
    CloseReasonNotUtf8,
    /// A compressed message that is not whole blocks of DEFLATE (RFC 7692 7.2.2).
    InflateFailed,
    /// A compressed message that gets larger by more than the limit.
    InflateRatio,
}

impl ProtocolError {
    /// Every kind, in the order of [`Self::index`].
    pub const ALL: [Self; 17] = [
        Self::ReservedBit,
        Self::ReservedOpcode,
        Self::FragmentedControl,
        Self::ControlTooLong,
        Self::MissingMask,
        Self::LengthNotMinimal,
        Self::LengthTopBit,
        Self::UnexpectedContinuation,
        Self::ExpectedContinuation,
        Self::MessageTooBig,
        Self::TooManyFragments,
        Self::TextNotUtf8,
        Self::CloseTooShort,
        Self::CloseCode,
        Self::CloseReasonNotUtf8,
        Self::InflateFailed,
        Self::InflateRatio,
    ];

    /// The place of this kind in [`Self::ALL`], for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The status code of the Close that answers it (RFC 6455 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            // What cannot be inflated is not consistent with what it claims to be.
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 | Self::InflateFailed => {
                CloseCode::INVALID_PAYLOAD
            }
            Self::TooManyFragments => CloseCode::POLICY_VIOLATION,
            Self::MessageTooBig | Self::InflateRatio => CloseCode::MESSAGE_TOO_BIG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The reason of the Close that answers it: what was refused, in at most 123 bytes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ReservedBit => {
                "reserved bit set, but no extension that was agreed on allows it here"
            }
            Self::ReservedOpcode => "reserved opcode",
            Self::FragmentedControl => "control frame without FIN: it must not be fragmented",
            Self::ControlTooLong => "control frame with more than 125 bytes of payload",
            Self::MissingMask => "frame without mask: clients must mask every frame",
            Self::LengthNotMinimal => "payload length not in its shortest form",
            Self::LengthTopBit => "64-bit payload length with its top bit set",
            Self::UnexpectedContinuation => "continuation frame, but no message is open",
            Self::ExpectedContinuation => "new message before the open one ended",
            Self::MessageTooBig => "message larger than this server allows",
            Self::TooManyFragments => "message in more fragments than this server allows",
            Self::TextNotUtf8 => "text message is not valid UTF-8",
            Self::CloseTooShort => "close frame with a payload of one byte: a code has two",
            Self::CloseCode => "close code that may not be sent",
            Self::CloseReasonNotUtf8 => "close reason is not valid UTF-8",
            Self::InflateFailed => "compressed message cannot be inflated",
            Self::InflateRatio => "compressed message inflates to more times its size than allowed",
        }
    }

    /// The name under which it is counted: lower case, words joined by `_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReservedBit => "reserved_bit",
            Self::ReservedOpcode => "reserved_opcode",
            Self::FragmentedControl => "fragmented_control",
            Self::ControlTooLong => "control_too_long",
            Self::MissingMask => "missing_mask",
            Self::LengthNotMinimal => "length_not_minimal",
            Self::LengthTopBit => "length_top_bit",
            Self::UnexpectedContinuation => "unexpected_continuation",
            Self::ExpectedContinuation => "expected_continuation",
            Self::MessageTooBig => "message_too_big",
            Self::TooManyFragments => "too_many_fragments",
            Self::TextNotUtf8 => "text_not_utf8",
            Self::CloseTooShort => "close_too_short",
            Self::CloseCode => "close_code",
            Self::CloseReasonNotUtf8 => "close_reason_not_utf8",
            Self::InflateFailed => "inflate_failed",
            Self::InflateRatio => "inflate_ratio",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ProtocolError {}

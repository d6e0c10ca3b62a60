//! WebSocket frames and messages (RFC 6455 sections 5 to 8), the server's side, without IO.
//!
//! In: [`Receiver::next`] takes received bytes and gives [`WireEvent`]s. A message that lies whole
//! in the input is unmasked where it lies and borrowed; only what spans inputs is copied. Out:
//! [`append_frame`] and [`append_close`] write whole frames, [`frame_header`] writes a header for
//! a payload that is sent from where it is.
//!
//! Files, in the order of the bytes: `frame` (headers), `mask`, `utf8`, `message` (what spans
//! inputs), `close`, `connection` (the receiver), `error`; `deflate` (compression, RFC 7692).

// The input moves past what was consumed, and what is lent from it outlives the call.
#![allow(clippy::mut_mut)]

mod close;
mod close_code;
mod connection;
pub mod deflate;
mod error;
mod frame;
pub mod mask;
mod message;
mod replay;
pub mod utf8;

use std::borrow::Cow;

pub use close::{CLOSE_REASON_BYTES_MAX, append_close, reply_code};
pub use close_code::CloseCode;
pub use connection::{FRAMES_AT_ONCE, Receiver};
pub use error::ProtocolError;
pub use frame::{
    HEADER_BYTES_MAX_CLIENT, HEADER_BYTES_MAX_SERVER, append_frame, append_message,
    compressed_frame_header, frame_header,
};
pub use replay::{NotReplayable, ReceiverState};
/// The names of opcodes (RFC 6455 5.2), for those who send frames.
pub use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Limits of one message, whichever side sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message, in bytes of payload over all its fragments. A longer one is refused
    /// with 1009 at the header that claims it, before its payload is stored; a compressed one when
    /// it has been inflated so far.
    pub message_bytes_max: usize,
    /// The most frames that one message may come in; more are refused with 1008. At least 1 counts.
    pub fragments_max: u32,
}

/// The two kinds of data message (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// UTF-8; checked before the message is handed out.
    Text,
    /// Any bytes.
    Binary,
}

impl DataKind {
    /// The opcode that carries this kind.
    pub fn opcode(self) -> OpCode {
        OpCode::Data(match self {
            Self::Text => Data::Text,
            Self::Binary => Data::Binary,
        })
    }
}

/// The unmasked payload of a message or control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// It lay whole in the input and is lent from there.
    Borrowed(&'a mut [u8]),
    /// It was inflated, and lies in memory that the next message is inflated into.
    Inflated(&'a mut [u8]),
    /// It came in parts and was put together.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) | Self::Inflated(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes as a vector of the caller's; copies what is borrowed.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Borrowed(bytes) | Self::Inflated(bytes) => bytes.to_vec(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The payload of a received Close, checked (RFC 6455 5.5.1, 7.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The status code; always one that may appear on the wire.
    pub code: CloseCode,
    /// The reason, at most 123 bytes; may be empty.
    pub reason: Cow<'a, str>,
}

/// What the received bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub enum WireEvent<'a> {
    /// A whole data message, however many frames it came in.
    Message {
        /// Text or binary.
        kind: DataKind,
        /// What it says.
        payload: Payload<'a>,
    },
    /// A ping; answer with a pong of the same payload (RFC 6455 5.5.2).
    Ping(Payload<'a>),
    /// A pong, asked for or not (RFC 6455 5.5.3).
    Pong(Payload<'a>),
    /// A Close; `None` if it carried no code. Nothing the peer sends after it is looked at.
    Close(Option<CloseFrame<'a>>),
    /// The peer broke the protocol or a limit: send a Close with the error's code, then close.
    /// Nothing the peer sends after it is looked at.
    Failed(ProtocolError),
}

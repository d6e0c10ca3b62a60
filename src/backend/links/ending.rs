//! Why links end, and why none could be made: for the log, and for the peer.

use std::fmt;
use std::time::Duration;

use tungstenite::Error;
use tungstenite::error::{ProtocolError, SubProtocolError};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::link::{CLOSE_REASON_BYTES_MAX, LINK_SUBPROTOCOL};

/// Why a link has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// The application has closed it.
    Closed { code: Option<u16>, reason: String },
    /// The connection broke.
    Broken(String),
    /// Nothing arrived for this long.
    Silent(Duration),
    /// The application has sent something wrong.
    Wrong(&'static str),
    /// A message was too long.
    TooLong,
    /// It has drained, and has no sessions.
    Drained,
    /// This process is ending.
    Finished,
}

impl LinkEnd {
    /// Reads an error of the socket.
    pub(super) fn from_error(error: &Error) -> Self {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => {
                Self::Closed { code: None, reason: String::new() }
            }
            Error::Capacity(_) => Self::TooLong,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Broken("it was closed without a WebSocket close".into())
            }
            Error::Io(error) => Self::Broken(error.to_string()),
            error => Self::Broken(error.to_string()),
        }
    }

    /// Returns whether it ended as planned.
    pub(super) fn is_planned(&self) -> bool {
        matches!(self, Self::Drained | Self::Finished)
    }

    /// Returns the close to send; `None` if there is no use in sending one.
    pub(super) fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Closed { .. } | Self::Broken(_) => return None,
            Self::Silent(_) => (CloseCode::Away, "nothing has arrived for too long"),
            Self::Wrong(reason) => (CloseCode::Protocol, *reason),
            Self::TooLong => (CloseCode::Size, "a message is too long"),
            Self::Drained => (CloseCode::Normal, "drained"),
            Self::Finished => (CloseCode::Away, "the node has ended"),
        };
        let reason = reason.get(..CLOSE_REASON_BYTES_MAX).unwrap_or(reason);
        Some(CloseFrame { code, reason: reason.into() })
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: None, .. } => f.write_str("the application has closed it"),
            Self::Closed { code: Some(code), reason } => {
                write!(f, "the application has closed it with {code} {reason:?}")
            }
            Self::Broken(error) => write!(f, "it broke: {error}"),
            Self::Silent(time) => write!(
                f,
                "nothing has arrived for {} ms: the application hangs or cannot be reached \
                 (backend.link_timeout_ms)",
                time.as_millis()
            ),
            Self::Wrong(reason) => {
                write!(
                    f,
                    "the application violates the format of links (src/link/LINK.md): {reason}"
                )
            }
            Self::TooLong => {
                f.write_str("a message is longer than limits.message_bytes_max allows")
            }
            Self::Drained => f.write_str("it has drained"),
            Self::Finished => f.write_str("this process is ending"),
        }
    }
}

/// Describes why a WebSocket could not be opened, with a remedy.
pub(super) fn describe_refusal(error: &Error) -> String {
    match error {
        Error::Http(response) => {
            let status = response.status();
            let remedy = match status.as_u16() {
                300..=399 => "redirects are not followed; write the final address in links",
                401 | 403 => "it rejects the node; compare its token with link_token_file",
                404 | 405 => "there is no endpoint for links; correct the path in links",
                503 => "it takes no links now, perhaps because it is draining",
                _ => "it does not open a WebSocket there; correct links",
            };
            format!("status {status}: {remedy}")
        }
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(error)) => match error {
            SubProtocolError::NoSubProtocol => format!(
                "the endpoint does not speak {LINK_SUBPROTOCOL}: it must choose this subprotocol, \
                 or links must name another endpoint"
            ),
            error => format!("the endpoint must choose {LINK_SUBPROTOCOL}: {error}"),
        },
        Error::Protocol(error) => {
            format!("the endpoint does not speak WebSocket; correct links ({error})")
        }
        Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

//! Why a connection was lost.

use std::fmt;

use crate::client::Stage;
use crate::upgrade::UpgradeError;
use crate::wire::WireError;

/// Why a connection was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An operation failed with this errno.
    System(&'static str, i32),
    /// The server ended the connection without a closing handshake.
    Ended(Stage),
    /// The server closed with this code, uninvited.
    ClosedByServer(Option<u16>),
    Refused(UpgradeError),
    /// The handshake or a record of TLS failed.
    Tls(String),
    Wire(WireError),
    /// An echo differs from its message.
    Corrupt(String),
    /// No bytes arrived for longer than `--timeout` in this stage.
    TimedOut(Stage),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(doing, errno) => {
                write!(out, "{doing}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Ended(stage) => write!(out, "the server ended the connection ({stage:?})"),
            Self::ClosedByServer(Some(code)) => write!(out, "the server closed with {code}"),
            Self::ClosedByServer(None) => out.write_str("the server closed without a code"),
            Self::Refused(error) => error.fmt(out),
            Self::Tls(error) => write!(out, "TLS: {error}"),
            Self::Wire(error) => write!(out, "RFC 6455 violation: {error}"),
            Self::Corrupt(text) => out.write_str(text),
            Self::TimedOut(stage) => write!(out, "timed out ({stage:?})"),
        }
    }
}

impl Fault {
    /// How the server ended the connection, in words common to many connections.
    pub fn ending(&self) -> String {
        match self {
            Self::ClosedByServer(Some(code)) => format!("closed with {code}"),
            Self::ClosedByServer(None) => "closed without a code".to_owned(),
            Self::System(_, libc::ECONNRESET | libc::EPIPE) => "reset".to_owned(),
            Self::Ended(_) => "ended without a Close".to_owned(),
            other => other.to_string(),
        }
    }
}

//! Close codes: those of RFC 6455 7.4 and the IANA registry, and Seawall's own.

use std::fmt;

use serde::{Deserialize, Serialize};
use tungstenite::protocol::frame::coding::CloseCode as Registered;

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct CloseCode(u16);

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    /// The server drains, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A binary message, where text is expected.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// The Close had no code. Never sent.
    pub const NO_STATUS: Self = Self(1005);
    /// The connection ended without a Close. Never sent.
    pub const ABNORMAL: Self = Self(1006);
    pub const INVALID_PAYLOAD: Self = Self(1007);
    pub const POLICY_VIOLATION: Self = Self(1008);
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    pub const INTERNAL_ERROR: Self = Self(1011);
    pub const SERVICE_RESTART: Self = Self(1012);
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    pub const BAD_GATEWAY: Self = Self(1014);
    /// A token is missing or invalid.
    pub const UNAUTHORIZED: Self = Self(4401);
    /// The backend disconnected the client.
    pub const DISCONNECTED: Self = Self(4403);
    /// No token came within the time for it.
    pub const AUTHENTICATION_TIMEOUT: Self = Self(4408);
    /// Another connection continues this one.
    pub const REPLACED: Self = Self(4409);
    /// The token has expired, or the connection has reached its age limit.
    pub const EXPIRED: Self = Self(4410);
    /// The client reads more slowly than messages come.
    pub const SLOW_CONSUMER: Self = Self(4413);
    /// A rate or the number of connections is exceeded.
    pub const RATE_LIMITED: Self = Self(4429);

    /// Every code that has a name here, in ascending order.
    pub const NAMED: [Self; 21] = [
        Self::NORMAL,
        Self::GOING_AWAY,
        Self::PROTOCOL_ERROR,
        Self::UNSUPPORTED_DATA,
        Self::NO_STATUS,
        Self::ABNORMAL,
        Self::INVALID_PAYLOAD,
        Self::POLICY_VIOLATION,
        Self::MESSAGE_TOO_BIG,
        Self::MANDATORY_EXTENSION,
        Self::INTERNAL_ERROR,
        Self::SERVICE_RESTART,
        Self::TRY_AGAIN_LATER,
        Self::BAD_GATEWAY,
        Self::UNAUTHORIZED,
        Self::DISCONNECTED,
        Self::AUTHENTICATION_TIMEOUT,
        Self::REPLACED,
        Self::EXPIRED,
        Self::SLOW_CONSUMER,
        Self::RATE_LIMITED,
    ];

    pub const fn new(code: u16) -> Self {
        Self(code)
    }

    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether the code may appear on the wire: those that RFC 6455 7.4.1 defines for it, those
    /// that IANA registered since (1012 to 1014), and the ranges for libraries and applications
    /// (7.4.2).
    pub fn is_sendable(self) -> bool {
        // tungstenite does not know 1014.
        self == Self::BAD_GATEWAY || Registered::from(self.0).is_allowed()
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_for_a_missing_close_are_never_sent() {
        let unsendable: Vec<u16> = CloseCode::NAMED
            .iter()
            .filter(|code| !code.is_sendable())
            .map(|code| code.get())
            .collect();
        assert_eq!(unsendable, [1005, 1006]);
        assert!(CloseCode::NAMED.is_sorted());
        for code in [0, 999, 1004, 1015, 2999, 5000] {
            assert!(!CloseCode::new(code).is_sendable(), "{code}");
        }
        assert!(CloseCode::new(3000).is_sendable() && CloseCode::new(4999).is_sendable());
    }
}

//! Why requests are refused, as a closed list: each with its status, and the name it is counted
//! under.

/// A reason to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It breaks RFC 9112 or the handshake of RFC 6455 (400). A version of HTTP other than 1.1 is
    /// answered like this too: 505 would invite another version, and there is none.
    BadRequest,
    /// Its token is not valid (401).
    Unauthorized,
    /// Its Origin may not use this route (403).
    Forbidden,
    /// No route has its path (404).
    NotFound,
    /// A method that the resource does not have (405).
    MethodNotAllowed,
    /// It did not end in time (408).
    Timeout,
    /// Its target is too long (414).
    UriTooLong,
    /// It does not ask for a WebSocket of version 13 on a route that is nothing else (426).
    UpgradeRequired,
    /// Who sends it asks for too much (429, RFC 6585 4).
    TooManyRequests,
    /// Its head has too many bytes or fields (431).
    HeadTooLarge,
    /// The server drains or is full (503).
    Unavailable,
}

impl Refusal {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::UriTooLong,
        Self::UpgradeRequired,
        Self::TooManyRequests,
        Self::HeadTooLarge,
        Self::Unavailable,
    ];

    /// The place of this reason in [`Self::ALL`], for tables of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The HTTP status (RFC 9110 15, RFC 6585 5 for 431).
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::UriTooLong => 414,
            Self::UpgradeRequired => 426,
            Self::TooManyRequests => 429,
            Self::HeadTooLarge => 431,
            Self::Unavailable => 503,
        }
    }

    /// The name in JSON bodies and metric labels: lower case, words joined by `_`.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::UriTooLong => "uri_too_long",
            Self::UpgradeRequired => "upgrade_required",
            Self::TooManyRequests => "too_many_requests",
            Self::HeadTooLarge => "head_too_large",
            Self::Unavailable => "unavailable",
        }
    }

    /// The reason phrase of the status line.
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::Timeout => "Request Timeout",
            Self::UriTooLong => "URI Too Long",
            Self::UpgradeRequired => "Upgrade Required",
            Self::TooManyRequests => "Too Many Requests",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

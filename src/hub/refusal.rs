//! Errors that clients and backends receive: a code for programs, and a message for people.

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    Limit,
    TooLarge,
    RateLimited,
    Expired,
    Conflict,
    Unavailable,
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Limit,
        Self::TooLarge,
        Self::RateLimited,
        Self::Expired,
        Self::Conflict,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Returns the code as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Limit => "limit",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Expired => "expired",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// An error: its message states the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    /// The delay after which a retry may succeed, if it is known.
    pub retry_after_ms: Option<u32>,
}

impl Refused {
    /// Creates an error with this message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// Returns the error for an idempotency key that was used before with other content.
    pub fn reused_key() -> Self {
        let message = "this key was used for other content; use a new key for each message";
        Self::new(Code::Conflict, message)
    }

    /// Returns the error for a command that the log did not execute, or did not confirm.
    pub fn unavailable(retry_after_ms: Option<u32>) -> Self {
        let message = "the channel's log did not answer; retry, and publish with a key, because \
                       the request may have been carried out";
        Self { retry_after_ms, ..Self::new(Code::Unavailable, message) }
    }
}

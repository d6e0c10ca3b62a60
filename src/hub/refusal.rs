//! Refusals: a code for programs, and a text for people.

/// Why something was refused.
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
    /// Every code.
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

    /// As it is written.
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

/// A refusal: what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    /// When a repeat may work, where that is known.
    pub retry_after_ms: Option<u32>,
}

impl Refused {
    /// With this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// An idempotency key was used before, for other content.
    pub fn reused_key() -> Self {
        let message = "this key was used for other content; use a new key for each message";
        Self::new(Code::Conflict, message)
    }

    /// The log did not carry a command out, or did not say so.
    pub fn unavailable(retry_after_ms: Option<u32>) -> Self {
        let message = "the channel's log did not answer; retry, and publish with a key, because \
                       the request may have been carried out";
        Self { retry_after_ms, ..Self::new(Code::Unavailable, message) }
    }
}

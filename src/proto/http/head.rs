//! Finds the end of the request head, and refuses early what cannot become one.
//!
//! Each call looks only at what is new. What is refused here is refused at a position that
//! depends on the bytes alone, and positions are taken in order: so a head that arrives byte by
//! byte meets the same end as one that arrives whole.

use super::{Decision, Limits, Refusal, Response, fault};
use std::borrow::Cow;

/// A rejected request, and the text for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RejectedHead {
    pub(super) refusal: Refusal,
    pub(super) message: Cow<'static, str>,
}

impl RejectedHead {
    pub(super) fn new(refusal: Refusal, message: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Refusal::BadRequest, message)
    }

    /// The answer to a request that could not be read as far as its method.
    pub(super) fn decision(self) -> Decision<'static> {
        Decision::Answer(Response::error(self.refusal, self.message))
    }
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No end yet, nothing wrong yet.
    Partial,
    /// A head of this many bytes, all of whose lines end in CRLF.
    Head(usize),
    /// Wrong at the byte before this position.
    Refused(usize, RejectedHead),
}

/// Bytes of a request line beside its target: a method of up to 20, two spaces, version and CRLF.
const REQUEST_LINE_EXTRA: usize = 32;

/// Looks at `bytes` from `scanned` on, which moves to the end of what was looked at.
pub(super) fn find(bytes: &[u8], scanned: &mut usize, limits: &Limits) -> Found {
    let whole = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let blank = match check_first_byte(whole) {
        Ok(blank) => blank,
        Err(found) => {
            *scanned = whole.len();
            return found;
        }
    };
    let window = &whole[blank..];
    let start = scanned.saturating_sub(blank).min(window.len());
    *scanned = whole.len();
    let found = scan(window, start, blank, limits);
    // The request line comes first, so its faults do too. Once it is known to be right, they are
    // not looked for again: a later call finds the line feed before its start.
    let line = first_line(window, start, &found).map(|line| (line.len(), fault::in_line(0, line)));
    match (line, found) {
        (Some((position, Some(message))), _) => {
            Found::Refused(blank + position, RejectedHead::bad(message))
        }
        (_, Found::Refused(position, refused)) => Found::Refused(blank + position, refused),
        (_, Found::Head(length)) => Found::Head(blank + length),
        (_, Found::Partial) => Found::Partial,
    }
}

/// Checks that the first byte can start a method, after at most one empty line (RFC 9112 2.2).
/// Returns the length of that line; an error is the result of the whole search.
fn check_first_byte(window: &[u8]) -> Result<usize, Found> {
    let (position, byte) = match window {
        [b'\r'] => return Err(Found::Partial),
        [b'\r', b'\n'] => return Ok(2),
        [b'\r', b'\n', first, ..] if fault::is_token_byte(*first) => return Ok(2),
        [b'\r', b'\n', first, ..] => (3, *first),
        [b'\r', ..] => (2, b'\r'),
        [first, ..] if !fault::is_token_byte(*first) => (1, *first),
        _ => return Ok(0),
    };
    Err(Found::Refused(position, RejectedHead::bad(fault::first_byte(byte))))
}

/// The request line with its CRLF, if it ended at or after `start` and before what was found. Looks
/// before `start` only if there is a new line feed, and then no further than to the first.
fn first_line<'w>(window: &'w [u8], start: usize, found: &Found) -> Option<&'w [u8]> {
    let end = start + memchr::memchr(b'\n', &window[start..])?;
    let line = &window[..=end];
    let earlier = matches!(found, Found::Refused(position, _) if *position <= end + 1);
    if earlier || !line.ends_with(b"\r\n") || memchr::memchr(b'\n', &window[..start]).is_some() {
        return None;
    }
    Some(line)
}

/// Goes from line feed to line feed, in a window behind `blank` bytes that count for the limit.
fn scan(window: &[u8], start: usize, blank: usize, limits: &Limits) -> Found {
    let head_max = limits.head_bytes_max - blank;
    let line_max = limits.target_bytes_max.saturating_add(REQUEST_LINE_EXTRA).min(head_max);
    if start < line_max
        && window.len() >= line_max
        && memchr::memchr(b'\n', &window[..line_max]).is_none()
    {
        let message = "request line too long; shorten the path or the query";
        return Found::Refused(line_max, RejectedHead::new(Refusal::UriTooLong, message));
    }
    for at in memchr::memchr_iter(b'\n', &window[start..]) {
        let through = &window[..=start + at];
        if through.ends_with(b"\r\n\r\n") {
            return Found::Head(through.len());
        }
        if !through.ends_with(b"\r\n") {
            let message = fault::explain(through);
            return Found::Refused(through.len(), RejectedHead::bad(message));
        }
    }
    if window.len() >= head_max {
        let message = format!(
            "request head over {} bytes: send fewer or shorter header fields (cookies?)",
            limits.head_bytes_max
        );
        return Found::Refused(window.len(), RejectedHead::new(Refusal::HeadTooLarge, message));
    }
    Found::Partial
}

//! Finds the end of the request head, and refuses early what cannot become one.
//!
//! Each call looks only at what is new. What is refused here is refused at a position that
//! depends on the bytes alone, and positions are taken in order: so a head that arrives byte by
//! byte meets the same end as one that arrives whole.

use super::{Limits, Refusal, fault};
use std::borrow::Cow;

/// A refusal with what to tell the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) message: Cow<'static, str>,
}

impl Refused {
    pub(super) fn new(refusal: Refusal, message: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Refusal::BadRequest, message)
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
    Refused(usize, Refused),
}

/// Bytes of a request line beside its target: a method of up to 20, two spaces, version and CRLF.
const REQUEST_LINE_EXTRA: usize = 32;

/// Looks at `bytes` from `scanned` on, which moves to the end of what was looked at.
pub(super) fn find(bytes: &[u8], scanned: &mut usize, limits: &Limits) -> Found {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let start = (*scanned).min(window.len());
    *scanned = window.len();
    if start == 0 && window.first().is_some_and(|&first| !fault::is_token_byte(first)) {
        return Found::Refused(1, Refused::bad(fault::first_byte(window[0])));
    }
    let found = scan(window, start, limits);
    // The request line comes first, so its faults do too. Once it is known to be right, they are
    // not looked for again: a later call finds the line feed before its start.
    match first_line(window, start, &found).map(|line| (line.len(), fault::in_line(0, line))) {
        Some((position, Some(message))) => Found::Refused(position, Refused::bad(message)),
        _ => found,
    }
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

/// Goes from line feed to line feed.
fn scan(window: &[u8], start: usize, limits: &Limits) -> Found {
    let line_max = limits.target_bytes_max.saturating_add(REQUEST_LINE_EXTRA);
    let line_max = line_max.min(limits.head_bytes_max);
    if start < line_max
        && window.len() >= line_max
        && memchr::memchr(b'\n', &window[..line_max]).is_none()
    {
        let message = "request line too long: shorten the path or the query";
        return Found::Refused(line_max, Refused::new(Refusal::UriTooLong, message));
    }
    for at in memchr::memchr_iter(b'\n', &window[start..]) {
        let through = &window[..=start + at];
        if through.ends_with(b"\r\n\r\n") {
            return Found::Head(through.len());
        }
        if !through.ends_with(b"\r\n") {
            let message = fault::explain(through);
            return Found::Refused(through.len(), Refused::bad(message));
        }
    }
    if window.len() >= limits.head_bytes_max {
        let message = format!(
            "request head over {} bytes: send fewer or shorter header fields (cookies?)",
            limits.head_bytes_max
        );
        return Found::Refused(window.len(), Refused::new(Refusal::HeadTooLarge, message));
    }
    Found::Partial
}

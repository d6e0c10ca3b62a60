//! The request target (RFC 9112 3.2): origin-form, or absolute-form, whose authority replaces Host.
//!
//! The path is compared with routes as it came. So paths that mean another path once they are
//! normalised (dot segments, plain or encoded) are refused rather than interpreted.

use super::authority::Authority;

/// A checked target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The path without query; starts with `/`.
    pub(super) path: &'a str,
    /// What follows the `?`; empty where there is none.
    pub(super) query: &'a str,
    /// The authority of an absolute-form.
    pub(super) authority: Option<Authority<'a>>,
}

const FORM: &str = "request target is neither a path such as /echo nor an absolute http URL";
const BYTES: &str = "request target contains a byte that must be percent-encoded";
const ENCODING: &str = "request target contains a malformed percent-encoding: write %XX";
const DOTS: &str = "request path contains a . or .. segment: normalise it before sending";
const AUTHORITY: &str = "authority of the absolute request target is not a valid host[:port]";

impl<'a> Target<'a> {
    /// Reads a target; the error says what is wrong with it.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        // Browsers send {|}^` and brackets unencoded; the delimiters below they never do.
        if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'<' | b'>' | b'"')) {
            return Err(BYTES);
        }
        let origin_form = text.starts_with('/');
        let ((path, query), authority) =
            if origin_form { (split_query(text), None) } else { absolute(text)? };
        check_path(path)?;
        Ok(Self { path, query, authority })
    }
}

/// RFC 9112 3.2.2. The schemes `ws` and `wss` are taken beside those of HTTP: some clients send
/// them.
fn absolute(text: &str) -> Result<((&str, &str), Option<Authority<'_>>), &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        return Err(FORM);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = Authority::parse(authority).ok_or(AUTHORITY)?;
    let (path, query) = split_query(path);
    Ok(((if path.is_empty() { "/" } else { path }, query), Some(authority)))
}

/// Path and query. Paths are short: the standard library's search takes longer to begin.
fn split_query(text: &str) -> (&str, &str) {
    match text.bytes().position(|b| b == b'?') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if memchr::memchr2(b'%', b'.', path.as_bytes()).is_none() {
        return Ok(());
    }
    let mut rest = path.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest[at + 1..] {
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = &rest[at + 3..];
            }
            _ => return Err(ENCODING),
        }
    }
    if path.split('/').any(is_dot_segment) { Err(DOTS) } else { Ok(()) }
}

/// `.` or `..`, where each dot may be `%2e` (RFC 3986 5.2.4, 6.2.2.3).
fn is_dot_segment(segment: &str) -> bool {
    let dot = |text: &'_ str| -> Option<usize> {
        let encoded = text.get(..3).is_some_and(|t| t.eq_ignore_ascii_case("%2e"));
        if encoded { Some(3) } else { text.starts_with('.').then_some(1) }
    };
    let Some(first) = dot(segment) else { return false };
    let rest = &segment[first..];
    rest.is_empty() || dot(rest) == Some(rest.len())
}

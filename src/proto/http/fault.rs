//! Explains what is wrong with a head that does not parse: which line, what, and what to do.
//!
//! Runs only on the way to a refusal, so it may look at everything again.

use std::borrow::Cow;

/// Whether a byte may stand in a token (RFC 9110 5.6.2): methods, field names, protocol names.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `bytes` are a token.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Why no request starts with this byte.
pub(super) fn first_byte(byte: u8) -> &'static str {
    match byte {
        // The record type of a TLS handshake (RFC 8446 5.1).
        0x16 => "this is TLS, but this listener speaks plain HTTP: connect with ws:// or http://",
        b'\r' | b'\n' => "the request starts with line ends: send at most one empty line (CRLF)",
        _ => "not an HTTP request: the first byte cannot start a method",
    }
}

/// What is wrong with a request line, CRLF excluded (RFC 9112 3).
fn request_line(line: &[u8]) -> Option<&'static str> {
    let mut words = line.split(|&b| b == b' ');
    let (method, target) = (words.next()?, words.next().unwrap_or_default());
    let version = words.next().unwrap_or_default();
    let control = |&b: &u8| b < 0x20 || b == 0x7f;
    if line.iter().any(control) {
        Some("request line contains a control character")
    } else if !is_token(method) {
        Some("request line does not start with a method such as GET")
    } else if target.is_empty() || words.next().is_some() || version.is_empty() {
        Some("request line must be method, target and version, set apart by single spaces")
    } else if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") {
        Some("request line does not end in HTTP/1.1, the only version spoken here")
    } else {
        None
    }
}

/// What is wrong with a header line, CRLF excluded (RFC 9112 5).
fn header_line(line: &[u8]) -> Option<&'static str> {
    let colon = memchr::memchr(b':', line);
    let name = &line[..colon.unwrap_or(line.len())];
    let control = |&b: &u8| (b < 0x20 && b != b'\t') || b == 0x7f;
    if line.is_empty() {
        None
    } else if matches!(line[0], b' ' | b'\t') {
        Some("starts with white space: folded header lines are obsolete, join them")
    } else if line.contains(&0) {
        Some("contains a NUL byte")
    } else if colon.is_none() {
        Some("has no colon: write Name: value")
    } else if name.ends_with(b" ") || name.ends_with(b"\t") {
        Some("has white space before the colon: remove it")
    } else if !is_token(name) {
        Some("has a field name with a character that is not allowed")
    } else if line.iter().any(control) {
        Some("contains a control character")
    } else {
        None
    }
}

/// What is wrong with the line of this index, its end included; the first is the request line.
pub(super) fn in_line(index: usize, line: &[u8]) -> Option<Cow<'static, str>> {
    let message = match line.strip_suffix(b"\r\n") {
        None => "ends in a bare line feed: send CRLF",
        Some(text) if text.contains(&b'\r') => {
            "contains a bare carriage return: send CRLF at line ends only"
        }
        Some(text) if index == 0 => return request_line(text).map(Cow::Borrowed),
        Some(text) => header_line(text)?,
    };
    Some(format!("line {} of the request {message}", index + 1).into())
}

/// The first fault of a head, or of the part of it that was received.
pub(super) fn explain(head: &[u8]) -> Cow<'static, str> {
    let mut lines = head.split_inclusive(|&b| b == b'\n').enumerate();
    let fault = lines.find_map(|(index, line)| in_line(index, line));
    fault.unwrap_or(Cow::Borrowed("the request is not valid HTTP/1.1 (RFC 9112)"))
}

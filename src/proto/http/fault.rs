//! Explains what is wrong with a head that does not parse: which line, what, and what to do.
//!
//! Runs only on the way to a refusal, so it may look at everything again.

use std::borrow::Cow;

/// Whether a token may contain a byte (RFC 9110 5.6.2): methods, field names, protocol names.
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
        0x16 => "this is TLS, but this listener has no TLS: connect with ws:// or http://",
        b'\r' | b'\n' => "the request starts with line ends: send at most one empty line (CRLF)",
        _ => "not an HTTP request: the first byte cannot start a method",
    }
}

/// Whether a line, its end included, is a request line without a fault: what nearly all are, in
/// one pass. Others, HTTP/1.0 among them, are looked at more closely.
fn is_request_line(line: &[u8]) -> bool {
    let Some(line) = line.strip_suffix(b" HTTP/1.1\r\n") else { return false };
    let Some(method_len) = line.iter().position(|&b| b == b' ') else { return false };
    let (method, target) = (&line[..method_len], &line[method_len + 1..]);
    is_token(method) && !target.is_empty() && target.iter().all(|&b| b > b' ' && b != 0x7f)
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
        Some("request line does not end in HTTP/1.1, the only supported version")
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
    if index == 0 && is_request_line(line) {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_request_line_is_right_at_first_sight() {
        assert!(is_request_line(b"GET /echo?token=a HTTP/1.1\r\n"));
        assert!(!is_request_line(b"GET  /echo HTTP/1.1\r\n"));
    }

    proptest! {
        /// The short way finds no fault only where the long way finds none.
        #[test]
        fn request_line_is_right_only_without_a_fault(
            line in "[A-Z( \\x00\\x7f]{0,4} ?[/a-z \\r\\x7fé]{0,4} ?(HTTP/1\\.[01])?",
        ) {
            let whole = [line.as_bytes(), b"\r\n"].concat();
            if is_request_line(&whole) {
                prop_assert!(!line.contains('\r') && request_line(line.as_bytes()).is_none());
            } else if request_line(line.as_bytes()).is_none() && !line.contains('\r') {
                prop_assert!(line.ends_with("HTTP/1.0"), "{:?}", line);
            }
        }
    }
}

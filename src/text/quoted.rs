//! Strings of JSON.

use std::io::Write as _;

use super::plain;

/// Appends a text as a JSON string. Text without escapes, the usual case, is copied as it is.
pub fn push_quoted(out: &mut Vec<u8>, text: &str) {
    if plain::is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory does not fail.
        let _ = write!(out, "{}", serde_json::Value::from(text));
    }
}

//! Escapes untrusted text that a terminal will show: names, reasons, addresses, paths.
//!
//! Control characters move the cursor, set colors and titles, and make the terminal respond;
//! bidirectional marks (Unicode UAX 9) reorder the displayed words. Both are shown as escapes.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns whether a character controls a terminal instead of being displayed.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Escapes control characters, as in `\u{1b}`: for one field of a line.
pub fn escape(text: &str) -> Cow<'_, str> {
    replace_active(text, is_active, |c, out| {
        let _ = write!(out, "{}", c.escape_unicode());
    })
}

/// Like [`escape`], for text of several lines and columns: keeps line breaks and tabs.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    let is_active = |c: char| is_active(c) && !matches!(c, '\n' | '\t');
    replace_active(text, is_active, |c, out| {
        let _ = write!(out, "{}", c.escape_unicode());
    })
}

/// Escapes such characters within JSON (RFC 8259 7). The value stays the same, because they can
/// only occur in strings. Keeps line breaks between tokens.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let is_active = |c: char| is_active(c) && !matches!(c, '\n' | '\r' | '\t');
    replace_active(json, is_active, |c, out| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn replace_active(
    text: &str,
    is_active: impl Fn(char) -> bool,
    write: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&is_active) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_active(c) {
            write(c, &mut out);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let hostile = "a\u{1b}[2J\u{9b}m\u{202e}b\u{7f}\n\tc\u{2066}é";
        assert_eq!(escape(hostile), "a\\u{1b}[2J\\u{9b}m\\u{202e}b\\u{7f}\\u{a}\\u{9}c\\u{2066}é");
        assert_eq!(escape_lines(hostile), "a\\u{1b}[2J\\u{9b}m\\u{202e}b\\u{7f}\n\tc\\u{2066}é");
        assert!(matches!(escape("news/é 日本 👍"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = serde_json::json!({"a\u{9b}": ["\u{202e}\u{1b}\u{7f}", 1, "é\n"]});
        for json in [format!("{value}"), format!("{value:#}")] {
            let escaped = escape_json(&json);
            assert!(!escaped.contains(|c| is_active(c) && c != '\n'), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
    }
}

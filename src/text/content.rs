//! Validates JSON of applications (contents, `info`) once, on receipt; after that it is stored and
//! forwarded byte for byte.
//!
//! The grammar of JSON (RFC 8259) allows values that some readers cannot represent: half a
//! surrogate pair (`"\ud83d"`), which is not Unicode text, and numbers beyond a double (`1e400`).
//! Some readers fail on them, and so on the whole reply or list that contains them. They are
//! rejected on receipt, so that one client's data cannot break another client. Everything else
//! stays as written: number formats, key order, duplicate keys, escapes.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// The maximum number of nesting levels.
const DEPTH_MAX: u32 = 64;
/// Numbers without an exponent of up to this length (bytes) are below the largest double, which has
/// 309 digits.
const PLAIN_NUMBER_BYTES: usize = 300;

/// Why JSON is rejected; its text completes "content …" or "`info` …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    TooDeep,
    LoneSurrogate,
    NumberTooLarge,
}

impl Fault {
    /// Returns the fault and its remedy.
    pub fn text(self) -> &'static str {
        match self {
            Self::TooDeep => "is nested deeper than 64 levels; flatten it",
            Self::LoneSurrogate => {
                "has half a surrogate pair (an escape from \\ud800 to \\udfff without its other \
                 half), which is no text: cut strings between characters"
            }
            Self::NumberTooLarge => {
                "has a number too large for a 64-bit float (about 1.8e308); send it as a string"
            }
        }
    }
}

/// Validated JSON: on one line, and representable by every reader of JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedJson<'f>(Cow<'f, str>);

impl<'f> CheckedJson<'f> {
    /// Validates JSON, and puts it on one line.
    ///
    /// # Errors
    /// Some JSON readers could not represent it.
    pub fn new(json: &'f RawValue) -> Result<Self, Fault> {
        to_one_line(json.get()).map(Self)
    }

    /// Wraps JSON that was validated while it was read, and needs no change.
    pub(super) fn checked(json: &'f str) -> Self {
        debug_assert_eq!(to_one_line(json), Ok(Cow::Borrowed(json)), "it was checked");
        Self(Cow::Borrowed(json))
    }

    /// Returns the text.
    pub fn into_text(self) -> Box<str> {
        self.0.into()
    }
}

/// Puts valid JSON on one line: line breaks between tokens become spaces; strings cannot contain
/// raw ones. So line breaks can separate frames, and no content can forge one.
///
/// # Errors
/// Some JSON readers could not represent it.
pub fn to_one_line(json: &str) -> Result<Cow<'_, str>, Fault> {
    if scan(json)? {
        return Ok(Cow::Owned(json.replace(['\n', '\r'], " ")));
    }
    Ok(Cow::Borrowed(json))
}

/// Scans valid JSON once; returns whether it contains line breaks.
fn scan(json: &str) -> Result<bool, Fault> {
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut has_line_ends) = (0, 0, false);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = check_string(bytes, at)?,
            b'{' | b'[' if depth == DEPTH_MAX => return Err(Fault::TooDeep),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'0'..=b'9' => at = check_number(json, at - 1)?,
            b'\n' | b'\r' => has_line_ends = true,
            _ => {}
        }
    }
    Ok(has_line_ends)
}

/// Checks a string that starts here; returns the index of its end.
fn check_string(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let mut at = start;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        // An escape has 2 bytes, or 6 for `\u` with four digits, or 12 for a surrogate pair.
        // The JSON is valid, so bytes behind an escape exist: the closing quote at least.
        at += match parse_unit(&bytes[at..]) {
            None => 2,
            Some(0xd800..=0xdbff) => match parse_unit(&bytes[at + 6..]) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return Err(Fault::LoneSurrogate),
            },
            Some(0xdc00..=0xdfff) => return Err(Fault::LoneSurrogate),
            Some(_) => 6,
        };
    }
    Ok(bytes.len())
}

/// Returns the UTF-16 code unit of an escape such as `\u00e9` at the start of `bytes`.
fn parse_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Checks a number that starts here, without its sign; returns the index of its end.
fn check_number(json: &str, start: usize) -> Result<usize, Fault> {
    let digits = &json.as_bytes()[start..];
    let is_end = |b: &u8| !(b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let end = start + digits.iter().position(is_end).unwrap_or(digits.len());
    let number = &json[start..end];
    let is_plain = || memchr::memchr2(b'e', b'E', number.as_bytes()).is_none();
    // Some readers round a huge number to infinity, others fail: accept only what all represent.
    let is_finite =
        || number.parse().is_ok_and(f64::is_finite) && serde_json::from_str::<f64>(number).is_ok();
    if (number.len() <= PLAIN_NUMBER_BYTES && is_plain()) || is_finite() {
        return Ok(end);
    }
    Err(Fault::NumberTooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(to_one_line(&nested(64)).is_ok());
        assert_eq!(to_one_line(&nested(65)), Err(Fault::TooDeep));
        let text = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
        assert_eq!(to_one_line(&text).unwrap(), text);
        let wide = format!("[{}[]]", "[],".repeat(100));
        assert!(to_one_line(&wide).is_ok());
    }

    #[test]
    fn line_ends_between_tokens_become_spaces() {
        assert_eq!(to_one_line("{\r\n\"a\\n\": 1}").unwrap(), "{  \"a\\n\": 1}");
        assert!(matches!(to_one_line("[1, 2]").unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn half_a_surrogate_pair_is_rejected_anywhere() {
        for lone in [
            r#""\ud83d""#,
            r#""\uDFFF""#,
            r#""a\ud83dz""#,
            r#""\ud83d\n""#,
            r#""\ud83d\ud83d\ude00""#,
            r#""\ude00\ud83d""#,
            r#""\\\ud83d""#,
            r#"{"\ud83d":1}"#,
            r#"[["x",{"y":"\ud800\u0041"}]]"#,
        ] {
            assert_eq!(to_one_line(lone), Err(Fault::LoneSurrogate), "{lone}");
        }
        for whole in [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\"\\\\\u0041""#, r#""\ud7ff\ue000""#]
        {
            assert_eq!(to_one_line(whole).unwrap(), whole);
        }
    }

    #[test]
    fn numbers_beyond_a_double_are_rejected() {
        let long = "9".repeat(400);
        for large in ["1e400", "-1E+309", "[0,1e999999999999]", "1.8e308", &long] {
            assert_eq!(to_one_line(large), Err(Fault::NumberTooLarge), "{large}");
        }
        let (whole, fine) = ("9".repeat(308), format!("0.{long}"));
        for number in
            ["1.7976931348623157e308", "1e-400", "0e999", "-0.0", "[1.50,2E3]", &whole, &fine]
        {
            assert_eq!(to_one_line(number).unwrap(), number);
        }
        assert!(to_one_line(r#"{"1e400":"1e400"}"#).is_ok(), "strings are not numbers");
    }

    /// JSON and near-JSON: pieces in random order.
    fn any_pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\u",
            "\\ud83d",
            "\\ude00",
            "d83d",
            "\"a\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"\\udc00\"",
            "\"\\u0041\\/\"",
            "1",
            "-0",
            "1e5",
            "1e400",
            "1E-400",
            "0.1000",
            "12345678901234567890123",
            "true",
            "null",
            " ",
            "\n",
            "\"k\":",
            "\"é\"",
            "\u{2028}",
        ]);
        let near = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        let inner = near.clone();
        prop_oneof![
            near,
            inner.clone().prop_map(|inner| format!("[{inner}]")),
            inner.prop_map(|inner| format!("{{\"a\":[\"x\",{inner}]}}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Accepted JSON is unchanged except for line breaks, and a strict reader accepts it; it
        /// fails on rejected JSON.
        #[test]
        fn accepted_json_is_unchanged_and_readable(json in any_pieces()) {
            let Ok(raw) = serde_json::from_str::<&RawValue>(&json) else { return Ok(()) };
            let is_read = serde_json::from_str::<serde_json::Value>(raw.get()).is_ok();
            match to_one_line(raw.get()) {
                Ok(line) => {
                    prop_assert!(is_read, "{line}");
                    prop_assert_eq!(line, raw.get().replace(['\n', '\r'], " "));
                }
                Err(fault) => prop_assert!(!is_read, "{fault:?}: {json}"),
            }
        }
    }
}

//! A single-pass JSON reader without copies, for plain JSON: strings without escapes, unsigned
//! integers, booleans, and values of applications that [`CheckedJson`] keeps unchanged.
//!
//! It returns `None` for everything else, whether invalid or only unusual: the caller then reads
//! the same bytes with `serde_json`, which reports errors. What this reader accepts, `serde_json`
//! accepts with the same meaning.

use super::content::CheckedJson;

/// The maximum nesting of a value; deeper ones are not plain.
const DEPTH_MAX: u32 = 64;
/// The longest mantissa (bytes): with an exponent of two digits, such a number is still below the
/// largest double.
const MANTISSA_BYTES: usize = 100;

/// A position in JSON. After a `None` the position is undefined.
#[derive(Clone, Debug)]
pub struct PlainReader<'f> {
    bytes: &'f [u8],
    at: usize,
}

impl<'f> PlainReader<'f> {
    /// Starts at the first byte.
    pub fn new(bytes: &'f [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the number of bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips blanks between tokens, including line breaks.
    #[inline]
    pub fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips blanks, and this byte if it follows; returns whether it followed.
    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        self.skip_blanks();
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    /// Skips exactly these bytes if they come next, without skipping blanks first; returns whether
    /// they came next.
    #[inline]
    pub fn skip(&mut self, bytes: &[u8]) -> bool {
        let is_there = self.bytes[self.at..].starts_with(bytes);
        if is_there {
            self.at += bytes.len();
        }
        is_there
    }

    /// Reads a string without escapes; returns the bytes between its quotes.
    #[inline]
    pub fn read_bytes(&mut self) -> Option<&'f [u8]> {
        if !self.take(b'"') {
            return None;
        }
        let start = self.at;
        self.at = find_special(self.bytes, start)?;
        if self.bytes[self.at] != b'"' {
            return None;
        }
        self.at += 1;
        Some(&self.bytes[start..self.at - 1])
    }

    /// Reads a string without escapes.
    #[inline]
    pub fn read_text(&mut self) -> Option<&'f str> {
        std::str::from_utf8(self.read_bytes()?).ok()
    }

    /// Reads a string without escapes; returns it with its quotes.
    pub fn read_quoted(&mut self) -> Option<&'f str> {
        let inner = self.read_bytes()?.len();
        std::str::from_utf8(&self.bytes[self.at - inner - 2..self.at]).ok()
    }

    /// Reads an unsigned integer of up to 19 digits; returns it as written.
    pub fn read_digits(&mut self) -> Option<&'f str> {
        self.skip_blanks();
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        let digits = &self.bytes[start..self.at];
        let is_plain = match digits {
            [b'0', _, ..] => false,
            digits => (1..20).contains(&digits.len()),
        };
        // A fraction or an exponent may follow. The caller notices that, because neither starts a
        // token.
        if is_plain { std::str::from_utf8(digits).ok() } else { None }
    }

    /// Reads a boolean.
    pub fn read_bool(&mut self) -> Option<bool> {
        self.skip_blanks();
        let is_true = self.peek() == Some(b't');
        self.skip_word(if is_true { b"true" } else { b"false" })?;
        Some(is_true)
    }

    /// Reads any value that is on one line and that all JSON readers can represent.
    pub fn read_value(&mut self) -> Option<CheckedJson<'f>> {
        self.skip_blanks();
        let start = self.at;
        self.skip_value()?;
        let json = simdutf8::basic::from_utf8(&self.bytes[start..self.at]).ok()?;
        Some(CheckedJson::checked(json))
    }

    fn skip_word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// Skips a value, if it is valid, on one line and not nested deeper than [`DEPTH_MAX`].
    fn skip_value(&mut self) -> Option<()> {
        // A stack of one bit for each open level, the innermost lowest: set for an object.
        let (mut objects, mut depth) = (0_u64, 0);
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'-' | b'0'..=b'9' => self.skip_number()?,
                open @ (b'{' | b'[') => {
                    if depth == DEPTH_MAX {
                        return None;
                    }
                    let is_object = open == b'{';
                    (objects, depth) = (objects << 1 | u64::from(is_object), depth + 1);
                    self.at += 1;
                    self.skip_inner_blanks();
                    // Either it ends at once, or its first value follows.
                    match (self.peek()?, is_object) {
                        (b'}', true) | (b']', false) => {}
                        (_, true) => {
                            self.skip_name()?;
                            continue;
                        }
                        (_, false) => continue,
                    }
                }
                b't' => self.skip_word(b"true")?,
                b'f' => self.skip_word(b"false")?,
                b'n' => self.skip_word(b"null")?,
                _ => return None,
            }
            // After a value: either another one follows, or its container ends.
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.skip_inner_blanks();
                let is_object = objects & 1 != 0;
                let byte = self.peek()?;
                self.at += 1;
                match (byte, is_object) {
                    (b',', _) => {
                        self.skip_inner_blanks();
                        if is_object {
                            self.skip_name()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => (objects, depth) = (objects >> 1, depth - 1),
                    _ => return None,
                }
            }
        }
    }

    /// Skips blanks within a value, but not line breaks, which `CheckedJson` would replace.
    #[inline]
    fn skip_inner_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips the name of a field within a value, and the colon behind it.
    fn skip_name(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        self.skip_string()?;
        self.skip_inner_blanks();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        self.skip_inner_blanks();
        Some(())
    }

    /// Skips a string within a value. It may contain escapes, but none of a surrogate.
    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            self.at = find_special(self.bytes, self.at)?;
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {}
                _ => return None,
            }
            self.at += match self.bytes.get(self.at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                b'u' => {
                    let digits = self.bytes.get(self.at + 2..self.at + 6)?;
                    let is_plain = digits.iter().all(u8::is_ascii_hexdigit)
                        && !matches!(
                            digits,
                            [b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..]
                        );
                    if !is_plain {
                        return None;
                    }
                    6
                }
                _ => return None,
            };
        }
    }

    /// Skips a number that a double can represent.
    fn skip_number(&mut self) -> Option<()> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if self.at - start > MANTISSA_BYTES {
            return None;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            let exponent = self.at;
            self.skip_digits()?;
            if self.at - exponent > 2 {
                return None;
            }
        }
        Some(())
    }

    /// Skips one digit or more.
    fn skip_digits(&mut self) -> Option<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

/// Returns whether a text needs no escapes between quotes.
#[inline]
pub fn is_plain(text: &str) -> bool {
    find_special(text.as_bytes(), 0).is_none()
}

// The lowest and the highest bit of each byte of a word.
const LOW: u64 = u64::MAX / 0xff;
const HIGH: u64 = LOW << 7;

/// Finds the first quote, backslash or control character from `at` on. The first eight bytes are
/// checked as one word, because most strings are short; the rest in blocks, which the compiler
/// vectorizes.
#[inline]
fn find_special(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let Some(first) = rest.first_chunk::<8>() else {
        return Some(at + rest.iter().position(|byte| is_special(*byte))?);
    };
    match special_in(*first) {
        Some(found) => Some(at + found),
        None => find_special_far(bytes, at + 8),
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

/// Returns the index of the first special byte of a word.
#[inline]
fn special_in(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    let quote = word ^ (LOW * u64::from(b'"'));
    let backslash = word ^ (LOW * u64::from(b'\\'));
    // Sets the high bit of each byte that is zero, or below a blank. The borrow of such a byte may
    // set bits behind it by mistake, but never before it, so the lowest set bit is correct.
    let found = (quote.wrapping_sub(LOW) & !quote)
        | (backslash.wrapping_sub(LOW) & !backslash)
        | (word.wrapping_sub(LOW * 0x20) & !word);
    let found = found & HIGH;
    (found != 0).then(|| (found.trailing_zeros() / 8) as usize)
}

fn find_special_far(bytes: &[u8], mut at: usize) -> Option<usize> {
    // Blocks are only tested as a whole, without a branch per byte; the words below then find the
    // place.
    while let Some(block) = bytes[at..].first_chunk::<32>() {
        let found = block.iter().fold(0, |found, byte| {
            let is_quote = u8::from(*byte == b'"') | u8::from(*byte == b'\\');
            found | is_quote | u8::from(*byte < 0x20)
        });
        if found != 0 {
            break;
        }
        at += 32;
    }
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        if let Some(found) = special_in(*word) {
            return Some(at + found);
        }
        at += 8;
    }
    Some(at + bytes[at..].iter().position(|byte| is_special(*byte))?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::text::content;

    fn read(json: &str) -> Option<(CheckedJson<'_>, usize)> {
        let mut reader = PlainReader::new(json.as_bytes());
        let value = reader.read_value()?;
        Some((value, reader.position()))
    }

    #[test]
    fn plain_values_are_read_to_their_end() {
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        for json in [
            "0",
            "-1.50e-7",
            "12345678901234567890123",
            "true",
            "null",
            r#""""#,
            r#""a\n\u00e9\"\\é""#,
            "{}",
            "[]",
            r#"{"a" : [1, {"b":{}}, "}"],"a":false}"#,
            &deep,
        ] {
            let with_more = format!("{json},");
            let (value, end) = read(&with_more).unwrap_or_else(|| panic!("{json} is plain"));
            assert_eq!((&*value.into_text(), end), (json, json.len()));
        }
    }

    #[test]
    fn what_is_wrong_or_unusual_is_not_plain() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        for json in [
            "",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e400",
            "tru",
            "nulL",
            "\"",
            "\"\u{1}\"",
            "\"\n\"",
            r#""\x""#,
            r#""\ud83d\ude00""#,
            r#""\u12g4""#,
            "[",
            "[1",
            "[1,]",
            "[,1]",
            "[}",
            "{]",
            "{1:2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1\n]",
            "+1",
            &deep,
        ] {
            let read = read(json);
            let is_prefix = matches!(&read, Some((_, end)) if *end < json.len());
            assert!(read.is_none() || is_prefix, "{json}: {read:?}");
        }
    }

    #[test]
    fn tokens_are_read_one_after_the_other() {
        let mut reader = PlainReader::new(b" \"ab\" : 17 ,true,\"c\\n\"");
        assert_eq!(reader.read_text(), Some("ab"));
        assert!(reader.take(b':') && !reader.take(b':'));
        assert_eq!(reader.read_digits(), Some("17"));
        assert!(reader.take(b','));
        assert_eq!(reader.read_bool(), Some(true));
        assert!(reader.take(b','));
        assert_eq!(reader.read_quoted(), None, "it has an escape");
        for digits in ["01", "", "-1", "12345678901234567890"] {
            assert_eq!(PlainReader::new(digits.as_bytes()).read_digits(), None, "{digits}");
        }
    }

    fn pieces() -> impl Strategy<Value = String> {
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
            "\\u00e9",
            "\\ud83d",
            "\\ude00",
            "\"a\"",
            "\"abcdefgh\\n\"",
            "\"k\":",
            "1",
            "-0",
            "0",
            "1e5",
            "1E+400",
            "1.5",
            "true",
            "false",
            "null",
            "tru",
            " ",
            "\t",
            "\n",
            "\u{1}",
            "é",
            "\u{2028}",
        ]);
        let near = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        prop_oneof![
            near.clone(),
            near.clone().prop_map(|inner| format!("[\"x\",{inner}]")),
            near.prop_map(|inner| format!("{{\"a\":{inner}}}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Whatever is plain is a value for `serde_json` too, with the same end, and valid content.
        #[test]
        fn plain_values_are_those_of_serde_json(json in pieces()) {
            let mut stream = serde_json::Deserializer::from_str(&json).into_iter::<&RawValue>();
            let raw = stream.next();
            if let Some((value, end)) = read(&json) {
                let start = json.len() - json.trim_start().len();
                let checked = content::to_one_line(&json[start..end]);
                prop_assert_eq!(checked.as_deref(), Ok(&*value.into_text()));
                // A scalar counts only if something follows that ends it.
                let whole = serde_json::from_str::<&RawValue>(&json[..end]);
                prop_assert_eq!(whole.map(RawValue::get).ok(), Some(&json[start..end]));
            } else if let Some(Ok(raw)) = raw {
                // Valid, but not plain: it contains what `CheckedJson` changes or rejects, or
                // escapes and exponents that are left to the other reader.
                let json = raw.get();
                let digits = |text: &str| {
                    let text = text.trim_start_matches(['+', '-']);
                    text.bytes().take_while(u8::is_ascii_digit).count()
                };
                let mut exponents = json.split(['e', 'E']).skip(1).map(digits);
                let is_unusual = ["\n", "\\ud83d", "\\ude00"].iter().any(|one| json.contains(one));
                prop_assert!(is_unusual || exponents.any(|digits| digits > 2), "{json}");
            }
        }

        #[test]
        fn special_bytes_are_found_as_one_by_one(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(b'"'), Just(0x1f), Just(b' '), Just(0x80)], 0..40),
            at in 0..45usize,
        ) {
            let expected = (at..bytes.len())
                .find(|at| matches!(bytes[*at], b'"' | b'\\' | 0..0x20));
            prop_assert_eq!(find_special(&bytes, at), expected);
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let quoted = serde_json::Value::from(text).to_string();
                prop_assert_eq!(is_plain(text), quoted.len() == text.len() + 2);
            }
        }
    }
}

//! What applications say to each other: passed on byte for byte, on one line.

use std::borrow::Cow;

/// The deepest nesting.
const DEPTH_MAX: u32 = 64;

/// Puts valid JSON on one line: line ends between tokens become spaces, and within strings there
/// are none. So objects can be joined by line ends, and nobody can forge one.
///
/// # Errors
/// When it is nested too deeply.
pub fn on_one_line(json: &str) -> Result<Cow<'_, str>, String> {
    check_depth(json)?;
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(json));
    }
    Ok(Cow::Owned(json.replace(['\n', '\r'], " ")))
}

fn check_depth(json: &str) -> Result<(), String> {
    // Without so many brackets it cannot be.
    let bytes = json.as_bytes();
    if memchr::memchr2_iter(b'{', b'[', bytes).nth(DEPTH_MAX as usize).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("content is nested deeper than {DEPTH_MAX}: flatten it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(on_one_line(&nested(64)).is_ok());
        assert!(on_one_line(&nested(65)).is_err());
        let text = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
        assert_eq!(on_one_line(&text).unwrap(), text);
        let wide = format!("[{}[]]", "[],".repeat(100));
        assert!(on_one_line(&wide).is_ok());
    }

    #[test]
    fn line_ends_between_tokens_become_spaces() {
        assert_eq!(on_one_line("{\r\n\"a\\n\": 1}").unwrap(), "{  \"a\\n\": 1}");
        assert!(matches!(on_one_line("[1, 2]").unwrap(), Cow::Borrowed(_)));
    }
}

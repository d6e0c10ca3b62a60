//! Text must be UTF-8 (RFC 6455 8.1), and a text that is not is refused at its first wrong byte.
//!
//! A whole message is checked in one pass. One that arrives in parts is checked part by part: the
//! bytes are gathered anyway, so all there is to remember is how far they are known to be whole
//! characters; at most three bytes are looked at twice.

/// Below this length simdutf8 leaves the check to the standard library, which goes byte by byte
/// where text is not aligned. ASCII, as most short texts are, takes a third of that.
const SHORT_BYTES: usize = 64;

/// Whether `bytes` are UTF-8, in one pass; short ones that are not ASCII take a second.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    (bytes.len() < SHORT_BYTES && bytes.is_ascii()) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// How far a growing text is known to be UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The bytes from the start that are whole characters.
    checked_bytes: usize,
}

impl Progress {
    /// The last `len` bytes of `text` were appended since the last call, and all of them are ASCII:
    /// they need no further look, unless a character before them is incomplete.
    pub fn accept_ascii(&mut self, text: &[u8], len: usize) {
        if self.checked_bytes + len == text.len() {
            self.checked_bytes = text.len();
        }
    }

    /// Checks what was appended to `text` since the last call. False as soon as no continuation
    /// could make it UTF-8; true while it is, or may become so.
    pub fn check_text(&mut self, text: &[u8]) -> bool {
        let fresh = &text[self.checked_bytes..];
        match simdutf8::compat::from_utf8(fresh) {
            Ok(_) => self.checked_bytes = text.len(),
            // No length: the bytes end within a character that is right so far.
            Err(error) if error.error_len().is_none() => {
                self.checked_bytes += error.valid_up_to();
            }
            Err(_) => return false,
        }
        true
    }

    /// Whether `text`, having been checked to its end, ends with a whole character.
    pub fn is_complete(&self, text: &[u8]) -> bool {
        self.checked_bytes == text.len()
    }
}

//! What all scripts have in common: their names, and fields of replies and publications.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::Value;

/// How long the position of a channel is kept that was only read (ms): otherwise reads of random
/// names would fill the engine.
pub(super) const UNWATCHED_TTL_MS: u64 = 60_000;

/// A script, and the name that the engine has for it: its SHA-1.
#[derive(Clone)]
pub(super) struct NamedScript {
    pub(super) text: String,
    pub(super) hash: String,
}

impl NamedScript {
    pub(super) fn new(text: String) -> Self {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hash = hash.as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self { text, hash }
    }
}

/// Returns the text of a value. `None`: it is none.
pub(super) fn read_text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Takes a field that ends with a space.
pub(super) fn take_field(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b' ', bytes)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

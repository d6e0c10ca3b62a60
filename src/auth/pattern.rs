//! Patterns of channel names: a single name, or a prefix.

use serde::{Deserialize, Serialize};

use super::name::{CHANNEL_BYTES_MAX, is_allowed};

/// `chat:lobby` matches that channel, `chat:*` all channels with names that start with `chat:`, and
/// `*` all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The text that states what a pattern must be.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > CHANNEL_BYTES_MAX {
            return Err("a pattern must have 1 to 200 bytes");
        }
        let stem = text.strip_suffix('*').unwrap_or(text);
        if stem.contains('*') {
            return Err("`*` is allowed only at the end of a pattern");
        }
        if !stem.bytes().all(is_allowed) {
            return Err(
                "a pattern may only contain A-Z a-z 0-9 and _ = @ , . ; : / # -, and perhaps a \
                        `*` at its end",
            );
        }
        Ok(Self(text.into()))
    }

    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the prefix that names must have; `None` for a single name.
    pub fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Returns whether it matches this channel.
    pub fn matches(&self, channel: &str) -> bool {
        match self.prefix() {
            Some(prefix) => channel.starts_with(prefix),
            None => *self.0 == *channel,
        }
    }

    /// Returns its precedence. Of two patterns that match a channel, the one with the greater
    /// weight counts: a name precedes every prefix, and a longer prefix a shorter one.
    pub fn weight(&self) -> usize {
        self.prefix().map_or(usize::MAX, str::len)
    }
}

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_matches_anything() {
        let pattern = |text| Pattern::new(text).unwrap();
        assert!(pattern("chat:*").matches("chat:a") && pattern("chat:*").matches("chat:"));
        assert!(!pattern("chat:*").matches("chat") && !pattern("chat:*").matches("chats:a"));
        assert!(pattern("*").matches("x"));
        assert!(pattern("chat").matches("chat") && !pattern("chat").matches("chat:a"));
        assert!(pattern("a").weight() > pattern("aaaaa*").weight());
        assert!(pattern("aa*").weight() > pattern("a*").weight());
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        for text in ["", "a*b", "**", "*a", "a b", "ä*", "a?", &"a".repeat(201)] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}

//! Patterns of channels: a name, or the beginning of one.

use serde::{Deserialize, Serialize};

use super::name::{CHANNEL_BYTES_MAX, is_of_channel};

/// `chat:lobby` stands for that channel, `chat:*` for all whose names begin with `chat:`, and `*`
/// for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What a pattern must look like.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > CHANNEL_BYTES_MAX {
            return Err("a pattern has 1 to 200 bytes");
        }
        let stem = text.strip_suffix('*').unwrap_or(text);
        if stem.contains('*') {
            return Err("`*` stands only at the end of a pattern");
        }
        if !stem.bytes().all(is_of_channel) {
            return Err(
                "a pattern consists of A-Z a-z 0-9 and _ = @ , . ; : / # -, and perhaps a \
                        `*` at its end",
            );
        }
        Ok(Self(text.into()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What names begin with, where it is no single name.
    pub fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }

    /// Whether it stands for this channel.
    pub fn matches(&self, channel: &str) -> bool {
        match self.prefix() {
            Some(prefix) => channel.starts_with(prefix),
            None => *self.0 == *channel,
        }
    }

    /// Of two patterns for a channel the one with the greater weight counts: a name beats every
    /// beginning, and a longer beginning a shorter one.
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
    fn a_star_at_the_end_stands_for_anything() {
        let pattern = |text| Pattern::new(text).unwrap();
        assert!(pattern("chat:*").matches("chat:a") && pattern("chat:*").matches("chat:"));
        assert!(!pattern("chat:*").matches("chat") && !pattern("chat:*").matches("chats:a"));
        assert!(pattern("*").matches("x"));
        assert!(pattern("chat").matches("chat") && !pattern("chat").matches("chat:a"));
        assert!(pattern("a").weight() > pattern("aaaaa*").weight());
        assert!(pattern("aa*").weight() > pattern("a*").weight());
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a*b", "**", "*a", "a b", "ä*", "a?", &"a".repeat(201)] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}

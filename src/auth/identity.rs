//! Identities: a client's user and its rights to channels, as claimed by its token.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::keys::Fingerprint;
use super::pattern::Pattern;
use super::pusher_app::PusherApp;

/// A client's identity; the default is anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The claim `sub`: 1 to 256 bytes. A token without it grants rights without naming a user.
    pub user: Option<Arc<str>>,
    /// The claim `info`, visible to other clients: JSON on one line, as the token carried it.
    pub info: Option<Arc<str>>,
    /// The claim `channels`.
    pub rights: Vec<Right>,
    /// The token's `exp`, or the end that the application has set (Unix time, s); `None` for an
    /// anonymous client.
    pub expires_s: Option<u64>,
    /// The key that verified the token. The identity ends when that key is withdrawn.
    pub key: Option<Fingerprint>,
    /// The name of the application that has identified the client, without a token.
    pub application: Option<Arc<str>>,
    /// The app of the Pusher protocol whose client it is. Then rights come with signatures of the
    /// app's backend, and the user is one of the app's.
    pub app: Option<Arc<PusherApp>>,
}

impl Identity {
    /// Returns whether nothing identifies the client: every token, and every identity that an
    /// application gave, has an expiry.
    pub fn is_anonymous(&self) -> bool {
        self.expires_s.is_none()
    }

    /// Returns the rights to a channel, if its name matches a pattern: the most specific pattern
    /// counts, as for namespaces; the rights of equal patterns are united.
    pub fn rights_for(&self, channel: &str) -> Option<Rights> {
        let matching = || self.rights.iter().filter(|right| right.pattern.matches(channel));
        let weight = matching().map(|right| right.pattern.weight()).max()?;
        let best = matching().filter(|right| right.pattern.weight() == weight);
        best.map(|right| right.rights).reduce(Rights::or)
    }
}

/// Rights to the channels of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Right {
    #[serde(rename = "p")]
    pub pattern: Pattern,
    #[serde(rename = "r")]
    pub rights: Rights,
}

/// The verbs that are granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<&'static str>")]
pub struct Rights {
    pub subscribe: bool,
    pub publish: bool,
    pub presence: bool,
    pub history: bool,
}

impl Rights {
    pub const ALL: Self = Self { subscribe: true, publish: true, presence: true, history: true };

    /// Parses rights.
    ///
    /// # Errors
    /// The text that lists the valid words.
    pub fn from_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, &'static str> {
        let mut rights = Self::default();
        for word in words {
            match word {
                "subscribe" => rights.subscribe = true,
                "publish" => rights.publish = true,
                "presence" => rights.presence = true,
                "history" => rights.history = true,
                _ => return Err("rights are subscribe, publish, presence and history"),
            }
        }
        Ok(rights)
    }

    /// Formats the rights as words.
    pub fn to_words(self) -> Vec<&'static str> {
        let named = [
            (self.subscribe, "subscribe"),
            (self.publish, "publish"),
            (self.presence, "presence"),
            (self.history, "history"),
        ];
        named.into_iter().filter(|(granted, _)| *granted).map(|(_, word)| word).collect()
    }

    /// Returns the union of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            subscribe: self.subscribe || other.subscribe,
            publish: self.publish || other.publish,
            presence: self.presence || other.presence,
            history: self.history || other.history,
        }
    }
}

impl TryFrom<Vec<String>> for Rights {
    type Error = &'static str;

    fn try_from(words: Vec<String>) -> Result<Self, Self::Error> {
        Self::from_words(words.iter().map(String::as_str))
    }
}

impl From<Rights> for Vec<&'static str> {
    fn from(rights: Rights) -> Self {
        rights.to_words()
    }
}

/// Rights that a channel token, or a backend, adds for one channel of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelGrant {
    pub rights: Rights,
    /// Expiry (Unix time, s). The code that uses a grant checks it.
    pub expires_s: u64,
    /// The key that verified the channel token; `None` for a backend's grant, which no key
    /// withdraws.
    pub key: Option<Fingerprint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(rights: &[(&str, &[&str])]) -> Identity {
        let right = |(pattern, words): &(&str, &[&str])| Right {
            pattern: Pattern::new(pattern).unwrap(),
            rights: Rights::from_words(words.iter().copied()).unwrap(),
        };
        Identity { rights: rights.iter().map(right).collect(), ..Identity::default() }
    }

    #[test]
    fn the_most_specific_pattern_counts_and_equal_ones_add_up() {
        let identity = identity(&[
            ("*", &["subscribe"]),
            ("chat:*", &["publish"]),
            ("chat:*", &["history"]),
            ("chat:closed", &[]),
        ]);
        assert_eq!(identity.rights_for("news").unwrap().to_words(), ["subscribe"]);
        assert_eq!(identity.rights_for("chat:a").unwrap().to_words(), ["publish", "history"]);
        assert_eq!(identity.rights_for("chat:closed"), Some(Rights::default()));
        assert_eq!(Identity::default().rights_for("news"), None);
    }

    #[test]
    fn rights_go_through_their_words() {
        for bits in 0..16_u8 {
            let bit = |at: u8| bits & (1 << at) != 0;
            let rights =
                Rights { subscribe: bit(0), publish: bit(1), presence: bit(2), history: bit(3) };
            assert_eq!(Rights::from_words(rights.to_words()), Ok(rights));
        }
        assert!(Rights::from_words(["write"]).is_err());
    }
}

//! Names of channels: their kinds, and their names in the hub.
//!
//! A channel of an app is a channel of the hub with the app's id and a colon before its name, so
//! apps never share one. The channel of a user's own events is named by the user's id, which may
//! contain any character: those that no channel name of the hub may contain are written as a colon
//! and two hexadecimal digits.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::auth::{self, CACHED_CHANNELS, PusherApp};

/// The longest name of a channel (bytes).
const NAME_BYTES_MAX: usize = 164;
/// The name of a user's own channel, without the id.
const OF_USER: &str = "#server-to-user-";
/// Who may subscribe: the part of a name that says so.
const PRIVATE: &str = "private-";
const PRESENCE: &str = "presence-";

/// Who may subscribe to a channel, and what members learn of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Anyone who knows the app's key.
    Public,
    /// Clients with a signature of the app's backend.
    Private,
    /// The same, and members are listed with the data that was signed.
    Presence,
    /// The user that has signed in.
    OfUser,
}

/// A channel of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppChannel<'n> {
    pub name: &'n str,
    pub kind: ChannelKind,
    /// Its events are encrypted by the backend: clients cannot send any.
    pub is_encrypted: bool,
    /// New members receive its last event.
    pub is_cached: bool,
}

impl<'n> AppChannel<'n> {
    /// Reads a name.
    ///
    /// # Errors
    /// What a name must be.
    pub fn parse(name: &'n str) -> Result<Self, &'static str> {
        if let Some(user) = name.strip_prefix(OF_USER) {
            let kind = ChannelKind::OfUser;
            return match user {
                "" => Err("the channel of a user's events needs the user's id in its name"),
                _ => Ok(Self { name, kind, is_encrypted: false, is_cached: false }),
            };
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err("a channel's name must have 1 to 164 characters");
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
        if !name.bytes().all(is_allowed) {
            return Err("a channel's name may only contain A-Z a-z 0-9 and _ - = @ , . ;");
        }
        let (kind, rest) = if let Some(rest) = name.strip_prefix(PRIVATE) {
            (ChannelKind::Private, rest)
        } else if let Some(rest) = name.strip_prefix(PRESENCE) {
            (ChannelKind::Presence, rest)
        } else {
            (ChannelKind::Public, name)
        };
        let encrypted = rest.strip_prefix("encrypted-").filter(|_| kind == ChannelKind::Private);
        let is_cached = CACHED_CHANNELS.iter().any(|prefix| name.starts_with(prefix));
        Ok(Self { name, kind, is_encrypted: encrypted.is_some(), is_cached })
    }

    /// Returns the channel's name in the hub. `None`: a user's id is too long.
    pub fn hub_name(&self, app: &PusherApp) -> Option<String> {
        let Some(user) = self.name.strip_prefix(OF_USER) else {
            return Some(app.own_name(self.name));
        };
        let mut name = app.own_name(OF_USER);
        for byte in user.bytes() {
            if byte != b':'
                && auth::check_channel(char::from(byte).encode_utf8(&mut [0; 4])).is_ok()
            {
                name.push(char::from(byte));
            } else {
                let _ = write!(name, ":{byte:02x}");
            }
        }
        (name.len() <= auth::CHANNEL_BYTES_MAX).then_some(name)
    }

    /// Returns the user whose events the channel carries.
    pub fn user(&self) -> Option<&'n str> {
        self.name.strip_prefix(OF_USER)
    }
}

/// Returns the name by which clients of an app know a channel of the hub.
pub fn shown_name(hub_name: &str) -> Cow<'_, str> {
    let name = hub_name.split_once(':').map_or(hub_name, |(_, name)| name);
    if !name.starts_with(OF_USER) || !name.contains(':') {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| byte == b':') {
            Some(code) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the id by which clients of an app know a user of a channel: in the hub, the app's id and
/// a colon precede it. A client of another protocol has its user's own name.
pub fn shown_user<'u>(user: &'u str, channel: &str) -> &'u str {
    let app = channel.split_once(':').map(|(app, _)| app);
    let id = app.and_then(|app| user.strip_prefix(app)?.strip_prefix(':'));
    id.unwrap_or(user)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::tests_of_apps::options;

    fn app() -> PusherApp {
        PusherApp::new(&"a".repeat(auth::APP_ID_BYTES_MAX), "key", b"secret", options())
    }

    #[test]
    fn names_state_the_kind() {
        use ChannelKind::{OfUser, Presence, Private, Public};
        for (name, kind, is_encrypted, is_cached) in [
            ("news", Public, false, false),
            ("cache-news", Public, false, true),
            ("encrypted-news", Public, false, false),
            ("private-a", Private, false, false),
            ("private-cache-a", Private, false, true),
            ("private-encrypted-a", Private, true, false),
            ("private-encrypted-cache-a", Private, true, true),
            ("presence-a", Presence, false, false),
            ("presence-cache-a", Presence, false, true),
            ("presence-encrypted-a", Presence, false, false),
            ("#server-to-user-42", OfUser, false, false),
        ] {
            let expected = AppChannel { name, kind, is_encrypted, is_cached };
            assert_eq!(AppChannel::parse(name), Ok(expected));
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "a b", "a:b", "a/b", "#a", "ä", "#server-to-user-", &long] {
            assert!(AppChannel::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn users_of_an_app_are_shown_by_their_id() {
        for (user, shown) in
            [("1:42", "42"), ("1:1:42", "1:42"), ("12:42", "12:42"), ("ann", "ann")]
        {
            assert_eq!(shown_user(user, "1:presence-a"), shown);
        }
        assert_eq!(shown_user("1:42", "presence-a"), "1:42");
    }

    proptest! {
        #[test]
        fn every_name_fits_into_the_hub_and_comes_back(
            name in "[A-Za-z0-9_=@,.;-]{1,164}",
            user in "\\PC{1,30}",
        ) {
            for name in [name, format!("{OF_USER}{user}")] {
                let Some(hub) = AppChannel::parse(&name).unwrap().hub_name(&app()) else {
                    prop_assert!(name.len() > 40);
                    continue;
                };
                prop_assert_eq!(auth::check_channel(&hub), Ok(()));
                prop_assert_eq!(shown_name(&hub), name);
            }
        }
    }
}

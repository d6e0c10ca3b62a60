//! Apps of the Pusher protocol: their limits, their channels, and the signatures that their
//! backends make with the app's secret.
//!
//! An app identifies no client: the backend signs each right with HMAC-SHA256, in hexadecimal.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use aws_lc_rs::hmac;

/// The longest id of an app (bytes): with the longest channel name of the protocol, a name in the
/// hub has at most [`super::CHANNEL_BYTES_MAX`].
pub const APP_ID_BYTES_MAX: usize = 35;
/// The beginnings of the names of channels that keep their last event, which new members receive.
pub const CACHED_CHANNELS: [&str; 4] =
    ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"];
/// Events of a batch.
pub const EVENT_BATCH_MAX: usize = 10;
/// Room in a request for the names of channels and other fields (bytes).
const FIELDS_BYTES_MAX: usize = 64 * 1024;
/// Length of a signature (bytes).
const SIGNATURE_BYTES: usize = 32;

/// The options of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppOptions {
    /// Whether clients may send events to private and presence channels.
    pub client_events: bool,
    /// Client events of one connection per second; 0 = no limit.
    pub client_events_per_s: u32,
    /// The longest data of an event (bytes).
    pub event_bytes_max: u32,
    /// Connections in one presence channel; 0 = no limit.
    pub presence_members_max: u32,
    /// Connections on this node; 0 = no limit.
    pub connections_max: u32,
    /// After this time without a message, clients ping the server (s).
    pub activity_timeout_s: u32,
    /// Whether connections without TLS are rejected.
    pub tls_only: bool,
}

/// An app of the Pusher protocol.
pub struct PusherApp {
    id: Arc<str>,
    key: Box<str>,
    secret: hmac::Key,
    pub options: AppOptions,
    /// Open connections, shared with the same app of earlier configurations.
    connections: Arc<AtomicU32>,
}

impl fmt::Debug for PusherApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PusherApp").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PartialEq for PusherApp {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for PusherApp {}

impl PusherApp {
    /// Makes an app without connections.
    pub fn new(id: &str, key: &str, secret: &[u8], options: AppOptions) -> Self {
        assert!(id.len() <= APP_ID_BYTES_MAX, "ids were validated");
        Self {
            id: id.into(),
            key: key.into(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            options,
            connections: Arc::default(),
        }
    }

    /// Returns the id, by which backends address the app.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the key, by which clients and backends name the app.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the length of the longest request to its HTTP API (bytes): a batch of the longest
    /// events, whose data may need escapes.
    pub fn body_bytes_max(&self) -> usize {
        2 * EVENT_BATCH_MAX * self.options.event_bytes_max as usize + FIELDS_BYTES_MAX
    }

    /// Returns the name in the hub of a channel, or the name of a user, of this app. Names of
    /// different apps differ, because ids contain no colon.
    pub fn own_name(&self, name: &str) -> String {
        format!("{}:{name}", self.id)
    }

    /// Returns the signature of a text.
    pub fn sign(&self, text: &[u8]) -> String {
        use std::fmt::Write as _;
        let tag = hmac::sign(&self.secret, text);
        tag.as_ref().iter().fold(String::with_capacity(2 * SIGNATURE_BYTES), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Returns whether a signature is that of the text; takes the same time wherever they differ.
    pub fn verify(&self, text: &[u8], signature: &str) -> bool {
        let Some(tag) = decode_hex(signature) else { return false };
        hmac::verify(&self.secret, text, &tag).is_ok()
    }

    /// Returns the same for `KEY:SIGNATURE`, as clients send it.
    pub fn verify_authorization(&self, text: &str, authorization: &str) -> bool {
        let signature = authorization.split_once(':').filter(|(key, _)| **key == *self.key);
        signature.is_some_and(|(_, signature)| self.verify(text.as_bytes(), signature))
    }

    /// Counts a connection; false: the app has as many as it may have.
    pub fn enter(&self) -> bool {
        let most = self.options.connections_max;
        let next = |count: u32| (most == 0 || count < most).then_some(count + 1);
        self.connections.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Ends the count of a connection.
    pub fn leave(&self) {
        let before = self.connections.fetch_sub(1, Relaxed);
        assert!(before > 0, "only counted connections leave");
    }

    /// Returns the same app with the count of connections of an earlier configuration.
    #[must_use]
    pub fn following(&self, old: Option<&Self>) -> Self {
        Self {
            id: self.id.clone(),
            key: self.key.clone(),
            secret: self.secret.clone(),
            options: self.options.clone(),
            connections: old.map_or_else(Arc::default, |old| old.connections.clone()),
        }
    }

    /// Counts a connection that was counted in another process.
    pub fn adopt(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// Returns whether connections that the app of another configuration counts are counted here.
    pub fn continues(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connections, &other.connections)
    }

    /// Returns the number of open connections on this node.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

fn decode_hex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digits: &[u8; 2 * SIGNATURE_BYTES] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn options() -> AppOptions {
        AppOptions {
            client_events: true,
            client_events_per_s: 10,
            event_bytes_max: 10_240,
            presence_members_max: 100,
            connections_max: 0,
            activity_timeout_s: 120,
            tls_only: false,
        }
    }

    /// The examples of the protocol's documentation ("Authenticating users", "Authorization").
    const KEY: &str = "278d425bdf160c739803";
    const SECRET: &[u8] = b"7ad3773142a6692b25b8";

    #[test]
    fn known_signatures_are_verified() {
        let app = PusherApp::new("1", KEY, SECRET, options());
        for (text, signature) in [
            (
                "1234.1234:private-foobar",
                "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
            ),
            (
                r#"1234.1234:presence-foobar:{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#,
                "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
            ),
        ] {
            assert_eq!(app.sign(text.as_bytes()), signature);
            assert!(app.verify_authorization(text, &format!("{KEY}:{signature}")));
        }
    }

    #[test]
    fn other_signatures_keys_and_texts_are_not() {
        let app = PusherApp::new("1", KEY, SECRET, options());
        let good = app.sign(b"text");
        assert!(app.verify(b"text", &good) && app.verify(b"text", &good.to_uppercase()));
        for at in 0..good.len() {
            let mut other = good.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert!(!app.verify(b"text", std::str::from_utf8(&other).unwrap()), "{at}");
        }
        for wrong in ["", "0", &good[1..], &format!("{good}0"), &"ä".repeat(32), &"g".repeat(64)] {
            assert!(!app.verify(b"text", wrong), "{wrong}");
        }
        assert!(!app.verify(b"texts", &good));
        assert!(!app.verify_authorization("text", &format!("other:{good}")));
        assert!(!app.verify_authorization("text", &good));
    }
}

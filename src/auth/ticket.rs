//! Sealed data that clients keep: tickets restore a connection's identity, and grants restore its
//! rights to one channel.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::{ChannelGrant, Identity, Right, Rights};
use super::keys::Fingerprint;
use super::seal::{Purpose, SealError, Sealer};

/// The identity of a connection, which another connection can restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub identity: Arc<Identity>,
    /// The id of the connection that it was issued to; after a resumption, a space and the id of
    /// the first connection of the lineage follow.
    pub connection: String,
    /// Unix time (ms).
    pub issued_ms: u64,
    /// Expiry of the ticket; it expires with the identity too, if that is earlier.
    pub expires_s: u64,
}

impl Ticket {
    /// Creates a ticket that is valid for `ttl_s` seconds; its token may expire earlier.
    pub fn new(identity: Arc<Identity>, connection: &str, now_ms: u64, ttl_s: u64) -> Self {
        let expires_s = (now_ms / 1000).saturating_add(ttl_s);
        Self { identity, connection: connection.to_owned(), issued_ms: now_ms, expires_s }
    }
}

/// The client that a grant belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Subject {
    #[serde(rename = "u")]
    User(String),
    /// A connection without a user, by its id.
    #[serde(rename = "c")]
    Connection(String),
}

impl Subject {
    /// Returns the user if there is one, and the connection otherwise.
    pub fn new(user: Option<&str>, connection: &str) -> Self {
        match user {
            Some(user) => Self::User(user.to_owned()),
            None => Self::Connection(connection.to_owned()),
        }
    }
}

/// Rights that a channel token, or a backend, gave for one channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Grant {
    #[serde(rename = "n")]
    pub channel: String,
    #[serde(rename = "s")]
    pub subject: Subject,
    #[serde(rename = "r")]
    pub rights: Rights,
    #[serde(rename = "e")]
    pub expires_s: u64,
    /// The channel token's `exp`, or the end that the application has set, with which it expires
    /// too; `None` for a grant that lasts as long as the connection.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub token_exp_s: Option<u64>,
    /// The connection that it was issued to, as in [`Ticket`]. A grant without this field and the
    /// time was sealed by an earlier version, and counts as revoked.
    #[serde(rename = "c", default)]
    pub connection: String,
    /// Unix time (ms).
    #[serde(rename = "t", default)]
    pub issued_ms: u64,
    /// The key of the channel token; `None` for a backend's grant.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Fingerprint>,
}

impl Grant {
    /// Returns the rights to a channel for a user, or for this connection if there is none; `None`
    /// if the grant is for another channel or client.
    pub fn for_channel(
        &self,
        channel: &str,
        user: Option<&str>,
        connection: &str,
    ) -> Option<ChannelGrant> {
        let is_ours = self.channel == channel && self.subject == Subject::new(user, connection);
        is_ours.then_some(ChannelGrant {
            rights: self.rights,
            expires_s: self.token_exp_s.unwrap_or(u64::MAX),
            key: self.key,
        })
    }
}

/// The serialized form of a ticket, with short names: every client receives one.
#[derive(Deserialize, Serialize)]
struct TicketForm<'t> {
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'t, str>>,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    info: Option<Cow<'t, str>>,
    #[serde(rename = "r", default, skip_serializing_if = "<[Right]>::is_empty")]
    rights: Cow<'t, [Right]>,
    #[serde(rename = "x", skip_serializing_if = "Option::is_none")]
    identity_expires_s: Option<u64>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    key: Option<Fingerprint>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    application: Option<Cow<'t, str>>,
    #[serde(rename = "c")]
    connection: Cow<'t, str>,
    #[serde(rename = "t")]
    issued_ms: u64,
    #[serde(rename = "e")]
    expires_s: u64,
}

impl Sealer {
    pub fn seal_ticket(&self, ticket: &Ticket) -> String {
        let identity = &ticket.identity;
        let form = TicketForm {
            user: identity.user.as_deref().map(Cow::Borrowed),
            info: identity.info.as_deref().map(Cow::Borrowed),
            rights: Cow::Borrowed(&identity.rights),
            identity_expires_s: identity.expires_s,
            key: identity.key,
            application: identity.application.as_deref().map(Cow::Borrowed),
            connection: Cow::Borrowed(&ticket.connection),
            issued_ms: ticket.issued_ms,
            expires_s: ticket.expires_s,
        };
        self.seal(Purpose::Ticket, |plain| write_plain(&form, plain))
    }

    /// Opens a ticket. Its token stays valid for `leeway_s` past its `exp`, as on a connection.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn open_ticket(&self, text: &str, now_s: u64, leeway_s: u64) -> Result<Ticket, SealError> {
        let form: TicketForm<'_> = parse_form(&self.open(Purpose::Ticket, text)?)?;
        if has_ended(form.expires_s, form.identity_expires_s, now_s, leeway_s) {
            return Err(SealError::Expired);
        }
        let identity = Identity {
            user: form.user.map(Arc::from),
            info: form.info.map(Arc::from),
            rights: form.rights.into_owned(),
            expires_s: form.identity_expires_s,
            key: form.key,
            application: form.application.map(Arc::from),
            app: None,
        };
        Ok(Ticket {
            identity: Arc::new(identity),
            connection: form.connection.into_owned(),
            issued_ms: form.issued_ms,
            expires_s: form.expires_s,
        })
    }

    pub fn seal_grant(&self, grant: &Grant) -> String {
        self.seal(Purpose::Grant, |plain| write_plain(grant, plain))
    }

    /// Opens a grant. Its token stays valid for `leeway_s` past its `exp`, as in a `subscribe`.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn open_grant(&self, text: &str, now_s: u64, leeway_s: u64) -> Result<Grant, SealError> {
        let mut grant: Grant = parse_form(&self.open(Purpose::Grant, text)?)?;
        // Earlier versions wrote only one expiry, the earlier of the two.
        let written = grant.key.and(Some(grant.expires_s));
        grant.token_exp_s = grant.token_exp_s.or(written);
        if has_ended(grant.expires_s, grant.token_exp_s, now_s, leeway_s) {
            return Err(SealError::Expired);
        }
        Ok(grant)
    }
}

/// Returns whether a sealed text has expired, by its own time or by its token's.
fn has_ended(expires_s: u64, token_exp_s: Option<u64>, now_s: u64, leeway_s: u64) -> bool {
    let token_end_s = token_exp_s.map_or(u64::MAX, |exp_s| exp_s.saturating_add(leeway_s));
    now_s >= expires_s || now_s >= token_end_s
}

fn write_plain(form: &impl Serialize, plain: &mut Vec<u8>) {
    serde_json::to_writer(plain, form).expect("texts and numbers can be written");
}

/// Parses the content. It was sealed with our key, but maybe by another version of the server.
fn parse_form<T: DeserializeOwned>(plain: &[u8]) -> Result<T, SealError> {
    serde_json::from_slice(plain).map_err(|_| SealError::Malformed)
}

//! Reasons for rejecting a token, or a client without one.

use std::fmt;

/// Its text names the reason and the remedy, and never quotes a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It is not a JWT, or requires unsupported extensions (`crit`).
    Malformed,
    /// No key has its key id (`kid`).
    UnknownKey,
    /// No keys have been fetched from `auth.jwks_url` yet.
    NoKeys,
    /// No key has its key id yet; a pending fetch from `auth.jwks_url` may bring it.
    KeyPending,
    /// Its algorithm differs from its key's.
    Algorithm,
    Signature,
    Expired,
    NotYetValid,
    Audience,
    Issuer,
    /// A claim is missing or invalid; the text states what it must be.
    Claims(&'static str),
    /// It is for another channel.
    Channel,
    /// It is for another user than the connection's.
    Subject,
    /// There is no token, and one is required.
    AnonymousRefused,
}

impl AuthError {
    /// All results of [`Self::kind`], in the order of counters.
    pub const KINDS: [&'static str; 14] = [
        "malformed",
        "unknown_key",
        "no_keys",
        "algorithm",
        "signature",
        "expired",
        "not_yet_valid",
        "audience",
        "issuer",
        "claims",
        "channel",
        "subject",
        "anonymous",
        "key_pending",
    ];

    /// Returns its index in [`Self::KINDS`].
    pub fn index(self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::UnknownKey => 1,
            Self::NoKeys => 2,
            Self::Algorithm => 3,
            Self::Signature => 4,
            Self::Expired => 5,
            Self::NotYetValid => 6,
            Self::Audience => 7,
            Self::Issuer => 8,
            Self::Claims(_) => 9,
            Self::Channel => 10,
            Self::Subject => 11,
            Self::AnonymousRefused => 12,
            Self::KeyPending => 13,
        }
    }

    /// Returns one word for counters and logs.
    pub fn kind(self) -> &'static str {
        Self::KINDS[self.index()]
    }

    /// Returns whether a fresh token of the same client would be accepted.
    pub fn is_expired(self) -> bool {
        self == Self::Expired
    }

    /// Returns whether the cause is temporary and on the server's side: a retry may succeed.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::NoKeys | Self::KeyPending)
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => {
                "invalid token; it must be a signed JWT of three parts separated by dots"
            }
            Self::UnknownKey => {
                "no key has the token's key id (kid); sign with a key that the server knows, or \
                 configure that key"
            }
            Self::NoKeys => "the server could not fetch its keys (auth.jwks_url); retry later",
            Self::KeyPending => {
                "no key has the token's key id (kid) yet, and the server is about to fetch \
                 its keys again (auth.jwks_url); retry later"
            }
            Self::Algorithm => {
                "the token's algorithm is not the one its key is configured for; sign with that \
                 one"
            }
            Self::Signature => {
                "the token's signature does not match its key; it was changed, or signed with \
                 another key"
            }
            Self::Expired => "the token has expired; get a fresh one",
            Self::NotYetValid => {
                "the token is not valid yet (nbf); compare the clocks, or raise auth.leeway_s"
            }
            Self::Audience => {
                "the token's audience (aud) is not auth.audience; issue it for that audience"
            }
            Self::Issuer => "the token's issuer (iss) is not auth.issuer; get one from that issuer",
            Self::Claims(what) => return write!(f, "the token has invalid claims: {what}"),
            Self::Channel => {
                "the token is for another channel (claim `channel`); get one for this channel"
            }
            Self::Subject => {
                "the token is for another user (sub) than the connection's; reconnect to change \
                 users"
            }
            Self::AnonymousRefused => {
                "token required; send one as `Authorization: Bearer`, or in an `auth` frame"
            }
        })
    }
}

impl std::error::Error for AuthError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        let all = [
            AuthError::Malformed,
            AuthError::UnknownKey,
            AuthError::NoKeys,
            AuthError::Algorithm,
            AuthError::Signature,
            AuthError::Expired,
            AuthError::NotYetValid,
            AuthError::Audience,
            AuthError::Issuer,
            AuthError::Claims("x"),
            AuthError::Channel,
            AuthError::Subject,
            AuthError::AnonymousRefused,
            AuthError::KeyPending,
        ];
        for (place, error) in all.into_iter().enumerate() {
            assert_eq!(error.index(), place);
            assert_eq!(error.kind(), AuthError::KINDS[place]);
            assert!(error.to_string().len() > 20, "{error}");
        }
        assert_eq!(all.len(), AuthError::KINDS.len());
    }
}

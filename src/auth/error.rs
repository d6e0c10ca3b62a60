//! Why a token, or a client without one, is not taken.

use std::fmt;

/// Names its cause and its cure, and never a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It is no JWT, or asks for extensions (`crit`) that are not known here.
    Malformed,
    /// No key has its key id (`kid`).
    UnknownKey,
    /// No keys have arrived from `auth.jwks_url` yet.
    NoKeys,
    /// No key has its key id yet, and a fetch from `auth.jwks_url` that may bring it is pending.
    KeyPending,
    /// It names another algorithm than its key's.
    Algorithm,
    Signature,
    Expired,
    NotYetValid,
    Audience,
    Issuer,
    /// A claim is missing or wrong; what it must be.
    Claims(&'static str),
    /// It is for another channel.
    Channel,
    /// It is for another user than the connection's.
    Subject,
    /// There is no token, and none may stay without.
    AnonymousRefused,
}

impl AuthError {
    /// What [`Self::kind`] may be, in the order of counters.
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

    /// Its place in [`Self::KINDS`].
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

    /// One word for counters and logs.
    pub fn kind(self) -> &'static str {
        Self::KINDS[self.index()]
    }

    /// A fresh token of the same client would be taken.
    pub fn is_expired(self) -> bool {
        self == Self::Expired
    }

    /// The fault is here and may pass: the same token may be taken in a moment.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::NoKeys | Self::KeyPending)
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => {
                "the token cannot be read: it must be a signed JWT of three parts with dots between"
            }
            Self::UnknownKey => {
                "no key has the token's key id (kid): sign with a key that the server knows, or \
                 configure that key"
            }
            Self::NoKeys => {
                "the server has not been able to fetch its keys (auth.jwks_url): try again later"
            }
            Self::KeyPending => {
                "no key has the token's key id (kid) yet, and the server is about to fetch its \
                 keys again (auth.jwks_url): try again later"
            }
            Self::Algorithm => {
                "the token names another algorithm than its key is configured for: sign with that \
                 one"
            }
            Self::Signature => {
                "the token's signature is not of its key: it was changed, or signed with another \
                 key"
            }
            Self::Expired => "the token has expired: get a fresh one",
            Self::NotYetValid => {
                "the token is not valid yet (nbf): compare the clocks, or raise auth.leeway_s"
            }
            Self::Audience => "the token is for another audience (aud) than auth.audience",
            Self::Issuer => "the token is of another issuer (iss) than auth.issuer",
            Self::Claims(what) => return write!(f, "the token's claims are wrong: {what}"),
            Self::Channel => "the token is for another channel (claim `channel`)",
            Self::Subject => "the token is for another user (sub) than the connection's",
            Self::AnonymousRefused => {
                "a token is needed: send one as `Authorization: Bearer`, or in an `auth` frame"
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

//! Claims of a verified token (RFC 7519 4). Each claim is parsed separately, so that an error can
//! name it without quoting the token.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::AuthError;
use super::identity::{Identity, Right, Rights};
use super::keys::Fingerprint;
use super::pattern::Pattern;
use crate::text::content::{self, Fault};

/// Longer tokens are rejected without parsing (bytes).
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest `sub` (bytes).
pub const USER_BYTES_MAX: usize = 256;
/// The longest `info` (bytes).
pub const INFO_BYTES_MAX: usize = 4096;

/// What a verifier requires of all tokens.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Required `aud`; empty = not checked.
    pub audience: String,
    /// Required `iss`; empty = not checked.
    pub issuer: String,
    /// Tolerated clock difference (s).
    pub leeway_s: u64,
}

/// The claims that are used, unparsed. Others are ignored.
#[derive(Default, Deserialize)]
pub(super) struct Claims<'t> {
    #[serde(borrow)]
    exp: Option<&'t RawValue>,
    #[serde(borrow)]
    nbf: Option<&'t RawValue>,
    #[serde(borrow)]
    aud: Option<&'t RawValue>,
    #[serde(borrow)]
    iss: Option<&'t RawValue>,
    #[serde(borrow)]
    sub: Option<&'t RawValue>,
    #[serde(borrow)]
    info: Option<&'t RawValue>,
    #[serde(borrow)]
    channels: Option<&'t RawValue>,
    #[serde(borrow)]
    channel: Option<&'t RawValue>,
    #[serde(borrow)]
    rights: Option<&'t RawValue>,
}

/// What an application says about a client, as JSON. Each field must be as the token's claim of
/// that name; `user` as `sub`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackendClaims<'t> {
    pub user: Option<&'t RawValue>,
    pub info: Option<&'t RawValue>,
    pub channels: Option<&'t RawValue>,
}

impl BackendClaims<'_> {
    /// Returns the identity, valid until this time (Unix time, s). No key withdraws it.
    ///
    /// # Errors
    /// A field is invalid, or there are more channels than a token has room for.
    pub fn identity(self, expires_s: u64, application: &Arc<str>) -> Result<Identity, AuthError> {
        let Self { user: sub, info, channels } = self;
        if channels.is_some_and(|channels| channels.get().len() > TOKEN_BYTES_MAX) {
            return Err(AuthError::Claims("`channels` must not be longer than 16384 bytes"));
        }
        let claims = Claims { sub, info, channels, ..Claims::default() };
        let application = Some(application.clone());
        Ok(Identity { application, ..claims.identity(expires_s, None)? })
    }
}

type Check<C> = fn(&C, &Expected, u64) -> Result<(), AuthError>;

/// A single value or a list (RFC 7519 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChannelClaim {
    /// A pattern alone grants all rights.
    Bare(Pattern),
    Listed {
        pattern: Pattern,
        rights: Option<Rights>,
    },
}

impl<'t> Claims<'t> {
    const CHECKS: [Check<Self>; 4] =
        [Self::check_end, Self::check_start, Self::check_audience, Self::check_issuer];

    pub(super) fn read(payload: &'t [u8]) -> Result<Self, AuthError> {
        serde_json::from_slice(payload).map_err(|_| AuthError::Malformed)
    }

    /// Runs the checks of every token, and returns its expiry (Unix time, s).
    pub(super) fn check(&self, expected: &Expected, now_s: u64) -> Result<u64, AuthError> {
        Self::CHECKS.into_iter().try_for_each(|check| check(self, expected, now_s))?;
        self.end()
    }

    /// Runs all checks, and returns every error.
    pub(super) fn faults(&self, expected: &Expected, now_s: u64) -> Vec<AuthError> {
        Self::CHECKS.into_iter().filter_map(|check| check(self, expected, now_s).err()).collect()
    }

    pub(super) fn end(&self) -> Result<u64, AuthError> {
        parse_time(self.exp)?.ok_or(AuthError::Claims("`exp` is missing; every token must expire"))
    }

    fn check_end(&self, expected: &Expected, now_s: u64) -> Result<(), AuthError> {
        let end = self.end()?.saturating_add(expected.leeway_s);
        if now_s >= end { Err(AuthError::Expired) } else { Ok(()) }
    }

    fn check_start(&self, expected: &Expected, now_s: u64) -> Result<(), AuthError> {
        let latest = now_s.saturating_add(expected.leeway_s);
        match parse_time(self.nbf)? {
            Some(start) if latest < start => Err(AuthError::NotYetValid),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, expected: &Expected, _: u64) -> Result<(), AuthError> {
        if expected.audience.is_empty() {
            return Ok(());
        }
        let is_ours = match parse_claim(self.aud, "`aud` must be a string, or a list of them")? {
            None => false,
            Some(OneOrMore::One(one)) => one == expected.audience,
            Some(OneOrMore::More(list)) => list.contains(&expected.audience),
        };
        if is_ours { Ok(()) } else { Err(AuthError::Audience) }
    }

    fn check_issuer(&self, expected: &Expected, _: u64) -> Result<(), AuthError> {
        if expected.issuer.is_empty() {
            return Ok(());
        }
        let issuer: Option<String> = parse_claim(self.iss, "`iss` must be a string")?;
        if issuer.as_ref() == Some(&expected.issuer) { Ok(()) } else { Err(AuthError::Issuer) }
    }

    /// Returns the identity that the token claims.
    pub(super) fn identity(
        &self,
        expires_s: u64,
        key: Option<Fingerprint>,
    ) -> Result<Identity, AuthError> {
        Ok(Identity {
            user: self.user()?.map(Arc::from),
            info: self.info()?.map(Arc::from),
            rights: self.channels()?,
            expires_s: Some(expires_s),
            key,
            application: None,
            app: None,
        })
    }

    /// Returns the user that the token claims.
    pub(super) fn user(&self) -> Result<Option<String>, AuthError> {
        let expected = "`sub` must be a string of 1 to 256 bytes";
        let user: Option<String> = parse_claim(self.sub, expected)?;
        match &user {
            Some(name) if name.is_empty() || name.len() > USER_BYTES_MAX => {
                Err(AuthError::Claims(expected))
            }
            _ => Ok(user),
        }
    }

    /// Returns the public info about the user: JSON on one line, which every reader can represent.
    pub(super) fn info(&self) -> Result<Option<String>, AuthError> {
        let Some(raw) = self.info else { return Ok(None) };
        if raw.get().len() > INFO_BYTES_MAX {
            return Err(AuthError::Claims("`info` must not be longer than 4096 bytes"));
        }
        match content::to_one_line(raw.get()) {
            Ok(line) => Ok(Some(line.into_owned())),
            Err(Fault::TooDeep) => {
                Err(AuthError::Claims("`info` must not be nested deeper than 64 levels"))
            }
            Err(Fault::LoneSurrogate) => Err(AuthError::Claims(
                "`info` must not have half a surrogate pair (\\ud800 to \\udfff); cut strings \
                 between characters",
            )),
            Err(Fault::NumberTooLarge) => Err(AuthError::Claims(
                "`info` must not have a number too large for a 64-bit float; use a string",
            )),
        }
    }

    /// Returns the rights to channels.
    pub(super) fn channels(&self) -> Result<Vec<Right>, AuthError> {
        let expected = "`channels` must be a list of patterns, or of {\"pattern\": \"chat:*\", \
                        \"rights\": [\"subscribe\", \"publish\", \"presence\", \"history\"]}";
        let claims: Option<Vec<ChannelClaim>> = parse_claim(self.channels, expected)?;
        let rights = claims.unwrap_or_default().into_iter().map(|claim| match claim {
            ChannelClaim::Bare(pattern) => Right { pattern, rights: Rights::ALL },
            ChannelClaim::Listed { pattern, rights } => {
                Right { pattern, rights: rights.unwrap_or(Rights::ALL) }
            }
        });
        Ok(rights.collect())
    }

    /// Returns the channel and the rights of a channel token; `None` for a connection token.
    pub(super) fn channel(&self) -> Result<Option<Right>, AuthError> {
        let expected = "`channel` must be the name of a channel, or a pattern";
        let Some(pattern) = parse_claim::<Pattern>(self.channel, expected)? else {
            return Ok(None);
        };
        let expected = "`rights` must list some of \"subscribe\", \"publish\", \"presence\" and \
                        \"history\"";
        let rights = parse_claim(self.rights, expected)?.unwrap_or(Rights::ALL);
        Ok(Some(Right { pattern, rights }))
    }
}

fn parse_claim<T: DeserializeOwned>(
    raw: Option<&RawValue>,
    expected: &'static str,
) -> Result<Option<T>, AuthError> {
    let read = raw.map(|raw| serde_json::from_str(raw.get())).transpose();
    read.map_err(|_| AuthError::Claims(expected))
}

fn parse_time(raw: Option<&RawValue>) -> Result<Option<u64>, AuthError> {
    let expected = "`exp` and `nbf` must be numbers of seconds since 1970";
    match parse_claim::<serde_json::Number>(raw, expected)? {
        None => Ok(None),
        Some(number) => to_seconds(&number).map(Some).ok_or(AuthError::Claims(expected)),
    }
}

/// Converts a number of seconds since 1970, rounding down. `None`: it is negative.
fn to_seconds(number: &serde_json::Number) -> Option<u64> {
    let whole = || {
        number.as_f64().filter(|to_seconds| *to_seconds >= 0.0).map(|to_seconds| to_seconds as u64)
    };
    number.as_u64().or_else(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_application_claims_what_a_token_could() {
        let none = BackendClaims::default().identity(7, &"app".into()).unwrap();
        let expires_s = Some(7);
        assert_eq!(
            none,
            Identity { expires_s, application: Some("app".into()), ..Identity::default() }
        );
        let claims = BackendClaims {
            user: Some(raw(r#""ann""#)),
            info: Some(raw("{\"name\":\n\"Ann\"}")),
            channels: Some(raw(r#"["a:*",{"pattern":"b","rights":["history"]}]"#)),
        };
        let identity = claims.identity(7, &"app".into()).unwrap();
        assert_eq!(identity.user.as_deref(), Some("ann"));
        assert_eq!(identity.info.as_deref(), Some("{\"name\": \"Ann\"}"));
        assert_eq!(identity.rights_for("a:1"), Some(Rights::ALL));
        assert_eq!(identity.rights_for("b").unwrap().to_words(), ["history"]);
        assert_eq!(identity.key, None);
    }

    #[test]
    fn an_application_claims_no_more_than_a_token_could() {
        let long = |bytes: usize| format!("\"{}\"", "u".repeat(bytes));
        for user in ["\"\"", "5", &long(257)] {
            let claims = BackendClaims { user: Some(raw(user)), ..BackendClaims::default() };
            assert!(claims.identity(7, &"app".into()).is_err(), "{user}");
        }
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        for info in ["\"\\ud800\"", "1e400", &long(4095), &deep] {
            let claims = BackendClaims { info: Some(raw(info)), ..BackendClaims::default() };
            assert!(claims.identity(7, &"app".into()).is_err(), "{info}");
        }
        let many = format!("[{}\"a\"]", "\"a\",".repeat(TOKEN_BYTES_MAX / 4));
        for channels in ["\"a\"", "[\"a*b\"]", "[{\"rights\":[]}]", &many] {
            let claims =
                BackendClaims { channels: Some(raw(channels)), ..BackendClaims::default() };
            assert!(claims.identity(7, &"app".into()).is_err(), "{channels}");
        }
        let user = Some(raw("\"u\""));
        assert!(
            BackendClaims { user, ..BackendClaims::default() }.identity(7, &"app".into()).is_ok()
        );
    }
}

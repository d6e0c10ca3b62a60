//! The claims of a token that was verified (RFC 7519 4), each checked by itself, so that what is
//! wrong can be told without a word of the token.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::AuthError;
use super::identity::{Identity, Right, Rights};
use super::keys::Fingerprint;
use super::pattern::Pattern;
use crate::text::content::{self, Fault};

/// The longest `sub`.
pub const USER_BYTES_MAX: usize = 256;
/// The longest `info`.
pub const INFO_BYTES_MAX: usize = 4096;

/// What a verifier looks for in all tokens.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// What `aud` must name; empty: not looked at.
    pub audience: String,
    /// What `iss` must be; empty: not looked at.
    pub issuer: String,
    /// Clocks may differ by so much.
    pub leeway_s: u64,
}

/// The claims that mean something here, as they came. Other claims are no concern of ours.
#[derive(Deserialize)]
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

type Check<C> = fn(&C, &Expected, u64) -> Result<(), AuthError>;

/// One or several (RFC 7519 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChannelClaim {
    /// All rights.
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

    /// Checks what every token is checked for, and gives its end.
    pub(super) fn check(&self, expected: &Expected, now_s: u64) -> Result<u64, AuthError> {
        Self::CHECKS.into_iter().try_for_each(|check| check(self, expected, now_s))?;
        self.end()
    }

    /// All that this would find wrong.
    pub(super) fn faults(&self, expected: &Expected, now_s: u64) -> Vec<AuthError> {
        Self::CHECKS.into_iter().filter_map(|check| check(self, expected, now_s).err()).collect()
    }

    pub(super) fn end(&self) -> Result<u64, AuthError> {
        time(self.exp)?.ok_or(AuthError::Claims("`exp` is missing: every token must end"))
    }

    fn check_end(&self, expected: &Expected, now_s: u64) -> Result<(), AuthError> {
        let end = self.end()?.saturating_add(expected.leeway_s);
        if now_s >= end { Err(AuthError::Expired) } else { Ok(()) }
    }

    fn check_start(&self, expected: &Expected, now_s: u64) -> Result<(), AuthError> {
        let latest = now_s.saturating_add(expected.leeway_s);
        match time(self.nbf)? {
            Some(start) if latest < start => Err(AuthError::NotYetValid),
            _ => Ok(()),
        }
    }

    fn check_audience(&self, expected: &Expected, _: u64) -> Result<(), AuthError> {
        if expected.audience.is_empty() {
            return Ok(());
        }
        let is_ours = match value(self.aud, "`aud` must be a string, or a list of them")? {
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
        let issuer: Option<String> = value(self.iss, "`iss` must be a string")?;
        if issuer.as_ref() == Some(&expected.issuer) { Ok(()) } else { Err(AuthError::Issuer) }
    }

    /// Who it says its bearer is.
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
        })
    }

    /// Whose token it is.
    pub(super) fn user(&self) -> Result<Option<String>, AuthError> {
        let expected = "`sub` must be a string of 1 to 256 bytes";
        let user: Option<String> = value(self.sub, expected)?;
        match &user {
            Some(name) if name.is_empty() || name.len() > USER_BYTES_MAX => {
                Err(AuthError::Claims(expected))
            }
            _ => Ok(user),
        }
    }

    /// What others see of the user: JSON on one line, which every reader of JSON can read.
    pub(super) fn info(&self) -> Result<Option<String>, AuthError> {
        let Some(raw) = self.info else { return Ok(None) };
        if raw.get().len() > INFO_BYTES_MAX {
            return Err(AuthError::Claims("`info` must not be longer than 4096 bytes"));
        }
        match content::to_one_line(raw.get()) {
            Ok(line) => Ok(Some(line.into_owned())),
            Err(Fault::TooDeep) => {
                Err(AuthError::Claims("`info` must not be nested deeper than 64"))
            }
            Err(Fault::LoneSurrogate) => Err(AuthError::Claims(
                "`info` must not have half a surrogate pair (\\ud800 to \\udfff): cut strings \
                 between characters",
            )),
            Err(Fault::NumberTooLarge) => Err(AuthError::Claims(
                "`info` must not have a number too large for a 64-bit float: use a string",
            )),
        }
    }

    /// The channels it opens.
    pub(super) fn channels(&self) -> Result<Vec<Right>, AuthError> {
        let expected = "`channels` must be a list of patterns, or of {\"pattern\": \"chat:*\", \
                        \"rights\": [\"subscribe\", \"publish\", \"presence\", \"history\"]}";
        let claims: Option<Vec<ChannelClaim>> = value(self.channels, expected)?;
        let rights = claims.unwrap_or_default().into_iter().map(|claim| match claim {
            ChannelClaim::Bare(pattern) => Right { pattern, rights: Rights::ALL },
            ChannelClaim::Listed { pattern, rights } => {
                Right { pattern, rights: rights.unwrap_or(Rights::ALL) }
            }
        });
        Ok(rights.collect())
    }

    /// The channel that a channel token is for, with the rights it gives there; `None`: it is no
    /// channel token.
    pub(super) fn channel(&self) -> Result<Option<Right>, AuthError> {
        let expected = "`channel` must be the name of a channel, or a pattern";
        let Some(pattern) = value::<Pattern>(self.channel, expected)? else { return Ok(None) };
        let expected = "`rights` must list some of \"subscribe\", \"publish\", \"presence\" and \
                        \"history\"";
        let rights = value(self.rights, expected)?.unwrap_or(Rights::ALL);
        Ok(Some(Right { pattern, rights }))
    }
}

fn value<T: DeserializeOwned>(
    raw: Option<&RawValue>,
    expected: &'static str,
) -> Result<Option<T>, AuthError> {
    let read = raw.map(|raw| serde_json::from_str(raw.get())).transpose();
    read.map_err(|_| AuthError::Claims(expected))
}

fn time(raw: Option<&RawValue>) -> Result<Option<u64>, AuthError> {
    let expected = "`exp` and `nbf` must be numbers of seconds since 1970";
    match value::<serde_json::Number>(raw, expected)? {
        None => Ok(None),
        Some(number) => date(&number).map(Some).ok_or(AuthError::Claims(expected)),
    }
}

/// Seconds since 1970; parts of a second do not count.
fn date(number: &serde_json::Number) -> Option<u64> {
    let whole = || number.as_f64().filter(|date| *date >= 0.0).map(|date| date as u64);
    number.as_u64().or_else(whole)
}
